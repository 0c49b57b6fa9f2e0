"""Identities of stocks, plans and searches that need no table."""

import numpy as np
import pytest
import torch

from rlkit.distributions import cvar_lower, cvar_upper, expectation
from rlkit.models import from_outcomes
from rlkit.planning import backward_induction
from rlkit.stocks import (
    augment,
    best_lower_cvar,
    best_mean_variance,
    best_upper_cvar,
    distributional_policy_iteration,
    distributional_value_iteration,
    on_lattice,
    reach,
    solve_on_grid,
    stock_edit,
    stock_next,
)
from rlkit.stocks import functionals as f
from rlkit.stocks.lattice import greedy
from rlkit.stocks.policy_iteration import improve
from rlkit.stocks.reachable import dynamic_programming
from rlkit.stocks.reduction import reduce

EXACT = 1e-9


def coins(horizon=5, gamma=1.0, win=4.0, shift=0.0, unit=1.0):
    """One coin for sure or `win` half of the time, `shift` paid at every step."""
    model = from_outcomes(
        torch.zeros(1, 2, 2, dtype=torch.int64),
        torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]),
        unit * (torch.tensor([[[1.0, 1.0], [win, 0.0]]]) + shift),
        torch.ones(1),
    )
    return augment(model, gamma, horizon)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_initial_stock_plus_return_is_the_discounted_stock_plus_return_at_any_time(gamma):
    rng = np.random.default_rng(0)
    reward = torch.from_numpy(rng.normal(size=(6, 3)))
    first = torch.from_numpy(rng.normal(size=3))
    stock = first
    whole = first + sum(gamma**i * reward[i] for i in range(6))
    for t in range(6):
        rest = sum(gamma ** (i - t) * reward[i] for i in range(t, 6))
        assert torch.allclose(whole, gamma**t * (stock + rest), atol=1e-12)
        stock = stock_next(stock, reward[t], gamma)
    assert torch.allclose(whole, gamma**6 * stock, atol=1e-12)


def test_edited_stocks_are_those_of_an_episode_begun_with_the_other_stock():
    rng, gamma = np.random.default_rng(1), 0.8
    reward = torch.from_numpy(rng.normal(size=(5, 4, 2)))  # time, episode, m
    old, new = torch.from_numpy(rng.normal(size=(2, 4, 2)))
    before, after = old, new
    for t in range(5):
        edited = stock_edit(before, torch.full((4,), t), old, new, gamma)
        assert torch.allclose(edited, after, atol=1e-12)
        assert torch.allclose(
            stock_next(edited, reward[t], gamma), stock_next(after, reward[t], gamma), atol=1e-12
        )
        before, after = stock_next(before, reward[t], gamma), stock_next(after, reward[t], gamma)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_the_reduced_plain_problem_has_the_same_value(cases, gamma, power):
    rng = np.random.default_rng(2)
    for _ in range(10):
        case, stock = cases(rng, gamma), torch.from_numpy(rng.normal(0, 2, 1))
        utility, problem = f.signed_power(power), reach(case.model())
        reduced = reduce(problem, utility, stock)
        assert reduced.discount == gamma**power
        value = torch.zeros(reduced.model.size[0], dtype=torch.float64)
        for _ in range(3):
            value = reduced.model.lookahead(value, reduced.discount).amax(-1)
        plain = reduced.offset + float((reduced.model.start * value).sum())
        assert abs(plain - dynamic_programming(problem, utility, stock).value) < EXACT
        if gamma == 1:
            plan = backward_induction(reduced.model, 3)
            start = float((reduced.model.start * plan.value[0]).sum())
            assert abs(reduced.offset + start - plain) < EXACT


