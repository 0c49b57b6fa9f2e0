"""Advantages of whole responses and of their tokens."""

import torch
from torch import Tensor

STD_FLOOR = 1e-4  # added to a group's standard deviation


def leave_one_out(reward: Tensor, group: int) -> Tensor:
    """Reward minus the mean of the other responses to the same prompt, `[N, B]`.

    Ahmadian et al. (2024), RLOO: neighbours in groups of `group` >= 2.
    """
    grouped = reward.unflatten(1, (-1, group))
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred * (group / (group - 1))).flatten(1)


def group_normalised(reward: Tensor, group: int, scaled: bool = True) -> Tensor:
    """Reward centred, and scaled by its standard deviation, within each group, `[N, B]`.

    Shao et al. (2024), GRPO; without scaling Liu et al. (2025).
    """
    grouped = reward.unflatten(1, (-1, group))
    centred = grouped - grouped.mean(-1, keepdim=True)
    if scaled:
        centred = centred / (grouped.std(-1, keepdim=True) + STD_FLOOR)
    return centred.flatten(1)


def generalised_advantage(reward: Tensor, value: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates `[N, B, H]` of Schulman et al. (2016), equation 16.

    Args:
        reward: `[N, B, H]`.
        value: `[N, B, H]`; a response is worth nothing after its end.
        discount: gamma.
        trace: lambda.
    """
    following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    error = reward + discount * following - value
    total, out = torch.zeros_like(error[..., 0]), []
    for time in reversed(range(error.shape[-1])):
        total = error[..., time] + discount * trace * total
        out.append(total)
    return torch.stack(out[::-1], -1)


def suffix_sum(values: Tensor) -> Tensor:
    """Sums over this and all later tokens, `[N, B, H]`."""
    return values.flip(-1).cumsum(-1).flip(-1)


def clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate loss of each token: Schulman et al. (2017), equation 7, negated."""
    ratio = torch.exp(log_ratio)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, bounded * advantage)
