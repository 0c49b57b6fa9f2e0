"""What figures on token MDPs share: the problem behind a run, and its exact front."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from rlkit import registry, stats
from rlkit.drawing import PALETTE
from rlkit.engine import Streams
from rlkit.figures import Array, Cell
from rlkit.tokens import evaluate, soft_optimum
from rlkit.tokens.task import TokenKnowledge

BETAS = tuple(10.0**exponent for exponent in np.linspace(2, -3, 41))


def knowledge_of(cell: Cell) -> TokenKnowledge:
    """The token MDPs that a run met, drawn again."""
    kind = registry.load("problem", cell.config["env.name"])
    given = {field.name: cell.config[f"env.{field.name}"] for field in fields(kind)}
    # JSON has no infinity.
    problem = kind(**{k: float(v) if v in ("inf", "-inf") else v for k, v in given.items()})
    replica = torch.arange(cell.config["replicas"]) + cell.config["first_replica"]
    instance = problem.instance(Streams(cell.config["seed"], replica).at("instance", 0))
    known: TokenKnowledge = instance.replica.knowledge
    return known


def front(cell: Cell) -> tuple[Array, Array]:
    """Divergence and gold reward of the soft optima at `BETAS`, `[K, N]` each.

    Their means over replicas bound the means of any policies: at the weight of a point, no policy
    has a better reward minus weighted divergence in any replica.
    """
    known = knowledge_of(cell)
    found = []
    for beta in BETAS:
        best = soft_optimum(known.automaton, known.rewards, beta).policy
        got = evaluate(known.automaton, known.rewards, best, beta)
        found.append((got.kl.numpy(), got.reward.numpy()))
    kl, reward = zip(*found, strict=True)
    return np.stack(kl), np.stack(reward)


def draw_front(ax: Axes, cell: Cell) -> None:
    """The front, averaged over the replicas of a run."""
    kl, reward = (values.mean(1) for values in front(cell))
    ax.plot(kl, reward, color=PALETTE["black"], linestyle="--", linewidth=1, label="exact front")


def path(ax: Axes, cell: Cell, label: str, colour: str, **line: Any) -> None:
    """Mean divergence and gold reward during a run; the point is its end, with intervals."""
    kl, reward = cell.metric("kl"), cell.metric("gold_reward")
    ax.plot(kl.mean(1), reward.mean(1), color=colour, **line)
    x, y = stats.interval(kl[-1]), stats.interval(reward[-1])
    bars = ([[x[0] - x[1]], [x[2] - x[0]]], [[y[0] - y[1]], [y[2] - y[0]]])
    ax.errorbar(x[0], y[0], bars[1], bars[0], fmt="o", color=colour, label=label, elinewidth=1)