def test_greedy_steps_weigh_stocks_or_totals():
    """One sure coin, then 0 or 1 with equal odds (action 0) or .2 (action 1)."""
    model = from_outcomes(
        torch.ones(2, 2, 2, dtype=torch.int64),
        torch.full((2, 2, 2), 0.5),
        torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [0.2, 0.2]]]),
        torch.tensor([1.0, 0.0]),
    )
    problem, zero = reach(augment(model, 0.5, 2)), torch.zeros(1)
    # Stocks 2 + {0, 1} or 2.2, totals 1 + {0, .5} or 1.1.
    for level, timed, action in ((2.1, False, 1), (2.1, True, 0), (1.05, True, 1), (1.2, True, 0)):
        utility = f.indicator(level)
        found = dynamic_programming(problem, utility, zero, timed, admissible=False)
        assert found.action[1].tolist() == [action]
        total = {0: [1.0, 1.5], 1: [1.1]}[action]
        assert abs(found.value - np.mean([x >= level for x in total])) < EXACT


def test_any_utility_reduces_without_discount(cases):
    case, stock = cases(np.random.default_rng(3)), torch.tensor([0.7]).double()
    problem = reach(case.model())
    for utility in (f.exponential(2.0), f.quadratic(0.3), f.indicator(1.0)):
        reduced = reduce(problem, utility, stock)
        plan = backward_induction(reduced.model, 3)
        start = reduced.offset + float((reduced.model.start * plan.value[0]).sum())
        assert abs(start - dynamic_programming(problem, utility, stock).value) < EXACT


def test_rewards_of_a_reduced_episode_telescope():
    problem, utility = reach(coins(3, 0.5)), f.distance(2.0)
    reduced = reduce(problem, utility, torch.tensor([-2.0]).double())
    state, total, weight = 0, reduced.offset, 1.0
    rewards, gamma = [4.0, 0.0, 1.0], 0.5
    for action, outcome in ((1, 0), (1, 1), (0, 0)):
        total += weight * float(reduced.model.reward[state, action, outcome])
        weight *= reduced.discount
        state = int(reduced.model.successor[state, action, outcome])
    returned = sum(gamma**t * reward for t, reward in enumerate(rewards))
    assert abs(total + (returned - 2) ** 2) < EXACT


@pytest.mark.parametrize("name", ["shortfall", "excess", "mean"])
def test_values_increase_with_the_stock_for_increasing_utilities(name):
    lattice = on_lattice(coins(), (-20,), (5,))
    value = lattice.maximise(f.UTILITIES[name][0]().f(lattice.support)).value[0, 0]
    inside = value[lattice.place((-20.0,)) : lattice.place((5.0,)) + 1]
    assert (inside.diff() >= -EXACT).all() and inside[-1] > inside[0]


@pytest.mark.parametrize("factor", [0.5, 3.0, 1000.0])
def test_positive_multiples_of_a_utility_have_the_same_policy(factor):
    lattice = on_lattice(coins(), (-20,), (5,))
    final = f.distance().f(lattice.support)
    plan, multiple = lattice.maximise(final), lattice.maximise(factor * final)
    assert torch.equal(plan.action, multiple.action)
    assert torch.allclose(multiple.value, factor * plan.value, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 5])
def test_homogeneous_objectives_scale_with_the_rewards(factor):
    one, many = on_lattice(coins()), on_lattice(coins(unit=float(factor)), unit=float(factor))
    for tau in (0.2, 0.6):
        assert (
            abs(best_lower_cvar(many, tau).value - factor * best_lower_cvar(one, tau).value) < EXACT
        )
        a, b = best_upper_cvar(many, tau), best_upper_cvar(one, tau)
        assert abs(a.value - factor * b.value) < EXACT
    fine = on_lattice(coins(unit=0.25), unit=0.25)
    assert abs(best_lower_cvar(fine, 0.5).value - 0.25 * best_lower_cvar(one, 0.5).value) < EXACT


