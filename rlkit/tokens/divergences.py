"""How far laws of responses lie apart: estimates of the divergence, and coverage."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton
from rlkit.tokens.oracle import following


class KLEstimates(NamedTuple):
    """Single-sample estimates of `KL(pi || pi_ref)`, all of one shape."""

    k1: Tensor  # log-ratio; unbiased
    k2: Tensor  # half its square; biased
    k3: Tensor  # exp(-u) - 1 + u; unbiased, never negative


def kl_estimates(log_ratio: Tensor) -> KLEstimates:
    """Estimates from `u = log pi - log pi_ref` at samples of `pi` (Schulman 2020).

    As losses differentiated through `log pi` they follow other gradients: that of `k1` averages to
    0, that of `k2` to the gradient of `KL(pi || pi_ref)`, that of `k3` to that of
    `KL(pi_ref || pi)`.
    """
    return KLEstimates(log_ratio, log_ratio * log_ratio / 2, torch.expm1(-log_ratio) + log_ratio)


def state_coverage(target: Tensor, data: Tensor) -> Tensor:
    """Largest ratio of occupancies `[N, H + 1, Z]`, `[N]`: 1 or more, infinite without support.

    `C_ST` of Chang et al. (2024), "Dataset reset policy optimization for RLHF".
    """
    ratio = torch.where(target > 0, target / data, torch.zeros_like(target))
    return ratio.flatten(1).amax(1)


def response_coverage(automaton: Automaton, target: Tensor, data: Tensor) -> Tensor:
    """Largest ratio of the probabilities of a response to the same prompt, `[N]`.

    `C_TR` of Chang et al. (2024), over all responses, by dynamic programming.

    Args:
        automaton: the token MDP.
        target: policy, log-probabilities `[N, H, Z, V]`.
        data: policy that wrote the data.
    """
    longest = torch.zeros_like(target[:, 0, :, 0])
    for time in reversed(range(automaton.horizon)):
        ratio = target[:, time] - data[:, time]
        total = ratio + following(automaton, longest, time)
        longest = torch.where(target[:, time] > -torch.inf, total, -torch.inf).amax(-1)
    asked = automaton.prompt > 0
    first = longest.gather(1, automaton.origin)
    return torch.where(asked, first, -torch.inf).amax(1).exp()


def mixed_coverage(coverage: Tensor, share: float) -> Tensor:
    """Coverage by data of which a `share` comes from the target itself; at most `1 / share`."""
    return 1 / ((1 - share) / coverage + share)
