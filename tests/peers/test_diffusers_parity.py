"""Hand-written DDIM, DDPM and DPM-Solver++ steps beside the schedulers of diffusers."""

import math

import numpy as np
import pytest
import torch

from rlkit.diffusion import Kernel, Schedule, cosine_schedule, gm2, linear_schedule
from rlkit.diffusion.solvers import dpm_solver
from rlkit.images.model import Noise
from rlkit.images.sampler import gaussian_log_density, make_sampler

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]
TRAINED = 1000  # training steps of an image model
SHAPE = (4, 3, 8, 8)


@pytest.fixture(scope="module")
def diffusers():
    """The compared library."""
    return pytest.importorskip("diffusers")


def noise_of(scheduler):
    """What this library reads of a scheduler."""
    config = scheduler.config
    return Noise(
        scheduler.alphas_cumprod, float(scheduler.final_alpha_cumprod), config.prediction_type,
        config.clip_sample_range if config.clip_sample else math.inf, config.timestep_spacing,
        config.steps_offset,
    )  # fmt: skip


def normal(*shape, seed=0, dtype=np.float32):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_steps_are_bit_for_bit_those_of_the_scheduler(
    diffusers, prediction, clip, one, spacing, offset, eta
):
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=clip,
        prediction_type=prediction, set_alpha_to_one=one, timestep_spacing=spacing,
        steps_offset=offset,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    tiny = 1e-12  # below every deviation but that of a last step onto level 1
    ours = make_sampler(noise_of(scheduler), 20, eta, floor=tiny)
    assert ours.timestep.tolist() == scheduler.timesteps.tolist()
    x = normal(*SHAPE)
    for k, t in enumerate(scheduler.timesteps):
        output, noise = normal(*SHAPE, seed=k + 1), normal(*SHAPE, seed=k + 100)
        theirs = scheduler.step(output, t, x, eta=eta, variance_noise=noise if eta else None)
        sample, _ = ours.parts(x, output, k)
        assert torch.equal(sample, theirs.pred_original_sample)
        mean, deviation = ours.gaussian(x, output, k)
        fresh = mean + deviation * noise if eta else mean
        if one and k == 19 and eta:
            assert float(deviation) == pytest.approx(tiny) and torch.equal(mean, theirs.prev_sample)
        else:
            assert torch.equal(fresh, theirs.prev_sample)
        x = theirs.prev_sample


@pytest.mark.parametrize("clip", [False, True])
def test_means_and_log_densities_are_those_of_an_independent_computation(diffusers, clip):
    """Formula 12 of the paper in numpy, double precision; each image at a step of its own."""
    scheduler = diffusers.DDIMScheduler(clip_sample=clip, timestep_spacing="trailing")
    ours = make_sampler(noise_of(scheduler), 10, 0.8, floor=0.02)
    k = torch.tensor([0, 3, 8, 9])
    x, output, value = (normal(*SHAPE, seed=seed) for seed in (1, 2, 3))
    mean, deviation = ours.gaussian(x, output, k)
    betas = np.linspace(1e-4, 0.02, TRAINED)
    abar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    found = {how: gaussian_log_density(value, mean, deviation, how) for how in ("mean", "sum")}
    for row, step in enumerate(k.tolist()):
        now, then = abar[TRAINED - 100 * step], abar[TRAINED - 100 * (step + 1)]
        point, noise = x[row].double().numpy(), output[row].double().numpy()
        clean = (point - math.sqrt(1 - now) * noise) / math.sqrt(now)
        clean = np.clip(clean, -1, 1) if clip else clean
        sigma = 0.8 * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
        centre = math.sqrt(then) * clean + math.sqrt(1 - then - sigma**2) * noise
        np.testing.assert_allclose(mean[row].numpy(), centre, atol=2e-4, rtol=1e-4)
        sigma = max(sigma, 0.02)
        assert float(deviation[row]) == pytest.approx(sigma, rel=1e-4)
        law = torch.distributions.Normal(mean[row].double(), sigma)
        each = law.log_prob(value[row].double())
        assert float(found["mean"][row]) == pytest.approx(float(each.mean()), rel=1e-3)
        assert float(found["sum"][row]) == pytest.approx(float(each.sum()), rel=1e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 50, 333, 1000])
def test_steps_are_spaced_as_by_the_scheduler(diffusers, spacing, steps):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    ours = make_sampler(noise_of(scheduler), steps, 0.0)
    # Theirs may have one too many where steps do not divide the training steps.
    assert ours.timestep.tolist() == scheduler.timesteps.tolist()[:steps]
    assert torch.equal(ours.then[:-1], ours.now[1:])


