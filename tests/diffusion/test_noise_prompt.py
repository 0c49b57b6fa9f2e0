"""The one-step MDP of initial noise: prompts, rewards, controllability, refusals."""

import itertools
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import rlkit
from rlkit.diffusion.noise_policies import affine_map, affine_optimum
from rlkit.diffusion.prompts import PromptModes, Sigmoid
from rlkit.diffusion.task import Noise, Samples, knowledge, run_reference
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.noise_prompt import NoisePrompt
from rlkit.random import Rng

LQG = NoisePrompt(data="lqg", steps=10)


def task_of(problem, n=2, seed=0):
    rng = Streams(seed, torch.arange(n))
    instance = problem.instance(rng.at("instance", 0))
    return instance, knowledge(problem.spec(instance)), rng


def mapped(task, start):
    """Samples from starts `[M, d]`, one replica, first prompt."""
    x = torch.as_tensor(start, dtype=torch.float64)[None]
    prompt = torch.zeros(x.shape[:2], dtype=torch.int64)
    return run_reference(task, x, prompt, Rng(0, "map", torch.arange(1)))[0]


def test_the_ddim_map_of_one_gaussian_is_affine_with_the_golden_coefficients():
    _, task, _ = task_of(LQG)
    assert affine_map(task) == pytest.approx((0.5616360243, 0.9963091603), abs=1e-10)
    points = mapped(task_of(LQG, 1)[1], np.linspace(-3, 3, 7)[:, None])[:, 0]
    np.testing.assert_allclose(np.diff(points, 2), 0, atol=1e-12)
    with pytest.raises(ValueError, match="not affine"):
        affine_map(task_of(NoisePrompt(data="gm1"))[1])


def test_the_optimal_noise_of_the_quadratic_reward_is_the_golden_one():
    slope, offset = affine_map(task_of(LQG)[1])
    mu, sigma = affine_optimum(slope, offset, 1.5, -1.0, 0.2, "kl")
    assert mu == pytest.approx(-2.49839170, abs=1e-8)
    assert sigma**2 == pytest.approx(0.29710948, abs=1e-8)


@pytest.mark.parametrize(("kind", "beta"), [("kl", 0.2), ("kl", 1.0), ("squared", 0.2)])
def test_no_numerical_search_beats_the_closed_form(kind, beta):
    a, b = affine_map(task_of(LQG)[1])

    def loss(parameters):
        mu, sigma = parameters
        # E (A (mu + sigma xi) + B - c)^2 = (A mu + B - c)^2 + A^2 sigma^2
        reward = -0.5 * 1.5 * ((a * mu + b + 1.0) ** 2 + (a * sigma) ** 2)
        if kind == "kl":
            return -reward + beta * 0.5 * (mu**2 + sigma**2 - 1 - 2 * np.log(sigma))
        return -reward + beta * (mu**2 + (sigma - 1) ** 2)

    found = minimize(loss, [0.0, 1.0], bounds=[(None, None), (1e-3, None)], tol=1e-14)
    best = affine_optimum(a, b, 1.5, -1.0, beta, kind)
    np.testing.assert_allclose(found.x, best, atol=2e-5)
    assert loss(best) <= found.fun + 1e-12


def test_a_heavy_regulariser_leaves_standard_normal_noise():
    for kind in ("kl", "squared"):
        mu, sigma = affine_optimum(0.56, 1.0, 1.5, -1.0, 1e9, kind)
        assert abs(mu) < 1e-8 and abs(sigma - 1) < 1e-8


@pytest.fixture(scope="module")
def quadrature():
    """Nodes of x_T and rewards at T = 50. The golden numbers are those of equal weights."""
    _, task, _ = task_of(NoisePrompt(data="gm1", steps=50), 1)
    equal = torch.full((1, 1, 2), 0.5, dtype=torch.float64).log()
    task = replace(task, mixture=replace(task.mixture, log_weight=equal))
    grid = np.linspace(-8, 8, 4001)
    point = mapped(task, grid[:, None])
    reward = task.reward(point[None], torch.zeros(1, len(grid), dtype=torch.int64))[0].numpy()
    np.testing.assert_allclose(reward, 1 / (1 + np.exp(-4 * point[:, 0].numpy())), rtol=1e-12)
    return grid, reward


GOLDEN = [
    (0.01, (1.062, 0.335), 0.9855, 0.9894),
    (0.1, (0.921, 0.424), 0.8957, 0.9254),
    (0.3, (0.825, 0.573), 0.7546, 0.7973),
]


