"""Gold reward against exact divergence: all agents, the exact front, and an imperfect proxy."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkit import stats
from rlkit.drawing import PALETTE, band, points
from rlkit.figures import Array, Cell, Claim, Data, above, below, weakest, within
from rlkit.paper_figures._rlhf_frontier import (
    GRPO,
    SERIES,
    SIZES,
    TREE,
    Front,
    above_front,
    front,
    known_of,
    leaves_best_of,
    levels_best_of,
    model_errors,
)

PROXY_BETAS = (0.2, 0.1, 0.05, 0.02, 0.005)
COUNTS = (2, 4, 16, 64, 256)
PROXY_COUNTS = (*COUNTS, 1024)
SHARP, BLUNT = (2.0, 1.0, 0.5, 0.2, 0.05), (5.0, 1.0, 0.2)  # betas by slope of the comparisons
LONE: dict[str, Any] = {"env": "TokenTree-v0", "horizon": 4, "prompts": 1}
STYLE: dict[str, Any] = {"env": "TokenStyle-v0"}
EQUAL = 1e-9

CAPTION = """
(a) Expected gold reward against KL(policy || reference) of whole responses in nats, both exact, on
trees of 4 prompts with 64 responses each (rewards and reference logits N(0, 1)); means over
replicas after 200 iterations of 256 responses or examples, at beta = 1, 0.3, 0.1 from left to right
where an agent has one. Bars: 95 % interval of the distance below the front at the same divergence.
Black: the exact front, the soft optimum at every beta. Grey: best-of-n, n = 2, 4, 16, 64, 256.
NPG tries one token a response and has not arrived after 200 iterations. (b)
Distance from the best objective at beta = 0.5 against iterations on trees of one prompt and 256
responses; GRPO as published scales advantages within groups and penalises by the k3 estimate in
the loss. (c) Over-optimisation on TokenStyle (12 tokens, 4 prompts), whose proxy pays 0.1 for a
flag token that costs 0.05 of gold: exact front of gold, exact optimum of the proxy (gold solid,
proxy dashed), RLOO on the observed proxy at beta = 0.2, 0.1, 0.05, 0.02, 0.005, RLOO on a reward
fitted to comparisons by the proxy (4000 of slope 10 at beta = 2, 1, 0.5, 0.2, 0.05; 2000 of slope
1 at beta = 5, 1, 0.2; a fitted reward has the unit 1 / slope), best-of-n by the proxy, n = 2, 4,
16, 64, 256, 1024. (d) Error of a fitted reward model: standard deviation of model minus gold within
a prompt. Bars and bands in (b) to (d): 95 % intervals over replicas.
"""


def plot(data: Data) -> Figure:
    """Front, convergence, over-optimisation, error of the reward model."""
    figure = plt.figure(figsize=(7.4, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.15, 1))
    tree, curve, style, error = (
        figure.add_subplot(spot) for spot in (grid[0, :4], grid[0, 4:], grid[1, :4], grid[1, 4:])
    )
    draw_tree(tree, data)
    draw_convergence(curve, data)
    draw_style(style, data)
    draw_error(error, data)
    return figure


def exact(ax: Axes, kl: Array, values: Array, colour: str, **line: Any) -> None:
    """Mean over replicas of an exact curve, both `[T, N]`."""
    ax.plot(kl.mean(1), values.mean(1), color=PALETTE[colour], **line)


def spot(
    ax: Axes, cells: Sequence[Cell], colour: str, metric: str = "gold_reward", **line: Any
) -> None:
    """Means of final divergence and reward, with the interval of the reward."""
    kl = [float(cell.final("kl").mean()) for cell in cells]
    points(ax, kl, [cell.final(metric) for cell in cells], PALETTE[colour], **line)


def best_of_cells(data: Data, where: Mapping[str, Any], counts: Sequence[int]) -> list[Cell]:
    """Runs of best-of-n."""
    return [data.cell("best_of_n", **where, agent_group=n) for n in counts]


def draw_tree(ax: Axes, data: Data) -> None:
    """Panel (a)."""
    best = front(known_of(data.cell("rloo", **TREE, agent_beta=0.1)))
    exact(ax, best.kl, best.gold, "black", linewidth=1.0, label="exact front")
    kept = best_of_cells(data, TREE, COUNTS)
    shortfall(ax, best, kept, "grey", marker=".", label="best-of-n", linewidth=0.8)
    for series in SERIES:
        shortfall(ax, best, series.cells(data), series.colour, marker=series.marker,
                  label=series.label, linestyle="none", markersize=4.5, alpha=0.85)  # fmt: skip
    ax.set(
        xlabel="KL(policy ‖ reference), nats", ylabel="gold reward", title="(a) trees, 4 prompts"
    )
    ax.set_xlim(left=0)
    ax.legend(loc="lower right", ncols=2, fontsize=6, handlelength=1.6, columnspacing=1.0)


def shortfall(ax: Axes, best: Front, cells: Sequence[Cell], colour: str, **line: Any) -> None:
    """Mean final points, with the interval of their distance below the front."""
    for index, cell in enumerate(cells):
        kl, gold = cell.final("kl"), cell.final("gold_reward")
        # Divergence falls as the temperature rises.
        columns = zip(best.kl.T[:, ::-1], best.gold.T[:, ::-1], kl, strict=True)
        miss = np.array([np.interp(x, xs, ys) for xs, ys, x in columns]) - gold
        half = (stats.interval(miss).high - stats.interval(miss).low) / 2
        options = {**line, "label": line["label"] if index == 0 else None}
        ax.errorbar(kl.mean(), gold.mean(), half, color=PALETTE[colour], elinewidth=1.0, **options)
    if line.get("linestyle") is None:
        ends = [[cell.final(name).mean() for cell in cells] for name in ("kl", "gold_reward")]
        ax.plot(*ends, color=PALETTE[colour], linewidth=line["linewidth"])


def draw_convergence(ax: Axes, data: Data) -> None:
    """Panel (b)."""
    curves = [
        ("PPO", data.cell("ppo_rlhf", **LONE), "blue", "-"),
        ("RLOO", data.cell("rloo", **LONE), "vermilion", "-"),
        ("REINFORCE", data.cell("reinforce", **LONE), "orange", "-"),
    ]
    for (label, fields), colour, line in zip(
        GRPO.items(), ("purple", "purple", "black", "sky"), ("-", "--", ":", ":"), strict=True
    ):
        curves.append((label, data.cell("grpo", **LONE, **fields), colour, line))
    for label, cell, colour, line in curves:
        band(ax, cell.step, cell.metric("gap"), PALETTE[colour], linestyle=line, label=label)
    ax.set(yscale="log", xlabel="iteration", ylabel="gap to the best objective",
           title="(b) β = 0.5, one prompt")  # fmt: skip
    ax.set_xlim(left=0)
    ax.legend(loc="lower left", fontsize=6, handlelength=1.6, borderaxespad=0.1)


def style_cells(data: Data) -> list[Cell]:
    """RLOO on the proxy of TokenStyle, from the largest beta down."""
    return [
        data.cell("rloo", **STYLE, agent_reward="observed", agent_beta=beta) for beta in PROXY_BETAS
    ]


def fitted_cells(data: Data, slope: float) -> list[Cell]:
    """RLOO on a reward fitted to comparisons of a slope, from the largest beta down."""
    betas = SHARP if slope > 1 else BLUNT
    fields = {**STYLE, "slope": slope, "agent_reward": "token_model"}
    return [data.cell("rloo", **fields, agent_beta=beta) for beta in betas]


def draw_style(ax: Axes, data: Data) -> None:
    """Panel (c)."""
    observed = style_cells(data)
    known = known_of(observed[0])
    gold, proxy = front(known), front(known, proxy=True)
    exact(ax, gold.kl, gold.gold, "black", linewidth=1.0, label="exact front of gold")
    exact(ax, proxy.kl, proxy.gold, "blue", linewidth=1.0, label="optimum of the proxy: gold")
    exact(ax, proxy.kl, proxy.proxy, "blue", linewidth=1.0, linestyle="--", label="… its proxy")
    line: dict[str, Any] = {"linewidth": 0.7}
    spot(ax, observed, "vermilion", marker="o", label="RLOO on the proxy: gold", **line)
    spot(ax, observed, "vermilion", "proxy_reward", marker="o", mfc="none", linestyle="--",
         label="… its proxy", **line)  # fmt: skip
    sharp, blunt = (fitted_cells(data, slope) for slope in (10.0, 1.0))
    spot(ax, sharp, "green", marker="s", label="RLOO on a fitted reward, slope 10: gold", **line)
    spot(ax, blunt, "green", marker="s", mfc="none", linestyle=":",
         label="… slope 1: gold", **line)  # fmt: skip
    kept = best_of_cells(data, STYLE, PROXY_COUNTS)
    spot(ax, kept, "grey", marker=".", label="best-of-n by the proxy: gold", **line)
    ax.set(xlabel="KL(policy ‖ reference), nats", ylabel="reward", title="(c) TokenStyle")
    ax.set_xlim(left=0)
    ax.set_ylim(top=2.1)  # room for the legend
    ax.legend(loc="upper left", fontsize=6, ncols=2)


def draw_error(ax: Axes, data: Data) -> None:
    """Panel (d)."""
    errors = model_errors(int(data.base["replicas"]))
    ax.set(xscale="log", yscale="log", title="(d) reward model")
    points(ax, SIZES, list(errors), PALETTE["blue"], marker="o")
    middle = float(np.exp(np.log(errors.mean(1)).mean()))
    guide = middle * np.sqrt(np.exp(np.log(SIZES).mean()) / np.array(SIZES))
    ax.plot(SIZES, guide, "--", color=PALETTE["grey"], linewidth=0.8)
    ax.text(SIZES[0], guide[-1], r"dashed: $n^{-1/2}$", fontsize=7)
    ax.set_xticks([300, 1000, 3000, 10_000], ["300", "1000", "3000", "10,000"])
    ax.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    ax.minorticks_off()
    ax.set(xlabel="comparisons", ylabel="error, units of reward")


def claims(data: Data) -> list[Claim]:
    """No point above the front; where agents end; best-of-n; over-optimisation; the slope."""
    return [
        nothing_above(data),
        *ends(data),
        best_of_n(data),
        *over_optimisation(data),
        error_slope(data),
    ]


def nothing_above(data: Data) -> Claim:
    """The property that no measurement may break."""
    excess = above_front(data.cells)
    worst = float(excess.max())
    return Claim(
        "front",
        f"all {len(data.cells)} runs, all records: no replica above its exact front by more than "
        f"1e-9 (largest signed distance)",
        worst <= EQUAL,
        worst,
        (float(excess.min()), worst),
        excess.size,
    )


def ends(data: Data) -> list[Claim]:
    """Gaps after 300 iterations on the tree of the specification."""
    gap = {name: data.cell(name, **LONE).final("gap") for name in ("rloo", "ppo_rlhf")}
    ours = {name: data.cell("grpo", **LONE, **fields).final("gap") for name, fields in GRPO.items()}
    published, same = (ours[name] for name in (*list(GRPO)[:1], "GRPO, KL in reward, unscaled"))
    return [
        below("RLOO", "β = 0.5: gap of RLOO < 0.02", gap["rloo"], 0.02),
        below("PPO", "β = 0.5: gap of PPO < 0.02", gap["ppo_rlhf"], 0.02),
        above("GRPO", "β = 0.5: gap of GRPO as published > 0.05", published, 0.05),
        within(
            "GRPO is RLOO",
            "β = 0.5: gap of GRPO, unscaled and with KL in the reward, within 0.005 of RLOO's "
            "(difference)",
            same - gap["rloo"],
            0.005,
        ),
    ]


def best_of_n(data: Data) -> Claim:
    """The agent's measurements against the laws of leaves and of proxy levels."""
    misses: list[Array] = []
    tree = best_of_cells(data, TREE, COUNTS)
    for cell, count in zip(tree, COUNTS, strict=True):
        kl, gold = leaves_best_of(known_of(cell), count)
        misses += [np.abs(cell.final("kl") - kl), np.abs(cell.final("gold_reward") - gold)]
    style = best_of_cells(data, STYLE, PROXY_COUNTS)
    laws = levels_best_of(known_of(style[0]), PROXY_COUNTS)
    for cell, (kl, proxy) in zip(style, laws, strict=True):
        misses += [np.abs(cell.final("kl") - kl), np.abs(cell.final("proxy_reward") - proxy)]
    over = max(float((cell.final("kl") - cell.final("kl_bound")).max()) for cell in (*tree, *style))
    miss = np.max(misses, 0)
    return Claim(
        "best-of-n",
        "KL and reward of best-of-n equal the law of the best level within 1e-8, and KL is at most "
        "log n - (n - 1) / n (largest difference)",
        bool(miss.max() < 1e-8 and over <= EQUAL),
        float(miss.max()),
        (float(miss.min()), float(miss.max())),
        miss.size,
    )


