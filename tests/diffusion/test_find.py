"""FIND and its rivals on the initial noise: gradients, fixed points, released formulas, fronts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkit import registry
from rlkit.agents.diffusion.cem_noise import CEMNoise
from rlkit.agents.diffusion.find import FIND
from rlkit.agents.diffusion.noise_search import NoiseSearch
from rlkit.agents.diffusion.prompt_search import PromptSearch
from rlkit.agents.diffusion.refl import ReFL
from rlkit.alignment.training import gradient
from rlkit.diffusion.noise_policies import NoiseLaw, affine_map, affine_optimum, log_noise
from rlkit.diffusion.task import Noise, Scores, knowledge, run_reference
from rlkit.engine import Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.envs.diffusion.noise_prompt import NoisePrompt
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

LQG = NoisePrompt(data="lqg", steps=10)
GM1 = NoisePrompt(data="gm1")
PLAIN = {"baseline": "none", "batch": 16}


def spec_of(problem, n=3):
    return problem.spec(problem.instance(Streams(0, torch.arange(n)).at("instance", 0)))


def trained(problem, agent, steps, n=8, seed=0):
    """The run after `steps` iterations: agent's state, its specification, records."""
    run = Rollout(Run(problem, agent, steps, replicas=n, group=n, seed=seed))
    run.advance(steps)
    return run.groups[0].carry.agent, run.groups[0].spec, run.record()


def iteration(agent, spec, rng, state=None, reward=None, time=0):
    """State before, action and state after one iteration with rewards given or of the task."""
    if state is None:
        state = agent.initial(spec, rng.at("initial", 0))
    action, state = agent.act(spec, state, None, rng.at("act", time))
    task = knowledge(spec)
    with torch.no_grad():
        point = action.point
        if isinstance(action, Noise):
            point = run_reference(task, point, action.prompt, rng.at("env", time))
        paid = task.reward(point, action.prompt) if reward is None else reward(action)
    batch = Transition(None, action, paid.mean(1), None, None, None, Scores(paid, point))
    return state, action, paid, agent.learn(spec, state, batch, rng.at("learn", time))


def first_moment(state):
    """Gradients of the loss at the first step of Adam, mean and log deviation."""
    return [10 * adam.mean for adam in state.law.adam]


