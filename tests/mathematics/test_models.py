"""Tables of finite MDPs: the two forms agree with loops, and bad tables are refused by name."""

import math
import re

import numpy as np
import pytest
import torch

from rlkit.models import Dense, Model, check_model, from_kernel, from_outcomes


def tables(seed, states, actions, outcomes, replicas=None, paid="each"):
    """Successors that may repeat within a row, probabilities that may be zero, rewards, start."""
    rng = np.random.default_rng(seed)
    lead = () if replicas is None else (replicas,)
    shape = (*lead, states, actions, outcomes)
    weight = rng.random(shape) * (rng.random(shape) < 0.7)
    weight[..., 0] += 0.1
    reward = rng.normal(size=shape if paid == "each" else (*shape[:-1], 1))
    return (
        torch.tensor(rng.integers(states, size=shape)),
        torch.tensor(weight / weight.sum(-1, keepdims=True)),
        torch.tensor(reward),
        torch.tensor(rng.dirichlet(np.ones(states), lead or None)),
    )


def looped(successor, probability, reward, value, discount):
    """Kernel, mean reward and lookahead of a single model, one outcome at a time."""
    states, actions, outcomes = probability.shape
    kernel = np.zeros((states, actions, states))
    mean, look = np.zeros((states, actions)), np.zeros((states, actions))
    reward = np.broadcast_to(reward, probability.shape)
    for s in range(states):
        for a in range(actions):
            for k in range(outcomes):
                chance, following = float(probability[s, a, k]), int(successor[s, a, k])
                kernel[s, a, following] += chance
                mean[s, a] += chance * reward[s, a, k]
                look[s, a] += chance * (reward[s, a, k] + discount * value[following])
    return kernel, mean, look


@pytest.mark.parametrize("paid", ["each", "alike"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (7, 2, 3)])
def test_lists_mean_what_a_loop_over_outcomes_says(size, paid):
    parts = tables(1, *size, paid=paid)
    model = from_outcomes(*parts)
    value = np.random.default_rng(2).normal(size=size[0])
    kernel, mean, look = looped(*(part.numpy() for part in parts[:3]), value, 0.7)
    np.testing.assert_allclose(model.kernel, kernel, atol=1e-15)
    np.testing.assert_allclose(model.mean_reward, mean, atol=1e-15)
    np.testing.assert_allclose(model.lookahead(torch.tensor(value), 0.7), look, atol=1e-15)
    dense = model.dense()
    np.testing.assert_allclose(dense.lookahead(torch.tensor(value), 0.7), look, atol=1e-15)
    assert model.size == dense.size == size[:2]
    assert not model.batched


@pytest.mark.parametrize("paid", ["each", "alike"])
def test_replicas_have_the_models_they_would_have_alone(paid):
    parts = tables(3, 6, 2, 3, replicas=5, paid=paid)
    together = from_outcomes(*parts)
    values = torch.tensor(np.random.default_rng(4).normal(size=(5, 6)))
    assert together.batched and together.size == (6, 2)
    for n in range(5):
        alone = from_outcomes(*(part[n] for part in parts))
        assert torch.equal(together.kernel[n], alone.kernel)
        assert torch.equal(together.lookahead(values, 0.9)[n], alone.lookahead(values[n], 0.9))
        shared = alone.lookahead(values, 0.9)  # one model, values of all replicas
        assert torch.equal(shared[n], alone.lookahead(values[n], 0.9))
        look = alone.dense().lookahead(values, 0.9)
        torch.testing.assert_close(look, shared, rtol=0, atol=1e-14)


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("longest", [1, 2, 6])
def test_kernels_come_back_from_lists_no_longer_than_need_be(longest, replicas):
    rng = np.random.default_rng(longest)
    lead = () if replicas is None else (replicas,)
    kernel = np.zeros((*lead, 6, 2, 6))
    for place in np.ndindex(kernel.shape[:-1]):
        count = rng.integers(1, longest + 1)
        kernel[place][rng.permutation(6)[:count]] = rng.dirichlet(np.ones(count))
    full = (0,) * (len(lead) + 2)
    kernel[full] = 0
    kernel[full][rng.permutation(6)[:longest]] = 1 / longest
    reward = torch.tensor(rng.normal(size=kernel.shape[:-1]))
    start = torch.full((*lead, 6), 1 / 6, dtype=torch.float64)
    model = from_kernel(torch.tensor(kernel), reward, start)
    assert torch.equal(model.kernel, torch.tensor(kernel))
    torch.testing.assert_close(model.mean_reward, reward, rtol=0, atol=1e-15)
    # The lists of a replica must not be longer for the company it is in.
    assert model.probability.shape[-1] == (longest if replicas is None else 6)


@pytest.mark.parametrize("built", ["lists", "kernel"])
def test_terminal_states_become_absorbing_and_free(built):
    successor, probability, reward, start = tables(5, 5, 2, 3)
    terminal = torch.tensor([False, True, False, False, True])
    if built == "lists":
        model = from_outcomes(successor, probability, reward, start, terminal)
        untouched = from_outcomes(successor, probability, reward, start)
    else:
        whole = from_outcomes(successor, probability, reward, start).dense()
        model = from_kernel(*whole, start, terminal)
        untouched = from_kernel(*whole, start)
    own = torch.eye(5, dtype=torch.float64)
    for state in (1, 4):
        assert torch.equal(model.kernel[state], own[state].expand(2, 5))
        assert (model.mean_reward[state] == 0).all()
    for state in (0, 2, 3):
        assert torch.equal(model.kernel[state], untouched.kernel[state])
        assert torch.equal(model.mean_reward[state], untouched.mean_reward[state])
    assert torch.equal(model.terminal, terminal)


