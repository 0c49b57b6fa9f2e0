"""DeepSea: deep exploration by posterior samples and optimism, none by dithering."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, label_ends, note, points
from rlkit.figures import Array, Claim, Data, above, below
from rlkit.regret_curves import Curve, ordered

SIZES = (4, 6, 8, 10, 12)
SCALES = (0.003, 0.01, 0.03, 0.1, 0.3)
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
OPTIMUM = 0.99

SPARSE = Curve("PSRL, α = 1/S", "psrl", "vermilion", {"agent_alpha": None})
FLAT = Curve("PSRL, α = 1", "psrl", "orange", {"agent_alpha": 1.0})
DITHER = Curve("ε-greedy", "q_learning", "black", line="--")
POSTERIOR = Curve("PSRL", "psrl", "vermilion", {"agent_alpha": None})
VALUES = Curve("RLSVI", "rlsvi", "blue", {"agent_sigma": 0.1})
BOUNDS = Curve("UCBVI", "ucbvi", "green", {"agent_scale": 0.01})
UNTUNED = Curve("UCBVI", "ucbvi", "green", {"agent_scale": 0.1})
OPTIMISTIC_Q = Curve("optimistic Q", "q_learning_ucb", "purple")
NOISY = {"noise": 0.1, "goal": 0.99}

CAPTION = """
Deep exploration on DeepSea: only a dive of N moves right, each at a cost, finds the treasure. (a)
Size 10, no noise: regret of PSRL with Dirichlet priors 1/S and 1 and of epsilon-greedy Q-learning
(epsilon .1). (b) Reward noise .1: UCBVI with bonus c H / sqrt(n), c = .01; RLSVI and PSRL, both
with prior N(0, 1) on rewards and noise .1; optimistic Q-learning with c = .01; epsilon-greedy. (c)
The final regret of (b) against c and against the noise sigma that RLSVI assumes, its prior standard
deviation being 10 sigma; dashed: PSRL. The
c and the prior variance of RLSVI were chosen after a look at such regrets; with the c = .1 that was
fixed before, UCBVI is behind PSRL. (d) No noise: episodes that missed the treasure against size;
dotted: all 4000 / N episodes. Lines and points are means over 32 replicas, the same for all agents,
bands and bars 95 % intervals.
"""


def plot(data: Data) -> Figure:
    """Two settings, what they owe to constants, and the size of the sea."""
    figure, axes = plt.subplots(2, 2, figsize=(6.8, 5.4), layout="constrained")
    curves(axes[0, 0], data, (SPARSE, FLAT, DITHER), {"noise": 0.0, "size": 10})
    axes[0, 0].set_title("(a) N = 10, no noise")
    curves(axes[0, 1], data, (BOUNDS, VALUES, POSTERIOR, OPTIMISTIC_Q, DITHER), NOISY)
    axes[0, 1].set_title("(b) N = 10, reward noise 0.1")
    constants(axes[1, 0], data)
    sizes(axes[1, 1], data)
    return figure


def curves(ax: Axes, data: Data, which: tuple[Curve, ...], wanted: dict[str, Any]) -> None:
    """Cumulative regret against episodes."""
    ends = []
    for curve in which:
        cell, colour = curve.cell(data, **wanted), PALETTE[curve.colour]
        episode = cell.step / 10
        band(ax, episode, cell.metric(), colour, linestyle=curve.line)
        ends.append((episode[-1], cell.final().mean(), curve.label, colour))
    ax.set(xlabel="episode", ylabel="cumulative regret", xlim=(0, episode[-1]), ylim=(0, None))
    label_ends(ax, ends)


def constants(ax: Axes, data: Data) -> None:
    """Final regret against the size of bonus or noise."""
    for curve, field, values in (
        (BOUNDS, "agent_scale", SCALES),
        (VALUES, "agent_sigma", NOISES),
    ):
        finals = [data.cell(curve.agent, **{field: v}, **NOISY).final() for v in values]
        points(ax, values, finals, PALETTE[curve.colour], marker="o")
        last = float(finals[-1].mean())
        note(ax, curve.label, values[-1], last, PALETTE[curve.colour], (-6, 0), ha="right")
    reference = POSTERIOR.cell(data, **NOISY).final().mean()
    ax.axhline(reference, color=PALETTE["vermilion"], linestyle="--", linewidth=1)
    ax.set_xscale("log")
    ax.set(xlabel="c of UCBVI, σ of RLSVI", ylabel="final regret", ylim=(0, None))
    note(ax, "PSRL", SCALES[0], float(reference), PALETTE["vermilion"], (0, 3))
    ax.set_title("(c) constants, reward noise 0.1")


def sizes(ax: Axes, data: Data) -> None:
    """Missed episodes against the size of the sea."""
    ends = []
    for curve in (BOUNDS, VALUES, POSTERIOR, DITHER):
        colour = PALETTE[curve.colour]
        missed = [curve.cell(data, noise=0.0, size=n).final() / OPTIMUM for n in SIZES]
        points(ax, SIZES, missed, colour, marker="o", linestyle=curve.line)
        ends.append((SIZES[-1], float(missed[-1].mean()), curve.label, colour))
    total = data.base["steps"] / np.array(SIZES)
    ax.plot(SIZES, total, ":", color=PALETTE["grey"], linewidth=2)
    note(ax, "all episodes", SIZES[1], float(total[1]), PALETTE["grey"], (3, 3))
    ax.set_yscale("log")
    ax.set(xlabel="size N", ylabel="episodes without treasure", xticks=SIZES)
    ax.set_xlim(SIZES[0] - 0.3, SIZES[-1])
    label_ends(ax, ends)
    ax.set_title("(d) size of the sea, no noise")


def claims(data: Data) -> list[Claim]:
    """The specification's ratios without noise, its order with noise."""
    sparse, flat, dither = (
        c.cell(data, noise=0.0, size=10).final() for c in (SPARSE, FLAT, DITHER)
    )
    ceiling: Array = np.full_like(dither, OPTIMUM * data.base["steps"] / 10)
    return [
        below(
            "deep exploration",
            "no noise: PSRL with α = 1/S has at most 0.6 times the regret of ε-greedy "
            "(difference to it)",
            sparse - 0.6 * dither,
        ),
        above(
            "flat prior",
            "no noise: PSRL with α = 1 has at least 0.95 times the regret of ε-greedy "
            "(difference to it)",
            flat - 0.95 * dither,
        ),
        above(
            "dithering",
            "no noise: ε-greedy has at least 0.95 times the regret of never finding the "
            "treasure (difference to it)",
            dither - 0.95 * ceiling,
        ),
        ordered(
            "order",
            data,
            (UNTUNED, VALUES, POSTERIOR, DITHER),
            "noise 0.1, c = 0.1: ",
            **NOISY,
        ),
        ordered(
            "order, tuned bonus",
            data,
            (BOUNDS, VALUES, POSTERIOR, DITHER),
            "noise 0.1, c = 0.01, chosen from panel (c): ",
            **NOISY,
        ),
    ]
