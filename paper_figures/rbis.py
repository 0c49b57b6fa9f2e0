"""Trajectory-aware traces: area under the learning curve against lambda (Daley et al. 2023)."""

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rlkit import stats
from rlkit.drawing import BAND, PALETTE
from rlkit.envs.tabular.bifurcation import LAYOUTS
from rlkit.figures import Array, Cell, Claim, Data, above, weakest

GRIDS = (1, 2, 3, 4)
RBIS = "rbis"
Style = Literal["-", "--", "-.", ":"]
LOOK: dict[str, tuple[str, str, Style]] = {
    RBIS: ("RBIS", PALETTE["vermilion"], "-"),
    "retrace": ("Retrace", PALETTE["blue"], "--"),
    "truncated_importance_sampling": ("Truncated IS", PALETTE["green"], "-."),
    "recursive_retrace": ("Recursive Retrace", PALETTE["purple"], ":"),
}
OTHERS = tuple(rule for rule in LOOK if rule != RBIS)
LETTER: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "weight": "bold"}
GAIN = 25.0  # by which RBIS is to win on grid 2 at lambda = .6

CAPTION = """
Off-policy control on the four bifurcation grids by expected SARSA with eligibility traces under
four rules: behaviour 0.2-greedy, target 0.1-greedy, step sizes the published best for each rule,
lambda and grid. Top: the grids, S start, G goals in which any action pays 1 and ends the episode.
Middle: sum over 3000 steps (5000 on grid 2) of the smoothed learning curve, whose points are exact
expected returns of the 0.05-greedy policy after each episode, cut after 51 steps. Bottom: what RBIS
gains over each other rule on the same replicas. Shaded: values of lambda at which RBIS does not
beat all three others, its whole interval above 0; dark: at which it loses to one of them, the whole
interval below 0. At lambda = 0 all four are expected SARSA without traces; at 1 RBIS and Recursive
Retrace are one algorithm. Lines are means over replicas (1000 on grid 1, 400 on the others), bands
95 % intervals.
"""


def plot(data: Data) -> Figure:
    """The grids, the areas under the curves, and the paired differences below them."""
    heights = {"height_ratios": [0.62, 1.5, 1.2]}
    figure, axes = plt.subplots(
        3, len(GRIDS), figsize=(7.6, 5.2), layout="constrained", gridspec_kw=heights
    )
    for grid, (maze, area, gain) in zip(GRIDS, axes.T, strict=True):
        draw_maze(maze, LAYOUTS[grid - 1])
        maze.set_title(f"({'abcd'[grid - 1]}) grid {grid}")
        draw_areas(area, data, grid)
        draw_gains(gain, data, grid)
        area.sharex(gain)
        area.tick_params(labelbottom=False)
        gain.set_xlabel("λ")
    axes[1, 0].set_ylabel("area under the curve")
    axes[2, 0].set_ylabel("RBIS minus the other rule")
    figure.legend(handles=keys(), loc="outside lower center", ncols=6, columnspacing=1.2)
    return figure


def keys() -> list[Line2D | Patch]:
    """Entries of the legend."""
    lines = [Line2D([], [], color=c, linestyle=s, label=name) for name, c, s in LOOK.values()]
    return [
        *lines,
        Patch(color="0.93", label="RBIS does not beat all"),
        Patch(color="0.8", label="RBIS loses to one"),
    ]


def draw_maze(ax: Axes, layout: str) -> None:
    """Walls dark, start and goals by letter."""
    rows = layout.split("|")
    walls = np.array([[mark == "X" for mark in row] for row in rows], dtype=float)
    ax.pcolormesh(walls, cmap="Greys", vmin=0, vmax=1.6, edgecolors="0.75", linewidth=0.4)
    for i, row in enumerate(rows):
        for j, mark in enumerate(row):
            if mark in "SG":
                colour = PALETTE["vermilion" if mark == "G" else "blue"]
                ax.text(j + 0.5, i + 0.53, mark, color=colour, fontdict=LETTER)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.set_axis_off()


def draw_areas(ax: Axes, data: Data, grid: int) -> None:
    """Mean area of each rule against lambda with its interval."""
    x = lambdas(data)
    for rule, (_, colour, line) in LOOK.items():
        samples = [area(data, grid, rule, value) for value in x]
        ribbon(ax, x, samples, colour, line)
    mark_defeats(ax, data, grid)


def draw_gains(ax: Axes, data: Data, grid: int) -> None:
    """Mean paired differences against lambda with their intervals."""
    x = lambdas(data)
    ax.axhline(0, color=PALETTE["black"], linewidth=0.6)
    for rule in OTHERS:
        _, colour, line = LOOK[rule]
        ribbon(ax, x, [gain(data, grid, rule, value) for value in x], colour, line)
    mark_defeats(ax, data, grid)


