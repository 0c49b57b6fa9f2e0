"""One-dimensional convolutional networks, one for each replica.

All replicas are one grouped convolution: at widths up to 48 it is faster on a processor than the
products of unfolded windows, backwards by a factor of two.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.networks.linear import Affine, affine, start_affine
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.random import Rng
from rlkit.validation import check_integer

WINDOW = 9  # positions a filter sees
DILATIONS = (1, 2, 4)  # of the residual layers


class Filters(NamedTuple):
    """Filters of one layer."""

    weight: Tensor  # [N, O, I, K], K odd
    bias: Tensor  # [N, O]


class Trunk(NamedTuple):
    """A layer that widens the input and residual ones of growing dilation."""

    widen: Filters  # I -> H
    residual: tuple[Filters, ...]  # H -> H, dilated 1, 2, 4


class Tagger(NamedTuple):
    """A trunk and an affine head at every position."""

    trunk: Trunk
    head: Affine  # H -> O


class Scorer(NamedTuple):
    """A trunk whose mean over positions is scored by a perceptron."""

    trunk: Trunk
    head: Perceptron  # H -> H -> 1


def start_filters(
    rng: Rng, name: str, inputs: int, outputs: int, window: int = WINDOW, gain: float = 1.0
) -> Filters:
    """Weights from N(0, gain² / (inputs window)), biases 0.

    Raises:
        ValueError: `window` is even or < 1: such filters have no middle.
    """
    check_integer("window", window, 1)
    if window % 2 == 0:
        raise ValueError(f"window = {window} is even; accepted: odd integers >= 1")
    weight = rng.normal(name, outputs, inputs, window) * (gain * (inputs * window) ** -0.5)
    return Filters(weight.contiguous(), torch.zeros(rng.n, outputs, device=rng.device))


def convolve(filters: Filters, x: Tensor, dilation: int = 1) -> Tensor:
    """Correlation of `x` `[N, B, L, I]`, zero outside, with the filters, `[N, B, L, O]`.

    Memory stays `[B, N, O, L]`, so that layers after each other move nothing.
    """
    n, outputs, _, window = filters.weight.shape
    flat = x.permute(1, 0, 3, 2).flatten(1, 2)
    padding = dilation * (window // 2)
    out = functional.conv1d(
        flat,
        filters.weight.flatten(0, 1),
        filters.bias.flatten(),
        padding=padding,
        dilation=dilation,
        groups=n,
    )
    return out.unflatten(1, (n, outputs)).permute(1, 0, 3, 2)


def start_trunk(rng: Rng, inputs: int, width: int) -> Trunk:
    """Initial weights of a trunk.

    Args:
        rng: stream of the draws.
        inputs: channels of the input.
        width: of the stream, `H >= 1`.

    Raises:
        ValueError: `width` < 1.
    """
    check_integer("width", width, 1)
    residual = tuple(start_filters(rng, f"residual {d}", width, width) for d in DILATIONS)
    return Trunk(start_filters(rng, "widen", inputs, width), residual)


def stream(parameters: Trunk, x: Tensor) -> Tensor:
    """Features `[N, B, L, H]` of `x` `[N, B, L, I]`; each sees 32 positions to either side."""
    x = functional.silu(convolve(parameters.widen, x))
    for filters, dilation in zip(parameters.residual, DILATIONS, strict=True):
        x = x + functional.silu(convolve(filters, x, dilation))
    return x


def start_tagger(rng: Rng, inputs: int, width: int, outputs: int, zero: bool = False) -> Tagger:
    """Initial weights; with `zero` the head is 0 and the network starts as the zero function.

    Raises:
        ValueError: `width` < 1.
    """
    trunk = start_trunk(rng, inputs, width)
    return Tagger(trunk, start_affine(rng, "head", width, outputs, 0.0 if zero else width**-0.5))


def tag(parameters: Tagger, x: Tensor) -> Tensor:
    """Outputs `[N, B, L, O]` at the positions of `x` `[N, B, L, I]`."""
    return affine(parameters.head, stream(parameters.trunk, x))


def start_scorer(rng: Rng, inputs: int, width: int) -> Scorer:
    """Initial weights; the score starts as 0.

    Raises:
        ValueError: `width` < 1.
    """
    return Scorer(start_trunk(rng, inputs, width), start_perceptron(rng, (width, width, 1)))


def score(parameters: Scorer, x: Tensor) -> Tensor:
    """Scores `[N, B]` of `x` `[N, B, L, I]`."""
    return perceptron(parameters.head, stream(parameters.trunk, x).mean(2)).squeeze(-1)
