"""Token credit of DPO: log-ratios as optimal advantages (Rafailov et al. 2024)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, points
from rlkit.figures import Array, Data
from rlkit.paper_figures._token_dpo_credit import (
    LOOKS,
    WIDTHS,
    by_pairs,
    claims,
    descent,
    localised,
    lock,
    sweeps,
)

__all__ = ["CAPTION", "claims", "plot"]

SHOWN = 10  # failed responses in a credit map

CAPTION = """
DPO in token MDPs with free tables. (a, b) Credit beta log(pi / pi_ref) of the tokens of ten failed
responses on TokenLock (keys at tokens 1, 3, 5, 7; beta 0.1) under the exact optimum and under DPO
on 4000 pairs; circles: the first wrong key; the number is the share of failures of 12 replicas
whose first wrong key has the least credit. (c) Gap to the soft optimum on TokenTree (4 tokens out
of 3, dense rewards, beta 0.5) after 400 steps of Adam. (d) TokenBigram on its tree of 4096
responses, DPO with beta 0.1 on 4000 pairs, full batch, step size 0.05: mean implicit reward of the
seen preferred (solid) and other (dashed) responses, with the exact law of preferred responses as
reference and start (after imitation) or the law that wrote all of them (without); black: mean over
the exact law of preferred responses after imitation, dots: -beta KL(law || policy). (e, f) Beams on
the optimum and on DPO after imitation: log-probability below that of the likeliest response, and
gold reward. Lines: means over 24 replicas, bands and bars 95 % intervals.
"""


def plot(data: Data) -> Figure:
    """Two maps, the gap, the decline, two panels on beams."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 4.6), layout="constrained")
    found = lock()
    for ax, credit, name in (
        (axes[0, 0], found.exact, "optimum"),
        (axes[0, 1], found.learned, "DPO"),
    ):
        share = localised(credit, found).mean()
        credit_map(ax, credit)
        ax.set_title(f"credit under {name}, {100 * share:.0f} %")
    gaps(axes[0, 2], data)
    decline(axes[1, 0])
    beams(axes[1, 1], axes[1, 2])
    for letter, ax in zip("abcdef", axes.flat, strict=True):
        ax.set_title(f"({letter}) {ax.get_title('left')}")
    return figure


def credit_map(ax: Axes, credit: Array) -> None:
    """Failed responses of the first replica in rows."""
    found = lock()
    rows = np.flatnonzero(found.failed[0])[:SHOWN]
    values = credit[0, rows]
    limit = float(np.abs(found.exact[0, rows]).max())
    image = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    ax.plot(found.first[0, rows], np.arange(len(rows)), "o", mfc="none", color="black")
    ax.set(xlabel="token", ylabel="failed response", yticks=[])
    ax.set_xticks(range(values.shape[1]), [str(t + 1) for t in range(values.shape[1])])
    ax.figure.colorbar(image, ax=ax, label="credit (reward)", fraction=0.06, ticks=[-0.8, 0, 0.8])


def gaps(ax: Axes, data: Data) -> None:
    """Distance in objective over the number of pairs."""
    cells = by_pairs(data)
    count = [int(cell.config["env.pairs"]) for cell in cells]
    points(ax, count, [c.final("gap") for c in cells], PALETTE["vermilion"], marker="o")
    ax.axhline(cells[0].metric("gap")[0].mean(), color=PALETTE["grey"], linewidth=0.8)
    ax.text(count[0], cells[0].metric("gap")[0].mean(), "reference", fontsize=7, va="bottom")
    ax.set(xscale="log", yscale="log", xlabel="comparisons", ylabel="gap (reward)")
    ax.set_xticks(count, [str(x) for x in count])
    ax.set_yticks([0.2, 0.5, 1.0], ["0.2", "0.5", "1.0"])
    ax.minorticks_off()
    ax.set_title("gap to the optimum")


def decline(ax: Axes) -> None:
    """Implicit rewards while learning."""
    for imitates, label, colour in (
        (True, "after imitation", PALETTE["vermilion"]),
        (False, "without", PALETTE["blue"]),
    ):
        run = descent(imitates)
        band(ax, LOOKS, run.chosen, colour, label=label)
        band(ax, LOOKS, run.rejected, colour, linestyle="--")
        if imitates:
            shown = slice(None, None, 3)
            band(ax, LOOKS, run.exact, "black", linewidth=0.7, label="exact law")
            ax.plot(LOOKS[shown], -run.divergence[shown].mean(1), ".", color="black", markersize=4)
    ax.axhline(0, color=PALETTE["grey"], linewidth=0.6)
    ax.set(xscale="symlog", xlim=(0, LOOKS[-1]), xlabel="step", ylabel="implicit reward")
    ax.set_yscale("symlog", linthresh=0.02)
    ax.set_ylim(-6, 0.6)
    ax.set_yticks([-5, -1, -0.1, -0.01, 0, 0.01], ["-5", "-1", "-0.1", "-0.01", "0", "0.01"])
    ax.set_xticks([0, 1, 10, 100, 400], ["0", "1", "10", "100", "400"])
    ax.minorticks_off()
    ax.legend(loc="upper right", handlelength=1.2)
    ax.set_title("decline of implicit rewards")


def beams(left: Axes, right: Axes) -> None:
    """Scores and gold rewards over the width."""
    for (name, found), colour in zip(sweeps().items(), ("black", "vermilion"), strict=True):
        short = found.score - found.best
        points(left, WIDTHS, list(short), PALETTE[colour], marker="o", label=name)
        points(right, WIDTHS, list(found.reward), PALETTE[colour], marker="o", label=name)
    left.set(ylabel="log-probability - best (nats)")
    right.set(ylabel="gold reward")
    for ax, title in ((left, "likelihood found"), (right, "gold reward found")):
        ax.set(xscale="log", xlabel="beam width B")
        ax.set_xticks(WIDTHS, [str(w) for w in WIDTHS])
        ax.minorticks_off()
        ax.legend(loc="lower right", handlelength=1.2)
        ax.set_title(title)
    right.set_ylim(bottom=0)
