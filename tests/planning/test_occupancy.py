"""Occupancy measures against enumeration, series and the duality with values."""

import numpy as np
import pytest
import torch

from rlkit.models import Dense
from rlkit.planning import (
    average_occupancy,
    backward_induction,
    chain,
    deterministic,
    discounted_occupancy,
    finite_occupancy,
    finite_policy_value,
    policy_gain,
    policy_value,
    stationary_law,
)


def policies(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_laws_of_all_stages(form, garnet, arrays):
    model = garnet(1, 7, 3, 2, replicas=4)
    policy = policies(0, 4, 5, 7, 3)
    kernel, _ = arrays(model)
    mass = model.start.numpy()
    asked = model if form == "lists" else model.dense()
    measure = finite_occupancy(asked, policy, 5, model.start)
    for h in range(5):
        pairs = mass[:, :, None] * policy[:, h].numpy()
        np.testing.assert_allclose(measure[:, h], pairs, atol=1e-15)
        mass = np.einsum("nsa,nsat->nt", pairs, kernel)
    np.testing.assert_allclose(measure.sum((-2, -1)), 1, atol=1e-14)


def test_expected_return_is_the_inner_product_with_the_rewards(garnet):
    model = garnet(2, 6, 3, 3, replicas=5)
    reward, start = model.mean_reward, model.start
    staged, fixed = policies(1, 5, 4, 6, 3), policies(2, 5, 6, 3)
    value = (start * finite_policy_value(model, staged, 4).value[:, 0]).sum(-1)
    inner = (finite_occupancy(model, staged, 4) * reward[:, None]).sum((-3, -2, -1))
    torch.testing.assert_close(inner, value, rtol=0, atol=1e-13)
    value = (start * policy_value(model, fixed, 0.9).value).sum(-1)
    inner = (discounted_occupancy(model, fixed, 0.9) * reward).sum((-2, -1)) / (1 - 0.9)
    torch.testing.assert_close(inner, value, rtol=0, atol=1e-12)
    gain = policy_gain(model, fixed).gain
    inner = (average_occupancy(model, fixed) * reward).sum((-2, -1))
    torch.testing.assert_close(inner, gain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_discounted_measure_is_the_weighted_sum_over_stages(form, garnet):
    model = garnet(3, 6, 2, 3, ends=1)
    policy = policies(3, 6, 2)
    stages = finite_occupancy(model, policy, 300)
    weight = 0.1 * 0.9 ** torch.arange(300, dtype=torch.float64)
    asked = model if form == "lists" else model.dense()
    measure = discounted_occupancy(asked, policy, 0.9, model.start)
    torch.testing.assert_close(measure, (weight[:, None, None] * stages).sum(0), atol=1e-12, rtol=0)
    assert measure.sum().item() == pytest.approx(1, abs=1e-14)
    at_once = discounted_occupancy(model, policy, 0.0)
    torch.testing.assert_close(at_once, model.start[:, None] * policy, rtol=0, atol=1e-16)


def test_stationary_law_is_the_limit_of_powers(garnet):
    model = garnet(4, 8, 2, 8, replicas=3)
    kernel = chain(model, policies(4, 3, 8, 2)).kernel
    law = stationary_law(kernel)
    limit = np.linalg.matrix_power(kernel.numpy(), 2**12)[:, 0]
    np.testing.assert_allclose(law, limit, atol=1e-12)


def test_periodic_chains_and_transient_states_have_a_law():
    # 3 -> 0 -> 1 -> 2 -> 0: period 3, state 3 is left at once.
    kernel = torch.zeros(4, 4, dtype=torch.float64)
    kernel[0, 1] = kernel[1, 2] = kernel[2, 0] = kernel[3, 0] = 1
    expected = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0], dtype=torch.float64)
    torch.testing.assert_close(stationary_law(kernel), expected, rtol=0, atol=1e-15)


def test_two_closed_classes_have_no_single_law():
    kernel = torch.eye(4, dtype=torch.float64)
    kernel[1] = torch.tensor([0.5, 0, 0.5, 0])
    kernel[3] = torch.tensor([0, 1.0, 0, 0])
    with pytest.raises(ValueError, match="chain: states 0 and 2 belong to different"):
        stationary_law(kernel)
    model = Dense(kernel[:, None], torch.zeros(4, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="states 0 and 2"):
        average_occupancy(model, torch.ones(4, 1, dtype=torch.float64))


def test_shared_models_with_laws_and_policies_of_replicas(garnet):
    model = garnet(5, 6, 2, 3)
    policy, start = policies(5, 3, 6, 2), policies(6, 3, 6)
    whole = discounted_occupancy(model, policy, 0.9, start)
    staged = finite_occupancy(model, policy[:, None], 4, start)
    laws = average_occupancy(model, policy)
    for n in range(3):
        assert torch.equal(discounted_occupancy(model, policy[n], 0.9, start[n]), whole[n])
        assert torch.equal(finite_occupancy(model, policy[n], 4, start[n]), staged[n])
        assert torch.equal(average_occupancy(model, policy[n]), laws[n])


def test_the_measure_of_the_optimal_policy_solves_the_dual_program(garnet):
    model = garnet(6, 5, 3, 3)
    plan = backward_induction(model, 6)
    best = deterministic(plan.q.argmax(-1), 3)
    total = (finite_occupancy(model, best, 6) * model.mean_reward).sum()
    assert total.item() == pytest.approx((model.start * plan.value[0]).sum().item(), abs=1e-13)


def test_bad_starts_are_refused(garnet):
    model = garnet(7, 5, 2, 3)
    policy = policies(7, 5, 2)
    with pytest.raises(ValueError, match="start = None with a Dense"):
        finite_occupancy(model.dense(), policy, 3)
    with pytest.raises(ValueError, match="start sums to 0.5"):
        discounted_occupancy(model, policy, 0.9, 0.5 * model.start)
    with pytest.raises(ValueError, match=r"start \(4,\); accepted: \[..., 5\]"):
        finite_occupancy(model, policy, 3, torch.ones(4, dtype=torch.float64) / 4)
    with pytest.raises(ValueError, match=r"\[2, 3\] replicas"):
        discounted_occupancy(model, policy.expand(3, 5, 2), 0.9, model.start.expand(2, 5))
