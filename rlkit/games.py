"""Preference games: two players name an item each, and the preferred one wins.

`P[y, z]` is the probability that `y` is preferred to `z`; `P + P^T = 1`. Such a game is symmetric
and its value is 1/2, so that one policy describes an equilibrium.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from rlkit.preferences import bradley_terry
from rlkit.random import Rng
from rlkit.tokens.laws import divergence
from rlkit.validation import check_integer, check_real

ROUNDING = 1e-9  # by how much P + P^T may miss 1


class Nash(NamedTuple):
    """An equilibrium policy and how far it may be from one."""

    policy: Tensor  # [N, Y] probabilities
    gap: Tensor  # [N] what both players together gain by best responses; 0 at an equilibrium


def check_preferences(preference: Tensor) -> None:
    """Refuse what is no `[N, Y, Y]` of preference probabilities.

    Raises:
        ValueError: not square; an entry outside [0, 1]; `P[y, z] + P[z, y]` not 1. Names the pair.
    """
    if preference.dim() != 3 or preference.shape[1] != preference.shape[2]:
        raise ValueError(f"preference has shape {list(preference.shape)}; accepted: [N, Y, Y]")
    whole = preference + preference.transpose(1, 2)
    wrong = ~((preference >= 0) & (preference <= 1) & ((whole - 1).abs() <= ROUNDING))
    if bool(wrong.any()):
        replica, y, z = wrong.nonzero()[0].tolist()
        there, back = preference[replica, y, z].item(), preference[replica, z, y].item()
        raise ValueError(
            f"replica {replica}: P[{y}, {z}] = {there}, P[{z}, {y}] = {back}; accepted: "
            f"probabilities that sum to 1"
        )


def bradley_terry_game(reward: Tensor, scale: float = 1.0) -> Tensor:
    """Preferences `[N, Y, Y]` that follow rewards `[N, Y]`."""
    return bradley_terry(reward[:, :, None] - reward[:, None, :], scale)


def random_game(rng: Rng, items: int, std: float = 1.5) -> Tensor:
    """General preferences `sigmoid(A - A^T)`, `A` normal, `[N, Y, Y]`; draws "game".

    Raises:
        ValueError: `items` below 1, or `std` negative.
    """
    check_integer("items", items, 1)
    check_real("std", std, 0)
    a = std * rng.normal("game", items, items, dtype=torch.float64)
    return bradley_terry(a - a.transpose(1, 2))


def cyclic_game(win: float, items: int = 3) -> Tensor:
    """Rock, paper, scissors `[1, Y, Y]`: item `y` beats `y + 1` with probability `win`; else even.

    Raises:
        ValueError: `win` outside [0, 1], or fewer than three items.
    """
    check_real("win", win, 0, 1)
    check_integer("items", items, 3)
    ahead = torch.zeros(items, items, dtype=torch.float64)
    at = torch.arange(items)
    ahead[at, (at + 1) % items] = win - 0.5
    return (0.5 + ahead - ahead.T)[None]


def versus(preference: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Probability `[N]` that a draw of `first` `[N, Y]` is preferred to one of `second`."""
    return torch.einsum("ny,nyz,nz->n", first, preference, second)


def against(preference: Tensor, policy: Tensor) -> Tensor:
    """Probability `[N, Y]` that each item is preferred to a draw of `policy` `[N, Y]`."""
    return (preference * policy[:, None]).sum(-1)


def duality_gap(preference: Tensor, policy: Tensor) -> Tensor:
    """What both players gain by best responses to `policy`, `[N]`."""
    return 2 * (against(preference, policy).amax(1) - 0.5)


def regularised_gap(preference: Tensor, policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Duality gap `[N]` of the game with payoff `P(pi > nu) - beta KL(pi) + beta KL(nu)`.

    Divergences are from `reference`; the best response is a softmax, so that the gap is exact.

    Raises:
        ValueError: `beta` not positive.
    """
    check_real("beta", beta, 0, open_low=True)
    score = torch.log(reference) + against(preference, policy) / beta
    best = beta * torch.logsumexp(score, 1)
    return 2 * (best + beta * divergence(policy, reference)) - 1


def nash_policy(preference: Tensor) -> Nash:
    """An equilibrium by linear programming; equilibria need not be unique.

    Raises:
        ValueError: no preference probabilities; the solver fails.
    """
    check_preferences(preference)
    policies = [maximin(game) for game in preference.double().cpu().numpy()]
    policy = torch.tensor(np.stack(policies), dtype=torch.float64, device=preference.device)
    return Nash(policy, duality_gap(preference.double(), policy))


def maximin(game: NDArray[np.float64]) -> NDArray[np.float64]:
    """The policy `[Y]` with the best worst case: maximise `v` with `P^T pi >= v`."""
    size = len(game)
    cost = np.zeros(size + 1)
    cost[-1] = -1
    bound = np.concatenate([-game.T, np.ones((size, 1))], 1)
    mass = np.ones((1, size + 1))
    mass[0, -1] = 0
    limits = [(0, 1)] * size + [(None, None)]
    found = linprog(cost, bound, np.zeros(size), mass, [1.0], limits, method="highs")
    if found.status != 0:
        raise ValueError(f"no equilibrium found: {found.message}")
    policy = np.clip(found.x[:-1], 0, None)
    whole: NDArray[np.float64] = policy / policy.sum()
    return whole


def regularised_nash(
    preference: Tensor,
    reference: Tensor,
    beta: float,
    tolerance: float = 1e-10,
    iterations: int = 100_000,
) -> Nash:
    """The one policy with `pi = reference exp(P(. > pi) / beta) / Z`, by predictive updates.

    Cen, Wei, Chi (2021), "Fast policy extragradient methods for competitive games with entropy
    regularization", algorithm 1; step size `1 / (2 beta + 1)`.

    Args:
        preference: `[N, Y, Y]`.
        reference: `[N, Y]` probabilities.
        beta: weight of the divergence, > 0.
        tolerance: of the duality gap, at which a replica stops.
        iterations: at most; `gap` tells what was reached.

    Raises:
        ValueError: no preference probabilities, `beta` or `tolerance` not positive.
    """
    check_preferences(preference)
    check_real("beta", beta, 0, open_low=True)
    check_real("tolerance", tolerance, 0, open_low=True)
    check_integer("iterations", iterations, 1)
    rate = 1 / (2 * beta + 1)
    anchor = torch.log(reference)
    logits = anchor
    for _ in range(iterations):
        policy = logits.exp()
        running = regularised_gap(preference, policy, reference, beta) > tolerance
        if not bool(running.any()):
            break
        for _ in range(2):
            # The second half repeats the step from `logits`, against where the first one led.
            step = rate * (beta * anchor + against(preference, policy))
            moved = torch.log_softmax((1 - rate * beta) * logits + step, 1)
            policy = moved.exp()
        logits = torch.where(running[:, None], moved, logits)
    policy = logits.exp()
    return Nash(policy, regularised_gap(preference, policy, reference, beta))
