"""Witnesses that know nothing of stocks: every history-dependent policy, and mixtures by LP."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from rlkit.models import from_outcomes
from rlkit.stocks import StockModel, augment

HORIZON = 3


class Case(NamedTuple):
    """Two states, two actions; `kernel` [S, A, S'], `reward` [S, A, S', m]."""

    kernel: np.ndarray
    reward: np.ndarray
    gamma: float

    def model(self) -> StockModel:
        probability = torch.from_numpy(self.kernel)
        successor = torch.arange(2).expand(2, 2, 2)
        first = torch.tensor([1.0, 0.0])
        plain = from_outcomes(successor, probability, torch.zeros(2, 2, 2), first)
        return augment(plain, self.gamma, HORIZON, torch.from_numpy(self.reward))


class Laws(NamedTuple):
    """Return laws of all policies: `value` [n, X, m], `probability` [n, X]."""

    value: np.ndarray
    probability: np.ndarray


def draw(rng: np.random.Generator, gamma: float = 1.0, m: int = 1, whole: bool = False) -> Case:
    kernel = rng.dirichlet(np.ones(2), (2, 2))
    size = (2, 2, 2, m)
    reward = rng.integers(-2, 4, size).astype(float) if whole else rng.normal(0, 2, size)
    return Case(kernel, reward, gamma)


def enumerate_laws(case: Case, state: int = 0, steps: int = HORIZON) -> Laws:
    """By recursion on the first step: a policy is an action and a policy for each successor."""
    m = case.reward.shape[-1]
    if steps == 0:
        return Laws(np.zeros((1, 1, m)), np.ones((1, 1)))
    below = [enumerate_laws(case, successor, steps - 1) for successor in (0, 1)]
    count = below[0].value.shape[0]
    first, second = np.array(list(product(range(count), repeat=2))).T
    values, probabilities = [], []
    for action in (0, 1):
        parts = zip(below, (first, second), (0, 1), strict=True)
        value, mass = [], []
        for laws, index, successor in parts:
            value.append(case.reward[state, action, successor] + case.gamma * laws.value[index])
            mass.append(case.kernel[state, action, successor] * laws.probability[index])
        values.append(np.concatenate(value, 1))
        probabilities.append(np.concatenate(mass, 1))
    return Laws(np.concatenate(values), np.concatenate(probabilities))


def tail(value: np.ndarray, probability: np.ndarray, tau: float, lower: bool) -> float:
    """Mean of the lowest or highest mass `tau`, atom by atom."""
    order = np.argsort(value if lower else -value)
    left, total = tau, 0.0
    for x, p in zip(value[order], probability[order], strict=True):
        take = min(p, left)
        total, left = total + take * x, left - take
    return total / tau


def best_mixed_upper(laws: Laws, tau: float) -> float:
    """Largest mean of the best `tau` over policies drawn at the start.

    Weights `w_i`, and masses `q_ij <= w_i p_ij` that add up to `tau`.
    """
    n, atoms = laws.probability.shape
    cost = np.concatenate([np.zeros(n), -laws.value[..., 0].ravel() / tau])
    upper = np.concatenate([-np.kron(np.eye(n), np.ones((atoms, 1))), np.eye(n * atoms)], 1)
    upper[:, :n] *= laws.probability.ravel()[:, None]
    equal = np.zeros((2, n + n * atoms))
    equal[0, :n], equal[1, n:] = 1, 1
    found = linprog(cost, upper, np.zeros(n * atoms), equal, [1, tau], method="highs")
    assert found.status == 0
    return -float(found.fun)


@pytest.fixture
def cases() -> Callable[..., Case]:
    return draw


@pytest.fixture
def all_laws() -> Callable[..., Laws]:
    return enumerate_laws


@pytest.fixture
def tail_mean() -> Callable[..., float]:
    return tail


@pytest.fixture
def mixture_lp() -> Callable[..., float]:
    return best_mixed_upper
