"""Pictures: grids with the agent; else how often each action was taken, and what it paid."""

import numpy as np
from numpy.typing import NDArray

from rlkit.grids import Cell, Scene

Colour = tuple[int, int, int]
HEIGHT = 96  # pixels of one panel
WIDTH = 480  # pixels aimed at for all bars
PULLS, MEANS, GROUND = (70, 110, 180), (220, 140, 40), (250, 250, 250)
SIDE = 512  # pixels that a grid may be high or wide, unless it has more cells than that
TILES: dict[str, Colour] = {
    "X": (70, 72, 80),  # wall
    ".": (246, 246, 243),  # free
    "S": (203, 219, 240),  # start
    "G": (158, 212, 160),  # goal, or the green stop
    "F": (222, 238, 248),  # frozen
    "H": (44, 74, 118),  # hole
    "R": (240, 172, 164),  # red stop
    "Y": (244, 230, 146),  # yellow stop
    "B": (163, 186, 240),  # blue stop
}
AGENT, RIDER, TARGET = (214, 92, 34), (52, 92, 190), (172, 40, 120)
FENCE, LINE = (30, 30, 34), (208, 208, 208)


class Tally:
    """Number of times each action was taken and the sum of its rewards."""

    def __init__(self, actions: int) -> None:
        self.pulls = np.zeros(actions, dtype=np.int64)
        self.sums = np.zeros(actions)

    def add(self, action: int, reward: float) -> None:
        """Count one step."""
        self.pulls[action] += 1
        self.sums[action] += reward

    def means(self) -> NDArray[np.float64]:
        """Mean reward of each action, 0 where it was never taken."""
        average: NDArray[np.float64] = self.sums / np.maximum(self.pulls, 1)
        return average

    def text(self) -> str:
        """One line an action: number, times taken, mean reward."""
        rows = zip(self.pulls.tolist(), self.means().tolist(), strict=True)
        lines = [f"{k:6d} {count:8d} {mean:10.4f}" for k, (count, mean) in enumerate(rows)]
        return "\n".join(["action    taken       mean", *lines]) + "\n"

    def picture(self) -> NDArray[np.uint8]:
        """Bars of the counts above bars of the mean rewards, `[2 * HEIGHT, W, 3]` uint8."""
        return np.concatenate([bars(self.pulls, PULLS), bars(self.means(), MEANS)])


def bars(values: NDArray[np.generic], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One bar a value, from the zero line, scaled to fill `HEIGHT` pixels."""
    value = np.nan_to_num(values.astype(np.float64))
    low, high = min(0.0, value.min()), max(0.0, value.max())
    scale = (HEIGHT - 1) / (high - low) if high > low else 0.0
    pitch = max(2, WIDTH // len(value))
    zero = round(high * scale)
    image = np.empty((HEIGHT, pitch * len(value), 3), dtype=np.uint8)
    image[:] = GROUND
    for index, tip in enumerate(np.rint((high - value) * scale).astype(int)):
        left = index * pitch
        image[min(tip, zero) : max(tip, zero) + 1, left : left + max(1, pitch - 2)] = colour
    return image


def text(scene: Scene) -> str:
    """A line a row: the agent in brackets, fences as `|`, then the caption."""
    lines = []
    for row, marks in enumerate(scene.rows):
        cells = [f"[{m}]" if (row, c) == scene.agent else f" {m} " for c, m in enumerate(marks)]
        gaps = ["|" if (row, c) in scene.fences else " " for c in range(len(marks))]
        lines.append("".join(map("".join, zip(cells, gaps, strict=True))).rstrip())
    return "\n".join([*lines, *filter(None, [scene.caption])]) + "\n"


def picture(scene: Scene) -> NDArray[np.uint8]:
    """Coloured tiles `[H, W, 3]` uint8: agent a disc, rider a small one, target a frame."""
    height, width = len(scene.rows), len(scene.rows[0])
    side = min(48, max(1, SIDE // max(height, width)))
    image = np.empty((height * side, width * side, 3), dtype=np.uint8)
    for row, marks in enumerate(scene.rows):
        for column, mark in enumerate(marks):
            tile = inside(image, (row, column), side)
            tile[:] = LINE if side > 3 else TILES[mark]
            tile[: side - 1, : side - 1] = TILES[mark]
    thick = max(1, side // 10)
    for row, column in scene.fences:
        edge = (column + 1) * side
        image[row * side : (row + 1) * side, edge - thick : edge + thick] = FENCE
    if scene.target is not None:
        tile = inside(image, scene.target, side)[thick : side - 1 - thick, thick : side - 1 - thick]
        core = tile[thick:-thick, thick:-thick].copy()
        tile[:] = TARGET
        tile[thick:-thick, thick:-thick] = core
    for cell, radius, colour in ((scene.agent, 0.34, AGENT), (scene.rider, 0.17, RIDER)):
        if cell is not None:
            disc(inside(image, cell, side), radius * side, colour)
    return image


def inside(image: NDArray[np.uint8], cell: Cell, side: int) -> NDArray[np.uint8]:
    """The pixels of a cell, `[side, side, 3]`, a view."""
    row, column = cell
    return image[row * side : (row + 1) * side, column * side : (column + 1) * side]


def disc(tile: NDArray[np.uint8], radius: float, colour: Colour) -> None:
    """Fill a disc in the middle of a tile `[side, side, 3]`, at least one pixel."""
    place = np.arange(len(tile)) - (len(tile) - 1) // 2
    tile[place[:, None] ** 2 + place**2 <= radius**2] = colour
