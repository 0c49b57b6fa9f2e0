"""Residual actions: one chain as a bounded problem for stable-baselines3."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rlkit
from rlkit.adapters import ResidualActions, make_single
from rlkit.diffusion.explicit_noise import given_noise
from rlkit.diffusion.task import knowledge, run_reference
from rlkit.engine import Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion

WEIGHT, MEAN, SPREAD = [0.6, 0.4], [-1.5, 1.5], 0.1  # GM1


def made(bound=5.0, **fields):
    return ResidualActions(make_single(problem="GaussMixDiffusion-v0", **fields), bound=bound)


def gm1_step(x, t, abar):
    """Mean and deviation of x_(t-1) for GM1: ddpm, from Ho et al. (2020), equation 7."""
    now, then = abar[t], abar[t - 1]
    spread = now * SPREAD + 1 - now
    shares = [
        w * math.exp(-0.5 * (x - math.sqrt(now) * m) ** 2 / spread)
        for w, m in zip(WEIGHT, MEAN, strict=True)
    ]
    clean = sum(
        s / sum(shares) * (m + math.sqrt(now) * SPREAD / spread * (x - math.sqrt(now) * m))
        for s, m in zip(shares, MEAN, strict=True)
    )
    beta = 1 - now / then
    mean = (math.sqrt(then) * beta * clean + math.sqrt(1 - beta) * (1 - then) * x) / (1 - now)
    return mean, math.sqrt((1 - then) / (1 - now) * beta if t > 1 else 1e-4)


@pytest.mark.parametrize("action", [0.0, 1.5, -4.0])
def test_actions_are_residuals_in_units_of_the_noise_of_the_reference(action):
    env = made(steps=5)
    abar = env.unwrapped.problem.levels.abar.tolist()
    observation, _ = env.reset(seed=0, options={"x_T": [0.4]})
    x = 0.4
    for t in range(5, 0, -1):
        mean, deviation = gm1_step(x, t, abar)
        assert env.reference() == (pytest.approx([mean], abs=1e-6), pytest.approx(deviation))
        observation, _, terminated, _, info = env.step(np.array([action], dtype=np.float32))
        x = observation["x"].item()
        assert x == pytest.approx(mean + deviation * action, abs=1e-6)
        assert terminated == (t == 1) and observation["t"] == t - 1
        density = -0.5 * action**2 - 0.5 * math.log(2 * math.pi) - math.log(deviation)
        # The step is rounded to single precision, sigma of the last one is 0.01.
        assert info["feedback"].log_reference == pytest.approx(density, abs=1e-3)


def test_standard_normal_actions_are_the_reference_with_that_noise():
    problem = GaussMixDiffusion(data="gm2", steps=6)
    noise = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    env = made(data="gm2", steps=6)
    env.reset(seed=0, options={"x_T": [0.3, -0.7]})
    for t in range(6, 0, -1):
        observation, *_ = env.step(noise[t - 1])
    rng = Streams(0, torch.arange(1)).at("env", 0)
    task = knowledge(problem.spec(problem.instance(rng)))
    given = given_noise(rng, 6, torch.tensor(noise)[None, :, None])
    start, prompt = torch.tensor([[[0.3, -0.7]]]).double(), torch.zeros(1, 1, dtype=torch.int64)
    x = run_reference(task, start, prompt, given)
    np.testing.assert_allclose(observation["x"], x[0, 0], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")  # points have no bounds
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized:UserWarning")  # 5 sigma
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped:UserWarning")  # so it is
def test_the_checks_of_gymnasium_pass():
    rlkit  # registers  # noqa: B018
    env = ResidualActions(gymnasium.make("rlkit/GaussMixDiffusion-v0", data="gm2", steps=3))
    check_env(env)
    assert env.action_space == gymnasium.spaces.Box(-5, 5, (2,), np.float32)
    env.close()


def test_ppo_of_stable_baselines_learns_on_it():
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as check_sb3

    env = made(data="gm2", steps=4, bound=3.0)
    check_sb3(env, warn=False)
    agent = sb3.PPO("MultiInputPolicy", env, n_steps=128, batch_size=32, seed=0, device="cpu")
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(384)
    after = list(agent.policy.parameters())
    assert agent.num_timesteps == 384
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    episodes = list(agent.ep_info_buffer)
    assert len(episodes) == 96 and {episode["l"] for episode in episodes} == {4}


@pytest.mark.slow
def test_ppo_gains_reward_over_the_reference():
    """The reference has the mean of GM1, -0.3, as its mean reward."""
    sb3 = pytest.importorskip("stable_baselines3")
    env = made(steps=5)
    agent = sb3.PPO("MultiInputPolicy", env, n_steps=500, batch_size=100, seed=0, device="cpu")
    agent.learn(4_000)
    last = [episode["r"] for episode in list(agent.ep_info_buffer)[-100:]]
    assert np.mean(last) > 0.5


@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        ("MaskedSeq-v0", {}, "env = MaskedSeq.* has no actions that are points"),
        ("NoisePrompt-v0", {}, "env = NoisePrompt.* has no actions that are points"),
        ("GaussianBandit-v0", {}, "accepted: problems such as GaussMixDiffusion-v0"),
        ("GaussMixDiffusion-v0", {"kernel": "exact"}, "kernel = 'exact'"),
        ("GaussMixDiffusion-v0", {"kernel": "ddim", "eta": 0.0}, r"accepted: 'ddpm', or 'ddim'"),
    ],
)
def test_what_has_no_residuals_is_refused(problem, fields, message):
    with pytest.raises(ValueError, match=message):
        ResidualActions(make_single(problem=problem, **fields))


def test_bounds_and_actions_outside_their_range_are_refused():
    for bound in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="bound = "):
            made(bound=bound)
    with pytest.raises(ValueError, match="env = "):
        ResidualActions(gymnasium.make("CartPole-v1"))
    env = made()
    with pytest.raises(RuntimeError, match="no chain was begun"):
        env.reference()
    env.reset(seed=0)
    env.step([0.0])
    for action in (np.array([5.5], dtype=np.float32), np.zeros(2, dtype=np.float32)):
        with pytest.raises(ValueError, match="outside Box"):
            env.step(action)
