"""Regret at full size: reference values on RiverSwim, a plain numpy loop on DeepSea."""

from dataclasses import replace

import numpy as np
import pytest

from rlkit.agents.bandits.uniform import Uniform
from rlkit.agents.tabular.psrl import PSRL
from rlkit.agents.tabular.q_learning import QLearning
from rlkit.agents.tabular.ucbvi import UCBVI
from rlkit.envs.tabular.deep_sea import DeepSea
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.rollout import simulate

pytestmark = pytest.mark.slow

NORMAL = PSRL(reward_prior="normal", prior_mean=0.0)


def regret(problem, agent, episodes, replicas, seed=3):
    run = simulate(problem, agent, episodes * problem.horizon, replicas, seed=seed, group=replicas)
    return run.metrics["regret"][-1].numpy()


@pytest.mark.parametrize(
    ("agent", "value"),
    [
        (PSRL(), 58.7),
        (PSRL(alpha=1.0), 93.7),
        (PSRL(known_reward=True), 43.2),
        (UCBVI("stage"), 1563),
        (UCBVI("stage", scale=0.1), 77.9),
        (UCBVI("stage", scale=0.02), 19.1),
        (Uniform(), 1677),
    ],
)
def test_river_swim_costs_what_prototypes_measured(agent, value):
    """500 episodes of 20 steps; within a tenth, and five standard errors."""
    found = regret(RiverSwim(), agent, 500, 128)
    assert abs(found.mean() - value) < 0.1 * value + 5 * found.std() / 128**0.5


def numpy_psrl(size, episodes, replicas):
    """PSRL on DeepSea: Dirichlet(1/S) rows, N(0, 1) means, noise .1, ends learned."""
    rng, last = np.random.default_rng(0), size * size
    states, one = last + 1, np.arange(replicas)
    visits = np.zeros((replicas, states, 2, states))
    paid, total = np.zeros((replicas, states, 2)), np.zeros(replicas)
    for episode in range(episodes):
        kernel = rng.gamma(visits + 1 / states)
        kernel /= kernel.sum(-1, keepdims=True)
        precision = 1 + visits.sum(-1) / 0.01
        mean = paid / 0.01 / precision + rng.normal(size=paid.shape) / np.sqrt(precision)
        value, plan = np.zeros((replicas, states)), []
        for _ in range(size):
            plan.append(mean + np.einsum("nsat,nt->nsa", kernel, value))
            value = plan[-1].max(-1)
            value[:, last] *= episode == 0
        state = np.zeros(replicas, int)
        for row in range(size):
            action = plan[size - 1 - row][one, state].argmax(-1)
            reward = np.where(action == 1, -0.01 / size + (state == last - 1), 0.0)
            column = np.clip(state % size + 2 * action - 1, 0, size - 1)
            following = (row + 1) * size + column if row < size - 1 else np.full(replicas, last)
            visits[one, state, action, following] += 1
            paid[one, state, action] += reward
            total -= reward
            state = following
        total += 0.99
    return total


def test_psrl_on_deep_sea_is_a_plain_numpy_loop():
    ours, theirs = regret(DeepSea(size=5), NORMAL, 200, 200), numpy_psrl(5, 200, 200)
    error = np.sqrt(ours.var() / 200 + theirs.var() / 200)
    assert abs(ours.mean() - theirs.mean()) < 4 * error


def test_sparse_priors_explore_deeply_and_flat_ones_and_dithering_do_not():
    """Accepted: PSRL(1/S) at most .6 of epsilon-greedy, alpha = 1 at least .95 of it."""
    dither = regret(DeepSea(), QLearning(), 400, 16)
    sparse = regret(DeepSea(), NORMAL, 400, 16)
    flat = regret(DeepSea(), replace(NORMAL, alpha=1.0), 400, 16)
    assert sparse.mean() < 0.6 * dither.mean() and flat.mean() > 0.95 * dither.mean()
