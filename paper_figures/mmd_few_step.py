"""MMD-DDM and SFT-PG at equal numbers of samples: GM1, GM2, several T, samples on their way."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, points
from rlkit.figures import Array, Cell, Claim, Data, above, below
from rlkit.paper_figures._few_steps import FULL, Rerun, baseline

STEPS = (2, 5, 10)
SHOWN = (5, 3, 1, 0)  # noise levels of panel (d)
COUNT = 4096
CAPTION = """
Samplers of few steps tuned to the data of GM1 (one dimension) and GM2 (two dimensions, correlated
components), linear schedule, 600 iterations of 256 chains; residual perceptron on the exact
denoiser. MMD-DDM back-propagates the unbiased squared MMD to 256 data points through all steps of
DDIM (eta = 0), Adam at 0.005, with Gaussian kernels of lengths 0.2, 0.5, 1, 2, the cubic kernel, or
its degree 1, the default of the released class, which sees means only. SFT-PG takes policy
gradients on the witness of the same Gaussian MMD under DDPM, Adam at 0.001. (a, b) W1 and sliced W2
(100 directions) to the data against chains sampled. Dotted: the frozen denoiser at T = 5. (c) GM1
after training against T; grey: frozen denoiser. Lines and bars: means over replicas and 95 %
intervals. (d) GM2: 1500 chains of the first replica of MMD-DDM at four noise levels, before and
after training; last column: data.
"""
METHODS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "MMD-DDM, Gaussian": ("mmd_ddm", {"agent_kernel": "rbf", "kernel": "ddim"}, "vermilion", "-"),
    "MMD-DDM, cubic": (
        "mmd_ddm",
        {"agent_kernel": "polynomial", "agent_degree": 3, "kernel": "ddim"},
        "orange",
        "-",
    ),
    "MMD-DDM, degree 1": (
        "mmd_ddm",
        {"agent_kernel": "polynomial", "agent_degree": 1, "kernel": "ddim"},
        "purple",
        "--",
    ),
    "SFT-PG, MMD witness": ("sft_pg", {"agent_critic": "mmd", "kernel": "ddpm"}, "blue", "-"),
}
FROZEN = {"ddpm": ("DDPM", "o"), "ddim": ("DDIM", "s"), "dpm++": ("DPM-Solver++", "^")}


def run(data: Data, method: str, law: str, steps: int = 5) -> Cell:
    """The run of a method."""
    agent, fields, _, _ = METHODS[method]
    # `steps` names the length of the run there.
    same = Data([cell for cell in data.cells if cell.config["env.steps"] == steps], data.base)
    return same.cell(agent, data=law, **fields)


def plot(data: Data) -> Figure:
    """Two curves, the sweep over T, and the chains."""
    figure = plt.figure(figsize=(7.4, 5.6), layout="constrained")
    parts = np.asarray(figure.subfigures(2, 1, height_ratios=(1, 0.95)))
    left, middle, right = parts[0].subplots(1, 3)
    draw_curves(left, data, "gm1", "W1", "(a) GM1, T = 5")
    draw_curves(middle, data, "gm2", "sliced W2", "(b) GM2, T = 5")
    draw_steps(right, data)
    axes = parts[1].subplots(2, len(SHOWN) + 1, sharex=True, sharey=True)
    draw_chains(np.asarray(axes), data)
    return figure


def draw_curves(ax: Axes, data: Data, law: str, name: str, title: str) -> None:
    """Panels (a) and (b)."""
    for method, (_, _, colour, line) in METHODS.items():
        if law == "gm2" and "degree" in method:
            continue
        cell = run(data, method, law)
        chains = cell.step * int(cell.config["agent.batch"]) / 1000
        band(ax, chains, cell.metric("distance"), PALETTE[colour], linestyle=line, label=method)
    last = float(ax.get_xlim()[1])
    for sampler, (label, _) in FROZEN.items():
        level = float(baseline(law, 5, sampler, COUNT)[0].mean())
        ax.axhline(level, color=PALETTE["grey"], linewidth=0.7, linestyle=":")
        # Between the two levels that are nearest, below; else on its line.
        side = "top" if label == "DDIM" else "bottom"
        ax.text(last, level, label, fontsize=6, ha="right", va=side, color=PALETTE["grey"])
    ax.set(xlabel="chains sampled, thousands", ylabel=f"{name} to the data", title=title)
    ax.set_xlim(0, last)
    ax.set_ylim(0, 0.62)
    if law == "gm1":
        ax.legend(loc="upper right", fontsize=6, handlelength=1.6)


def draw_steps(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    for sampler, (label, marker) in FROZEN.items():
        found = [baseline("gm1", steps, sampler, COUNT)[0] for steps in STEPS]
        points(ax, STEPS, found, PALETTE["grey"], marker=marker, linewidth=0.8, label=label)
    for method in ("MMD-DDM, Gaussian", "SFT-PG, MMD witness"):
        _, _, colour, _ = METHODS[method]
        ends = [run(data, method, "gm1", steps).final("distance") for steps in STEPS]
        points(ax, STEPS, ends, PALETTE[colour], marker="o", label=method)
    level = float(baseline("gm1", FULL, "ddpm", COUNT)[0].mean())
    ax.axhline(level, color=PALETTE["black"], linewidth=0.7, linestyle=":")
    ax.text(STEPS[0], level, f"DDPM, T = {FULL}", fontsize=6, ha="left", va="bottom")
    ax.set(xscale="log", yscale="log", xlabel="denoising steps T", ylabel="W1 to the data",
           title="(c) GM1")  # fmt: skip
    ax.set_xticks(STEPS, [str(steps) for steps in STEPS])
    ax.minorticks_off()
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    ax.set_ylim(0.01, 3)
    ax.legend(loc="upper right", fontsize=6, handlelength=1.6)


def draw_chains(axes: Array, data: Data) -> None:
    """Panel (d)."""
    cell = run(data, "MMD-DDM, Gaussian", "gm2")
    last = int(cell.config["steps"])
    again = Rerun(cell, last, 1500)
    rows = (("before", again.chains(0), "grey"), ("after", again.chains(last), "vermilion"))
    for row, (label, chain, colour) in zip(axes, rows, strict=True):
        for ax, t in zip(row, SHOWN, strict=False):
            ax.scatter(*chain[t].T, s=0.6, color=PALETTE[colour], linewidths=0, rasterized=True)
            ax.set_title(f"t = {t}, {label}")
        row[-1].scatter(*again.data.T, s=0.6, color=PALETTE["black"], linewidths=0, rasterized=True)
        row[-1].set_title("data")
        row[0].set_ylabel("x₂")
    axes[0][0].set_title("(d) GM2, t = 5, before")
    for ax in axes[-1]:
        ax.set_xlabel("x₁")
    axes[0][0].set(xlim=(-4, 4.5), ylim=(-4, 4))


def claims(data: Data) -> list[Claim]:
    """The acceptance of the specification."""
    found = []
    for law, name in (("gm1", "W1"), ("gm2", "sliced W2")):
        far, apart = (float(part.mean()) for part in baseline(law, 5, "ddim", COUNT))
        cell = run(data, "MMD-DDM, Gaussian", law)
        found += [
            below(f"{law} {name}", f"{law}, T = 5, MMD-DDM: share of {name} left below 0.5",
                  cell.final("distance") / far, 0.5),
            below(f"{law} MMD", f"{law}, T = 5, MMD-DDM: share of squared MMD left below 0.5",
                  cell.final("mmd2") / apart, 0.5),
        ]  # fmt: skip
    means, cubic = (
        run(data, name, "gm1").final("distance") for name in ("MMD-DDM, degree 1", "MMD-DDM, cubic")
    )
    ours, theirs = (
        run(data, name, "gm1").final("distance")
        for name in ("MMD-DDM, Gaussian", "SFT-PG, MMD witness")
    )
    return [
        *found,
        above("degree", "gm1: degree 1 stays further from the data than the cubic kernel "
              "(difference of W1)", means - cubic),
        below("SFT-PG", "gm1, equal numbers of chains: MMD-DDM ends nearer to the data than "
              "SFT-PG (difference of W1)", ours - theirs),
        *[
            below(f"T = {steps}", f"gm1, T = {steps}: MMD-DDM nearer than the best frozen sampler "
                  "at the same T (difference of W1)",
                  run(data, "MMD-DDM, Gaussian", "gm1", steps).final("distance")
                  - min(baseline("gm1", steps, name, COUNT)[0].mean() for name in FROZEN))
            for steps in STEPS
        ],
    ]  # fmt: skip
