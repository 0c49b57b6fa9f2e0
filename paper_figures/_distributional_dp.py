"""Exact laws and claims of the figure `distributional_dp`."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from rlkit import parameters, stocks
from rlkit.distributions import Law, cvar_lower, cvar_upper
from rlkit.figures import Array, Cell, Claim, Data, above, within
from rlkit.models import from_outcomes
from rlkit.random import Rng
from rlkit.stocks import functionals
from rlkit.stocks.reachable import dynamic_programming
from rlkit.stocks.utilities import policy_for

COINS, GRID = "DoubleOrQuit-v0", "StockGrid-v0"
STEPS = {COINS: 6, GRID: 12}
GOALS = {COINS: tuple(range(25)), GRID: (0, 5, 10, 11, 12, 15, 20, 25, 30)}
LOWER = {COINS: (0.05, 0.1, 0.25, 0.5, 0.75), GRID: (0.25, 0.5, 0.75)}
UPPER = {COINS: (0.05, 0.1, 0.25, 0.5, 0.75), GRID: (0.05, 0.1, 0.25, 0.5)}
# Reference values, fixed before the runs.
TARGETS_COINS = (
    -6, -5, -4, -3, -2, -1, 0, -1, -0.96875, -0.8125, -1.46875, -1.75, -2.03125, -2.65625,
    -3.1875, -3.9375, -4.65625, -5.375, -6.25, -7.25, -8.09375, -9.03125, -10.03125, -11.03125,
    -12,
)  # fmt: skip
LOWER_COINS = {0.05: 6, 0.1: 6, 0.25: 6.625, 0.5: 8.375, 0.75: 10, 1.0: 12}
UPPER_COINS = {0.05: 21.25, 0.1: 20.625, 0.25: 18, 0.5: 15.75, 0.75: 14, 1.0: 12}
TARGETS_GRID = {0: 0, 5: 0, 10: 0, 11: -1, 12: -1.9609, 15: -3.1133, 20: -5.2266, 30: -11.6016}
LOWER_GRID = {0.25: 10, 0.5: 10.484375, 0.75: 14.854167, 1.0: 20}
UPPER_GRID = {0.05: 45.875, 0.1: 41.3125, 0.25: 35.625, 0.5: 29.84375}
VARIANCE_GRID = {0.01: 18.4, 0.05: 13.11328125, 0.1: 10}
NEEDS = {(-3, -2): -0.5, (-4, -1): -0.375, (-2, -2): -0.25, (2, -3): -2}
BUDGETS = {
    (0, 1): 12.5, (0, 3): 7.5, (0, 5): 5, (0, 10): 5, (1, 1): 13.46875, (1, 3): 10.40625,
    (1, 5): 8.875, (1, 10): 8.875, (2, 1): 14.28125, (2, 3): 12.84375, (2, 5): 12.125,
    (2, 10): 12.125,
}  # fmt: skip
ROUNDED = 5.1e-5  # half a unit of the last digit that some references give


@cache
def lattice(name: str) -> stocks.Lattice:
    """A problem at its default size, as a lattice."""
    problem = parameters.build("problem", {"name": name})
    spec = problem.spec(problem.instance(Rng(0, "instance", torch.arange(1))))
    return stocks.on_lattice(
        stocks.augment(spec.known.model, 1.0, spec.horizon, spec.known.rewards)
    )


@cache
def planned(name: str, objective: str, number: float = 0.0) -> Law:
    """Exact law of the return under the best policy."""
    problem = lattice(name)
    if objective == "lower_cvar":
        return stocks.best_lower_cvar(problem, number).law
    if objective == "upper_cvar":
        return stocks.best_upper_cvar(problem, number).law
    utility = functionals.mean() if objective == "mean" else functionals.distance()
    return policy_for(problem, utility, (-number,))[1]


def coins(gambles: int) -> Law:
    """Law of the total when `gambles` of the six choices are gambles, in whatever order."""
    problem = lattice(COINS)
    action = (torch.arange(6) < gambles).long()[:, None, None].expand(6, 1, problem.size[2])
    return Law(problem.support.squeeze(-1), problem.law(action))


def score(objective: str, number: float) -> Callable[[Law], float]:
    """The objective as a function of a law."""
    if objective == "target":
        return lambda law: float(-(law.probability * (law.value - number).abs()).sum())
    if objective == "mean":
        return lambda law: float((law.probability * law.value).sum())
    tail = cvar_lower if objective == "lower_cvar" else cvar_upper
    return lambda law: float(tail(law, number))


def curve(
    name: str, objective: str, numbers: Sequence[float], laws: Sequence[Law] | None = None
) -> Array:
    """Values of the best policies, or the best value among fixed `laws`, `[len(numbers)]`."""
    return np.array(
        [max(map(score(objective, x), laws or [planned(name, objective, x)])) for x in numbers]
    )


def cells(data: Data) -> list[tuple[str, str, float, Cell]]:
    """Every run with its problem, objective and number."""
    found = []
    for cell in data.cells:
        objective = cell.config["agent.objective"]
        number = cell.config["agent.target" if objective == "target" else "agent.tau"]
        found.append((cell.config["env.name"], objective, float(number), cell))
    return found


def sample(objective: str, number: float, returns: Array, law: Law) -> Array:
    """Terms `[N]` whose mean estimates the objective, given the law's own quantile."""
    if objective == "mean":
        return returns
    if objective == "target":
        return -np.abs(returns - number)
    sign = 1.0 if objective == "lower_cvar" else -1.0
    value, mass = (part.numpy() for part in law)
    order = np.argsort(sign * value)
    row = int(np.searchsorted(np.cumsum(mass[order]), number - 1e-12))
    level = value[order][min(row, len(value) - 1)]
    return np.asarray(level + sign * np.minimum(sign * (returns - level), 0) / number)


