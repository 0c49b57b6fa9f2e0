"""Affine chains on one Gaussian: Riccati's recursion, fixed points and exact measurements.

Oracles: the published golden numbers, plain numpy loops, scipy's optimiser, Monte Carlo.
"""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from rlkit.diffusion import Grid, Mixture, riccati
from rlkit.diffusion.measures import measure
from rlkit.diffusion.policies import AffineParameters, AffinePolicy
from rlkit.engine import Streams
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion

ALPHA = 0.4
KERNELS = [("exact", "small"), ("ddpm", "small"), ("ddpm", "large"), ("ddim", "small")]


def problem_of(reward="quadratic", kernel="exact", **fields):
    return GaussMixDiffusion(data="lqg", reward=reward, kernel=kernel, **fields)


def spec_of(problem, replicas=2):
    streams = Streams(0, torch.arange(replicas))
    return problem.spec(problem.instance(streams.at("instance", 0)))


def chain_of(*args, **fields):
    return riccati.affine_chain(spec_of(problem_of(*args, **fields)).known.diffusion)


def standard(value):
    """Mean of a parabola over N(0, 1)."""
    return float(value.mean(torch.zeros(()).double(), torch.ones(()).double()))


def levels(steps=10):
    u = np.arange(steps + 1) / steps
    return np.exp(-(0.1 * u + 0.5 * 19.9 * u * u))


def exact_maps(steps=10, mean=1.0, variance=0.5):
    """K, b and v of the exact reverse kernel of N(mean, variance), from Bayes' rule."""
    abar = levels(steps)
    gain, shift, noise = [], [], []
    for t in range(1, steps + 1):
        a = abar[t] / abar[t - 1]
        narrow = abar[t - 1] * variance + 1 - abar[t - 1]
        wide = abar[t] * variance + 1 - abar[t]
        k = math.sqrt(a) * narrow / wide
        gain.append(k)
        shift.append(mean * (math.sqrt(abar[t - 1]) - k * math.sqrt(abar[t])))
        noise.append(narrow - k * math.sqrt(a) * narrow)
    return np.array(gain), np.array(shift), np.array(noise)


def reward_of(name, mean, variance):
    """Expected reward of x_0 with these moments."""
    return mean if name == "linear" else -0.75 * ((mean + 1) ** 2 + variance)


def earn_loop(name, slope, offset):
    """Reward and divergence of each step, by moments in a loop."""
    gain, shift, noise = exact_maps()
    mean, variance, each = 0.0, 1.0, np.zeros(10)
    for t in range(10, 0, -1):
        s, o, v = slope[t - 1], offset[t - 1], noise[t - 1]
        each[t - 1] = ((s * mean + o) ** 2 + s * s * variance) / (2 * v)
        k = gain[t - 1] + s
        mean, variance = k * mean + shift[t - 1] + o, k * k * variance + v
    return reward_of(name, mean, variance), each


def test_golden_values_of_the_preset():
    chain = chain_of()
    fixed, free = (riccati.solve(chain, ALPHA, free) for free in (False, True))
    assert standard(fixed.value) == pytest.approx(-1.2862690925, abs=1e-10)
    assert standard(free.value) == pytest.approx(-1.2546809586, abs=1e-10)
    assert standard(free.value) - standard(fixed.value) == pytest.approx(0.0315881339, abs=1e-10)


def test_the_unrestricted_optimum_is_the_mean_soft_value_of_white_noise():
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    white = Mixture(0 * one, 0 * one[..., None], one[..., None])
    for reward in ("quadratic", "linear"):
        task = spec_of(problem_of(reward)).known.diffusion
        plan = riccati.solve(riccati.affine_chain(task), ALPHA, free=True)
        tilt = task.judge.tilt(task.of_prompt(0), ALPHA, 0)
        value = tilt.fixed_value(levels()[-1], Grid(8.0, 801, 1), white)
        assert standard(plan.value) == pytest.approx(float(value[0]), abs=1e-9)


def test_maps_are_those_of_bayes_rule():
    chain = chain_of()
    ours = (chain.gain, chain.shift, chain.variance)
    for found, expected in zip(ours, exact_maps(), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("kernel", "variance"), KERNELS)