def over_optimisation(data: Data) -> list[Claim]:
    """Gold rises, then falls, while the proxy keeps rising."""
    cells = style_cells(data)
    gold, proxy, kl = (
        np.array([cell.final(name) for cell in cells])
        for name in ("gold_reward", "proxy_reward", "kl")
    )
    peak = int(gold.mean(1).argmax())
    text = f"TokenStyle, RLOO on the proxy, peak of gold at KL {kl[peak].mean():.1f}"
    return [
        above(
            "peak", f"{text}: above the largest β (difference) by 0.05", gold[peak] - gold[0], 0.05
        ),
        above(
            "fall",
            f"{text}: above the smallest β (difference) by 0.05",
            gold[peak] - gold[-1],
            0.05,
        ),
        above(
            "proxy",
            "TokenStyle, RLOO on the proxy: the proxy rises with every smaller β (least step)",
            np.diff(proxy, axis=0)[np.diff(proxy, axis=0).mean(1).argmin()],
        ),
        *(risen_and_fallen(data, slope) for slope in (10.0, 1.0)),
    ]


def risen_and_fallen(data: Data, slope: float) -> Claim:
    """Gold of a fitted reward is best at a beta between the ends."""
    gold = np.array([cell.final("gold_reward") for cell in fitted_cells(data, slope)])
    best = gold[gold.mean(1).argmax()]
    parts = [above("", "", best - end, 0.05) for end in (gold[0], gold[-1])]
    text = f"TokenStyle, RLOO on a reward fitted to comparisons of slope {slope:g}: best gold above"
    return weakest(
        f"fitted, slope {slope:g}", f"{text} that at either end of β by 0.05 (difference)", parts
    )


def error_slope(data: Data) -> Claim:
    """The rate of maximum likelihood."""
    errors = model_errors(int(data.base["replicas"]))
    sizes = np.array(SIZES, dtype=float)
    slopes = np.array([stats.log_log_slope(sizes, row).slope for row in errors.T])
    return within(
        "slope",
        "error of the reward model ∝ n^slope: slope within 0.1 of -1/2 (difference)",
        slopes + 0.5,
        0.1,
    )