def test_rows_of_terminal_states_need_not_make_sense():
    # A terminal state has no transitions; whatever stands in its rows is replaced.
    successor, probability, reward, start = tables(6, 3, 2, 2)
    probability[1], reward[1], successor[1] = 0, math.nan, -7
    model = from_outcomes(successor, probability, reward, start, torch.tensor([False, True, False]))
    assert (model.kernel[1, :, 1] == 1).all() and (model.mean_reward[1] == 0).all()


def test_numbers_are_kept_in_double_precision():
    successor, _, reward, _ = tables(7, 4, 2, 1)
    one = torch.ones(4, 2, 1)
    model = from_outcomes(successor.int(), one, reward.float(), torch.tensor([0.5, 0.5, 0, 0]))
    numbers = (model.probability, model.reward, model.start, model.kernel, model.mean_reward)
    assert all(leaf.dtype == torch.float64 for leaf in numbers)
    assert model.successor.dtype == torch.int64


@pytest.mark.parametrize("replicas", [None, 4])
@pytest.mark.parametrize("total", [0.9, 1.1, 1 + 1e-7, math.nan])
def test_rows_that_are_no_distribution_are_named(total, replicas):
    parts = tables(8, 4, 3, 2, replicas=replicas)
    place = (2, 1) if replicas is None else (3, 2, 1)
    parts[1][place] *= total
    named = "state 2, action 1" + ("" if replicas is None else ", replica 3")
    with pytest.raises(ValueError, match=f"probability of {named} sums to {total:.9g}; accepted"):
        from_outcomes(*parts)


def test_rows_within_rounding_are_accepted():
    parts = tables(9, 4, 3, 2)
    parts[1][2, 1] *= 1 + 5e-9
    assert isinstance(from_outcomes(*parts), Model)


def test_negative_probabilities_are_named():
    successor, probability, reward, start = tables(10, 4, 3, 2)
    probability[3, 0] = torch.tensor([1.25, -0.25])
    with pytest.raises(ValueError, match=r"probability of state 3, action 0 holds -0.25; accepted"):
        from_outcomes(successor, probability, reward, start)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_successors_that_are_no_states_are_named(bad):
    successor, probability, reward, start = tables(11, 4, 3, 2)
    successor[1, 2, 1] = bad
    with pytest.raises(ValueError, match=rf"successor of state 1, action 2 is {bad}; .*0 .. 3"):
        from_outcomes(successor, probability, reward, start)


@pytest.mark.parametrize("paid", ["each", "alike"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_no_numbers_are_named(bad, paid):
    successor, probability, reward, start = tables(12, 4, 3, 2, replicas=2, paid=paid)
    reward[1, 3, 2, 0] = bad
    with pytest.raises(ValueError, match=f"reward of state 3, action 2, replica 1 is {bad}"):
        from_outcomes(successor, probability, reward, start)


@pytest.mark.parametrize("start", [[0.5, 0.4, 0, 0], [1.5, -0.5, 0, 0], [math.nan, 1, 0, 0]])
def test_starts_that_are_no_distribution_are_refused(start):
    successor, probability, reward, _ = tables(13, 4, 3, 2)
    with pytest.raises(ValueError, match=re.escape("start sums to")):
        from_outcomes(successor, probability, reward, torch.tensor(start, dtype=torch.float64))


def test_kernels_are_checked_too():
    kernel = torch.full((3, 2, 3), 1 / 3, dtype=torch.float64)
    kernel[2, 0, 1] = 0
    reward, start = torch.zeros(3, 2), torch.tensor([1.0, 0, 0])
    with pytest.raises(ValueError, match="state 2, action 0 sums to 0.666666667"):
        from_kernel(kernel, reward, start)
    with pytest.raises(ValueError, match="state 2, action 0"):
        from_kernel(kernel.where(kernel > 0, torch.nan), reward, start)


def test_checking_a_model_leaves_it_as_it_is():
    model = from_outcomes(*tables(14, 4, 3, 2))
    copies = [leaf.clone() for leaf in model]
    check_model(model)
    assert all(torch.equal(a, b) for a, b in zip(model, copies, strict=True))


def test_dense_models_take_values_of_replicas_whether_shared_or_not():
    parts = tables(15, 6, 2, 3, replicas=4)
    dense = from_outcomes(*parts).dense()
    values = torch.tensor(np.random.default_rng(1).normal(size=(4, 6)))
    look = dense.lookahead(values, 0.5)
    exact = dense.reward + 0.5 * torch.einsum("nsat,nt->nsa", dense.kernel, values)
    torch.testing.assert_close(look, exact, rtol=0, atol=1e-14)
    shared = Dense(dense.kernel[0], dense.reward[0])
    exact = shared.reward + 0.5 * torch.einsum("sat,nt->nsa", shared.kernel, values)
    torch.testing.assert_close(shared.lookahead(values, 0.5), exact, rtol=0, atol=1e-14)