def test_traps_of_the_defaults(diffusers):
    """Leading steps start below the noisiest level; the default clips what is no image."""
    scheduler = diffusers.DDIMScheduler()
    assert scheduler.config.clip_sample and scheduler.config.set_alpha_to_one
    leading = make_sampler(noise_of(scheduler), 20, 0.0)
    trailing = make_sampler(noise_of(scheduler), 20, 0.0, spacing="trailing")
    assert int(leading.timestep[0]) == 950 and int(trailing.timestep[0]) == 999
    assert float(leading.now[0]) > 2 * float(trailing.now[0])
    assert float(leading.then[-1]) == 1
    other = diffusers.DDIMScheduler(set_alpha_to_one=False)
    assert float(make_sampler(noise_of(other), 20, 0.0).then[-1]) == float(other.alphas_cumprod[0])
    mean, _ = leading.gaussian(torch.full(SHAPE, 3.0), torch.zeros(SHAPE), 19)
    assert float(mean.max()) == 1  # 3 is no pixel


def betas_of(schedule):
    return (1 - schedule.abar[1:] / schedule.abar[:-1]).numpy()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_kernels_of_mixtures_have_the_means_of_ddim(diffusers, eta):
    schedule = linear_schedule(20)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=20, trained_betas=betas_of(schedule), clip_sample=False
    )
    scheduler.set_timesteps(20)
    exact = Schedule(torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double())
    kernel, data = Kernel(exact, "ddim", eta=eta), gm2()
    x = normal(1, 50, 2, dtype=np.float64)
    for t in range(20, 0, -1):
        denoised = data.denoise(x, exact.at(t))
        now = exact.abar[t]
        noise = (x - torch.sqrt(now) * denoised) / torch.sqrt(1 - now)
        zero = torch.zeros_like(x)
        theirs = scheduler.step(noise, t - 1, x, eta=eta, variance_noise=zero if eta else None)
        mean, _ = kernel.gaussian(x, denoised, t)
        torch.testing.assert_close(mean, theirs.prev_sample, atol=2e-6, rtol=2e-6)
        x = theirs.prev_sample


@pytest.mark.parametrize(("variance", "kind"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_kernels_of_mixtures_have_the_means_of_ddpm(diffusers, variance, kind):
    schedule = cosine_schedule(20)
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=20, trained_betas=betas_of(schedule), clip_sample=False,
        variance_type=kind,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    exact = Schedule(torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double())
    kernel, data = Kernel(exact, "ddpm", variance), gm2()
    x = normal(1, 50, 2, dtype=np.float64)
    for t in range(20, 0, -1):
        denoised = data.denoise(x, exact.at(t))
        now = exact.abar[t]
        noise = (x - torch.sqrt(now) * denoised) / torch.sqrt(1 - now)
        twin = [torch.Generator().manual_seed(t) for _ in range(2)]
        theirs = scheduler.step(noise, t - 1, x, generator=twin[0]).prev_sample
        mean, deviation = kernel.gaussian(x, denoised, t)
        drawn = torch.randn(x.shape, generator=twin[1], dtype=x.dtype)
        ours = mean if t == 1 else mean + deviation * drawn  # theirs has no noise in the last
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        x = theirs


def test_the_solver_of_mixtures_is_dpm_solver_plus_plus(diffusers):
    """Second order, multistep; the scheduler keeps a history, so it is set up for the rollout."""
    steps = 20
    schedule = linear_schedule(steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=steps, trained_betas=betas_of(schedule), solver_order=2,
        algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero",
        timestep_spacing="trailing", lower_order_final=True, euler_at_final=False,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == list(range(steps - 1, -1, -1))
    data, start = gm2(), normal(1, 50, 2, dtype=np.float64)
    abar = torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double()
    x = start
    for t in range(steps, 0, -1):
        denoised = data.denoise(x, float(abar[t]))
        noise = (x - torch.sqrt(abar[t]) * denoised) / torch.sqrt(1 - abar[t])
        x = scheduler.step(noise, t - 1, x).prev_sample
    torch.testing.assert_close(dpm_solver(data, Schedule(abar), start), x, atol=1e-4, rtol=1e-4)


def test_the_first_order_solver_is_ddim_without_noise(diffusers):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=1, algorithm_type="dpmsolver++", final_sigmas_type="zero",
        timestep_spacing="trailing",
    )  # fmt: skip
    other = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(10)
    ours = make_sampler(noise_of(other), 10, 0.0)
    assert scheduler.timesteps.tolist() == ours.timestep.tolist()
    x = normal(*SHAPE)
    for k, t in enumerate(scheduler.timesteps):
        output = normal(*SHAPE, seed=k + 1)
        theirs = scheduler.step(output, t, x).prev_sample
        mean, _ = ours.gaussian(x, output, k)
        torch.testing.assert_close(mean, theirs, atol=1e-4, rtol=1e-3)
        x = theirs
