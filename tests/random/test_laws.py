"""Laws of the named draws, against scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from rlkit.random import Rng, first_true

N = 20_000
RNG = Rng(11, "env", torch.arange(N), 3)
LEVEL = 1e-3  # fixed seed: a test either always passes or always fails


def law(sample: torch.Tensor, name: str, *parameters: float) -> float:
    return stats.kstest(sample.double().flatten().numpy(), name, parameters).pvalue


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_continuous_laws(dtype, shape):
    for draw, name in (
        (RNG.uniform, "uniform"),
        (RNG.open, "uniform"),
        (RNG.normal, "norm"),
        (RNG.exponential, "expon"),
    ):
        sample = draw("x", *shape, dtype=dtype)
        assert sample.shape == (N, *shape) and sample.dtype == dtype
        assert law(sample, name) > LEVEL


def test_normal_pairs_are_uncorrelated_in_value_and_in_square():
    x = RNG.normal("x", 2, dtype=torch.float64)
    for power in (1, 2):
        correlation = torch.corrcoef((x**power).T)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(N)


def test_open_uniforms_touch_neither_end():
    ends = torch.tensor([0, 2**32 - 1])
    source = lambda *_: ends[None]  # noqa: E731
    rng = Rng(0, "env", torch.arange(2), source=source)
    for value in (rng.open("x"), 1 - rng.open("x")):
        assert (value > 0).all() and (value < 1).all()


@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0, 50.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_above_one(alpha, dtype):
    shape = torch.full((N, 2), alpha, dtype=dtype)
    assert law(RNG.gamma("g", shape, small=False), "gamma", alpha) > LEVEL
    assert law(RNG.gamma("h", shape), "gamma", alpha) > LEVEL


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.99])
def test_gamma_below_one(alpha):
    sample = RNG.gamma("g", torch.full((N, 2), alpha, dtype=torch.float64))
    assert law(sample, "gamma", alpha) > LEVEL


def test_log_gamma_survives_where_the_variate_underflows():
    value = RNG.log_gamma("g", torch.full((N, 1), 1 / 1001, dtype=torch.float32))
    assert torch.isfinite(value).all() and value.min() < -104  # exp underflows in float32


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 5.0), (40.0, 3.0), (0.5, 0.5)])
def test_beta(a, b):
    small = a < 1
    sample = RNG.beta("b", torch.full((N, 2), a), torch.full((N, 2), b), small=small)
    assert law(sample, "beta", a, b) > LEVEL


@pytest.mark.parametrize("alpha", [(0.2, 0.3, 0.5), (1.0, 2.0, 3.0)])
def test_dirichlet_marginals(alpha):
    small = min(alpha) < 1
    rows = torch.tensor(alpha, dtype=torch.float64).expand(N, 2, 3)
    sample = RNG.dirichlet("d", rows, small=small)
    assert torch.allclose(sample.sum(-1), torch.ones(N, 2, dtype=torch.float64))
    for k, a in enumerate(alpha):
        assert law(sample[..., k], "beta", a, sum(alpha) - a) > LEVEL


@pytest.mark.parametrize("alpha", [0.3, 1.5])
@pytest.mark.parametrize("size", [3, 20, 64])
def test_dirichlet_rows_do_not_depend_on_the_company(alpha, size):
    rows = torch.full((9, 4, size), alpha, dtype=torch.float64)
    few = replace(RNG, replica=torch.arange(9))
    every = few.dirichlet("d", rows, small=alpha < 1)
    for some in (slice(4, 5), slice(2, 4), slice(0, 8)):
        part = replace(RNG, replica=few.replica[some]).dirichlet("d", rows[some], small=alpha < 1)
        assert torch.equal(part, every[some])


def test_integers_and_rademacher():
    counts = torch.bincount(RNG.integers("i", 7, 5).flatten(), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > LEVEL
    sign = RNG.rademacher("r", 5)
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    assert abs(sign.mean()) < 5 / np.sqrt(sign.numel())


def test_categorical_from_shared_and_from_own_tables():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    for cdf in (p.cumsum(0), p.cumsum(0).expand(N, 4)):
        counts = torch.bincount(RNG.categorical("c", cdf), minlength=4).numpy()
        assert counts[1] == 0
        assert stats.chisquare(counts[[0, 2, 3]], N * np.array([0.1, 0.6, 0.3])).pvalue > LEVEL


def test_categorical_never_leaves_the_table_when_its_cdf_stops_short():
    short = torch.tensor([0.2, 0.4])  # rounding may leave the last entry below 1
    assert RNG.categorical("c", short).max() == 1


def test_permutations_are_uniform():
    order = RNG.permutation("p", 3)
    assert torch.equal(order.sort(1).values, torch.arange(3).expand(N, 3))
    code = (order * torch.tensor([9, 3, 1])).sum(1)
    counts = np.unique(code.numpy(), return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize("alpha", [1.0, 4.0])
@pytest.mark.parametrize("lanes", [1, 3, 20])
def test_bounded_rejection_gives_the_unbounded_numbers_or_says_so(alpha, lanes):
    bounded = replace(RNG, rounds=8, rejected=[])
    shape = torch.full((lanes, N), alpha).T
    a, b = RNG.gamma("g", shape, small=False), bounded.gamma("g", shape, small=False)
    assert not bounded.rejected[0] and torch.equal(a, b)


def test_bounded_rejection_says_when_a_lane_is_left():
    bounded = replace(RNG, rounds=3, rejected=[])
    a = RNG.gamma("g", torch.ones(N, 20), small=False)
    b = bounded.gamma("g", torch.ones(N, 20), small=False)
    assert bounded.rejected[0]
    assert 0 < (a != b).sum() < 1e-3 * a.numel()


def test_gammas_drawn_in_pieces_are_those_drawn_at_once(monkeypatch):
    shape = 1 + RNG.uniform("alpha", 7)
    whole = RNG.gamma("g", shape, small=False)
    monkeypatch.setattr("rlkit.random.LANES", 2 * N)
    assert torch.equal(RNG.gamma("g", shape, small=False), whole)


def test_rejection_rounds_of_others_change_nothing():
    hard = torch.ones(N, 4)
    easy = hard.clone()
    easy[0] = 1e6  # accepted at once
    a, b = RNG.gamma("g", hard, small=False), RNG.gamma("g", easy, small=False)
    assert torch.equal(a[1:], b[1:])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_first_true_lists_positions_and_repeats_the_first(count):
    for mask in ([0, 1, 0, 1, 1, 0], [0] * 6, [1] * 6, [0, 0, 0, 0, 0, 1]):
        mask = torch.tensor(mask, dtype=torch.bool)
        places, real, more = first_true(mask.int(), count)
        assert more == (mask.sum() > count)
        wanted = torch.nonzero(mask).squeeze(1)[:count]
        assert torch.equal(places[real], wanted)
        assert (places[~real] == (wanted[0] if len(wanted) else 0)).all()
