"""Properties of functionals, and what is refused by name."""

import re

import pytest
import torch

from rlkit.models import from_outcomes
from rlkit.stocks import (
    augment,
    best_lower_cvar,
    best_mean_variance,
    best_upper_cvar,
    best_utility,
    check_admissible,
    distributional_value_iteration,
    on_lattice,
    reach,
    solve_on_grid,
    stock_next,
)
from rlkit.stocks import functionals as f
from rlkit.stocks.reachable import dynamic_programming

SCALAR = [
    f.mean(), f.shortfall(), f.excess(), f.kinked(0.3), f.kinked(-2.0), f.distance(),
    f.distance(2.0), f.distance(0.5), f.signed_power(3.0), f.indicator(), f.indicator(2.0),
    f.exponential(1.5), f.quadratic(0.3), f.quadratic(0.0), f.norm(1.0), f.norm(2.0, 2.0),
]  # fmt: skip
PAIRS = [f.budget(3.0), f.norm(1.0), f.norm(2.0), f.norm(2.0, 2.0), f.norm(3.0, 0.5)]


def coins(gamma=1.0, horizon=3, reward=(1.0, 4.0, 0.0), rewards=None):
    a, b, c = reward
    model = from_outcomes(
        torch.zeros(1, 2, 2, dtype=torch.int64),
        torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]),
        torch.tensor([[[a, a], [b, c]]]),
        torch.ones(1),
    )
    return augment(model, gamma, horizon, rewards)


def points(functional):
    line = torch.linspace(-12, 12, 33, dtype=torch.float64)
    if functional.dimension == 2 or (functional in PAIRS):
        return torch.cartesian_prod(line, line)
    return line[:, None]


@pytest.mark.parametrize("functional", SCALAR + PAIRS, ids=lambda u: u.name)
def test_degrees_are_those_of_the_function(functional):
    x = points(functional)
    for factor in (0.25, 3.0):
        scaled, plain = functional.f(factor * x), functional.f(x)
        if functional.degree is not None:
            assert torch.allclose(scaled, factor**functional.degree * plain, atol=1e-9)
        else:
            design = torch.stack([plain, torch.ones_like(plain)], 1)
            residual = scaled - design @ torch.linalg.lstsq(design, scaled).solution
            assert residual.abs().max() > 1e-3  # no affine image either


@pytest.mark.parametrize("functional", SCALAR + PAIRS, ids=lambda u: u.name)
def test_lipschitz_constants_hold_and_are_attained_nearly(functional):
    x = points(functional)
    radius = float(x.abs().sum(-1).max())
    bound = functional.lipschitz(radius)
    apart = (x[:, None] - x[None]).abs().sum(-1)
    slope = (functional.f(x)[:, None] - functional.f(x)[None]).abs() / apart
    steepest = float(slope[apart > 0].max())
    assert steepest <= bound + 1e-9
    if bound < float("inf") and functional in SCALAR:
        assert steepest > 0.7 * bound
    jump = functional.name.startswith(("indicator", "distance(0.5", "norm(3, 0.5"))
    assert (bound == float("inf")) == jump


@pytest.mark.parametrize(
    ("functional", "instead"),
    [
        (f.mean_variance(0.5), "best_mean_variance"),
        (f.variance(), "best_mean_variance"),
        (f.cvar_lower(0.1), "best_lower_cvar"),
        (f.cvar_upper(0.1), "best_upper_cvar"),
    ],
    ids=lambda u: getattr(u, "name", u),
)
def test_statistics_are_refused_with_the_search_that_optimises_them(functional, instead):
    message = rf"{re.escape(functional.name)} is not indifferent to mixtures.*{instead}"
    with pytest.raises(ValueError, match=message):
        distributional_value_iteration(on_lattice(coins()), functional)
    with pytest.raises(ValueError, match=message):
        dynamic_programming(reach(coins(0.5)), functional, torch.zeros(1))


@pytest.mark.parametrize("functional", [f.exponential(), f.quadratic(0.3), f.indicator(2.0)])
def test_discounts_need_homogeneous_utilities_or_the_time(functional):
    with pytest.raises(ValueError, match=r"not homogeneous.*gamma = 0.5.*timed"):
        check_admissible(functional, coins(0.5))
    assert check_admissible(functional, coins(0.5), timed=True) is functional
    assert check_admissible(functional, coins()) is functional


def test_mean_variance_with_a_discount_needs_the_time():
    with pytest.raises(ValueError, match="not homogeneous"):
        best_mean_variance(reach(coins(0.5)), 0.1)
    assert best_mean_variance(reach(coins(0.5)), 0.1, timed=True).value > 0


