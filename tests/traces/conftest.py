from collections.abc import Callable

import numpy as np
import pytest


def literal(rule: str, rho, lambda_: float, probability=None, greedy=None) -> np.ndarray:
    """Trace weights [..., T + 1] of sequences [..., T], product by product as the rules say."""
    probability = np.ones(rho.shape) if probability is None else probability
    greedy = np.ones(rho.shape) if greedy is None else greedy
    beta = [np.ones(rho.shape[:-1])]
    for t in range(1, rho.shape[-1] + 1):
        ratio, decay, before, now = rho[..., :t].prod(-1), lambda_**t, beta[-1], rho[..., t - 1]
        table = {
            "importance_sampling": decay * ratio,
            "q_lambda": decay * np.ones_like(ratio),
            "watkins": decay * greedy[..., :t].all(-1),
            "tree_backup": decay * probability[..., :t].prod(-1),
            "retrace": decay * np.minimum(1, rho[..., :t]).prod(-1),
            "truncated_importance_sampling": decay * np.minimum(1, ratio),
            "recursive_retrace": lambda_ * np.minimum(1, now * before),
            "moretrace": np.minimum(decay, ratio),
            "rbis": np.minimum(decay, now * before),
        }
        beta.append(table[rule])
    return np.stack(beta, -1)


@pytest.fixture
def definition() -> Callable[..., np.ndarray]:
    return literal


@pytest.fixture
def simplex() -> Callable[..., np.ndarray]:
    """Rows uniform on the simplex."""

    def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
        return rng.dirichlet(np.ones(shape[-1]), shape[:-1])

    return draw
