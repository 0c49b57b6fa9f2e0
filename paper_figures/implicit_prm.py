"""Implicit process rewards: what they choose, whom they blame, and what they predict."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, label_ends, points
from rlkit.envs.tokens.lock import TokenLock
from rlkit.figures import Array, Cell, Claim, Data, above, below, weakest
from rlkit.random import Rng
from rlkit.tokens import Rewards, soft_optimum

LOSSES = {"ce": ("CE", "vermilion"), "dpo": ("DPO", "blue"), "kto": ("KTO", "green"),
          "nca": ("NCA", "purple")}  # fmt: skip
SCORERS = {
    "random": "any",
    "vote": "majority vote",
    "weighted_vote": "weighted vote",
    "min": "min of steps",
    "min_accumulated": "min of sums",
    "sum": "sum",
    "outcome_model": "outcome model",
    "completions": "exact completions",
    "possible": "oracle",
}
BETAS = (0.05, 0.15, 0.5, 1.5)
ROUNDING = 1e-10
CLEAN = {"success": 1.0, "failure": 0.0}
FLIPPED = {"success": 0.9, "failure": 0.1}
RIGHT = 0.6**6  # probability under the reference that all six keys are right

CAPTION = """
A policy trained on outcomes, 500 steps on N responses of the reference to a lock of six keys in 18
tokens (each right with probability .6, labels of success clean or flipped in one case of ten), is a
reward beta log(psi / pi_ref) of every token. (a) Success of the best of 16 responses of the
reference by the sum of rewards, beta .05. (b) The same by other scorers, N = 500, flipped labels:
bars for cross-entropy (CE), points for the other losses. The outcome model is a smoothed share of
successes by last state, completions the exact probability of success under the reference, least
over the prefixes. (c) Share of first wrong keys that get the least reward of their failed response,
CE, N = 2000, without and with a bias; dashed: the least likely token. (d) Probability of success
that CE predicts, flipped labels, N = 2000; dotted: truth; dashed: what normalisation allows at most
on average over right responses, for the mean of exp(reward / beta) under the reference is 1. Means
over 12 replicas with 95 % intervals.
"""


def success(cell: Cell, scorer: str) -> Array:
    """Probability that what `scorer` chooses is right, `[N]`, from its gold reward."""
    low, high = cell.config["env.failure"], cell.config["env.success"]
    return np.asarray((cell.final(f"best_{scorer}") - low) / (high - low))


def cell(data: Data, labels: dict[str, float], demonstrations: int | None = None, **agent: object
         ) -> Cell:  # fmt: skip
    """The run with these labels; `demonstrations` are those of the base unless given."""
    count = data.base["env.demonstrations"] if demonstrations is None else demonstrations
    fields = {f"agent_{name}": value for name, value in agent.items()}
    return data.cell("implicit_prm", demonstrations=count, **labels, **fields)


def plot(data: Data) -> Figure:
    """Choice by loss and by scorer, blame, confidence."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 5.6), layout="constrained")
    losses(axes[0, 0], data)
    scorers(axes[0, 1], data)
    blame(axes[1, 0], data)
    confidence(axes[1, 1], data)
    return figure


def losses(ax: Axes, data: Data) -> None:
    """Success of the best of 16 by the sum, for each loss and data set."""
    settings = [(labels, n) for labels in (CLEAN, FLIPPED) for n in (500, 2000)]
    for shift, (loss, (name, colour)) in enumerate(LOSSES.items()):
        samples = [success(cell(data, labels, n, loss=loss, beta=0.05), "sum")
                   for labels, n in settings]  # fmt: skip
        places = [place + 0.16 * (shift - 1.5) for place in range(len(settings))]
        points(ax, places, samples, PALETTE[colour], marker="o", linestyle="none", label=name)
    oracle = 1 - (1 - RIGHT) ** 16
    for value, text, colour in (
        (oracle, "oracle, expected", "black"),
        (RIGHT, "any response", "grey"),
    ):
        ax.axhline(value, color=PALETTE[colour], linewidth=0.7, linestyle="--")
        ax.annotate(text, (2.35, value), xytext=(0, 7), textcoords="offset points", ha="right",
                    fontsize=7, color=PALETTE[colour])  # fmt: skip
    ticks = [f"{word}\nN = {n}" for word in ("clean", "flipped") for n in (500, 2000)]
    ax.set_xticks(range(4), ticks)
    ax.set(ylim=(0, 0.62), xlim=(-0.5, 3.5), ylabel="success of the best of 16")
    ax.set_title("(a) by loss")
    ax.legend(loc="center left", bbox_to_anchor=(0.02, 0.42))


