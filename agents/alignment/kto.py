"""KTO: Kahneman-Tversky optimisation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.losses import KTO
from rlkit.alignment.offline import collected, learn_from_verdicts
from rlkit.alignment.tables import TablePolicy, measure, reference_policy, respond
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_integer, check_real


@agent("kto")
@dataclass(frozen=True)
class KTOAgent:
    """Learns from single responses that are desirable or not.

    Ethayarajh et al. (2024), "KTO: model alignment as prospect theoretic optimization".

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # risk aversion, and weight of the divergence in the measured gap, > 0
    desirable_weight: float = 1.0  # of desirable responses, > 0
    undesirable_weight: float = 1.0  # of the others, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        check_integer("batch", self.batch, 1)
        check_real("rate", self.rate, 0, open_low=True)
        check_integer("responses", self.responses, 2)

    def initial(self, spec: Spec, rng: Rng) -> TablePolicy:
        """The reference.

        Raises:
            ValueError: there is nothing to learn from.
        """
        collected(spec, "pairs")
        return reference_policy(spec)

    def act(
        self, spec: Spec, state: TablePolicy, observation: Tree, rng: Rng
    ) -> tuple[Responses, TablePolicy]:
        """Responses of the present policy; learning does not use them."""
        return respond(spec, state.table, self.responses, rng), state

    def learn(self, spec: Spec, state: TablePolicy, batch: Transition, rng: Rng) -> TablePolicy:
        """A step on collected comparisons."""
        loss = KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        return learn_from_verdicts(spec, state, loss, self.batch, self.rate, rng)

    def diagnostics(self, spec: Spec, state: TablePolicy) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.table, self.beta)