@pytest.mark.parametrize(("beta", "noise", "best", "free"), GOLDEN)
def test_gm1_has_the_golden_optimal_noise(quadrature, beta, noise, best, free):
    grid, reward = quadrature
    normal = np.exp(-0.5 * grid**2)

    def value(parameters):
        mu, sigma = parameters
        weight = np.exp(-0.5 * ((grid - mu) / sigma) ** 2)
        gain = (weight * reward).sum() / weight.sum()
        return gain - beta * 0.5 * (mu**2 + sigma**2 - 1 - 2 * np.log(sigma))

    found = minimize(lambda p: -value(p), [0.9, 0.4], method="Nelder-Mead", tol=1e-9)
    np.testing.assert_allclose(found.x, noise, atol=6e-4)
    assert -found.fun == pytest.approx(best, abs=6e-5)
    free_form = beta * np.log((normal * np.exp(reward / beta)).sum() / normal.sum())
    assert free_form == pytest.approx(free, abs=6e-5)


def test_noise_decides_under_the_flow_and_not_under_noisy_steps():
    """Spec 1: reward .997 at eta = 0 and .22 at eta = 1 from x_T at the target (base .20)."""
    found = {}
    for eta in (0.0, 1.0):
        problem = NoisePrompt(eta=eta, allow_uncontrollable=True)
        instance, task, rng = task_of(problem, 1)
        target = task.mixture.mean[:, :, 0]
        white = rng.at("act", 0).normal("x", 4000, 2, dtype=torch.float64)
        start = target + 0.3 * white.contiguous()
        prompt = torch.zeros(1, 4000, dtype=torch.int64)
        state = problem.reset(instance, rng.at("reset", 0))
        step = problem.transition(instance, state, Noise(start, prompt), rng.at("env", 0))
        found[eta] = float(step.reward[0])
    assert found[0.0] > 0.98
    assert abs(found[1.0] - 0.2) < 0.05  # standard error 0.006


@pytest.mark.parametrize("dimension", [2, 16])
def test_base_rewards_are_a_fifth_and_a_hundredth(dimension):
    problem = NoisePrompt(dimension=dimension, modes=5, pairs=5)
    _, task, rng = task_of(problem, 1)
    count = 20_000
    prompt = torch.zeros(1, count, dtype=torch.int64)
    point = task.data(rng.at("act", 0), "data", prompt)
    mean = [float(task.reward(point, prompt + c).mean()) for c in range(10)]
    # Standard errors: sqrt(.16 / 20,000) = .0028; at most sqrt(.012 / 20,000) = .0008 for pairs.
    np.testing.assert_allclose(mean[:5], 0.2, atol=4 * 0.0029)
    np.testing.assert_allclose(mean[5:], 0.01, atol=4 * 0.0008)


def test_rewards_are_shares_and_their_products():
    centre = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]], dtype=torch.float64)
    judge = PromptModes(centre, torch.tensor([[1, 1], [0, 1], [2, 0]]), 0.7, 1.3)
    x = np.array([0.4, 0.9])
    square = ((x - centre[0].numpy()) ** 2).sum(1)
    one, two = (np.exp(-square / (2 * rho**2)) for rho in (0.7, 1.3))
    one, two = one / one.sum(), two / two.sum()
    expected = [one[1], 4 * two[0] * two[1], 4 * two[2] * two[0]]
    point = torch.tensor(x).expand(1, 3, 2)
    np.testing.assert_allclose(judge(point, torch.tensor([[0, 1, 2]]))[0], expected, rtol=1e-12)


def test_the_sigmoid_tilt_is_an_ordinary_integral():
    problem = NoisePrompt(data="gm1")
    _, task, _ = task_of(problem, 1)
    grid = np.linspace(-8, 8, 20_001)
    density = 0.6 * np.exp(-0.5 * (grid + 1.5) ** 2 / 0.1) + 0.4 * np.exp(
        -0.5 * (grid - 1.5) ** 2 / 0.1
    )
    reward = 1 / (1 + np.exp(-4 * grid))
    weight = density * np.exp(reward / 0.3)
    kl, gain = task.front(0.3)
    assert float(gain) == pytest.approx((weight * reward).sum() / weight.sum(), abs=1e-9)
    log_z = np.log(weight.sum() / density.sum())
    assert float(kl) == pytest.approx(float(gain) / 0.3 - log_z, abs=1e-8)
    assert float(task.optimum(0.3).free) == pytest.approx(0.3 * log_z, abs=1e-9)
    assert isinstance(task.judge, Sigmoid)


def test_an_episode_is_one_step_with_the_prompt_in_view():
    problem = NoisePrompt(modes=2, pairs=1)
    env = BatchedEnv(problem, 30)
    observation, _ = env.reset(seed=3)
    prompt = env.state.prompt
    assert observation.shape == (30, 5) and set(prompt.tolist()) == {0, 1, 2}
    expected = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    np.testing.assert_allclose(observation, expected[prompt])
    task = knowledge(env.spec_)
    start = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    after, reward, terminated, truncated, info = env.step(start)
    point = run_reference(task, start[:, None], prompt[:, None], Rng(0, "", torch.arange(30)))
    torch.testing.assert_close(info["feedback"].point, point)
    gold = task.gold(point, prompt[:, None])[:, 0]
    torch.testing.assert_close(reward, gold.float())
    assert terminated.all() and not truncated.any() and after.shape == (30, 5)


