"""Grid world from a drawn layout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit import grids
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer, check_real


@problem("GridWorld-v0")
@dataclass(frozen=True)
class GridWorld(TabularProblem):
    """Walk from a start to a goal; entering a goal pays and ends the episode.

    State: free cells in reading order. Actions: 0 up, 1 right, 2 down, 3 left; into a wall or over
    the edge is to stay. Several starts are equally likely.

    Raises:
        ValueError: a field outside its range, or a malformed layout.
    """

    layout: str = "S....|.XXX.|...X.|XX.X.|....G"  # rows by '|'; X wall, S start, G goal, . free
    slip: float = 0.0  # probability of going to a side instead, half each, in [0, 1]
    step_reward: float = 0.0  # pay of every step
    goal_reward: float = 1.0  # pay of entering a goal, beside that of the step
    gamma: float | None = 0.95  # discount factor in [0, 1); None: the sum over an episode
    horizon: int = 100  # time limit of an episode, >= 1

    def __post_init__(self) -> None:
        grids.parse(self.layout)
        check_real("slip", self.slip, 0, 1)
        check_real("step_reward", self.step_reward)
        check_real("goal_reward", self.goal_reward)
        if self.gamma is not None:
            check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """The grid, shared by all replicas; goals are terminal."""
        grid = grids.parse(self.layout)
        out = grids.slipping(grids.moves(grid), self.slip)
        terminal = torch.zeros(len(grid.free), dtype=torch.bool)
        terminal[grid.marked("G")] = True
        reward = self.step_reward + self.goal_reward * terminal[out.successor].double()
        tables = (out.successor, out.probability, reward, grid.start(), terminal)
        return from_outcomes(*(table.to(rng.device) for table in tables))

    def render(self, instance: Instance, observation: Tensor) -> grids.Scene:
        """The layout with the agent."""
        grid = grids.parse(self.layout)
        return grids.Scene(grid.rows, grid.free[int(observation[0])])
