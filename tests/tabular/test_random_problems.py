"""Garnet and Dirichlet MDPs: laws of the draws, replicas, Bayesian value."""

import numpy as np
import pytest
import torch
from scipy import stats

from rlkit import planning
from rlkit.engine import Streams
from rlkit.envs.tabular.garnet import Garnet, distinct
from rlkit.envs.tabular.random_mdp import RandomMDP
from rlkit.models import from_kernel
from rlkit.tabular import held


def instance_of(problem, n, seed=1, first=0):
    return problem.instance(Streams(seed, torch.arange(first, first + n)).at("instance", 0))


def model_of(problem, n=1, **options):
    return held(instance_of(problem, n, **options)).model


def test_garnet_rows_have_distinct_successors_and_sum_to_one():
    model = model_of(Garnet(states=12, actions=3, branching=5), n=200)
    assert model.successor.shape == (200, 12, 3, 5)
    ordered = model.successor.sort(-1).values
    assert bool((ordered.diff(dim=-1) > 0).all())
    assert int(ordered.min()) == 0 and int(ordered.max()) == 11
    assert bool((model.probability > 0).all())
    assert torch.allclose(model.probability.sum(-1), torch.ones(1, dtype=torch.float64))


def test_every_set_of_successors_is_equally_likely():
    rng = Streams(1, torch.arange(20_000)).at("instance", 0)
    taken = distinct(rng, 5, (), 3)
    codes = (1 << taken).sum(-1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_garnet_probabilities_are_gaps_of_ordered_uniform_numbers():
    """Each of `b` gaps is Beta(1, b - 1): Kolmogorov and Smirnov on 16,000 of them."""
    gaps = model_of(Garnet(states=8, actions=2, branching=4), n=1_000).probability
    for k in range(4):
        assert stats.kstest(gaps[..., k].reshape(-1).numpy(), stats.beta(1, 3).cdf).pvalue > 1e-4


@pytest.mark.parametrize("sparsity", [0.0, 0.7, 1.0])
def test_garnet_rewards_are_uniform_but_for_the_share_that_pays_nothing(sparsity):
    reward = model_of(Garnet(sparsity=sparsity), n=200).reward.reshape(-1).numpy()
    share = (reward == 0).mean()
    assert abs(share - sparsity) <= 4.5 * (sparsity * (1 - sparsity) / len(reward)) ** 0.5
    if sparsity < 1:
        assert stats.kstest(reward[reward > 0], "uniform").pvalue > 1e-4
    low, high = Garnet().spec(instance_of(Garnet(), 2)).reward_range
    assert low <= reward.min() and reward.max() <= high


def test_a_shared_garnet_is_one_for_all_replicas_and_another_for_another_seed():
    problem = Garnet(shared=True)
    one, other = model_of(problem, 3), model_of(problem, 9, first=50)
    assert not one.batched
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one.reward, model_of(problem, 3, seed=2).reward)


@pytest.mark.parametrize("problem", [Garnet(), RandomMDP()])
def test_a_replica_draws_the_same_model_in_any_company(problem):
    whole, part = model_of(problem, 9), model_of(problem, 2, first=4)
    for name in ("successor", "probability", "reward"):
        assert torch.equal(getattr(whole, name)[4:6], getattr(part, name))
    assert len(whole.reward.reshape(9, -1).unique(dim=0)) == 9


def test_random_mdps_have_dirichlet_rows_and_normal_rewards():
    """Cells of a Dirichlet(a, ..., a) row over S states are Beta(a, (S - 1) a)."""
    model = model_of(RandomMDP(states=4, actions=2, concentration=0.5), n=1_500)
    cells = model.kernel[..., 1].reshape(-1).numpy()
    assert stats.kstest(cells, stats.beta(0.5, 1.5).cdf).pvalue > 1e-4
    rewards = model.mean_reward.reshape(-1).numpy()
    assert stats.kstest(rewards, stats.norm(1, 1).cdf).pvalue > 1e-4


def test_the_default_concentration_is_one_over_the_number_of_states():
    cells = model_of(RandomMDP(states=5), n=800).kernel[..., 2].reshape(-1).numpy()
    mean, error = cells.mean(), cells.std() / len(cells) ** 0.5
    assert abs(mean - 0.2) < 4.5 * error
    # Variance of a cell: m (1 - m) / (S a + 1) with S a = 1.
    assert cells.var() == pytest.approx(0.08, rel=0.05)


