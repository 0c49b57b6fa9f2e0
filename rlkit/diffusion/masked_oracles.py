"""Exact laws, soft values, optimal kernels and objectives of the chains on masked sequences.

Everything is enumerated: `5^L` states, and the `9^L` pairs of a state and a later one. A policy
is a table of laws `[N, 5^L, L, 4]` of all positions at all states, or one a time,
`[N, T, 5^L, L, 4]` with times 1, ..., T; only its masked positions count. Values and laws are
indexed by the code of the state.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, MASK, check_rows, clean_codes, place, sequences
from rlkit.diffusion.masked_chains import step_factors
from rlkit.validation import check_integer, check_real

PAIR_LENGTH = 6  # 9^6 pairs are 4 MB a replica


@dataclass(frozen=True)
class Pairs:
    """All pairs of a state and one that differs from it only by revealed tokens.

    Attributes:
        source: `[9^L]` code of the earlier state.
        target: `[9^L]` code of the later state.
        factor: `[L, 9^L]` place of each position's next token in a table `[5^L, L, 5]`.
    """

    source: Tensor
    target: Tensor
    factor: Tensor


def pairs_on(policy: Tensor) -> Pairs:
    """The pairs of sequences as long as those of laws `[..., 5^L, L, 4]`, on their device."""
    found = pairs(policy.shape[-2])
    device = policy.device
    return Pairs(found.source.to(device), found.target.to(device), found.factor.to(device))


def states_on(policy: Tensor) -> Tensor:
    """All states `[5^L, L]` of laws `[..., 5^L, L, 4]`, on their device."""
    return sequences(policy.shape[-2], LETTERS + 1).to(policy.device)


@cache
def pairs(length: int) -> Pairs:
    """The `9^length` pairs; int64 tensors `[9^length]`.

    Raises:
        ValueError: `length` outside `[1, 6]`.
    """
    check_integer("length", length, 1, PAIR_LENGTH)
    digit = sequences(length, 2 * LETTERS + 1)  # digits below 4: kept; a + 4: mask to a or mask
    source, target = digit.clamp(max=MASK), torch.where(digit < MASK, digit, digit - MASK)
    first, last = source @ place(length), target @ place(length)
    factor = (first[:, None] * length + torch.arange(length)) * (LETTERS + 1) + target
    return Pairs(first, last, factor.T.contiguous())


def pair_probability(policy: Tensor, t: int) -> Tensor:
    """Probability of each pair as a parallel step from time `t`, `[N, 9^L]`.

    Args:
        policy: `[N, 5^L, L, 4]`, the laws used at time `t`.
        t: time, >= 1.
    """
    factors = step_factors(states_on(policy)[None], policy, t).flatten(1)
    probability = torch.ones((), dtype=policy.dtype, device=policy.device)
    for index in pairs_on(policy).factor:
        probability = probability * factors[:, index]
    return probability


@dataclass(frozen=True)
class ChainLaw:
    """What a chain of one policy does, relative to another one.

    Attributes:
        law: `[N, 4^L]` law of its sequences.
        path_kl: `[N]` divergence of its paths from the reference's, in nats.
    """

    law: Tensor
    path_kl: Tensor


def check_policies(policy: Tensor, reference: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Both as tables with a time `[N, steps, 5^L, L, 4]`.

    Raises:
        ValueError: another shape, or a law of a masked position that does not sum to 1.
    """
    both = []
    for name, table in (("policy", policy), ("reference", reference)):
        timed = table[:, None] if table.dim() == 4 else table
        length = table.shape[-2] if table.dim() > 1 else 0
        size = ((LETTERS + 1) ** length, length, LETTERS)
        if timed.dim() != 5 or timed.shape[2:] != size or timed.shape[1] not in (1, steps):
            raise ValueError(
                f"{name} has shape {tuple(table.shape)}, accepted: [N, 5^L, L, 4] or "
                f"[N, {steps}, 5^L, L, 4]"
            )
        check_rows(name, timed[:, :, sequences(length, LETTERS + 1) == MASK])
        both.append(timed.expand(-1, steps, -1, -1, -1))
    return both[0], both[1]


