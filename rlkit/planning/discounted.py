"""Discounted reward: policy iteration."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.validation import check_real


class Solution(NamedTuple):
    """Optimal values of an infinite horizon."""

    value: Tensor  # [..., S]
    q: Tensor  # [..., S, A]


def policy_iteration(model: Model | Dense, gamma: float) -> Solution:
    """Optimal discounted values by Howard's policy iteration, exact up to rounding.

    Raises:
        ValueError: `gamma` outside [0, 1).
    """
    check_real("gamma", gamma, 0, 1, open_high=True)
    dense = model.dense() if isinstance(model, Model) else model
    states = dense.size[0]
    identity = torch.eye(states, dtype=torch.float64, device=dense.kernel.device)
    policy = dense.reward.argmax(-1)
    while True:
        at = policy[..., None]
        reward = dense.reward.gather(-1, at).squeeze(-1)
        rows = at[..., None].expand(*at.shape, states)
        kernel = dense.kernel.gather(-2, rows).squeeze(-2)
        value = torch.linalg.solve(identity - gamma * kernel, reward)
        q = dense.lookahead(value, gamma)
        better = q.amax(-1) > q.gather(-1, at).squeeze(-1) + 1e-12 * (1 + value.abs())
        if not bool(better.any()):
            return Solution(q.amax(-1), q)
        policy = torch.where(better, q.argmax(-1), policy)
