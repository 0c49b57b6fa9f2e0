"""OREO: offline soft-Bellman policies and values for multi-step reasoning (Wang et al. 2024)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit.drawing import PALETTE, band, label_ends, points
from rlkit.figures import Cell, Data
from rlkit.paper_figures._oreo import (
    ALPHAS,
    DFA,
    LOCK,
    ROUND,
    WIDTHS,
    chain,
    claims,
    final,
    oreo,
    searches,
    temperature,
)

__all__ = ["CAPTION", "claims", "plot"]

CAPTION = """
OREO on token MDPs with tables; success is the exact expected gold reward of a sampled response.
Lines: means over replicas (24; 12 in c-f), bands and bars: 95 % intervals. (a) TokenLock: six keys
in 18 tokens, outcomes Bernoulli 0.9 or 0.1, 1000 responses of the reference. (b) TokenDFA, 1000
responses. Token-level OREO has alpha 0.01, response-level OREO 0.3, as published; "no stop" lets
later log-ratios have gradients. RFT imitates successes; DPO pairs successes with failures, two step
sizes; KTO takes outcomes as verdicts. (c) Temperature of the soft optimum that is as far from the
reference as the policy is, on TokenDFA with certain outcomes and 4000 responses; dotted: beta +
alpha / (2 beta) at token level and beta + alpha / (2 beta H) at response level, what the gradient
near the data suggests; without alpha a policy fitted to that few responses is sharper than beta.
(d) Success of the same runs. (e) Value-guided beam over the steps of TokenChain (modulus 7, four
steps), 8 searches a prompt: the reference proposes and the exact value decides, or both are OREO's;
dashed: OREO's greedy response, which is right nearly always. (f) Three rounds of 100 steps, each on
500 fresh responses, with the original reference or that of the round.
"""

TOKEN, RESPONSE = PALETTE["vermilion"], PALETTE["blue"]
CURVES = {
    "OREO": ("vermilion", "-"),
    "no stop": ("orange", "--"),
    "response": ("blue", "-"),
    "RFT": ("black", "-"),
    "DPO .01": ("green", "-"),
    "DPO .05": ("green", "--"),
    "KTO": ("purple", "-"),
}


def plot(data: Data) -> Figure:
    """Six panels: two comparisons, the temperature twice, search, rounds."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 4.6), layout="constrained")
    compared(axes[0, 0], data, LOCK)
    compared(axes[0, 1], data, DFA)
    temperatures(axes[0, 2], data)
    regularised(axes[1, 0], data)
    beams(axes[1, 1], data)
    repeated(axes[1, 2], data)
    titles = (
        "noisy TokenLock", "TokenDFA", "effective temperature", "success against alpha",
        "value beam, TokenChain", "rounds, TokenChain",
    )  # fmt: skip
    for letter, title, ax in zip("abcdef", titles, axes.flat, strict=True):
        ax.set_title(f"({letter}) {title}")
    return figure


def runs(data: Data, env: str) -> dict[str, Cell]:
    """Runs of a comparison by their label."""
    size = {"demonstrations": 1000}
    return {
        "OREO": oreo(data, env, **size),
        "no stop": oreo(data, env, agent_stop_gradient=False, **size),
        "response": oreo(data, env, agent_step=None, agent_alpha=0.3, **size),
        "RFT": data.cell("sft", env=env),
        "DPO .01": data.cell("dpo", env=env, agent_rate=0.01),
        "DPO .05": data.cell("dpo", env=env, agent_rate=0.05),
        "KTO": data.cell("kto", env=env),
    }


def compared(ax: Axes, data: Data, env: str) -> None:
    """Success while learning."""
    ends = []
    for label, cell in runs(data, env).items():
        colour, line = CURVES[label]
        band(ax, cell.step, cell.metric("gold_reward"), PALETTE[colour], linestyle=line)
        ends.append((float(cell.step[-1]), float(final(cell).mean()), label, PALETTE[colour]))
    ax.set(xlim=(0, cell.step[-1]), ylim=(0, 1), xlabel="step", ylabel="success")
    label_ends(ax, ends, gap=0.075)


def swept(data: Data, level: int | None) -> list[Cell]:
    """Runs over `alpha` with certain outcomes."""
    return [
        oreo(data, DFA, bernoulli=False, agent_step=level, agent_alpha=alpha, demonstrations=4000)
        for alpha in ALPHAS
    ]


def temperatures(ax: Axes, data: Data) -> None:
    """Measured and suggested temperatures; alpha = 0 drawn at the left edge."""
    place = [3e-4, *ALPHAS[1:]]
    beta, horizon = 0.03, 8
    fine = np.geomspace(3e-4, 0.1, 50)
    for level, label, colour, length in (
        (1, "token level", TOKEN, 1),
        (None, "response level", RESPONSE, horizon),
    ):
        cells = swept(data, level)
        points(ax, place, [temperature(c) for c in cells], colour, marker="o", label=label)
        ax.plot(fine, beta + fine / (2 * beta * length), ":", color=colour, linewidth=1)
    ax.axhline(beta, color=PALETTE["grey"], linewidth=0.6)
    ax.set(xscale="log", yscale="log", xlabel="alpha", ylabel="temperature")
    ax.set_xticks([3e-4, 1e-3, 1e-2, 1e-1], ["0", "0.001", "0.01", "0.1"])
    ax.minorticks_off()
    ax.legend(loc="upper left", handlelength=1.2)


def regularised(ax: Axes, data: Data) -> None:
    """Success over alpha."""
    place = [3e-4, *ALPHAS[1:]]
    for level, label, colour in ((1, "token level", TOKEN), (None, "response level", RESPONSE)):
        samples = [final(cell) for cell in swept(data, level)]
        points(ax, place, samples, colour, marker="o", label=label)
    ax.set(xscale="log", ylim=(0, 1), xlabel="alpha", ylabel="success")
    ax.set_xticks([3e-4, 1e-3, 1e-2, 1e-1], ["0", "0.001", "0.01", "0.1"])
    ax.minorticks_off()
    ax.legend(loc="lower left", handlelength=1.2)


def beams(ax: Axes, data: Data) -> None:
    """Success over the width of the beam."""
    found = searches(chain(data))
    for samples, label, colour in (
        ([found.exact(w) for w in WIDTHS], "exact value", PALETTE["black"]),
        ([found.learned(w) for w in WIDTHS], "learned value", TOKEN),
    ):
        points(ax, WIDTHS, samples, colour, marker="o", label=label)
    ax.axhline(found.greedy.mean(), color=TOKEN, linestyle="--", linewidth=1)
    ax.set(xticks=WIDTHS, ylim=(0, 1.02), xlabel="beam width B", ylabel="success")
    ax.legend(loc="lower right", handlelength=1.2)


def repeated(ax: Axes, data: Data) -> None:
    """Success over three rounds."""
    once = chain(data)
    shown = (
        (once, "one round", PALETTE["grey"]),
        (chain(data, agent_refresh_every=ROUND), "reference kept", TOKEN),
        (chain(data, agent_refresh_every=ROUND, agent_roll=True), "rolled", RESPONSE),
    )
    for cell, label, colour in shown:
        band(ax, cell.step, cell.metric("gold_reward"), colour, label=label)
    for time in (ROUND, 2 * ROUND):
        ax.axvline(time, color=PALETTE["grey"], linewidth=0.6, linestyle=":")
    ax.set(xlim=(0, once.step[-1]), ylim=(0, 1.02), xlabel="step", ylabel="success")
    ax.legend(loc="lower right", handlelength=1.2)