@pytest.mark.parametrize("shift", [-3, 2])
def test_tails_translate_with_the_rewards_and_the_stock_with_them(shift):
    one, moved = on_lattice(coins()), on_lattice(coins(shift=float(shift)))
    for tau in (0.1, 0.5, 0.75):
        before, after = best_lower_cvar(one, tau), best_lower_cvar(moved, tau)
        assert abs(after.value - before.value - 5 * shift) < EXACT
        assert abs(after.stock - before.stock + 5 * shift) < EXACT
        upper = best_upper_cvar(moved, tau).value - best_upper_cvar(one, tau).value
        assert abs(upper - 5 * shift) < EXACT


def test_tails_go_from_the_best_worst_case_over_the_mean_to_the_best_best_case():
    lattice = on_lattice(coins())
    levels = (1e-4, 0.1, 0.3, 0.6, 1.0)
    lower = [best_lower_cvar(lattice, tau).value for tau in levels]
    upper = [best_upper_cvar(lattice, tau).value for tau in levels]
    assert abs(lower[0] - 5) < EXACT and abs(upper[0] - 20) < EXACT  # min of A's, max of B's
    assert abs(lower[-1] - 10) < EXACT and abs(upper[-1] - 10) < EXACT
    assert (np.diff(lower) >= -EXACT).all() and (np.diff(upper) <= EXACT).all()


def test_tails_of_one_law_add_up_to_its_mean():
    found = best_lower_cvar(on_lattice(coins()), 0.3)
    both = 0.3 * cvar_lower(found.law, 0.3) + 0.7 * cvar_upper(found.law, 0.7)
    assert abs(float(both - expectation(found.law))) < EXACT


def test_without_chance_all_objectives_agree(cases):
    rng = np.random.default_rng(4)
    case = cases(rng, whole=True)
    kernel = np.eye(2)[rng.integers(0, 2, (2, 2))]
    lattice = on_lattice(case._replace(kernel=kernel).model())
    best = float(lattice.value(lattice.maximise(lattice.support[:, 0])))
    for tau in (0.1, 0.5, 1.0):
        assert abs(best_lower_cvar(lattice, tau).value - best) < EXACT
        found = best_upper_cvar(lattice, tau)
        assert abs(found.value - best) < EXACT and abs(found.deterministic.value - best) < EXACT
    assert abs(best_mean_variance(lattice, 0.7).value - best) < EXACT


@pytest.mark.parametrize("name", ["distance", "shortfall", "quadratic"])
def test_policy_iteration_never_loses_anywhere(name):
    model = coins(4)
    lattice = on_lattice(model, (-16,), (0,))
    final = f.UTILITIES[name][0]().f(lattice.support)
    rng = np.random.default_rng(5)
    shape = (4, 1, lattice.size[2])
    action = torch.from_numpy(rng.integers(0, 2, shape))
    value = lattice.evaluate(final, action)
    for _ in range(4):
        action = improve(lattice, value, action)
        better = lattice.evaluate(final, action)
        assert (better >= value - 1e-12).all()
        value = better
    plan, rounds = distributional_policy_iteration(lattice, final)
    assert rounds <= 4 and torch.allclose(plan.value, value, atol=1e-12)
    assert torch.allclose(plan.value, lattice.maximise(final).value, atol=1e-12)


def test_return_laws_of_the_tables_give_their_values():
    lattice = on_lattice(coins(3), (-6,), (0,))
    functional = f.distance(2.0)
    tables = distributional_value_iteration(lattice, functional)
    place = lattice.place((-5.0,))
    outcome = lattice.support[place] + tables.support
    value = (tables.probability[0, 0, place] * functional.f(outcome)).sum()
    assert abs(float(value - tables.value[0, 0, place])) < EXACT
    best = lattice.maximise(functional.f(lattice.support)).value[0, 0, place]
    assert abs(float(best - value)) < EXACT
    law = lattice.law(tables.action, place)
    forward = (law * functional.f(lattice.support)).sum()
    assert abs(float(forward - value)) < EXACT


