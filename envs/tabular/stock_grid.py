"""StockGrid: a walk between a sure coin in one corner and a gamble in the opposite one."""

from dataclasses import dataclass

import torch

from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: (row, column)


@problem("StockGrid-v0")
@dataclass(frozen=True)
class StockGrid(TabularProblem):
    """Steps on a grid: entering one corner pays 1, entering another 6 or -2 with equal odds.

    State: `size * row + column`; start at the top left. Actions: 0 up, 1 right, 2 down, 3 left;
    a bump into a wall stays and counts as entering again. The top right pays the coin, the
    bottom left the gamble, and the bottom right ends the episode.

    Raises:
        ValueError: a field outside its range.
    """

    size: int = 4  # rows and columns, >= 2
    horizon: int = 12  # steps of an episode, >= 1

    def __post_init__(self) -> None:
        check_integer("size", self.size, 2)
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """Two outcomes an action, which differ in the gamble's corner alone."""
        states, device = self.size**2, rng.device
        cell = torch.arange(states, device=device)
        place = torch.stack([cell // self.size, cell % self.size], -1)
        moved = place[:, None] + torch.tensor(MOVES, device=device)
        row, column = moved.clamp(0, self.size - 1).unbind(-1)
        following = row * self.size + column  # [S, A]
        coin = following == self.size - 1
        gamble = following == states - self.size
        reward = coin[..., None] + gamble[..., None] * torch.tensor([6.0, -2.0], device=device)
        split = torch.tensor([0.5, 0.5], device=device)
        certain = torch.tensor([1.0, 0.0], device=device)
        probability = torch.where(gamble[..., None], split, certain)
        successor = following[..., None].expand(-1, -1, 2)
        ended = cell == states - 1
        return from_outcomes(successor, probability, reward, (cell == 0).double(), ended)