def test_infinite_horizons_need_a_discount_and_lipschitz_utilities():
    with pytest.raises(ValueError, match="horizon = None with gamma = 1"):
        coins(1.0, None)
    endless = coins(0.9, None)
    for functional in (f.indicator(), f.distance(2.0), f.distance(0.5)):
        with pytest.raises(ValueError, match="not Lipschitz"):
            check_admissible(functional, endless)
    assert check_admissible(f.distance(), endless)
    assert check_admissible(f.distance(2.0), endless, radius=40.0)  # bounded totals suffice
    for build in (reach, on_lattice):
        with pytest.raises(ValueError, match="horizon = None|gamma = 0.9"):
            build(endless)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.1, float("nan")])
def test_discounts_outside_the_range_are_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        coins(gamma)
    with pytest.raises(ValueError, match="gamma"):
        stock_next(torch.zeros(1), torch.zeros(1), gamma)


@pytest.mark.parametrize("tau", [0.0, 1.5, -1.0])
def test_tails_without_mass_are_refused(tau):
    for search in (best_lower_cvar, best_upper_cvar):
        with pytest.raises(ValueError, match=r"tau = .* outside \(0, 1\]"):
            search(on_lattice(coins()), tau)


def test_dimensions_must_agree():
    pair = torch.zeros(1, 2, 2, 2)
    two, one = on_lattice(coins(rewards=pair)), on_lattice(coins())
    with pytest.raises(ValueError, match="takes 1 rewards, the model has 2"):
        check_admissible(f.mean(), two.model)
    with pytest.raises(ValueError, match="takes 2 rewards, the model has 1"):
        check_admissible(f.budget(), one.model)
    for search in (best_lower_cvar, best_upper_cvar, best_mean_variance):
        with pytest.raises(ValueError, match="rewards"):
            search(two, 0.5)
    with pytest.raises(ValueError, match=r"stock has shape \[1, 1\]; accepted: \[B, 2\]"):
        best_utility(two, f.norm(), torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"stock has shape \[2\]; accepted: \[1\]"):
        dynamic_programming(reach(coins()), f.mean(), torch.zeros(2))
    with pytest.raises(ValueError, match="reward has shape"):
        coins(rewards=torch.zeros(1, 2, 3, 2))
    with pytest.raises(ValueError, match="grid takes 1"):
        solve_on_grid(coins(0.5, rewards=pair), f.norm(), torch.zeros(1), 0.1)


def test_rewards_off_the_lattice_are_named():
    with pytest.raises(ValueError, match=r"state 0, action 1 is 4.25, 0.25 off .* unit = 1"):
        on_lattice(coins(reward=(1.0, 4.25, 0.0)))
    assert on_lattice(coins(reward=(1.0, 4.25, 0.0)), unit=0.25).size[2] == 52


def test_large_tables_and_empty_boxes_are_refused():
    with pytest.raises(ValueError, match="accepted: up to 10"):
        on_lattice(coins(), largest=10)
    with pytest.raises(ValueError, match="accepted: up to 10"):
        reach(coins(0.9), largest=10)
    with pytest.raises(ValueError, match="larger spacing"):
        solve_on_grid(coins(0.9), f.mean(), torch.zeros(1), 1e-9)
    with pytest.raises(ValueError, match="is empty"):
        on_lattice(coins(), (2,), (1,))
    with pytest.raises(ValueError, match="one number a reward"):
        on_lattice(coins(), (2, 1))
    with pytest.raises(ValueError, match="no point of the lattice"):
        on_lattice(coins()).place((0.5,))
    with pytest.raises(ValueError, match="spacing"):
        solve_on_grid(coins(0.9), f.mean(), torch.zeros(1), 0.0)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: f.distance(0.0), "power"),
        (lambda: f.kinked(float("inf")), "weight"),
        (lambda: f.norm(0.5), "order"),
        (lambda: f.budget(-1.0), "weight"),
        (lambda: f.exponential(0.0), "scale"),
        (lambda: f.utility("distanse", {}), "distance"),
        (lambda: best_mean_variance(on_lattice(coins()), -0.1), "weight"),
    ],
)
def test_arguments_out_of_range_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()


def test_batched_models_are_refused():
    model = coins().model
    two = type(model)(*(leaf.expand(2, *leaf.shape) for leaf in model))
    with pytest.raises(ValueError, match="one model for all"):
        augment(two, 1.0, 3)
