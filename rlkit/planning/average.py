"""Average reward: gain and bias by damped relative value iteration."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Planned

DAMPING = 0.9  # weight of the kernel beside the identity, which makes every chain aperiodic


class Gain(NamedTuple):
    """Optimal gain and bias."""

    gain: Tensor  # [...] reward per step
    bias: Tensor  # [..., S], centred: largest plus smallest is zero
    q: Tensor  # [..., S, A], r + P bias


def gain_and_bias(model: Planned, tolerance: float = 1e-12, sweeps: int = 1_000_000) -> Gain:
    """Optimal gain and bias of communicating models.

    Raises:
        ValueError: no convergence in `sweeps` sweeps.
    """
    states, _ = model.size
    value = model.lookahead(torch.zeros(states, dtype=torch.float64))[..., 0] * 0
    for _ in range(sweeps):
        best = model.lookahead(value).amax(-1)
        step = best - value
        if bool((step.amax(-1) - step.amin(-1) < tolerance).all()):
            gain = (step.amax(-1) + step.amin(-1)) / 2
            bias = value - (value.amax(-1, keepdim=True) + value.amin(-1, keepdim=True)) / 2
            return Gain(gain, bias, model.lookahead(bias))
        value = value + DAMPING * (step - step[..., :1])
    raise ValueError(f"no gain after {sweeps} sweeps: the model may not be communicating")
