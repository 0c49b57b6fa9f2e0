"""Two states and nothing to decide: average reward in closed form."""

from dataclasses import dataclass

import torch

from rlkit.models import Model, from_kernel
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer, check_real


@problem("TwoState-v0")
@dataclass(frozen=True)
class TwoState(TabularProblem):
    """A chain of two states, where the second pays 1 whatever the action.

    Average reward `p / (p + q)`, span of the bias `1 / (p + q)`, diameter `1 / min(p, q)`. Start:
    state 0.

    Raises:
        ValueError: a field outside its range.
    """

    p: float = 0.2  # probability to go from state 0 to state 1, in (0, 1]
    q: float = 0.3  # probability to go back, in (0, 1]
    actions: int = 2  # all of them alike, >= 1

    def __post_init__(self) -> None:
        check_real("p", self.p, 0, 1, open_low=True)
        check_real("q", self.q, 0, 1, open_low=True)
        check_integer("actions", self.actions, 1)

    def model(self, rng: Rng) -> Model:
        """The chain, shared by all replicas."""
        rows = torch.tensor([[1 - self.p, self.p], [self.q, 1 - self.q]], dtype=torch.float64)
        kernel = rows[:, None].repeat(1, self.actions, 1)
        reward = torch.zeros(2, self.actions, dtype=torch.float64)
        reward[1] = 1.0
        start = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return from_kernel(kernel.to(rng.device), reward.to(rng.device), start.to(rng.device))
