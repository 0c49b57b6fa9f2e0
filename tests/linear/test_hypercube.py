"""The hypercube: its closed-form optimum, its gaps, and that it is linear in its features."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.agents.bandits.uniform import Uniform
from rlkit.agents.linear.lsvi_ucb import LSVIUCB
from rlkit.envs.linear.hypercube import GOOD, START, Hypercube
from rlkit.planning import backward_induction
from rlkit.random import Rng
from rlkit.rollout import simulate

PROBLEM = Hypercube(dimension=4, margin=0.03, horizon=7)


def drawn(n=5):
    instance = PROBLEM.instance(Rng(2, "instance", torch.arange(n)))
    return instance, instance.replica.model


def mu_of(model, replica):
    """From the probabilities of the corners with a single 1 among -1."""
    chance = model.kernel[replica, START, :, GOOD].numpy()
    return np.array([(chance[1 << i] - chance[0]) / 2 for i in range(3)])


def test_value_and_gaps_are_those_of_the_closed_form():
    _, model = drawn()
    q = backward_induction(model, PROBLEM.horizon).q[:, 0, START]
    share = (PROBLEM.horizon - 1) / PROBLEM.horizon
    for replica in range(5):
        mu = mu_of(model, replica)
        assert np.abs(mu) == pytest.approx(0.03)
        # Bit i of the action is entry i, so the first entry varies fastest.
        corners = [c[::-1] for c in itertools.product((-1, 1), repeat=3)]
        expected = [share * (1 / 6 + np.dot(mu, corner)) for corner in corners]
        np.testing.assert_allclose(q[replica].numpy(), expected, atol=1e-12)
        assert max(expected) == pytest.approx(share * (1 / 6 + 3 * 0.03))


def test_replicas_differ():
    _, model = drawn(40)
    assert len({tuple(np.sign(mu_of(model, replica))) for replica in range(40)}) == 8


def test_transitions_and_rewards_are_linear_in_features_of_norm_one():
    instance, model = drawn()
    table = PROBLEM.spec(instance).known.features.table.flatten(0, 1).numpy()
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1)
    targets = [model.kernel[0].flatten(0, 1), model.mean_reward[0].flatten()[:, None]]
    for target in torch.cat(targets, 1).numpy().T:
        weight = np.linalg.lstsq(table, target, rcond=None)[0]
        np.testing.assert_allclose(table @ weight, target, atol=1e-12)


def test_agents_with_features_play_it():
    steps = 7 * 40
    for agent in (LSVIUCB(), Uniform()):
        regret = simulate(PROBLEM, agent, steps, 6, group=6).metrics["regret"][-1]
        assert (regret > 0).all()
        # No episode costs more than the distance of the best corner from the worst.
        assert (regret <= 40 * 6 / 7 * 6 * 0.03 + 1e-9).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimension": 1}, "dimension = 1"),
        ({"margin": 0.06}, "margin = 0.06"),
        ({"margin": 0.0}, "margin = 0"),
        ({"horizon": 1}, "horizon = 1"),
    ],
)
def test_fields_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Hypercube(**fields)
