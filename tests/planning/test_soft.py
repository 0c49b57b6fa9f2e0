"""Regularised planning: defining identities, limits, and a convex program by brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, rel_entr

from rlkit.models import Dense
from rlkit.planning import (
    backward_induction,
    finite_policy_value,
    greedy,
    policy_iteration,
    policy_value,
    soft_backward_induction,
    soft_finite_policy_value,
    soft_maximum,
    soft_policy,
    soft_policy_value,
    soft_value_iteration,
)

TEMPERATURES = [0.05, 1.0, 20.0]


@pytest.fixture
def reference():
    """A policy of six states and three actions that never takes action 2 in state 0."""
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    policy[0] = 0.25, 0.75, 0
    return torch.tensor(policy)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 7.0, 1e3])
def test_soft_maximum_is_the_log_sum_of_exponentials(temperature, reference):
    q = np.random.default_rng(1).normal(size=(4, 6, 3))
    entropic = temperature * logsumexp(q / temperature, -1)
    np.testing.assert_allclose(soft_maximum(torch.tensor(q), temperature), entropic, rtol=1e-12)
    relative = temperature * logsumexp(q / temperature, -1, b=reference.numpy())
    ours = soft_maximum(torch.tensor(q), temperature, reference)
    np.testing.assert_allclose(ours, relative, atol=1e-12)


def test_soft_maximum_keeps_its_digits_where_temperatures_are_extreme(reference):
    q = torch.tensor(np.random.default_rng(1).normal(size=(6, 3)))
    mean = (reference * q).sum(-1)
    variance = (reference * (q - mean[:, None]) ** 2).sum(-1)
    for temperature in (1e6, 1e9, 1e12):  # mean + variance / (2 temperature) + ...
        near = mean + variance / (2 * temperature)
        assert (soft_maximum(q, temperature, reference) - near).abs().max() < 1e-11
    best = q.where(reference > 0, -math.inf).amax(-1)
    for temperature in (1e-9, 1e-300, 5e-324):
        assert (soft_maximum(1e5 * q, temperature, reference) - 1e5 * best).abs().max() < 1e-7


@pytest.mark.parametrize("rare", [1e-8, 1e-12, 1e-16, 1e-20, 1e-300])
@pytest.mark.parametrize("temperature", [1e-3, 0.02, 0.1])
def test_soft_maximum_keeps_its_digits_where_the_reference_rarely_takes_the_best(temperature, rare):
    q, mu = np.array([[1.0, 0.0]]), np.array([[rare, 1 - rare]])
    exact = temperature * logsumexp(q / temperature, -1, b=mu)
    ours = soft_maximum(torch.tensor(q), temperature, torch.tensor(mu))
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_policy_maximises_its_objective(temperature, reference):
    q = np.random.default_rng(2).normal(size=3)
    mu = reference[3].numpy()

    def loss(logit):
        policy = np.exp(logit - logsumexp(logit))
        return -(policy @ q) + temperature * rel_entr(policy, mu).sum()

    found = minimize(loss, np.zeros(3), tol=1e-14)
    policy = soft_policy(torch.tensor(q)[None], temperature, reference[3:4])
    np.testing.assert_allclose(policy[0], np.exp(found.x - logsumexp(found.x)), atol=1e-5)
    assert soft_maximum(torch.tensor(q)[None], temperature, reference[3:4]).item() == (
        pytest.approx(-found.fun, abs=1e-9)
    )


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("form", ["lists", "dense"])
def test_discounted_values_solve_the_soft_equations(form, temperature, relative, garnet, reference):
    model = garnet(3, 6, 3, 3, replicas=4)
    kernel, reward = (leaf.numpy() for leaf in model.dense())
    mu = reference if relative else None
    asked = model if form == "lists" else model.dense()
    value, q = soft_value_iteration(asked, 0.9, temperature, mu, tolerance=1e-12)
    look = reward + 0.9 * np.einsum("nsat,nt->nsa", kernel, value.numpy())
    np.testing.assert_allclose(q, look, atol=1e-10)
    weight = np.ones((6, 3)) if mu is None else mu.numpy()
    soft = temperature * logsumexp(look / temperature, -1, b=weight)
    np.testing.assert_allclose(value, soft, atol=1e-10)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_soft_policy_has_the_soft_value_and_others_less(
    temperature, relative, garnet, reference
):
    model = garnet(4, 6, 3, 3, replicas=3)
    mu = reference if relative else None
    solution = soft_value_iteration(model, 0.9, temperature, mu, tolerance=1e-12)
    policy = soft_policy(solution.q, temperature, mu)
    own = soft_policy_value(model, policy, 0.9, temperature, mu)
    torch.testing.assert_close(own.value, solution.value, rtol=0, atol=1e-10)
    torch.testing.assert_close(own.q, solution.q, rtol=0, atol=1e-10)
    for weight in (0.5, 0.99):
        other = weight * policy + (1 - weight) * reference
        less = soft_policy_value(model, other, 0.9, temperature, mu).value
        assert (less < solution.value + 1e-11).all() and (less < solution.value).any()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_same_identity_over_a_horizon(temperature, relative, garnet, reference):
    model = garnet(5, 6, 3, 3, replicas=3)
    mu = reference if relative else None
    plan = soft_backward_induction(model, 5, temperature, mu)
    policy = soft_policy(plan.q, temperature, mu)
    own = soft_finite_policy_value(model, policy, 5, temperature, mu)
    torch.testing.assert_close(own.value, plan.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(own.q, plan.q, rtol=0, atol=1e-12)
    other = soft_finite_policy_value(model, reference, 5, temperature, mu)
    assert (other.value[:, 0] < plan.value[:, 0]).all()


def test_one_step_by_hand():
    model = bandit([1.0, 0.0])
    plan = soft_backward_induction(model, 1, 2.0)
    assert plan.value[0].item() == pytest.approx(2 * math.log(math.exp(0.5) + 1))
    reference = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    plan = soft_backward_induction(model, 1, 2.0, reference)
    assert plan.value[0].item() == pytest.approx(2 * math.log(0.25 * math.exp(0.5) + 0.75))
    policy = soft_policy(plan.q[0], 2.0, reference)
    assert policy[0, 0].item() == pytest.approx(1 / (1 + 3 * math.exp(-0.5)))


def bandit(rewards):
    reward = torch.tensor([rewards], dtype=torch.float64)
    return Dense(torch.ones(1, len(rewards), 1, dtype=torch.float64), reward)


def test_temperature_zero_is_hard(garnet, reference):
    model = garnet(6, 6, 3, 3, replicas=3)
    hard = policy_iteration(model, 0.9)
    for temperature, error in ((0.0, 1e-9), (1e-6, 1e-4)):
        soft = soft_value_iteration(model, 0.9, temperature)
        torch.testing.assert_close(soft.value, hard.value, rtol=0, atol=error)
    assert torch.equal(soft_policy(hard.q, 0.0), greedy(hard.q))
    plan = soft_backward_induction(model, 4, 0.0)
    assert torch.equal(plan.value, backward_induction(model, 4).value)
    # Relative to a reference it is the best of what the reference ever does.
    soft = soft_backward_induction(model, 4, 0.0, reference)
    assert (soft_policy(soft.q, 0.0, reference)[:, :, 0, 2] == 0).all()
    assert (soft.value[:, 0] <= plan.value[:, 0]).all()
    assert (soft.value[:, 3, 0] == soft.q[:, 3, 0, :2].amax(-1)).all()


def test_infinite_temperature_is_the_reference(garnet, reference):
    model = garnet(7, 6, 3, 3, replicas=3)
    follows = policy_value(model, reference, 0.9).value
    for temperature, error in ((math.inf, 1e-9), (1e9, 1e-6)):
        soft = soft_value_iteration(model, 0.9, temperature, reference)
        torch.testing.assert_close(soft.value, follows, rtol=0, atol=error)
        policy = soft_policy(soft.q, temperature, reference)
        torch.testing.assert_close(policy, reference.expand(3, 6, 3), rtol=0, atol=1e-8)
    plan = soft_backward_induction(model, 4, math.inf, reference)
    exact = finite_policy_value(model, reference, 4)
    torch.testing.assert_close(plan.value, exact.value, rtol=0, atol=1e-13)


def test_values_grow_as_the_temperature_falls_relative_to_a_reference(garnet, reference):
    model = garnet(8, 6, 3, 3)
    temperatures = (0.0, 0.1, 1.0, 10.0, math.inf)
    values = [soft_value_iteration(model, 0.9, t, reference).value for t in temperatures]
    for cold, warm in itertools.pairwise(values):
        assert (cold > warm - 1e-9).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_uniform_reference_differs_from_entropy_by_a_constant(temperature, garnet):
    model = garnet(9, 6, 3, 3)
    uniform = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    relative = soft_value_iteration(model, 0.9, temperature, uniform).value
    entropic = soft_value_iteration(model, 0.9, temperature).value
    shift = temperature * math.log(3) / (1 - 0.9)
    torch.testing.assert_close(entropic, relative + shift, rtol=0, atol=1e-8)


def test_references_of_replicas_with_one_model(garnet):
    model = garnet(10, 6, 3, 3)
    references = torch.tensor(np.random.default_rng(4).dirichlet(np.ones(3), (5, 6)))
    together = soft_value_iteration(model, 0.9, 0.5, references)
    plans = soft_backward_induction(model, 4, 0.5, references)
    for n in range(5):
        assert torch.equal(soft_value_iteration(model, 0.9, 0.5, references[n]).q, together.q[n])
        assert torch.equal(soft_backward_induction(model, 4, 0.5, references[n]).q, plans.q[n])


@pytest.mark.parametrize("tolerance", [1.0, 1e-3, 1e-8])
def test_soft_value_iteration_keeps_the_error_it_promises(tolerance, garnet, reference):
    model = garnet(11, 6, 3, 2, replicas=20)
    exact = soft_value_iteration(model, 0.95, 0.3, reference, tolerance=1e-13).value
    rough = soft_value_iteration(model, 0.95, 0.3, reference, tolerance).value
    assert (rough - exact).abs().max() <= tolerance


def test_bad_input_is_refused_with_names(garnet, reference):
    model = garnet(12, 6, 3, 3)
    with pytest.raises(ValueError, match=r"temperature = -1 outside \[0, inf\)"):
        soft_value_iteration(model, 0.9, -1)
    with pytest.raises(ValueError, match="temperature = inf"):
        soft_backward_induction(model, 3, math.inf)
    with pytest.raises(ValueError, match="temperature"):
        soft_policy_value(model, reference, 0.9, math.inf, reference)
    broken = reference.clone()
    broken[4, 1] += 0.01
    with pytest.raises(ValueError, match="reference of state 4"):
        soft_value_iteration(model, 0.9, 1.0, broken)
    uniform = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="policy of state 0 takes an action that reference never"):
        soft_policy_value(model, uniform, 0.9, 1.0, reference)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="policy of state 0 takes an action that reference"):
            soft_finite_policy_value(model, uniform, 3, temperature, reference)