def scorers(ax: Axes, data: Data) -> None:
    """Success of the best of 16 by every scorer on few noisy labels."""
    names = list(SCORERS)
    for loss, (label, colour) in LOSSES.items():
        run = cell(data, FLIPPED, 500, loss=loss, beta=0.05)
        means = [success(run, name).mean() for name in names]
        if loss == "ce":
            ax.barh(range(len(names)), means, color=PALETTE[colour], alpha=0.35, height=0.7)
            for row, mean in enumerate(means):
                ax.annotate(f"{abs(mean):.2f}", (0.004, row), va="center", fontsize=6)
            continue
        own = [i for i, name in enumerate(names) if name in ("min", "min_accumulated", "sum",
                                                             "weighted_vote")]  # fmt: skip
        ax.plot([means[i] for i in own], own, "o", color=PALETTE[colour], label=label)
    ax.set_yticks(range(len(names)), list(SCORERS.values()))
    ax.set(xlim=(0, 0.62), xlabel="success of the best of 16", ylim=(-0.6, len(names) - 0.4))
    ax.set_title("(b) by scorer, flipped labels, N = 500")


def blame(ax: Axes, data: Data) -> None:
    """How often the first mistake has the least reward, against beta."""
    ax.set_xscale("log")
    ends = []
    rows = (("clean", CLEAN, False, "sky", "-"), ("flipped", FLIPPED, False, "vermilion", "-"),
            ("flipped, bias", FLIPPED, True, "orange", ":"))  # fmt: skip
    for name, labels, bias, colour, line in rows:
        samples = [cell(data, labels, loss="ce", beta=b, bias=bias).final("found") for b in BETAS]
        points(ax, BETAS, samples, PALETTE[colour], marker="o", linestyle=line)
        ends.append((BETAS[-1], float(samples[-1].mean()), name, PALETTE[colour]))
    unlikely = cell(data, FLIPPED, loss="ce", beta=0.5, bias=False).final("found_unlikely").mean()
    ax.axhline(unlikely, color=PALETTE["grey"], linestyle="--", linewidth=0.7)
    ends.append((BETAS[-1], float(unlikely), "least likely", PALETTE["grey"]))
    ax.set(xlim=(BETAS[0] / 1.2, BETAS[-1] * 1.1), ylim=(0, 1.02), xlabel="β")
    ax.set_xticks(BETAS, [f"{b:g}" for b in BETAS])
    ax.minorticks_off()
    ax.set(ylabel="first mistakes found", title="(c) blame, N = 2000")
    label_ends(ax, ends)


