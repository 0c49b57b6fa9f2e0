"""PRIME: online process rewards beside outcomes alone, on combination locks."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, band
from rlkit.figures import Array, Cell, Claim, Data, above, below
from rlkit.regret_curves import Curve

OUTCOME = Curve(
    "outcomes", "prime", "black", {"agent_process": "none", "agent_basis": "rloo"}, line="--"
)
ONLINE = Curve(
    "PRIME",
    "prime",
    "vermilion",
    {
        "agent_process": "online",
        "agent_basis": "rloo",
        "agent_released": False,
        "agent_weight": 1.0,
    },
)
RELEASED = Curve(
    "released code", "prime", "orange", {"agent_released": True, "agent_process": "online"}
)
RELEASED_IDEAL = Curve(
    "released, ideal", "prime", "sky", {"agent_released": True, "agent_process": "optimum"}
)
HEAVY = Curve("weight 3", "prime", "purple", {"agent_weight": 3.0})
FROZEN = Curve("frozen", "prime", "green", {"agent_process": "frozen"})
IDEAL = Curve("ideal", "prime", "blue", {"agent_process": "optimum", "agent_released": False})
GROUP = Curve("outcomes, GRPO", "prime", "grey", {"agent_process": "none", "agent_basis": "grpo"})
GROUP_ONLINE = Curve(
    "PRIME, GRPO", "prime", "sky", {"agent_process": "online", "agent_basis": "grpo"}
)
DRAWN = (FROZEN, IDEAL, RELEASED, ONLINE, OUTCOME)
COMPARED = (ONLINE, HEAVY, IDEAL, RELEASED, RELEASED_IDEAL, FROZEN, GROUP, GROUP_ONLINE)
LOCKS: dict[str, dict[str, Any]] = {
    "H = 18, p = .6": {"horizon": 18, "competence": 0.6},
    "H = 30, p = .45": {"horizon": 30, "competence": 0.45},
    "H = 30, p = .35": {"horizon": 30, "competence": 0.35},
}
LEVEL = 0.9

CAPTION = """
Success on locks with six keys among H tokens, each right with probability p under the reference,
against iterations of 16 groups of 4 responses; groups of equal outcomes are left out. All learn
with one step of the clipped surrogate and no divergence term; outcomes: leave-one-out advantages of
the outcome alone; PRIME: plus those of an implicit process reward (beta .05) that learns online
from the same outcomes; released code: advantages as in the authors' code; ideal: the exact
log-ratio of the soft optimum; frozen: a process reward trained on 500 responses of the reference
beforehand. (d) Iterations to success .9 over those of outcomes with leave-one-out advantages, by
replica, as means; runs that do not get there count as 200 iterations; weight 3 multiplies the
process rewards; released, ideal: that code with the ideal reward. Dotted: equal, and the margin
1.5. Lines and points are means over 24 replicas with 95 % intervals, the same locks for all.
"""


def plot(data: Data) -> Figure:
    """Curves on three locks, and ratios of iterations."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 5.6), layout="constrained")
    places = (axes[0, 0], axes[0, 1], axes[1, 0])
    for letter, ax, (name, lock) in zip("abc", places, LOCKS.items(), strict=True):
        curves(ax, data, lock)
        ax.set_title(f"({letter}) {name}")
    ratios(axes[1, 1], data)
    return figure


def curves(ax: Axes, data: Data, lock: dict[str, Any]) -> None:
    """Exact success of the policy against iterations."""
    for curve in DRAWN:
        cell = curve.cell(data, **lock)
        look = {"label": curve.label, "linestyle": curve.line}
        band(ax, cell.step, cell.metric("gold_reward"), PALETTE[curve.colour], **look)
    ax.axhline(LEVEL, color=PALETTE["grey"], linestyle=":", linewidth=0.7)
    ax.set(xlim=(0, min(cell.step[-1], 150)), ylim=(0, 1.02))
    ax.set(xlabel="iteration", ylabel="probability of success")
    ax.legend(loc="lower right")


def reached(cell: Cell) -> Array:
    """Iterations `[N]` until success first passes the level, between records; else the last."""
    success, step = cell.metric("gold_reward"), cell.step
    first = np.argmax(success >= LEVEL, axis=0)
    times = []
    for replica, row in enumerate(first):
        if success[row, replica] < LEVEL:
            times.append(float(step[-1]))
        elif row == 0:
            times.append(float(step[0]))
        else:
            ends = success[row - 1 : row + 1, replica]
            times.append(float(np.interp(LEVEL, ends, step[row - 1 : row + 1])))
    return np.array(times)


def ratio(data: Data, curve: Curve, lock: dict[str, Any]) -> Array:
    """Iterations of a run over those of outcomes alone, `[N]`."""
    return reached(curve.cell(data, **lock)) / reached(OUTCOME.cell(data, **lock))


def ratios(ax: Axes, data: Data) -> None:
    """Ratios of iterations to the level, one row a run."""
    looks = (("o", "black"), ("s", "vermilion"), ("D", "blue"))
    for shift, ((name, lock), (marker, colour)) in enumerate(
        zip(LOCKS.items(), looks, strict=True)
    ):
        found = np.array([stats.interval(ratio(data, curve, lock)) for curve in COMPARED])
        place = np.arange(len(COMPARED)) + 0.22 * (shift - 1)
        bars = np.abs(found[:, 1:] - found[:, :1]).T
        ax.errorbar(
            found[:, 0], place, xerr=bars, fmt=marker, color=PALETTE[colour], label=name,
            elinewidth=1.0,
        )  # fmt: skip
    for line in (1.0, 1.5):
        ax.axvline(line, color=PALETTE["black"], linestyle=":", linewidth=0.7)
    ax.set_yticks(range(len(COMPARED)), [curve.label for curve in COMPARED])
    ax.invert_yaxis()
    ax.set(xlabel="iterations to success .9, over those of outcomes", title="(d) ratio")
    ax.legend(loc="upper center", bbox_to_anchor=(0.6, 1.0))


def claims(data: Data) -> list[Claim]:
    """PRIME takes at most half as many iterations again as outcomes alone, and saves none."""
    sizes = ("H = 18, p = .6", "H = 30, p = .45")
    return [
        *(
            below(
                f"I5 {curve.label}, {name}",
                f"{name}: {curve.label} takes less than 1.5 times the iterations of outcomes alone "
                f"to success .9 (ratio)",
                ratio(data, curve, LOCKS[name]),
                1.5,
            )
            for curve in (ONLINE, RELEASED)
            for name in sizes
        ),
        *(
            above(
                f"no saving, {name}",
                f"{name}: PRIME takes more iterations than outcomes alone to success .9 (ratio)",
                ratio(data, ONLINE, LOCKS[name]),
                1.0,
            )
            for name in sizes
        ),
    ]
