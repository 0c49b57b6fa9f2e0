"""DoubleOrQuit: one coin for sure, or four coins half of the time."""

from dataclasses import dataclass

import torch

from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer


@problem("DoubleOrQuit-v0")
@dataclass(frozen=True)
class DoubleOrQuit(TabularProblem):
    """One state and a fixed number of choices: 1 for sure, or 4 with probability 1/2.

    Actions: 0 the sure coin, 1 the gamble. The gamble has the larger mean; what is best for the
    law of the total depends on what was won so far, which only a stock remembers.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 6  # choices of an episode, >= 1

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """Two outcomes an action, shared by all replicas."""
        device = rng.device
        return from_outcomes(
            torch.zeros(1, 2, 2, dtype=torch.int64, device=device),
            torch.tensor([[[1.0, 0.0], [0.5, 0.5]]], device=device),
            torch.tensor([[[1.0, 1.0], [4.0, 0.0]]], device=device),
            torch.ones(1, device=device),
        )
