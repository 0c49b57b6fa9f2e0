"""Distances of laws: optimal transport by other solvers, kernels by quadrature, witnesses."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linear_sum_assignment, linprog
from scipy.stats import norm, wasserstein_distance

from rlkit.diffusion import gaussian_mixture, gm1, gm2, lqg, ring
from rlkit.diffusion.distances import (
    BANDWIDTHS,
    check_bandwidths,
    directions,
    embedding,
    inner,
    mmd2_mixtures,
    mmd2_polynomial,
    mmd2_rbf,
    mmd2_to_mixture,
    mmd_witness,
    quantiles,
    sliced_w2,
    transport,
    w1_1d,
    witness_1d,
)
from rlkit.random import Rng


def rng(n=1, seed=3):
    return Rng(seed, "test", torch.arange(n))


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(("first", "second"), [(50, 50), (64, 96), (7, 31), (1, 5)])
def test_w1_by_sorting_is_scipys(first, second):
    x, y = normal(0, 3, first), 2 * normal(1, 3, second) + 0.4
    expected = [wasserstein_distance(a, b) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(w1_1d(x, y).numpy(), expected, rtol=1e-12)


def test_squared_transport_is_the_best_assignment():
    x, y = normal(0, 1, 40), normal(1, 1, 40) ** 3
    cost = (x[0][:, None] - y[0][None]).numpy() ** 2
    rows, columns = linear_sum_assignment(cost)
    assert transport(x, y, 2)[0].item() == pytest.approx(cost[rows, columns].mean(), rel=1e-12)


def test_squared_transport_of_unequal_samples_is_the_best_linear_program():
    x, y = normal(0, 1, 4), normal(1, 1, 6)
    cost = (x[0][:, None] - y[0][None]).numpy() ** 2
    rows = [np.kron(np.eye(4)[i], np.ones(6)) for i in range(4)]
    columns = [np.kron(np.ones(4), np.eye(6)[j]) for j in range(6)]
    best = linprog(cost.ravel(), A_eq=np.array(rows + columns), b_eq=[1 / 4] * 4 + [1 / 6] * 6).fun
    assert transport(x, y, 2)[0].item() == pytest.approx(best, rel=1e-9)


def test_sliced_distance_of_a_shifted_copy_is_the_shift_over_root_two():
    x, shift = normal(0, 2, 300, 2), torch.tensor([0.3, -0.4], dtype=torch.float64)
    found = sliced_w2(x, x + shift)
    np.testing.assert_allclose(found.numpy(), 0.5 / math.sqrt(2), rtol=1e-12)


def test_directions_are_unit_vectors_that_see_all_axes_alike():
    for d, tolerance in ((1, 1e-12), (2, 1e-12), (5, 0.1)):
        axes = directions(d, 1000)
        np.testing.assert_allclose((axes * axes).sum(1).numpy(), 1, rtol=1e-12)
        np.testing.assert_allclose(
            (axes.T @ axes).numpy() / len(axes), np.eye(d) / d, atol=tolerance
        )


def test_quantiles_of_a_mixture_solve_its_distribution_function():
    def below(x):
        return 0.6 * norm.cdf(x, -1.5, math.sqrt(0.1)) + 0.4 * norm.cdf(x, 1.5, math.sqrt(0.1))

    levels = (np.arange(10) + 0.5) / 10
    expected = [brentq(lambda x, u=u: below(x) - u, -5, 5, xtol=1e-13) for u in levels]
    np.testing.assert_allclose(quantiles(gm1(2), 10)[1].numpy(), expected, atol=1e-9)


def test_the_witness_of_two_gaussians_of_one_variance_is_a_line():
    q = quantiles(gaussian_mixture(*map(torch.tensor, ([[1.0]], [[[0.0]]], [[1.0]]))), 2000)
    for shift in (0.7, -0.7):
        at = torch.linspace(-2, 2, 41, dtype=torch.float64)[None]
        found = witness_1d(q + shift, q, at)
        np.testing.assert_allclose((found - math.copysign(1, shift) * at).numpy(), 0, atol=1e-9)


@pytest.mark.parametrize("size", [64, 100])
def test_the_witness_is_lipschitz_and_attains_w1(size):
    p, q = normal(0, 3, size), 2 * normal(1, 3, 64) + 0.2
    f = witness_1d(p, q, p)
    np.testing.assert_allclose(
        (f.mean(1) - witness_1d(p, q, q).mean(1)).numpy(), w1_1d(p, q).numpy(), rtol=1e-12
    )
    at = torch.linspace(-6, 6, 1001, dtype=torch.float64).expand(3, -1)
    rise = np.diff(witness_1d(p, q, at).numpy(), axis=1)
    assert np.abs(rise).max() <= 0.012 * (1 + 1e-9)
    np.testing.assert_allclose(witness_1d(p, q, q).mean(1).numpy(), 0, atol=1e-12)


def test_the_witness_of_a_law_with_itself_is_zero():
    p = normal(0, 2, 50)
    assert bool((witness_1d(p, p, 3 * p) == 0).all())


def pair():
    first = gaussian_mixture(*map(torch.tensor, ([[1.0]], [[[0.3]]], [[0.5]])))
    second = gaussian_mixture(*map(torch.tensor, ([[1.0]], [[[-0.2]]], [[0.8]])))
    return first, second


def test_squared_mmd_of_two_gaussians_is_the_golden_number():
    found = mmd2_mixtures(*pair(), (math.sqrt(1.1),))
    assert found.item() == pytest.approx(0.0767414, abs=5e-8)


def test_the_u_statistic_is_unbiased_and_may_be_negative():
    draw = np.random.default_rng(0)
    x = torch.tensor(0.3 + math.sqrt(0.5) * draw.normal(size=(400, 40, 1)))
    y = torch.tensor(-0.2 + math.sqrt(0.8) * draw.normal(size=(400, 40, 1)))
    found = mmd2_rbf(x, y, (math.sqrt(1.1),)).numpy()
    error = found.std(ddof=1) / math.sqrt(400)
    assert abs(found.mean() - 0.0767414) < 4 * error
    same = mmd2_rbf(x, x.roll(1, 0), (math.sqrt(1.1),)).numpy()
    assert (same < 0).any()
    assert abs(same.mean()) < 4 * same.std(ddof=1) / math.sqrt(400) + 1e-12


def test_the_u_statistic_is_the_sum_over_pairs():
    x, y = normal(0, 1, 5, 2), normal(1, 1, 4, 2)
    a, b = x[0].numpy(), y[0].numpy()

    def gauss(u, v):
        return sum(math.exp(-((u - v) ** 2).sum() / (2 * h * h)) for h in BANDWIDTHS)

    def cubic(u, v):
        return (u @ v / 2 + 1) ** 3

    for kernel, found in ((gauss, mmd2_rbf(x, y)), (cubic, mmd2_polynomial(x, y))):
        within = sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
        within += sum(kernel(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
        across = sum(kernel(u, v) for u in a for v in b) / 20
        assert found.item() == pytest.approx(within - 2 * across, rel=1e-12)


def test_kernels_of_degree_one_see_means_only():
    x = normal(0, 1, 1000, 1)
    centred = x - x.mean(1, keepdim=True)
    found = mmd2_polynomial(centred, 3 * centred + 0.5, degree=1).item()
    # The U-statistic of equal means differs from 0 by the variances over the sizes only.
    assert found == pytest.approx(0.25, abs=4 * 10 / 1000)
    assert mmd2_polynomial(centred, 3 * centred, degree=3).item() > 1


def test_mmd_of_mixtures_sums_over_pairs_as_quadrature_does():
    grid = np.linspace(-8, 8, 1601)
    width = grid[1] - grid[0]

    def density(data):
        return np.exp(data.log_density(torch.tensor(grid)[None, :, None])[0].numpy()) * width

    kernel = sum(np.exp(-((grid[:, None] - grid) ** 2) / (2 * h * h)) for h in BANDWIDTHS)
    gap = density(gm1()) - density(lqg())
    assert mmd2_mixtures(gm1(), lqg()).item() == pytest.approx(gap @ kernel @ gap, rel=1e-9)
    at = normal(0, 1, 6, 1)
    rows = sum(np.exp(-((at[0].numpy() - grid) ** 2) / (2 * h * h)) for h in BANDWIDTHS)
    np.testing.assert_allclose(embedding(gm1(), at)[0].numpy(), rows @ density(gm1()), rtol=1e-9)


def test_closed_forms_of_correlated_mixtures_match_sampling():
    n = 64
    x, y = gm2(n).sample(rng(n), "x", 200), ring(2, n).sample(rng(n), "y", 200)
    expected = inner(gm2(), ring(2)).item()
    means = [embedding(data, points).mean(1) for data, points in ((gm2(n), y), (ring(2, n), x))]
    for found in means:
        assert abs(found.mean().item() - expected) < 4 * found.std().item() / math.sqrt(n)
    pairs = mmd2_rbf(x, y)
    error = pairs.std().item() / math.sqrt(n)
    assert abs(pairs.mean().item() - mmd2_mixtures(gm2(), ring(2)).item()) < 4 * error
    half = mmd2_to_mixture(x, ring(2, n), chunk=128)
    error = half.std().item() / math.sqrt(n)
    assert abs(half.mean().item() - mmd2_mixtures(gm2(), ring(2)).item()) < 4 * error


def test_the_mmd_witness_is_the_mean_kernel_to_the_others_less_that_to_the_data():
    x = gm2().sample(rng(), "x", 60)
    data = ring(2)
    witness = mmd_witness(x, data)[0]
    total = mmd2_to_mixture(x, data).item() - inner(data, data).item()
    cross = embedding(data, x).mean().item()
    assert witness.mean().item() == pytest.approx(total + cross, rel=1e-12)
    others = torch.cat([x[:, :7], x[:, 8:]], 1)
    kernel = sum(torch.exp(-((x[0, 7] - others[0]) ** 2).sum(-1) / (2 * h * h)) for h in BANDWIDTHS)
    assert witness[7].item() == pytest.approx(
        (kernel.mean() - embedding(data, x)[0, 7]).item(), rel=1e-9
    )


def test_distances_have_gradients_along_the_samples():
    x, y = normal(0, 1, 30, 1).requires_grad_(), normal(1, 1, 20, 1)
    (slope,) = torch.autograd.grad(w1_1d(x[..., 0], y[..., 0]).sum(), x)
    step = torch.zeros_like(x)
    step[0, 4, 0] = 1e-7
    change = (w1_1d((x + step)[..., 0], y[..., 0]) - w1_1d(x[..., 0], y[..., 0])).item() / 1e-7
    assert slope[0, 4, 0].item() == pytest.approx(change, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantiles(gm2(), 5), "d = 2 outside"),
        (lambda: quantiles(gm1(), 0), "count = 0"),
        (lambda: mmd2_rbf(normal(0, 1, 1, 1), normal(0, 1, 5, 1)), "points of x = 1"),
        (lambda: mmd2_to_mixture(normal(0, 1, 1, 1), gm1()), "points of x = 1"),
        (lambda: mmd_witness(normal(0, 1, 1, 1), gm1()), "points of x = 1"),
        (lambda: mmd2_polynomial(normal(0, 1, 3, 1), normal(0, 1, 5, 1), 0), "degree = 0"),
        (lambda: transport(normal(0, 1, 3), normal(0, 1, 3), 3), "power = 3"),
        (lambda: check_bandwidths("bandwidths", ()), "number of bandwidths = 0"),
        (lambda: check_bandwidths("bandwidths", (1.0, -0.5)), "bandwidths = -0.5"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
