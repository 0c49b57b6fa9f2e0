"""DDPO and DPOK where optima and fixed points are closed forms: one Gaussian, affine samplers."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, band
from rlkit.figures import Array, Cell, Claim, Data, within
from rlkit.paper_figures._ddpo_lqg import (
    Marginals,
    above_front,
    best,
    front,
    objective,
    own_target,
    unrestricted,
)

ALPHA = 0.4
MARGIN = 0.01  # of objectives
EQUAL = 1e-9
ALPHAS, WEIGHTS = (0.2, 0.4, 1.0, 2.0), (0.1, 0.3, 1.0)
AGENTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "DDPO, KL in the return": ({"agent": "ddpo", "agent_kl": "return"}, "blue", "o"),
    "DDPO, KL in the loss only": ({"agent": "ddpo", "agent_kl": "loss_only"}, "vermilion", "s"),
    "DPOK": ({"agent": "dpok"}, "green", "^"),
}

CAPTION = """
Data N(1, 0.5) in one dimension, exact reverse kernel of 10 steps, affine policies of every step
with the reference's deviations. All objectives, divergences and marginals are exact (moments of the
trained chain). (a) Quadratic reward -0.75 (x + 1)^2, alpha = 0.4: objective (reward minus alpha
times path divergence) below the best of such policies, -1.28627, against iterations of 128 chains.
Dashed: the closed-form points at which agents that do not charge a step for the divergence of
later ones must settle; DPOK weighs its penalty by the squared distance of predicted noises (w_kl =
0.3). (b) Linear reward x, for which the divergence of later steps does not depend on a step and all
three rules of credit agree but for DPOK's weights. Bands: 95 % intervals over replicas. (c) Reward
against divergence for the quadratic reward: filled, KL(p(x_0) || data); open, that of paths, which
is what objectives charge. Black: the exact front of the former, tilts at all temperatures. DDPO at
alpha = 0.2, 0.4, 1, 2 and DPOK at w_kl = 0.1, 0.3, 1, right to left, after 300 iterations or more;
bars: 95 % intervals. (d) Laws of x_t from noise (t = 10) to data (t = 0): the reference (grey),
DDPO with KL in the return (blue, with ten of its chains) and the optimum, the forward diffusion of
the tilted data (black, dashed), whose smaller deviation no affine sampler of fixed deviations has.
"""


def cell_of(data: Data, name: str, reward: str, **wanted: Any) -> Cell:
    """A run by the label of its agent."""
    fields = {**AGENTS[name][0], **wanted}
    if fields["agent"] == "dpok":
        fields.setdefault("agent_kl_weight", 0.3)
    else:
        fields.setdefault("agent_alpha", ALPHA)
    agent = fields.pop("agent")
    return data.cell(agent, reward=reward, **fields)


def gap(cell: Cell) -> Array:
    """Objective below the best of fixed deviations, `[R, N]`."""
    return best(cell, ALPHA) - objective(cell, ALPHA)


def plot(data: Data) -> Figure:
    """Convergence for both rewards, the front, and marginals."""
    figure = plt.figure(figsize=(7.4, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1))
    quadratic, linear, plane = (figure.add_subplot(grid[0, i]) for i in range(3))
    draw_convergence(quadratic, data, "quadratic", "(a) quadratic reward")
    draw_convergence(linear, data, "linear", "(b) linear reward")
    draw_plane(plane, data)
    draw_marginals(figure.add_subplot(grid[1, :]), data)
    return figure


def draw_convergence(ax: Axes, data: Data, reward: str, title: str) -> None:
    """Panels (a) and (b)."""
    for name, (_, colour, _) in AGENTS.items():
        cell = cell_of(data, name, reward)
        band(ax, cell.step, gap(cell), PALETTE[colour], label=name)
        rest = best(cell, ALPHA) - own_target(cell, ALPHA)
        if rest > EQUAL:
            ax.axhline(rest, color=PALETTE[colour], linestyle="--", linewidth=0.8)
    ax.axhline(MARGIN, color=PALETTE["grey"], linestyle=":", linewidth=0.8)
    ax.text(0, MARGIN * 1.1, "0.01", fontsize=6, color=PALETTE["grey"])
    ax.set(yscale="log", xlabel="iteration", ylabel="objective below the best", title=title)
    ax.set_xlim(left=0)
    if reward == "quadratic":
        ax.legend(loc="upper right", fontsize=6, handlelength=1.4)


def draw_plane(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    kl, gain, _ = front(cell_of(data, next(iter(AGENTS)), "quadratic"))
    ax.plot(kl, gain, color=PALETTE["black"], linewidth=1.0, label="exact front")
    for name, (_, colour, marker) in AGENTS.items():
        cells = family(data, name)
        path, x, y = (
            np.array([stats.interval(cell.final(metric)) for cell in cells]).T
            for metric in ("path_kl", "kl", "gold_reward")
        )
        high = [y[0] - y[1], y[2] - y[0]]
        line: dict[str, Any] = {"color": PALETTE[colour], "marker": marker, "markersize": 4,
                                "linestyle": "none", "elinewidth": 1.0}  # fmt: skip
        ax.errorbar(path[0], y[0], high, [path[0] - path[1], path[2] - path[0]], mfc="none", **line)
        ax.errorbar(x[0], y[0], high, [x[0] - x[1], x[2] - x[0]], label=name, **line)
    ax.set(xlabel="KL from the reference, nats", ylabel="reward", title="(c) quadratic reward")
    ax.set_xlim(0, 6)
    ax.set_ylim(bottom=-3.5)
    ax.legend(loc="lower right", fontsize=6, handlelength=1.4)


def family(data: Data, name: str) -> list[Cell]:
    """Runs of an agent at all temperatures."""
    if AGENTS[name][0]["agent"] == "dpok":
        return [cell_of(data, name, "quadratic", agent_kl_weight=w) for w in WEIGHTS]
    return [cell_of(data, name, "quadratic", agent_alpha=alpha) for alpha in ALPHAS]


def draw_marginals(ax: Axes, data: Data) -> None:
    """Panel (d): densities as ridges to the left of each level, with chains on top."""
    found = Marginals(cell_of(data, next(iter(AGENTS)), "quadratic"), ALPHA)
    x, levels = np.linspace(-3.2, 3.6, 400), range(found.chains.shape[0])
    for t in levels:
        for (mean, deviation), draw in zip(
            (found.reference[:, t], found.trained[:, t], found.tilted[:, t]),
            ("reference", "trained", "tilted"),
            strict=True,
        ):
            height = 0.36 * np.exp(-0.5 * ((x - mean) / deviation) ** 2) / deviation
            label = {"reference": "reference", "trained": "DDPO, KL in the return",
                     "tilted": "exact optimum"}[draw] if t == 0 else None  # fmt: skip
            if draw == "reference":
                ax.fill_betweenx(x, t - height, t, color="0.85", linewidth=0, label=label)
            elif draw == "trained":
                ax.plot(t - height, x, color=PALETTE["blue"], linewidth=1.1, label=label)
            else:
                ax.plot(t - height, x, "--", color=PALETTE["black"], linewidth=0.9, label=label)
    ax.plot(list(levels), found.chains, color=PALETTE["blue"], linewidth=0.4, alpha=0.5)
    ax.set(xlabel="noise level t", ylabel="x", title="(d) laws of x at every noise level")
    ax.set_xticks(list(levels))
    ax.set_xlim(max(levels) + 0.1, -0.95)
    ax.set_ylim(-3.2, 4.3)
    ax.legend(loc="upper left", fontsize=6, ncols=3)


def claims(data: Data) -> list[Claim]:
    """The best is reached; others settle where the closed form says; nothing is above the front."""
    found = []
    for reward in ("quadratic", "linear"):
        found.append(reached(cell_of(data, "DDPO, KL in the return", reward), reward))
        for name in ("DDPO, KL in the loss only", "DPOK"):
            found.append(settled(cell_of(data, name, reward), name, reward))
    return [*found, nothing_above(data)]


def reached(cell: Cell, reward: str) -> Claim:
    """Every replica is within the margin of the best."""
    miss = gap(cell)[-1]
    centre, low, high = (float(x) for x in stats.interval(miss))
    free = unrestricted(cell, ALPHA) - best(cell, ALPHA)
    return Claim(
        f"return, {reward}",
        f"{reward} reward: DDPO with KL in the return ends within {MARGIN} of the best affine "
        f"sampler of fixed deviations in every replica (which is {free:.4f} below the unrestricted "
        f"optimum); worst replica {miss.max():.4f}",
        bool(miss.max() < MARGIN),
        centre,
        (low, high),
        miss.size,
    )


def settled(cell: Cell, name: str, reward: str) -> Claim:
    """A run ends at its own fixed point."""
    rest = best(cell, ALPHA) - own_target(cell, ALPHA)
    return within(
        f"{name}, {reward}",
        f"{reward} reward: {name} settles within {MARGIN} of its own fixed point, which is "
        f"{rest:.4f} below the best (difference)",
        gap(cell)[-1] - rest,
        MARGIN,
    )


def nothing_above(data: Data) -> Claim:
    """The property that no measurement may break."""
    excess = [above_front(cell) for cell in data.cells]
    worst = np.concatenate(excess)
    top = float(worst.max())
    return Claim(
        "front",
        f"all {len(data.cells)} runs, all records: no replica above the exact front of "
        "KL(p(x_0) || data) by more than 1e-9 (largest signed distance)",
        top <= EQUAL,
        top,
        (float(worst.min()), top),
        worst.size,
    )
