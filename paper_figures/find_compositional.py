"""FIND on compositional prompts: rewards that need two modes at once and are rare in the data."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.diffusion.noise_policies import NoiseLaw, draw_noise, every_prompt
from rlkit.drawing import PALETTE, band
from rlkit.figures import Array, Cell, Claim, Data, above
from rlkit.paper_figures._find import Trail, passage, ratio_of_medians, reached
from rlkit.random import Rng

PROMPTS = 4
COLOURS = ("vermilion", "blue", "green", "purple")
FIND_RATES, DDPO_RATES = (0.01, 0.02, 0.05), (0.001, 0.003, 0.01)
LEVEL = 0.5
SEEN = 250  # samples of each prompt in the pictures
SHOWN = (20, 14, 10, 6, 3, 0)

CAPTION = """
Four prompts on RING(2) with T = 20, each for two neighbouring modes at once: reward four times the
product of their shares, base reward .01, because the data have 1.2 % halfway. (a) Expected reward,
mean over prompts, against reward queries over all of them, each method at its best rate of those
tried (FIND .01, .02, .05; DDPO .001, .003, .01); random search is the reward of its best points,
which are no sampler; prompt search chooses among the prompts' law and 8 others. (b) The same of
FIND for each prompt. Means over 16 replicas with 95 % intervals. (c) Samples of the frozen sampler
from N(0, I) (grey) and from the noise that FIND found for each prompt (one replica; crosses: modes,
rings: what the prompts ask for). (d) The same samples on their way through the noise levels t.
"""


def best(data: Data, agent: str, rates: tuple[float, ...]) -> Cell:
    """The run at the rate with the largest mean reward over records."""
    cells = [data.cell(agent, agent_rate=rate) for rate in rates]
    return max(cells, key=lambda cell: float(cell.metric("gold_reward").mean()))


def plot(data: Data) -> Figure:
    """Curves, and samples on their way."""
    figure = plt.figure(figsize=(7.6, 5.4), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.45, 1))
    upper, lower = halves[:, 0]
    axes = upper.subplots(1, 3, width_ratios=(1.2, 1, 1))
    curves(axes[0], data)
    prompts(axes[1], data)
    law, trail = found_noise(data)
    chains, base = passages(trail, law)
    after(axes[2], trail, chains[-1], base[-1])
    steps = trail.task.steps
    times = [t for t in SHOWN if t <= steps]
    panels = lower.subplots(1, len(times), sharex=True, sharey=True, squeeze=False)[0]
    for ax, t in zip(panels, times, strict=True):
        scatter(ax, chains[steps - t], base[steps - t])
        ax.set_title(f"t = {t}")
    panels[0].set_ylabel("$x_2$")
    panels[0].set_title(f"(d) t = {times[0]}")
    for ax in panels:
        ax.set_xlabel("$x_1$")
    return figure


def curves(ax: Axes, data: Data) -> None:
    """Reward of every method against queries."""
    drawn = (
        ("FIND", "vermilion", "-", best(data, "find", FIND_RATES)),
        ("DDPO", "blue", "-", best(data, "ddpo", DDPO_RATES)),
        ("CEM on the noise", "green", "-", data.cell("cem_noise")),
        ("prompt search", "orange", "-", data.cell("prompt_search")),
        ("random search,\nbest point", "grey", ":", data.cell("noise_search")),
    )
    for label, colour, line, cell in drawn:
        queries = cell.metric("queries").mean(1)
        look = {"label": label, "linestyle": line}
        band(ax, queries, cell.metric("gold_reward"), PALETTE[colour], **look)
    ax.set_xscale("log")
    ax.set(xlabel="reward queries", ylabel="expected reward", ylim=(0, 1.02))
    ax.set_title("(a) mean over four prompts")
    ax.legend(loc="upper left", fontsize=6)


def prompts(ax: Axes, data: Data) -> None:
    """Reward of FIND for each prompt."""
    cell = best(data, "find", FIND_RATES)
    for c, colour in enumerate(COLOURS):
        label = f"modes {c + 1} and {c + 2}"
        queries = cell.metric("queries").mean(1)
        band(ax, queries, cell.metric(f"reward_{c}"), PALETTE[colour], label=label)
    ax.set(xlabel="reward queries", ylim=(0, 1.02))
    ax.set_title("(b) FIND, each prompt")
    ax.legend(loc="lower right", fontsize=6)


def found_noise(data: Data) -> tuple[NoiseLaw, Trail]:
    """The noise that FIND finds in one replica, at its best rate."""
    cell = best(data, "find", FIND_RATES)
    env: dict[str, object] = {
        "modes": 0,
        "pairs": PROMPTS,
        "phrasings": 0,
        "steps": data.base["env.steps"],
    }
    rate, steps = cell.config["agent.rate"], int(data.base["steps"])
    fields: dict[str, object] = {"inner": 4, "batch": 16, "rate": rate}
    trail = Trail(env, "find", fields, steps, 1)
    law: NoiseLaw = trail.at(steps).law.parameters
    return law, trail


def passages(trail: Trail, law: NoiseLaw) -> tuple[list[Array], list[Array]]:
    """Chains `[C SEEN, 2]` from found and from standard normal noise, at t = T, ..., 0."""
    rng = Rng(3, "picture", torch.arange(1))
    prompt = every_prompt(trail.task, rng.replica, SEEN)
    start = draw_noise(law, rng, "found", SEEN)
    usual = trail.task.start(rng, "usual", PROMPTS * SEEN)
    found = passage(trail.task, start.flatten(1, 2), prompt)
    return found, passage(trail.task, usual, prompt)


def scatter(ax: Axes, chains: Array, base: Array) -> None:
    """Points of both, by prompt."""
    ax.plot(*base.T, ".", color="#BBBBBB", markersize=1.2)
    for c, colour in enumerate(COLOURS):
        rows = chains[c * SEEN : (c + 1) * SEEN]
        ax.plot(*rows.T, ".", color=PALETTE[colour], markersize=1.8)
    ax.set(xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), aspect="equal")


def after(ax: Axes, trail: Trail, found: Array, base: Array) -> None:
    """Samples before and after, with what was asked for."""
    scatter(ax, found, base)
    means = trail.task.mixture.mean[0, 0].numpy()
    ax.plot(*means[:5].T, "x", color=PALETTE["black"], markersize=4)
    for k, (x, y) in enumerate(means[:5]):
        ax.annotate(str(k + 1), (1.3 * x, 1.3 * y), ha="center", va="center", fontsize=7)
    ax.plot(*means[5 : 5 + PROMPTS].T, "o", color=PALETTE["black"], mfc="none", markersize=7)
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.set_title("(c) samples before and after")


def claims(data: Data) -> list[Claim]:
    """FIND serves every prompt, and better than DDPO at equal queries."""
    find, ddpo = best(data, "find", FIND_RATES), best(data, "ddpo", DDPO_RATES)
    found = [
        above(
            f"prompt {c + 1}",
            f"FIND raises the reward of prompt {c + 1} above .1, ten times the base",
            find.final(f"reward_{c}"),
            0.1,
        )
        for c in range(PROMPTS)
    ]
    equal = float(min(find.final("queries").mean(), ddpo.final("queries").mean()))
    rewards = [at_queries(cell, equal) for cell in (find, ddpo)]
    found.append(
        above(
            "C1 against DDPO",
            "FIND has more reward than DDPO at equal reward queries (difference)",
            rewards[0] - rewards[1],
        )
    )
    centre, low, high = ratio_of_medians(reached(ddpo, LEVEL), reached(find, LEVEL))
    statement = "median reward queries to reward .5, DDPO over FIND, more than 1"
    found.append(Claim("queries", statement, low > 1, centre, (low, high), rewards[0].size))
    return found


def at_queries(cell: Cell, queries: float) -> Array:
    """Reward `[N]` at the last record within `queries`."""
    spent = cell.metric("queries").mean(1)
    reward: Array = cell.metric("gold_reward")[np.flatnonzero(spent <= queries)[-1]]
    return reward
