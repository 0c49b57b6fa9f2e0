"""Dynamic programming on stocks against every history-dependent policy, and mixtures of them."""

import numpy as np
import pytest
import torch

from rlkit.stocks import (
    best_lower_cvar,
    best_mean_variance,
    best_upper_cvar,
    distributional_policy_iteration,
    distributional_value_iteration,
    on_lattice,
    reach,
)
from rlkit.stocks import functionals as f
from rlkit.stocks.reachable import dynamic_programming

INSTANCES = 200
EXACT = 1e-9
HOMOGENEOUS = {
    "mean": (f.mean(), lambda x: x),
    "shortfall": (f.shortfall(), lambda x: np.minimum(x, 0)),
    "excess": (f.excess(), lambda x: np.maximum(x, 0)),
    "kinked": (f.kinked(0.4), lambda x: np.minimum(x, 0) + 0.4 * np.maximum(x, 0)),
    "distance": (f.distance(), lambda x: -np.abs(x)),
    "root": (f.distance(0.5), lambda x: -np.sqrt(np.abs(x))),
    "square": (f.distance(2.0), lambda x: -(x**2)),
    "cube": (f.signed_power(3.0), lambda x: x**3),
    "indicator": (f.indicator(), lambda x: (x >= 0).astype(float)),
}
OTHER = {
    "exponential": (f.exponential(3.0), lambda x: -np.exp(-x / 3)),
    "quadratic": (f.quadratic(0.3), lambda x: x - 0.3 * x**2),
    "level": (f.indicator(1.5), lambda x: (x >= 1.5).astype(float)),
}
VECTOR = {
    "budget": (f.budget(2.0), lambda x: x[..., 0] + 2 * np.minimum(x[..., 1], 0)),
    "norm": (f.norm(2.0), lambda x: -np.sqrt((x**2).sum(-1))),
    "norm 1": (f.norm(1.0), lambda x: -np.abs(x).sum(-1)),
    "squared norm": (f.norm(2.0, 2.0), lambda x: -(x**2).sum(-1)),
}


def best(laws, utility, stock):
    value = laws.value + stock
    value = value if value.shape[-1] > 1 else value[..., 0]
    return (laws.probability * utility(value)).sum(-1).max()


@pytest.mark.parametrize(
    ("gamma", "table", "timed", "m"),
    [
        (1.0, HOMOGENEOUS | OTHER, False, 1),
        (0.7, HOMOGENEOUS, False, 1),
        (0.7, OTHER, True, 1),
        (1.0, VECTOR, False, 2),
        (0.7, VECTOR, False, 2),
    ],
    ids=["undiscounted", "discounted", "timed", "vector", "vector discounted"],
)
def test_value_iteration_is_the_best_of_all_policies(cases, all_laws, gamma, table, timed, m):
    rng = np.random.default_rng(1)
    for _ in range(INSTANCES):
        case = cases(rng, gamma, m)
        stock, laws = rng.normal(0, 2, m), all_laws(case)
        assert laws.probability.shape == (128, 8)
        problem = reach(case.model())
        for name, (functional, utility) in table.items():
            expected = best(laws, utility, stock)
            found = dynamic_programming(problem, functional, torch.from_numpy(stock), timed)
            assert abs(found.value - expected) < EXACT * (1 + abs(expected)), name
            final = functional.f(problem.support + torch.from_numpy(stock))
            value = float(problem.value(problem.maximise(final)))
            assert abs(value - expected) < EXACT * (1 + abs(expected)), name


def test_lattice_value_and_policy_iteration_are_the_best_of_all_policies(cases, all_laws):
    rng = np.random.default_rng(2)
    table = HOMOGENEOUS | OTHER
    for _ in range(INSTANCES):
        case = cases(rng, whole=True)
        first = int(rng.integers(-4, 1))
        lattice = on_lattice(case.model(), (first,), (first + 3,))
        laws = all_laws(case)
        places = [lattice.place((stock,)) for stock in range(first, first + 4)]
        batch = torch.stack([functional.f(lattice.support) for functional, _ in table.values()])
        values = lattice.maximise(batch).value[:, 0, 0, places]
        for row, (name, (_, utility)) in enumerate(table.items()):
            expected = [best(laws, utility, stock) for stock in range(first, first + 4)]
            assert np.allclose(values[row], expected, rtol=EXACT, atol=EXACT), name
        for name in ("shortfall", "square"):
            functional, _ = table[name]
            row = list(table).index(name)
            law = distributional_value_iteration(lattice, functional)
            assert torch.allclose(law.value[0, 0, places], values[row], rtol=0, atol=EXACT)
            plan, rounds = distributional_policy_iteration(lattice, batch[row])
            assert torch.allclose(plan.value[0, 0, places], values[row], rtol=0, atol=EXACT)
            assert rounds <= 3


