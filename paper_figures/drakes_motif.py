"""DRAKES against steering at inference time on sequences with motifs: the table of the paper."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from rlkit import stats
from rlkit.drawing import PALETTE, note
from rlkit.figures import Claim, Data, above, weakest
from rlkit.paper_figures._drakes_motif import (
    ALL_STEPS,
    BASE,
    BASELINES,
    BEST,
    LEARNED,
    OTHER,
    SMC,
    SMOOTH,
    SVDD,
    TUNED,
    Row,
    shown,
    values,
)

CAPTION = """
Masked diffusion of 30 letters in T = 12 parallel steps with a trained convolutional denoiser
(MotifDNA): 256 outputs a replica, means and 95 % intervals over replicas. (a) Data of a Markov
chain, the reward being the smooth fit of two motifs; (b) data that carry each motif with
probability 0.3, the reward being a network fitted to 5000 noisy labels (proxy), judged also by a
second network fitted to other 5000 (held-out) and by the truth. 3-mer: correlation of the counts
of words of three letters with the best 0.1 % of the training sequences. log p_0: mean exact log-
probability under the data law. CG: gradient of the reward of the posterior mean; SMC and TDS: 16
particles, temperature 0.05, as CG; SVDD-PM: the best of ten candidates a step. DRAKES fine-tunes
a copy of the denoiser (24 chains an iteration, gradient through the last K = 6 steps or all).
Motifs GATAAG and CACGTG hold more A and G than C and T, which the gradient without KL follows to
sequences of A and G; the other motifs, GATAAG and CTTCCG, hold three of each. (c) Reward against
naturalness of the other rows of (a). Thresholds of the claims are proposals of the
specification.
"""

# Of labels whose points are near each other.
PLACES = {
    "CG": ((2, -11), "left"),
    "SMC(16)": ((-4, -22), "right"),
    "SVDD-PM(10)": ((2, 5), "left"),
    "DRAKES, α = 0.02": ((-4, 5), "right"),
}
NATURAL = {"natural": "3-mer", "log_data": "log p₀"}
COLUMNS = {
    "smooth": {"median_true": "reward (median)", **NATURAL},
    "learned": {
        "median_proxy": "proxy (median)",
        "median_judged": "held-out (median)",
        "median_true": "true (median)",
        **NATURAL,
    },
}


def plot(data: Data) -> Figure:
    """Both tables and the plane of reward and naturalness."""
    figure = plt.figure(figsize=(7.4, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.8, 1.0), width_ratios=(1.1, 1))
    smooth, plane = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    learned = figure.add_subplot(grid[1, :])
    draw_table(smooth, data, (*SMOOTH, *OTHER), "smooth")
    smooth.set_title("(a) smooth reward, Markov data")
    draw_table(learned, data, LEARNED, "learned")
    learned.set_title("(b) learned reward, data with motifs")
    draw_plane(plane, data)
    return figure


def draw_table(ax: Axes, data: Data, rows: Sequence[Row], reward: str) -> None:
    """A table of means with half-widths of intervals."""
    heads = COLUMNS[reward]
    cells, margin = [], 0.24 if reward == "smooth" else 0.12  # for the labels of the rows
    for row in rows:
        found = values(data, row, reward)
        cells.append([shown(found[name], 1 if name == "log_data" else 2) for name in heads])
    table = ax.table(
        cellText=cells,
        rowLabels=[row.label for row in rows],
        colLabels=list(heads.values()),
        bbox=Bbox.from_bounds(margin, 0.0, 1 - margin, 0.97),
        cellLoc="center",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(6.5)
    for place, cell in table.get_celld().items():
        cell.set_linewidth(0.5 if place[0] <= 1 else 0.15)
    for index, row in enumerate(rows):
        table[index + 1, -1].get_text().set_color(PALETTE[row.colour])
    ax.set_axis_off()


def draw_plane(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    for row in SMOOTH:
        found = values(data, row)
        middle, bars = [], []
        for name in ("log_data", "median_true"):
            centre, low, high = (float(x) for x in stats.interval(found[name]))
            middle.append(centre)
            bars.append((high - low) / 2)
        marker = "o" if row.agent == "drakes" else "s"
        ax.errorbar(middle[0], middle[1], bars[1], bars[0], marker=marker, linestyle="none",
                    color=PALETTE[row.colour], elinewidth=0.9)  # fmt: skip
        label = row.label.replace("DRAKES, ", "")
        shift, side = PLACES.get(row.label, ((4, 4), "left"))
        note(ax, label, middle[0], middle[1], PALETTE[row.colour], shift, side)
    ax.margins(0.16)
    ax.set(xlabel="mean log p₀", ylabel="median reward", title="(c) reward and naturalness")


def claims(data: Data) -> list[Claim]:
    """Order of rewards, naturalness, no dominance, the effect of alpha."""
    free, held, heavy = TUNED
    return [
        ordered("steering", data, (BASE, BEST, SMC, SVDD)),
        ordered("DRAKES above SVDD", data, (SVDD, held)),
        ordered("DRAKES without KL is above", data, (held, free)),
        higher("naturalness", data, "log_data", held, free),
        not_dominated(data, held),
        ordered("alpha, reward", data, (ALL_STEPS[1], ALL_STEPS[0])),
        higher("alpha, naturalness", data, "log_data", ALL_STEPS[1], ALL_STEPS[0]),
        ordered("alpha, reward, K = 6", data, (heavy, held)),
        higher("alpha, naturalness, K = 6", data, "log_data", heavy, held),
        ordered("other motifs: DRAKES without KL is above", data, (OTHER[1], OTHER[0])),
    ]


def higher(name: str, data: Data, metric: str, one: Row, other: Row) -> Claim:
    """A metric of one row is higher than that of another."""
    label = "mean log p₀" if metric == "log_data" else "median reward"
    return above(
        name,
        f"{label}: {one.label} above {other.label} (difference)",
        values(data, one)[metric] - values(data, other)[metric],
    )


def ordered(name: str, data: Data, rows: Sequence[Row]) -> Claim:
    """Median rewards increase strictly along the rows."""
    pairs = zip(rows[1:], rows[:-1], strict=True)
    parts = [higher("", data, "median_true", one, other) for one, other in pairs]
    order = " < ".join(row.label for row in rows)
    return weakest(name, f"median reward: {order} (least difference)", parts)


def not_dominated(data: Data, row: Row) -> Claim:
    """No baseline has both higher reward and higher log-probability."""
    ours = values(data, row)
    least = []
    for baseline in BASELINES:
        theirs = values(data, baseline)
        gaps = [ours[name] - theirs[name] for name in ("median_true", "log_data")]
        least.append(gaps[int(np.argmax([stats.interval(gap).low for gap in gaps]))])
    parts = [above("", "", gap) for gap in least]
    return weakest(
        "front",
        f"no baseline has both higher median reward and higher log p₀ than {row.label} (of the "
        "better of both differences, the least)",
        parts,
    )
