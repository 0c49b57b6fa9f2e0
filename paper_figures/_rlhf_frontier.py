"""Behind `rlhf_frontier`: its curves, exact fronts, distances, best-of-n, errors of models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlkit import registry
from rlkit.alignment.reward_models import fit, quality
from rlkit.envs.tokens.tree import TokenTree
from rlkit.figures import Array, Cell, Data
from rlkit.random import Rng
from rlkit.tokens import best_of_law, evaluate, reward_law, soft_optimum
from rlkit.tokens.problem import TokenKnowledge

BETAS = (0.1, 0.3, 1.0)
TREE: dict[str, Any] = {"env": "TokenTree-v0", "horizon": 3, "prompts": 4}
TEMPERATURES = tuple(float(x) for x in np.geomspace(0.003, 30, 41))
SIZES = (250, 500, 1000, 2000, 4000, 8000)  # comparisons
RIDGE = 0.01
STEP = 0.05  # of the proxy's levels


class Front(NamedTuple):
    """The optimum of a reward at each of `TEMPERATURES`, `[T, N]` each."""

    kl: Array
    gold: Array
    proxy: Array
    objective: Array  # gold minus temperature times divergence


def known_of(cell: Cell) -> TokenKnowledge:
    """The token MDPs that a run met, drawn again."""
    env = {k.removeprefix("env."): v for k, v in cell.config.items() if k.startswith("env.")}
    name, replicas = env.pop("name"), int(cell.config["replicas"])
    fields = tuple(sorted(env.items()))
    return drawn(name, fields, int(cell.config["seed"]), replicas)


@cache
def drawn(
    name: str, fields: tuple[tuple[str, Any], ...], seed: int, replicas: int
) -> TokenKnowledge:
    """The token MDPs of a problem."""
    problem = registry.load("problem", name)(**dict(fields))
    instance = problem.instance(Rng(seed, "instance", torch.arange(replicas)))
    known: TokenKnowledge = instance.replica.knowledge
    return known


def front(known: TokenKnowledge, proxy: bool = False) -> Front:
    """The best policies of gold, or of the proxy."""
    automaton, rows = known.automaton, []
    aim = known.proxy if proxy else known.rewards
    for beta in TEMPERATURES:
        policy = soft_optimum(automaton, aim, beta).policy
        gold = evaluate(automaton, known.rewards, policy, beta)
        seen = evaluate(automaton, known.proxy, policy, beta)
        rows.append((gold.kl, gold.reward, seen.reward, gold.objective))
    columns = (torch.stack(column).numpy() for column in zip(*rows, strict=True))
    return Front(*columns)


def above_front(cells: Sequence[Cell]) -> Array:
    """How far the worst record of each replica is above the front of gold, `[N]`; negative: below.

    The front is the lower envelope of the lines `reward = objective + beta KL`; the distance is
    that to the nearest of them, in the units of the axes.
    """
    worst: list[Array] = []
    for cell in cells:
        best = front(known_of(cell)).objective
        kl, gold = cell.metric("kl"), cell.metric("gold_reward")
        beta = np.array(TEMPERATURES)[:, None, None]
        excess = (gold - beta * kl - best[:, None]) / np.sqrt(1 + beta**2)
        worst.append(excess.max((0, 1)))
    return np.max(worst, 0)


def leaves_best_of(known: TokenKnowledge, count: int) -> tuple[Array, Array]:
    """Divergence and gold reward `[N]` of the best of `count` on a tree of distinct leaves.

    The mass of a leaf is `F^n - (F - m)^n`, with `F` the reference's mass up to it and `m` its own.
    """
    automaton = known.automaton
    mass = torch.stack([leaf_law(known, prompt) for prompt in range(automaton.origin.shape[1])], 1)
    paid, order = torch.sort(known.rewards.final[:, None].expand(mass.shape), -1)
    law = mass.gather(-1, order)
    kept = best_of_law(law, count)
    ratio = torch.where(kept > 0, kept * torch.log(kept / law.clamp(min=1e-300)), 0.0)
    mean = [(automaton.prompt * part.sum(-1)).sum(1) for part in (ratio, kept * paid)]
    return mean[0].numpy(), mean[1].numpy()


def leaf_law(known: TokenKnowledge, prompt: int) -> Tensor:
    """The reference's law of the final state after one prompt, `[N, Z]`."""
    automaton = known.automaton
    one = torch.zeros_like(automaton.reference[:, 0, :, 0])
    law = one.scatter(1, automaton.origin[:, prompt : prompt + 1], 1.0)
    for time in range(automaton.horizon):
        flow = law[..., None] * automaton.reference[:, time].exp()
        law = torch.zeros_like(law).scatter_add(
            1, automaton.successor[:, time].flatten(1), flow.flatten(1)
        )
    return law


