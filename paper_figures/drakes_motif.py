"""DRAKES against steering at inference time on sequences with motifs: the table of the paper."""

from collections.abc import Sequence
from dataclasses import replace

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
    BALANCED,
    BASE,
    BASELINES,
    BEST,
    LEARNED,
    SMC,
    SMOOTH,
    SVDD,
    TUNED,
    Row,
    balanced,
    shown,
    values,
)

CAPTION = """
Masked diffusion of 30 letters in T = 12 parallel steps with a trained convolutional denoiser
(MotifDNA): 512 outputs a replica (of DRAKES 256), means and 95 % intervals over replicas. Data of a
Markov chain, the reward being the smooth fit of two motifs: (a) GATAAG and CACGTG, which hold more
A and G than C and T (the gradient without KL follows that to sequences of A and G); (b) GATAAG and
CTTCCG, which hold three of each letter. (c) Data that carry each motif of (a) with probability 0.3,
the reward being a network fitted to 5000 noisy labels (proxy), judged also by a second network
fitted to other 5000 (held-out) and by the truth. 3-mer: correlation of the counts of words of three
letters with the best 0.1 % of the training sequences. log p_0: mean exact log-probability under the
data law. CG: gradient of the reward of the posterior mean; SMC and TDS: 16 particles, temperature
0.05, as CG; SVDD-PM: the best of ten candidates a step. DRAKES fine-tunes a copy of the denoiser
(24 chains an iteration, gradient through the last K = 6 steps or all). Right: reward against
naturalness. Thresholds of the claims are proposals of the specification.
"""

# Of labels whose points are near each other, in (a) and (b).
PLACES: tuple[dict[str, tuple[tuple[int, int], str]], ...] = (
    {
        "CG": ((2, -11), "left"),
        "SMC(16)": ((-4, -11), "right"),
        "SVDD-PM(10)": ((-4, -10), "right"),
    },
    {
        "CG": ((5, -3), "left"),
        "SMC(16)": ((4, -11), "left"),
        "SVDD-PM(10)": ((-5, 4), "right"),
    },
)
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
    """Tables, and planes of reward and naturalness."""
    figure = plt.figure(figsize=(7.4, 8.6), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(1.5, 1.15, 0.8), width_ratios=(1.1, 1))
    learned = figure.add_subplot(grid[2, :])
    titles = ("(a) smooth reward, Markov data", "(b) as (a), balanced motifs")
    for place, (rows, title) in enumerate(zip((SMOOTH, BALANCED), titles, strict=True)):
        table, plane = figure.add_subplot(grid[place, 0]), figure.add_subplot(grid[place, 1])
        draw_table(table, data, rows, "smooth")
        table.set_title(title)
        draw_plane(plane, data, rows, PLACES[place])
    draw_table(learned, data, LEARNED, "learned")
    learned.set_title("(c) learned reward, data with motifs")
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


def draw_plane(
    ax: Axes, data: Data, rows: Sequence[Row], places: dict[str, tuple[tuple[int, int], str]]
) -> None:
    """Reward against naturalness."""
    for row in rows:
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
        shift, side = places.get(row.label, ((4, 4), "left"))
        note(ax, label, middle[0], middle[1], PALETTE[row.colour], shift, side)
    ax.margins(0.26, 0.16)
    ax.set(xlabel="mean log p₀", ylabel="median reward", title="reward and naturalness")


def claims(data: Data) -> list[Claim]:
    """Order of rewards, naturalness, no dominance, the effect of alpha."""
    free, held, heavy = TUNED
    even = {row.label: row for row in BALANCED}
    return [
        ordered("steering", data, (BASE, BEST, SMC, SVDD)),
        ordered("DRAKES above SVDD", data, (SVDD, held)),
        ordered("DRAKES without KL is above", data, (held, free)),
        higher("naturalness", data, "log_data", held, free),
        not_dominated("front", data, held, BASELINES),
        ordered("alpha, reward", data, (ALL_STEPS[1], ALL_STEPS[0])),
        higher("alpha, naturalness", data, "log_data", ALL_STEPS[1], ALL_STEPS[0]),
        ordered("alpha, reward, K = 6", data, (heavy, held)),
        higher("alpha, naturalness, K = 6", data, "log_data", heavy, held),
        *(
            replace(claim, name=f"balanced: {claim.name}", statement=f"(b): {claim.statement}")
            for claim in (
                ordered("steering", data, [even[row.label] for row in (BASE, BEST, SMC, SVDD)]),
                ordered("DRAKES above SVDD", data, [even[row.label] for row in (SVDD, held)]),
                ordered("DRAKES without KL is above", data, [balanced(held), balanced(free)]),
                higher("naturalness", data, "log_data", balanced(held), balanced(free)),
                not_dominated("front", data, balanced(held), BALANCED[: len(BASELINES)]),
            )
        ),
        learned_order(data, (BASE, BEST, SVDD, held, free)),
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


def learned_order(data: Data, rows: Sequence[Row]) -> Claim:
    """Median learned rewards increase strictly along the rows, as in the paper's table."""
    found = [values(data, row, "learned")["median_proxy"] for row in rows]
    parts = [above("", "", one - other) for one, other in zip(found[1:], found[:-1], strict=True)]
    order = " < ".join(row.label for row in rows)
    statement = f"(c): median learned reward: {order} (least difference)"
    return weakest("order of the paper", statement, parts)


def not_dominated(name: str, data: Data, row: Row, baselines: Sequence[Row]) -> Claim:
    """No baseline has both higher reward and higher log-probability."""
    ours = values(data, row)
    least = []
    for baseline in baselines:
        theirs = values(data, baseline)
        gaps = [ours[name] - theirs[name] for name in ("median_true", "log_data")]
        least.append(gaps[int(np.argmax([stats.interval(gap).low for gap in gaps]))])
    parts = [above("", "", gap) for gap in least]
    return weakest(
        name,
        f"no baseline has both higher median reward and higher log p₀ than {row.label} (of the "
        "better of both differences, the least)",
        parts,
    )
