"""SFT-PG on GM1 in five steps: W1 against iterations, and densities through the noise levels."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.drawing import PALETTE, band
from rlkit.figures import Array, Cell, Claim, Data, below
from rlkit.paper_figures._few_steps import FULL, Rerun, baseline

STEPS = 5
CAPTION = """
(a) W1 between samples and data against iterations of SFT-PG, which sees samples of the data and
never a reward: GM1 (0.6 N(-1.5, 0.1) + 0.4 N(1.5, 0.1)), T = 5 DDPM steps on the linear schedule,
1024 chains an iteration, Adam at 0.001, residual perceptron on the exact denoiser and on the
deviation of each step. Critics: the exact witness of W1, or that of a squared MMD (Gaussian kernels
of lengths 0.2, 0.5, 1, 2). Dashed blue: witness of W1, deviations kept. Bands: 95 % intervals over
replicas. Grey: the frozen denoiser at the same T by DDPM, DDIM and DPM-Solver++(2M), and DDPM in
200 steps. (b) First replica with the exact witness: histograms of 20,000 chains at t = 5 to 0,
before (grey) and after training (red), as far as they lie in the picture; black lines: the data
under forward noise.
"""
CRITICS = {"exact": ("W1 witness", "vermilion"), "mmd": ("MMD witness", "green")}
FROZEN = {"ddpm": (STEPS, "DDPM, T = 5"), "ddim": (STEPS, "DDIM, T = 5"),
          "dpm++": (STEPS, "DPM-Solver++, T = 5"), "full": (FULL, "DDPM, T = 200")}  # fmt: skip


def run(data: Data, critic: str) -> Cell:
    """The run with a critic and learned deviations."""
    return data.cell("sft_pg", agent_critic=critic, agent_policy="spread")


def frozen(sampler: str) -> Array:
    """W1 of a frozen sampler, `[N]`."""
    steps, _ = FROZEN[sampler]
    return baseline("gm1", steps, "ddpm" if sampler == "full" else sampler)[0]


def plot(data: Data) -> Figure:
    """Curves, and a column of histograms."""
    figure = plt.figure(figsize=(7.2, 3.9), layout="constrained")
    grid = figure.add_gridspec(STEPS + 1, 2, width_ratios=(1.5, 1))
    draw_curves(figure.add_subplot(grid[:, 0]), data)
    draw_levels([figure.add_subplot(grid[row, 1]) for row in range(STEPS + 1)], data)
    return figure


def draw_curves(ax: Axes, data: Data) -> None:
    """Panel (a)."""
    for critic, (label, colour) in CRITICS.items():
        cell = run(data, critic)
        band(ax, cell.step, cell.metric("distance"), PALETTE[colour], label=f"SFT-PG, {label}")
    kept = data.cell("sft_pg", agent_policy="residual")
    band(ax, kept.step, kept.metric("distance"), PALETTE["blue"], linestyle="--",
         label="SFT-PG, W1 witness, deviations kept")  # fmt: skip
    last = int(kept.step[-1])
    for sampler, (_, label) in FROZEN.items():
        level = float(frozen(sampler).mean())
        ax.axhline(level, color=PALETTE["grey"], linewidth=0.7, linestyle=":")
        ax.text(0.76 * last, level, label, fontsize=6.5, ha="right", va="bottom",
                color=PALETTE["grey"])  # fmt: skip
    ax.set(xlabel="iteration", ylabel="W1 to the data", title="(a) GM1, T = 5", xlim=(0, last))
    ax.set_ylim(0, 0.45)
    ax.legend(loc="upper right", fontsize=6.5)


def draw_levels(axes: list[Axes], data: Data) -> None:
    """Panel (b), from noise at the top to samples at the bottom."""
    cell = run(data, "exact")
    again = Rerun(cell, int(cell.config["steps"]), 20_000)
    before = again.chains(0)
    after = again.chains(int(cell.config["steps"]))
    task = again.spec.known.diffusion
    edges = np.linspace(-3.5, 3.5, 71)
    for ax, t in zip(axes, range(STEPS, -1, -1), strict=True):
        first, last = before[t, :, 0], after[t, :, 0]
        share = np.full(len(first), 1 / (len(first) * (edges[1] - edges[0])))
        ax.hist(first, list(edges), weights=share, color=PALETTE["grey"], alpha=0.45)
        ax.hist(last, list(edges), weights=share, histtype="step", color=PALETTE["vermilion"])
        ax.plot(edges, noised(task, t, edges), color=PALETTE["black"], linewidth=0.8)
        ax.set(yticks=[], xlim=(-3.5, 3.5))
        ax.spines["left"].set_visible(False)
        ax.text(0.01, 0.72, f"t = {t}", transform=ax.transAxes, fontsize=7)
        if t:
            ax.set_xticklabels([])
    axes[0].set_title("(b) densities: before (grey), after (red)")
    axes[-1].set_xlabel("x")


def noised(task: GaussianDiffusion, t: int, at: Array) -> Array:
    """Density of the data at noise level `t`."""
    law = task.mixture.diffuse(task.kernel.schedule.at(t))
    density: Array = law.log_density(torch.as_tensor(at)[None, :, None])[0].exp().numpy()
    return density


def claims(data: Data) -> list[Claim]:
    """The acceptance of the specification."""
    cell = run(data, "exact")
    start, end = frozen("ddpm"), cell.final("distance")
    left = end / start.mean()
    worst = float(left.max())
    return [
        Claim(
            "reduction",
            "W1 witness: W1 falls by at least 60 % in every seed (largest share left)",
            worst <= 0.4,
            worst,
            (float(left.min()), worst),
            left.size,
        ),
        below("W1", "W1 witness: W1 at the end below 0.10", end, 0.10),
        below(
            "frozen",
            "W1 witness: nearer to the data than DDPM, DDIM and DPM-Solver++ of the frozen "
            "denoiser at the same T (difference from the best of them)",
            end - min(frozen(name).mean() for name in ("ddpm", "ddim", "dpm++")),
        ),
        below(
            "MMD witness",
            "MMD witness: share of W1 left below 0.5",
            run(data, "mmd").final("distance") / start.mean(),
            0.5,
        ),
    ]
