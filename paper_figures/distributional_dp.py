"""Distributional dynamic programming with stocks: targets and tails (Avila Pires et al. 2025)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlkit import stats
from rlkit.distributions import Law
from rlkit.drawing import PALETTE, note
from rlkit.figures import Data
from rlkit.paper_figures._distributional_dp import (
    COINS,
    GOALS,
    GRID,
    LOWER,
    best_actions,
    cells,
    claims,
    coins,
    curve,
    lattice,
    planned,
    sample,
)

__all__ = ["CAPTION", "claims", "plot"]

BEST, GREEDY, BLIND, SURE = (PALETTE[c] for c in ("vermilion", "blue", "black", "grey"))
ARROWS = ((0, -1), (1, 0), (0, 1), (-1, 0))  # up, right, down, left on axes with y downwards
GOAL, STAGE, WON = 15.0, 6, (0.0, 10.0, 15.0)

CAPTION = """
Policies that see their stock, here what they have won so far. Top: DoubleOrQuit, six choices of 1
for sure or 4 with probability 1/2. Middle: StockGrid, twelve steps on a 4 x 4 grid from the top
left, 1 for entering the coin's corner (+), 6 or -2 with equal odds for the gamble's (?), the end in
the fourth (E). (a, d) Distance of the return to a target. (b, e) Mean of the worst (solid) and of
the best (dashed) share tau of returns. (c, f) Laws of the return under four plans. Lines and steps:
exact values of dynamic programming; dots: the agent simulated on the engine, 4096 replicas, bars 95
% intervals, mostly smaller than the dots. Baselines do not see the stock: the best fixed sequence
of choices for each target or tau, maximising the mean, always the sure coin. (g-i) Best actions
for the target 15 with six steps left, all of them where several are equally good, with 0, 10 and 15
won so far.
"""


def plot(data: Data) -> Figure:
    """Nine panels: two problems in rows, then policies on the grid."""
    figure, axes = plt.subplots(3, 3, figsize=(7.6, 7.0), layout="constrained")
    targets(axes[0, 0], data, COINS, (-13, 0.8))
    tails(axes[0, 1], data, COINS)
    laws(axes[0, 2], data, COINS, (("lower_cvar", 0.25), ("target", 12.0), ("upper_cvar", 0.25)))
    targets(axes[1, 0], data, GRID, (-21, 1.2))
    tails(axes[1, 1], data, GRID)
    laws(axes[1, 2], data, GRID, (("lower_cvar", 0.75), ("target", 12.0), ("upper_cvar", 0.05)))
    for ax, won in zip(axes[2], WON, strict=True):
        policy(ax, won)
    for letter, ax in zip("abcdefghi", axes.flat, strict=True):
        ax.set_title(f"({letter}) {ax.get_title('left')}")
    return figure


def dots(ax: Axes, data: Data, name: str, objective: str) -> None:
    """Simulated values with their intervals."""
    for problem, kind, number, cell in cells(data):
        if (problem, kind) == (name, objective):
            law = planned(name, kind, number)
            terms = sample(kind, number, cell.final("reward"), law)
            centre, low, high = stats.interval(terms)
            bars = [[max(centre - low, 0)], [max(high - centre, 0)]]
            ax.errorbar([number], [centre], bars, fmt="o", color=BEST, markersize=2.5, elinewidth=1)


def targets(ax: Axes, data: Data, name: str, limits: tuple[float, float]) -> None:
    """Distance to the target under plans and baselines."""
    goals = GOALS[name]
    fine = range(min(goals), max(goals) + 1)
    ax.plot(fine, curve(name, "target", fine), color=BEST)
    dots(ax, data, name, "target")
    mean = [planned(name, "mean")]
    ax.plot(fine, curve(name, "target", fine, mean), color=GREEDY, linewidth=1)
    sure = [coins(0)] if name == COINS else [sure_grid()]
    ax.plot(fine, curve(name, "target", fine, sure), color=SURE, linewidth=1)
    if name == COINS:
        blind = [coins(n) for n in range(7)]
        ax.plot(fine, curve(name, "target", fine, blind), ":", color=BLIND, linewidth=1.2)
        note(ax, "sees stock", 16, -4.6, BEST, (5, 2))
        ax.annotate(
            "best fixed sequence",
            (9.5, -2.5),
            (11.5, 0.3),
            color=BLIND,
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.6},
        )
        note(ax, "max mean", 3, -9, GREEDY, (2, -10))
        note(ax, "sure coin", 18, -12, SURE, (-2, -2), "right")
    else:
        note(ax, "sees stock", 13, -2, BEST, (4, 4))
        note(ax, "max mean", 3, -17.5, GREEDY, (4, -4))
        note(ax, "sure coin", 27, -17, SURE, (-6, -4), "right")
    ax.set(xlabel="target return g", ylabel="$-E\\,|G - g|$", ylim=limits)
    ax.set_title(f"{name.removesuffix('-v0')}, target")


def sure_grid() -> Law:
    """The law of ten sure coins, which the risk-averse plan on the grid collects."""
    return planned(GRID, "lower_cvar", LOWER[GRID][0])


def tails(ax: Axes, data: Data, name: str) -> None:
    """Tail means under plans and baselines."""
    shares = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
    mean = [planned(name, "mean")]
    for objective, style in (("lower_cvar", "-"), ("upper_cvar", "--")):
        ax.plot(shares, curve(name, objective, shares), style, color=BEST)
        ax.plot(shares, curve(name, objective, shares, mean), style, color=GREEDY, linewidth=1)
        if name == COINS:
            blind = [coins(n) for n in range(7)]
            ax.plot(shares, curve(name, objective, shares, blind), ":", color=BLIND, linewidth=1.2)
        dots(ax, data, name, objective)
    ax.set(xlabel="share of returns τ", ylabel="mean of the share")
    ax.set_title(f"{name.removesuffix('-v0')}, tails")
    middle = 0.55
    for objective, text, shift in (("lower_cvar", "worst τ", -16), ("upper_cvar", "best τ", 10)):
        height = float(curve(name, objective, [middle])[0])
        note(ax, text, middle, height, BEST, (2, shift))


def laws(ax: Axes, data: Data, name: str, plans: Sequence[tuple[str, float]]) -> None:
    """Cumulative distribution functions of returns."""
    colours = (PALETTE["green"], BEST, PALETTE["purple"], GREEDY)
    for colour, (objective, number) in zip(colours, (*plans, ("mean", 0.0)), strict=True):
        value, mass = (part.numpy() for part in planned(name, objective, number))
        order = np.argsort(value)
        value, total = value[order], np.cumsum(mass[order])
        text = {"lower_cvar": "worst", "upper_cvar": "best", "target": "target"}.get(objective)
        label = "mean" if text is None else f"{text} {number:g}"
        ax.step(value, total, where="post", color=colour, linewidth=1.1, label=label)
        for problem, kind, given, cell in cells(data):
            if (problem, kind) == (name, objective) and (kind == "mean" or given == number):
                share = (cell.final("reward")[:, None] <= value).mean(0)
                shown = mass[order] > 1e-9
                ax.plot(value[shown], share[shown], "o", color=colour, markersize=2)
    ax.set(xlabel="return", ylabel="probability of at most this", ylim=(-0.03, 1.03))
    ax.set_title(f"{name.removesuffix('-v0')}, laws")
    ax.legend(loc="lower right", handlelength=1.2, borderaxespad=0.1)


def policy(ax: Axes, won: float) -> None:
    """Best actions of every cell for the target."""
    best = best_actions(lattice(GRID), GOAL, STAGE, won)
    for state in range(16):
        row, column = divmod(state, 4)
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=0.5))
        if state == 15:
            ax.text(column, row, "E", ha="center", va="center", color=SURE)
            continue
        mark = {3: "+", 12: "?"}.get(state)
        if mark:
            ax.text(column - 0.4, row - 0.36, mark, ha="left", va="center", color=SURE)
        for action, (dx, dy) in enumerate(ARROWS):
            if best[state, action]:
                ax.annotate(
                    "",
                    (column + 0.42 * dx, row + 0.42 * dy),
                    (column + 0.05 * dx, row + 0.05 * dy),
                    arrowprops={"arrowstyle": "->", "color": BEST, "linewidth": 1.0},
                )
    ax.set(xlim=(-0.55, 3.55), ylim=(3.55, -0.55), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(f"target {GOAL:g}, won {won:g}")
