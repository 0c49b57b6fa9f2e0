"""Grid worlds drawn with characters: parsing, moves, slipping, and what a picture shows.

A layout is one string, rows separated by `|`, top row first. Its free cells are the states, in
reading order. Actions are 0 up, 1 right, 2 down, 3 left; into a wall or over the edge is to stay.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left, as (row, column)
MARKS = {"X": "wall", "S": "start", "G": "goal", ".": "free"}
Cell = tuple[int, int]  # row and column, from 0 at the top left


class Grid(NamedTuple):
    """A parsed layout."""

    rows: tuple[str, ...]
    free: tuple[Cell, ...]  # state `s` is the cell `free[s]`

    def marked(self, mark: str) -> list[int]:
        """States whose cell is drawn as `mark`."""
        return [
            state for state, (row, column) in enumerate(self.free) if self.at(row, column) == mark
        ]

    def at(self, row: int, column: int) -> str:
        """Character of a cell."""
        return self.rows[row][column]

    def start(self) -> Tensor:
        """Uniform law of the start cells, `[S]` float64."""
        law = torch.zeros(len(self.free), dtype=torch.float64)
        law[self.marked("S")] = 1.0
        return law / law.sum()


class Scene(NamedTuple):
    """What a picture of a grid problem shows."""

    rows: tuple[str, ...]  # a character a cell, see `rlkit.adapters.render.TILES`
    agent: Cell | None = None
    rider: Cell | None = None
    target: Cell | None = None
    fences: tuple[Cell, ...] = ()  # cells with a fence on their right side
    caption: str = ""


def parse(layout: str, marks: dict[str, str] = MARKS) -> Grid:
    """The grid of a layout; its walls are `X`.

    Args:
        layout: rows separated by `|`.
        marks: accepted characters and their meaning.

    Raises:
        ValueError: rows of different lengths, a character that has no meaning, no start, no goal,
            or a start from which no goal can be reached; rows and columns are counted from 1.
    """
    rows = tuple(layout.split("|"))
    width = len(rows[0])
    if not width:
        raise ValueError("layout has an empty row 1; accepted: rows of cells separated by '|'")
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(
                f"layout has {len(row)} cells in row {number} and {width} in row 1; accepted: "
                "rows of one length, separated by '|'"
            )
        for column, mark in enumerate(row, 1):
            if mark not in marks:
                known = ", ".join(f"{key} {meaning}" for key, meaning in marks.items())
                raise ValueError(
                    f"layout has {mark!r} in row {number}, column {column}; accepted: {known}"
                )
    for mark, meaning in (("S", "start"), ("G", "goal")):
        if mark not in layout:
            raise ValueError(f"layout has no {meaning}; accepted: at least one {mark!r}")
    cells = ((row, column) for row in range(len(rows)) for column in range(width))
    grid = Grid(rows, tuple(cell for cell in cells if rows[cell[0]][cell[1]] != "X"))
    check_goal_in_reach(grid)
    return grid


def check_goal_in_reach(grid: Grid) -> None:
    """Refuse a grid with a start from which no goal can be reached; holes `H` end a walk."""
    following = moves(grid).tolist()
    goals, holes = set(grid.marked("G")), set(grid.marked("H"))
    for start in grid.marked("S"):
        seen, queue = {start}, [start]
        while queue:
            fresh = set(following[queue.pop()]) - seen - holes
            seen |= fresh
            queue += fresh
        if not seen & goals:
            row, column = grid.free[start]
            raise ValueError(
                f"layout has no way to a goal from the start in row {row + 1}, column "
                f"{column + 1}; accepted: a goal that can be reached"
            )


def moves(grid: Grid) -> Tensor:
    """State after each move, `[S, 4]` int64."""
    index = {cell: state for state, cell in enumerate(grid.free)}
    return torch.tensor(
        [
            [index.get((row + down, column + right), state) for down, right in MOVES]
            for state, (row, column) in enumerate(grid.free)
        ]
    )


class Slipping(NamedTuple):
    """Outcomes of moves that may go to a side."""

    successor: Tensor  # [S, 4, K] int64
    probability: Tensor  # [S, 4, K] float64


def slipping(following: Tensor, slip: float) -> Slipping:
    """With probability `slip` a move goes to one of its two sides instead, both equally likely.

    Args:
        following: state after each move, `[S, 4]`, in the order of a turn.
        slip: in `[0, 1]`.
    """
    if slip == 0:
        return Slipping(following[..., None], torch.ones(*following.shape, 1, dtype=torch.float64))
    sides = (following, following.roll(-1, 1), following.roll(1, 1))
    law = torch.tensor([1 - slip, slip / 2, slip / 2], dtype=torch.float64)
    return Slipping(torch.stack(sides, -1), law.expand(*following.shape, 3))
