"""Laws on finitely many numbers, against numpy, scipy and brute force."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from rlkit.distributions import (
    Law,
    cvar_lower,
    cvar_upper,
    expectation,
    law,
    midpoints,
    mixture,
    quantile,
    quantile_project,
    variance,
    wasserstein1,
)

EXACT = 1e-12


def random_laws(rng, *batch, size=6):
    value = rng.integers(-5, 6, (*batch, size)).astype(float)
    return Law(torch.from_numpy(value), torch.from_numpy(rng.dirichlet(np.ones(size), batch)))


def test_tails_are_means_of_sorted_atoms(tail_mean):
    laws = random_laws(np.random.default_rng(0), 30)
    for tau in (0.05, 0.3, 1.0):
        for row in range(30):
            value, mass = laws.value[row].numpy(), laws.probability[row].numpy()
            assert abs(cvar_lower(laws, tau)[row] - tail_mean(value, mass, tau, True)) < EXACT
            assert abs(cvar_upper(laws, tau)[row] - tail_mean(value, mass, tau, False)) < EXACT


def test_tails_are_the_variational_formula():
    laws = random_laws(np.random.default_rng(1), 40)
    for tau in (0.2, 0.7):
        at = laws.value[:, :, None]
        short = (laws.probability[:, None] * (laws.value[:, None] - at).clamp(max=0)).sum(-1)
        best = (laws.value + short / tau).amax(-1)
        assert torch.allclose(cvar_lower(laws, tau), best, atol=EXACT, rtol=0)


def test_lower_tail_is_below_the_mean_and_the_two_tails_add_up():
    laws = random_laws(np.random.default_rng(2), 50)
    for tau in (0.1, 0.5, 0.9):
        low, high = cvar_lower(laws, tau), cvar_upper(laws, 1 - tau)
        mean = expectation(laws)
        assert (low <= mean + EXACT).all() and (mean <= high + EXACT).all()
        assert torch.allclose(tau * low + (1 - tau) * high, mean, atol=EXACT, rtol=0)
    assert torch.allclose(cvar_lower(laws, 1.0), expectation(laws), atol=EXACT, rtol=0)


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.1, float("nan"), True])
def test_tails_without_mass_are_refused(tau):
    with pytest.raises(ValueError, match="tau"):
        cvar_lower(random_laws(np.random.default_rng(3)), tau)


def test_distances_agree_with_scipy():
    rng = np.random.default_rng(4)
    first, second = random_laws(rng, 25), random_laws(rng, 25, size=4)
    found = wasserstein1(first, second)
    for row in range(25):
        expected = wasserstein_distance(
            first.value[row], second.value[row], first.probability[row], second.probability[row]
        )
        assert abs(found[row] - expected) < EXACT
    assert torch.allclose(wasserstein1(first, first), torch.zeros(25).double(), atol=EXACT)


def test_midpoint_quantiles_are_the_nearest_law_of_equal_atoms():
    rng = np.random.default_rng(5)
    for _ in range(10):
        original = random_laws(rng, size=7)
        found = quantile_project(original, 3)
        least = wasserstein1(original, found)
        # An optimal law exists among those on the support.
        points = original.value.unique()
        every = torch.cartesian_prod(points, points, points)
        third = torch.full_like(every, 1 / 3)
        assert least <= wasserstein1(original, Law(every, third)).min() + EXACT


def test_quantiles_invert_the_distribution_function():
    laws = random_laws(np.random.default_rng(6), 20)
    levels = torch.tensor([0.01, 0.25, 0.5, 0.99]).double()
    found = quantile(laws, levels)
    for column, level in enumerate(levels):
        at = found[:, column : column + 1]
        assert ((laws.probability * (laws.value <= at)).sum(-1) >= level - EXACT).all()
        assert ((laws.probability * (laws.value < at)).sum(-1) < level).all()
    fair = law(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]))
    assert quantile(fair, torch.tensor([0.5, 0.51, 1.0]).double()).tolist() == [1, 2, 2]


def test_moments_and_mixtures():
    laws = random_laws(np.random.default_rng(7), 2)
    mean, square = expectation(laws), expectation(laws, lambda x: x * x)
    assert torch.allclose(variance(laws), square - mean**2, atol=1e-12)
    both = mixture(laws, torch.tensor([0.25, 0.75]).double())
    assert abs(expectation(both) - (0.25 * mean[0] + 0.75 * mean[1])) < EXACT
    assert midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize(
    ("value", "probability", "word"),
    [
        ([1.0, float("nan")], [0.5, 0.5], "finite"),
        ([1.0, 2.0], [0.5, 0.6], "sums to 1.1"),
        ([1.0, 2.0], [-0.5, 1.5], "-0.5"),
    ],
)
def test_what_is_no_law_is_refused(value, probability, word):
    with pytest.raises(ValueError, match=word):
        law(torch.tensor(value), torch.tensor(probability))
    with pytest.raises(ValueError, match="count"):
        midpoints(0)
