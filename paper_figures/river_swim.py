"""RiverSwim: regret of all tabular agents over episodes and for the average reward."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, band, label_ends
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.figures import Array, Cell, Claim, Data, above, below, weakest, within
from rlkit.planning import gain_and_bias
from rlkit.random import Rng
from rlkit.regret_curves import Curve

HORIZON = 20
EPISODES = 500  # where published numbers are

PSRL = Curve("PSRL", "psrl", "vermilion")
RLSVI = Curve("RLSVI", "rlsvi", "orange")
UCBVI = Curve("UCBVI, c = 1", "ucbvi", "blue", {"agent_scale": 1.0}, "--")
UCBVI_TENTH = Curve("UCBVI, c = .1", "ucbvi", "blue", {"agent_scale": 0.1}, "-.")
UCBVI_TUNED = Curve("UCBVI, c = .02", "ucbvi", "blue", {"agent_scale": 0.02})
UCRL2 = Curve("UCRL2, c = 1", "ucrl2", "sky", {"agent_scale": 1.0}, "--")
UCRL2_TUNED = Curve("UCRL2, c = .01", "ucrl2", "sky", {"agent_scale": 0.01})
Q_UCB = Curve("Q-UCB, c = 1", "q_learning_ucb", "green", {"agent_scale": 1.0}, "--")
Q_UCB_TUNED = Curve("Q-UCB, c = .0005", "q_learning_ucb", "green", {"agent_scale": 0.0005})
Q_GREEDY = Curve("Q, ε-greedy", "q_learning", "purple")
UNIFORM = Curve("uniform", "uniform", "black", {}, ":")

TSDE = Curve("TSDE", "tsde", "vermilion")
UCRL2_MIDDLE = Curve("UCRL2, c = .3", "ucrl2", "sky", {"agent_scale": 0.3})
OPTIMISTIC_Q = Curve("optimistic Q, c = 1", "optimistic_q", "green", {"agent_scale": 1.0}, "--")
OPTIMISTIC_Q_TUNED = Curve("optimistic Q, c = .05", "optimistic_q", "green", {"agent_scale": 0.05})
MODEL_GREEDY = Curve("ε-greedy model", "epsilon_greedy_model", "purple")

LEARN = (PSRL, RLSVI, UCBVI_TENTH, UCBVI_TUNED, UCRL2_TUNED, Q_UCB_TUNED)
BY_EPISODE = (*LEARN, UCBVI, UCRL2, Q_UCB, Q_GREEDY, UNIFORM)
LEARN_AVERAGE = (TSDE, UCRL2_MIDDLE, OPTIMISTIC_Q_TUNED)
ON_AVERAGE = (*LEARN_AVERAGE, UCRL2, OPTIMISTIC_Q, MODEL_GREEDY, UNIFORM)

CAPTION = """
Cumulative regret on RiverSwim with six states. (a) Episodes of 20 steps, time-homogeneous agents
except the two Q-learners. (b) Average reward; always swimming left costs 8472 in 20,000 steps.
Beside each name: the fitted exponent of growth over the last decade of time, mean over replicas.
c multiplies the confidence radii, dashed where it is 1 (the theorem's constants for UCRL2 and
optimistic Q in (b); UCBVI has the bonus sqrt(ln(5 S A T / delta) / n) per step left); other values
were tuned on other seeds. Optimistic Q in (b) is told the exact span of the optimal bias. PSRL and
TSDE have Dirichlet(1/S) and normal-gamma(1) priors. Osband, Russo and Van Roy (2013) report 68.8
for PSRL and 1260 for UCRL2 after 500 episodes. Lines are means over replicas, bands 95 % intervals.
"""


def plot(data: Data) -> Figure:
    """Regret against episodes and against steps, both axes logarithmic."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.8), layout="constrained")
    label_ends(left, draw(left, data, BY_EPISODE, HORIZON, 1, horizon=HORIZON), gap=0.055)
    left.set(xlabel="episode", ylabel="cumulative regret", title="(a) episodes of 20 steps")
    ends = draw(right, data, ON_AVERAGE, 1, 100, horizon=None)
    steps, grey = np.array(right.get_xlim()), PALETTE["grey"]
    right.plot(steps, steps * left_gap(), color=grey, linewidth=0.8, zorder=0)
    always = (steps[1], steps[1] * left_gap(), "always left  1", grey)
    label_ends(right, [*ends, always], gap=0.055)
    right.set(xlabel="step", title="(b) average reward")
    key = "name, exponent of growth\ndashed: c = 1"
    left.text(0.03, 0.97, key, transform=left.transAxes, fontsize=7, va="top")
    return figure


