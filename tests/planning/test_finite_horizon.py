"""Backward induction against linear programs, all policies and enumeration."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.models import Dense
from rlkit.planning import (
    backward_induction,
    finite_policy_value,
    greedy,
    optimal_values,
    policy_value,
    successor_major,
)


@pytest.mark.parametrize("form", ["lists", "dense", "successor_major"])
@pytest.mark.parametrize("size", [(2, 2, 2), (5, 3, 2), (20, 2, 1)])
def test_values_solve_the_linear_program(form, size, garnet, arrays, horizon_program):
    model = garnet(1, *size, ends=1)
    kernel, reward = arrays(model)
    exact = horizon_program(kernel, reward, 6)
    plan = backward_induction(shaped(model, form), 6)
    np.testing.assert_allclose(plan.value[:-1], exact, atol=1e-8)
    assert (plan.value[-1] == 0).all()


def shaped(model, form):
    if form == "lists":
        return model
    kernel, reward = model.dense()
    return Dense(successor_major(kernel) if form == "successor_major" else kernel, reward)


def test_no_policy_that_looks_at_the_clock_is_better(garnet, arrays):
    model = garnet(2, 2, 2, 2)
    kernel, reward = arrays(model)
    best = np.full(2, -np.inf)
    for actions in itertools.product(range(2), repeat=6):  # three stages, two states
        value = np.zeros(2)
        for rule in np.reshape(actions, (3, 2)):
            value = reward[[0, 1], rule] + kernel[[0, 1], rule] @ value
        best = np.maximum(best, value)
    np.testing.assert_allclose(backward_induction(model, 3).value[0], best, atol=1e-14)


@pytest.mark.parametrize("form", ["lists", "dense", "successor_major"])
def test_q_is_reward_plus_expected_value_of_the_next_stage(form, garnet, arrays):
    model = garnet(3, 9, 3, 3, replicas=5)
    kernel, reward = arrays(model)
    plan = backward_induction(shaped(model, form), 4)
    for h in range(4):
        following = np.einsum("nsat,nt->nsa", kernel, plan.value[:, h + 1].numpy())
        np.testing.assert_allclose(plan.q[:, h], reward + following, atol=1e-13)
    assert torch.equal(plan.q.amax(-1), plan.value[:, :-1])


@pytest.mark.parametrize("form", ["lists", "dense", "successor_major"])
def test_value_of_a_policy_is_its_mean_over_all_paths(form, garnet, arrays):
    model = garnet(4, 3, 2, 2)
    policy = np.random.default_rng(0).dirichlet(np.ones(2), (3, 3))
    kernel, reward = arrays(model)
    exact = np.zeros(3)
    for start in range(3):
        for path in itertools.product(range(3), repeat=3):
            for acts in itertools.product(range(2), repeat=3):
                chance, total = 1.0, 0.0
                for h, (s, a) in enumerate(zip((start, *path[:2]), acts, strict=True)):
                    chance *= policy[h, s, a] * kernel[s, a, path[h]]
                    total += reward[s, a]
                exact[start] += chance * total
    plan = finite_policy_value(shaped(model, form), torch.tensor(policy), 3)
    np.testing.assert_allclose(plan.value[0], exact, atol=1e-14)


def test_stationary_policies_may_be_given_in_short(garnet):
    model = garnet(5, 6, 2, 3, replicas=4)
    policy = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(2), (4, 6)))
    long = finite_policy_value(model, policy[:, None].expand(4, 5, 6, 2), 5)
    assert torch.equal(finite_policy_value(model, policy[:, None], 5).value, long.value)
    same = policy[:1].expand(4, 6, 2)[:, None]
    short = finite_policy_value(model, policy[0], 5)
    assert torch.equal(short.value, finite_policy_value(model, same, 5).value)


def test_staged_policies_of_replicas_with_one_model(garnet):
    model = garnet(6, 6, 2, 3)
    policy = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(2), (7, 5, 6)))
    together = finite_policy_value(model, policy, 5)
    assert together.value.shape == (7, 6, 6)
    for n in range(7):
        assert torch.equal(finite_policy_value(model, policy[n], 5).q, together.q[n])


def test_the_greedy_policy_has_the_optimal_value(garnet):
    model = garnet(7, 8, 3, 3, replicas=3)
    plan = backward_induction(model, 7)
    own = finite_policy_value(model, greedy(plan.q), 7)
    torch.testing.assert_close(own.value, plan.value, rtol=0, atol=1e-13)


def test_discounting_is_a_leak_into_a_free_terminal_state(garnet):
    # With probability 1 - gamma every step ends in a state that pays nothing.
    dense = garnet(8, 5, 2, 3).dense()
    kernel = torch.zeros(6, 2, 6, dtype=torch.float64)
    kernel[:5, :, :5], kernel[:5, :, 5], kernel[5, :, 5] = 0.8 * dense.kernel, 0.2, 1
    reward = torch.nn.functional.pad(dense.reward, (0, 0, 0, 1))
    uniform = torch.full((5, 2), 0.5, dtype=torch.float64)
    exact = policy_value(dense, uniform, 0.8).value
    long = finite_policy_value(
        Dense(kernel, reward), torch.full((6, 2), 0.5, dtype=torch.float64), 200
    )
    torch.testing.assert_close(long.value[0, :5], exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_cap_bounds_every_stage_before_it_is_passed_on(form, garnet, arrays):
    model = garnet(9, 5, 3, 3, replicas=2)
    kernel, reward = arrays(model)
    plan = backward_induction(shaped(model, form), 5, cap=0.3)
    value = np.zeros((2, 5))
    for h in reversed(range(5)):
        q = np.minimum(reward + np.einsum("nsat,nt->nsa", kernel, value), 0.3 * (5 - h))
        value = q.max(-1)
        np.testing.assert_allclose(plan.q[:, h], q, atol=1e-14)
    assert (plan.value[:, 0] < backward_induction(model, 5).value[:, 0]).any()


def test_rows_that_leak_are_planned_when_checks_are_off(garnet):
    kernel, reward = garnet(10, 4, 2, 2).dense()
    kernel[2, 1] = 0
    plan = backward_induction(Dense(kernel, reward), 3, check=False)
    assert (plan.q[:, 2, 1] == reward[2, 1]).all()


def test_inputs_stay_as_they_were(garnet):
    dense = garnet(11, 5, 2, 3, replicas=3).dense()
    laid = dense._replace(kernel=successor_major(dense.kernel))
    copies = [leaf.clone() for leaf in (*dense, laid.kernel)]
    for model in (dense, laid):
        backward_induction(model, 4, cap=0.1)
    for leaf, copy in zip((*dense, laid.kernel), copies, strict=True):
        assert torch.equal(leaf, copy)


@pytest.mark.parametrize("replicas", [None, 3])
def test_successor_major_changes_memory_only(replicas, garnet):
    kernel = garnet(12, 7, 3, 4, replicas=replicas).kernel
    laid = successor_major(kernel)
    assert torch.equal(laid, kernel)
    assert laid.shape == kernel.shape and laid.stride() != kernel.stride()
    assert successor_major(laid).data_ptr() == laid.data_ptr()


def test_models_of_any_form_agree(garnet):
    for seed, branching in ((13, 1), (14, 3), (15, 40)):
        model = garnet(seed, 40, 3, branching, replicas=3)
        plans = [backward_induction(shaped(model, f), 9) for f in ("lists", "dense")]
        torch.testing.assert_close(plans[0].q, plans[1].q, rtol=0, atol=1e-12)
        assert torch.equal(plans[1].q, backward_induction(shaped(model, "successor_major"), 9).q)


@pytest.mark.parametrize("form", ["lists", "dense", "successor_major"])
@pytest.mark.parametrize("cap", [None, 0.4])
def test_values_alone_are_the_same_bits(form, cap, garnet):
    for count in (1, 40):
        model = shaped(garnet(count, 6, 3, 2, ends=1), form)
        assert torch.equal(optimal_values(model, 5, cap), backward_induction(model, 5, cap).value)


def test_plans_are_ordinary_tensors_without_gradient(garnet):
    dense = garnet(16, 5, 2, 3, replicas=3).dense()
    reward = dense.reward.clone().requires_grad_()
    plan = backward_induction(dense._replace(reward=reward), 4)
    assert not any(part.requires_grad or part.is_inference() for part in plan)
    (plan.value[:, 0] * reward.sum(-1)).sum().backward()  # a saved factor, as in any loss
    assert torch.equal(reward.grad, plan.value[:, 0, :, None].expand(3, 5, 2))
    plan.q.add_(1)
