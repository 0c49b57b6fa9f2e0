"""Known exact values of the four problems."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom

from rlkit.random import Rng
from rlkit.registry import load
from rlkit.stocks import (
    Lattice,
    augment,
    best_constrained,
    best_homeostasis,
    best_lower_cvar,
    best_mean_variance,
    best_target,
    best_upper_cvar,
    distributional_value_iteration,
    on_lattice,
    reach,
)
from rlkit.stocks.functionals import distance, mean

EXACT = 1e-9
TARGETS_6 = (
    -6, -5, -4, -3, -2, -1, 0, -1, -0.96875, -0.8125, -1.46875, -1.75, -2.03125, -2.65625,
    -3.1875, -3.9375, -4.65625, -5.375, -6.25, -7.25, -8.09375, -9.03125, -10.03125, -11.03125,
    -12,
)  # fmt: skip


def lattice(name: str, **fields: int) -> Lattice:
    problem = load("problem", name)(**fields)
    spec = problem.spec(problem.instance(Rng(0, "instance", torch.arange(1))))
    return on_lattice(augment(spec.known.model, 1.0, spec.horizon, spec.known.rewards))


def of_coins(gambles: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Law of the total when exactly `gambles` of `horizon` choices are gambles."""
    wins = np.arange(gambles + 1)
    return horizon - gambles + 4.0 * wins, binom.pmf(wins, gambles, 0.5)


@pytest.mark.parametrize(
    ("horizon", "lower", "stock"),
    [
        (2, {0.25: 2, 0.5: 2, 0.75: 3}, {}),
        (
            6,
            {0.05: 6, 0.1: 6, 0.25: 6.625, 0.5: 8.375, 0.75: 10, 1: 12},
            {0.05: -6, 0.1: -6, 0.25: -9, 0.5: -12, 0.75: -16},
        ),
    ],
)
def test_lower_tails_of_double_or_quit(horizon, lower, stock):
    problem = lattice("DoubleOrQuit-v0", horizon=horizon)
    for tau, value in lower.items():
        found = best_lower_cvar(problem, tau)
        assert abs(found.value - value) < EXACT
        assert found.stock == stock.get(tau, found.stock)


def test_three_in_the_lower_tail_of_two_choices_needs_the_history(tail_mean):
    found = best_lower_cvar(lattice("DoubleOrQuit-v0", horizon=2), 0.75)
    action = found.action[:, 0]
    assert action[0, 0] == 1 and action[1, 4] == 0 and action[1, 0] == 1  # B, then A after a win
    blind = max(tail_mean(*of_coins(gambles, 2), 0.75, lower=True) for gambles in range(3))
    assert abs(blind - 8 / 3) < EXACT


@pytest.mark.parametrize(
    ("horizon", "upper"),
    [
        (2, {0.25: 8, 0.5: 6, 0.75: 16 / 3}),
        (6, {0.05: 21.25, 0.1: 20.625, 0.25: 18, 0.5: 15.75, 0.75: 14, 1: 12}),
    ],
)
def test_upper_tails_of_double_or_quit(horizon, upper):
    problem = lattice("DoubleOrQuit-v0", horizon=horizon)
    for tau, value in upper.items():
        found = best_upper_cvar(problem, tau)
        assert abs(found.value - value) < EXACT
        assert abs(found.deterministic.value - value) < EXACT and found.weight == (1.0,)


def test_targets_of_double_or_quit(tail_mean):
    two, six = (lattice("DoubleOrQuit-v0", horizon=h) for h in (2, 6))
    five = torch.tensor([5.0])
    assert abs(best_target(two, five).item() + 1.5) < EXACT
    assert abs(best_target(two, five, 2.0).item() + 6.5) < EXACT
    blind = [-(p * np.abs(x - 5)).sum() for x, p in (of_coins(n, 2) for n in range(3))]
    assert abs(max(blind) + 2) < EXACT
    found = best_target(six, torch.arange(25.0))
    assert torch.allclose(found, torch.tensor(TARGETS_6).double(), rtol=0, atol=EXACT)
    assert abs(six.value(six.maximise(mean().f(six.support))) - 12) < EXACT


def test_what_blindness_to_the_stock_costs_in_double_or_quit():
    goals = np.arange(25.0)
    laws = [of_coins(gambles, 6) for gambles in range(7)]
    # The total of a fixed sequence of choices depends on the number of gambles alone.
    value = np.array([[-(p * np.abs(x - g)).sum() for g in goals] for x, p in laws])
    loss = np.array(TARGETS_6) - value.max(0)
    assert abs(loss.mean() - 0.441) < 5e-4 and loss.argmax() == 12
    assert abs(loss.max() - 1.719) < 5e-4
    always = np.array(TARGETS_6) - value[6]
    assert abs(always.mean() - 2.699) < 5e-4


