"""Trajectory-aware traces as operators: norms, spectral radii, counterexamples, online errors."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rlkit.drawing import PALETTE, label_ends, points
from rlkit.figures import Array, Claim, Data, within
from rlkit.traces import infinity_norm, markov_Z, operator_Z, spectral_radius
from rlkit.traces.operator import credits, pair_kernel, pairs_taken
from rlkit.traces.rules import Rule, find

GAMMA, STEPS = 0.8, 15  # of the random MDPs: discount, and where the sum is cut
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ROUNDING = 1e-9
STYLES = {
    "importance_sampling": ("IS", "grey", "-"),
    "q_lambda": ("Q(λ)", "black", "--"),
    "tree_backup": ("tree backup", "green", "-"),
    "retrace": ("Retrace", "blue", "-"),
    "truncated_importance_sampling": ("truncated IS", "orange", "--"),
    "recursive_retrace": ("rec. Retrace", "sky", "-"),
    "moretrace": ("Moretrace", "purple", "--"),
    "rbis": ("RBIS", "vermilion", "-"),
}
CONTRACTING = tuple(rule for rule in STYLES if find(rule).contracts)

CAPTION = """
The multistep operator maps errors of Q by the matrix Z. (a) Maximum norm and (b) spectral radius of
Z, means over random MDPs with 2 states and 2 actions, policies and transitions uniform on the
simplex, discount 0.8, by enumeration of all histories, the sum cut after 15 steps. Solid lines:
rules with beta_t <= rho_t beta_(t-1) on every history, whose norm is at most gamma on every MDP;
dashed: the others; the norm of Q(lambda) leaves the panel. (c) Largest error after repeated
application: truncated IS on one state (gamma 0.94, lambda 1) and a trace that revives after a cut
(gamma 2/3) begin with norms of 1.14 and 1 but converge; uncorrected Q(lambda) on two states (gamma
0.95, lambda 1) diverges where RBIS converges. (d) Online evaluation of a nearly greedy policy from
a half random one on random MDPs with 5 states, step size 0.1: root mean squared error of Q after
the last step, means over replicas with 95 % intervals; at lambda 1 IS diverges and is not drawn.
"""


class Sweep(NamedTuple):
    """Operators of a rule on random MDPs, `[lambda, MDP]` each."""

    norm: Array
    radius: Array
    lowest: Array  # smallest entry
    rows: Array  # [lambda, MDP, SA] row sums


def simplex(rng: np.random.Generator, *shape: int) -> Tensor:
    """Rows uniform on the simplex, `[*shape]`."""
    return torch.as_tensor(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


@cache
def sweep(rule: str, count: int) -> Sweep:
    """The rule's operators on `count` random MDPs, the same ones for every rule."""
    rng = np.random.default_rng(0)
    tables = [simplex(rng, count, *shape) for shape in ((2, 2, 2), (2, 2), (2, 2))]
    mdps = list(zip(*tables, strict=True))
    operators = [
        operator_Z(kernel, behaviour, target, rule, decay, GAMMA, STEPS).z
        for decay in LAMBDAS
        for kernel, behaviour, target in mdps
    ]
    z = torch.stack(operators).unflatten(0, (len(LAMBDAS), count))
    return Sweep(
        infinity_norm(z).numpy(),
        spectral_radius(z).numpy(),
        z.amin((-2, -1)).numpy(),
        z.sum(-1).numpy(),
    )


@cache
def special() -> dict[str, tuple[Tensor, float]]:
    """Z and discount of the four special cases."""
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    half, tilted = (torch.tensor([p], dtype=torch.float64) for p in ([0.5, 0.5], [0.6, 0.4]))
    truncated = operator_Z(one, half, tilted, "truncated_importance_sampling", 1.0, 0.94, 400)
    swap = torch.tensor([[[0.0, 1], [1, 0]], [[1, 0], [0, 1]]], dtype=torch.float64)
    always, rare = (torch.tensor([p] * 2, dtype=torch.float64) for p in ([1.0, 0], [0.05, 0.95]))
    return {
        "truncated": (truncated.z, 0.94),
        "reviving": (reviving(pair_kernel(one, half), half), 2 / 3),
        "q_lambda": (markov_Z(swap, rare, always, "q_lambda", 1.0, 0.95), 0.95),
        "rbis": (operator_Z(swap, rare, always, "rbis", 1.0, 0.95, 400).z, 0.95),
    }


