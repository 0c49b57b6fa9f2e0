"""REINFORCE on whole responses, without a critic and without groups."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.training import improve
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_choice


@agent("reinforce")
@dataclass(frozen=True)
class Reinforce(AlignmentAgent):
    """Policy gradient on reward minus `beta` times the log-ratio of the whole response.

    Williams (1992). The mean of the batch as baseline shrinks the gradient by `1 - 1 / batch` and
    does not know prompts apart.

    Raises:
        ValueError: a field outside its range.
    """

    baseline: str = "batch"  # "batch" (the mean of the batch) or "none"
    beta: float = 0.1  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, >= 2
    rate: float = 0.05  # step size of Adam, > 0
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("baseline", self.baseline, ("batch", "none"))
        self.check(2)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step of policy gradient."""
        written: Responses = batch.action
        with torch.no_grad():
            ratio = self.log_ratio(spec, state.policy.parameters, written).sum(-1)
        advantage = self.paid(spec, state, batch) - self.beta * ratio
        if self.baseline == "batch":
            advantage = advantage - advantage.mean(1, keepdim=True)

        def loss(parameters: Tree) -> Tensor:
            return -(advantage * self.score(spec, parameters, written)).mean(1)

        return state._replace(policy=improve(state.policy, loss, self.rate))
