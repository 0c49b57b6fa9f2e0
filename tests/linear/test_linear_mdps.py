"""Linear MDPs: what is drawn, its linear parts, and the optimum by another backward induction."""

import numpy as np
import pytest
import torch
from scipy import stats

from rlkit import planning
from rlkit.agents.bandits.uniform import Uniform
from rlkit.engine import Streams
from rlkit.envs.linear.linear_mdp import LinearMDP
from rlkit.linear_mdps import FeatureTable, feature_table
from rlkit.protocol import Box, Discrete, Known, Spec
from rlkit.rollout import Rollout, Run

N, S, A, D, H = 6, 7, 3, 4, 5
PROBLEM = LinearMDP(states=S, actions=A, dimension=D, horizon=H)


def instance_of(problem, n=N, seed=1, first=0):
    return problem.instance(Streams(seed, torch.arange(first, first + n)).at("instance", 0))


@pytest.fixture(scope="module")
def drawn():
    """The tables in numpy, and the kernels `[N, H, S, A, S]` and rewards that follow from them."""
    tables = instance_of(PROBLEM).replica
    phi, mu, theta = (leaf.numpy() for leaf in tables.linear)
    kernel = np.einsum("nhsad,nhdt->nhsat", phi, mu)
    reward = np.einsum("nhsad,nhd->nhsa", phi, theta)
    return tables, phi, kernel, reward


def test_features_and_measures_are_distributions_and_rewards_lie_in_the_unit_interval(drawn):
    tables, phi, kernel, reward = drawn
    for table in (phi, tables.linear.measures.numpy(), kernel):
        assert (table >= 0).all()
        np.testing.assert_allclose(table.sum(-1), 1, rtol=1e-12)
    assert (reward >= 0).all() and (reward <= 1).all()
    assert np.ptp(reward) > 0.3


def test_the_layered_model_is_the_linear_one_stage_by_stage(drawn):
    tables, _, kernel, reward = drawn
    dense = tables.model.dense()
    for h in range(H):
        own = slice(h * S, (h + 1) * S)
        np.testing.assert_allclose(dense.reward[:, own], reward[:, h], rtol=1e-12)
        if h < H - 1:
            following = dense.kernel[:, own, :, (h + 1) * S : (h + 2) * S]
            np.testing.assert_allclose(following, kernel[:, h], rtol=1e-12, atol=1e-16)
        else:
            np.testing.assert_allclose(dense.kernel[:, own, :, -1], 1, rtol=1e-12)
    assert tables.model.terminal[0].nonzero().tolist() == [[H * S]]
    assert tables.model.start[0].nonzero().tolist() == [[0]]


def test_action_values_of_every_policy_are_linear_in_the_features(drawn):
    """Residual of a least-squares fit on the features, and it is large on other features."""
    _, phi, kernel, reward = drawn
    random = np.random.default_rng(0)
    for _ in range(5):
        policy = random.dirichlet(np.ones(A), size=(H, S))
        value = np.zeros((N, S))
        for h in reversed(range(H)):
            q = reward[:, h] + np.einsum("nsat,nt->nsa", kernel[:, h], value)
            for n in range(N):
                x = phi[n, h].reshape(S * A, D)
                fitted = x @ np.linalg.lstsq(x, q[n].ravel(), rcond=None)[0]
                assert np.abs(fitted - q[n].ravel()).max() < 1e-9
                few = x[:, : D - 1]
                fitted = few @ np.linalg.lstsq(few, q[n].ravel(), rcond=None)[0]
                assert np.abs(fitted - q[n].ravel()).max() > 1e-3
            value = (policy[h] * q).sum(-1)


def test_the_optimum_is_that_of_backward_induction_over_stages(drawn):
    tables, _, kernel, reward = drawn
    value, gap = np.zeros((N, S)), np.zeros((N, H * S + 1, A))
    for h in reversed(range(H)):
        q = reward[:, h] + np.einsum("nsat,nt->nsa", kernel[:, h], value)
        value = q.max(-1)
        gap[:, h * S : (h + 1) * S] = value[..., None] - q
    np.testing.assert_allclose(tables.optimum, value[:, 0], rtol=1e-12)
    np.testing.assert_allclose(tables.stepping.regret.reshape(gap.shape), gap, atol=1e-12)
    np.testing.assert_allclose(PROBLEM.state_values(instance_of(PROBLEM))[:, 0], value[:, 0])


