"""FewStepGauss: data, noise levels, solver, and a reward that belongs to a whole batch."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from rlkit import registry
from rlkit.diffusion import Kernel, gm1, linear_schedule, lqg
from rlkit.diffusion.curves import moons, swiss_roll
from rlkit.diffusion.distances import sliced_w2
from rlkit.diffusion.schedules import sigmoid_schedule
from rlkit.diffusion.solvers import dpm_solver
from rlkit.diffusion.task import Samples, run_reference
from rlkit.random import Rng


def rng(n, stream="test"):
    return Rng(3, stream, torch.arange(n))


def environment(**fields):
    return registry.load("problem", "FewStepGauss-v0")(**fields)


def test_released_noise_levels_hardly_noise():
    assert float(sigmoid_schedule(10, 0.01).abar[-1]) == pytest.approx(0.951, abs=5e-4)
    assert float(sigmoid_schedule(10, 0.5).abar[-1]) == pytest.approx(0.037, abs=5e-4)
    rates = 1 / (1 + np.exp(-np.linspace(-6, 6, 10))) * (0.01 - 1e-5) + 1e-5
    expected = np.concatenate([[1.0], np.cumprod(1 - rates)])
    np.testing.assert_allclose(sigmoid_schedule(10).abar.numpy(), expected, rtol=1e-12)


def test_curves_are_those_of_the_released_experiment():
    """Swiss roll and moons as scikit-learn draws them, scaled as in the released code."""
    draw = np.random.default_rng(0)
    angle = 1.5 * math.pi * (1 + 2 * draw.random(20_000))
    roll = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 20
    half = math.pi * draw.random(10_000)
    outer = np.stack([np.cos(half), np.sin(half)], 1)
    both = 0.5 * np.concatenate([outer, np.stack([1 - np.cos(half), 0.5 - np.sin(half)], 1)])
    for data, sample in ((swiss_roll(), roll), (moons(), both)):
        noisy = sample + 0.035 * draw.normal(size=sample.shape)
        ours = data.sample(rng(1), "x", 20_000)
        assert sliced_w2(ours, torch.tensor(noisy)[None]).item() < 0.015
        assert sliced_w2(1.1 * ours, torch.tensor(noisy)[None]).item() > 0.03


@pytest.mark.parametrize(("steps", "low", "high"), [(5, 0.285, 0.295), (10, 0.130, 0.145)])
def test_pretrained_chains_miss_gm1_as_specified(steps, low, high):
    env = environment(steps=steps)
    task = env.task(env.instance(rng(1, "instance")))
    prompt = torch.zeros(1, 40_000, dtype=torch.int64)
    point = run_reference(task, task.start(rng(1), "start", 40_000), prompt, rng(1))
    assert low < -task.reward(point, prompt)[0, 0].item() < high


def test_the_reward_is_that_of_the_batch():
    env = environment(reference=4000)
    task = env.task(env.instance(rng(2, "instance")))
    point = gm1(2).sample(rng(2), "x", 50) + 0.3
    found = task.reward(point, torch.zeros(2, 50, dtype=torch.int64))
    assert found.shape == (2, 50)
    assert bool((found == found[:, :1]).all())
    dense = gm1().sample(rng(1, "dense"), "x", 400_000)[0, :, 0].numpy()
    for row in range(2):
        expected = wasserstein_distance(point[row, :, 0].numpy(), dense)
        assert -found[row, 0].item() == pytest.approx(expected, abs=0.015)


def test_batches_are_scored_and_single_chains_end_with_a_reward():
    env = environment(data="gm2", reference=64)
    instance = env.instance(rng(2, "instance"))
    state = env.reset(instance, rng(2, "reset"))
    batch = Samples(torch.zeros(2, 8, 2).double(), torch.zeros(2, 8, dtype=torch.int64))
    scores = env.transition(instance, state, batch, rng(2, "env"))
    assert bool((scores.reward < -1).all())
    assert scores.feedback.reward.shape == (2, 8)
    for left in range(5, 0, -1):
        step = env.transition(instance, state, state.point * 0, rng(2, "env"))
        assert bool(((step.discount == 0) == (left == 1)).all())
        assert bool(((step.reward != 0) == (left == 1)).all())
        state = step.state


def test_no_tilt_is_promised():
    env = environment()
    task = env.task(env.instance(rng(1, "instance")))
    assert not task.exact
    with pytest.raises(ValueError, match="distance of laws"):
        task.optimum(0.5)


def test_the_solver_is_of_second_order_on_a_gaussian():
    """The probability flow of one Gaussian is affine: it keeps standardised coordinates."""
    start = torch.tensor([[[-1.3], [0.4], [2.0]]], dtype=torch.float64)
    errors = {}
    for steps in (80, 160):
        schedule = linear_schedule(steps)
        last = float(schedule.abar[-1])
        spread = math.sqrt(last * 0.5 + 1 - last)
        exact = 1 + math.sqrt(0.5) * (start - math.sqrt(last)) / spread
        first = Kernel(schedule, "ddim", eta=0.0).chain(lqg(), start, rng(1)).points[:, 0]
        second = dpm_solver(lqg(), schedule, start)
        errors[steps] = [(found - exact).abs().max().item() for found in (first, second)]
    orders = np.log2(np.array(errors[80]) / errors[160])
    assert 0.9 < orders[0] < 1.1
    assert orders[1] > 1.7
    assert errors[160][1] < 0.05 * errors[160][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"data": "spiral"}, "data = 'spiral'"),
        ({"kernel": "exact"}, "kernel = 'exact'"),
        ({"variance": "medium"}, "variance = 'medium'"),
        ({"schedule": "sigmoid", "end_beta": 1.0}, "end_beta = 1.0"),
        ({"reference": 0}, "reference = 0"),
        ({"eta": 1.5}, "eta = 1.5"),
        ({"last_variance": 0.0}, "last_variance = 0.0"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        environment(**fields)


def test_an_odd_number_of_components_makes_no_two_moons():
    with pytest.raises(ValueError, match="components = 7 is odd"):
        moons(1, 7)
