"""FIND: the law of the initial noise against fine-tuning of the sampler."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.diffusion.noise_policies import NoiseLaw, draw_noise
from rlkit.diffusion.task import run_reference
from rlkit.drawing import PALETTE, band
from rlkit.figures import Array, Cell, Claim, Data, above
from rlkit.paper_figures._find import (
    Trail,
    exact_divergence,
    front,
    neighbour_divergence,
    ratio_of_medians,
    reached,
)
from rlkit.random import Rng
from rlkit.regret_curves import Curve

LEVEL = 0.8
FIND_RATES, DDPO_RATES, OTHER_RATES = (0.02, 0.05, 0.1), (0.001, 0.003, 0.01), (0.003, 0.01)
CORRECTED: dict[str, Any] = {
    "agent_surrogate": "min",
    "agent_ratio": "stored",
    "agent_buffer": "recent",
    "agent_coordinates": "sum",
    "agent_inner": 4,
}
CLAMPED = CORRECTED | {"agent_surrogate": "clamp"}
RIVALS = (
    Curve("CEM on the noise", "cem_noise", "green"),
    Curve("random search, best point", "noise_search", "grey", line=":"),
    Curve("prompt search", "prompt_search", "orange"),
)
RELEASED = (
    Curve("corrected", "find", "vermilion", CORRECTED | {"agent_rate": 0.05}),
    Curve("hard clamp", "find", "orange", CLAMPED),
    Curve("clamped ratio to N(0, I)", "find", "green", CLAMPED | {"agent_ratio": "initial"}),
    Curve("mean over coordinates", "find", "sky", CORRECTED | {"agent_coordinates": "mean"}),
    Curve("mismatched buffer", "find", "purple", CORRECTED | {"agent_buffer": "mismatched"}),
    Curve(
        "all, as released", "find", "black",
        {"agent_surrogate": "clamp", "agent_buffer": "mismatched"}, line="--",
    ),
)  # fmt: skip

CAPTION = """
RING(16), one target mode (base reward .2), T = 20. FIND, CEM and random search choose x_T of a
frozen deterministic sampler (eta = 0); DDPO, DPOK and ReFL train a residual network on the
stochastic one (eta = 1); prompt search chooses among 9 laws of the data. FIND: 8 queries and 4 Adam
steps an iteration; DDPO: 32 queries, 2 passes of 4 minibatches; each method at its best rate of
those in (b). Curves are means over 16 replicas with 95 % intervals; in (a) random search is the
reward of its best point, which is no sampler. (b) Reward queries (circles) and denoiser evaluations
(triangles; a backward pass counts as two) to mean reward .8, medians and quartiles; arrows: not
reached in more than half of the replicas; DDPO at .03 is not among the claims: its median path
divergence passes 1e13 (at .01: 1e5, at .003: 4e3). Chosen in pilots: with one Adam step an
iteration FIND needs about 115 queries, and DDPO with 16 queries an iteration about 130. (c) Reward
against divergence of samples. Lines: FIND and CEM, KL(x_T || N(0, I)), which is that of x_0 from
the samples of the frozen sampler as far as its map is one to one; crosses: FIND, KL(x_0 || data) by
change of variables; open circles: KL(x_0 || data) estimated by fifth neighbours (four times 500
samples, and at .03 where it is less; diamond: frozen sampler); dashed: exact front of the tilted
data. Reported, not claimed. (d) The released formulas, one at a time and all, at rate .05.
"""


def best(data: Data, agent: str, rates: tuple[float, ...]) -> Cell:
    """The run at the rate with the smallest median number of queries."""
    extra = CORRECTED if agent == "find" else {}
    cells = [data.cell(agent, agent_rate=rate, **extra) for rate in rates]
    final = [-float(np.median(cell.final("gold_reward"))) for cell in cells]
    queries = [float(np.median(reached(cell, LEVEL))) for cell in cells]
    return cells[min(range(len(cells)), key=lambda i: (final[i] > -LEVEL, queries[i], final[i]))]


def trained(data: Data) -> list[tuple[str, str, Cell]]:
    """Label, colour and run of the methods with several rates, each at its best."""
    return [
        ("FIND", "vermilion", best(data, "find", FIND_RATES)),
        ("DDPO", "blue", best(data, "ddpo", DDPO_RATES)),
        ("DPOK", "sky", best(data, "dpok", OTHER_RATES)),
        ("ReFL", "purple", best(data, "refl", OTHER_RATES)),
    ]


def plot(data: Data) -> Figure:
    """Curves, costs, divergences, released formulas."""
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 6.0), layout="constrained")
    curves(axes[0, 0], data)
    costs(axes[0, 1], data)
    divergences(axes[1, 0], data)
    formulas(axes[1, 1], data)
    return figure


def curves(ax: Axes, data: Data) -> None:
    """Reward against queries."""
    drawn = trained(data)
    drawn += [(c.label, c.colour, c.cell(data)) for c in RIVALS]
    for label, colour, cell in drawn:
        line = ":" if cell.config["agent.name"] == "noise_search" else "-"
        queries = cell.metric("queries").mean(1)
        band(ax, queries, cell.metric("gold_reward"), PALETTE[colour], label=label, linestyle=line)
    ax.axhline(LEVEL, color=PALETTE["grey"], linestyle=":", linewidth=0.7)
    ax.set_xscale("log")
    ax.set(xlabel="reward queries", ylabel="expected reward", ylim=(-0.12, 1.02))
    ax.set_title("(a) reward, each at its best rate")
    ax.legend(loc="lower right", ncols=3, fontsize=6, columnspacing=1.0, handlelength=1.4)


def costs(ax: Axes, data: Data) -> None:
    """Queries and denoiser evaluations to the level, one row a run."""
    rows = [(f"FIND, {r}", "vermilion", find_cell(data, r)) for r in FIND_RATES]
    rows += [(f"DDPO, {r}", "blue", data.cell("ddpo", agent_rate=r)) for r in (*DDPO_RATES, 0.03)]
    for name, colour in (("dpok", "sky"), ("refl", "purple")):
        label = {"dpok": "DPOK", "refl": "ReFL"}[name]
        rows += [(f"{label}, {r}", colour, data.cell(name, agent_rate=r)) for r in OTHER_RATES]
    rows += [("CEM", "green", data.cell("cem_noise"))]
    for place, (_, colour, cell) in enumerate(rows):
        missed = float(np.median(cell.metric("gold_reward").max(0))) < LEVEL
        for metric, marker in (("queries", "o"), ("evaluations", "^")):
            spent = reached(cell, LEVEL, metric)
            low, middle, high = np.quantile(spent, [0.25, 0.5, 0.75])
            bars, shape = [[middle - low], [high - middle]], ">" if missed else marker
            ax.errorbar(middle, place, xerr=bars, color=PALETTE[colour], marker=shape)
    ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set(xlabel="queries (circles), denoiser evaluations (triangles)")
    ax.set_title("(b) cost to reward .8, by rate")


def find_cell(data: Data, rate: float) -> Cell:
    """The run of corrected FIND at a rate."""
    return data.cell("find", agent_rate=rate, **CORRECTED)


def divergences(ax: Axes, data: Data) -> None:
    """Reward against divergence of samples."""
    quick = int(data.base["steps"]) < 20
    env: dict[str, object] = {"dimension": 16, "phrasings": 0, "steps": data.base["env.steps"]}
    lines = (("FIND", "vermilion", find_cell(data, 0.05)), ("CEM", "green", data.cell("cem_noise")))
    for label, colour, cell in lines:
        divergence = np.median(cell.metric("noise_kl"), 1)
        reward = np.median(cell.metric("gold_reward"), 1)
        ax.plot(divergence, reward, color=PALETTE[colour], label=f"{label}, exact in x_T")
    find = Trail(env, "find", {"inner": 4, "rate": 0.05}, 40, 4)
    for step in (1, 2) if quick else (5, 10, 20, 40):
        law, rng = find.at(step).law.parameters, Rng(step, "exact", torch.arange(4))
        exact = float(np.median(exact_divergence(find.task, law, rng, 250)))
        ax.plot(exact, find.reward(), "x", color=PALETTE["vermilion"])
        estimated(ax, find, noise_samples(find, law, 500), "vermilion")
    noisy = env | {"eta": 1.0, "allow_uncontrollable": True}
    fields: dict[str, object] = {"alpha": 0.0, "kl": "none", "rate": 0.003}
    ddpo = Trail(noisy, "ddpo", fields, 30, 4)
    for step in (1, 2) if quick else (1, 8, 16, 22, 30):
        estimated(ax, ddpo, ddpo.samples(ddpo.at(step), 500), "blue")
    zero = torch.zeros_like(law.mean)
    standard = NoiseLaw(zero, zero)
    base = noise_samples(find, standard, 500).reshape(-1, 16)
    place = neighbour_divergence(find.task, base)
    ax.plot(max(place, 0.03), 0.2, "D", color=PALETTE["black"], label="frozen sampler, estimated")
    ax.plot(*front(find.task), color=PALETTE["black"], linestyle="--", label="exact front")
    ax.plot([], [], "x", color=PALETTE["vermilion"], label="FIND, exact in x_0")
    ax.plot([], [], "o", mfc="none", color=PALETTE["vermilion"], label="FIND, estimated")
    ax.plot([], [], "o", mfc="none", color=PALETTE["blue"], label="DDPO, estimated")
    ax.set_xscale("log")
    ax.set(xlabel="divergence of samples (nats)", ylabel="expected reward")
    ax.set(xlim=(0.01, 200), ylim=(0, 1.02), title="(c) reward against divergence")
    ax.legend(loc="upper left", fontsize=6)


def noise_samples(trail: Trail, law: NoiseLaw, count: int) -> Array:
    """Samples `[N, count, d]` of the frozen sampler from a law of noise."""
    rng = Rng(6, "samples", torch.arange(len(law.mean)))
    start = draw_noise(law, rng, "start", count)[:, 0]
    prompt = torch.zeros(start.shape[:2], dtype=torch.int64)
    point: Array = run_reference(trail.task, start, prompt, rng).numpy()
    return point


def estimated(ax: Axes, trail: Trail, samples: Array, colour: str) -> None:
    """A point: reward against the estimated divergence of each replica's samples, medians."""
    found = [neighbour_divergence(trail.task, row) for row in samples]
    place = max(float(np.median(found)), 0.03)
    ax.plot(place, trail.reward(), "o", color=PALETTE[colour], mfc="none")