def reference(name: str, statement: str, errors: Sequence[float], margin: float) -> Claim:
    """Exact values are within `margin` of their references; no replicas are involved."""
    worst = float(np.max(np.abs(errors)))
    return Claim(name, statement, worst < margin, worst, (worst, worst), 0)


def claims(data: Data) -> list[Claim]:
    """Tables, brute force, the price of blindness, and the agent on the engine."""
    return [
        tables_of_coins(),
        tables_of_grid(),
        tables_of_vectors(),
        brute_force(),
        *blindness(),
        acceptance(data),
        simulated_gap(data),
        agreement(data),
    ]


def tables_of_coins() -> Claim:
    """DoubleOrQuit against its reference values."""
    errors = list(curve(COINS, "target", GOALS[COINS]) - np.array(TARGETS_COINS))
    errors += list(
        curve(COINS, "lower_cvar", list(LOWER_COINS)) - np.array([*LOWER_COINS.values()])
    )
    errors += list(
        curve(COINS, "upper_cvar", list(UPPER_COINS)) - np.array([*UPPER_COINS.values()])
    )
    text = "DoubleOrQuit: 25 targets and 12 tail means equal the reference (largest error, exact)"
    return reference("coins", text, errors, 1e-9)


def tables_of_grid() -> Claim:
    """StockGrid against its reference values."""
    errors = list(curve(GRID, "target", list(TARGETS_GRID)) - np.array([*TARGETS_GRID.values()]))
    errors += list(curve(GRID, "lower_cvar", list(LOWER_GRID)) - np.array([*LOWER_GRID.values()]))
    errors += list(curve(GRID, "upper_cvar", list(UPPER_GRID)) - np.array([*UPPER_GRID.values()]))
    for weight, value in VARIANCE_GRID.items():
        errors.append(stocks.best_mean_variance(lattice(GRID), weight).value - value)
    text = (
        "StockGrid: 8 targets, 8 tail means, 3 mean-variance optima equal the reference to its 4 "
        "digits (largest error, exact)"
    )
    return reference("grid", text, errors, ROUNDED)


def tables_of_vectors() -> Claim:
    """Homeostasis and BudgetChain against their reference values."""
    errors = []
    for needs, value in NEEDS.items():
        found = stocks.best_homeostasis(lattice("Homeostasis-v0"), torch.tensor([needs]))
        errors.append(float(found) - value)
    for (budget, weight), value in BUDGETS.items():
        chain, start = lattice("BudgetChain-v0"), torch.tensor([float(budget)])
        errors.append(float(stocks.best_constrained(chain, start, weight)) - value)
    text = "vector stocks: 4 homeostasis and 12 budget values equal the reference (largest error)"
    return reference("vectors", text, errors, 1e-9)


def brute_force(instances: int = 200) -> Claim:
    """The best history-dependent policy of random problems, for every admissible utility."""
    rng, errors = np.random.default_rng(0), []
    utilities = [build() for build, _ in functionals.UTILITIES.values()]
    scalar = [u for u in utilities if u.dimension == 1]
    for _ in range(instances):
        kernel, reward = rng.dirichlet(np.ones(2), (2, 2)), rng.normal(0, 2, (2, 2, 2))
        model = from_outcomes(
            torch.arange(2).expand(2, 2, 2),
            torch.from_numpy(kernel),
            torch.from_numpy(reward),
            torch.tensor([1.0, 0.0]),
        )
        problem = stocks.reach(stocks.augment(model, horizon=3))
        value, mass = every_policy(kernel, reward, 0, 3)
        for utility in scalar:
            best = (torch.from_numpy(mass) * utility.f(torch.from_numpy(value)[..., None])).sum(-1)
            found = dynamic_programming(problem, utility, torch.zeros(1))
            errors.append((found.value - float(best.max())) / (1 + abs(found.value)))
    text = (
        f"{instances} random undiscounted problems of 2 states, 2 actions, 3 steps: dynamic "
        f"programming equals the best of all 128 history-dependent policies for {len(scalar)} "
        "utilities (largest relative error)"
    )
    return reference("brute force", text, errors, 1e-9)


