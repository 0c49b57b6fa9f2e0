"""A causal transformer for `N` replicas at once, with and without a cache of keys and values.

Decoder of GPT-2 (Radford et al. 2019): learned positions, layer norm before each branch and at
the end, GELU, biases everywhere. Embeddings and heads belong to the caller.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.networks.linear import Affine, affine, start_affine, start_table
from rlkit.random import Rng

DEVIATION = 0.02  # of initial weights, as in GPT-2
EXPANSION = 4  # width of the hidden layer over that of the stream


class Norm(NamedTuple):
    """What layer norm multiplies with and adds."""

    scale: Tensor  # [N, D]
    shift: Tensor  # [N, D]


class Layer(NamedTuple):
    """Attention and a perceptron, each on the normed stream and added to it."""

    before: Norm
    attend: Affine  # D -> 3 D: queries, keys and values, head by head
    mix: Affine  # D -> D
    between: Norm
    up: Affine  # D -> 4 D
    down: Affine  # 4 D -> D


class Transformer(NamedTuple):
    """Parameters; leaves lead with `N`."""

    position: Tensor  # [N, T, D]
    layers: tuple[Layer, ...]
    last: Norm


class Cache(NamedTuple):
    """Keys and values of the positions so far. The batch is innermost.

    Attention of one query to few keys is then elementwise over contiguous memory; as products of
    tiny matrices, one a response and head, it takes several times as long.
    """

    key: tuple[Tensor, ...]  # of each layer, [N, T, heads, D / heads, B]
    value: tuple[Tensor, ...]


def start_transformer(rng: Rng, length: int, width: int, layers: int) -> Transformer:
    """Initial weights of GPT-2: those that end a branch are smaller by `sqrt(2 layers)`.

    Args:
        rng: stream of the draws.
        length: largest number of positions `T`.
        width: of the stream, `D`.
        layers: their number, >= 1.
    """
    ending = DEVIATION * (2 * layers) ** -0.5
    one = torch.ones(rng.n, width, device=rng.device)
    norm = Norm(one, torch.zeros_like(one))

    def layer(index: int) -> Layer:
        hidden, here = EXPANSION * width, f"layer {index}"
        return Layer(
            norm,
            start_affine(rng, f"{here}/attend", width, 3 * width, DEVIATION),
            start_affine(rng, f"{here}/mix", width, width, ending),
            norm,
            start_affine(rng, f"{here}/up", width, hidden, DEVIATION),
            start_affine(rng, f"{here}/down", hidden, width, ending),
        )

    position = start_table(rng, "position", length, width, DEVIATION)
    return Transformer(position, tuple(layer(i) for i in range(layers)), norm)


def forward(parameters: Transformer, x: Tensor, heads: int) -> Tensor:
    """Normed stream after the last layer, `[N, B, T, D]`.

    Args:
        parameters: of the network.
        x: embedded inputs `[N, B, T, D]`; position `t` sees those up to `t`.
        heads: of attention, a divisor of `D`.
    """
    x = x + parameters.position[:, None, : x.shape[2]]
    for layer in parameters.layers:
        mixed = attention(affine(layer.attend, normed(layer.before, x)), heads)
        x = feed(layer, x + affine(layer.mix, mixed))
    return normed(parameters.last, x)


def attention(attend: Tensor, heads: int) -> Tensor:
    """Causal attention with queries, keys and values `[N, B, T, 3 D]`, `[N, B, T, D]`."""
    n, batch, length, _ = attend.shape
    split = attend.reshape(n * batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = split.unbind(0)
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).reshape(n, batch, length, -1)


def empty_cache(parameters: Transformer, batch: int, heads: int) -> Cache:
    """Room for all positions of a batch."""
    n, length, width = parameters.position.shape
    shape = (n, length, heads, width // heads, batch)

    def room() -> tuple[Tensor, ...]:
        return tuple(parameters.position.new_empty(shape) for _ in parameters.layers)

    return Cache(room(), room())


def forward_step(
    parameters: Transformer, x: Tensor, cache: Cache, position: int, heads: int
) -> Tensor:
    """`forward` at one position, `[N, B, D]`, when those before it are in the cache.

    Args:
        parameters: of the network.
        x: embedded input `[N, B, D]`.
        cache: receives this position's keys and values, in place.
        position: in `0 .. T - 1`.
        heads: of attention, a divisor of `D`.
    """
    x = x + parameters.position[:, None, position]
    for layer, keys, values in zip(parameters.layers, *cache, strict=True):
        # Transposed, with the batch innermost as in the cache: [N, 3 D, B].
        weight, bias = layer.attend.weight.mT, layer.attend.bias[..., None]
        attend = torch.baddbmm(bias, weight, normed(layer.before, x).mT)
        query, keys[:, position], values[:, position] = attend.unflatten(1, (3, heads, -1)).unbind(
            1
        )
        score = (keys[:, : position + 1] * query[:, None]).sum(3) * query.shape[2] ** -0.5
        share = torch.softmax(score, 1)[:, :, :, None]
        mixed = (values[:, : position + 1] * share).sum(1).flatten(1, 2)
        x = feed(layer, x + affine(layer.mix, mixed.mT))
    return normed(parameters.last, x)


def feed(layer: Layer, x: Tensor) -> Tensor:
    """The second branch of a layer, added to the stream `[N, ..., D]`."""
    hidden = functional.gelu(affine(layer.up, normed(layer.between, x)))
    return x + affine(layer.down, hidden)


def normed(norm: Norm, x: Tensor) -> Tensor:
    """Layer norm over the last dimension of `x` `[N, ..., D]`."""
    shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
    centred = functional.layer_norm(x, x.shape[-1:])
    return torch.addcmul(norm.shift.reshape(shape), centred, norm.scale.reshape(shape))