def test_maps_reproduce_the_kernel_at_any_point(kernel, variance):
    task = spec_of(problem_of(kernel=kernel, variance=variance)).known.diffusion
    chain = riccati.affine_chain(task)
    x = torch.tensor([-1.3, 0.2, 2.4]).double().expand(2, -1)[..., None]
    for t in (1, 4, 10):
        law = task.kernel.law(task.mixture, x, t)
        np.testing.assert_allclose(law.mean[0, :, 0, 0], chain.gain[t - 1] * x[0, :, 0]
                                   + chain.shift[t - 1], atol=1e-12)  # fmt: skip
        np.testing.assert_allclose(law.spectrum[0, :, 0, 0], chain.variance[t - 1], atol=1e-12)


@pytest.mark.parametrize("reward", ["quadratic", "linear"])
def test_no_optimiser_finds_a_better_affine_policy(reward):
    def loss(flat):
        gain, each = earn_loop(reward, flat[:10], flat[10:])
        return -(gain - ALPHA * each.sum())

    plan = riccati.solve(chain_of(reward), ALPHA)
    rng = np.random.default_rng(0)
    found = optimize.minimize(loss, rng.normal(0, 0.1, 20), options={"gtol": 1e-7})
    assert -found.fun == pytest.approx(standard(plan.value), abs=1e-8)
    ours = np.concatenate([plan.slope.numpy(), plan.offset.numpy()])
    np.testing.assert_allclose(ours, found.x, atol=1e-3)


def test_linear_reward_is_solved_by_shifts_alone():
    chain = chain_of("linear")
    plan = riccati.solve(chain, ALPHA)
    g = np.concatenate([[1.0], np.cumprod(chain.gain.numpy())[:-1]])
    np.testing.assert_allclose(plan.offset, chain.variance.numpy() * g / ALPHA, atol=1e-12)
    assert plan.slope.abs().max() == 0
    spread = float((chain.variance.numpy() * g * g).sum())
    assert spread == pytest.approx(0.4999892033, abs=1e-10)
    last = levels()[-1]
    assert spread == pytest.approx(0.5 * (1 - last) / (0.5 * last + 1 - last), abs=1e-12)
    free = riccati.solve(chain, ALPHA, free=True)
    assert standard(plan.value) == pytest.approx(standard(free.value), abs=1e-12)


@pytest.mark.parametrize("reward", ["quadratic", "linear"])
def test_at_the_fixed_point_no_step_gains_from_its_own_reward_and_divergence(reward):
    rng = np.random.default_rng(1)
    price = rng.uniform(0.3, 1.0, 10)
    chain = chain_of(reward)
    plan = riccati.fixed_point(chain, torch.tensor(price))
    point = np.concatenate([plan.slope.numpy(), plan.offset.numpy()])
    assert standard(plan.value) == pytest.approx(
        earn_loop(reward, point[:10], point[10:])[0], abs=1e-12
    )
    for index in range(20):
        t = index % 10

        def trade(step, index=index, t=t):
            moved = point.copy()
            moved[index] += step
            gain, each = earn_loop(reward, moved[:10], moved[10:])
            return gain - price[t] * each[t]

        slope = (trade(1e-5) - trade(-1e-5)) / 2e-5
        assert abs(slope) < 1e-8
        assert max(trade(0.05), trade(-0.05)) < trade(0.0)


def test_selfish_steps_lose_on_quadratic_and_not_on_linear_reward():
    loss = {}
    for reward in ("quadratic", "linear"):
        chain = chain_of(reward)
        plan = riccati.fixed_point(chain, torch.full((10,), ALPHA).double())
        found = riccati.earn(chain, plan.slope, plan.offset)
        best = standard(riccati.solve(chain, ALPHA).value)
        loss[reward] = best - float(found.reward - ALPHA * found.path_kl)
    assert loss["quadratic"] == pytest.approx(0.0800476, abs=1e-6)
    assert loss["linear"] == pytest.approx(0.0, abs=1e-12)


def random_policies(n, seed=2):
    rng = np.random.default_rng(seed)
    return (torch.tensor(rng.normal(0, 0.15, (n, 10))) for _ in range(2))


