"""Inference-time steering of 40 letters: a smooth motif reward, and counts without a gradient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, points
from rlkit.figures import Array, Cell, Claim, Data, above, weakest

SMOOTH, COUNTS = (0.02, 0.05, 0.1), (0.1, 0.3, 1.0)  # temperatures
MIDDLE = {"smooth": 0.05, "count": 0.3}

CAPTION = """
Masked diffusion of 40 letters with a trained denoiser (MotifDNA, T = 12 parallel steps), 100
outputs a replica. (a) Smooth reward, the soft maximum of two motif scores, against the temperature
alpha; SVDD with M = 10 candidates a step, SMC and TDS with K = 10 particles resampled at every
step, all by the reward of the posterior mean; dashed: greedy SVDD; dotted: best of 10 samples. (b)
The same reward against denoiser evaluations an output (a backward pass counts two): greedy SVDD
with M = 2, 5, 10, 20, best of N = 1, 10, 40, SMC, TDS and DPS at alpha = 0.02, greedy SVDD-MC (M =
10) with a network fitted to 2000 chains (fit not counted). (c) The number of motif hits, which has
no gradient: values are those of the likeliest letters; open: greedy SVDD on relaxed letters. Bars
and bands: 95 % intervals over replicas.
"""


@dataclass(frozen=True)
class Series:
    """Runs of one method.

    Attributes:
        label: in the legend.
        agent: registered name.
        colour: key of the palette.
        marker: of its points.
        fields: which of the agent's runs.
    """

    label: str
    agent: str
    colour: str
    marker: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def cell(self, data: Data, reward: str, **wanted: Any) -> Cell:
        """The run with the wanted fields."""
        return data.cell(self.agent, reward=reward, **{**self.fields, **wanted})


GREEDY = Series("SVDD, greedy", "svdd", "blue", "s", {"agent_greedy": True})
SOFT = Series("SVDD", "svdd", "vermilion", "D", {"agent_greedy": False})
FITTED = Series("SVDD-MC, greedy", "svdd", "sky", "s", {"agent_value": "mc"})
SMC = Series("SMC", "diffusion_smc", "green", "^")
TDS = Series("TDS", "tds", "purple", "P")
DPS = Series("DPS", "dps", "orange", "<")
BEST = Series("best-of-N", "diffusion_best_of_n", "grey", "x")
PM, ARGMAX = {"agent_value": "pm"}, {"agent_value": "pm_argmax"}
PLUG = {"smooth": PM, "count": ARGMAX}


def gold(cell: Cell) -> Array:
    """True reward `[N]`."""
    return cell.final("gold_reward")


def plot(data: Data) -> Figure:
    """Temperature, cost, counts."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.2), layout="constrained")
    temperatures(axes[0], data, "smooth", SMOOTH, (SOFT, SMC, TDS, DPS))
    axes[0].set(ylabel="mean reward", title="(a) smooth reward")
    costs(axes[1], data)
    temperatures(axes[2], data, "count", COUNTS, (SOFT, SMC))
    relaxed = gold(GREEDY.cell(data, "count", agent_candidates=10, **PM))
    points(
        axes[2],
        [COUNTS[1]],
        [relaxed],
        PALETTE["blue"],
        marker="s",
        markerfacecolor="white",
        linestyle="none",
    )
    axes[2].set(ylabel="mean number of hits", title="(c) hits, no gradient")
    shown: dict[str, Any] = {}
    for ax in axes:
        lines, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, lines, strict=True))
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncol=7)
    return figure


