"""Inference-time steering against the tilted law: distance, reward, and the exact front."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, points
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.figures import Array, Cell, Claim, Data, above, below, weakest
from rlkit.random import Rng

ALPHA = 0.1
ALPHAS = tuple(float(a) for a in np.geomspace(0.02, 10, 60))

CAPTION = """
Masked diffusion of five letters (MS5, T = 10 parallel steps, alpha = 0.1), all 1024 sequences
enumerated; 40,000 outputs a replica. (a) Total variation between outputs and the tilted law p* =
p_0 exp(r / alpha) / Z, plug-in estimate, against the candidates M a step (SVDD), particles K (SMC)
or samples N (best-of-N) of each output; dotted: what 40,000 draws of p* itself measure. (b) Mean
reward; dotted: that of p*. (c) Reward against KL(q || p_0) in nats, plug-in, M = K = N = 10; black:
the exact front, p* at alpha from 10 to 0.02, the star at alpha = 0.1. Classifier guidance with the
gradient of the batch mean (released code, open marker) is the reference. Greedy selection keeps the
best candidate, as the released code does; fitted values (MC) are E[r | x_t], the limit of many
chains, and in (c) also tables of 20,000 chains; posterior-mean values (PM) are the reward of
relaxed letters, greedy PM that of the likeliest letters. Particles are resampled at every step.
Bars: 95 % intervals over replicas. Colours and markers of (a) and (b) are those of (c); open
markers have dashed lines.
"""


@dataclass(frozen=True)
class Series:
    """Runs of one method.

    Attributes:
        label: in the legend.
        agent: registered name.
        colour: key of the palette.
        marker: of its points.
        sizes: candidates or particles of its runs, () where there is one run.
        fields: which of the agent's runs.
        size: name of the field that `sizes` are values of.
        line: style of the curve.
    """

    label: str
    agent: str
    colour: str
    marker: str
    sizes: tuple[int, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    size: str = "agent_candidates"
    line: str = "-"

    def cell(self, data: Data, size: int | None = None) -> Cell:
        """The run with that size."""
        wanted = dict(self.fields) if size is None else {**self.fields, self.size: size}
        return data.cell(self.agent, **wanted)

    def at_ten(self, data: Data) -> Cell:
        """The run with ten candidates, or the only one."""
        return self.cell(data, 10 if self.sizes else None)


M, K = (2, 5, 10, 20), "agent_particles"
EXACT = Series("SVDD, exact V", "svdd", "black", "o", (*M, 50), {"agent_value": "exact"})
MC = {"agent_value": "mc", "agent_pretrain": 0}
FITTED = Series("SVDD-MC", "svdd", "blue", "s", M, {**MC, "agent_greedy": False})
GREEDY = Series("SVDD-MC, greedy", "svdd", "blue", "s", M, {**MC, "agent_greedy": True}, line="--")
FEW = Series(
    "same, 20,000 chains", "svdd", "sky", "s", (10,), {**MC, "agent_pretrain": 20_000}, line="--"
)
MEAN = Series("SVDD-PM", "svdd", "vermilion", "D", M, {"agent_value": "pm"})
ARGMAX = Series("SVDD-PM, greedy", "svdd", "orange", "D", (10,), {"agent_value": "pm_argmax"})
SMC = Series("SMC, PM", "diffusion_smc", "green", "^", (*M, 40), {"agent_value": "pm"}, K)
SMC_EXACT = Series(
    "SMC, exact V", "diffusion_smc", "green", "v", (*M, 40), {"agent_value": "exact"}, K, "--"
)
BEST = Series("best-of-N", "diffusion_best_of_n", "grey", "x", (1, *M))
TDS = Series("TDS", "tds", "purple", "P")
DPS = Series("DPS", "dps", "purple", "<")
GUIDANCE = Series(
    "classifier guidance", "classifier_guidance", "purple", "*", (), {"agent_reduction": "sum"}
)
RELEASED = Series(
    "same, batch mean", "classifier_guidance", "purple", "o", (), {"agent_reduction": "mean"}
)
CURVES = (EXACT, FITTED, GREEDY, MEAN, SMC, SMC_EXACT, BEST)
PLANE = (
    EXACT,
    FITTED,
    GREEDY,
    FEW,
    MEAN,
    ARGMAX,
    SMC,
    SMC_EXACT,
    BEST,
    TDS,
    DPS,
    GUIDANCE,
    RELEASED,
)


def front(alphas: tuple[float, ...]) -> tuple[Array, Array]:
    """Divergence and reward of the tilted laws, one for each alpha."""
    problem = MaskedSeq()
    task = problem.task(problem.instance(Rng(0, "instance", torch.arange(1))))
    pairs = [task.front(alpha) for alpha in alphas]
    kl, reward = (np.array([float(pair[i][0]) for pair in pairs]) for i in range(2))
    return kl, reward


def floor(draws: int) -> float:
    """Mean plug-in distance of that many draws of the tilted law from it."""
    problem = MaskedSeq()
    task = problem.task(problem.instance(Rng(0, "instance", torch.arange(1))))
    law = task.tilt(ALPHA).table.law[0].numpy()
    found = np.random.default_rng(0).multinomial(draws, law / law.sum(), 200) / draws
    return float(0.5 * np.abs(found - law).sum(1).mean())


def plot(data: Data) -> Figure:
    """Distance and reward by size, and the plane of reward and divergence."""
    figure = plt.figure(figsize=(7.4, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.15))
    left, right = (figure.add_subplot(grid[0, i]) for i in range(2))
    sizes(left, data, "tv")
    left.axhline(floor(outputs(data)), color=PALETTE["black"], linestyle=":", linewidth=1)
    left.set(yscale="log", ylabel="total variation to p*", title="(a) distance to the tilted law")
    sizes(right, data, "gold_reward")
    right.axhline(front((ALPHA,))[1][0], color=PALETTE["black"], linestyle=":", linewidth=1)
    right.set(ylabel="mean reward", title="(b) reward")
    plane(figure.add_subplot(grid[1, :]), data)
    return figure


def outputs(data: Data) -> int:
    """Outputs of a replica."""
    config = EXACT.cell(data, 10).config
    return int(config["steps"]) * int(config["agent.batch"])


def sizes(ax: Axes, data: Data, metric: str) -> None:
    """A metric against candidates."""
    for series in CURVES:
        found = [series.cell(data, size).final(metric) for size in series.sizes]
        points(
            ax,
            series.sizes,
            found,
            PALETTE[series.colour],
            marker=series.marker,
            markerfacecolor="white" if series.line == "--" else PALETTE[series.colour],
            linestyle=series.line,
            label=series.label,
        )
    ax.set(xscale="log", xlabel="candidates M, particles K or samples N")
    ax.set_xticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
    ax.minorticks_off()


def plane(ax: Axes, data: Data) -> None:
    """Reward against divergence beside the front."""
    ax.plot(*front(ALPHAS), color=PALETTE["black"], linewidth=1.2, label="exact front", zorder=1)
    for series in PLANE:
        cell = series.at_ten(data)
        kl, gold = cell.final("kl"), cell.final("gold_reward")
        centre, low, high = (float(x) for x in stats.interval(gold))
        colour = PALETTE[series.colour]
        ax.errorbar(
            kl.mean(),
            centre,
            yerr=[[centre - low], [high - centre]],
            color=colour,
            marker=series.marker,
            markerfacecolor="white" if series.line == "--" or series is RELEASED else colour,
            markersize=5,
            linestyle="none",
            linewidth=1,
            label=series.label,
        )
    ax.plot(*front((ALPHA,)), "*", color=PALETTE["black"], markersize=9, label="p*, alpha = 0.1")
    ax.set(xlabel="KL(q || p₀), nats", ylabel="mean reward", title="(c) reward and divergence")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def claims(data: Data) -> list[Claim]:
    """The order of rewards at ten candidates, convergence to the tilted law, the price of greed."""
    greedy, smc, best = (series.at_ten(data) for series in (GREEDY, SMC, BEST))
    runs = [EXACT.cell(data, size).final("tv") for size in EXACT.sizes]
    falls = [above("fall", "distance falls", before - after) for before, after in pairwise(runs)]
    return [
        above(
            "svdd above smc",
            "M = K = 10: reward of greedy SVDD-MC exceeds that of SMC with PM by more than 0.03",
            greedy.final("gold_reward") - smc.final("gold_reward"),
            0.03,
        ),
        above(
            "smc above best-of-n",
            "K = N = 10: reward of SMC with PM exceeds that of best-of-10 by more than 0.1",
            smc.final("gold_reward") - best.final("gold_reward"),
            0.1,
        ),
        weakest(
            "distance falls",
            "total variation of SVDD with exact values falls from M = 2 to 5, 10, 20, 50 "
            "(fall of the pair nearest to failing)",
            falls,
        ),
        below(
            "distance at M = 50",
            "total variation of SVDD with exact values and M = 50 is below 0.05",
            runs[-1],
            0.05,
        ),
        above(
            "greed distorts",
            "M = K = 10: greedy SVDD-MC is farther from the tilted law than SMC with PM "
            "(difference of total variations)",
            greedy.final("tv") - smc.final("tv"),
        ),
    ]
