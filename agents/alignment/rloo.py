"""RLOO: REINFORCE with the other responses to a prompt as its baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.advantages import leave_one_out
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.training import improve
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses


@agent("rloo")
@dataclass(frozen=True)
class RLOO(AlignmentAgent):
    """Policy gradient on reward minus `beta` times the log-ratio of the whole response.

    Ahmadian et al. (2024), "Back to basics", equation 8.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, a multiple of `group`
    group: int = 4  # responses to each prompt, >= 2
    rate: float = 0.05  # step size of Adam, > 0
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_group()

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses, `group` in a row to each prompt."""
        return self.respond(spec, state, self.batch, rng, self.group), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step of policy gradient."""
        written: Responses = batch.action
        with torch.no_grad():
            ratio = self.log_ratio(spec, state.policy.parameters, written).sum(-1)
        advantage = leave_one_out(self.paid(spec, state, batch) - self.beta * ratio, self.group)

        def loss(parameters: Tree) -> Tensor:
            return -(advantage * self.score(spec, parameters, written)).mean(1)

        return state._replace(policy=improve(state.policy, loss, self.rate))
