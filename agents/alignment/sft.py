"""Supervised fine-tuning: maximum likelihood on demonstrations."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.offline import collected, imitate
from rlkit.alignment.tables import TablePolicy, measure, reference_policy, respond
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_integer, check_real


@agent("sft")
@dataclass(frozen=True)
class SFT:
    """Imitates the demonstrations, all of them or those that were rewarded.

    With `least` it is rejection-sampling fine-tuning (RFT, STaR).

    Raises:
        ValueError: a field outside its range.
    """

    least: float | None = None  # imitate only observed rewards of at least this; None: all
    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.least is not None:
            check_real("least", self.least)
        check_real("beta", self.beta, 0, open_low=True)
        check_integer("batch", self.batch, 1)
        check_real("rate", self.rate, 0, open_low=True)
        check_integer("responses", self.responses, 2)

    def initial(self, spec: Spec, rng: Rng) -> TablePolicy:
        """The reference.

        Raises:
            ValueError: there is nothing to learn from.
        """
        collected(spec, "demonstrations")
        return reference_policy(spec)

    def act(
        self, spec: Spec, state: TablePolicy, observation: Tree, rng: Rng
    ) -> tuple[Responses, TablePolicy]:
        """Responses of the present policy; learning does not use them."""
        return respond(spec, state.table, self.responses, rng), state

    def learn(self, spec: Spec, state: TablePolicy, batch: Transition, rng: Rng) -> TablePolicy:
        """A step on collected demonstrations."""
        return imitate(spec, state, self.batch, self.rate, rng, self.least)

    def diagnostics(self, spec: Spec, state: TablePolicy) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.table, self.beta)
