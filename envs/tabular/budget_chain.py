"""BudgetChain: earn more by spending from a budget, with luck without spending."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.stocks.problem import VectorTabularProblem
from rlkit.validation import check_integer

SAFE = ((1.0, 0.0), (1.0, 0.0))
COSTLY = ((3.0, -1.0), (3.0, 0.0))


@problem("BudgetChain-v0")
@dataclass(frozen=True)
class BudgetChain(VectorTabularProblem):
    """Earn 1 for nothing, or 3 at a cost of 1 that is due half of the time.

    One state; actions: 0 safe, 1 costly. Rewards: income and minus the cost, in the feedback and
    in `spec.known.rewards`; the scalar reward is the income. With the second stock at the budget,
    the constraint is that it ends at zero or above.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 5  # choices of an episode, >= 1

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """Two outcomes an action; the scalar reward is the income."""
        rewards = torch.tensor([[SAFE, COSTLY]], device=rng.device)
        return from_outcomes(
            torch.zeros(1, 2, 2, dtype=torch.int64, device=rng.device),
            torch.full((1, 2, 2), 0.5, device=rng.device),
            rewards[..., 0],
            torch.ones(1, device=rng.device),
        )

    def rewards(self, model: Model) -> Tensor:
        """Income and minus the cost, `[1, 2, 2, 2]`."""
        return torch.tensor([[SAFE, COSTLY]], device=model.probability.device)
