"""Discounted reward: value and policy iteration (Puterman 1994, chapter 6)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.layout import Backup, blocks, leading, own
from rlkit.planning.policies import Chain, check_policy, deterministic, under
from rlkit.planning.solving import solve
from rlkit.validation import check_real

ROUNDINGS = 16 * torch.finfo(torch.float64).eps  # of a sweep, relative to the largest value
IMPROVEMENT = 1e-12  # by which an action must beat the policy's, relative to the largest value


class Solution(NamedTuple):
    """Values of an infinite horizon."""

    value: Tensor  # [..., S]
    q: Tensor  # [..., S, A]


def value_iteration(model: Model | Dense, gamma: float, tolerance: float = 1e-10) -> Solution:
    """Optimal discounted values by value iteration.

    A model's sweeps end when the span of the last change proves the error (Puterman 1994,
    section 6.6.3); the values returned are in the middle of the proven interval.

    Args:
        model: shared or of `N` replicas.
        gamma: discount, in [0, 1).
        tolerance: the largest error of a value, > 0, up to rounding (some `1e-15` of the largest
            value over `1 - gamma`).

    Raises:
        ValueError: `gamma` or `tolerance` outside its range; a row that is no distribution.
    """
    return iterate(model, gamma, tolerance, lambda q, rows: q.amax(-1), leading(model))


def iterate(
    model: Model | Dense,
    gamma: float,
    tolerance: float,
    best: Callable[[Tensor, slice], Tensor],
    lead: tuple[int, ...],
) -> Solution:
    """`value_iteration` where `best` makes values `[B, S]` of `q` `[B, S, A]`, given the rows.

    `best` must be monotone and commute with the addition of constants; `lead` is `(N,)`, or `()`
    for a single result.
    """
    check_discount(gamma)
    check_real("tolerance", tolerance, 0, open_low=True)
    states, actions = model.size
    (count,) = lead or (1,)
    value = model.reward.new_empty(count, states)
    q = model.reward.new_empty(count, states, actions)
    for rows, _, backup in blocks(model, count):
        start = value.new_zeros(rows.stop - rows.start, states)

        def operator(v: Tensor, backup: Backup = backup, rows: slice = rows) -> Tensor:
            return best(backup.lookahead(v, gamma), rows)

        fixed = fixed_point(operator, start, gamma, tolerance)
        q[rows] = backup.lookahead(fixed, gamma)
        value[rows] = best(q[rows], rows)
    return Solution(value.view(*lead, states), q.view(*lead, states, actions))


def fixed_point(
    operator: Callable[[Tensor], Tensor], value: Tensor, gamma: float, tolerance: float
) -> Tensor:
    """Fixed point `[B, S]` of a discounted operator, each row until its own error is proven."""
    weight = gamma / (1 - gamma)
    answer, going = value, torch.ones_like(value[:, :1], dtype=torch.bool)
    while bool(going.any()):
        after = operator(value)
        change = after - value
        high, low = change.amax(-1, keepdim=True), change.amin(-1, keepdim=True)
        answer = torch.where(going, after + weight * (high + low) / 2, answer)
        rounding = ROUNDINGS * after.abs().amax(-1, keepdim=True)
        going = going & (weight * (high - low) / 2 > torch.clamp(weight * rounding, min=tolerance))
        value = after
    return answer


def policy_iteration(model: Model | Dense, gamma: float) -> Solution:
    """Optimal discounted values by Howard's policy iteration, exact up to rounding.

    Puterman (1994), section 6.4. Solves systems of `S` equations: meant for up to some thousand
    states.

    Args:
        model: shared or of `N` replicas.
        gamma: discount, in [0, 1).

    Raises:
        ValueError: `gamma` outside its range; a row that is no distribution.
    """
    check_discount(gamma)
    lead = leading(model)
    states, actions = model.size
    (count,) = lead or (1,)
    q = model.reward.new_empty(count, states, actions)
    for rows, part, backup in blocks(model, count):
        q[rows] = improve(part, backup, q[rows], gamma)
    return Solution(q.amax(-1).view(*lead, states), q.view(*lead, states, actions))


def improve(model: Model | Dense, backup: Backup, q: Tensor, gamma: float) -> Tensor:
    """Optimal `q` `[B, S, A]` by policy iteration from the policy greedy for the rewards."""
    action = backup.lookahead(torch.zeros_like(q[..., 0])).argmax(-1)
    while True:
        value = evaluate(under(model, deterministic(action, q.shape[-1])), gamma)
        q = backup.lookahead(value, gamma)
        gain = q.amax(-1) - q.gather(-1, action[..., None]).squeeze(-1)
        better = gain > IMPROVEMENT * value.abs().amax(-1, keepdim=True)
        if not bool(better.any()):
            return q
        action = torch.where(better, q.argmax(-1), action)


def policy_value(model: Model | Dense, policy: Tensor, gamma: float) -> Solution:
    """Discounted values of a policy, exact up to rounding (Puterman 1994, theorem 6.1.1).

    Args:
        model: shared or of `N` replicas.
        policy: probabilities of actions, `[S, A]` or `[N, S, A]`.
        gamma: discount, in [0, 1).

    Raises:
        ValueError: `gamma` outside its range; a row that is no distribution.
    """
    check_policy(policy, model.size)
    return valued(model, policy, gamma, torch.zeros_like(policy[..., 0]))


def valued(model: Model | Dense, policy: Tensor, gamma: float, cost: Tensor) -> Solution:
    """`policy_value` where the policy also costs `cost` `[..., S]` a step."""
    check_discount(gamma)
    lead = leading(model, (policy, 2), (cost, 1))
    states, actions = model.size
    (count,) = lead or (1,)
    value = model.reward.new_empty(count, states)
    q = model.reward.new_empty(count, states, actions)
    for rows, part, backup in blocks(model, count):
        kernel, reward = under(part, own(policy, rows, 2))
        value[rows] = evaluate(Chain(kernel, reward - own(cost, rows, 1)), gamma)
        q[rows] = backup.lookahead(value[rows], gamma)
    return Solution(value.view(*lead, states), q.view(*lead, states, actions))


def evaluate(chain: Chain, gamma: float) -> Tensor:
    """`(I - gamma P)^{-1} r`, `[..., S]`."""
    identity = torch.eye(chain.kernel.shape[-1], dtype=torch.float64, device=chain.kernel.device)
    return solve(identity - gamma * chain.kernel, chain.reward)


def check_discount(gamma: float) -> None:
    """Refuse a discount outside [0, 1)."""
    check_real("gamma", gamma, 0, 1, open_high=True)