def test_gymnasium_resets_to_a_prompt():
    rlkit  # registers  # noqa: B018
    env = gymnasium.make("rlkit/NoisePrompt-v0", modes=3, steps=2)
    observation, _ = env.reset(seed=1, options={"c": 2})
    assert np.argmax(observation) == 2 and env.observation_space.contains(observation)
    assert env.action_space.shape == (2,)
    _, reward, terminated, _, _ = env.step(np.array([0.3, -0.2], dtype=np.float32))
    assert terminated and 0 < reward < 1
    with pytest.raises(ValueError, match="x_T is the action"):
        env.reset(options={"x_T": [0.0, 0.0]})


def test_prompts_and_phrasings_weigh_the_data():
    problem = NoisePrompt(modes=1, pairs=1, focus=0.4, phrasings=3)
    _, task, _ = task_of(problem, 4)
    weight = task.mixture.weight
    assert weight.shape == (4, 5, 10) and task.prompts == 2 and task.phrasings == 5
    np.testing.assert_allclose(weight.sum(-1), 1, atol=1e-12)
    rest = 0.6 * 0.2 * (1 - 5 * 0.012)
    np.testing.assert_allclose(weight[:, 0, :5], [[0.4 + rest, *[rest] * 4]] * 4)
    np.testing.assert_allclose(weight[:, 1, :5], [[0.2 + rest, 0.2 + rest, *[rest] * 3]] * 4)
    np.testing.assert_allclose(weight[:, :2, 5:], 0.6 * 0.012)
    between = (task.mixture.mean[:, 0, :5] + task.mixture.mean[:, 0, [1, 2, 3, 4, 0]]) / 2
    np.testing.assert_allclose(task.mixture.mean[:, 0, 5:], between)
    for one, other in itertools.combinations(weight[:, 2], 2):
        assert (one - other).abs().max() > 1e-3  # drawn for each replica


def test_phrasings_move_samples_between_modes():
    _, task, rng = task_of(NoisePrompt(phrasings=2), 2)
    prompt = torch.ones(2, 4000, dtype=torch.int64)
    start = task.start(rng.at("act", 0), "x", 4000)
    point = run_reference(task, start, prompt, rng.at("env", 0))
    nearest = torch.cdist(point, task.mixture.mean[:, 0]).argmin(-1)
    share = torch.stack([(nearest == k).double().mean(1) for k in range(5)], 1)
    # Standard error at most .008; the map of 20 steps moves weights by less than .03.
    assert (share - task.mixture.weight[:, 1]).abs().max() < 0.06
    assert (share - 0.2).abs().max() > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eta": 0.5}, "initial noise has no influence: kernel = 'ddim', eta = 0.5"),
        ({"kernel": "exact"}, "initial noise has no influence"),
        ({"kernel": "ddpm", "terminal_abar": 0.009}, "initial noise has no influence"),
        ({"modes": 0}, "at least one prompt"),
        ({"pairs": 6}, "pairs = 6"),
        ({"pairs": 1, "dimension": 8}, "pair_rho = 0 with dimension = 8"),
        ({"data": "lqg", "pairs": 1}, "one prompt"),
        ({"focus": 1.0}, "focus"),
        ({"rarity": 0.2}, "rarity"),
        ({"data": "gm3"}, "data"),
        ({"steps": 0}, "steps"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        NoisePrompt(**fields)


def test_a_start_that_keeps_signal_is_allowed():
    NoisePrompt(eta=1.0, terminal_abar=0.05)
    NoisePrompt(eta=1.0, allow_uncontrollable=True)


def test_actions_that_are_not_finite_name_their_row():
    env = BatchedEnv(NoisePrompt(steps=2), 3)
    env.reset(seed=0)
    action = torch.tensor([[0.0, 0.0], [0.0, float("nan")], [0.0, 0.0]])
    with pytest.raises(ValueError, match="row 1"):
        env.step(action)


def test_the_same_map_as_the_stepwise_problem():
    whole = GaussMixDiffusion(data="ring", reward="modes", kernel="ddim", eta=0.0, steps=20)
    _, task, _ = task_of(NoisePrompt(), 1)
    _, other, _ = task_of(whole, 1)
    start = np.random.default_rng(0).normal(size=(50, 2))
    point = mapped(task, start)
    torch.testing.assert_close(point, mapped(other, start))
    samples = Samples(point[None], torch.zeros(1, 50, dtype=torch.int64))
    torch.testing.assert_close(task.reward(*samples), other.reward(*samples))