def test_moments_agree_with_simulation():
    slope, offset = random_policies(1)
    chain = chain_of()
    found = riccati.earn(chain, slope, offset)
    gain, shift, noise = exact_maps()
    rng = np.random.default_rng(3)
    x, path = rng.normal(size=200_000), np.zeros(200_000)
    for t in range(10, 0, -1):
        s, o, v = float(slope[0, t - 1]), float(offset[0, t - 1]), noise[t - 1]
        path += (s * x + o) ** 2 / (2 * v)
        x = (gain[t - 1] + s) * x + shift[t - 1] + o + math.sqrt(v) * rng.normal(size=x.size)
    reward = -0.75 * (x + 1) ** 2
    for exact, drawn in ((found.reward, reward), (found.path_kl, path), (found.mean[:, 0], x)):
        assert abs(float(exact) - drawn.mean()) < 4 * drawn.std() / math.sqrt(x.size)
    assert float(found.variance[0, 0]) == pytest.approx(x.var(), rel=0.02)


@pytest.mark.parametrize(("kernel", "variance"), KERNELS)
def test_exact_measurements_agree_with_chains_of_the_policy(kernel, variance):
    n, count = 4, 20_000
    spec = spec_of(problem_of(kernel=kernel, variance=variance), n)
    slope, offset = random_policies(n)
    policy, parameters = AffinePolicy(), AffineParameters(
        0.2 * slope[..., None, None], 0.2 * offset[..., None, None]
    )  # fmt: skip
    # The smallest last deviation, 0.01, makes any change there a large divergence.
    parameters = AffineParameters(*(leaf * (torch.arange(10) > 0)[:, None, None].double()
                                    for leaf in parameters))  # fmt: skip
    rng = Streams(5, torch.arange(n)).at("act", 0)
    exact = measure(spec, policy, parameters, rng.replica, ALPHA)
    chains = policy.write(spec, parameters, torch.zeros(n, count).long(), rng)
    path = policy.divergence(spec, parameters, chains).sum(1)
    reward = spec.known.diffusion.reward(chains.point, chains.prompt)
    for name, drawn in (("path_kl", path), ("gold_reward", reward)):
        error = drawn.std(1) / math.sqrt(count)
        assert ((exact[name] - drawn.mean(1)).abs() < 4.5 * error).all()
    x = chains.point[..., 0]
    mean, spread = x.mean(1), x.var(1)
    kl = 0.5 * (spread / 0.5 + (mean - 1) ** 2 / 0.5 - 1 - torch.log(spread / 0.5))
    torch.testing.assert_close(exact["kl"], kl, atol=0.03, rtol=0.05)


def test_no_affine_policy_is_above_the_exact_front():
    n = 200
    spec = spec_of(problem_of(), n)
    rng = np.random.default_rng(7)
    scale = torch.tensor(rng.choice([0.0, 0.05, 0.2, 0.5], (n, 1)))
    parts = [scale * torch.tensor(rng.normal(size=(n, 10))) for _ in range(2)]
    parameters = AffineParameters(*(part[..., None, None] for part in parts))
    found = measure(spec, AffinePolicy(), parameters, torch.arange(n), ALPHA)
    for alpha in (0.05, 0.2, 0.4, 1.0, 5.0):
        best = spec.known.diffusion.optimum(alpha).free
        assert (found["gold_reward"] - alpha * found["kl"] <= best + 1e-9).all()
        fixed = spec.known.diffusion.optimum(alpha).fixed
        assert (found["gold_reward"] - alpha * found["path_kl"] <= fixed + 1e-6).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "gm1"}, "2 components in 1 dimensions; accepted: 1 in 1"),
        ({"data": "gm2", "kernel": "ddpm"}, "3 components in 2 dimensions"),
        ({"data": "lqg", "kernel": "ddim", "eta": 0.0}, r"eta = 0 has no density"),
        ({"data": "lqg", "reward": "modes"}, "reward is Modes; accepted: Linear, Quadratic"),
    ],
)
def test_tasks_without_affine_optimum_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        riccati.affine_chain(spec_of(GaussMixDiffusion(**fields)).known.diffusion)
