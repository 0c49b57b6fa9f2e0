"""Adam for parameters that carry a replica dimension: every replica has its own moments."""

from typing import NamedTuple

import torch
from torch import Tensor

DECAY = (0.9, 0.999)
EPSILON = 1e-8


class Adam(NamedTuple):
    """Moments of one parameter `[N, ...]`."""

    mean: Tensor  # [N, ...]
    square: Tensor  # [N, ...]
    steps: Tensor  # [N] taken so far


def start_adam(parameter: Tensor) -> Adam:
    """No step taken yet."""
    steps = torch.zeros_like(parameter.flatten(1)[:, 0])
    return Adam(torch.zeros_like(parameter), torch.zeros_like(parameter), steps)


def descend(parameter: Tensor, gradient: Tensor, state: Adam, rate: float) -> tuple[Tensor, Adam]:
    """One step of Kingma and Ba (2015), Algorithm 1, at step size `rate`."""
    steps = state.steps + 1
    mean = DECAY[0] * state.mean + (1 - DECAY[0]) * gradient
    square = DECAY[1] * state.square + (1 - DECAY[1]) * gradient * gradient
    wide = steps.reshape(-1, *[1] * (parameter.dim() - 1))
    unbiased = [
        moment / (1 - torch.exp(wide * torch.log(torch.full_like(wide, decay))))
        for moment, decay in zip((mean, square), DECAY, strict=True)
    ]
    step = unbiased[0] / (torch.sqrt(unbiased[1]) + EPSILON)
    return parameter - rate * step, Adam(mean, square, steps)
