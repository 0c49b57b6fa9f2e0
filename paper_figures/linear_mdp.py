"""Linear MDPs: least-squares value iteration with bonuses and with perturbed histories."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, label_ends, points
from rlkit.figures import Claim, Data, below, within
from rlkit.paper_figures.river_swim import exponents
from rlkit.regret_curves import Curve

STATES = (5, 10, 20)
HORIZON = 5

BONUS = Curve("LSVI-UCB", "lsvi_ucb", "blue")
PERTURBED = Curve("LSVI-PHE", "lsvi_phe", "vermilion")
UCBVI = Curve("UCBVI", "ucbvi", "green")
RLSVI = Curve("RLSVI", "rlsvi", "orange")
UNIFORM = Curve("uniform", "uniform", "black", line=":")

CAPTION = """
Cumulative regret on linear MDPs drawn for each replica: 5 stages of 10 states, 5 actions, 5
Dirichlet(1/2) features disclosed to the agents in blue and red; green and orange know only states
and actions. (a) Beside each name: exponent of growth, fitted to every replica over the last decade
of time, mean over replicas. LSVI-UCB has beta = .05 d H sqrt(ln(2 d T / delta)); LSVI-PHE ten
perturbed regressions with noise .05 H sqrt(d ln(2 d T / delta)); UCBVI the bonus .1 H / sqrt(n);
RLSVI noise .1 around a prior at 0, which is no reason to try what it has not. All constants were
fixed before the runs. (b) Regret after 5000 episodes against the
number of states of a stage. Lines and points are means over 32 replicas, bands and bars 95 %
intervals.
"""


def plot(data: Data) -> Figure:
    """Regret against episodes, and against the number of states."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.4, 3.4), layout="constrained", width_ratios=(1.3, 1)
    )
    curves(left, data)
    sizes(right, data)
    return figure


def curves(ax: Axes, data: Data) -> None:
    """Cumulative regret of all agents, both axes logarithmic."""
    ends, time = [], np.ones(1)
    ax.set(xscale="log", yscale="log")
    for curve in (BONUS, PERTURBED, UCBVI, RLSVI, UNIFORM):
        cell, colour = curve.cell(data, states=10), PALETTE[curve.colour]
        late = cell.step >= HORIZON
        time, regret = cell.step[late] / HORIZON, cell.metric()[late]
        band(ax, time, regret, colour, linestyle=curve.line)
        name = f"{curve.label}  {exponents(cell).mean():.2f}"
        ends.append((float(time[-1]), float(regret[-1].mean()), name, colour))
    ax.set_xlim(time[0], time[-1])
    ax.set(xlabel="episode", ylabel="cumulative regret", title="(a) S = 10")
    ax.text(0.03, 0.97, "name, exponent of growth", transform=ax.transAxes, fontsize=7, va="top")
    label_ends(ax, ends, gap=0.055)


def sizes(ax: Axes, data: Data) -> None:
    """Final regret against the number of states."""
    ends = []
    for curve, shift in ((BONUS, -0.2), (PERTURBED, 0.2), (UCBVI, 0.0)):  # bars side by side
        colour = PALETTE[curve.colour]
        finals = [curve.cell(data, states=n).final() for n in STATES]
        points(ax, [n + shift for n in STATES], finals, colour, marker="o")
        ends.append((STATES[-1] + 0.5, float(finals[-1].mean()), curve.label, colour))
    ax.set_xlim(STATES[0] - 0.5, STATES[-1] + 0.5)
    ax.set(xlabel="states of a stage, S", ylabel="final regret", xticks=STATES, ylim=(0, None))
    ax.set_title("(b) number of states")
    label_ends(ax, ends)


def claims(data: Data) -> list[Claim]:
    """The specification's exponents."""
    growth = {
        curve.label: exponents(curve.cell(data, states=10)) for curve in (BONUS, PERTURBED, UNIFORM)
    }
    return [
        *(
            below(name, f"{name}: exponent of growth over the last decade < 0.8", growth[name], 0.8)
            for name in (BONUS.label, PERTURBED.label)
        ),
        within(
            UNIFORM.label,
            "uniform: exponent within 0.02 of 1 (difference)",
            growth[UNIFORM.label] - 1,
            0.02,
        ),
    ]
