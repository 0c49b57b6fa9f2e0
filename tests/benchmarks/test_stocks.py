"""Distributional dynamic programming on the StockGrid against a dictionary of stocks in Python.

Both find the best expected distance to a target return for many targets; rates are targets a
second, and the values must agree.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from rlkit.envs.tabular.stock_grid import StockGrid
from rlkit.random import Rng
from rlkit.stocks import Lattice, augment, best_target, on_lattice

pytestmark = [
    pytest.mark.benchmark(timer=time.process_time, group="stocks", warmup=False),
    pytest.mark.filterwarnings("default"),
]

TARGETS, FEW = 256, 8
RATIO = 20  # how many times faster the lattice must be


def grid() -> Lattice:
    """The problem as a lattice."""
    problem = StockGrid()
    model = problem.model(Rng(0, "instance", torch.arange(1)))
    return on_lattice(augment(model, horizon=problem.horizon))


def dictionary(lattice: Lattice, target: float) -> float:
    """The same value by recursion over the reachable (time, state, stock)."""
    model = lattice.model.model
    successor, probability = model.successor.tolist(), model.probability.tolist()
    reward, horizon = model.reward.tolist(), lattice.model.steps

    @cache
    def value(time: int, state: int, stock: float) -> float:
        if time == horizon:
            return -abs(stock)
        return max(
            sum(
                p * value(time + 1, s, stock + r)
                for s, p, r in zip(*outcomes, strict=True)
                if p > 0
            )
            for outcomes in zip(successor[state], probability[state], reward[state], strict=True)
        )

    return value(0, 0, -target)


def test_lattice_against_dictionary(race: Callable[..., Any]) -> None:
    lattice = grid()
    found: list[torch.Tensor] = []

    def ours() -> int:
        found.append(best_target(lattice, torch.arange(float(TARGETS))))
        return TARGETS

    expected: list[list[float]] = []

    def plain() -> int:
        expected.append([dictionary(lattice, float(target)) for target in range(FEW)])
        return FEW

    result = race({"lattice": ours, "dictionary": plain}, 3)
    assert torch.allclose(found[0][:FEW], torch.tensor(expected[0]).double(), rtol=0, atol=1e-9)
    assert result.ratio("dictionary") >= RATIO
