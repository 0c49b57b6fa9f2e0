"""SFT-PG with a learned critic on a swiss roll in ten steps: sliced W2, and samples."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE
from rlkit.figures import Array, Cell, Claim, Data, above, below
from rlkit.paper_figures._few_steps import Rerun, baseline

STEPS, COUNT = 10, 2048
GENTLE, PAPER, NOISY = 0.00005, 0.01, 0.5
CAPTION = """
SFT-PG with a learned critic, no gradient penalty as in the released code, on a swiss roll (96
Gaussians of deviation 0.035 along the curve, so that the frozen denoiser is exact), T = 10, DDPM
steps of variance 1 - a_t, sigmoid schedule. (a) The released end_beta = 0.01, where abar_T = 0.951:
the forward process hardly noises, yet sampling starts at N(0, I). (b) end_beta = 0.5, abar_T =
0.037. Sliced W2 (100 directions, 2048 chains) against iterations of 128 chains; critic and value
step every iteration, the policy every fifth, by one minibatch of 128 steps at rate 0.00005 (gentle,
released), or by ten at 0.0001 (aggressive). Thin: single replicas; thick: median; those that pass 2
leave the picture. Grey: the frozen sampler, and DDIM and DPM-Solver++(2M) at the same T. (c) 2000
samples of the first replica of the gentle runs: frozen, and at its best record; black: data.
"""
RUNS = {"gentle": (GENTLE, "vermilion"), "aggressive": (0.0001, "blue")}


def run(data: Data, end_beta: float, rate: float = GENTLE) -> Cell:
    """The run of a schedule."""
    return data.cell("sft_pg", end_beta=end_beta, agent_rate=rate)


def frozen(end_beta: float, sampler: str = "ddpm") -> Array:
    """Sliced W2 of the frozen denoiser, `[N]`."""
    return baseline("swiss_roll", STEPS, sampler, COUNT, 8, end_beta, "large")[0]


def plot(data: Data) -> Figure:
    """Curves of both schedules, and samples."""
    figure = plt.figure(figsize=(7.4, 4.9), layout="constrained")
    parts = np.asarray(figure.subfigures(2, 1, height_ratios=(1.1, 1)))
    left, right = parts[0].subplots(1, 2)
    draw_curves(left, data, PAPER, tuple(RUNS), "(a) end_beta = 0.01 (released)")
    draw_curves(right, data, NOISY, ("gentle",), "(b) end_beta = 0.5")
    draw_samples(np.asarray(parts[1].subplots(1, 5, sharex=True, sharey=True)), data)
    return figure


def draw_curves(ax: Axes, data: Data, end_beta: float, names: tuple[str, ...], title: str) -> None:
    """Panels (a) and (b)."""
    for name in names:
        rate, colour = RUNS[name]
        cell = run(data, end_beta, rate)
        values = cell.metric("distance")
        ax.plot(cell.step, values, color=PALETTE[colour], linewidth=0.4, alpha=0.6)
        ax.plot(cell.step, np.median(values, 1), color=PALETTE[colour], label=f"SFT-PG, {name}")
    last = float(cell.step[-1])
    labels = (("ddpm", "DDPM", 0.55), ("ddim", "DDIM", 0.75), ("dpm++", "DPM-Solver++", 1.0))
    for sampler, label, place in labels:
        level = frozen(end_beta, sampler).mean()
        ax.axhline(level, color=PALETTE["grey"], linewidth=0.8, linestyle=":")
        ax.text(
            place * last, level, label, fontsize=6.5, ha="right", va="bottom", color=PALETTE["grey"]
        )
    ax.set(xlabel="iteration", ylabel="sliced W2 to the data", title=title, xlim=(0, last))
    ax.set(yscale="log", ylim=(0.01, 2))
    ax.legend(loc="upper right", fontsize=6.5)


def draw_samples(axes: Array, data: Data) -> None:
    """Panel (c)."""
    place = 0
    for end_beta in (PAPER, NOISY):
        cell = run(data, end_beta)
        best = int(cell.step[cell.metric("distance")[:, 0].argmin()])
        again = Rerun(cell, int(cell.config["steps"]), 2000)
        for steps, name, colour in ((0, "frozen", "grey"), (best, "best", "vermilion")):
            ax = axes[place]
            ax.scatter(*again.chains(steps)[0].T, s=0.8, color=PALETTE[colour], linewidths=0)
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
        values = run(data, end_beta).metric("distance")
        found.append(
            below(
                f"best, {end_beta:g}",
                f"end_beta = {end_beta:g}, gentle: best record nearer to the data than the frozen "
                "sampler on the same noise (difference of sliced W2)",
                values.min(0) - values[0],
            )
        )
    bold = run(data, PAPER, RUNS["aggressive"][0]).metric("distance")
    low = bold.argmin(0)
    later = np.array([bold[first:, row].max() for row, first in enumerate(low)])
    return [
        *found,
        above(
            "unstable",
            "end_beta = 0.01, aggressive: after its best record sliced W2 rises again by half of "
            "the frozen sampler's (difference)",
            later - bold.min(0),
            0.5 * float(frozen(PAPER).mean()),
        ),
    ]