def test_batches_of_utilities_are_solved_one_by_one():
    lattice = on_lattice(coins())
    final = torch.stack([f.distance().f(lattice.support - goal) for goal in range(7)])
    batch = lattice.maximise(final)
    for row in range(7):
        alone = lattice.maximise(final[row])
        assert torch.equal(batch.value[row], alone.value)
        assert torch.equal(batch.action[row], alone.action)
        assert torch.equal(lattice.law(batch.action)[row], lattice.law(alone.action))


def test_ties_go_to_the_first_action():
    assert greedy(torch.tensor([[1.0, 1.0 + 1e-14, 0.0], [0.0, 2.0, 2.0]]), 1).tolist() == [0, 1]


def test_the_grid_of_totals_keeps_its_error_bound():
    stock = torch.tensor([-3.0, -1.0, 0.5]).double()
    for utility in (f.distance(), f.shortfall()):
        exact = reach(coins(6, 0.8))
        final = utility.f(exact.support + stock[:, None, None])
        expected = exact.value(exact.maximise(final))
        for spacing in (0.2, 0.01):
            found = solve_on_grid(coins(6, 0.8), utility, stock, spacing)
            assert ((found.value - expected).abs() <= found.error + 1e-12).all()
            assert found.error == pytest.approx(3.5 * spacing)
    assert ((found.value - expected).abs() < 2e-3).all()


def test_an_exponential_that_would_overflow_leaves_no_nan():
    # Action 0 loses 800 for sure, action 1 gains them; the first outcome is impossible.
    pay = torch.tensor([[[0.0, -800.0], [0.0, 800.0]]])
    chance = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    tables = from_outcomes(torch.zeros(1, 2, 2).long(), chance, pay, torch.ones(1))
    for problem in (
        on_lattice(augment(tables, 1.0, 2), unit=800.0),
        reach(augment(tables, 1.0, 2)),
    ):
        plan = problem.maximise(f.exponential().f(problem.support))
        assert float(problem.value(plan)) == 0
    found = dynamic_programming(problem, f.exponential(), torch.zeros(1))
    assert found.value == 0 and [stage[0].item() for stage in found.action] == [1, 1]


def test_the_error_bound_counts_the_interpolation_at_the_start():
    # One sure reward of a quarter spacing, the start between two points: two interpolations.
    sure = torch.full((1, 1, 1), 0.25).double()
    tables = from_outcomes(torch.zeros(1, 1, 1).long(), torch.ones(1, 1, 1), sure, torch.ones(1))
    found = solve_on_grid(augment(tables, 1.0, 1), f.distance(), torch.tensor([-2.75, -0.25]), 1.0)
    assert float(found.value[1]) == -0.5625  # the truth is 0
    assert found.error == 1.0


def test_an_infinite_horizon_is_the_limit_of_finite_ones():
    stock = torch.tensor([-4.0, -2.0]).double()
    endless = augment(coins(1, 0.6).model, 0.6, None)
    found = solve_on_grid(endless, f.distance(), stock, 0.01, tolerance=1e-3)
    values = []
    for horizon in (8, 11):
        exact = reach(coins(horizon, 0.6))
        final = f.distance().f(exact.support + stock[:, None, None])
        values.append(exact.value(exact.maximise(final)))
        rest = 4 * 0.6**horizon / 0.4  # L gamma^n r / (1 - gamma)
        assert ((found.value - values[-1]).abs() <= rest + found.error).all()
    assert ((values[0] - values[1]).abs() > 0).all()


def test_timed_policies_admit_other_utilities_on_the_grid():
    stock = torch.tensor([-1.0]).double()
    utility = f.exponential(2.0)
    with pytest.raises(ValueError, match="not homogeneous"):
        solve_on_grid(coins(5, 0.8), utility, stock, 0.01)
    exact = reach(coins(5, 0.8))
    expected = exact.value(exact.maximise(utility.f(exact.support + stock)))
    found = solve_on_grid(coins(5, 0.8), utility, stock, 0.01, timed=True)
    assert abs(float(found.value) - float(expected)) <= found.error
    assert abs(float(found.value) - float(expected)) < 1e-3