def test_one_step_on_fresh_rollouts_is_plain_reinforce():
    problem, rng = NoisePrompt(dimension=6, modes=2, pairs=0), Streams(4, torch.arange(3))
    agent = FIND(**PLAIN)
    before, action, paid, after = iteration(agent, spec_of(problem), rng)
    x, r = action.point.reshape(3, 2, 16, 6).numpy(), paid.reshape(3, 2, 16, 1).numpy()
    # d log N(x; 0, 1) / d mu = x, d / d log sigma = x^2 - 1.
    by_mean, by_deviation = first_moment(after)
    np.testing.assert_allclose(by_mean, -(r * x).mean(2), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(by_deviation, -(r * (x * x - 1)).mean(2), rtol=1e-9, atol=1e-14)
    assert (after.iteration == before.iteration + 1).all()


def test_fresh_rollouts_have_ratio_one_whatever_the_law():
    rng, spec = Streams(1, torch.arange(2)), spec_of(NoisePrompt(), 2)
    agent = FIND(**PLAIN, deviation=0.3)
    _, action, paid, after = iteration(agent, spec, rng)
    x, r = action.point[:, None].numpy() / 0.3, paid[:, None, :, None].numpy()
    np.testing.assert_allclose(first_moment(after)[0], -(r * x / 0.3).mean(2), rtol=1e-9)


@pytest.mark.parametrize("baseline", ["none", "ema", "network"])
def test_a_constant_reward_has_no_expected_gradient(baseline):
    n = 800
    rng, spec = Streams(2, torch.arange(n)), spec_of(NoisePrompt(steps=1), n)
    agent = FIND(baseline=baseline, batch=4)
    after = iteration(agent, spec, rng, reward=lambda a: torch.ones(a.prompt.shape))[-1]
    for slope in first_moment(after):
        error = slope.std(0) / np.sqrt(n)
        assert (slope.mean(0).abs() <= 4.5 * error + 1e-12).all()  # 4 numbers
    if baseline == "ema":
        assert all((slope == 0).all() for slope in first_moment(after))


@pytest.mark.parametrize("baseline", ["ema", "network"])
def test_a_shift_of_all_rewards_changes_nothing_once_the_baseline_knows_it(baseline):
    rng, spec = Streams(3, torch.arange(3)), spec_of(NoisePrompt(steps=2))
    agent = FIND(baseline=baseline, baseline_rate=1e-12)
    moved = []
    for shift in (0.0, 25.0):
        state = agent.initial(spec, rng.at("initial", 0))
        if baseline == "network":  # a network that predicts the mean reward
            last = state.memory.network.parameters[-1]
            known = (*state.memory.network.parameters[:-1], last._replace(bias=last.bias + shift))
            network = state.memory.network._replace(parameters=known)
            state = state._replace(memory=state.memory._replace(network=network))

        def reward(action, shift=shift):
            return torch.sin(action.point.sum(-1)) + shift

        moved.append(iteration(agent, spec, rng, state, reward)[-1].law.parameters.mean)
    assert (moved[0] != 0).all()
    torch.testing.assert_close(*moved, rtol=1e-6, atol=1e-9)


def test_the_network_learns_the_expected_reward_of_the_law():
    agent = FIND(rate=1e-9, batch=32, baseline_rate=0.01)
    state, spec, record = trained(NoisePrompt(modes=2, steps=8), agent, 100, n=4)
    level = agent.expected(spec, state.memory, state.law.parameters)
    # A fifth of samples is at each target; the network averages over some 20 iterations of 32.
    assert (level - 0.2).abs().max() < 0.12
    np.testing.assert_allclose(record["gold_reward"], 0.2, atol=0.1)


@pytest.mark.parametrize("kind", ["kl", "squared"])
def test_find_settles_at_the_optimal_noise_of_the_quadratic_reward(kind):
    agent = FIND(beta=0.2, regulariser=kind, batch=64, rate=0.02, baseline="ema")
    state, spec, record = trained(LQG, agent, 400, n=32)
    best = affine_optimum(*affine_map(knowledge(spec)), 1.5, -1.0, 0.2, kind)
    law = state.law.parameters
    for found, wanted in zip((law.mean, law.deviation), best, strict=True):
        error = float(found.std()) / np.sqrt(32)
        # Steps of constant size keep a bias of the order of their size.
        assert abs(float(found.mean()) - wanted) < 4 * error + 0.02
    assert (record["evaluations"] == 400 * 64 * 10).all()
    assert (record["queries"] == 400 * 64).all()


def test_a_heavy_regulariser_keeps_standard_normal_noise():
    state = trained(LQG, FIND(beta=1e4, rate=0.003, baseline="ema"), 150, n=4)[0]
    assert state.law.parameters.mean.abs().max() < 0.02
    assert (state.law.parameters.deviation - 1).abs().max() < 0.02


def test_noise_without_influence_has_no_gradient():
    """Exact kernel: x_0 given x_T is the posterior, whose mean reward hardly moves with x_T.

    The slope at mu = 0 is that of the first order in sqrt(abar), sqrt(abar) Cov(x_0, r): below
    1e-3 at abar 1e-6, not yet at 1e-4.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = np.linspace(-6, 6, 2401)
    reward = 1 / (1 + np.exp(-4 * x))
    data = 0.6 * np.exp(-0.5 * (x + 1.5) ** 2 / 0.1) + 0.4 * np.exp(-0.5 * (x - 1.5) ** 2 / 0.1)
    data /= data.sum()
    covariance = (data * x * reward).sum() - (data * x).sum() * (data * reward).sum()
    slope = {}
    for level in (1e-6, 1e-4, 0.3):
        problem = NoisePrompt(
            data="gm1", kernel="exact", terminal_abar=level, allow_uncontrollable=True
        )
        task = knowledge(spec_of(problem, 1))
        found = []
        for mu in (1e-3, -1e-3):
            law = task.of_prompt(0).posterior(torch.tensor(nodes + mu)[None, :, None], level)
            log, mean, spread = (
                part[0].numpy()[..., None]
                for part in (law.log_weight, law.mean[..., 0], law.spectrum[..., 0])
            )
            density = np.exp(log - 0.5 * (x - mean) ** 2 / spread - 0.5 * np.log(spread)).sum(1)
            found.append(weights @ (density @ reward / density.sum(1)) / weights.sum())
        slope[level] = (found[0] - found[1]) / 2e-3
    for level in (1e-6, 1e-4):
        assert slope[level] == pytest.approx(np.sqrt(level) * covariance, rel=0.02)
    assert abs(slope[1e-6]) < 1e-3 and slope[0.3] > 0.1


def loss_at(agent, ratio, advantage):
    """Gradient of the loss in the mean, for one stored sample at 1 under N(0, 1)."""
    spec = spec_of(LQG, 1)
    memory = agent.initial(spec, Rng(0, "x", torch.arange(1))).memory
    point = torch.ones_like(memory.point[:, :1, :, :1])
    law = NoiseLaw(*(torch.zeros(1, 1, 1, dtype=torch.float64),) * 2)
    now = log_noise(law, point, agent.coordinates == "mean")
    used = memory._replace(point=point, log_probability=now - np.log(ratio))
    given = torch.full_like(now, advantage)
    slopes = gradient(law, lambda p: agent.loss(p, used, given))
    return float(slopes[0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "least", "clamp"),
    [
        (1.0, 2.0, -2.0, -2.0),  # inside: plain gradient, ratio times advantage
        (1.1, -1.0, 1.1, 1.1),
        (1.5, 1.0, 0.0, 0.0),  # gone far enough
        (1.5, -1.0, 1.5, 0.0),  # should come back: the released clamp does not
        (0.5, 1.0, -0.5, 0.0),
        (0.5, -1.0, 0.0, 0.0),
    ],
)
def test_the_released_clamp_does_not_push_samples_back(ratio, advantage, least, clamp):
    assert loss_at(FIND(), ratio, advantage) == pytest.approx(least)
    assert loss_at(FIND(surrogate="clamp"), ratio, advantage) == pytest.approx(clamp)


def test_released_coordinates_and_regulariser_by_hand():
    law = NoiseLaw(torch.tensor([[[0.5, -1.0]]]).double(), torch.tensor([[[0.0, 0.7]]]).double())
    point = torch.tensor([[[[[0.2, 0.4]]]]]).double()
    sigma = np.exp([0.0, 0.7])
    each = -0.5 * ((np.array([0.2, 0.4]) - [0.5, -1.0]) / sigma) ** 2 - np.log(sigma)
    each -= 0.5 * np.log(2 * np.pi)
    assert float(log_noise(law, point)) == pytest.approx(each.sum())
    assert float(log_noise(law, point, True)) == pytest.approx(each.mean())
    used = FIND().initial(spec_of(NoisePrompt()), Rng(0, "x", torch.arange(3))).memory
    used = used._replace(point=point, log_probability=log_noise(law, point))
    none = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    square = np.array([0.25, 1.0]) + (sigma - 1) ** 2
    kl = 0.5 * (np.array([0.25, 1.0]) + sigma**2 - 1 - 2 * np.log(sigma))
    for agent, expected in (
        (FIND(beta=0.3), 0.3 * kl.sum()),
        (FIND(beta=0.3, regulariser="squared"), 0.3 * square.sum()),
        (FIND(beta=0.3, regulariser="squared", coordinates="mean"), 0.3 * square.mean()),
    ):
        mean = agent.coordinates == "mean"
        told = used._replace(log_probability=log_noise(law, point, mean))
        assert float(agent.loss(law, told, none)) == pytest.approx(expected)


def test_the_released_ratio_is_to_the_initial_law_for_good():
    rng, spec = Streams(5, torch.arange(2)), spec_of(NoisePrompt(), 2)
    standard = -0.5 * np.log(2 * np.pi)
    for kind in ("stored", "initial"):
        agent, state = FIND(ratio=kind, rate=0.3), None
        for time in range(3):
            before, action, _, state = iteration(agent, spec, rng, state, time=time)
        x = action.point.numpy()[:, None]
        law = before.law.parameters
        mean, sigma = law.mean.numpy()[:, :, None], law.deviation.numpy()[:, :, None]
        drawn = (-0.5 * ((x - mean) / sigma) ** 2 - np.log(sigma) + standard).sum(-1)
        initial = (-0.5 * x**2 + standard).sum(-1)
        wanted, other = (drawn, initial) if kind == "stored" else (initial, drawn)
        stored = state.memory.log_probability[:, 0].numpy()
        np.testing.assert_allclose(stored, wanted, rtol=1e-9)
        assert np.abs(stored - other).max() > 0.1


def test_the_released_buffer_pairs_new_noise_with_old_rewards():
    rng, spec = Streams(6, torch.arange(2)), spec_of(NoisePrompt(steps=2), 2)
    agent, state, paid, seen = FIND(buffer="mismatched", capacity=3), None, [], []
    for time in range(5):

        def reward(action, time=time):
            return torch.full(action.prompt.shape, float(time)).double()

        before, action, given, state = iteration(agent, spec, rng, state, reward, time)
        used, rewards = agent.material(state.memory, before.iteration)
        assert (used.point[:, 0].flatten(1, 2) == action.point).all()
        paid.append(float(given[0, 0]))
        seen.append(float(rewards[0, 0, 0, 0]))
    assert paid == [0, 1, 2, 3, 4]
    assert seen == [0, 0, 0, 1, 2]  # row 0 of a buffer of three rollouts


def test_history_reuses_the_last_rollouts_and_only_those_that_exist():
    rng, spec = Streams(7, torch.arange(2)), spec_of(NoisePrompt(steps=2), 2)
    agent, state = FIND(history=2, capacity=2, **PLAIN), None
    laws, points, rewards = [], [], []
    for time in range(2):
        before, action, paid, state = iteration(agent, spec, rng, state, time=time)
        laws.append(before.law.parameters)
        points.append(action.point[:, None])
        rewards.append(paid[:, None])
    once = iteration(FIND(**PLAIN), spec, rng)[-1]
    first = iteration(agent, spec, rng)[-1]  # one rollout: as without history
    torch.testing.assert_close(first_moment(first), first_moment(once))
    # Two rollouts: the mean of both, the older one at its ratio and with the clip.
    law = laws[1]
    now = [log_noise(law, p[:, None])[:, 0] for p in points]
    then = [log_noise(laws[i], points[i][:, None])[:, 0] for i in range(2)]
    total = torch.zeros_like(law.mean)
    for i in range(2):
        ratio = torch.exp(now[i] - then[i])
        active = torch.where(rewards[i] > 0, ratio < 1.2, ratio > 0.8)
        score = (points[i] - law.mean[:, :, None]) / law.deviation[:, :, None] ** 2
        total -= 0.5 * ((ratio * rewards[i] * active)[..., None] * score).mean(2)
    adam = state.law.adam[0].mean  # .9 of a tenth of the first gradient, a tenth of the second
    expected = 0.1 * total + 0.9 * first.law.adam[0].mean
    torch.testing.assert_close(adam, expected, rtol=1e-8, atol=1e-12)


def test_deviations_stay_above_their_floor_and_finite():
    state = trained(LQG, FIND(rate=1.0, beta=0.0, baseline="ema"), 40, n=4)[0]
    assert (state.law.parameters.deviation >= 1e-4 * (1 - 1e-12)).all()


@pytest.mark.parametrize("agent", [FIND(inner=4, rate=0.1), CEMNoise()], ids=lambda a: type(a))
def test_the_law_finds_the_target_among_sixteen_dimensions(agent):
    found = trained(NoisePrompt(dimension=16), agent, 20, n=8)[2]
    assert float(found["gold_reward"].median()) > 0.8
    assert (found["noise_kl"] > 1).all()


def test_each_prompt_has_its_own_noise():
    state, _, found = trained(NoisePrompt(modes=3), FIND(inner=4, rate=0.1), 40, n=4)
    assert all(float(found[f"reward_{c}"].median()) > 0.8 for c in range(3))
    mean = sum(found[f"reward_{c}"] for c in range(3)) / 3
    torch.testing.assert_close(mean, found["gold_reward"])
    law = state.law.parameters.mean.mean(0)
    angle = torch.atan2(law[:, 1], law[:, 0])
    np.testing.assert_allclose(angle, 2 * np.pi * np.arange(3) / 5, atol=0.5)


def test_the_elite_by_hand():
    rng, spec = Streams(8, torch.arange(2)), spec_of(NoisePrompt(steps=2), 2)
    agent = CEMNoise(batch=8, elite=0.25, smoothing=0.5, floor=0.3)
    _, action, paid, after = iteration(agent, spec, rng)
    for row in range(2):
        best = np.argsort(-paid[row].numpy())[:2]
        x = action.point[row].numpy()[best]
        np.testing.assert_allclose(after.law.mean[row, 0], 0.5 * x.mean(0), rtol=1e-12)
        sigma = np.maximum(0.5 + 0.5 * x.std(0), 0.3)
        np.testing.assert_allclose(after.law.deviation[row, 0], sigma, rtol=1e-12)


@pytest.mark.parametrize("radius", [1.0, 0.3])
def test_search_keeps_the_best_start(radius):
    rng, spec = Streams(9, torch.arange(3)), spec_of(NoisePrompt(modes=2), 3)
    agent, state = NoiseSearch(batch=3, radius=radius), None
    best = np.full((3, 2), -np.inf)
    for time in range(5):
        _, _, paid, state = iteration(agent, spec, rng, state, time=time)
        best = np.maximum(best, paid.reshape(3, 2, 3).numpy().max(-1))
        np.testing.assert_allclose(state.law.reward, best)
    task, prompt = knowledge(spec), torch.tensor([[0, 1]] * 3)
    point = run_reference(task, state.law.point, prompt, rng.at("look", 0))
    np.testing.assert_allclose(task.reward(point, prompt), best, rtol=1e-12)


@pytest.mark.parametrize("method", ["reinforce", "ucb"])
def test_prompt_search_prefers_the_phrasing_with_most_of_the_target(method):
    problem = NoisePrompt(phrasings=4, modes=2, steps=6)
    agent = PromptSearch(method=method, rate=0.2, width=0.5)
    state, spec, found = trained(problem, agent, 200, n=6)
    share = knowledge(spec).mixture.weight[:, :, :2].transpose(1, 2)  # [N, C, P]
    law = agent.preference(state)
    got = (law * share).sum(-1)
    assert (got >= share.amax(-1) - 0.1).double().mean() > 0.8
    assert float(got.mean()) > 0.35 and (found["queries"] == 200 * 16).all()


def test_prompt_search_follows_the_policy_gradient_by_hand():
    rng, spec = Streams(2, torch.arange(2)), spec_of(NoisePrompt(phrasings=3, steps=2), 2)
    agent = PromptSearch(batch=4)
    state, _, paid, after = iteration(agent, spec, rng)
    r, chosen = paid.reshape(2, 1, 4).numpy(), state.chosen.numpy()
    assert chosen.max() > 0
    advantage = r - (r.sum(-1, keepdims=True) - r) / 3
    score = (chosen[..., None] == np.arange(4)) - 0.25
    expected = -(advantage[..., None] * score).mean(2)
    np.testing.assert_allclose(10 * after.logits.adam[0].mean, expected, rtol=1e-6, atol=1e-15)


def test_refl_starts_along_the_gradient_of_the_reward_at_the_prediction():
    problem = GaussMixDiffusion(data="lqg", reward="quadratic", steps=6)
    rng, spec = Streams(0, torch.arange(2)), spec_of(problem, 2)
    agent = ReFL(late=1.0, batch=400)
    _, action, _, after = iteration(agent, spec, rng)
    t = rng.at("learn", 0).integers("t", 6, 400).numpy() + 1
    x = np.take_along_axis(action.chain[..., 0].numpy(), t[:, None], 1)[:, 0]
    abar = problem.levels.abar.numpy()[t]
    # Posterior mean of x_0 ~ N(1, .5), and r' = -1.5 (x_0 + 1).
    gain = np.sqrt(abar) * 0.5 / (abar * 0.5 + 1 - abar)
    denoised = 1 + gain * (x - np.sqrt(abar))
    expected = 1.5 * (denoised + 1).mean(1)  # of the loss, by the bias of the last layer
    adam = after.policy.adam[5]  # weight and bias of three layers, then embeddings
    np.testing.assert_allclose(10 * adam.mean[:, 0], expected, rtol=1e-4)


def test_refl_climbs():
    problem = NoisePrompt(steps=10, eta=1.0, allow_uncontrollable=True)
    _, _, found = trained(problem, ReFL(late=0.8, rate=0.01, hidden=(32,)), 60, n=4)
    assert float(found["gold_reward"].median()) > 0.6
    assert (found["evaluations"] == 60 * 32 * 13).all()


ALPHAS = np.geomspace(0.03, 3, 9)


@pytest.mark.parametrize(
    "agent",
    [FIND(inner=4, beta=0.05), FIND(beta=0.3, rate=0.1), CEMNoise(floor=0.2), CEMNoise(floor=0.5)],
)
def test_no_law_of_noise_is_above_the_exact_front(agent):
    """KL(p_x0 || p_0) by change of variables, on a grid of x_T."""
    state, spec, _ = trained(GM1, agent, 40, n=2)
    task, law = knowledge(spec), state.law
    law = law if isinstance(law, NoiseLaw) else law.parameters
    mu, sigma = float(law.mean[0]), float(law.deviation[0])
    grid = np.linspace(mu - 8 * sigma, mu + 8 * sigma, 20_001)
    prompt = torch.zeros(2, len(grid), dtype=torch.int64)
    start = torch.tensor(grid).expand(2, -1)[..., None]
    point = run_reference(task, start, prompt, Rng(0, "x", torch.arange(2)))
    log_p = task.of_prompt(0).log_density(point)[0].numpy()
    slope = np.gradient(point[0, :, 0].numpy(), grid)
    assert (slope > 0).all()
    log_q = -0.5 * ((grid - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    weight = np.exp(log_q) * (grid[1] - grid[0])
    kl = (weight * (log_q - np.log(slope) - log_p)).sum()
    gain = (weight * task.reward(point, prompt)[0].numpy()).sum()
    assert gain > 0.5 and kl > 0.1
    for alpha in ALPHAS:
        assert gain - alpha * kl <= float(task.optimum(alpha).free[0]) + 1e-6


def test_no_trained_sampler_of_refl_is_above_the_exact_front():
    problem = NoisePrompt(data="gm1", steps=20, eta=1.0, allow_uncontrollable=True)
    agent = ReFL(late=0.9, rate=0.01, hidden=(16,))
    state, spec, _ = trained(problem, agent, 30, n=2)
    rng, task = Rng(3, "look", torch.arange(2)), knowledge(spec)
    prompt = torch.zeros(2, 20_000, dtype=torch.int64)
    with torch.no_grad():
        point = agent.model.write(spec, state.policy.parameters, prompt, rng).point
    edges = np.linspace(-8, 8, 161)
    middle = torch.tensor((edges[1:] + edges[:-1]) / 2)[None, :, None]
    log_p = task.of_prompt(0).log_density(middle.expand(2, -1, -1))[0].numpy()
    for row in range(2):
        share = np.histogram(point[row, :, 0].numpy(), edges)[0] / 20_000
        seen = share > 0
        kl = (share * (np.log(np.where(seen, share, 1) / 0.1) - log_p))[seen].sum()
        gain = float(task.reward(point, prompt)[row].mean())
        for alpha in ALPHAS:
            # .01: Monte Carlo of the reward, 3 standard errors; .02: bins of the plug-in.
            assert gain - alpha * kl <= float(task.optimum(alpha).free[0]) + 0.01 + 0.02 * alpha


def test_no_phrasing_is_above_the_exact_front():
    _, spec, _ = trained(NoisePrompt(phrasings=5, steps=2), PromptSearch(), 1, n=3)
    task = knowledge(spec)
    grid = np.linspace(-5, 5, 201)
    points = torch.tensor(np.stack(np.meshgrid(grid, grid), -1).reshape(1, -1, 2))
    prompt = torch.zeros(3, points.shape[1], dtype=torch.int64)
    reward = task.reward(points.expand(3, -1, -1), prompt)
    base = task.of_prompt(0).log_density(points)
    for phrasing in range(task.phrasings):
        law = task.of_prompt(phrasing).log_density(points)
        weight = torch.exp(law) * (grid[1] - grid[0]) ** 2
        gain, kl = (weight * reward).sum(1), (weight * (law - base)).sum(1)
        for alpha in ALPHAS:
            assert (gain - alpha * kl <= task.optimum(alpha).free + 1e-6).all()


@pytest.mark.parametrize(
    ("agent", "fields", "message"),
    [
        ("find", {"deviation": 0.0}, "deviation"),
        ("find", {"deviation": float("nan")}, "deviation"),
        ("find", {"clip": 0.0}, "clip"),
        ("find", {"clip": 1.0}, "clip"),
        ("find", {"history": 5, "capacity": 4}, r"history = 5 outside \[1, 4\]"),
        ("find", {"surrogate": "max"}, "surrogate"),
        ("find", {"regulariser": "l2"}, "regulariser"),
        ("find", {"batch": 0}, "batch"),
        ("find", {"rate": 0.0}, "rate"),
        ("cem_noise", {"batch": 4, "elite": 0.25}, "elite starts"),
        ("cem_noise", {"smoothing": 0.0}, "smoothing"),
        ("noise_search", {"radius": 0.0}, "radius"),
        ("prompt_search", {"batch": 1}, "batch"),
        ("refl", {"late": 0.0}, "late"),
        ("refl", {"policy": "affine"}, "policy"),
    ],
)
def test_fields_out_of_range_are_refused(agent, fields, message):
    with pytest.raises(ValueError, match=message):
        registry.load("agent", agent)(**fields)


@pytest.mark.parametrize("agent", [FIND, CEMNoise, NoiseSearch])
def test_samplers_that_forget_the_noise_are_refused(agent):
    rng = Rng(0, "initial", torch.arange(3))
    for problem in (GaussMixDiffusion(), GaussMixDiffusion(kernel="exact")):
        with pytest.raises(ValueError, match="initial noise has no influence"):
            agent().initial(spec_of(problem), rng)
        agent(allow_uncontrollable=True).initial(spec_of(problem), rng)
    agent().initial(spec_of(GaussMixDiffusion(terminal_abar=0.05)), rng)
    with pytest.raises(ValueError, match="masked"):
        agent().initial(spec_of(MaskedSeq(length=4, reward="pairs")), rng)


def test_other_misfits_are_refused():
    rng = Rng(0, "initial", torch.arange(3))
    with pytest.raises(ValueError, match="one law of samples"):
        PromptSearch().initial(spec_of(NoisePrompt(phrasings=0)), rng)
    with pytest.raises(ValueError, match="R\\^d|gradient"):
        ReFL().initial(spec_of(MaskedSeq(length=4, reward="pairs")), rng)
    with pytest.raises(ValueError, match="eta = 0 has no divergence"):
        ReFL(alpha=0.1).initial(spec_of(NoisePrompt()), rng)


def test_rewards_of_another_shape_and_laws_that_are_not_finite_are_refused():
    rng, spec, agent = Streams(0, torch.arange(3)), spec_of(NoisePrompt(steps=1)), FIND()
    with pytest.raises(ValueError, match="reward has shape"):
        iteration(agent, spec, rng, reward=lambda a: torch.ones(3, 7))
    with pytest.raises(ValueError, match="not finite"):
        iteration(agent, spec, rng, reward=lambda a: torch.full(a.prompt.shape, float("nan")))


def test_several_released_formulas_at_once_still_run():
    agent = FIND(
        surrogate="clamp",
        ratio="initial",
        buffer="mismatched",
        coordinates="mean",
        regulariser="squared",
        beta=0.001,
        capacity=20,
    )
    assert replace(agent, ratio="stored") != agent
    found = trained(NoisePrompt(dimension=16), agent, 10, n=4)[2]
    assert torch.isfinite(found["gold_reward"]).all()
