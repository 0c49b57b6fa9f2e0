"""Average reward: gain, bias and span (Puterman 1994, chapters 8 and 9)."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.classes import check_unichain, check_weakly_communicating
from rlkit.planning.discounted import ROUNDINGS
from rlkit.planning.layout import Backup, Matrix, blocks, leading
from rlkit.planning.policies import chain
from rlkit.planning.solving import poisson
from rlkit.validation import check_integer, check_real

DAMPING = 0.9  # weight of the kernel beside the identity, which makes every chain aperiodic


class Gain(NamedTuple):
    """Gain and bias."""

    gain: Tensor  # [...] reward per step
    bias: Tensor  # [..., S], centred: largest plus smallest is zero
    q: Tensor  # [..., S, A], r + P bias


def span(value: Tensor) -> Tensor:
    """`max - min` over states, `[...]` of `[..., S]`."""
    return value.amax(-1) - value.amin(-1)


def centred(value: Tensor) -> Tensor:
    """`[..., S]` shifted so that largest plus smallest is zero."""
    return value - (value.amax(-1, keepdim=True) + value.amin(-1, keepdim=True)) / 2


def gain_and_bias(model: Model | Dense, tolerance: float = 1e-12, sweeps: int = 1_000_000) -> Gain:
    """Optimal gain and bias of weakly communicating models, by relative value iteration.

    The kernel is mixed with the identity, `r + P v` becoming `v + DAMPING (r + P v - v)`, so that
    periodic chains converge too (Puterman 1994, section 8.5.4); gain and bias stay the same.

    Args:
        model: shared or of `N` replicas.
        tolerance: a model's sweeps end when the span of the last change is below this, relative to
            the range of its rewards (or is rounding); half of it bounds the error of the gain.
        sweeps: when to give up.

    Raises:
        ValueError: a model is not weakly communicating (names a state of each of two classes), a
            row is no distribution, or there is no convergence in `sweeps` sweeps.
    """
    check_real("tolerance", tolerance, 0, open_low=True)
    check_integer("sweeps", sweeps, 1)
    lead = leading(model)
    states, actions = model.size
    (count,) = lead or (1,)
    gain = model.reward.new_empty(count)
    bias = model.reward.new_empty(count, states)
    q = model.reward.new_empty(count, states, actions)
    for block in blocks(model, count):
        check_weakly_communicating(block, not lead)
        rows = block.rows
        start = bias.new_zeros(rows.stop - rows.start, states)
        middle = level(block.backup)
        moved = block.backup._replace(reward=block.backup.reward - middle)
        rate, bias[rows] = relative_iteration(moved, start, tolerance, sweeps)
        gain[rows] = rate + middle.reshape(-1)
        q[rows] = block.backup.lookahead(bias[rows])
    return Gain(gain.view(lead), bias.view(*lead, states), q.view(*lead, states, actions))


def level(backup: Backup) -> Tensor:
    """Middle of each model's rewards, every dimension but the replicas' 1.

    Sweeps see rewards less this, because their accuracy is relative to the largest.
    """
    reward = backup.reward
    own = isinstance(backup, Matrix) or backup.batched
    every = tuple(range(int(own), reward.dim()))
    return (reward.amax(every, keepdim=True) + reward.amin(every, keepdim=True)) / 2


def relative_iteration(
    backup: Backup, value: Tensor, tolerance: float, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Gain `[B]` and centred bias `[B, S]`; each row ends by itself, whatever the others do."""
    scale = backup.lookahead(value).abs().amax((-2, -1))[:, None]
    gain, bias = torch.zeros_like(scale), value
    going = torch.ones_like(scale, dtype=torch.bool)
    for _ in range(sweeps):
        change = backup.lookahead(value).amax(-1) - value
        high, low = change.amax(-1, keepdim=True), change.amin(-1, keepdim=True)
        gain = torch.where(going, (high + low) / 2, gain)
        bias = torch.where(going, value, bias)
        rounding = ROUNDINGS * value.abs().amax(-1, keepdim=True)
        going = going & (high - low > tolerance * scale + rounding)
        if not bool(going.any()):
            return gain.squeeze(-1), centred(bias)
        value = value + DAMPING * (change - change[:, :1])
    raise ValueError(f"no gain after {sweeps} sweeps; accepted: models that converge in as many")


def policy_gain(model: Model | Dense, policy: Tensor) -> Gain:
    """Gain and bias of a policy, exact up to rounding (Puterman 1994, section 8.2.3).

    Args:
        model: shared or of `N` replicas.
        policy: probabilities of actions, `[S, A]` or `[N, S, A]`.

    Raises:
        ValueError: the policy's chain has two closed classes (names a state of each), or a row is
            no distribution.
    """
    lead = leading(model, (policy, 2))
    kernel, reward = chain(model, policy)
    check_unichain(kernel)
    states, actions = model.size
    (count,) = lead or (1,)
    relative = poisson(kernel, reward).expand(*lead, states)
    bias = centred(relative).reshape(count, states)
    q = model.reward.new_empty(count, states, actions)
    for rows, _, backup in blocks(model, count):
        q[rows] = backup.lookahead(bias[rows])
    return Gain(relative.mean(-1), bias.view(*lead, states), q.view(*lead, states, actions))