def levels_best_of(known: TokenKnowledge, counts: Sequence[int]) -> list[tuple[Array, Array]]:
    """Divergence and proxy reward `[N]` of the best of each count, by the law of proxy levels."""
    level, law = reward_law(known.automaton, known.proxy, known.automaton.reference, STEP)
    level = (level.double() / STEP).round() * STEP
    prompt, values = known.automaton.prompt, []
    for count in counts:
        kept = best_of_law(law, count)
        ratio = torch.where(kept > 0, kept * torch.log(kept / law.clamp(min=1e-300)), 0.0)
        paid = kept * level
        mean = [(prompt * part.sum(-1)).sum(1).numpy() for part in (ratio, paid)]
        values.append((mean[0], mean[1]))
    return values


@cache
def model_errors(replicas: int) -> Array:
    """Error of fitted reward models by number of comparisons, `[len(SIZES), N]`."""
    rows = []
    for size in SIZES:
        problem = TokenTree(2, 3, reference_std=0.5, pairs=size, demonstrations=0)
        spec = problem.spec(problem.instance(Rng(0, "instance", torch.arange(replicas))))
        rows.append(quality(spec, fit(spec, "final", RIDGE))["error"].numpy())
    return np.array(rows)


@dataclass(frozen=True)
class Series:
    """Runs of one agent that make a curve.

    Attributes:
        label: in the legend.
        agent: registered name.
        colour: key of `rlkit.drawing.PALETTE`.
        marker: of its points.
        fields: which of the agent's runs.
        betas: whether there is a run for each of `BETAS`.
    """

    label: str
    agent: str
    colour: str
    marker: str = "o"
    fields: Mapping[str, Any] = field(default_factory=dict)
    betas: bool = True

    def cells(self, data: Data) -> list[Cell]:
        """The runs, from the largest beta down."""
        if not self.betas:
            return [data.cell(self.agent, **TREE, **self.fields)]
        wanted = sorted(BETAS, reverse=True)
        return [data.cell(self.agent, **TREE, **self.fields, agent_beta=b) for b in wanted]


PAPER = {"agent_scaled": True, "agent_penalty": "loss"}
SERIES = (
    Series("RLOO", "rloo", "vermilion"),
    Series("PPO", "ppo_rlhf", "blue", "s"),
    Series("DR-PO", "dr_po", "green", "D"),
    Series("REINFORCE", "reinforce", "orange", "v"),
    Series("GRPO, as published", "grpo", "purple", "^", PAPER),
    Series("NPG, Q of the paper", "dr_po_npg", "sky", "P", {"agent_q_target": "paper"}),
    Series("NPG, regularised Q", "dr_po_npg", "sky", "X", {"agent_q_target": "regularised"}),
    Series("DPO", "dpo", "blue", "<"),
    Series("IPO", "ipo", "green", "<"),
    Series("KTO", "kto", "orange", "<"),
    Series("NCA", "nca", "purple", "<"),
    Series("OREO", "oreo", "vermilion", "<"),
    Series("SLiC-HF", "slic", "black", "x", betas=False),
    Series("SimPO", "simpo", "black", "+", betas=False),
    Series("imitation of R ≥ 1", "sft", "black", "1", betas=False),
)
GRPO = {
    "GRPO, as published": PAPER,
    "GRPO, k3, unscaled": {"agent_scaled": False, "agent_penalty": "loss"},
    "GRPO, KL in reward, unscaled": {"agent_scaled": False, "agent_penalty": "reward"},
    "GRPO, KL in reward": {"agent_scaled": True, "agent_penalty": "reward"},
}
