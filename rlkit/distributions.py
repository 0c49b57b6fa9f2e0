"""Laws on finitely many numbers, batched: quantiles, both tails, distances, projections.

A tail of mass `tau` is called lower where it holds the smallest values and upper where it holds
the largest ones. Leading dimensions are batch dimensions throughout.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.validation import check_integer, check_real

ROUNDING = 1e-9  # by how much probabilities may miss 1
LEVEL = 1e-12  # a cumulative probability this close to a level reaches it


class Law(NamedTuple):
    """Probabilities of real values; values may repeat and come in any order."""

    value: Tensor  # [..., K] float64
    probability: Tensor  # [..., K] float64, rows sum to 1


def law(value: Tensor, probability: Tensor) -> Law:
    """A checked law of `[..., K]` values and probabilities, which broadcast.

    Raises:
        ValueError: values that are not finite, or rows that are no distribution.
    """
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"value holds {value[~torch.isfinite(value)][0].item()}: finite needed")
    total = probability.sum(-1)
    if bool((probability < 0).any()) or not bool(((total - 1).abs() <= ROUNDING).all()):
        worst = total.reshape(-1)[(total.reshape(-1) - 1).abs().argmax()].item()
        least = probability.min().item()
        raise ValueError(
            f"probability sums to {worst:.9g}, least entry {least:.9g}; accepted: rows in [0, 1] "
            "that sum to 1"
        )
    return Law(*torch.broadcast_tensors(value.double(), probability.double()))


def check_level(tau: float) -> None:
    """Accept the mass of a tail, in (0, 1].

    Raises:
        ValueError: anything else.
    """
    check_real("tau", tau, 0, 1, open_low=True)


def expectation(of: Law, f: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`E f(X)`, the mean without `f`: `[...]`."""
    value = of.value if f is None else f(of.value)
    return (of.probability * value).sum(-1)


def variance(of: Law) -> Tensor:
    """`E (X - E X)^2`, `[...]`."""
    centred = of.value - expectation(of)[..., None]
    return (of.probability * centred * centred).sum(-1)


def ordered(of: Law) -> Law:
    """The same law, values ascending; values and probabilities broadcast."""
    shape = torch.broadcast_shapes(of.value.shape, of.probability.shape)
    value, order = torch.sort(of.value.expand(shape), dim=-1, stable=True)
    return Law(value, of.probability.expand(shape).gather(-1, order))


def quantile(of: Law, level: Tensor) -> Tensor:
    """Smallest value with cumulative probability of at least `level` `[Q]`; `[..., Q]`."""
    value, probability = ordered(of)
    reached = torch.cumsum(probability, -1)[..., None, :] >= level[:, None] - LEVEL
    first = torch.where(reached.any(-1), reached.long().argmax(-1), value.shape[-1] - 1)
    return value.gather(-1, first)


def cvar_lower(of: Law, tau: float) -> Tensor:
    """Mean of the smallest values, of total mass `tau` in (0, 1]: `[...]`.

    Rockafellar and Uryasev (2000): also `max_b { b - E (b - X)_+ / tau }`.

    Raises:
        ValueError: `tau` outside its range.
    """
    check_level(tau)
    value, probability = ordered(of)
    after = torch.cumsum(probability, -1)
    before = after - probability
    share = after.clamp(max=tau) - before.clamp(max=tau)
    return (share * value).sum(-1) / share.sum(-1)


def cvar_upper(of: Law, tau: float) -> Tensor:
    """Mean of the largest values, of total mass `tau` in (0, 1]: `[...]`.

    Raises:
        ValueError: `tau` outside its range.
    """
    return -cvar_lower(Law(-of.value, of.probability), tau)


def wasserstein1(first: Law, second: Law) -> Tensor:
    """Area between the two cumulative distribution functions: `[...]`.

    The laws may have different numbers of values; batch dimensions broadcast.
    """
    shape = torch.broadcast_shapes(first.value.shape[:-1], second.value.shape[:-1])
    parts = [part.expand(*shape, part.shape[-1]) for pair in (first, second) for part in pair]
    value = torch.cat([parts[0], parts[2]], -1)
    mass = torch.cat([parts[1], -parts[3]], -1)
    value, mass = ordered(Law(value, mass))
    height = torch.cumsum(mass, -1)[..., :-1].abs()
    return (height * value.diff(dim=-1)).sum(-1)


def midpoints(count: int) -> Tensor:
    """Quantile levels `(i + 1/2) / count`, `[count]`.

    Raises:
        ValueError: `count` below 1.
    """
    check_integer("count", count, 1)
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def quantile_project(of: Law, count: int) -> Law:
    """Nearest law on `count` equally likely values, `[..., count]`.

    Nearest in the first Wasserstein distance: the quantiles at the midpoints, Dabney et al.
    (2018), lemma 2.
    """
    value = quantile(of, midpoints(count).to(of.value.device))
    return Law(value, torch.full_like(value, 1 / count))


def mixture(laws: Law, weight: Tensor) -> Law:
    """Law drawn from one of `P` laws `[..., P, K]` with probabilities `weight` `[..., P]`."""
    mass = laws.probability * weight[..., None]
    return Law(laws.value.flatten(-2), mass.flatten(-2))
