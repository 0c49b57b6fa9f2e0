"""Homeostasis: bring two needs to their set-points at the end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.stocks.problem import VectorTabularProblem
from rlkit.validation import check_integer

FOOD = ((1.0, 0.0), (2.0, 0.0))
WATER = ((0.0, 1.0), (0.0, 1.0))
REST = ((0.0, 0.0), (0.0, 0.0))


@problem("Homeostasis-v0")
@dataclass(frozen=True)
class Homeostasis(VectorTabularProblem):
    """Food adds 1 or 2 to one need with equal odds, water 1 to another, rest nothing.

    One state; actions: 0 food, 1 water, 2 rest. Rewards: the two increments, in the feedback and
    in `spec.known.rewards`; the scalar reward is their sum. With the stock at minus the needs,
    homeostasis is a final stock near zero; what happens on the way does not count.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 4  # actions of an episode, >= 1

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """Two outcomes an action; the scalar reward is the sum of the increments."""
        increments = torch.tensor([FOOD, WATER, REST], device=rng.device)
        return from_outcomes(
            torch.zeros(1, 3, 2, dtype=torch.int64, device=rng.device),
            torch.full((1, 3, 2), 0.5, device=rng.device),
            increments.sum(-1)[None],
            torch.ones(1, device=rng.device),
        )

    def rewards(self, model: Model) -> Tensor:
        """Increments of both needs, `[1, 3, 2, 2]`."""
        return torch.tensor([[FOOD, WATER, REST]], device=model.probability.device)
