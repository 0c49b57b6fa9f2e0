"""Occupancy measures: how often a policy visits states and takes actions.

The expected return of a policy is the inner product of its measure with the rewards: over a finite
horizon as it is, discounted after division by `1 - gamma`, and the gain for the stationary law.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rlkit.models import ROUNDING, Dense, Model
from rlkit.planning.classes import check_unichain
from rlkit.planning.discounted import check_discount
from rlkit.planning.finite_horizon import stages
from rlkit.planning.layout import LINE, blocks, leading, own
from rlkit.planning.policies import chain, check_policy, under
from rlkit.planning.solving import solve


def finite_occupancy(
    model: Model | Dense, policy: Tensor, horizon: int, start: Tensor | None = None
) -> Tensor:
    """Probabilities `[..., H, S, A]` of state and action at every stage; each stage sums to 1.

    Args:
        model: shared or of `N` replicas.
        policy: `[..., H, S, A]`; or `[S, A]`, `[..., 1, S, A]` where all stages share it.
        horizon: steps, >= 1.
        start: law of the first state `[S]` or `[N, S]`; None for the model's own.

    Raises:
        ValueError: an argument outside its range, a row that is no distribution.
    """
    staged = stages(policy, horizon, model.size)
    first = begin(model, start)
    lead = leading(model, (staged, 3), (first, 1))
    states, actions = model.size
    (count,) = lead or (1,)
    out = model.reward.new_empty(count, horizon, states, actions)
    mass = first.expand(count, states)
    for rows, part, _ in blocks(model, count):
        now = mass[rows]
        mine, push = own(staged, rows, 3), pushing(part)
        for stage in range(horizon):
            pairs = now[..., None] * mine[..., stage, :, :]
            out[rows, stage] = pairs
            now = push(pairs)
    return out.view(*lead, horizon, states, actions)


def discounted_occupancy(
    model: Model | Dense, policy: Tensor, gamma: float, start: Tensor | None = None
) -> Tensor:
    """`(1 - gamma) sum_t gamma^t P(s_t, a_t)`, `[..., S, A]`, which sums to 1.

    Time spent in terminal states counts: they are absorbing.

    Args:
        model: shared or of `N` replicas.
        policy: `[S, A]` or `[N, S, A]`.
        gamma: discount, in [0, 1).
        start: law of the first state `[S]` or `[N, S]`; None for the model's own.

    Raises:
        ValueError: an argument outside its range, a row that is no distribution.
    """
    check_discount(gamma)
    check_policy(policy, model.size)
    first = begin(model, start)
    lead = leading(model, (policy, 2), (first, 1))
    states, actions = model.size
    (count,) = lead or (1,)
    out = model.reward.new_empty(count, states, actions)
    identity = torch.eye(states, dtype=torch.float64, device=first.device)
    for rows, part, _ in blocks(model, count):
        mine = own(policy, rows, 2)
        kernel = under(part, mine).kernel
        mass = solve(identity - gamma * kernel.mT, (1 - gamma) * own(first, rows, 1))
        out[rows] = mass[..., None] * mine
    return out.view(*lead, states, actions)


def average_occupancy(model: Model | Dense, policy: Tensor) -> Tensor:
    """Stationary probabilities of state and action `[..., S, A]`.

    Args:
        model: shared or of `N` replicas.
        policy: `[S, A]` or `[N, S, A]`.

    Raises:
        ValueError: the policy's chain has two closed classes (names a state of each), or a row is
            no distribution.
    """
    leading(model, (policy, 2))
    return stationary_law(chain(model, policy).kernel)[..., None] * policy


def stationary_law(kernel: Tensor) -> Tensor:
    """The law `[..., S]` that a chain `[..., S, S]` with one closed class leaves unchanged.

    Raises:
        ValueError: a row is no distribution (names the state), or there are two closed classes
            (names a state of each).
    """
    states = kernel.shape[-1]
    check_policy(kernel, (states, states), "kernel")
    check_unichain(kernel)
    identity = torch.eye(states, dtype=kernel.dtype, device=kernel.device)
    # The law d solves d (I - P) = 0 and d 1 = 1, hence d (I - P + 1 u) = u for the uniform law u.
    system = (identity - kernel + 1 / states).mT
    return solve(system, torch.full_like(kernel[..., 0], 1 / states)).clamp(min=0)


def begin(model: Model | Dense, start: Tensor | None) -> Tensor:
    """The checked law of the first state, `[S]` or `[N, S]`."""
    if start is None:
        if isinstance(model, Dense):
            raise ValueError("start = None with a Dense; accepted: a law of states [..., S]")
        start = model.start
    states, _ = model.size
    if start.shape[-1] != states:
        raise ValueError(f"start {tuple(start.shape)}; accepted: [..., {states}]")
    total = start.sum(-1)
    if bool((start < 0).any()) or not bool(((total - 1).abs() <= ROUNDING).all()):
        raise ValueError(f"start sums to {total.tolist()}; accepted: laws >= 0 that sum to 1")
    return start


def pushing(model: Model | Dense) -> Callable[[Tensor], Tensor]:
    """Laws of the next state `[B, S]` of laws of state and action `[B, S, A]`."""
    states, _ = model.size
    if isinstance(model, Model):
        chances, places = model.probability, model.successor.flatten(-3)

        def scatter(pairs: Tensor) -> Tensor:
            mass = (pairs[..., None] * chances).flatten(1)
            empty = mass.new_zeros(mass.shape[0], states)
            return empty.scatter_add(1, places.expand(mass.shape), mass)

        return scatter
    rows = model.kernel.flatten(-3, -2)
    # Rows of whole cache lines, for the reason given in `rlkit.planning.layout`.
    padded = torch.nn.functional.pad(rows, (0, -states % LINE))

    def multiply(pairs: Tensor) -> Tensor:
        kernel = padded.expand(pairs.shape[0], -1, -1)
        return torch.bmm(pairs.flatten(1)[:, None], kernel)[:, 0, :states]

    return multiply