def test_mean_minus_variance():
    two = lattice("DoubleOrQuit-v0", horizon=2)
    for weight, value in ((0.1, 3.2), (0.25, 2.4375), (0.5, 2.0)):
        assert abs(best_mean_variance(two, weight).value - value) < EXACT
    walk = lattice("StockGrid-v0")
    for weight, value, b in ((0.01, 18.4, 20), (0.05, 13.11328125, 17.625), (0.1, 10, 10)):
        found = best_mean_variance(walk, weight)
        assert abs(found.value - value) < EXACT and abs(found.stock + b) < EXACT


def test_stock_grid():
    walk = lattice("StockGrid-v0")
    assert abs(walk.value(walk.maximise(mean().f(walk.support))) - 20) < EXACT
    for tau, value in ((0.25, 10), (0.5, 10.484375), (0.75, 14.854167)):
        assert abs(best_lower_cvar(walk, tau).value - value) < 5e-7
    for tau, value in ((0.05, 45.875), (0.1, 41.3125), (0.25, 35.625), (0.5, 29.84375)):
        found = best_upper_cvar(walk, tau)
        assert abs(found.value - value) < EXACT
        assert abs(found.deterministic.value - value) < EXACT
    goals = torch.arange(31.0)
    value = best_target(walk, goals)
    assert torch.allclose(value[:11], torch.zeros(11).double(), rtol=0, atol=EXACT)
    for goal, expected in ((11, -1), (12, -1.9609), (15, -3.1133), (20, -5.2266), (30, -11.6016)):
        assert abs(value[goal] - expected) < 5.1e-5


HOMEOSTASIS = (((-3, -2), -0.5), ((-4, -1), -0.375), ((-2, -2), -0.25), ((2, -3), -2.0))


def test_homeostasis():
    problem = lattice("Homeostasis-v0")
    stock = torch.tensor([needs for needs, _ in HOMEOSTASIS])
    value = torch.tensor([value for _, value in HOMEOSTASIS]).double()
    assert torch.allclose(best_homeostasis(problem, stock), value, rtol=0, atol=EXACT)
    value[3] = -4
    squared = best_homeostasis(problem, stock, 2.0, 2.0)
    assert torch.allclose(squared, value, rtol=0, atol=EXACT)


def test_budget_chain():
    problem = lattice("BudgetChain-v0")
    table = {
        0: (12.5, 7.5, 5, 5),
        1: (13.46875, 10.40625, 8.875, 8.875),
        2: (14.28125, 12.84375, 12.125, 12.125),
    }
    budgets = torch.tensor([0.0, 1.0, 2.0])
    for column, weight in enumerate((1.0, 3.0, 5.0, 10.0)):
        value = best_constrained(problem, budgets, weight)
        expected = torch.tensor([row[column] for row in table.values()]).double()
        assert torch.allclose(value, expected, rtol=0, atol=EXACT)


def test_lattice_laws_and_reachable_stocks_agree_on_all_problems():
    for name, goal in (("DoubleOrQuit-v0", 12.0), ("StockGrid-v0", 11.0)):
        problem = lattice(name)
        final = distance().f(problem.support - goal)
        plan = problem.maximise(final)
        law = problem.law(plan.action)
        assert abs(float((law * final).sum()) - float(problem.value(plan))) < EXACT
        if name == "DoubleOrQuit-v0":
            tables = distributional_value_iteration(problem, distance())
            start = distributional_value_iteration(
                on_lattice(problem.model, (-12,), (-12,)), distance()
            )
            assert abs(float(start.value[0, 0, 0]) - float(problem.value(plan))) < EXACT
            assert torch.allclose(tables.probability.sum(-1), torch.ones(()).double())
        layers = reach(problem.model)
        other = layers.maximise(distance().f(layers.support - goal))
        assert abs(float(layers.value(other)) - float(problem.value(plan))) < EXACT


def test_no_open_loop_sequence_beats_the_plan_on_the_grid_of_two():
    problem = lattice("StockGrid-v0", size=2, horizon=4)
    final = distance().f(problem.support - 4.0)
    best = float(problem.value(problem.maximise(final)))
    states, _actions, points = problem.size
    for sequence in product(range(4), repeat=4):
        action = torch.tensor(sequence)[:, None, None].expand(4, states, points)
        value = float((problem.law(action) * final).sum())
        assert value <= best + EXACT
        assert abs(float(problem.evaluate(final, action)[0, 0, problem.place()]) - value) < EXACT
