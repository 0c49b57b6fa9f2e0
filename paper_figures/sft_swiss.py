"""SFT-PG with a learned critic on a swiss roll in ten steps: sliced W2, and samples."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE
from rlkit.figures import Array, Cell, Claim, Data, above, below
from rlkit.paper_figures._few_steps import Rerun, baseline

STEPS, COUNT = 10, 2048
GENTLE, BOLD = 0.00005, 0.0001
PAPER, NOISY = 0.01, 0.5
SHOWN = 3000  # iterations after which samples are drawn
CAPTION = """
SFT-PG with a learned critic, without a gradient penalty as in the released code, on a swiss roll
(96 Gaussians of deviation 0.035 along the curve, so that the frozen denoiser is exact), T = 10,
DDPM steps of variance 1 - a_t, sigmoid schedule. (a) The released end_beta = 0.01, where abar_T =
0.951: the forward process hardly noises, yet sampling starts at N(0, I). (b) end_beta = 0.5, abar_T
= 0.037. Sliced W2 (100 directions, 2048 chains) against iterations of 128 chains; critic and value
step every iteration, the policy every fifth, by one minibatch of 128 steps at rate 0.00005
(released; 300 passes over the data make the 23,700 iterations of (a)) or by ten at 0.0001
(aggressive). Coupled as in the released script, where the error of the value also moves the critic;
apart: the critic takes no notice of the value. Thin: single replicas; thick: median; what passes 3
leaves the picture. Grey: the frozen sampler, and DDIM and DPM-Solver++(2M) at the same T. (c) 2000
samples of the first replica of the released runs, frozen and after 2880 iterations; black: data.
"""
RUNS = {
    "released": (GENTLE, True, "vermilion"),
    "aggressive": (BOLD, True, "blue"),
    "aggressive, apart": (BOLD, False, "orange"),
}
# Of the frozen samplers: where along the axis, and on which side of their line.
LABELS = {
    PAPER: (("ddpm", "DDPM", 1, "bottom"), ("ddim", "DDIM", 0.2, "top"),
            ("dpm++", "DPM-Solver++", 1, "bottom")),
    NOISY: (("ddpm", "DDPM", 0.003, "top"), ("ddim", "DDIM", 1, "bottom"),
            ("dpm++", "DPM-Solver++", 1, "top")),
}  # fmt: skip


def run(data: Data, end_beta: float, name: str = "released") -> Cell:
    """The run of a schedule."""
    rate, coupled, _ = RUNS[name]
    return data.cell("sft_pg", end_beta=end_beta, agent_rate=rate, agent_coupled=coupled)


def frozen(end_beta: float, sampler: str = "ddpm") -> Array:
    """Sliced W2 of the frozen denoiser, `[N]`."""
    return baseline("swiss_roll", STEPS, sampler, COUNT, 8, end_beta, "large")[0]


def plot(data: Data) -> Figure:
    """Curves of both schedules, and samples."""
    figure = plt.figure(figsize=(7.4, 4.6), layout="constrained")
    parts = np.asarray(figure.subfigures(2, 1, height_ratios=(1.1, 1)))
    left, right = parts[0].subplots(1, 2)
    draw_curves(left, data, PAPER, tuple(RUNS), "(a) end_beta = 0.01 (released)")
    draw_curves(right, data, NOISY, ("released",), "(b) end_beta = 0.5")
    draw_samples(np.asarray(parts[1].subplots(1, 5, sharex=True, sharey=True)), data)
    return figure


def draw_curves(ax: Axes, data: Data, end_beta: float, names: tuple[str, ...], title: str) -> None:
    """Panels (a) and (b)."""
    for name in names:
        colour = PALETTE[RUNS[name][2]]
        cell = run(data, end_beta, name)
        values = cell.metric("distance")
        ax.plot(cell.step, values, color=colour, linewidth=0.4, alpha=0.6)
        ax.plot(cell.step, np.median(values, 1), color=colour, label=f"SFT-PG, {name}")
    last = float(run(data, end_beta).step[-1])
    for sampler, label, place, side in LABELS[end_beta]:
        level = frozen(end_beta, sampler).mean()
        ax.axhline(level, color=PALETTE["grey"], linewidth=0.8, linestyle=":")
        ax.text(
            place * last, level, label, fontsize=6.5, ha="right", va=side, color=PALETTE["grey"]
        )
    ax.set(xlabel="iteration", ylabel="sliced W2 to the data", title=title, xlim=(1, last))
    ax.set(xscale="log", yscale="log", ylim=(0.01, 3))
    ax.legend(loc="lower left" if end_beta == PAPER else "upper right", fontsize=6.5)


def draw_samples(axes: Array, data: Data) -> None:
    """Panel (c)."""
    place = 0
    for end_beta in (PAPER, NOISY):
        cell = run(data, end_beta)
        steps = int(cell.step[cell.step <= SHOWN][-1])
        again = Rerun(cell, steps, 2000)
        for at, name, colour in ((0, "frozen", "grey"), (steps, f"{steps}", "vermilion")):
            ax = axes[place]
            ax.scatter(*again.chains(at)[0].T, s=0.8, color=PALETTE[colour], linewidths=0)
            ax.set_title(f"{end_beta:g}, {name}")
            place += 1
    axes[-1].scatter(*again.data.T, s=0.8, color=PALETTE["black"], linewidths=0)
    axes[-1].set_title("data")
    axes[0].set_title("(c) 0.01, frozen")
    axes[0].set(xlim=(-1, 1), ylim=(-1, 1), ylabel="x₂")
    for ax in axes:
        ax.set_xlabel("x₁")
        ax.set_aspect("equal")


def claims(data: Data) -> list[Claim]:
    """The acceptance of the specification, and the instability of bold settings."""
    found = []
    for end_beta in (PAPER, NOISY):
        # Until the policy first moves, the records are those of the frozen sampler.
        cell = run(data, end_beta)
        chosen = cell.metric("distance").argmin(0)
        judged = cell.metric("held_out")
        found.append(
            below(
                f"best, {end_beta:g}",
                f"end_beta = {end_beta:g}, released: best record nearer to the data than the "
                "frozen sampler, on other noise than it was chosen by (difference of sliced W2)",
                judged[chosen, np.arange(chosen.size)] - judged[0],
            )
        )
    return [*found, *(unstable(data, name) for name in RUNS if name != "released")]


def unstable(data: Data, name: str) -> Claim:
    """Sliced W2 rises again after its least value."""
    values = run(data, PAPER, name).metric("distance")
    low = values.argmin(0)
    later = np.array([values[first:, row].max() for row, first in enumerate(low)])
    return above(
        f"unstable, {name}",
        f"end_beta = 0.01, {name}: after its best record sliced W2 rises again by half (logarithm "
        "of the ratio)",
        np.log(later / values.min(0)),
        math.log(1.5),
    )