def every_policy(kernel: Array, reward: Array, state: int, steps: int) -> tuple[Array, Array]:
    """Return laws of all history-dependent policies: values and masses `[n, X]`."""
    if not steps:
        return np.zeros((1, 1)), np.ones((1, 1))
    below = [every_policy(kernel, reward, following, steps - 1) for following in (0, 1)]
    pairs = np.array(list(product(range(len(below[0][0])), repeat=2))).T
    values, masses = [], []
    for action in (0, 1):
        parts = [
            (
                reward[state, action, s] + below[s][0][row],
                kernel[state, action, s] * below[s][1][row],
            )
            for s, row in enumerate(pairs)
        ]
        values.append(np.concatenate([part[0] for part in parts], 1))
        masses.append(np.concatenate([part[1] for part in parts], 1))
    return np.concatenate(values), np.concatenate(masses)


def blindness() -> list[Claim]:
    """What policies lose over all targets if they do not see the stock."""
    best = curve(COINS, "target", GOALS[COINS])
    blind = best - curve(COINS, "target", GOALS[COINS], [coins(n) for n in range(7)])
    always = best - curve(COINS, "target", GOALS[COINS], [coins(6)])
    text = "DoubleOrQuit, mean over targets 0..24: the best {} loses {} (difference, exact)"
    return [
        reference(
            "open loop", text.format("open-loop policy", 0.441), [blind.mean() - 0.441], 5e-4
        ),
        reference(
            "largest loss",
            "DoubleOrQuit: the largest loss of the best open-loop policy is 1.719, at target 12 "
            "(difference, exact)",
            [blind[12] - 1.719, blind.max() - blind[12]],
            5e-4,
        ),
        reference(
            "always gamble",
            text.format("", 2.699).replace("the best ", "gambling always"),
            [always.mean() - 2.699],
            5e-4,
        ),
    ]


def run(data: Data, objective: str, **fields: Any) -> Cell:
    """A run on DoubleOrQuit."""
    return data.cell("distributional_vi", env=COINS, agent_objective=objective, **fields)


def acceptance(data: Data) -> Claim:
    """The simulated lower quarter."""
    returns = run(data, "lower_cvar", agent_tau=0.25).final("reward")
    terms = sample("lower_cvar", 0.25, returns, planned(COINS, "lower_cvar", 0.25))
    text = (
        "DoubleOrQuit, simulated: the worst quarter of returns has mean above 6.3 (6.625 planned; "
        "both constant choices give 6)"
    )
    return above("lower quarter", text, terms, 6.3)


def simulated_gap(data: Data) -> Claim:
    """Plans against always gambling, replica by replica."""
    gamble = run(data, "mean").final("reward")
    loss = [
        np.abs(gamble - goal)
        - np.abs(run(data, "target", agent_target=float(goal)).final("reward") - goal)
        for goal in GOALS[COINS]
    ]
    text = (
        "DoubleOrQuit, simulated, mean over targets 0..24: maximising the mean loses 2.699 within "
        "0.1 (difference)"
    )
    return within("simulated gap", text, np.mean(loss, 0) - 2.699, 0.1)


def agreement(data: Data) -> Claim:
    """All simulated objectives against the exact ones, at 5 % over all runs together."""
    runs = cells(data)
    ratios = [deviation(*entry) for entry in runs]
    bound = float(-ndtri(0.025 / len(runs)))
    worst = float(max(ratios))
    text = (
        f"{len(runs)} runs: simulated objectives are within {bound:.2f} standard errors of the "
        "exact ones, 5 % over all runs together (largest distance in standard errors)"
    )
    replicas = min(cell.final("reward").size for *_, cell in runs)
    return Claim("agreement", text, worst < bound, worst, (0.0, worst), replicas)


def deviation(name: str, objective: str, number: float, cell: Cell) -> float:
    """Distance of the simulated objective from the exact one, in standard errors."""
    law, returns = planned(name, objective, number), cell.final("reward")
    terms = sample(objective, number, returns, law)
    distance = abs(float(terms.mean()) - score(objective, number)(law))
    error = float(terms.std(ddof=1)) / np.sqrt(terms.size)
    if distance < 1e-9:
        return 0.0
    return distance / error if error else float("inf")


def best_actions(problem: stocks.Lattice, goal: float, stage: int, won: float) -> Tensor:
    """Which actions are best for a target, `[S, A]` bool, at a stage with `won` so far."""
    final = functionals.distance().f(problem.support - goal)
    value = problem.maximise(final).value[stage + 1]
    q = problem.lookahead(value)[..., problem.place((won,))]
    return q >= q.amax(-1, keepdim=True) - 1e-9
