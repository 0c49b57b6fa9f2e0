"""Least-squares value iteration against plain loops that store every transition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from rlkit import planning
from rlkit.agents.bandits.lin_ucb import LinUCB
from rlkit.agents.linear.lsvi_phe import LSVIPHE, perturbed
from rlkit.agents.linear.lsvi_ucb import LSVIUCB
from rlkit.agents.tabular.rlsvi import RLSVI
from rlkit.envs.linear.linear_mdp import LinearMDP
from rlkit.linear_mdps import FeatureTable
from rlkit.linear_values import Regressions, iterate, own_features, stagewise
from rlkit.protocol import Box, Discrete, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.regression import Gaussian, covariance, deviations, isotropic, update
from rlkit.rollout import Rollout, Run

N, S, A, D, H = 3, 5, 2, 4, 3
BARE = Spec(Discrete(S), Discrete(A), H, total_steps=1000)
AGENTS = {"lsvi_ucb": LSVIUCB(), "lsvi_phe": LSVIPHE()}


def streams(n=N, step=0):
    return Rng(3, "learn", torch.arange(n), step)


def spec_with(features):
    """No features, the same for all replicas, or each replica's own; and they in numpy."""
    random = np.random.default_rng(4)
    if features == "none":
        return BARE, np.broadcast_to(np.eye(S * A).reshape(S, A, S * A), (N, S, A, S * A))
    shape = (S, A, D) if features == "shared" else (N, S, A, D)
    table = random.normal(size=shape) / 2
    spec = replace(BARE, known=Known(features=FeatureTable(torch.tensor(table))))
    return spec, np.broadcast_to(table, (N, S, A, D))


def taught(agent, spec, episodes=30, n=N, seed=0, end=0.1):
    """State after random transitions, some of which end their episode, and all of them."""
    random = np.random.default_rng(seed)
    state, stage = agent.initial(spec, streams(n)), np.zeros(n, int)
    stored = [[[] for _ in range(H)] for _ in range(n)]
    for step in range(episodes * H):
        s, t = random.integers(S, size=(2, n))
        a, reward = random.integers(A, size=n), random.random(n)
        discount = (random.random(n) >= end).astype(float)
        last = (discount == 0) | (stage == H - 1)
        for i in range(n):
            stored[i][stage[i]].append((s[i], a[i], np.float32(reward[i]), t[i], discount[i]))
        arrays = s, a, reward.astype(np.float32), discount.astype(np.float32), t, last
        state = agent.learn(spec, state, Transition(*map(torch.tensor, arrays)), streams(n, step))
        stage = np.where(last, 0, stage + 1)
    # What was not finished has not been learned from.
    for i in range(n):
        for h in range(stage[i]):
            stored[i][h].pop()
    return state, stored


def loop(phi, stored, ridge, width):
    """One replica's weights `[H, d]` and values `[H, S, A]` by Algorithm 1 of Jin et al."""
    size = phi.shape[-1]
    weights, q, value = np.zeros((H, size)), np.zeros((H, S, A)), np.zeros(S)
    for h in reversed(range(H)):
        precision, target = ridge * np.eye(size), np.zeros(size)
        for s, a, reward, t, discount in stored[h]:
            precision += np.outer(phi[s, a], phi[s, a])
            target += phi[s, a] * (reward + discount * value[t])
        weights[h] = np.linalg.solve(precision, target)
        inverse = np.linalg.inv(precision)
        for s in range(S):
            for a in range(A):
                x = phi[s, a]
                q[h, s, a] = min(x @ weights[h] + width * math.sqrt(x @ inverse @ x), H - h)
        value = q[h].max(-1)
    return weights, q


def weights_of(state, phi, bound):
    """Weights `[N, H, d]` that a plan makes."""
    seen = []

    def noted(law, features, stage):
        seen.append(law.mean)
        return bound(law, features, stage)

    iterate(state.regressions, torch.tensor(phi), noted)
    return torch.stack(seen[::-1], 1).numpy()