def ribbon(
    ax: Axes, x: Sequence[float], samples: Sequence[Array], colour: str, line: Style
) -> None:
    """Mean of each sample `[N]` with a band of its 95 % interval."""
    centre, low, high = np.array([stats.interval(sample) for sample in samples]).T
    ax.plot(x, centre, color=colour, linestyle=line, marker="o", markersize=2)
    ax.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)


def mark_defeats(ax: Axes, data: Data, grid: int) -> None:
    """Shade the values of lambda at which RBIS does not win against every other rule."""
    x = lambdas(data)
    half = min(np.diff(x), default=0.1) / 2
    for value in x:
        ends = [stats.interval(gain(data, grid, rule, value)) for rule in OTHERS]
        if min(end.low for end in ends) > 0:
            continue
        lost = min(end.high for end in ends) < 0
        span = (value - half, value + half)
        ax.axvspan(*span, color="0.8" if lost else "0.93", linewidth=0, zorder=0)
    ax.set_xlim(x[0] - half, x[-1] + half)


def lambdas(data: Data) -> list[float]:
    """Values of lambda that were run, in order."""
    return sorted({float(cell.config["agent.lambda_"]) for cell in data.cells})


def run(data: Data, grid: int, rule: str, lambda_: float) -> Cell:
    """The run of a rule at the nearest lambda there is: the quick size has only one."""
    nearest = min(lambdas(data), key=lambda value: abs(value - lambda_))
    return data.cell("trace_control", grid=grid, agent_rule=rule, agent_lambda_=nearest)


def area(data: Data, grid: int, rule: str, lambda_: float) -> Array:
    """Area under the learning curve of every replica `[N]`."""
    return run(data, grid, rule, lambda_).final("auc")


def gain(data: Data, grid: int, rule: str, lambda_: float) -> Array:
    """Area of RBIS minus that of another rule, replica by replica `[N]`."""
    return area(data, grid, RBIS, lambda_) - area(data, grid, rule, lambda_)


def claims(data: Data) -> list[Claim]:
    """RBIS wins at moderate lambda and beats Truncated IS throughout; not more than that."""
    return [
        wins("grid 2", data, 2, 0.6, GAIN),
        wins("grid 1, lambda .6", data, 1, 0.6),
        wins("grid 1, lambda .5", data, 1, 0.5),
        best(data),
        beats_truncated(data),
        identical(data),
    ]


def wins(name: str, data: Data, grid: int, lambda_: float, bound: float = 0.0) -> Claim:
    """RBIS beats each other rule by more than `bound`."""
    parts = [above("", "", gain(data, grid, rule, lambda_), bound) for rule in OTHERS]
    by = f" by more than {bound:g}" if bound else ""
    text = f"grid {grid}, lambda = {lambda_:g}: RBIS beats each other rule{by} (smallest gain)"
    return weakest(name, text, parts)


def best(data: Data) -> Claim:
    """On grid 1 the largest area over lambda is that of RBIS."""
    top = {}
    for rule in LOOK:
        samples = [area(data, 1, rule, value) for value in lambdas(data)]
        top[rule] = max(samples, key=lambda sample: float(sample.mean()))
    parts = [above("", "", top[RBIS] - top[rule]) for rule in OTHERS]
    text = (
        "grid 1: each rule at its best lambda, chosen on the same replicas, RBIS has the largest "
        "area (smallest gain)"
    )
    return weakest("best over lambda", text, parts)


def beats_truncated(data: Data) -> Claim:
    """RBIS beats Truncated IS on every grid from lambda = .5 on."""
    rule = "truncated_importance_sampling"
    upper = [value for value in lambdas(data) if value >= 0.5]
    parts = [above("", "", gain(data, grid, rule, value)) for grid in GRIDS for value in upper]
    text = "RBIS beats Truncated IS on every grid at every lambda >= .5 (smallest gain)"
    return weakest("truncated IS", text, parts)


def identical(data: Data) -> Claim:
    """At lambda = 1 and one step size RBIS and Recursive Retrace are the same algorithm."""
    largest, replicas = 0.0, 0
    for grid in GRIDS:
        ours, theirs = (run(data, grid, rule, 1.0) for rule in (RBIS, "recursive_retrace"))
        for name in ours.results.metrics:
            gap = np.abs(ours.metric(name) - theirs.metric(name))
            # Through numpy, because the built-in max would pass over NaN.
            largest, replicas = float(np.max([largest, gap.max()])), replicas + gap.shape[-1]
    text = (
        "lambda = 1: all records of RBIS and Recursive Retrace are equal to the last bit on every "
        "grid (largest difference)"
    )
    return Claim("identity", text, largest == 0, largest, (largest, largest), replicas)
