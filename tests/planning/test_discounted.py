"""Discounted planners against linear programs, all policies, linear solves and series."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.models import Dense
from rlkit.planning import (
    deterministic,
    greedy,
    policy_iteration,
    policy_value,
    value_iteration,
)

GAMMAS = [0.0, 0.3, 0.9, 0.99]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("form", ["lists", "dense"])
def test_both_iterations_solve_the_linear_program(gamma, form, garnet, arrays, discounted_program):
    for seed, (states, actions, branching) in enumerate([(2, 2, 2), (7, 3, 3), (20, 4, 2)]):
        model = garnet(seed, states, actions, branching, ends=seed % 2)
        kernel, reward = arrays(model)
        exact = discounted_program(kernel, reward, gamma)
        asked = model if form == "lists" else model.dense()
        for solution in (policy_iteration(asked, gamma), value_iteration(asked, gamma)):
            np.testing.assert_allclose(solution.value, exact, atol=2e-8)
            look = reward + gamma * kernel @ solution.value.numpy()
            np.testing.assert_allclose(solution.q, look, atol=1e-9)


def test_no_deterministic_policy_is_better_anywhere(garnet, arrays):
    model = garnet(5, 4, 3, 2)
    kernel, reward = arrays(model)
    best = np.full(4, -np.inf)
    for policy in itertools.product(range(3), repeat=4):
        rows, own = kernel[np.arange(4), policy], reward[np.arange(4), policy]
        best = np.maximum(best, np.linalg.solve(np.eye(4) - 0.95 * rows, own))
    np.testing.assert_allclose(policy_iteration(model, 0.95).value, best, atol=1e-11)
    np.testing.assert_allclose(value_iteration(model, 0.95).value, best, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 0.95, 0.999])
def test_bellman_residual_of_policy_iteration_is_rounding(gamma, garnet):
    model = garnet(2, 30, 4, 5, replicas=8)
    value, q = policy_iteration(model, gamma)
    kernel, reward = model.dense()
    look = reward + gamma * (kernel @ value[:, None, :, None]).squeeze(-1)
    assert (look.amax(-1) - value).abs().max() < 1e-10
    assert torch.equal(q.amax(-1), value)


@pytest.mark.parametrize("tolerance", [1.0, 1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.995])
def test_value_iteration_keeps_the_error_it_promises(tolerance, gamma, garnet):
    model = garnet(3, 15, 3, 2, replicas=20)
    exact = policy_iteration(model, gamma).value
    error = (value_iteration(model, gamma, tolerance).value - exact).abs().amax(-1)
    assert (error <= tolerance).all()


def test_value_iteration_ends_early_when_little_is_asked():
    # One sweep moves both values by the same amount, which proves the fixed point.
    kernel = torch.full((2, 1, 2), 0.5, dtype=torch.float64)
    model = Dense(kernel, torch.ones(2, 1, dtype=torch.float64))
    value = value_iteration(model, 0.999999, 1e-6).value
    assert (value - 1e6).abs().max() < 1e-4


def test_value_iteration_ends_where_rounding_forbids_the_tolerance(garnet):
    model = garnet(3, 15, 3, 2)
    model = model._replace(reward=1e6 * model.reward)
    exact = policy_iteration(model, 0.99).value
    assert (value_iteration(model, 0.99, 1e-300).value / exact - 1).abs().max() < 1e-9


def test_hand_worked_two_states():
    # Action 1 of state 0 pays nothing and leads to state 1, which pays 1 for ever.
    kernel = torch.zeros(2, 2, 2, dtype=torch.float64)
    kernel[0, 0, 0] = kernel[0, 1, 1] = kernel[1, :, 1] = 1
    reward = torch.tensor([[0.2, 0.0], [1.0, 1.0]], dtype=torch.float64)
    value, q = policy_iteration(Dense(kernel, reward), 0.5)
    assert value.tolist() == pytest.approx([1.0, 2.0])
    assert q.tolist() == [pytest.approx([0.7, 1.0]), pytest.approx([2.0, 2.0])]


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_policy_value_is_the_sum_of_the_series(form, garnet, arrays):
    model = garnet(7, 6, 3, 3, replicas=4)
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(3), (4, 6))
    kernel, reward = arrays(model)
    value = np.zeros((4, 6))
    for _ in range(400):  # 0.9 ** 400 < 1e-18
        q = reward + 0.9 * np.einsum("nsat,nt->nsa", kernel, value)
        value = np.einsum("nsa,nsa->ns", policy, q)
    asked = model if form == "lists" else model.dense()
    solution = policy_value(asked, torch.tensor(policy), 0.9)
    np.testing.assert_allclose(solution.value, value, atol=1e-12)
    np.testing.assert_allclose(solution.q, q, atol=1e-12)


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_one_model_serves_policies_of_many_replicas(form, garnet):
    model = garnet(8, 9, 2, 3)
    model = model if form == "lists" else model.dense()
    rng = np.random.default_rng(1)
    policies = torch.tensor(rng.dirichlet(np.ones(2), (5, 9)))
    value, q = policy_value(model, policies, 0.8)
    assert value.shape == (5, 9) and q.shape == (5, 9, 2)
    for n in range(5):
        assert torch.equal(policy_value(model, policies[n], 0.8).value, value[n])


def test_the_optimal_policy_has_the_optimal_value_and_others_less(garnet):
    model = garnet(9, 10, 3, 4, replicas=6)
    solution = policy_iteration(model, 0.9)
    own = policy_value(model, greedy(solution.q), 0.9).value
    torch.testing.assert_close(own, solution.value, rtol=0, atol=1e-11)
    action = torch.tensor(np.random.default_rng(3).integers(3, size=(6, 10)))
    other = policy_value(model, deterministic(action, 3), 0.9).value
    assert (other <= solution.value + 1e-12).all()


def test_values_scale_and_shift_with_the_rewards(garnet):
    dense = garnet(10, 8, 3, 3, replicas=3).dense()
    value = policy_iteration(dense, 0.9).value
    for factor in (1e-9, 3.0, 1e9):
        scaled = policy_iteration(dense._replace(reward=factor * dense.reward), 0.9).value
        torch.testing.assert_close(scaled / factor, value, rtol=0, atol=1e-10)
    shifted = policy_iteration(dense._replace(reward=dense.reward + 2.0), 0.9).value
    torch.testing.assert_close(shifted, value + 20.0, rtol=0, atol=1e-10)


def test_names_of_the_states_do_not_matter(garnet):
    kernel, reward = garnet(11, 12, 3, 4).dense()
    order = torch.tensor(np.random.default_rng(4).permutation(12))
    renamed = Dense(kernel[order][:, :, order], reward[order])
    for solve in (policy_iteration, value_iteration):
        here, there = solve(Dense(kernel, reward), 0.9).value, solve(renamed, 0.9).value
        torch.testing.assert_close(there, here[order], rtol=0, atol=2e-10)


def test_a_shared_kernel_takes_rewards_of_many_replicas(garnet):
    kernel, reward = garnet(12, 6, 2, 3).dense()
    rewards = torch.stack([reward, 2 * reward, -reward])
    together = policy_iteration(Dense(kernel, rewards), 0.9)
    assert together.value.shape == (3, 6)
    for n in range(3):
        alone = policy_iteration(Dense(kernel, rewards[n]), 0.9)
        assert torch.equal(together.q[n], alone.q)


def test_ties_do_not_keep_policy_iteration_busy():
    # All actions are equal up to a rounding of the reward, with values of a million.
    rng = np.random.default_rng(6)
    row, pay = rng.dirichlet(np.ones(20), 20), 1e2 * rng.random((20, 1))
    reward = torch.tensor(pay * (1 + 2.3e-16 * np.arange(5)))
    model = Dense(torch.tensor(np.repeat(row[:, None], 5, 1)), reward)
    exact = np.linalg.solve(np.eye(20) - 0.9999 * row, pay[:, 0])
    np.testing.assert_allclose(policy_iteration(model, 0.9999).value, exact, rtol=1e-9)
