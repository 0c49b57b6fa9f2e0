"""Alias tables: a draw from a fixed finite law costs one random word and one look-up.

Walker (1977), built by the sweep of Vose (1991) for all rows at once. Column `k` of a row keeps
outcome `k` with probability `accept` and yields `other` else; columns are equally likely.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.random import MASK

ACCEPT_BITS = 23
WHOLE = 1 << ACCEPT_BITS  # resolution of an acceptance probability
LABEL_BITS = 20  # largest label below 2**20
LABELS = 1 << LABEL_BITS
BLOCK = 4096  # rows built at once


class Alias(NamedTuple):
    """Acceptance probabilities and second outcomes, `[..., K]` each."""

    accept: Tensor  # float64 in [0, 1], a multiple of 1 / WHOLE
    other: Tensor  # int64 in [0, K), the column itself where accept is 1


def alias(probability: Tensor) -> Alias:
    """Alias tables of the rows of `probability` `[..., K]`, float64, rows summing to 1."""
    rows = probability.reshape(-1, probability.shape[-1])
    parts = [sweep(part) for part in rows.split(BLOCK)]  # block by block, to stay in the cache
    accept, other = (
        torch.cat(part).reshape(probability.shape) for part in zip(*parts, strict=True)
    )
    return Alias(accept, other)


def sweep(probability: Tensor) -> Alias:
    """`alias` of `[R, K]`."""
    count = probability.shape[1]
    share = probability.double() * count
    heavy = share >= 1
    order = torch.argsort(heavy.long(), dim=1, stable=True)  # light columns, then heavy ones
    lights = (~heavy).sum(1)
    accept, other = torch.ones_like(share), torch.arange(count).to(order).expand_as(order).clone()
    light, strong = torch.zeros_like(lights), lights.clone()
    rest = pick(share, pick(order, strong))  # what is left of the heavy column in use
    for _ in range(count):
        # A heavy column used up becomes a light one of share `rest`; the next heavy one fills it.
        spent = (rest < 1) & (strong + 1 < count)
        fill = ~spent & (light < lights) & (strong < count)
        column = torch.where(spent, pick(order, strong), pick(order, light))
        giver = torch.where(spent, pick(order, strong + 1), pick(order, strong))
        own = torch.where(spent, rest, pick(share, column))
        live = spent | fill
        put(accept, column, torch.where(live, own, pick(accept, column)))
        put(other, column, torch.where(live, giver, pick(other, column)))
        after = torch.where(spent, pick(share, giver) + rest - 1, rest + own - 1)
        rest = torch.where(live, after, rest)
        strong, light = strong + spent.long(), light + fill.long()
    # In steps of the resolution, and without a second outcome where that would never be drawn.
    accept = torch.round(accept.clamp(0, 1) * WHOLE) / WHOLE
    return Alias(accept, torch.where(accept < 1, other, torch.arange(count).to(other)))


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[r, index[r]]` of `[R, K]`, the last column where `index` is beyond it."""
    return values.gather(1, index.clamp(max=values.shape[1] - 1)[:, None]).squeeze(1)


def put(values: Tensor, index: Tensor, new: Tensor) -> None:
    """Write `new` `[R]` where `pick` reads."""
    values.scatter_(1, index.clamp(max=values.shape[1] - 1)[:, None], new[:, None])


def pack(table: Alias, label: Tensor) -> Tensor:
    """Acceptance and both labels of every column in one int64, `[..., K]`.

    Args:
        table: alias tables `[..., K]`.
        label: what outcome `k` of a row yields, `[..., K]` int64 in `[0, 2**20)`.
    """
    second = label.gather(-1, table.other)
    scaled = torch.round(table.accept * WHOLE).long().clamp(max=WHOLE - 1)
    return (scaled << (2 * LABEL_BITS)) | (label << LABEL_BITS) | second


def first_label(entry: Tensor) -> Tensor:
    """Label of the first outcome of packed columns, `[...]` as `entry`."""
    return (entry >> LABEL_BITS) & (LABELS - 1)


class Draw(NamedTuple):
    """Outcome of `draw`, `[N]` int64 each."""

    label: Tensor
    column: Tensor  # flat position of the column that was hit
    second: Tensor  # 1 where the column's second outcome was drawn


def draw(packed: Tensor, row: Tensor, columns: int, word: Tensor) -> Draw:
    """One outcome a replica.

    Args:
        packed: `[rows * columns]` int64 of `pack`.
        row: `[N]` int64.
        columns: `K`.
        word: `[N]` int64 uniform on `[0, 2**32)`; its bias is at most `K / 2**23`.
    """
    scaled = word * columns
    column = row * columns + (scaled >> 32)
    entry = packed.index_select(0, column)
    fraction = (scaled & MASK) >> (32 - ACCEPT_BITS)
    second = (fraction >= (entry >> (2 * LABEL_BITS))).long()
    label = (entry >> (LABEL_BITS - LABEL_BITS * second)) & (LABELS - 1)
    return Draw(label, column, second)