def temperatures(
    ax: Axes, data: Data, reward: str, alphas: tuple[float, ...], shown: tuple[Series, ...]
) -> None:
    """Reward against temperature, and what has none as lines."""
    for series in shown:
        plug: dict[str, Any] = {} if series is DPS else dict(PLUG[reward])
        if series is SOFT:
            plug["agent_candidates"] = 10
        found = [gold(series.cell(data, reward, agent_alpha=a, **plug)) for a in alphas]
        colour = PALETTE[series.colour]
        points(ax, alphas, found, colour, marker=series.marker, label=series.label)
    greedy = GREEDY.cell(data, reward, agent_candidates=10, **PLUG[reward])
    for cell, series, line in (
        (greedy, GREEDY, "--"),
        (BEST.cell(data, reward, agent_candidates=10), BEST, ":"),
    ):
        centre, low, high = (float(x) for x in stats.interval(gold(cell)))
        ax.axhline(centre, color=PALETTE[series.colour], linestyle=line, linewidth=1)
        ax.axhspan(low, high, color=PALETTE[series.colour], alpha=0.15, linewidth=0)
    ax.set(xscale="log", xlabel="temperature alpha")
    ax.set_xticks(alphas, labels=[f"{a:g}" for a in alphas])
    ax.minorticks_off()


def costs(ax: Axes, data: Data) -> None:
    """Smooth reward against evaluations of the denoiser."""
    lists = [
        (GREEDY, [GREEDY.cell(data, "smooth", agent_candidates=m, **PM) for m in (2, 5, 10, 20)]),
        (BEST, [BEST.cell(data, "smooth", agent_candidates=n) for n in (1, 10, 40)]),
        (SMC, [SMC.cell(data, "smooth", agent_alpha=0.02)]),
        (TDS, [TDS.cell(data, "smooth", agent_alpha=0.02)]),
        (DPS, [DPS.cell(data, "smooth", agent_alpha=0.02)]),
        (FITTED, [FITTED.cell(data, "smooth")]),
    ]
    for series, cells in lists:
        spent = [spent_on(cell) for cell in cells]
        found = [gold(cell) for cell in cells]
        colour = PALETTE[series.colour]
        points(ax, spent, found, colour, marker=series.marker, label=series.label)
    ax.set(
        xscale="log",
        xlabel="denoiser evaluations an output",
        ylabel="mean reward",
        title="(b) cost",
    )


def spent_on(cell: Cell) -> float:
    """Evaluations of the denoiser an output, those of a fit left out."""
    fit = 0
    if cell.config.get("agent.value") == "mc":
        fit = int(cell.config["agent.pretrain"]) * int(cell.config["env.steps"])
    outputs = int(cell.config["steps"]) * int(cell.config["agent.batch"])
    return float((cell.final("evaluations").mean() - fit) / outputs)


def claims(data: Data) -> list[Claim]:
    """The published order of methods, on both rewards and at equal temperatures."""
    found = []
    for reward, words in (("smooth", "smooth reward"), ("count", "number of hits")):
        alpha, plug = MIDDLE[reward], PLUG[reward]
        greedy = gold(GREEDY.cell(data, reward, agent_candidates=10, **plug))
        smc = gold(SMC.cell(data, reward, agent_alpha=alpha, **plug))
        best = gold(BEST.cell(data, reward, agent_candidates=10))
        found += [
            above(
                f"{reward}: svdd above smc",
                f"{words}, M = K = 10: greedy SVDD-PM exceeds SMC at alpha = {alpha} (difference)",
                greedy - smc,
            ),
            above(
                f"{reward}: smc above best-of-n",
                f"{words}, K = N = 10: SMC at alpha = {alpha} exceeds best-of-10 (difference)",
                smc - best,
            ),
        ]
    each = [
        above(
            "each",
            "difference",
            gold(SOFT.cell(data, "smooth", agent_alpha=a, agent_candidates=10, **PM))
            - gold(SMC.cell(data, "smooth", agent_alpha=a)),
        )
        for a in SMOOTH
    ]
    found.append(
        weakest(
            "equal temperature",
            "smooth reward, M = K = 10: SVDD-PM exceeds SMC at the same alpha, for each of 0.02, "
            "0.05, 0.1 (difference of the pair nearest to failing)",
            each,
        )
    )
    return found
