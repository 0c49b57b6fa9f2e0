"""Affine maps and tables of embeddings, one for each replica."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.random import Rng


class Affine(NamedTuple):
    """`x -> x weight + bias`."""

    weight: Tensor  # [N, I, O]
    bias: Tensor  # [N, O]


def start_affine(rng: Rng, name: str, inputs: int, outputs: int, deviation: float) -> Affine:
    """Weights from N(0, `deviation`²), 0 for a map to zeros; biases 0."""
    bias = torch.zeros(rng.n, outputs, device=rng.device)
    if deviation == 0:
        return Affine(torch.zeros(rng.n, inputs, outputs, device=rng.device), bias)
    return Affine(start_table(rng, name, inputs, outputs, deviation), bias)


def start_table(rng: Rng, name: str, rows: int, width: int, deviation: float) -> Tensor:
    """Entries from N(0, `deviation`²), `[N, rows, width]`."""
    return (rng.normal(name, rows, width) * deviation).contiguous()


def affine(parameters: Affine, x: Tensor) -> Tensor:
    """The map of `x` `[N, ..., I]`, `[N, ..., O]`."""
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    out = torch.baddbmm(parameters.bias[:, None], rows, parameters.weight)
    return out.reshape(*x.shape[:-1], -1)


def embed(table: Tensor, index: Tensor) -> Tensor:
    """Rows of `table` `[N, V, D]` at `index` `[N, ...]` int64, `[N, ..., D]`."""
    n, rows, _ = table.shape
    first = torch.arange(n, device=index.device) * rows
    flat = index + first.reshape(-1, *[1] * (index.dim() - 1))
    return functional.embedding(flat, table.flatten(0, 1))
