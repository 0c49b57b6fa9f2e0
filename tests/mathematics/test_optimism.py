"""Optimistic rows and extended value iteration against linear programs and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from rlkit.optimism import (
    Optimistic,
    finite_horizon_values,
    kernel_radius,
    l1_optimistic,
    relative_value_iteration,
    reward_bounds,
    reward_radius,
)
from rlkit.protocol import Discrete, Spec

ROWS = 12  # models in a batch


def tensor(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float64)


def row_by_linear_program(p, radius, u):
    """`max q u` over laws `q` with `|q - p| <= radius`: variables q and the distances."""
    size = len(p)
    eye = np.eye(size)
    bounds = np.block([[eye, -eye], [-eye, -eye], [np.zeros(size), np.ones(size)]])
    limits = np.concatenate([p, -p, [radius]])
    total = np.concatenate([np.ones(size), np.zeros(size)])[None]
    cost = np.concatenate([-u, np.zeros(size)])
    return -linprog(cost, bounds, limits, total, [1.0]).fun


def flow_program(model, stages):
    """Best total reward over kernels within the balls, as a linear program of flows.

    Variables are flows `m(h, s, a, s')` and their distances from `p(s, a, s')` times the flow out
    of `(s, a)`; the balls are cones in them. `stages = None` asks for the average reward.
    """
    p, r, d = (x.numpy() for x in (model.kernel, model.reward, model.radius))
    states, actions, _ = p.shape
    count, height = states * actions * states, stages or 1
    out = np.kron(np.eye(states * actions), np.ones(states))  # flow leaving each pair
    into = np.kron(np.ones(states * actions), np.eye(states))  # flow entering each state
    leave = np.kron(np.eye(states), np.ones(actions * states))  # flow leaving each state
    cone = (
        np.eye(count)
        - p.reshape(-1, 1) * np.kron(np.eye(states * actions), np.ones((states, 1))) @ out
    )
    one = np.block(
        [
            [cone, -np.eye(count)],
            [-cone, -np.eye(count)],
            [-d.reshape(-1, 1) * out, out],
        ]
    )
    none = np.zeros((states, count))
    reward = np.concatenate([-(r.reshape(-1) @ out), np.zeros(count)])
    if stages is None:
        equal = np.block([[leave - into, none], [np.ones(count), np.zeros(count)]])
        found = linprog(reward, one, np.zeros(len(one)), equal, [0.0] * states + [1.0])
        return -found.fun
    inequality = np.kron(np.eye(height), one)
    blocks = [[np.zeros((states, 2 * count))] * height for _ in range(height)]
    for h in range(height):
        blocks[h][h] = np.hstack([leave, none])
        if h:
            blocks[h][h - 1] = np.hstack([-into, none])
    start = np.zeros(height * states)
    start[0] = 1.0
    found = linprog(
        np.tile(reward, height), inequality, np.zeros(len(inequality)), np.block(blocks), start
    )
    return -found.fun


def sets(seed, states=3, actions=2, rows=ROWS):
    """Random sets of models, some rows of zero radius, some with any law allowed."""
    rng = np.random.default_rng(seed)
    kernel = tensor(rng.dirichlet(np.full(states, 0.5), (rows, states, actions)))
    reward = tensor(rng.random((rows, states, actions)))
    radius = tensor(rng.choice([0.0, 0.05, 0.4, 1.0, 2.5], (rows, states, actions)))
    return Optimistic(kernel, reward, radius)


def one(model, row):
    return Optimistic(*[None if leaf is None else leaf[row] for leaf in model])


@pytest.mark.parametrize("states", [2, 3, 7])
def test_the_optimistic_row_solves_its_linear_program(states):
    rng = np.random.default_rng(states)
    for radius in (0.0, 0.01, 0.3, 1.1, 1.9, 2.0, 5.0):
        for u in (rng.normal(size=states), rng.integers(0, 2, states) * 1.0, np.ones(states)):
            p = rng.dirichlet(np.full(states, 0.5))
            p[rng.integers(states)] = 0.0
            p = p / p.sum()
            q = l1_optimistic(tensor(p), tensor(radius), tensor(u)).numpy()
            assert q.min() >= 0
            assert q.sum() == pytest.approx(1, abs=1e-14)
            assert np.abs(q - p).sum() <= radius + 1e-14
            assert q @ u == pytest.approx(row_by_linear_program(p, radius, u), abs=1e-12)


def test_rows_by_hand():
    p, u = tensor([0.5, 0.3, 0.2]), tensor([1.0, 3.0, 2.0])
    for radius, expected in (
        (0.0, [0.5, 0.3, 0.2]),
        (0.4, [0.3, 0.5, 0.2]),
        (1.2, [0.0, 0.9, 0.1]),
        (1.4, [0.0, 1.0, 0.0]),
    ):
        found = l1_optimistic(p, tensor(radius), u)
        torch.testing.assert_close(found, tensor(expected), atol=1e-15, rtol=0)


def test_lookahead_is_reward_plus_the_best_mean():
    model = sets(0)
    value = tensor(np.random.default_rng(1).normal(size=(ROWS, 3)))
    law = l1_optimistic(model.kernel, model.radius, value[:, None, None, :])
    expected = model.reward + 0.9 * (law * value[:, None, None, :]).sum(-1)
    torch.testing.assert_close(model.lookahead(value, 0.9), expected, atol=1e-14, rtol=0)


def test_entering_a_state_that_ends_the_episode_is_worth_nothing():
    model = sets(2)._replace(goes_on=tensor([[1.0, 0.0, 1.0]]).expand(ROWS, 3))
    value = tensor(np.random.default_rng(3).random((ROWS, 3)) + 1)
    cut = model._replace(goes_on=None).lookahead(value * tensor([1.0, 0.0, 1.0]))
    assert torch.equal(model.lookahead(value), cut)
    sure = model._replace(kernel=tensor([0.0, 1.0, 0.0]).expand(ROWS, 3, 2, 3), radius=None)
    assert torch.equal(sure.lookahead(value), model.reward)


def test_the_optimistic_gain_solves_its_linear_program():
    model = sets(4)
    model = model._replace(radius=model.radius.clamp(min=0.05))  # communicating for sure
    tolerance = torch.full((ROWS,), 1e-10, dtype=torch.float64)
    found = relative_value_iteration(model, torch.zeros_like(model.reward[..., 0]), tolerance, 9999)
    assert bool(found.converged.all())
    for row in range(ROWS):
        expected = flow_program(one(model, row), None)
        assert found.gain[row].item() == pytest.approx(expected, abs=1e-9)


def test_optimistic_values_of_an_episode_solve_their_linear_program():
    model = sets(5, rows=6)
    q = finite_horizon_values(model, 4)
    for row in range(6):
        expected = flow_program(one(model, row), 4)
        assert q[row, 0, 0].max().item() == pytest.approx(expected, abs=1e-9)


def gains(kernel, reward):
    """Gain of every deterministic policy by its stationary law."""
    states, actions, _ = kernel.shape
    for policy in itertools.product(range(actions), repeat=states):
        chain = kernel[np.arange(states), policy]
        system = np.vstack([chain.T - np.eye(states), np.ones(states)])
        law = np.linalg.lstsq(system, np.append(np.zeros(states), 1.0), rcond=None)[0]
        yield law @ reward[np.arange(states), policy]


def test_without_a_radius_the_gain_is_the_best_of_all_policies():
    model = sets(6)._replace(radius=None)
    tolerance = torch.full((ROWS,), 1e-9, dtype=torch.float64)
    found = relative_value_iteration(model, torch.zeros_like(model.reward[..., 0]), tolerance, 9999)
    for row in range(ROWS):
        best = max(gains(model.kernel[row].numpy(), model.reward[row].numpy()))
        assert found.gain[row].item() == pytest.approx(best, abs=1e-9)
    residual = found.q.amax(-1) - found.value - found.gain[:, None]
    assert residual.abs().max().item() < 1e-9


def test_the_greedy_policy_is_within_the_tolerance_of_the_optimum():
    model = sets(7, states=4)._replace(radius=None)
    for accuracy in (0.5, 0.1, 0.01):
        tolerance = torch.full((ROWS,), accuracy, dtype=torch.float64)
        start = torch.zeros_like(model.reward[..., 0])
        found = relative_value_iteration(model, start, tolerance, 9999)
        for row in range(ROWS):
            kernel, reward = model.kernel[row].numpy(), model.reward[row].numpy()
            policy = found.q[row].argmax(-1).numpy()
            own = next(
                iter(
                    gains(
                        kernel[np.arange(4), policy][:, None], reward[np.arange(4), policy][:, None]
                    )
                )
            )
            assert own > max(gains(kernel, reward)) - accuracy


def test_a_row_alone_gives_the_same_bits_as_in_company():
    model = sets(8, states=5, rows=40)
    model = model._replace(radius=model.radius.clamp(min=0.01))
    rng = np.random.default_rng(9)
    start, tolerance = tensor(rng.normal(size=(40, 5))), tensor(10.0 ** -rng.integers(1, 9, 40))
    together = relative_value_iteration(model, start, tolerance, 200)
    assert len(set(together.gain.tolist())) == 40
    for rows in ([3], [7, 8, 9], list(range(20, 40))):
        part = Optimistic(*[None if leaf is None else leaf[rows] for leaf in model])
        alone = relative_value_iteration(part, start[rows], tolerance[rows], 200)
        for name, leaf in alone._asdict().items():
            assert torch.equal(leaf, getattr(together, name)[rows]), name


def test_a_model_that_hardly_communicates_is_cut_short_and_good_for_as_many_steps():
    """State 0 pays .1 for staying; state 1 pays 1 and is reached with probability 1e-9."""
    far = 1e-9
    kernel = tensor([[[[1.0, 0.0], [1 - far, far]], [[0.0, 1.0], [0.0, 1.0]]]])
    model = Optimistic(kernel, tensor([[[0.1, 0.0], [1.0, 1.0]]]))
    tolerance = tensor([1e-4])
    found = relative_value_iteration(model, torch.zeros(1, 2).double(), tolerance, 300)
    assert found.converged.tolist() == [False]
    assert bool(torch.isfinite(found.q).all())
    assert found.q[0, 0].argmax().item() == 0  # not worth it within some hundred steps


def test_relabelling_states_and_actions_relabels_the_plan():
    model = sets(10, states=4)
    model = model._replace(radius=model.radius.clamp(min=0.05))
    states, actions = [2, 0, 3, 1], [1, 0]
    other = Optimistic(
        model.kernel[:, states][:, :, actions][..., states],
        model.reward[:, states][:, :, actions],
        model.radius[:, states][:, :, actions],
    )
    tolerance = torch.full((ROWS,), 1e-10, dtype=torch.float64)
    zero = torch.zeros_like(model.reward[..., 0])
    a = relative_value_iteration(model, zero, tolerance, 9999)
    b = relative_value_iteration(other, zero, tolerance, 9999)
    torch.testing.assert_close(a.gain, b.gain, atol=1e-12, rtol=0)
    torch.testing.assert_close(a.q[:, states][:, :, actions], b.q, atol=1e-9, rtol=0)


def test_radii_by_hand():
    """S = 3, A = 2, t = 50, delta = .1: logarithms of 6000 and of 2000."""
    visits = torch.zeros(1, 3, 2, dtype=torch.float64)
    visits[0, 1, 1], visits[0, 2, 0] = 1.0, 7.0
    time = torch.tensor([50])
    reward, kernel = (f(visits, time, 0.1)[0] for f in (reward_radius, kernel_radius))
    assert reward[1, 1].item() == pytest.approx(5.5179980, abs=1e-6)  # sqrt(3.5 * 8.6995147)
    assert kernel[1, 1].item() == pytest.approx(17.8672299, abs=1e-6)  # sqrt(42 * 7.6009025)
    assert reward[2, 0].item() == pytest.approx(math.sqrt(8.6995147 / 2), abs=1e-6)
    assert kernel[2, 0].item() == pytest.approx(math.sqrt(6 * 7.6009025), abs=1e-6)
    assert torch.equal(reward[0], reward[1, 1].expand(2))


@pytest.mark.parametrize("bounds", [(None, 1.0), (0.0, None), (1.0, 0.0), (float("nan"), 1.0)])
def test_rewards_without_bounds_are_refused(bounds):
    spec = Spec(Discrete(2), Discrete(2))
    with pytest.raises(ValueError, match="bounded rewards"):
        reward_bounds(object(), spec, *bounds)
    assert reward_bounds(object(), spec, 0.0, 2.0) == (0.0, 2.0)