def test_a_single_state_pays_its_best_action_at_every_step():
    problem = RandomMDP(states=1, actions=3, horizon=7)
    instance = instance_of(problem, 50)
    best = held(instance).model.mean_reward[:, 0].amax(-1)
    assert torch.allclose(problem.optimal_value(instance), 7 * best)


def test_values_of_a_garnet_satisfy_bellmans_equation():
    problem = Garnet()
    instance = instance_of(problem, 6)
    model, value = held(instance).model, problem.state_values(instance)
    q = model.mean_reward + 0.95 * torch.einsum("nsat,nt->nsa", model.kernel, value)
    assert torch.allclose(q.amax(-1), value, atol=1e-10)
    assert torch.allclose(problem.optimal_value(instance), value[:, 0])
    assert torch.allclose(problem.gap_table(instance), value[..., None] - q, atol=1e-9)
    assert torch.equal(problem.optimal_policy(instance), q.argmax(-1))
    assert torch.allclose(problem.span(instance), value.amax(-1) - value.amin(-1))


def test_gain_span_and_diameter_of_random_mdps_are_those_of_each_replicas_own():
    problem = RandomMDP(states=4, actions=3, concentration=1.0, horizon=None)
    instance = instance_of(problem, 5)
    model = held(instance).model
    assert problem.span(instance).shape == problem.diameter(instance).shape == (5,)
    for row in range(5):
        alone = model._replace(**{name: getattr(model, name)[row] for name in model._fields})
        gain = planning.gain_and_bias(alone)
        assert float(problem.optimal_value(instance)[row]) == pytest.approx(float(gain.gain))
        span = float(gain.bias.max() - gain.bias.min())
        assert float(problem.span(instance)[row]) == pytest.approx(span, abs=1e-9)
        assert float(problem.diameter(instance)[row]) == pytest.approx(hitting(alone), rel=1e-6)


def hitting(model):
    """Largest optimal expected hitting time, by value iteration in numpy for each target."""
    kernel = model.kernel.numpy()
    worst = 0.0
    for target in range(len(kernel)):
        time = np.zeros(len(kernel))
        for _ in range(5_000):
            time = 1 + (kernel @ time).min(1)
            time[target] = 0.0
        worst = max(worst, time.max())
    return worst


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Garnet(states=3, branching=4), r"branching = 4 outside \[1, 3\]"),
        (lambda: Garnet(branching=0), r"branching = 0 outside \[1, 20\]"),
        (lambda: Garnet(actions=0), r"actions = 0 outside \[1, inf\)"),
        (lambda: Garnet(sparsity=1.5), r"sparsity = 1.5 outside \[0, 1\]"),
        (lambda: Garnet(gamma=1), r"gamma = 1 outside \[0, 1\)"),
        (lambda: Garnet(horizon=0), r"horizon = 0 outside \[1, inf\)"),
        (lambda: RandomMDP(states=0), r"states = 0 outside \[1, inf\)"),
        (lambda: RandomMDP(concentration=0.0), r"concentration = 0.0 outside \(0, inf\)"),
        (lambda: RandomMDP(reward_deviation=-1.0), r"reward_deviation = -1.0 outside \[0, inf\)"),
        (lambda: RandomMDP(reward_mean=float("nan")), "reward_mean = nan is not a finite number"),
        (lambda: RandomMDP(noise=-0.5), r"noise = -0.5 outside \[0, inf\)"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_a_kernel_of_all_replicas_is_cut_to_its_longest_row():
    """The shape of a replica's tables must not depend on what the others drew."""
    kernel = torch.eye(4, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    reward, start = torch.zeros(4, 2), torch.eye(4)[0]
    assert from_kernel(kernel, reward, start).successor.shape == (4, 2, 1)
    replicas = from_kernel(kernel.repeat(3, 1, 1, 1), reward.repeat(3, 1, 1), start)
    assert replicas.successor.shape == (3, 4, 2, 4)
    assert torch.equal(replicas.kernel[1], kernel)
