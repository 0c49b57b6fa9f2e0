"""Perceptrons, one for each replica."""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor
from torch.nn import functional

from rlkit.networks.linear import Affine, affine, start_affine
from rlkit.random import Rng

Perceptron = tuple[Affine, ...]


def start_perceptron(rng: Rng, sizes: tuple[int, ...]) -> Perceptron:
    """Weights from N(0, 1 / inputs), but 0 in the last map: it starts as the zero function.

    Args:
        rng: stream of the draws.
        sizes: inputs, hidden layers, outputs; two of them make an affine map.
    """
    last = len(sizes) - 2
    return tuple(
        start_affine(rng, f"layer {i}", inputs, outputs, inputs**-0.5 if i < last else 0.0)
        for i, (inputs, outputs) in enumerate(pairwise(sizes))
    )


def perceptron(
    parameters: Perceptron, x: Tensor, activation: Callable[[Tensor], Tensor] = functional.gelu
) -> Tensor:
    """Outputs `[N, ..., O]` at `x` `[N, ..., I]`."""
    for layer in parameters[:-1]:
        x = activation(affine(layer, x))
    return affine(parameters[-1], x)
