"""Importance ratios between checked policies."""

import torch
from torch import Tensor

from rlkit.planning.policies import check_policy
from rlkit.traces.rules import find

WITHOUT_RATIOS = ("q_lambda", "tree_backup")  # rules that read no behaviour probability


def importance_ratios(target: Tensor, behaviour: Tensor, rule: str) -> Tensor:
    """`pi / mu` `[..., S, A]`, 0 where the behaviour never takes the action.

    Args:
        target: `[..., S, A]`.
        behaviour: `[..., S, A]`.
        rule: one of `RULES`.

    Raises:
        ValueError: rows that are no distributions, or an infinite ratio under a rule that reads
            ratios; names state and action.
    """
    find(rule)
    for name, policy in (("target", target), ("behaviour", behaviour)):
        check_policy(policy, (target.shape[-2], target.shape[-1]), name)
    never = behaviour == 0
    infinite = never & (target > 0)
    if rule not in WITHOUT_RATIOS and bool(infinite.any()):
        place = infinite.nonzero()[0].tolist()
        raise ValueError(
            f"behaviour of state {place[-2]}, action {place[-1]} is 0 where the target is "
            f"{target[tuple(place)].item():.3g}: infinite importance ratio under rule {rule!r}; "
            "accepted: behaviour > 0 wherever target > 0"
        )
    return torch.where(never, 0.0, target / torch.where(never, 1.0, behaviour))