@pytest.mark.parametrize("features", ["none", "shared", "own"])
@pytest.mark.parametrize("scale", [0.002, 0.02])
def test_lsvi_ucb_is_a_plain_loop_over_stored_episodes(features, scale):
    spec, phi = spec_with(features)
    agent = LSVIUCB(scale=scale, ridge=0.7)
    state, stored = taught(agent, spec)
    size = phi.shape[-1]
    width = scale * size * H * math.sqrt(math.log(2 * size * 1000 / 0.05))

    def upper(law, table, stage):
        bound = (table * law.mean[:, None]).sum(-1) + width * deviations(law, table)
        return bound.clamp(max=H - stage)

    weights = weights_of(state, phi, upper)
    for i in range(N):
        expected = loop(phi[i], stored[i], 0.7, width)
        np.testing.assert_allclose(weights[i], expected[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(state.q[i], expected[1], rtol=0, atol=1e-9)
    capped = state.q == torch.arange(H, 0, -1)[:, None, None]
    assert not capped.all() and (capped.any() or features != "none" or scale == 0.002)


@pytest.mark.parametrize("features", ["none", "shared", "own"])
def test_perturbed_histories_without_noise_are_the_same_loop_without_bonus(features):
    spec, phi = spec_with(features)
    state, stored = taught(LSVIPHE(sigma=0.0, ridge=0.7), spec)
    for i in range(N):
        _, q = loop(phi[i], stored[i], 0.7, 0.0)
        np.testing.assert_allclose(state.q[i], q, rtol=0, atol=1e-9)


def test_one_feature_a_pair_makes_counts_of_the_regression():
    """`(sum of targets) / (n + ridge) + beta / sqrt(n + ridge)`."""
    agent = LSVIUCB(scale=0.02, ridge=0.5)
    state, stored = taught(agent, BARE)
    width = agent.width(BARE, S * A)
    assert width == pytest.approx(0.02 * S * A * H * math.sqrt(math.log(2 * S * A * 1000 / 0.05)))
    for i in range(N):
        value = np.zeros(S)
        for h in reversed(range(H)):
            count, total = np.full((S, A), 0.5), np.zeros((S, A))
            for s, a, reward, t, discount in stored[i][h]:
                count[s, a] += 1
                total[s, a] += reward + discount * value[t]
            q = np.minimum(total / count + width / np.sqrt(count), H - h)
            np.testing.assert_allclose(state.q[i, h], q, rtol=1e-11)
            value = q.max(-1)


def test_without_noise_perturbed_histories_and_rlsvi_are_one_ridge_regression():
    ours, _ = taught(LSVIPHE(sigma=0.0, ridge=0.3), BARE, end=0.0)
    theirs, _ = taught(RLSVI(sigma=0.0, ridge=0.3, stage_dependent=True), BARE, end=0.0)
    np.testing.assert_allclose(ours.q, theirs.q, rtol=1e-10)


def test_one_perturbed_regression_has_the_law_of_rlsvi():
    """At the last stage `N(sum of rewards / (n + ridge), sigma^2 / (n + ridge))` for each pair."""
    n, sigma, ridge = 20_000, 0.02, 2.0
    agent = LSVIPHE(sigma=sigma, ensemble=1, ridge=ridge)
    one, stored = taught(agent, BARE, n=1)
    laws = [leaf.expand(n, *leaf.shape[1:]) for leaf in one.regressions.reward]
    many = Regressions(Gaussian(*laws), one.regressions.moment.expand(n, -1, -1, -1))
    table = torch.eye(S * A, dtype=torch.float64).reshape(1, S, A, S * A)
    q = agent.plan(BARE, many, streams(n), table).numpy()
    count, total = np.full((S, A), ridge), np.zeros((S, A))
    for s, a, reward, _, _ in stored[0][H - 1]:
        count[s, a] += 1
        total[s, a] += reward
    z = (q[:, H - 1] - total / count) * np.sqrt(count) / sigma
    assert np.all(stats.kstest(z.reshape(n, -1), stats.norm.cdf, axis=0).pvalue > 1e-4)
    assert np.abs(np.corrcoef(z.reshape(n, -1).T) - np.eye(S * A)).max() < 4.5 / n**0.5


def ridge_problem(seed=0, steps=12, size=3, ridge=0.6):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(steps, size)), random.normal(size=steps)
    precision = x.T @ x + ridge * np.eye(size)
    return x, y, ridge, precision, np.linalg.solve(precision, x.T @ y)


def test_a_perturbed_regression_is_exactly_a_draw_around_ridge():
    """The linear map from standard normals to weights squares to `sigma^2 Lambda^-1`."""
    x, y, ridge, precision, centre = ridge_problem()
    law = isotropic(streams(1), 3, 1 / ridge)
    for row, target in zip(x, y, strict=True):
        law = update(law, torch.tensor(row)[None], torch.tensor([target]), 1.0)
    none, basis = torch.zeros(1, 1, 3).double(), torch.eye(3).double()[None]
    np.testing.assert_allclose(perturbed(law, none, 0.4)[0, 0], centre, rtol=1e-11)
    columns = (perturbed(law, basis, 0.4)[0] - law.mean).numpy().T
    np.testing.assert_allclose(columns @ columns.T, 0.16 * np.linalg.inv(precision), rtol=1e-10)


def test_noise_on_every_target_and_on_the_prior_gives_that_very_law():
    """Algorithm of Ishfaq et al. as written, 40,000 times: mean and covariance of the weights."""
    x, y, ridge, precision, centre = ridge_problem()
    random, n, sigma = np.random.default_rng(1), 40_000, 0.4
    target = y + sigma * random.normal(size=(n, len(y)))
    prior = math.sqrt(ridge) * sigma * random.normal(size=(n, 3))
    weights = np.linalg.solve(precision, (target @ x + prior).T).T
    expected = sigma**2 * np.linalg.inv(precision)
    deviation = np.sqrt(np.diag(expected))
    assert np.abs((weights.mean(0) - centre) / deviation).max() < 4.5 / n**0.5
    spread = np.cov(weights.T)
    scale = np.sqrt((np.outer(deviation, deviation) ** 2 + expected**2) / n)
    assert (np.abs(spread - expected) / scale).max() < 4.5


def test_values_are_the_best_of_the_ensemble_and_capped():
    spec, phi = spec_with("own")
    agent = LSVIPHE(sigma=0.7, ensemble=4)
    state, _ = taught(agent, spec)
    rng = streams(N, 77)
    q = agent.plan(spec, state.regressions, rng, torch.tensor(phi)).numpy()
    normal = rng.normal("weights", H, 4, D, dtype=torch.float64).numpy()
    law = state.regressions.reward
    drawn = law.mean[:, -1, None].numpy() + 0.7 * np.einsum(
        "nij,nmj->nmi", law.root[:, -1], normal[:, -1]
    )
    every = np.einsum("nsad,nmd->nmsa", phi, drawn)
    np.testing.assert_allclose(q[:, -1], np.minimum(every.max(1), 1), atol=1e-12)
    assert (q[:, -1] == 1).any() and (q[:, -1] < 1).any()


def test_the_size_of_the_noise_follows_the_theorem():
    size, log = 6, math.log(2 * 6 * 1000 / 0.05)
    assert LSVIPHE(scale=0.3).spread(BARE, size) == pytest.approx(0.3 * H * math.sqrt(size * log))
    assert LSVIPHE(sigma=0.2).spread(replace(BARE, total_steps=None), size) == 0.2


def test_upper_bounds_hold_with_the_promised_probability_and_are_not_empty():
    """Optimism at scale 1 in all stages and episodes; with next to no bonus it fails."""
    problem, n, steps = LinearMDP(2, 2, 2, 2), 30, 2400
    stage = torch.arange(2)[:, None] == torch.arange(5) // 2
    cap = torch.tensor([2.0, 1.0])[:, None, None]
    for scale, checked, promised in ((0.002, (20, 60, 200), False), (1.0, (20, 200, steps), True)):
        run = Run(problem, LSVIUCB(scale, delta=0.1), steps, n, seed=2, group=n)
        loop, broken = Rollout(run), torch.zeros(n, dtype=torch.bool)
        model = loop.groups[0].instance.replica.model
        best = planning.backward_induction(model, 2).q[:, :1]
        for step in checked:
            loop.advance(step)
            q = loop.groups[0].carry.agent.q
            broken |= ((q < best - 1e-6) & stage[..., None]).flatten(1).any(1)
        assert (broken.double().mean() <= 0.1) == promised
    assert ((q < cap - 0.1) & stage[..., None]).flatten(1).any(1).double().mean() > 0.3


def test_one_step_and_one_state_make_lsvi_ucb_linucb():
    """Same data: same weights, same widths and, with the same factor, the same upper bounds."""
    n, arms, size, steps = 4, 6, 3, 25
    random = np.random.default_rng(0)
    table = torch.tensor(random.normal(size=(n, 1, arms, size)))
    features = Known(features=FeatureTable(table))
    spec = Spec(Discrete(1), Discrete(arms), 1, features, total_steps=steps)
    bandit = Spec(Box((arms, size)), Discrete(arms), total_steps=steps)
    linucb = LinUCB(penalty=0.8, noise=0.5)
    agent = LSVIUCB(scale=0.003, ridge=0.8, reward_max=100.0)
    ours, theirs = agent.initial(spec, streams(n)), linucb.initial(bandit, streams(n))
    zero, one = torch.zeros(n).long(), torch.ones(n)
    for step in range(steps):
        action, reward = torch.tensor(random.integers(arms, size=n)), torch.tensor(random.random(n))
        batch = Transition(zero, action, reward.float(), 0 * one, zero, one > 0)
        ours = agent.learn(spec, ours, batch, streams(n, step))
        shown = batch._replace(observation=table[:, 0], next_observation=table[:, 0])
        theirs = linucb.learn(bandit, theirs, shown, streams(n, step))
    law = ours.regressions.reward
    np.testing.assert_allclose(law.mean[:, 0], theirs.mean, rtol=1e-12)
    own = Gaussian(law.mean[:, 0], law.root[:, 0], law.gain[:, 0])
    np.testing.assert_allclose(deviations(own, table[:, 0]), deviations(theirs, table[:, 0]))
    factor = agent.width(spec, size)
    index = (table[:, 0] * theirs.mean[:, None]).sum(-1) + factor * deviations(theirs, table[:, 0])
    np.testing.assert_allclose(ours.q[:, 0, 0], index, rtol=1e-12)
    scale = factor / float(linucb.width(bandit, theirs)[0])
    chosen, _ = replace(linucb, scale=scale).act(bandit, theirs, table[:, 0], streams(n))
    assert chosen[0] == agent.act(spec, ours, zero, streams(n))[0][0]


@pytest.mark.parametrize("name", ["lsvi_ucb", "lsvi_phe"])
def test_values_do_not_know_the_names_of_states(name):
    agent, (spec, phi) = AGENTS[name], spec_with("own")
    state, _ = taught(agent, spec)
    order = torch.tensor([2, 0, 4, 3, 1])
    rng, table = streams(N, 9), torch.tensor(phi)
    q = agent.plan(spec, state.regressions, rng, table)
    renamed = state.regressions._replace(moment=state.regressions.moment[..., order])
    moved = agent.plan(spec, renamed, rng, table[:, order])
    torch.testing.assert_close(moved, q[:, :, order], rtol=1e-11, atol=1e-12)


def test_ten_thousand_rank_one_updates_keep_the_inverse():
    random, size, steps = np.random.default_rng(0), 4, 10_000
    law = Gaussian(*(stagewise(leaf, 2) for leaf in isotropic(streams(1), size, 1 / 0.5)))
    x = random.normal(size=(steps, 1, 2, size)) * np.array([1.0, 1e-3])[:, None]
    x[:, :, 1, 0] += 1.0  # nearly one direction
    for row in torch.tensor(x):
        law = update(law, row, torch.zeros(1, 2), 1.0)
    for h in range(2):
        direct = np.linalg.inv(0.5 * np.eye(size) + x[:, 0, h].T @ x[:, 0, h])
        own = Gaussian(law.mean[:, h], law.root[:, h], law.gain[:, h])
        np.testing.assert_allclose(covariance(own)[0], direct, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lsvi_ucb", "lsvi_phe"])
@pytest.mark.parametrize("features", ["none", "own"])
def test_only_replicas_whose_episode_ended_plan_and_each_as_if_all_did(name, features):
    agent, n = AGENTS[name], 40
    random = np.random.default_rng(0)
    spec = BARE
    if features == "own":
        table = torch.tensor(random.normal(size=(n, S, A, D)))
        spec = replace(BARE, known=Known(features=FeatureTable(table)))
    last = torch.zeros(n, dtype=torch.bool)
    last[[3, 17, 18]] = True
    number, ones = torch.arange(n), torch.ones(n)
    batch = Transition(number % S, number % A, ones, ones, number % S, torch.ones_like(last))
    before = agent.initial(spec, streams(n))
    every = agent.learn(spec, before, batch, streams(n, 7))
    few = agent.learn(spec, before, batch._replace(last=last), streams(n, 7))
    assert torch.equal(few.q[last], every.q[last]) and torch.equal(few.q[~last], before.q[~last])
    assert few.episode.stage.tolist() == (~last).long().tolist()
    old, new = before.regressions, few.regressions
    assert torch.equal(new.reward.root[~last], old.reward.root[~last])
    assert bool((new.moment[last] != 0).flatten(1).any(1).all())
    assert not bool(new.moment[~last].any())


@pytest.mark.parametrize("name", ["lsvi_ucb", "lsvi_phe"])
def test_the_plan_is_held_through_an_episode_and_replaced_after_it(name):
    loop = Rollout(Run(LinearMDP(4, 2, 3, H), AGENTS[name], 60, 4, seed=1, group=4))
    held = loop.groups[0].carry.agent.q
    for step in range(1, 3 * H + 1):
        loop.advance(step)
        now = loop.groups[0].carry.agent.q
        assert torch.equal(now, held) == (step % H != 0)
        held = now


def test_a_shared_table_serves_every_replica():
    table = torch.ones(S, A, D)
    assert own_features(table).shape == (1, S, A, D)
    assert own_features(table[None]).shape == (1, S, A, D)


@pytest.mark.parametrize(
    ("agent", "fields", "words"),
    [
        (LSVIUCB, {"scale": -0.1}, "scale"),
        (LSVIUCB, {"ridge": 0.0}, "ridge"),
        (LSVIUCB, {"delta": 1.0}, "delta"),
        (LSVIUCB, {"reward_max": 0.0}, "reward_max"),
        (LSVIPHE, {"sigma": -0.1}, "sigma"),
        (LSVIPHE, {"scale": -0.1}, "scale"),
        (LSVIPHE, {"ensemble": 0}, "ensemble"),
        (LSVIPHE, {"ridge": -1.0}, "ridge"),
        (LSVIPHE, {"delta": 0.0}, "delta"),
        (LSVIPHE, {"reward_max": float("inf")}, "reward_max"),
    ],
)
def test_fields_out_of_range_are_refused(agent, fields, words):
    with pytest.raises(ValueError, match=words):
        agent(**fields)


@pytest.mark.parametrize("name", ["lsvi_ucb", "lsvi_phe"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation": Box((3,))}, "needs Discrete ones"),
        ({"horizon": None}, "horizon = None"),
        ({"observation": Discrete(300)}, "600 features with 300 states"),
        ({"reward_range": (0.0, 3.0)}, "rewards go up to 3"),
        ({"total_steps": None}, "total_steps = None"),
        ({"known": Known(features=FeatureTable(torch.ones(A, S, D)))}, r"\[N, 5, 2, d\]"),
    ],
)
def test_unsuitable_problems_are_refused(name, change, words):
    with pytest.raises(ValueError, match=words):
        AGENTS[name].initial(replace(BARE, **change), streams())