@pytest.mark.parametrize(
    ("functional", "gamma", "of"),
    [
        (f.exponential(1.0), 0.5, lambda x, p: (p * -np.exp(-x)).sum(-1)),
        (f.quadratic(0.3), 0.7, lambda x, p: (p * (x - 0.3 * x**2)).sum(-1)),
        (
            f.mean_variance(0.5),
            1.0,
            lambda x, p: (p * x).sum(-1) - 0.5 * ((p * x**2).sum(-1) - (p * x).sum(-1) ** 2),
        ),
        (f.cvar_lower(0.4), 1.0, "lower"),
        (f.cvar_upper(0.4), 1.0, "upper"),
    ],
    ids=["exponential", "quadratic", "mean-variance", "lower CVaR", "upper CVaR"],
)
def test_inadmissible_functionals_fail_and_are_refused(
    cases, all_laws, tail_mean, functional, gamma, of
):
    rng = np.random.default_rng(3)
    short = 0
    for _ in range(100):
        case = cases(rng, gamma)
        laws, problem = all_laws(case), reach(case.model())
        value, mass = laws.value[..., 0], laws.probability
        if isinstance(of, str):
            every = [tail_mean(x, p, 0.4, of == "lower") for x, p in zip(value, mass, strict=True)]
            expected = max(every)
        else:
            expected = of(value, mass).max()
        stock = torch.zeros(1, dtype=torch.float64)
        found = dynamic_programming(problem, functional, stock, admissible=False)
        assert found.value <= expected + EXACT * (1 + abs(expected))
        short += found.value < expected - 1e-6
        with pytest.raises(ValueError, match="not homogeneous|best_"):
            dynamic_programming(problem, functional, stock)
    assert short > 0


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("tau", [0.1, 0.4, 0.75, 1.0])
def test_lower_cvar_is_the_best_of_all_policies(cases, all_laws, tail_mean, gamma, tau):
    rng = np.random.default_rng(4)
    for _ in range(40):
        case = cases(rng, gamma)
        laws = all_laws(case)
        pairs = zip(laws.value[..., 0], laws.probability, strict=True)
        expected = max(tail_mean(x, p, tau, lower=True) for x, p in pairs)
        found = best_lower_cvar(reach(case.model()), tau)
        assert abs(found.value - expected) < EXACT
        # The search's own objective, -c_0 + E min(c_0 + G, 0) / tau, at its stock.
        shortfall = (found.law.probability * (found.law.value + found.stock).clamp(max=0)).sum()
        assert abs(-found.stock + float(shortfall) / tau - expected) < EXACT


@pytest.mark.parametrize("tau", [0.15, 0.4, 0.8])
def test_upper_cvar_is_the_linear_program_over_mixtures(
    cases, all_laws, tail_mean, mixture_lp, tau
):
    rng = np.random.default_rng(5)
    strict = 0
    for trial in range(60):
        case = cases(rng, whole=trial % 2 == 0)
        laws = all_laws(case)
        problem = on_lattice(case.model()) if trial % 2 == 0 else reach(case.model())
        found = best_upper_cvar(problem, tau)
        assert abs(found.value - mixture_lp(laws, tau)) < 1e-8
        value, mass = found.law.value.numpy(), found.law.probability.numpy()
        assert abs(tail_mean(value, mass, tau, lower=False) - found.value) < EXACT
        pairs = zip(laws.value[..., 0], laws.probability, strict=True)
        pure = max(tail_mean(x, p, tau, lower=False) for x, p in pairs)
        assert found.deterministic.value <= pure + EXACT <= found.value + 2 * EXACT
        assert abs(sum(found.weight) - 1) < EXACT
        if len(found.weight) == 2:
            strict += pure < found.value - 1e-6
    assert strict > 0


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.3, 2.0])
def test_mean_variance_is_the_best_of_all_policies(cases, all_laws, weight):
    rng = np.random.default_rng(6)
    for trial in range(60):
        case = cases(rng, whole=trial % 2 == 0)
        laws = all_laws(case)
        value, mass = laws.value[..., 0], laws.probability
        mean = (mass * value).sum(-1)
        expected = (mean - weight * ((mass * value**2).sum(-1) - mean**2)).max()
        problem = on_lattice(case.model()) if trial % 2 == 0 else reach(case.model())
        found = best_mean_variance(problem, weight)
        assert abs(found.value - expected) < EXACT * (1 + abs(expected))
        assert abs(found.stock + float((found.law.probability * found.law.value).sum())) < EXACT
