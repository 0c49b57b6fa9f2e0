"""Garnet: random sparse MDPs."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer, check_real


@problem("Garnet-v0")
@dataclass(frozen=True)
class Garnet(TabularProblem):
    """Random MDP where every action leads to a few random states.

    Archibald, McKinnon and Thomas (1995). Successors are drawn without replacement, their
    probabilities are the gaps between ordered uniform numbers, rewards are uniform on `[0, 1]` or,
    for a share of the state-action pairs, zero. Start: state 0.

    Raises:
        ValueError: a field outside its range.
    """

    states: int = 20  # >= 1
    actions: int = 4  # >= 1
    branching: int = 3  # successors of a state and action, in 1 .. states
    sparsity: float = 0.0  # expected share of state-action pairs that pay nothing, in [0, 1]
    shared: bool = False  # one MDP for all replicas instead of one each
    gamma: float | None = 0.95  # discount factor in [0, 1); None: the sum over an episode
    horizon: int = 100  # steps of an episode, >= 1

    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_integer("states", self.states, 1)
        check_integer("actions", self.actions, 1)
        check_integer("branching", self.branching, 1, self.states)
        check_real("sparsity", self.sparsity, 0, 1)
        if self.gamma is not None:
            check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """A draw for each replica, or one for all."""
        if self.shared:
            rng = replace(rng, replica=torch.zeros_like(rng.replica[:1]))
        shape = (self.states, self.actions)
        cuts = rng.uniform("cut", *shape, self.branching - 1, dtype=torch.float64).sort(-1).values
        zero = cuts.new_zeros((rng.n, *shape, 1))
        law = torch.diff(cuts, dim=-1, prepend=zero, append=zero + 1)
        pays = rng.uniform("pays", *shape, 1) >= self.sparsity
        reward = rng.uniform("reward", *shape, 1, dtype=torch.float64) * pays
        successor = distinct(rng, self.states, shape, self.branching)
        if self.shared:
            successor, law, reward = successor[0], law[0], reward[0]
        start = torch.zeros(self.states, dtype=torch.float64, device=rng.device)
        start[0] = 1.0
        return from_outcomes(successor, law, reward, start)


def distinct(rng: Rng, high: int, shape: tuple[int, ...], count: int) -> Tensor:
    """Draws without replacement from `0 .. high - 1`, `[N, *shape, count]` int64, ascending.

    The `k`-th draw is a rank among the numbers that are left: it steps over those taken before.
    """
    taken: list[Tensor] = []
    for k in range(count):
        fresh = rng.integers(f"successor/{k}", high - k, *shape)
        for other in taken:
            fresh = fresh + (fresh >= other).long()
        taken = list(torch.stack([*taken, fresh], -1).sort(-1).values.unbind(-1))
    return torch.stack(taken, -1)