def reviving(kernel: Tensor, policy: Tensor) -> Tensor:
    """Z `[2, 2]` of the on-policy trace that is 1 whenever the last action was 0."""
    rule = Rule(recursion=lambda past, taken: taken.greedy, products=True)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = credits(
        rule, 1.0, kernel, pairs_taken(policy, policy, "retrace")._replace(greedy=first), 99
    )
    discounts = (2 / 3) ** torch.arange(100, dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    return identity + (discounts[:, None, None] * b).sum(0) @ (2 / 3 * kernel - identity)


def plot(data: Data) -> Figure:
    """Norms, radii, special cases, online errors."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 5.6), layout="constrained")
    count = int(data.base["replicas"])
    for ax, name, bound in ((axes[0, 0], "norm", GAMMA), (axes[0, 1], "radius", 1.0)):
        curves = {rule: getattr(sweep(rule, count), name).mean(1) for rule in STYLES}
        ax.axhline(bound, color=PALETTE["black"], linewidth=0.6, linestyle=":")
        against_lambda(ax, curves, 1.05)
    axes[0, 0].set(ylabel="maximum norm of Z", title="(a) norm; dotted: its bound γ")
    axes[0, 1].set(ylabel="spectral radius of Z", title="(b) radius; dotted: convergence below 1")
    powers(axes[1, 0])
    online(axes[1, 1], data)
    return figure


def against_lambda(ax: Axes, curves: dict[str, Array], top: float) -> None:
    """One line a rule, named at its end; the axis ends at `top`."""
    ends = []
    for rule, values in curves.items():
        label, key, line = STYLES[rule]
        ax.plot(LAMBDAS, values, line, color=PALETTE[key])
        ends.append(end(label, key, float(values[-1]), top))
    ax.set(xlabel="λ", xlim=(0, 1), ylim=(0, top))
    label_ends(ax, ends, gap=0.065)


def powers(ax: Axes) -> None:
    """Norms of the powers of Z in the special cases."""
    lines = {
        "truncated": ("truncated IS", "orange"),
        "reviving": ("reviving trace", "purple"),
        "q_lambda": ("Q(λ)", "black"),
        "rbis": ("RBIS, as Q(λ)", "vermilion"),
    }
    times = range(7)
    ends = []
    for name, (label, key) in lines.items():
        z, _ = special()[name]
        norms = [float(infinity_norm(torch.linalg.matrix_power(z, k))) for k in times]
        ax.plot(times, norms, "o-", color=PALETTE[key], clip_on=False)
        ends.append((6.0, norms[-1], label, PALETTE[key]))
    ax.axhline(1.0, color=PALETTE["black"], linewidth=0.6, linestyle=":")
    ax.set(yscale="log", xlim=(0, 6), xlabel="applications of the operator")
    ax.set(ylabel="largest error, from at most 1", title="(c) special cases")
    label_ends(ax, ends, gap=0.065)


def online(ax: Axes, data: Data) -> None:
    """Errors of the learning agent."""
    samples = {rule: final(data, rule) for rule in STYLES}
    top = 1.1 * max(float(sample[0].mean()) for sample in samples.values())
    ends = []
    for rule, (label, key, line) in STYLES.items():
        shown = [sample for sample in samples[rule] if sample.mean() < top]
        points(ax, LAMBDAS[: len(shown)], shown, PALETTE[key], linestyle=line)
        ends.append(end(label, key, float(samples[rule][-1].mean()), top))
    ax.set(xlabel="λ", xlim=(0, 1), ylim=(top / 4, top), ylabel="RMSE of Q")
    ax.set(title=f"(d) online, after {data.base['steps']:,} steps")
    label_ends(ax, ends, gap=0.065)


def end(label: str, key: str, value: float, top: float) -> tuple[float, float, str, str]:
    """Name of a curve at λ = 1 for `label_ends`, at the upper edge if the curve has left."""
    return 1.0, min(value, top), label if value < top else f"{label}, above", PALETTE[key]


def final(data: Data, rule: str) -> Sequence[Array]:
    """Errors after the last step, `[N]` for each decay."""
    cells = [data.cell("trace_evaluation", agent_rule=rule, agent_lambda_=x) for x in LAMBDAS]
    return [cell.final("rmse") for cell in cells]


def exact(name: str, statement: str, passed: bool, effect: float, count: int = 1) -> Claim:
    """A claim about a number without noise."""
    return Claim(name, statement, bool(passed), float(effect), (float(effect),) * 2, count)


def claims(data: Data) -> list[Claim]:
    """Bounds on random MDPs, the published special cases, one identity of the learning agent."""
    gap = final(data, "rbis")[-1] - final(data, "recursive_retrace")[-1]
    same = "online at λ = 1: RBIS and recursive Retrace have the same error (difference)"
    count = int(data.base["replicas"])
    return [*bounds(count), *known_numbers(), within("identity at 1", same, gap, ROUNDING)]


def bounds(count: int) -> list[Claim]:
    """What theory says of all MDPs and decays."""
    found = {rule: sweep(rule, count) for rule in STYLES}
    excess = max(found[rule].norm.max() for rule in CONTRACTING) - GAMMA
    lowest = min(found[rule].lowest.min() for rule in CONTRACTING)
    chain = ("tree_backup", "retrace", "rbis")
    steps = [(found[b].rows - found[a].rows).max() for a, b in pairwise(chain)]
    loose = ("truncated_importance_sampling", "moretrace")
    radius = max(found[rule].radius.max() for rule in loose)
    names = ", ".join(STYLES[rule][0] for rule in CONTRACTING)
    broken = min(found[rule].norm[-1].max() for rule in loose) - GAMMA
    return [
        exact("norm", f"{names}: norm of Z at most γ (excess)", excess <= ROUNDING, excess, count),
        exact(
            "sign", f"{names}: no negative entry in Z (least)", lowest >= -ROUNDING, lowest, count
        ),
        exact(
            "order",
            "row sums of Z: RBIS <= Retrace <= tree backup on every MDP (largest difference)",
            max(steps) <= ROUNDING,
            max(steps),
            count,
        ),
        exact(
            "norm of the others",
            "truncated IS and Moretrace at λ = 1: norm above γ on some MDP (least excess)",
            broken > ROUNDING,
            broken,
            count,
        ),
        exact(
            "loose rules converge",
            "truncated IS and Moretrace: spectral radius below 1 (largest)",
            radius < 1,
            radius,
            count,
        ),
    ]


def known_numbers() -> list[Claim]:
    """The published special cases."""
    norm, radius = (
        {name: float(measure(z)) for name, (z, _) in special().items()}
        for measure in (infinity_norm, spectral_radius)
    )
    rows = [
        ("truncated IS: norm", norm["truncated"], 1.14013518, 5e-9),
        ("truncated IS: spectral radius", radius["truncated"], 0.269, 5e-4),
        ("reviving trace: norm", norm["reviving"], 1.0, ROUNDING),
        ("reviving trace: spectral radius", radius["reviving"], 1 / 3, ROUNDING),
        ("uncorrected Q(λ): spectral radius", radius["q_lambda"], 12.45, 5e-3),
    ]
    numbers = [
        exact(name, f"{name} {wanted:.9g} within {margin:g}", abs(value - wanted) <= margin, value)
        for name, value, wanted, margin in rows
    ]
    text = "RBIS where Q(λ) diverges: norm of Z at most γ = 0.95"
    return [*numbers, exact("RBIS contracts", text, norm["rbis"] <= 0.95 + ROUNDING, norm["rbis"])]