def confidence(ax: Axes, data: Data) -> None:
    """Predicted probability of success of right and of wrong responses."""
    ax.set_xscale("log")
    ends = []
    for bias, line, word in ((False, "-", ""), (True, ":", ", bias")):
        for name, colour in (("right", "blue"), ("wrong", "vermilion")):
            runs = [cell(data, FLIPPED, loss="ce", beta=b, bias=bias) for b in BETAS]
            samples = [run.final(f"sure_{name}") for run in runs]
            points(ax, BETAS, samples, PALETTE[colour], marker="o", linestyle=line)
            ends.append((BETAS[-1], float(samples[-1].mean()), name + word, PALETTE[colour]))
    for value in (0.9, 0.1):
        ax.axhline(value, color=PALETTE["black"], linestyle=":", linewidth=0.7)
    beta = np.geomspace(BETAS[0] / 1.2, BETAS[-1] * 1.1, 100)
    ax.plot(beta, allowed(beta), "--", color=PALETTE["grey"], linewidth=1)
    ax.set(xlim=(beta[0], beta[-1]), ylim=(0, 1.02), xlabel="β")
    ax.set_xticks(BETAS, [f"{b:g}" for b in BETAS])
    ax.minorticks_off()
    ax.set(ylabel="predicted probability of success", title="(d) confidence, flipped, N = 2000")
    label_ends(ax, ends)


def allowed(beta: Array | float) -> Array:
    """Confidence in right responses of a policy that writes nothing else, at equal log-ratios."""
    return np.asarray(1 / (1 + RIGHT ** np.asarray(beta)))


def identity() -> float:
    """Largest soft value of the rewards of random policies under the reference, which is 0.

    `q_t = beta log E[exp(reward / beta)]` says that what follows a prefix is worth nothing.
    """
    rng = Rng(0, "identity", torch.arange(12))
    known = TokenLock(18, 6, 3, 0.6).instance(rng.child("lock")).replica.knowledge
    automaton, worst = known.automaton, 0.0
    for beta in (0.05, 0.5):
        noise = rng.normal(f"policy {beta}", *automaton.reference.shape[1:], dtype=torch.float64)
        policy = torch.log_softmax(automaton.reference + 2 * noise, -1)
        rewards = Rewards(
            beta * (policy - automaton.reference), torch.zeros_like(known.rewards.final)
        )
        worst = max(worst, float(soft_optimum(automaton, rewards, beta).value.abs().max()))
    return worst


def claims(data: Data) -> list[Claim]:
    """The identity; what is chosen with clean and with flipped labels; blame; confidence."""
    worst = identity()
    full = [
        above("", "", success(cell(data, CLEAN, 2000, loss=loss, beta=0.05), "sum"), 0.48)
        for loss in LOSSES
    ]
    few = {loss: success(cell(data, FLIPPED, 500, loss=loss, beta=0.05), "sum") for loss in LOSSES}
    matched = cell(data, FLIPPED, loss="ce", beta=0.5, bias=False)
    plain, free = (
        cell(data, FLIPPED, loss="ce", beta=0.05, bias=bias).final("sure_right")
        for bias in (False, True)
    )
    bound = float(allowed(0.05))
    return [
        Claim(
            "I1",
            "accumulated rewards are soft values for random policies (largest difference)",
            worst <= ROUNDING,
            worst,
            (worst, worst),
            12,
        ),
        weakest(
            "I2",
            "clean labels, N = 2000: success of the best of 16 above .48 with every loss (least)",
            full,
        ),
        above(
            "I3 DPO",
            "flipped labels, N = 500: CE chooses better than DPO (difference)",
            few["ce"] - few["dpo"],
        ),
        above(
            "I3 NCA",
            "flipped labels, N = 500: CE chooses better than NCA by .1 (difference)",
            few["ce"] - few["nca"],
            0.1,
        ),
        above(
            "I4",
            "flipped labels, N = 2000, beta .5: CE finds more than .9 of first mistakes",
            matched.final("found"),
            0.9,
        ),
        above(
            "I4 least likely",
            "there CE finds more first mistakes than the least likely token (difference)",
            matched.final("found") - matched.final("found_unlikely"),
        ),
        below(
            "calibration",
            f"flipped labels, N = 2000, beta .05: CE without bias predicts at most the "
            f"{bound:.3f} that normalisation allows for right responses, whose probability is .9",
            plain,
            bound,
        ),
        above("bias", "there a bias raises the prediction (difference)", free - plain),
    ]
