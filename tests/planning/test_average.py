"""Gain, bias, span and diameter against published numbers, linear programs and linear solves."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from rlkit.models import Dense, from_kernel
from rlkit.planning import (
    deterministic,
    diameter,
    gain_and_bias,
    greedy,
    hitting_times,
    is_communicating,
    is_weakly_communicating,
    policy_gain,
    span,
)


def lists(dense):
    states = dense.reward.shape[-2]
    return from_kernel(*dense, torch.eye(states, dtype=torch.float64)[0])


def two_state(p, q):
    kernel = torch.tensor([[[1 - p, p]], [[q, 1 - q]]], dtype=torch.float64)
    return Dense(kernel, torch.tensor([[0.0], [1.0]], dtype=torch.float64))


@pytest.mark.parametrize("form", ["lists", "dense"])
@pytest.mark.parametrize(
    ("states", "gain", "width", "far"),
    [
        (6, 0.4286224338, 6.3103243082, 14.72234),
        (12, 0.4285714290, 14.8809523964, 34.72222),
        (20, 0.4285714286, 26.3095238095, 61.38889),
    ],
)
def test_river_swim(states, gain, width, far, form, river_swim):
    model = river_swim(states)
    model = model if form == "dense" else lists(model)
    answer = gain_and_bias(model)
    assert answer.gain.item() == pytest.approx(gain, abs=6e-11)
    assert span(answer.bias).item() == pytest.approx(width, abs=6e-11)
    assert diameter(model).item() == pytest.approx(far, abs=6e-6)


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.1), (0.2, 0.05), (0.9, 0.3), (1.0, 1.0)])
def test_two_states_in_closed_form(p, q):
    model = two_state(p, q)  # p = q = 1 has period 2
    answer = gain_and_bias(model)
    assert answer.gain.item() == pytest.approx(p / (p + q), abs=1e-12)
    assert span(answer.bias).item() == pytest.approx(1 / (p + q), abs=1e-10)
    assert diameter(model).item() == pytest.approx(1 / min(p, q), rel=1e-10)
    assert answer.bias.sum().item() == pytest.approx(0, abs=1e-14)
    own = policy_gain(model, torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(own.gain, answer.gain, rtol=0, atol=1e-12)
    torch.testing.assert_close(own.bias, answer.bias, rtol=0, atol=1e-10)


def test_transient_states_change_the_span_but_not_the_gain(river_swim):
    chain, tail = river_swim(6), river_swim(6, transient=2)
    short, long = gain_and_bias(chain), gain_and_bias(tail)
    assert long.gain.item() == pytest.approx(short.gain.item(), abs=1e-12)
    # Half the time one step is lost, so entering costs two gains: h(new) = h(first) - 2 g.
    below = long.bias[2] - 2 * long.gain
    assert (long.bias[:2] - below).abs().max() < 1e-9
    assert span(long.bias).item() == pytest.approx(
        (span(short.bias) + 2 * short.gain).item(), abs=1e-9
    )
    assert not is_communicating(tail) and is_weakly_communicating(tail)
    assert diameter(tail).item() == math.inf
    assert is_communicating(chain) and is_weakly_communicating(chain)


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_gain_solves_the_linear_program(form, garnet, arrays, average_program):
    for seed, size in enumerate([(2, 2, 2), (8, 3, 8), (15, 2, 15)]):
        model = garnet(seed, *size)
        exact = average_program(*arrays(model))
        answer = gain_and_bias(model if form == "lists" else model.dense())
        assert answer.gain.item() == pytest.approx(exact, abs=1e-9)


def test_no_deterministic_policy_gains_more(garnet, arrays):
    kernel, reward = arrays(garnet(20, 4, 3, 4))
    gains = []
    for policy in itertools.product(range(3), repeat=4):
        law = np.linalg.matrix_power(kernel[np.arange(4), policy], 2**12)[0]
        gains.append(law @ reward[np.arange(4), policy])
    answer = gain_and_bias(Dense(torch.tensor(kernel), torch.tensor(reward)))
    assert answer.gain.item() == pytest.approx(max(gains), abs=1e-12)


def test_bellman_residual_and_the_policys_own_equations(garnet):
    model = garnet(21, 25, 4, 25, replicas=10)
    gain, bias, q = gain_and_bias(model)
    kernel, reward = model.dense()
    look = reward + torch.einsum("nsat,nt->nsa", kernel, bias)
    assert (look.amax(-1) - bias - gain[:, None]).abs().max() < 1e-10
    torch.testing.assert_close(q, look, rtol=0, atol=1e-13)
    torch.testing.assert_close(bias.amax(-1), -bias.amin(-1), rtol=0, atol=1e-14)
    own = policy_gain(model, greedy(q, 1e-9))
    torch.testing.assert_close(own.gain, gain, rtol=0, atol=1e-11)
    torch.testing.assert_close(own.bias, bias, rtol=0, atol=1e-9)


def test_policy_gain_is_the_long_run_mean(garnet, arrays):
    model = garnet(22, 6, 2, 6)
    policy = np.random.default_rng(0).dirichlet(np.ones(2), 6)
    kernel, reward = arrays(model)
    chain, pay = np.einsum("sa,sat->st", policy, kernel), (policy * reward).sum(-1)
    law = np.linalg.matrix_power(chain, 2**14)[0]
    gain, bias, q = policy_gain(model, torch.tensor(policy))
    assert gain.item() == pytest.approx(law @ pay, abs=1e-12)
    # The bias is the total of what is earned above the gain.
    total, flow = np.zeros(6), np.eye(6)
    for _ in range(2000):
        total, flow = total + flow @ (pay - law @ pay), flow @ chain
    np.testing.assert_allclose(bias - bias.mean(), total - total.mean(), atol=1e-9)
    np.testing.assert_allclose((torch.tensor(policy) * q).sum(-1), bias + gain, atol=1e-12)


def test_policies_of_replicas_with_one_model(garnet):
    model = garnet(23, 7, 3, 7)
    policies = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(3), (5, 7)))
    together = policy_gain(model, policies)
    assert together.gain.shape == (5,) and together.q.shape == (5, 7, 3)
    for n in range(5):
        assert torch.equal(policy_gain(model, policies[n]).q, together.q[n])


def test_rewards_shift_the_gain_and_scale_both(garnet):
    dense = garnet(24, 10, 3, 10, replicas=3).dense()
    gain, bias, _ = gain_and_bias(dense)
    shifted = gain_and_bias(dense._replace(reward=dense.reward + 5))
    torch.testing.assert_close(shifted.gain, gain + 5, rtol=0, atol=1e-11)
    torch.testing.assert_close(shifted.bias, bias, rtol=0, atol=1e-9)
    for factor in (1e-8, 1e8):
        scaled = gain_and_bias(dense._replace(reward=factor * dense.reward))
        torch.testing.assert_close(scaled.gain / factor, gain, rtol=0, atol=1e-11)
        torch.testing.assert_close(scaled.bias / factor, bias, rtol=0, atol=1e-9)
    nothing = gain_and_bias(dense._replace(reward=0 * dense.reward))
    assert (nothing.gain == 0).all() and (nothing.bias == 0).all()


def test_names_of_the_states_do_not_matter(river_swim):
    kernel, reward = river_swim(9)
    order = torch.tensor(np.random.default_rng(2).permutation(9))
    renamed = Dense(kernel[order][:, :, order], reward[order])
    here, there = gain_and_bias(Dense(kernel, reward)), gain_and_bias(renamed)
    torch.testing.assert_close(there.gain, here.gain, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.bias, here.bias[order], rtol=0, atol=1e-9)
    times = hitting_times(Dense(kernel, reward))
    torch.testing.assert_close(hitting_times(renamed), times[order][:, order], rtol=1e-10, atol=0)


def test_span_is_at_most_the_diameter_times_the_largest_reward(garnet):
    for seed in range(5):
        model = garnet(seed, 9, 2, 3 + seed, replicas=20)
        model = model._replace(reward=model.reward.abs())
        keep = is_communicating(model)
        if not keep.any():
            continue
        part = type(model)(*(leaf[keep] for leaf in model))
        bound = diameter(part) * part.mean_reward.amax((-2, -1))
        assert (span(gain_and_bias(part).bias) <= bound + 1e-9).all()


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_hitting_times_solve_their_linear_programs(form, garnet, arrays):
    model = garnet(25, 6, 2, 3)
    assert is_communicating(model)
    kernel, _ = arrays(model)
    times = hitting_times(model if form == "lists" else model.dense())
    for target in range(6):  # max sum h, h(target) = 0, h <= 1 + P_a h elsewhere
        others = [s for s in range(6) if s != target]
        rows = np.vstack([(np.eye(6) - kernel[:, a])[others] for a in range(2)])
        fixed = np.eye(6)[target : target + 1]
        found = linprog(-np.ones(6), rows, np.ones(10), fixed, [0], bounds=(0, None))
        np.testing.assert_allclose(times[:, target], found.x, rtol=1e-8)


def test_far_states_are_reached_in_exactly_their_distance():
    # A ring that turns one way: from i to j it takes (j - i) mod S steps.
    kernel = torch.eye(7, dtype=torch.float64).roll(1, 1)[:, None]
    model = Dense(kernel, torch.zeros(7, 1, dtype=torch.float64))
    steps = (torch.arange(7)[None] - torch.arange(7)[:, None]) % 7
    assert torch.equal(hitting_times(model), steps.double())
    assert diameter(model).item() == 6


def islands():
    """States 0, 1 and 3, 4 are two closed classes; state 2 chooses between them."""
    kernel = torch.zeros(5, 2, 5, dtype=torch.float64)
    kernel[0, :, 1] = kernel[1, :, 0] = kernel[3, :, 4] = kernel[4, :, 3] = 1
    kernel[2, 0, 0] = kernel[2, 1, 3] = 1
    return kernel


def test_two_closed_classes_are_refused_by_name():
    kernel = islands()
    reward = torch.zeros(5, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="states 0 and 3 belong to different recurrent classes"):
        gain_and_bias(Dense(kernel, reward))
    assert not is_weakly_communicating(Dense(kernel, reward))
    assert diameter(Dense(kernel, reward)).item() == math.inf


def test_a_class_that_can_but_need_not_be_left_is_refused():
    kernel = torch.zeros(3, 2, 3, dtype=torch.float64)
    kernel[0, :, 1] = 1  # 0 -> 1
    kernel[1, 0, 1] = kernel[1, 1, 2] = 1  # 1 may stay
    kernel[2, :, 2] = 1
    model = Dense(kernel, torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="states 2 and 1 belong to different"):
        gain_and_bias(model)
    kernel[1, 0] = torch.tensor([0.5, 0.0, 0.5])  # now it leaves sooner or later
    assert is_weakly_communicating(model)
    assert gain_and_bias(model).gain.item() == 0


def test_the_replica_at_fault_is_named(garnet):
    dense = garnet(26, 5, 2, 5, replicas=200).dense()
    dense.kernel[137] = islands()
    with pytest.raises(ValueError, match="model of replica 137: states 0 and 3"):
        gain_and_bias(dense)
    sound = is_weakly_communicating(dense)
    assert not sound[137] and sound.sum() == 199
    times = diameter(dense)
    assert times[137] == math.inf and times.isfinite().sum() == 199


def test_policies_with_two_closed_classes_are_refused(river_swim):
    model = river_swim(4)
    # Left of the middle always left, right of it always right with no way back.
    kernel = model.kernel.clone()
    kernel[3, 1] = torch.tensor([0.0, 0, 0, 1])
    policy = deterministic(torch.tensor([0, 0, 0, 1]), 2)
    with pytest.raises(ValueError, match="chain: states 0 and 3 belong to different"):
        policy_gain(Dense(kernel, model.reward), policy)
    both = torch.stack([torch.full_like(policy, 0.5), policy])
    with pytest.raises(ValueError, match="chain of replica 1: states 0 and 3"):
        policy_gain(Dense(kernel, model.reward), both)


def test_giving_up_says_so(river_swim):
    with pytest.raises(ValueError, match="no gain after 10 sweeps"):
        gain_and_bias(river_swim(20), sweeps=10)


def test_a_large_shift_of_the_rewards_moves_the_gain_alone():
    """Two states, left with probability p, of rewards c and c + 1: the bias spans 1 / (2 p)."""
    for shift, p in ((1e6, 1e-3), (-1e9, 0.5)):
        kernel = torch.tensor([[[1 - p, p]], [[p, 1 - p]]], dtype=torch.float64)
        reward = torch.tensor([[shift], [shift + 1]], dtype=torch.float64)
        got = gain_and_bias(Dense(kernel, reward))
        assert got.gain.item() == pytest.approx(shift + 0.5, rel=1e-12)
        assert span(got.bias).item() == pytest.approx(1 / (2 * p), rel=1e-6)