def draw(
    ax: Axes, data: Data, curves: Sequence[Curve], unit: int, first: int, **wanted: Any
) -> list[tuple[float, float, str, str]]:
    """Curves over time in units of `unit` steps from `first` on.

    Returns:
        Their ends, names with exponents and colours, as `label_ends` takes them.
    """
    ends, time = [], np.ones(1)
    ax.set(xscale="log", yscale="log")
    for curve in curves:
        cell, colour = curve.cell(data, **wanted), PALETTE[curve.colour]
        late = cell.step >= unit * first
        time, regret = cell.step[late] / unit, cell.metric()[late]
        band(ax, time, regret, colour, linestyle=curve.line)
        name = f"{curve.label}  {exponents(cell).mean():.2f}"
        ends.append((float(time[-1]), regret[-1].mean(), name, colour))
    ax.set_xlim(time[0], time[-1])
    ax.set_ylim(top=12 * max(end[1] for end in ends))  # room for the names of equal ends
    return ends


def left_gap() -> float:
    """Regret per step of always swimming left."""
    model = RiverSwim(horizon=None).model(Rng(0, "instance", torch.zeros(1, dtype=torch.int64)))
    return gain_and_bias(model).gain.item() - 0.005


def exponents(cell: Cell) -> Array:
    """Growth exponent of each replica's regret over the last decade of time, `[N]`."""
    late = cell.step >= cell.step[-1] / 10
    regret = np.maximum(cell.metric()[late], 1e-9)
    return np.array([stats.log_log_slope(cell.step[late], row).slope for row in regret.T])


def after(curve: Curve, data: Data, episodes: int) -> Array:
    """Regret of each replica after a number of episodes, between records by straight lines."""
    cell = curve.cell(data, horizon=HORIZON)
    step = episodes * HORIZON
    return np.array([np.interp(step, cell.step, row) for row in cell.metric().T])


def claims(data: Data) -> list[Claim]:
    """Orders and exponents of both panels."""
    return [*by_episode(data), *on_average(data)]


def by_episode(data: Data) -> list[Claim]:
    """Tuned optimism before posterior sampling before untuned optimism."""
    ladder = (UCBVI_TUNED, PSRL, UCBVI_TENTH, UCBVI, UNIFORM)
    regret = [after(curve, data, EPISODES) for curve in ladder]
    text = " < ".join(curve.label for curve in ladder)
    published = [after(curve, data, EPISODES) for curve in (PSRL, UCRL2)]
    return [
        weakest(
            "order by episode",
            f"500 episodes: {text} (smallest difference)",
            [above("", "", worse - better) for better, worse in pairwise(regret)],
        ),
        above(
            "UCRL2", "500 episodes: PSRL < UCRL2, c = 1 (difference)", np.subtract(*published[::-1])
        ),
        sublinear("sublinear by episode", data, LEARN, horizon=HORIZON),
        linear("uniform by episode", data, horizon=HORIZON),
    ]


def on_average(data: Data) -> list[Claim]:
    """Posterior sampling before scaled optimism; theory constants as bad as swimming left."""
    wanted: dict[str, Any] = {"horizon": None}
    cells = [curve.cell(data, **wanted) for curve in LEARN_AVERAGE]
    left = float(cells[0].step[-1]) * left_gap()
    final = [*(cell.final() for cell in cells), np.full(cells[0].final().shape, left)]
    theory = [curve.cell(data, **wanted).final() / left - 1 for curve in (UCRL2, OPTIMISTIC_Q)]
    text = " < ".join(curve.label for curve in LEARN_AVERAGE)
    return [
        below("TSDE", "20,000 steps: regret of TSDE < 200", final[0], 200.0),
        weakest(
            "order on average",
            f"20,000 steps: {text} < always left (smallest difference)",
            [above("", "", worse - better) for better, worse in pairwise(final)],
        ),
        *(
            within(
                f"{curve.label} learns nothing",
                f"20,000 steps: {curve.label} within 2 % of always left (relative difference)",
                values,
                0.02,
            )
            for curve, values in zip((UCRL2, OPTIMISTIC_Q), theory, strict=True)
        ),
        sublinear("sublinear on average", data, LEARN_AVERAGE, **wanted),
        linear("uniform on average", data, **wanted),
    ]


def sublinear(name: str, data: Data, curves: Sequence[Curve], **wanted: Any) -> Claim:
    """Every fitted exponent is below 1, its whole interval."""
    names = ", ".join(curve.label for curve in curves)
    parts = [above("", "", 1 - exponents(curve.cell(data, **wanted))) for curve in curves]
    return weakest(name, f"exponents below 1: {names} (smallest distance)", parts)


def linear(name: str, data: Data, **wanted: Any) -> Claim:
    """The regret of uniform actions grows with exponent 1."""
    values = exponents(UNIFORM.cell(data, **wanted)) - 1
    return within(name, f"{name}: exponent within 0.05 of 1 (difference)", values, 0.05)
