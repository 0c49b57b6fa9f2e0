"""C-PSRL: what a partly known causal graph is worth (Mutti et al. 2024)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, label_ends, points
from rlkit.figures import Array, Cell, Claim, Data, above, below, weakest
from rlkit.regret_curves import Curve

CAUSAL = tuple(
    Curve(f"C-PSRL, η = {known}", "c_psrl", colour, {"known_parents": known})
    for known, colour in enumerate(("orange", "green", "vermilion", "purple"))
)
INFORMED = CAUSAL[2]
FACTORED = Curve("F-PSRL", "f_psrl", "black", line="--")
JOINT = Curve("PSRL", "psrl", "grey")
CURVES = (JOINT, *CAUSAL, FACTORED)
TAXI = (
    Curve("PSRL", "psrl", "grey"),
    Curve("C-PSRL", "c_psrl", "vermilion"),
    Curve("F-PSRL", "f_psrl", "black", line="--"),
)
KNOWN = (0, 1, 2, 3, 4)

CAPTION = """
Posterior sampling in factored MDPs: C-PSRL knows η parents of every feature, F-PSRL all of them,
PSRL no factorisation (rows Dirichlet(1/S) over joint states). Rewards are known to all. (a) Regret
and (b) error of the expected model, mean over states and actions of the L1 distance of its rows
from the true ones, on random factored MDPs: nine binary features of state and action, six of the
successor with three parents each, at most five in the prior, rows Dirichlet(0.5), 20 steps an
episode, a new MDP in every replica. (c) Taxi on a 3 x 3 grid, 15 steps an episode or until the
delivery, Dirichlet parameter 0.1, η = 2 (1 for the destination): graphs smaller than the true one
suffice and are learnt faster; all three also know how often each action ends an episode. (d) A
harder instance, four parents each, rows Dirichlet(1), 10 steps an episode: regret after 100
episodes above that of F-PSRL on the same MDP. Lines and points are means over replicas, bands and
bars 95 % intervals; all agents meet the same replicas.
"""


def plot(data: Data) -> Figure:
    """Regret and model error, the taxi, and the effect of the known edges."""
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
    regret_curves(axes[0, 0], data)
    error_curves(axes[0, 1], data)
    taxi_curves(axes[1, 0], data)
    known_edges(axes[1, 1], data)
    return figure


def over_episodes(
    ax: Axes, data: Data, curves: Sequence[Curve], metric: str, limits: tuple[float, float]
) -> None:
    """A metric of the random factored MDPs against episodes, both scales logarithmic."""
    ax.set(xscale="log", yscale="log", xlabel="episode", ylim=limits)
    for curve in curves:
        cell = curve.cell(data)
        x = cell.step / cell.config["env.horizon"]
        shown = x >= 1
        look = {"linestyle": curve.line, "label": curve.label}
        band(ax, x[shown], cell.metric(metric)[shown], PALETTE[curve.colour], **look)
    ax.set_xlim(1, float(x[-1]))


def regret_curves(ax: Axes, data: Data) -> None:
    """Panel (a)."""
    top = 2 * float(JOINT.cell(data).final().mean())
    over_episodes(ax, data, CURVES, "regret", (1.0, top))
    ax.set(ylabel="cumulative regret", title="(a) random factored MDPs")
    ax.legend(loc="upper left")


def error_curves(ax: Axes, data: Data) -> None:
    """Panel (b)."""
    low = 0.7 * min(float(c.cell(data).final("model_error").mean()) for c in CURVES)
    over_episodes(ax, data, CURVES, "model_error", (low, 2.0))
    ax.set(ylabel="L1 error of the model", title="(b) what was learnt")
    ax.legend(loc="lower left")


def taxi_cell(data: Data, curve: Curve) -> Cell:
    """A run on the taxi."""
    return curve.cell(data, env="FactoredTaxi-v0")


def by_episode(cells: Sequence[Cell]) -> tuple[Array, list[Array]]:
    """Episodes that every replica has begun `[E]`, and the regret by then, `[E, N]` of each cell.

    Deliveries end episodes, so that replicas are not in the same one at the same step.
    """
    last = min(float(cell.final("episodes").min()) for cell in cells)
    episode = np.arange(1.0, last + 1)
    curves = []
    for cell in cells:
        pairs = zip(cell.metric("episodes").T, cell.metric().T, strict=True)
        curves.append(np.stack([at_last(episode, begun, r) for begun, r in pairs], -1))
    return episode, curves


def at_last(episode: Array, begun: Array, regret: Array) -> Array:
    """Regret `[E]` at the last record `[R]` within each episode, linear where there is none."""
    final = np.append(np.diff(begun) > 0, True)
    return np.interp(episode, begun[final], regret[final])


def taxi_curves(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    episode, curves = by_episode([taxi_cell(data, curve) for curve in TAXI])
    ends = []
    for curve, values in zip(TAXI, curves, strict=True):
        colour = PALETTE[curve.colour]
        band(ax, episode, values, colour, linestyle=curve.line)
        ends.append((float(episode[-1]), float(values[-1].mean()), curve.label, colour))
    ax.set_xlim(0, episode[-1])
    ax.set_ylim(bottom=0)
    ax.set(xlabel="episode", ylabel="cumulative regret", title="(c) taxi, 3 × 3")
    label_ends(ax, ends)


def harder(data: Data, agent: str, **fields: int) -> Array:
    """Final regrets of the harder instance, `[N]`."""
    return data.cell(agent, parents=4, concentration=1.0, **fields).final()


def known_edges(ax: Axes, data: Data) -> None:
    """Panel (d)."""
    base = harder(data, "f_psrl")
    excess = [harder(data, "c_psrl", known_parents=known) - base for known in KNOWN]
    points(ax, KNOWN, excess, PALETTE["vermilion"], marker="o")
    ax.axhline(0, color=PALETTE["black"], linestyle="--", linewidth=1)
    share = f"F-PSRL: {base.mean():.1f}"
    ax.annotate(share, (0, 0), xytext=(0, 3), textcoords="offset points", fontsize=7)
    ax.set(xlabel="known parents η of each feature, of four", xticks=KNOWN)
    ax.set(ylabel="regret above F-PSRL", title="(d) a harder instance")


def claims(data: Data) -> list[Claim]:
    """The acceptance criteria, each on paired replicas."""
    regret = {curve.agent: curve.cell(data).final() for curve in (INFORMED, FACTORED, JOINT)}
    _, taxi = by_episode([taxi_cell(data, curve) for curve in TAXI[:2]])
    error = {c.agent: c.cell(data).final("model_error") for c in (INFORMED, FACTORED, JOINT)}
    return [
        below(
            "near F-PSRL",
            "random factored MDPs, η = 2: C-PSRL has less than 1.5 times the regret of F-PSRL "
            "(difference to 1.5 F-PSRL)",
            regret["c_psrl"] - 1.5 * regret["f_psrl"],
        ),
        below(
            "far below PSRL",
            "random factored MDPs, η = 2: C-PSRL has less than 0.3 times the regret of PSRL "
            "(difference to 0.3 PSRL)",
            regret["c_psrl"] - 0.3 * regret["psrl"],
        ),
        weakest(
            "model error",
            "random factored MDPs: PSRL has a larger model error than C-PSRL and F-PSRL "
            "(smaller difference)",
            [above("", "", error["psrl"] - error[agent]) for agent in ("c_psrl", "f_psrl")],
        ),
        below(
            "taxi",
            "taxi, 3 x 3: C-PSRL has less than 0.6 times the regret of PSRL (difference to 0.6 "
            "PSRL, same number of episodes)",
            taxi[1][-1] - 0.6 * taxi[0][-1],
        ),
        below(
            "known edges",
            "harder instance: C-PSRL has less regret with four known parents than with none "
            "(difference)",
            harder(data, "c_psrl", known_parents=4) - harder(data, "c_psrl", known_parents=0),
        ),
    ]
