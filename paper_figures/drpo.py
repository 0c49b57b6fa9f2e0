"""DR-PO: what it is worth to start responses from demonstrations (Chang et al. 2024)."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, points
from rlkit.figures import Array, Cell, Claim, Data, above, below
from rlkit.paper_figures._tokens import draw_front, knowledge_of, path
from rlkit.tokens import occupancy, soft_optimum, state_coverage

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ACCURACIES = (0.35, 0.5, 0.65, 0.8, 0.95)
COLOURS = ("grey", "sky", "vermilion", "purple", "blue")
COMPETENCES = {0.35: "vermilion", 0.6: "blue"}

CAPTION = """
DR-PO: PPO in which a share q of the responses continues a prefix of a demonstration (q = 0 is PPO).
(a), (b), (d) Combination lock of 12 tokens out of 6: the reference writes each right token with
probability p, only a wholly right response pays 1, first token 0 pays .3 for sure; half of 256
demonstrations are right, the others are right at each token with probability .8. (a) Probability of
a right response, p = .35. "Released" is q = 1 with prefixes of one token or more, as in the
published code: the first token is then never trained. (b) The same after 300 iterations, against q.
(c) Gold reward against the exact divergence from the reference along training on summaries, whose
observed reward also pays for embellishment; SFT imitates the demonstrations, half of them the best
there are, DPO (β = .02) has 1024 pairs of the reference, labelled by that reward; dashed: the exact
front of gold reward, which no policy exceeds. (d) q = .5 with demonstrations that are right at each
token with the probability on the axis, none wholly right on purpose, p = .35: success, and the
coverage of the soft optimum, the largest ratio of its state occupancy to that of the
demonstrations. Means over 24 replicas, bands and bars 95 % intervals.
"""


def plot(data: Data) -> Figure:
    """Learning curves, shares, the front and coverage."""
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
    learning(axes[0, 0], data)
    shares(axes[0, 1], data)
    summaries(axes[1, 0], data)
    covered(axes[1, 1], data)
    return figure


def lock(data: Data, share: float, competence: float = 0.35, released: bool = False) -> Cell:
    """A run on the lock."""
    return data.cell(
        "dr_po",
        env="TokenLock-v0",
        agent_share=share,
        agent_reward="observed",
        agent_official_lengths=released,
        competence=competence,
        perfect=0.5,
    )


def learning(ax: Axes, data: Data) -> None:
    """Panel (a)."""
    curves = [(lock(data, q), f"q = {q:g}", c, "-") for q, c in zip(SHARES, COLOURS, strict=True)]
    curves.append((lock(data, 1.0, released=True), "released", "black", "--"))
    for cell, label, colour, line in curves:
        look = {"linestyle": line, "label": label}
        band(ax, cell.step, cell.metric("success"), PALETTE[colour], **look)
    ax.set(xlim=(0, cell.step[-1]), ylim=(-0.02, 1.04), xlabel="iteration")
    ax.set(ylabel="probability of a right response", title="(a) lock, p = 0.35")
    ax.legend(loc="center", bbox_to_anchor=(0.75, 0.62))


def shares(ax: Axes, data: Data) -> None:
    """Panel (b)."""
    for competence, colour in COMPETENCES.items():
        final = [lock(data, q, competence).final("success") for q in SHARES]
        points(ax, SHARES, final, PALETTE[colour], marker="o", label=f"p = {competence:g}")
        released = lock(data, 1.0, competence, True).final("success")
        look = {"marker": "x", "linestyle": "", "label": f"released, p = {competence:g}"}
        points(ax, [1.0], [released], PALETTE[colour], **look)
    ax.set(xlabel="share q of responses that start from a demonstration", ylim=(-0.02, 1.04))
    ax.set(ylabel="probability of a right response", title="(b) after 300 iterations")
    ax.legend(loc="center", bbox_to_anchor=(0.62, 0.5))


def summaries(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    draw_front(ax, data.cell("dr_po", env="TokenStyle-v0", agent_share=0.0))
    for q, colour in zip(SHARES, COLOURS, strict=True):
        cell = data.cell("dr_po", env="TokenStyle-v0", agent_share=q)
        path(ax, cell, f"q = {q:g}", PALETTE[colour])
    for agent, label, colour in (("sft", "SFT", "green"), ("dpo", "DPO", "orange")):
        path(ax, data.cell(agent, env="TokenStyle-v0"), label, PALETTE[colour])
    ax.set(xlabel="KL(policy || reference) of a response, nats", ylabel="gold reward")
    ax.set(title="(c) summaries")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=-0.75)
    ax.legend(loc="lower right", ncols=2)


def weak(data: Data, accuracy: float) -> Cell:
    """A run with demonstrations of which none is right on purpose."""
    return data.cell("dr_po", env="TokenLock-v0", agent_share=0.5, perfect=0.0, accuracy=accuracy)


def covered(ax: Axes, data: Data) -> None:
    """Panel (d)."""
    cells = [weak(data, accuracy) for accuracy in ACCURACIES]
    success = [cell.final("success") for cell in cells]
    points(ax, ACCURACIES, success, PALETTE["vermilion"], marker="o")
    ax.set(xlabel="accuracy of the demonstrations at each token", ylim=(-0.02, 1.04))
    ax.set_ylabel("probability of a right response", color=PALETTE["vermilion"])
    ax.set_title("(d) coverage, q = 0.5")
    twin = ax.twinx()
    twin.spines["right"].set_visible(True)
    twin.set_yscale("log")
    twin.set_ylabel("coverage coefficient", color=PALETTE["grey"])
    points(twin, ACCURACIES, [coefficient(cell) for cell in cells], PALETTE["grey"], marker="s")


def coefficient(cell: Cell) -> Array:
    """`C_ST` of the soft optimum under the law of the demonstrations, `[N]`."""
    known, accuracy = knowledge_of(cell), cell.config["env.accuracy"]
    automaton = known.automaton
    right = automaton.successor == torch.arange(automaton.states)[:, None]
    right = right & known.sound[:, None, :, None]
    miss = (1 - accuracy) / (automaton.vocabulary - 1)
    keys = torch.where(right, torch.full_like(automaton.reference, accuracy), miss).log()
    written = torch.where(known.sound[:, None, :, None], keys, automaton.reference)
    best = soft_optimum(automaton, known.rewards, cell.config["agent.beta"]).policy
    ratio = state_coverage(occupancy(automaton, best), occupancy(automaton, written))
    return np.asarray(ratio.numpy())


def claims(data: Data) -> list[Claim]:
    """The acceptance criteria at p = .35 and .6."""
    half, none = lock(data, 0.5).final("success"), lock(data, 0.0).final("success")
    released = [(p, lock(data, 1.0, p, True).final("success") - p) for p in COMPETENCES]
    learned = {q: model_run(data, q).final("success") for q in (0.0, 0.5)}
    return [
        above("resets succeed", "lock, p = .35: DR-PO, q = .5, succeeds above .95", half, 0.95),
        below("PPO stays at the decoy", "lock, p = .35: success of PPO is below .05", none, 0.05),
        above(
            "all responses reset",
            "lock, p = .35: success with q = 1 and prefixes of any length is above .95",
            lock(data, 1.0).final("success"),
            0.95,
        ),
        *(
            below(
                f"released code at p = {p:g}",
                f"lock, p = {p:g}: q = 1 with the released lengths succeeds at most as often as "
                "the reference writes the first token right, and .02 (excess over p)",
                excess,
                0.02,
            )
            for p, excess in released
        ),
        above(
            "learned reward: resets",
            "lock, p = .6, reward model from 4000 pairs: DR-PO above PPO",
            learned[0.5] - learned[0.0],
        ),
        above(
            "learned reward: optimisation",
            "lock, p = .6, reward model from 4000 pairs: PPO above the reference",
            learned[0.0] - 0.6**12,
        ),
    ]


def model_run(data: Data, share: float) -> Cell:
    """A run on the lock against a reward model."""
    return data.cell(
        "dr_po", env="TokenLock-v0", agent_share=share, agent_reward="final_model", competence=0.6
    )