def formulas(ax: Axes, data: Data) -> None:
    """The corrected defaults and the released formulas."""
    for curve in RELEASED:
        cell = curve.cell(data)
        queries = cell.metric("queries").mean(1)
        look = {"label": curve.label, "linestyle": curve.line}
        band(ax, queries, cell.metric("gold_reward"), PALETTE[curve.colour], **look)
    ax.axhline(LEVEL, color=PALETTE["grey"], linestyle=":", linewidth=0.7)
    ax.set(xlabel="reward queries", ylabel="expected reward", ylim=(0, 1.02))
    ax.set_title("(d) FIND with formulas as released")
    ax.legend(loc="lower left", bbox_to_anchor=(0.55, 0.57), fontsize=5.5, labelspacing=0.3)


def claims(data: Data) -> list[Claim]:
    """FIND needs fewer queries and far fewer evaluations than DDPO; its formulas matter."""
    find, ddpo = best(data, "find", FIND_RATES), best(data, "ddpo", DDPO_RATES)
    found = []
    for metric, least, low in (("queries", 3.0, 1.5), ("evaluations", 10.0, 10.0)):
        centre, *ends = ratio_of_medians(reached(ddpo, LEVEL, metric), reached(find, LEVEL, metric))
        words = {"queries": "reward queries", "evaluations": "denoiser evaluations"}[metric]
        bound = f", lower bound above {low:g}" if metric == "queries" else ""
        passed = centre >= least and (metric == "evaluations" or ends[0] > low)
        statement = f"median {words} to reward .8, DDPO over FIND, at least {least:g}{bound}"
        count = len(reached(find, LEVEL))
        found.append(Claim(f"C1 {words}", statement, passed, centre, (ends[0], ends[1]), count))
    corrected, released = (RELEASED[i].cell(data).final("gold_reward") for i in (0, -1))
    statement = "reward after all queries, corrected formulas minus all as released, above 0"
    return [*found, above("released formulas", statement, corrected - released)]
