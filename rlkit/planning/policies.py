"""Stationary stochastic policies: checks, greedy policies, and the chain that a policy makes."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import ROUNDING, Dense, Model
from rlkit.regression import dot


class Chain(NamedTuple):
    """What remains of a model once the policy is fixed."""

    kernel: Tensor  # [..., S, S]
    reward: Tensor  # [..., S]


def check_policy(policy: Tensor, size: tuple[int, int], name: str = "policy") -> None:
    """Refuse a policy that does not fit or has a row that is no distribution.

    Args:
        policy: probabilities of actions, `[..., S, A]`.
        size: numbers of states and of actions.
        name: for the message.

    Raises:
        ValueError: names the state, and whatever leads it (replica, stage).
    """
    if policy.shape[-2:] != size:
        states, actions = size
        raise ValueError(
            f"{name} {tuple(policy.shape)}; accepted: [..., {states}, {actions}] for {states} "
            f"states and {actions} actions"
        )
    total = policy.sum(-1)
    wrong = ~((total - 1).abs() <= ROUNDING) | (policy < 0).any(-1)
    if bool(wrong.any()):
        *before, state = wrong.nonzero()[0].tolist()
        row = ", ".join(f"{p:.9g}" for p in policy[wrong][0].tolist())
        place = f"state {state}" + (f", index {tuple(before)}" if before else "")
        raise ValueError(f"{name} of {place} is ({row}); accepted: rows >= 0 that sum to 1")


def greedy(q: Tensor, tolerance: float = 0.0) -> Tensor:
    """The policy `[..., S, A]` that is uniform on all actions within `tolerance` of best in `q`."""
    best = (q >= q.amax(-1, keepdim=True) - tolerance).to(q.dtype)
    return best / best.sum(-1, keepdim=True)


def deterministic(action: Tensor, actions: int) -> Tensor:
    """The policy `[..., S, A]` that takes `action` `[..., S]` out of `actions`."""
    return (action[..., None] == torch.arange(actions, device=action.device)).double()


def chain(model: Model | Dense, policy: Tensor) -> Chain:
    """Transitions and mean rewards under a policy `[..., S, A]` (Puterman 1994, 5.6.2).

    Raises:
        ValueError: a row of the policy is no distribution.
    """
    check_policy(policy, model.size)
    return under(model, policy)


def under(model: Model | Dense, policy: Tensor) -> Chain:
    """`chain` of a policy known to be sound."""
    if isinstance(model, Dense):
        reward = dot(policy, model.reward)
        return Chain((policy[..., None] * model.kernel).sum(-2), reward)
    weight = policy[..., None] * model.probability
    reward = dot(policy, model.mean_reward)  # in a fixed order, whatever the layout
    outcomes = weight.flatten(-2)
    successor = model.successor.flatten(-2).expand(outcomes.shape)
    kernel = outcomes.new_zeros(*outcomes.shape[:-1], model.size[0])
    return Chain(kernel.scatter_add(-1, successor, outcomes), reward)
