"""DRAKES where the best sampler is known: objective, divergences and the exact front."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.drawing import PALETTE, band
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.figures import Array, Cell, Claim, Data, above
from rlkit.random import Rng

ALPHA = 0.1
FRONT = tuple(float(x) for x in np.geomspace(0.01, 3, 60))
ALPHAS = (0.2, 0.1, 0.05)
EQUAL = 1e-9
FAR = 1.0  # nats by which the divergence at alpha = 0 is to exceed that of the optimum

CAPTION = """
Sequences of five letters (MS5: soft maximum of the motif ACG as reward, 10 parallel steps, alpha =
0.1), everything but SVDD exact by enumeration; a residual network after 300 iterations of 64
chains, means and 95 % intervals over replicas. (a) Objective, reward minus alpha times path
divergence; line: its optimum J*. (b) Path divergence from the reference; line: KL(p* || p_0) of the
tilted law. (c) Total variation of samples to the tilted law. K: last steps that the reward's
gradient passes. Soft: states of these steps are soft in value. Released KL: the divergence of the
published code, 0 on hard states, so that training is that of alpha = 0. Released step: its mixing
of old and new letters. DDPO: policy gradient with the same divergence. SVDD: ten candidates a step
by the exact soft value, plug-in of 10,000 outputs, with KL(p_x0 || p_0) in place of the path
divergence. (d) Distance from J* against iterations. (e) Reward against KL(p_x0 || p_0) at alpha =
0.2, 0.1, 0.05 from left to right, and the exact front of the tilted laws. J* - J is reported, not
claimed: the straight-through gradient is biased, and policy gradient comes closer.
"""


class Method(NamedTuple):
    """A row of the bars."""

    label: str
    colour: str
    agent: str
    fields: dict[str, Any]


HARD = {"agent_truncation": 10, "agent_alpha": ALPHA}
METHODS = (
    Method("DRAKES, K = 10", "vermilion", "drakes", HARD),
    Method("DRAKES, K = 5", "orange", "drakes", {**HARD, "agent_truncation": 5}),
    Method("… soft states", "sky", "drakes", {**HARD, "agent_straight_through": False}),
    Method("… released step", "purple", "drakes", {**HARD, "agent_blend": "released"}),
    Method("… released KL", "grey", "drakes", {**HARD, "agent_kl": "released"}),
    Method(
        "… released KL, soft",
        "grey",
        "drakes",
        {**HARD, "agent_kl": "released", "agent_straight_through": False},
    ),
    Method("… no KL (α = 0)", "black", "drakes", {**HARD, "agent_kl": "none"}),
    Method("DDPO, same KL", "blue", "ddpo", {"agent_alpha": ALPHA}),
    Method("SVDD, exact value", "green", "svdd", {}),
)
PLAIN = {"agent_kl": "path", "agent_blend": "kept", "agent_straight_through": True}


def cell_of(data: Data, method: Method) -> Cell:
    """The run of a method."""
    plain = PLAIN if method.agent == "drakes" else {}
    return data.cell(method.agent, **{**plain, **method.fields})


def task() -> MaskedDiffusion:
    """MS5, of one replica."""
    problem = MaskedSeq()
    return problem.task(problem.instance(Rng(0, "instance", torch.arange(1))))


def best(alpha: float) -> float:
    """J* of the chain with 10 parallel steps."""
    return float(task().optimum(alpha).fixed)


def divergence(cell: Cell) -> Array:
    """Path divergence, of outputs where there are no paths of a sampler, `[R, N]`."""
    return cell.metric("kl" if cell.config["agent.name"] == "svdd" else "path_kl")


def objective(cell: Cell, alpha: float = ALPHA) -> Array:
    """Reward minus `alpha` times divergence, `[R, N]`."""
    value: Array = cell.metric("gold_reward") - alpha * divergence(cell)
    return value


def plot(data: Data) -> Figure:
    """Bars, convergence, front."""
    figure = plt.figure(figsize=(7.4, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.1, 1))
    bars = [figure.add_subplot(grid[0, 2 * j : 2 * j + 2]) for j in range(3)]
    curve, front = figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:])
    draw_bars(bars, data)
    draw_convergence(curve, data)
    draw_front(front, data)
    return figure


def draw_bars(axes: Sequence[Axes], data: Data) -> None:
    """Panels (a) to (c)."""
    cells = [cell_of(data, method) for method in METHODS]
    columns = (
        ("(a) objective J", [objective(cell)[-1] for cell in cells], best(ALPHA), "J*"),
        (
            "(b) path divergence, nats",
            [divergence(cell)[-1] for cell in cells],
            float(task().front(ALPHA)[0]),
            "KL(p*‖p₀)",
        ),
        ("(c) total variation to p*", [cell.final("tv") for cell in cells], None, ""),
    )
    row = np.arange(len(METHODS))[::-1]
    colours = [PALETTE[method.colour] for method in METHODS]
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for ax, (title, values, line, name) in zip(axes, columns, strict=True):
        centre, low, high = np.array([stats.interval(value) for value in values]).T
        bars = ax.barh(row, centre, color=colours, alpha=0.75, height=0.7)
        bars[-1].set_hatch("///")
        ax.errorbar(centre, row, xerr=np.maximum([centre - low, high - centre], 0), fmt="none",
                    ecolor="black", elinewidth=0.9)  # fmt: skip
        top = max(high.max(), line or 0) * 1.25
        for y, value, end in zip(row, centre, np.maximum(high, centre), strict=True):
            ax.text(end + 0.015 * top, y, f"{value:.2f}", va="center", fontsize=6, bbox=white)
        if line is not None:
            ax.axvline(line, color="black", linewidth=0.9, linestyle="--", zorder=0.5)
            ax.text(line, len(row) - 0.4, f"{name} = {line:.2f}", ha="center", va="bottom",
                    fontsize=6.5, bbox=white)  # fmt: skip
        ax.set(title=title, xlim=(0, top), ylim=(-0.6, len(row) + 0.25))
        ax.set_yticks(row, [method.label for method in METHODS] if ax is axes[0] else [])


def draw_convergence(ax: Axes, data: Data) -> None:
    """Panel (d)."""
    target = best(ALPHA)
    for method in METHODS[:-1]:
        cell = cell_of(data, method)
        line = ":" if "released" in method.label and "soft" in method.label else "-"
        band(ax, cell.step, target - objective(cell), PALETTE[method.colour], linestyle=line)
    ax.set(xlabel="iteration", ylabel="J* − J", yscale="log", title="(d) distance from the optimum")
    ax.set_xlim(left=0)
    ax.set_ylim(0.02, 0.6)


def draw_front(ax: Axes, data: Data) -> None:
    """Panel (e)."""
    exact = task()
    curve = np.array([[float(x) for x in exact.front(alpha)] for alpha in FRONT])
    ax.plot(*curve.T, color="black", linewidth=1.0, label="exact front")
    series = {
        "DDPO, same KL": ("blue", "s", [data.cell("ddpo", agent_alpha=a) for a in ALPHAS]),
        "DRAKES, K = 10": (
            "vermilion",
            "o",
            [data.cell("drakes", **PLAIN, **{**HARD, "agent_alpha": a}) for a in ALPHAS],
        ),
    }
    for label, (colour, marker, cells) in series.items():
        kl = [float(cell.final("kl").mean()) for cell in cells]
        gold = [float(cell.final("gold_reward").mean()) for cell in cells]
        ax.plot(kl, gold, marker=marker, color=PALETTE[colour], label=label, linewidth=0.8)
    for method in (m for m in METHODS if m.label not in series):
        cell = cell_of(data, method)
        fill = "none" if "soft" in method.label else None
        ax.plot(cell.final("kl").mean(), cell.final("gold_reward").mean(), "D", label=method.label,
                color=PALETTE[method.colour], mfc=fill, markersize=4)  # fmt: skip
    ax.set(
        xlabel="KL(p_x0 ‖ p₀), nats", ylabel="expected reward", title="(e) reward and divergence"
    )
    ax.set_xlim(left=0)
    ax.legend(loc="lower right", fontsize=5.5, ncols=2)


def claims(data: Data) -> list[Claim]:
    """The divergence is needed; nothing beats the optimum or the front; the released one is 0."""
    plain, free = cell_of(data, METHODS[0]), cell_of(data, METHODS[6])
    released = cell_of(data, METHODS[4])
    target = float(task().front(ALPHA)[0])
    return [
        above(
            "divergence is needed",
            f"α = 0: path divergence above that of the optimum, {target:.2f} nats, by {FAR:g} "
            "(difference)",
            free.final("path_kl") - target,
            FAR,
        ),
        above(
            "objective",
            "α = 0.1, K = 10: objective above that of α = 0 (difference)",
            objective(plain)[-1] - objective(free)[-1],
        ),
        never_above(data),
        below_front(data),
        same_as_none(released, free),
    ]


def trained(data: Data) -> list[Cell]:
    """Runs whose law is enumerated."""
    return [cell for cell in data.cells if cell.config["agent.name"] != "svdd"]


def never_above(data: Data) -> Claim:
    """No sampler beats J*, at any record."""
    excess = []
    for cell in trained(data):
        alpha = float(cell.config["agent.alpha"])
        excess.append((objective(cell, alpha) - best(alpha)).max(0))
    worst = np.max(excess, 0)
    return Claim(
        "J <= J*",
        f"{len(excess)} runs, all records: J at most J* of the chain with 10 steps, within 1e-9 "
        "(largest signed distance)",
        bool(worst.max() <= EQUAL),
        float(worst.max()),
        (float(worst.min()), float(worst.max())),
        worst.size,
    )


def below_front(data: Data) -> Claim:
    """No law beats the tilted one at any temperature, at any record."""
    exact, excess = task(), []
    bound = [(a, a * float(exact.tilt(a).log_partition[0])) for a in FRONT]
    for cell in trained(data):
        gold, kl = cell.metric("gold_reward"), cell.metric("kl")
        excess.append(np.max([(gold - a * kl - top).max(0) for a, top in bound], 0))
    worst = np.max(excess, 0)
    return Claim(
        "front",
        f"{len(excess)} runs, all records: reward minus a KL(p_x0 || p_0) at most a log Z for "
        f"{len(FRONT)} temperatures a, within 1e-9 (largest signed distance)",
        bool(worst.max() <= EQUAL),
        float(worst.max()),
        (float(worst.min()), float(worst.max())),
        worst.size,
    )


def same_as_none(released: Cell, free: Cell) -> Claim:
    """Training with the released divergence on hard states is training without one."""
    names = ("gold_reward", "path_kl", "tv")
    miss = np.max([np.abs(released.final(name) - free.final(name)) for name in names], 0)
    return Claim(
        "released KL",
        "hard states: reward, path divergence and TV after training with the released divergence "
        "at α = 0.1 are those of α = 0 within 1e-9 (largest difference)",
        bool(miss.max() <= EQUAL),
        float(miss.max()),
        (float(miss.min()), float(miss.max())),
        miss.size,
    )
