"""RLOO: REINFORCE with the other responses to a prompt as its baseline."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.advantages import leave_one_out
from rlkit.alignment.tables import (
    TablePolicy,
    improve,
    knowledge,
    log_ratio,
    measure,
    reference_policy,
    respond,
)
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses, log_probability
from rlkit.validation import check_integer, check_real


@agent("rloo")
@dataclass(frozen=True)
class RLOO:
    """Policy gradient on reward minus `beta` times the log-ratio of the whole response.

    Ahmadian et al. (2024), "Back to basics", equation 8.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, a multiple of `group`
    group: int = 4  # responses to each prompt, >= 2
    rate: float = 0.05  # step size of Adam, > 0

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("beta", self.beta, 0, open_low=True)
        check_integer("group", self.group, 2)
        check_integer("batch", self.batch, self.group)
        check_real("rate", self.rate, 0, open_low=True)
        if self.batch % self.group:
            raise ValueError(f"batch = {self.batch}; accepted: multiples of group = {self.group}")

    def initial(self, spec: Spec, rng: Rng) -> TablePolicy:
        """The reference."""
        knowledge(spec)
        return reference_policy(spec)

    def act(
        self, spec: Spec, state: TablePolicy, observation: Tree, rng: Rng
    ) -> tuple[Responses, TablePolicy]:
        """A batch of responses."""
        return respond(spec, state.table, self.batch, rng, self.group), state

    def learn(self, spec: Spec, state: TablePolicy, batch: Transition, rng: Rng) -> TablePolicy:
        """A step of policy gradient."""
        written: Responses = batch.action
        ratio = log_ratio(state.table, spec, written).sum(-1)
        advantage = leave_one_out(batch.feedback.reward - self.beta * ratio, self.group)

        def loss(table: Tensor) -> Tensor:
            score = log_probability(table, written).sum(-1)
            return -(advantage * score).mean(1)

        return improve(state, loss, self.rate)

    def diagnostics(self, spec: Spec, state: TablePolicy) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.table, self.beta)
