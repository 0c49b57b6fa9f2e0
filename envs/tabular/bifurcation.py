"""The bifurcation grids of the trajectory-aware traces paper."""

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

LAYOUTS = (
    "XX...|XX.X.|XX.XG|XX.X.|S....",
    "..G....|.X.X.X.|.X.X.X.|.X.X.X.|.X.X.X.|.X.X.X.|...S...",
    "G.....|G.....|GXX...|.X....|..S...|XX....",
    ".......|.......|..XXX..|...G...|..XXX..|.......|S......",
)


@problem("Bifurcation-v0")
@dataclass(frozen=True)
class Bifurcation(TabularProblem):
    """Deterministic mazes where early choices decide; the way to the goal is all there is to pay.

    Daley, White, Amato and Machado (2023). State: free cells in reading order, then the end.
    Actions: 0 up, 1 right, 2 down, 3 left; into a wall or over the edge is to stay. A goal is an
    ordinary cell in which any action pays 1 and ends the episode, so the optimum is `gamma**d`
    where `d` is the distance to the goal.

    Raises:
        ValueError: a field outside its range.
    """

    grid: int = 1  # which of the paper's mazes, 1 to 4
    gamma: float = 0.9  # discount factor, in [0, 1)
    horizon: int = 100  # time limit of an episode, >= 1; the paper has none: give a large one

    def __post_init__(self) -> None:
        check_integer("grid", self.grid, 1, len(LAYOUTS))
        check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """The maze, shared by all replicas; the last state is terminal."""
        maze = grids.parse(LAYOUTS[self.grid - 1])
        cells = len(maze.free)
        following = torch.cat([grids.moves(maze), torch.full((1, 4), cells)])
        reward = torch.zeros(cells + 1, 4, 1, dtype=torch.float64)
        following[maze.marked("G")], reward[maze.marked("G")] = cells, 1.0
        start = torch.cat([maze.start(), torch.zeros(1, dtype=torch.float64)])
        terminal = torch.arange(cells + 1) == cells
        certain = torch.ones_like(reward)
        tables = (following[..., None], certain, reward, start, terminal)
        return from_outcomes(*(table.to(rng.device) for table in tables))

    def render(self, instance: Instance, observation: Tensor) -> grids.Scene:
        """The maze with the agent, which is gone at the end."""
        maze = grids.parse(LAYOUTS[self.grid - 1])
        state = int(observation[0])
        return grids.Scene(maze.rows, maze.free[state] if state < len(maze.free) else None)
