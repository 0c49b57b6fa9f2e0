"""Gaussian-mixture diffusion: golden numbers, identities against quadrature, bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from rlkit.diffusion import (
    Grid,
    Kernel,
    Schedule,
    cosine_schedule,
    gaussian_log_density,
    gaussian_mixture,
    gm1,
    gm2,
    grid_tilt,
    linear_reward,
    linear_schedule,
    linear_tilt,
    lqg,
    mixture_tilt,
    mode_reward,
    quadratic_reward,
    quadratic_tilt,
    ring,
    terminal_schedule,
    white_noise,
)
from rlkit.random import Rng

LINE = Grid(8.0, 801, 1)
PLANE = Grid(8.0, 401, 2)
WIDE = Grid(10.0, 801, 2)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def rng(n=1, seed=3):
    return Rng(seed, "test", torch.arange(n))


SLOPE = tensor([0.8, -0.5])
A, CENTRE = tensor([[1.0, 0.2], [0.2, 0.5]]), tensor([0.5, -0.5])
POINTS = tensor([[0.3, -1.2], [1.5, 0.1]])
TILTS = {
    "linear": (
        lambda data: linear_tilt(data, SLOPE, 0.7), lambda x: linear_reward(x, SLOPE),
        1.8199054262, (1.1792035492, 1.7281611181), 0.3480187796,
    ),
    "quadratic": (
        lambda data: quadratic_tilt(data, A, CENTRE, 0.7),
        lambda x: quadratic_reward(x, A, CENTRE),
        -1.8206581489, (-1.0221997217, -1.1798817108), 0.0408193692,
    ),
}  # fmt: skip


SINGLE = 2.5e-8  # the golden numbers of GM2 had covariances rounded to single precision


@pytest.mark.parametrize("kind", TILTS)
def test_golden_normalisers_values_and_gaps_of_gm2(kind):
    make, _, log_z, values, gap = TILTS[kind]
    tilt = make(gm2())
    assert tilt.log_z.item() == pytest.approx(log_z, abs=SINGLE)
    assert tilt.value(POINTS, 0.4)[0].tolist() == pytest.approx(values, abs=SINGLE)
    assert tilt.initial_bias(0.3, WIDE).item() == pytest.approx(gap, abs=SINGLE)
    loss = tilt.free_value() - tilt.fixed_value(0.3, WIDE)
    torch.testing.assert_close(loss, tilt.initial_bias(0.3, WIDE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", TILTS)
def test_golden_normalisers_to_the_last_digit_with_rounded_covariances(kind):
    make, _, log_z, *_ = TILTS[kind]
    data = gm2()
    covariance = data.covariance[:, 0].float().double()
    rounded = gaussian_mixture(data.weight[:, 0], data.mean[:, 0], covariance)
    assert make(rounded).log_z.item() == pytest.approx(log_z, abs=6e-11)


@pytest.mark.parametrize("kind", TILTS)
def test_closed_tilts_agree_with_quadrature_over_the_plane(kind):
    make, reward, *_ = TILTS[kind]
    tilt, numeric = make(gm2()), grid_tilt(gm2(), reward, 0.7, PLANE)
    torch.testing.assert_close(tilt.log_z, numeric.log_z, rtol=0, atol=1e-12)
    density = tilt.tilted.log_density(PLANE.points)
    assert (density.exp() - numeric.tilted.exp()).abs().max() < 1e-12
    for abar in (0.9, 0.4, 0.01):
        closed, integral = tilt.value(POINTS, abar), numeric.value(POINTS, abar)
        torch.testing.assert_close(closed, integral, rtol=0, atol=1e-11)
    bias = tilt.initial_bias(0.3, PLANE)
    torch.testing.assert_close(bias, numeric.initial_bias(0.3), rtol=0, atol=1e-9)


def test_value_at_the_data_is_the_reward():
    for make, reward, *_ in TILTS.values():
        torch.testing.assert_close(make(gm2()).value(POINTS, 1.0), reward(POINTS))


def test_log_mixture_tilt_is_a_product_of_mixtures():
    weight, centre = tensor([0.3, 0.7]), tensor([[1.0, 1.0], [-2.0, -1.0]])
    centre = centre.reshape(1, 2, 2)
    target = gaussian_mixture(weight, centre, tensor([0.36, 0.36]))
    tilt = mixture_tilt(gm2(), weight, centre, 0.6, 0.9)
    numeric = grid_tilt(gm2(), lambda x: 0.9 * target.log_density(x), 0.9, PLANE)
    torch.testing.assert_close(tilt.log_z, numeric.log_z, rtol=0, atol=1e-11)
    found = tilt.value(POINTS, 0.4)
    torch.testing.assert_close(found, numeric.value(POINTS, 0.4), rtol=0, atol=1e-11)
    assert tilt.tilted.mean.shape == (1, 1, 6, 2)


def test_gm1_linear_tilt_means():
    tilt = linear_tilt(gm1(), tensor([1.0]), 0.5)
    before, after = (m.moments()[0].item() for m in (tilt.base, tilt.tilted))
    assert before == pytest.approx(-0.300, abs=5e-4) and after == pytest.approx(1.689, abs=5e-4)
    numeric = grid_tilt(gm1(), lambda x: x[..., 0], 0.5, LINE)
    means = [m.item() for m in numeric.expectation(numeric.reward)]
    assert means == pytest.approx([before, after], abs=1e-12)


@pytest.mark.parametrize(
    ("abar", "distance", "gap"),
    [(1e-4, 2.6e-5, 9.9e-5), (0.01, 2.6e-3, 0.0100), (0.1, 2.9e-2, 0.1140), (0.3, 0.120, 0.4442)],
)
def test_initial_value_bias_of_gm1(abar, distance, gap):
    """Half a unit of the last digit given."""
    tilt, grid = linear_tilt(gm1(), tensor([1.0]), 0.5), Grid(8.0, 401, 1)
    fixed = tilt.fixed_log_density(grid.points, abar, grid).exp()
    optimum = tilt.tilted.log_density(grid.points).exp()
    found = 0.5 * (fixed - optimum).abs().sum().item() * math.exp(grid.log_volume)
    assert float(f"{found:.2g}" if distance < 0.1 else f"{found:.3f}") == distance
    loss = tilt.initial_bias(abar, LINE).item()
    assert float(f"{loss:.2g}" if abar < 1e-3 else f"{loss:.4f}") == gap
    fall = (tilt.free_value() - tilt.fixed_value(abar, LINE)).item()
    assert fall == pytest.approx(loss, abs=1e-13)


def test_start_other_than_the_marginal_changes_the_fixed_value():
    tilt = linear_tilt(gm1(), tensor([1.0]), 0.5)
    white = gaussian_mixture(tensor([1.0]), tensor([[0.0]]), tensor([1.0]))
    x = white.sample(rng(), "x", 200_000)
    sampled = tilt.value(x, 0.1)
    error = sampled.std() / math.sqrt(x.shape[1])
    exact = tilt.fixed_value(0.1, LINE, white)
    assert (sampled.mean() - exact).abs() < 4 * error
    assert (exact - tilt.fixed_value(0.1, LINE)).abs() > 20 * error


def test_sampled_bias_agrees_with_quadrature():
    tilt = linear_tilt(gm2(), SLOPE, 0.7)
    mean, error = tilt.sampled_bias(0.3, rng(200), 500)
    total = error.mean() / math.sqrt(200)
    assert (mean.mean() - tilt.initial_bias(0.3, PLANE)).abs().item() < 4 * total.item()
    # A standard deviation of 200 numbers has a relative error of 1 / sqrt(400).
    assert (mean.std() / error.mean()).item() == pytest.approx(1, abs=4 / 20)


def test_lqg_kernel_and_ddim_map():
    schedule = linear_schedule(10)
    tilt = quadratic_tilt(lqg(), tensor([[1.5]]), tensor([-1.0]), 0.4)
    kernel, x = Kernel(schedule), tensor([[0.7]])
    best, prior = kernel.law(tilt.tilted, x, 4), kernel.law(tilt.base, x, 4)
    assert best.mean.item() == pytest.approx(0.2786390969, abs=6e-11)
    assert best.spectrum.item() == pytest.approx(0.4064050284, abs=6e-11)
    assert prior.spectrum.item() == pytest.approx(0.4502555430, abs=6e-11)
    start = tensor([[0.0], [1.0]])
    end = Kernel(schedule, "ddim", eta=0.0).chain(lqg(), start, rng()).points[0, 0, :, 0]
    assert end[0].item() == pytest.approx(0.9963091603, abs=6e-11)
    assert (end[1] - end[0]).item() == pytest.approx(0.5616360243, abs=6e-11)


def test_optimal_kernel_is_the_prior_kernel_tilted_by_the_next_value():
    tilt, kernel = linear_tilt(gm1(), tensor([1.0]), 0.5), Kernel(linear_schedule(10))
    x, t = tensor([[0.4]]), 6
    prior = kernel.law(tilt.base, x, t).log_density(LINE.points)
    value = tilt.value(LINE.points, kernel.schedule.at(t - 1))
    here = tilt.value(x, kernel.schedule.at(t))
    expected = prior + (value - here) / 0.5
    best = kernel.law(tilt.tilted, x, t).log_density(LINE.points)
    assert (best.exp() - expected.exp()).abs().max() < 1e-12


def propagate(kernel, data, density, grid):
    """The density `[G]` of x_0 by quadrature over every step, from that of x_T on the grid."""
    x, step = grid.points, math.exp(grid.log_volume)
    for t in range(kernel.schedule.steps, 0, -1):
        law = kernel.law(data, x, t)
        deviation = law.spectrum.sqrt().expand_as(law.mean)
        following = torch.zeros_like(density)
        for k in range(law.mean.shape[2]):
            centre, width = law.mean[0, :, k], deviation[0, :, k]
            z = (x[0].T - centre) / width
            part = torch.exp(-0.5 * z * z) / (width * math.sqrt(2 * math.pi))
            following += (density * law.weight[0, :, k] * step) @ part
        density = following
    return density


def total_variation(kernel, data, start, grid):
    """Between the data and what the kernel makes of x_T with log density `start`."""
    end = propagate(kernel, data, start.exp()[0], grid)
    exact = data.log_density(grid.points).exp()[0]
    return 0.5 * (end - exact).abs().sum().item() * math.exp(grid.log_volume)


LINEAR = {5: (0.331, 0.373), 10: (0.175, 0.188), 20: (0.126, 0.098), 50: (0.070, 0.039)}
COSINE = {5: (0.188, 0.196), 10: (0.126, 0.103), 20: (0.082, 0.052), 50: (0.041, 0.021)}
CASES = [
    (make, steps, variance, distance)
    for make, table in ((linear_schedule, LINEAR), (cosine_schedule, COSINE))
    for steps, pair in table.items()
    for variance, distance in zip(("small", "large"), pair, strict=True)
]


@pytest.mark.parametrize(("make", "steps", "variance", "distance"), CASES)
def test_discretisation_error_of_ddpm_on_gm1(make, steps, variance, distance):
    grid, kernel = Grid(5.0, 1201, 1), Kernel(make(steps), "ddpm", variance)
    start = torch.from_numpy(norm.logpdf(grid.points[..., 0].numpy()))
    assert total_variation(kernel, gm1(), start, grid) == pytest.approx(distance, abs=6e-4)


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_exact_kernel_has_exact_marginals_for_any_number_of_steps(steps):
    grid, kernel = Grid(8.0, 801, 1), Kernel(linear_schedule(steps))
    start = gm1().diffuse(kernel.schedule.at(steps)).log_density(grid.points)
    assert total_variation(kernel, gm1(), start, grid) < 1e-8
    white = torch.from_numpy(norm.logpdf(grid.points[..., 0].numpy()))
    assert 1e-6 < total_variation(kernel, gm1(), white, grid) < 3e-5


def test_density_score_and_responsibilities_against_scipy_and_autograd():
    data = gm2().diffuse(0.4)
    x = white_noise(rng(), 6, 2) * 2
    weight, means = data.weight[0, 0].numpy(), data.mean[0, 0].numpy()
    parts = np.stack([
        w * multivariate_normal(m, c).pdf(x[0].numpy())
        for w, m, c in zip(weight, means, data.covariance[0, 0].numpy(), strict=True)
    ], -1)  # fmt: skip
    np.testing.assert_allclose(data.log_density(x)[0], np.log(parts.sum(-1)), atol=1e-12)
    shares = parts / parts.sum(-1, keepdims=True)
    np.testing.assert_allclose(data.responsibilities(x)[0], shares, atol=1e-12)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_density(x).sum(), x)
    torch.testing.assert_close(data.score(x), gradient, rtol=0, atol=1e-12)
    tilt = linear_tilt(gm2(), SLOPE, 0.7)
    (gradient,) = torch.autograd.grad(tilt.value(x, 0.4).sum(), x)
    torch.testing.assert_close(tilt.guidance(x, 0.4) * 0.7, gradient, rtol=0, atol=1e-11)


def test_denoiser_obeys_tweedie_and_the_posterior_obeys_bayes():
    x, abar = white_noise(rng(), 5, 2), 0.3
    tweedie = (x + (1 - abar) * gm2().diffuse(abar).score(x)) / math.sqrt(abar)
    torch.testing.assert_close(gm2().denoise(x, abar), tweedie)
    law, origin = gm2().posterior(x, abar), white_noise(rng(seed=9), 5, 2)
    noise = gaussian_log_density(x, math.sqrt(abar) * origin, tensor(math.sqrt(1 - abar))[:, None])
    bayes = gm2().log_density(origin) + noise - gm2().diffuse(abar).log_density(x)
    torch.testing.assert_close(law.log_density(origin), bayes, rtol=0, atol=1e-11)


def test_levels_may_differ_between_replicas_and_chains():
    x, t = white_noise(rng(2), 3, 2), torch.tensor([[1, 5, 10], [3, 3, 7]])
    for kind in ("exact", "ddpm", "ddim"):
        kernel = Kernel(linear_schedule(10), kind, eta=0.5)
        together = kernel.law(gm2(2), x, t)
        y = together.sample(rng(2), "y", 3)
        logs = together.log_density(y)
        for n in range(2):
            for b in range(3):
                alone = kernel.law(gm2(), x[n : n + 1, b : b + 1], int(t[n, b]))
                found = alone.log_density(y[n : n + 1, b : b + 1]).item()
                assert logs[n, b].item() == pytest.approx(found, abs=1e-12)


def test_ddim_with_full_noise_is_ddpm_with_small_variance():
    schedule, x = cosine_schedule(7), white_noise(rng(), 4, 2)
    ddim, ddpm = Kernel(schedule, "ddim", eta=1.0), Kernel(schedule, "ddpm")
    for t in range(1, 8):
        denoised = gm2().denoise(x, schedule.at(t))
        for a, b in zip(ddim.gaussian(x, denoised, t), ddpm.gaussian(x, denoised, t), strict=True):
            torch.testing.assert_close(a, b)
    large = Kernel(schedule, "ddpm", "large").gaussian(x, denoised, 7)[1]
    torch.testing.assert_close(large, (1 - schedule.ratio(7)).sqrt())


def test_ddim_with_some_noise_by_hand():
    schedule = linear_schedule(10)
    now, then = schedule.abar[6].item(), schedule.abar[5].item()
    sigma = 0.5 * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    noise = (0.7 - math.sqrt(now) * 0.3) / math.sqrt(1 - now)
    expected = math.sqrt(then) * 0.3 + math.sqrt(1 - then - sigma**2) * noise
    kernel = Kernel(schedule, "ddim", eta=0.5)
    mean, deviation = kernel.gaussian(tensor([[0.7]]), tensor([[0.3]]), 6)
    assert (mean.item(), deviation.item()) == pytest.approx((expected, sigma), abs=1e-14)


def test_identities_hold_where_eigenvectors_are_no_reflection():
    """In the plane they may form a symmetric matrix, which would hide a missing transpose."""
    random = np.random.default_rng(5)
    root, mean = random.normal(size=(2, 1, 3, 4, 4))[0], random.normal(size=(1, 3, 4))
    covariance = torch.from_numpy(root @ root.swapaxes(-1, -2) + 0.3 * np.eye(4))
    data = gaussian_mixture(tensor([0.2, 0.5, 0.3]), torch.from_numpy(mean), covariance)
    torch.testing.assert_close(data.covariance[:, 0], covariance)
    x = white_noise(rng(), 5, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(data.diffuse(0.6).log_density(x).sum(), x)
    torch.testing.assert_close(data.diffuse(0.6).score(x), gradient)
    tweedie = (x + 0.4 * gradient) / math.sqrt(0.6)
    torch.testing.assert_close(data.denoise(x, 0.6), tweedie)
    slope, matrix = tensor([0.3, -1.0, 0.5, 0.2]), 0.2 * covariance[:, 0]
    linear, quadratic = linear_tilt(data, slope, 0.7), quadratic_tilt(data, matrix, slope, 0.7)
    torch.testing.assert_close(linear.value(x, 1.0), linear_reward(x, slope))
    torch.testing.assert_close(quadratic.value(x, 1.0), quadratic_reward(x, matrix, slope))
    draws = data.sample(rng(), "x", 40_000)[0]
    assert within(draws, *(m[0, 0] for m in data.moments()))


def test_the_start_decides_the_sample_only_where_steps_add_no_noise():
    data, schedule = ring(2), linear_schedule(20)
    centre = data.mean[:, 0]
    start = 1.5 * centre[:, :1] + 0.5 * white_noise(rng(), 4000, 2)
    reached = [
        mode_reward(kernel.chain(data, start, rng()).points[:, 0], centre, 0).mean().item()
        for kernel in (Kernel(schedule, "ddim", eta=eta) for eta in (0.0, 1.0))
    ]
    assert reached[0] > 0.99 and reached[1] == pytest.approx(0.2, abs=0.04)


def test_schedules_by_hand():
    linear = linear_schedule(20)
    assert linear.abar[-1].item() == pytest.approx(math.exp(-10.05))
    assert linear.abar[10].item() == pytest.approx(math.exp(-(0.05 + 0.5 * 19.9 * 0.25)))
    assert terminal_schedule(8, 0.05).abar[-1].item() == pytest.approx(0.05)
    cosine, u = cosine_schedule(4), 0.5
    ratio = math.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert cosine.abar[2].item() == pytest.approx(ratio**2)
    assert cosine.abar[4].item() == pytest.approx(cosine.abar[3].item() * 1e-3)
    a, b = linear.abar[3].item(), linear.abar[4].item()
    spread = (1 - a) / (1 - b) * (1 - b / a)
    assert linear.beta_tilde(4).item() == pytest.approx(spread)
    assert linear.sigma(0.5)[3].item() == pytest.approx(0.5 * math.sqrt(spread))
    assert linear.snr[4].item() == pytest.approx(b / (1 - b)) and linear.snr[0] == math.inf


def test_mode_reward_on_the_ring():
    data, target = ring(2), 1
    tilt = grid_tilt(data, lambda x: mode_reward(x, data.mean[:, 0], target), 0.1, Grid(4, 201, 2))
    before, after = tilt.expectation(tilt.reward)
    assert before.item() == pytest.approx(0.2, abs=1e-3) and after.item() > 0.99
    high = ring(16)
    products = high.mean[0, 0] @ high.mean[0, 0].T
    torch.testing.assert_close(products, 16 * torch.eye(5, dtype=torch.float64))


def within(sample, mean, covariance, errors=4.5):
    """Whether means and covariances of `[B, d]` draws are within so many standard errors."""
    offset = sample - mean
    products = offset[:, :, None] * offset[:, None]
    scale = math.sqrt(sample.shape[0])
    first = offset.mean(0).abs() <= errors * offset.std(0) / scale
    second = (products.mean(0) - covariance).abs() <= errors * products.std(0) / scale
    return bool(first.all() and second.all())


@pytest.mark.parametrize("data", [gm2(), ring(16)], ids=["gm2", "ring16"])
def test_samples_have_the_moments_of_the_mixture(data):
    x = data.sample(rng(), "x", 40_000)[0]
    mean, covariance = (m[0, 0] for m in data.moments())
    assert within(x, mean, covariance) and not within(x + 0.1, mean, covariance)
    counts = data.responsibilities(x[None]).mean(1)[0]
    error = (data.weight[0, 0] * (1 - data.weight[0, 0]) / 40_000).sqrt()
    assert ((counts - data.weight[0, 0]).abs() < 4 * error).all()


def test_exact_chains_sample_the_data_and_report_their_log_probability():
    kernel, start = Kernel(terminal_schedule(4, 0.05)), gm2().diffuse(0.05)
    chain = kernel.chain(gm2(), start.sample(rng(), "start", 40_000), rng())
    for t in range(5):
        mean, covariance = gm2().diffuse(kernel.schedule.at(t)).moments()
        assert within(chain.points[0, t], mean[0, 0], covariance[0, 0])
    again = kernel.log_probability(gm2(), chain.points)
    torch.testing.assert_close(chain.log_probability, again)
    assert chain.points.shape == (1, 5, 40_000, 2) and again.shape == (1, 4, 40_000)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_chains_are_gaussian_steps(variance):
    kernel = Kernel(linear_schedule(3), "ddpm", variance)
    chain = kernel.chain(gm2(), white_noise(rng(), 9, 2), rng())
    x, logs = chain.points, []
    for t in (1, 2, 3):
        denoised = gm2().denoise(x[:, t], kernel.schedule.at(t))
        mean, deviation = kernel.gaussian(x[:, t], denoised, t)
        steps = norm.logpdf(x[0, t - 1].numpy(), mean[0].numpy(), deviation.item())
        logs.append(torch.from_numpy(steps.sum(-1)))
    torch.testing.assert_close(chain.log_probability[0], torch.stack(logs))


@pytest.mark.parametrize("kind", ["exact", "ddpm", "ddim"])
@pytest.mark.parametrize("make", [gm2, lambda n: ring(16, n)], ids=["gm2", "ring16"])
def test_a_replica_has_the_same_bits_in_any_company(kind, make):
    kernel = Kernel(linear_schedule(4), kind, eta=0.0)
    d = make(1).dimension

    def run(replicas):
        draws = Rng(7, "test", torch.tensor(replicas))
        return kernel.chain(make(len(replicas)), white_noise(draws, 8, d), draws)

    company = run([4, 0, 2, 9, 1])
    for row, replica in ((1, 0), (3, 9)):
        alone = run([replica])
        assert torch.equal(alone.points[0], company.points[row])
        assert torch.equal(alone.log_probability[0], company.log_probability[row])


def test_mixtures_differ_between_replicas():
    mean = tensor([[0.0], [3.0]], [[1.0], [-1.0]])
    both = gaussian_mixture(tensor([0.2, 0.8], [0.5, 0.5]), mean, tensor([0.3, 1.0], [0.7, 0.2]))
    tilt = linear_tilt(both, tensor([1.0], [-2.0]), tensor(0.5, 2.0))
    for n, (slope, alpha) in enumerate(((1.0, 0.5), (-2.0, 2.0))):
        one = gaussian_mixture(*(p[n : n + 1] for p in (both.weight[:, 0], mean)),
                               both.spectrum[n : n + 1, 0, :, 0])  # fmt: skip
        alone = linear_tilt(one, tensor([slope]), alpha)
        x = tensor([[0.1], [0.7]])
        found = tilt.value(x.expand(2, 2, 1), tensor(0.4, 0.4))[n]
        torch.testing.assert_close(found, alone.value(x, 0.4)[0])


def test_single_precision_sampling_stays_single():
    chain = Kernel(linear_schedule(3)).chain(
        gm2().to(torch.float32), white_noise(rng(), 5, 2).float(), rng()
    )
    assert chain.points.dtype == chain.log_probability.dtype == torch.float32


def tilted_by(matrix):
    return quadratic_tilt(gm1(), tensor([[matrix]]), tensor([0.0]), 0.5)


def one(weight=(1.0,), covariance=1.0):
    mean = torch.zeros(1, len(weight), 2, dtype=torch.float64)
    matrix = torch.tensor(covariance).double() * torch.eye(2).double()
    return gaussian_mixture(tensor(list(weight)), mean, matrix.expand(1, len(weight), 2, 2))


SKEWED = tensor([[1.0, 0.5], [0.0, 1.0]])
ORIGIN, STEPS = tensor([[0.0, 0.0]]), linear_schedule(3)


def on_line(reward, alpha=1.0):
    return lambda: grid_tilt(gm1(), reward, alpha, LINE)


BAD = {
    "weights that do not sum": (lambda: one((0.5, 0.4)), r"weight sums to 0\.9; accepted: 1"),
    "negative weight": (lambda: one((1.5, -0.5)), r"weight holds -0\.5; accepted: \[0, 1\]"),
    "covariance": (lambda: one(covariance=-2.0), r"covariance has eigenvalue -2\.0; .*\(0, inf"),
    "not symmetric": (
        lambda: gaussian_mixture(tensor([1.0]), ORIGIN, SKEWED[None]),
        r"covariance differs from its transpose by 0\.5; accepted: symmetric",
    ),
    "covariance of another shape": (
        lambda: gaussian_mixture(tensor([1.0]), ORIGIN, SKEWED), r"covariance has shape \(1, 2, ",
    ),
    "shapes": (lambda: gaussian_mixture(tensor([1.0]), tensor([1.0]), tensor([1.0])), "accepted"),
    "mean": (
        lambda: gaussian_mixture(tensor([1.0]), ORIGIN / 0, tensor([1.0])), r"mean has .* not fin",
    ),
    "alpha zero": (lambda: linear_tilt(gm2(), SLOPE, 0.0), r"alpha = 0\.0 outside \(0, inf\)"),
    "alpha negative": (on_line(lambda x: x[..., 0], -1.0), r"alpha = -1\.0 outside \(0, inf\)"),
    "abar zero": (lambda: gm2().diffuse(0.0), r"abar = 0\.0 outside \(0, 1\]"),
    "abar above 1": (lambda: gm2().denoise(POINTS, 1.5), r"abar = 1\.5 outside \(0, 1\]"),
    "no steps": (lambda: linear_schedule(0), r"T = 0 outside \[1, inf\)"),
    "no levels": (lambda: Schedule(torch.ones(1)), r"T = 0 outside \[1, inf\)"),
    "rising levels": (lambda: Schedule(torch.tensor([1.0, 0.5, 0.75])), r"abar\[2\] = 0\.75 is"),
    "first level": (lambda: Schedule(torch.tensor([0.75, 0.5])), r"abar\[0\] = 0\.75; acc"),
    "terminal level": (lambda: terminal_schedule(5, 1.0), r"terminal_abar = 1\.0 outside \(0, "),
    "tilt without mass": (lambda: tilted_by(-8.0), r"M = I \+ S A / alpha has eigenvalue -0\.6"),
    "reward weights": (
        lambda: mixture_tilt(gm1(), tensor([0.5]), tensor([[0.0]]), 1.0, 1.0),
        r"weight sums to 0\.5; accepted: 1",
    ),
    "grid too small": (on_line(lambda x: x[..., 0] ** 2, 0.1), r"mass .* on the edge of the grid"),
    "reward of another shape": (on_line(lambda x: x), r"reward has shape \(1, 801, 1\); accepted"),
    "reward not finite": (on_line(lambda x: x[..., 0] / 0), r"reward is not finite on the grid"),
    "grid of another dimension": (lambda: grid_tilt(gm2(), torch.sum, 1.0, LINE), r"dimension = 1"),
    "kind": (lambda: Kernel(STEPS, "dpm"), r"kind = 'dpm' unknown.*allowed: ddim, ddpm, exact"),
    "eta": (lambda: Kernel(STEPS, "ddim", eta=2.0), r"eta = 2\.0 outside \[0, 1\]"),
    "step": (lambda: Kernel(STEPS).law(gm2(), POINTS, 4), r"t = 4 outside \[1, 3\]"),
    "steps": (lambda: Kernel(STEPS).law(gm2(), POINTS, torch.tensor([[4, 1]])), r"t = 4 outside"),
    "no density": (
        lambda: Kernel(STEPS, "ddim", eta=0.0).law(gm2(), POINTS, 2), r"eta = 0 has no density",
    ),
    "target": (lambda: mode_reward(POINTS, gm2().mean[:, 0], 3), r"target = 3 outside \[0, 2\]"),
    "count": (lambda: gm2().posterior(POINTS, 0.5).sample(rng(), "x", 7), r"count = 7; accep"),
    "ring": (lambda: ring(4), r"d = 4; accepted: 2 or \[6, inf\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_argument_its_value_and_the_range(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
