"""Hypercube: one decision among the corners of a cube, of which one is slightly better."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.linear_mdps import FeatureTable
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Instance, Spec
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer, check_real

START, BAD, GOOD = 0, 1, 2


@problem("Hypercube-v0")
@dataclass(frozen=True)
class Hypercube(TabularProblem):
    """Hard to learn and linear: `P(good | start, a) = chance + <mu, a>`, `a` a corner of a cube.

    Zhou, Gu and Szepesvari (2021), "Nearly minimax optimal reinforcement learning for linear
    mixture MDPs": `mu` in `{-margin, margin}^(d - 1)` is drawn for each replica, actions are
    `{-1, 1}^(d - 1)`. Good and bad are never left; good pays `1 / horizon` a step. Best value:
    `(horizon - 1) / horizon (chance + (d - 1) margin)`. Bit `i` of an action is set where its
    entry `i` is 1.

    Raises:
        ValueError: a field outside its range, or a probability outside [0, 1].
    """

    dimension: int = 4  # d, the actions are 2**(d - 1) corners, in 2 .. 13
    margin: float = 0.02  # size of every entry of mu, > 0
    chance: float = 0.16666666666666666  # mean probability of the good state, in (0, 1)
    horizon: int = 10  # steps of an episode, >= 2

    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_integer("dimension", self.dimension, 2, 13)
        check_real("chance", self.chance, 0, 1, open_low=True, open_high=True)
        room = min(self.chance, 1 - self.chance) / (self.dimension - 1)
        check_real("margin", self.margin, 0, room, open_low=True)
        check_integer("horizon", self.horizon, 2)

    def corners(self, rng: Rng) -> Tensor:
        """Actions `[A, d - 1]` of -1 and 1."""
        bit = torch.arange(self.dimension - 1, device=rng.device)
        action = torch.arange(1 << (self.dimension - 1), device=rng.device)
        return 2.0 * (action[:, None] >> bit & 1).double() - 1

    def model(self, rng: Rng) -> Model:
        """A model for each replica."""
        corners = self.corners(rng)
        sign = 2.0 * rng.integers("mu", 2, self.dimension - 1).double() - 1
        good = self.chance + self.margin * (sign[:, None] * corners).sum(-1)
        stay = torch.ones_like(good)
        probability = torch.stack([good, stay, stay], 1)
        probability = torch.stack([probability, 1 - probability], -1)
        pair = torch.tensor([[GOOD, BAD], [BAD, BAD], [GOOD, GOOD]], device=rng.device)
        successor = pair[:, None].expand(3, len(corners), 2)
        reward = torch.zeros(3, len(corners), 1, dtype=torch.float64, device=rng.device)
        reward[GOOD] = 1 / self.horizon
        start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device=rng.device)
        return from_outcomes(
            successor.expand(probability.shape), probability, reward.expand(len(good), -1, -1, -1),
            start,
        )  # fmt: skip

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses features `[3, A, d + 2]` of norm 1: `(a, 1) / sqrt(d)`, then states."""
        spec = super().spec(instance)
        device = instance.replica.model.probability.device
        corners = self.corners(Rng(0, "corners", torch.zeros(1, dtype=torch.int64, device=device)))
        size, width = len(corners), self.dimension + 2
        table = torch.zeros(3, size, width, dtype=torch.float64, device=device)
        table[START, :, : self.dimension - 1] = corners
        table[START, :, self.dimension - 1] = 1
        table[START] /= self.dimension**0.5
        table[BAD, :, -2], table[GOOD, :, -1] = 1, 1
        return replace(spec, known=spec.known._replace(features=FeatureTable(table)))