def masked_divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Sum over masked positions of `KL(policy || reference)`, `[N, 5^L]`.

    Args:
        policy: `[N, 5^L, L, 4]`.
        reference: `[N, 5^L, L, 4]`.
    """
    masked = states_on(policy) == MASK
    each = torch.where(policy > 0, policy * (policy.log() - reference.log()), 0.0)
    return torch.where(masked, each.sum(3), 0.0).sum(2)


def _start(policy: Tensor) -> Tensor:
    """All mass on the masked state, `[N, 5^L]`."""
    mass = policy.new_zeros(policy.shape[0], (LETTERS + 1) ** policy.shape[-2])
    mass[:, -1] = 1.0
    return mass


def parallel_law(policy: Tensor, reference: Tensor, steps: int) -> ChainLaw:
    """Law and path divergence of the chain with `steps` parallel steps.

    The divergence is the expectation over paths of
    `sum_t (1 / t) sum_i 1{x_t^i masked} KL(policy_i || reference_i)`.

    Args:
        policy: `[N, 5^L, L, 4]` or `[N, steps, 5^L, L, 4]`.
        reference: the same; `N` may be 1.
        steps: `T >= 1`.

    Raises:
        ValueError: `steps` < 1, `L` above 6, or tables of another shape.
    """
    check_integer("steps", steps, 1)
    policy, reference = check_policies(policy, reference, steps)
    edges, mass = pairs_on(policy), _start(policy)
    divergence = mass.new_zeros(mass.shape[0])
    for t in range(steps, 0, -1):
        now = policy[:, t - 1]
        divergence = divergence + (mass * masked_divergence(now, reference[:, t - 1])).sum(1) / t
        moved = mass[:, edges.source] * pair_probability(now, t)
        mass = torch.zeros_like(mass).index_add(1, edges.target, moved)
    return ChainLaw(mass[:, clean_codes(policy.shape[3])], divergence)


def single_law(policy: Tensor, reference: Tensor) -> ChainLaw:
    """Law and path divergence of the chain that reveals one position a step.

    Args:
        policy: `[N, 5^L, L, 4]` or `[N, L, 5^L, L, 4]`, time being the number of masks.
        reference: the same; `N` may be 1.

    Raises:
        ValueError: `L` above 6, or tables of another shape.
    """
    length = policy.shape[-2]
    policy, reference = check_policies(policy, reference, length)
    check_integer("length", length, 1, PAIR_LENGTH)
    states, mass = states_on(policy), _start(policy)
    masked = states == MASK
    target = _reveals(length).clamp(min=0).flatten().to(policy.device)
    divergence = mass.new_zeros(mass.shape[0])
    for t in range(length, 0, -1):
        now, share = policy[:, t - 1], mass / t
        divergence = divergence + (share * masked_divergence(now, reference[:, t - 1])).sum(1)
        moved = torch.where(masked[..., None], share[..., None, None] * now, 0.0)
        mass = torch.zeros_like(mass).index_add(1, target, moved.flatten(1))
    return ChainLaw(mass[:, clean_codes(length)], divergence)


def _reveals(length: int) -> Tensor:
    """Code after revealing each token at each masked position, `[5^L, L, 4]`, negative else."""
    states, weight = sequences(length, LETTERS + 1), place(length)
    code = (states @ weight)[:, None, None] + (torch.arange(LETTERS) - MASK) * weight[:, None]
    return torch.where((states == MASK)[..., None], code, -1)


def parallel_values(reference: Tensor, reward: Tensor, alpha: float, steps: int) -> Tensor:
    """Soft values of the chain with parallel steps, `[N, steps + 1, 5^L]`, time first 0.

    `V_0 = r` and `V_t(x) = alpha log E[e^{V_{t-1} / alpha} | x]` under the reference. Minus
    infinity at time 0 where a mask is left. The optimal value `J*` is that of the masked state
    at time `steps`, `[:, -1, -1]`.

    Args:
        reference: `[N, 5^L, L, 4]` laws of the exact denoiser.
        reward: `[N, 4^L]` or `[1, 4^L]`.
        alpha: temperature, > 0.
        steps: `T >= 1`.

    Raises:
        ValueError: `alpha <= 0`, `steps` < 1 or `L` above 6.
    """
    check_real("alpha", alpha, 0, open_low=True)
    check_integer("steps", steps, 1)
    length = reference.shape[2]
    edges, rows = pairs_on(reference), max(len(reference), len(reward))
    value = reference.new_full((rows, reference.shape[1]), -torch.inf)
    clean = clean_codes(length).to(reference.device)
    value = value.index_copy(1, clean, reward.expand(rows, -1).to(value))
    values = [value]
    for t in range(1, steps + 1):
        log = pair_probability(reference, t).log() + values[-1][:, edges.target] / alpha
        values.append(alpha * _log_sums(log, edges.source, reference.shape[1]))
    return torch.stack(values, 1)


def _log_sums(log: Tensor, group: Tensor, size: int) -> Tensor:
    """Log of the sum of `exp(log)` `[N, E]` over each group `[E]`, `[N, size]`."""
    empty = log.new_full((log.shape[0], size), -torch.inf)
    top = empty.scatter_reduce(1, group.expand_as(log), log, "amax")
    scaled = (log - top.gather(1, group.expand_as(log))).exp()
    return top + torch.zeros_like(top).index_add(1, group, scaled).log()


def parallel_optimal(reference: Tensor, values: Tensor, alpha: float, t: int) -> Tensor:
    """Optimal law of the step from time `t`, of each pair, `[N, 9^L]`.

    `p*(y | x)` is the reference times `e^{(V_{t-1}(y) - V_t(x)) / alpha}`; it couples positions,
    so no table of laws a position reaches it.

    Args:
        reference: `[N, 5^L, L, 4]`.
        values: `[N, T + 1, 5^L]` of `parallel_values` at the same `alpha`.
        alpha: temperature, > 0.
        t: in `[1, T]`.

    Raises:
        ValueError: `alpha` or `t` outside its range.
    """
    check_real("alpha", alpha, 0, open_low=True)
    check_integer("t", t, 1, values.shape[1] - 1)
    edges = pairs(reference.shape[2])
    gain = values[:, t - 1, edges.target] - values[:, t, edges.source]
    return pair_probability(reference, t) * (gain / alpha).exp()


def single_optimal(reference: Tensor, value: Tensor, alpha: float) -> Tensor:
    """Optimal law of revealing each token at each position, `[N, 5^L, L, 4]`, 0 where unmasked.

    `p*(x' | x)` is the reference times `e^{(V(x') - V(x)) / alpha}`.

    Args:
        reference: `[N, 5^L, L, 4]` laws of the exact denoiser.
        value: `[N, 5^L]` of `rlkit.diffusion.masked_tasks.tilt` at the same `alpha`.
        alpha: temperature, > 0.

    Raises:
        ValueError: `alpha <= 0` or `L` above 10.
    """
    check_real("alpha", alpha, 0, open_low=True)
    length = reference.shape[2]
    masked = states_on(reference) == MASK
    share = masked.double() / masked.sum(1, keepdim=True).clamp(min=1)
    gain = value[:, _reveals(length).clamp(min=0)] - value[:, :, None, None]
    law = share[..., None] * reference * (gain / alpha).exp()
    return torch.where(masked[..., None], law, 0.0)


def objective(chain: ChainLaw, reward: Tensor, alpha: float) -> Tensor:
    """Expected reward minus `alpha` times the path divergence, `[N]`.

    Args:
        chain: of `parallel_law` or `single_law`.
        reward: `[N, 4^L]` or `[1, 4^L]`.
        alpha: temperature, >= 0.

    Raises:
        ValueError: `alpha` < 0.
    """
    check_real("alpha", alpha, 0)
    return (chain.law * reward).sum(1) - alpha * chain.path_kl