def test_an_episode_lasts_a_step_a_stage_and_its_regret_adds_up():
    """Uniform play: mean total regret is the optimum less the value of the uniform policy."""
    n, episodes = 400, 5
    loop = Rollout(Run(PROBLEM, Uniform(), H * episodes, n, seed=3, group=n))
    seen = []
    for step in range(1, H * episodes + 1):
        seen.append(loop.groups[0].carry.state.state // S)
        loop.advance(step)
    assert all(bool((layer == t % H).all()) for t, layer in enumerate(seen))
    tables = loop.groups[0].instance.replica
    policy = torch.full((H * S + 1, A), 1 / A, dtype=torch.float64)
    plan = planning.finite_policy_value(tables.model, policy, H)
    expected = (tables.optimum - plan.value[:, 0, 0]).numpy() * episodes
    difference = loop.record()["regret"].numpy() - expected
    assert abs(difference.mean()) < 4 * difference.std() / n**0.5
    assert expected.mean() > 20 * difference.std() / n**0.5


def test_disclosed_features_are_those_of_state_and_action_and_vanish_at_the_end(drawn):
    _, phi, _, _ = drawn
    known = PROBLEM.spec(instance_of(PROBLEM)).known.features
    table = feature_table(PROBLEM.spec(instance_of(PROBLEM)))
    assert table.shape == (N, H * S + 1, A, D)
    np.testing.assert_array_equal(table[:, :-1].reshape(phi.shape), phi)
    assert not table[:, -1].any()
    state, action = torch.arange(N) * 5, torch.arange(N) % A
    rows = known(state, action)
    assert torch.equal(rows, table[torch.arange(N), state, action])
    shared = FeatureTable(table[0])
    assert torch.equal(shared(state, action), table[0][state, action])


def test_draws_follow_their_laws():
    """Entries of a Dirichlet(a, ..., a) vector of size k are Beta(a, (k - 1) a)."""
    problem = LinearMDP(4, 2, 3, 2, feature_concentration=0.3, measure_concentration=2.0)
    linear = instance_of(problem, n=400).replica.linear
    phi, mu, theta = (leaf.numpy() for leaf in linear)
    assert stats.kstest(phi[..., 1].ravel(), stats.beta(0.3, 0.6).cdf).pvalue > 1e-4
    assert stats.kstest(mu[..., 1].ravel(), stats.beta(2, 6).cdf).pvalue > 1e-4
    assert stats.kstest(theta.ravel(), "uniform").pvalue > 1e-4


def test_a_replica_draws_the_same_problem_in_any_company():
    whole, part = instance_of(PROBLEM, 9), instance_of(PROBLEM, 2, first=4)
    leaves = zip(whole.replica.linear, part.replica.linear, strict=True)
    assert all(torch.equal(a[4:6], b) for a, b in leaves)
    assert torch.equal(whole.replica.model.probability[4:6], part.replica.model.probability)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"states": 0}, "states"),
        ({"actions": 2.5}, "actions"),
        ({"dimension": 0}, "dimension"),
        ({"horizon": 0}, "horizon"),
        ({"feature_concentration": 0.0}, "feature_concentration"),
        ({"measure_concentration": float("nan")}, "measure_concentration"),
        ({"states": 10**6}, "numbers a replica; accepted: up to"),
        ({"dimension": 10**6}, "numbers a replica; accepted: up to"),
    ],
)
def test_fields_out_of_range_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        LinearMDP(**fields)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Spec(Box((3,)), Discrete(2)), "needs Discrete ones"),
        (Spec(Discrete(3), Box((2,))), "needs Discrete ones"),
        (
            Spec(Discrete(3), Discrete(2), known=Known(features=lambda s, a: None)),
            "accepted: a FeatureTable",
        ),
        (
            Spec(Discrete(3), Discrete(2), known=Known(features=FeatureTable(torch.ones(2, 3, 4)))),
            r"shape \(2, 3, 4\); accepted: \[N, 3, 2, d\]",
        ),
        (
            Spec(Discrete(3), Discrete(2), known=Known(features=FeatureTable(torch.ones(6, 4)))),
            r"shape \(6, 4\); accepted",
        ),
    ],
)
def test_features_that_do_not_fit_the_spaces_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        feature_table(spec)


def test_without_features_every_pair_is_one():
    table = feature_table(Spec(Discrete(3), Discrete(2)))
    assert torch.equal(table.reshape(6, 6), torch.eye(6, dtype=torch.float64))
