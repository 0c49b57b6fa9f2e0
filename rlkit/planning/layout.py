"""Kernels in memory as dynamic programming wants them.

A sweep reads every kernel once. With the successors outermost in memory, `[S', A * S]`, the
expected next values of all state-action pairs are one row times this matrix. Sweeping a block of
models that fits the cache, again and again, is then several times faster than sweeping all models
in turn. Rows are padded to whole cache lines: products of matrices round differently where
operands or results are not aligned, and a model's bits must not depend on the batch it is in.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeGuard, cast

import torch
from torch import Tensor

from rlkit.models import ROUNDING, Dense, Model, check_rows, where

LINE = 8  # float64 numbers in a cache line
CACHE = 6 * 2**20  # bytes of kernels that are swept together
SPARSE = 8  # from this many states per outcome on, lists are looked up as they are


class Matrix(NamedTuple):
    """Models with the successors outermost; kernels or rewards lead with 1 where shared."""

    kernel: Tensor  # [B or 1, S', W], of which the first A * S columns count
    reward: Tensor  # [B or 1, S, A]

    def following(self, value: Tensor) -> Tensor:
        """`E value(s')`, `[B, S, A]` of `value` `[B, S]`."""
        return expected_next(self.kernel, value, self.reward.shape[-1])

    def lookahead(self, value: Tensor, discount: float = 1.0) -> Tensor:
        """`r(s, a) + discount * E value(s')`, `[B, S, A]` of `value` `[B, S]`."""
        # Not one fused operation: its rounding depends on whether it is vectorised.
        return self.reward + discount * self.following(value)


Backup = Matrix | Model


def expected_next(wide: Tensor, value: Tensor, actions: int) -> Tensor:
    """`E value(s')`, `[B, S, A]` of `value` `[B, S]` and kernels `[B or 1, S', W]` of `matrix`."""
    states = value.shape[1]
    rows = torch.bmm(value[:, None], wide.expand(value.shape[0], -1, -1))
    return narrow(rows[:, 0], states, actions)


def narrow(wide: Tensor, states: int, actions: int) -> Tensor:
    """The columns that count of `[..., W]`, as `[..., S, A]`."""
    return wide[..., : states * actions].unflatten(-1, (actions, states)).mT


def padded(width: int) -> int:
    """The width in whole cache lines."""
    return width + -width % LINE


class Block(NamedTuple):
    """Some replicas, to be swept together."""

    rows: slice
    model: Model | Dense  # theirs as given, without `B` where it is shared
    backup: Backup  # theirs, for `lookahead` of values `[B, S]`


def successor_major(kernel: Tensor) -> Tensor:
    """The same kernels `[..., S, A, S]`, in memory as `[..., S', A * S]` with padded rows.

    Planners use a `Dense` of such kernels without copying them.
    """
    states, actions = kernel.shape[-3:-1]
    wide = matrix(kernel if kernel.dim() == 4 else kernel[None])
    laid = narrow(wide, states, actions).movedim(1, -1)
    return laid if kernel.dim() == 4 else laid[0]


def lying(kernel: Tensor) -> Tensor | None:
    """Kernels `[B, S, A, S]` as `[B, S', W]` without a copy, or None if they lie otherwise."""
    if torch.compiler.is_compiling():  # which knows no storage
        return None
    replicas, states, actions, _ = kernel.shape
    width = padded(states * actions)
    outer, one, across, middle = kernel.stride()
    end = kernel.storage_offset() + (replicas - 1) * outer + states * middle
    room = kernel.untyped_storage().nbytes() // kernel.element_size()
    aligned = outer % LINE == 0 or replicas == 1
    if (middle, across, one) != (width, states, 1) or not aligned or end > room:
        return None
    return kernel.as_strided((replicas, states, width), (outer, width, 1))


def matrix(kernel: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Kernels `[B, S, A, S]` as `[B, S', W]`, rows padded; without a copy if they lie like this.

    A copy is written to the `buffer`, if given: memory at hand is faster than fresh one.
    """
    found = lying(kernel)
    if found is not None:
        return found
    replicas, states, actions, _ = kernel.shape
    width = padded(states * actions)
    wide = kernel.new_zeros(replicas, states, width) if buffer is None else buffer[:replicas]
    narrow(wide, states, actions).copy_(kernel.movedim(-1, 1))
    return wide


def leading(model: Model | Dense, *others: tuple[Tensor, int]) -> tuple[int, ...]:
    """`(N,)` where the model or another tensor is given per replica, `()` where none is.

    Args:
        model: whose shapes are checked.
        others: further tensors, each with its number of dimensions without `N`.

    Raises:
        ValueError: shapes do not fit each other.
    """
    states, actions = model.size
    if isinstance(model, Dense):
        fits = model.kernel.shape[-3:] == (states, actions, states)
        pairs = ((model.kernel, 3), (model.reward, 2))
    else:
        outcomes = model.probability.shape[-1]
        fits = model.successor.shape == model.probability.shape
        fits &= model.reward.shape[-3:] in ((*model.size, outcomes), (*model.size, 1))
        pairs = ((model.probability, 3), (model.reward, 3))
    if not fits:
        text = ", ".join(f"{k} {tuple(v.shape)}" for k, v in model._asdict().items())
        raise ValueError(f"{text}; accepted: the shapes that {type(model).__name__} documents")
    if any(tensor.dtype != torch.float64 for tensor, _ in pairs):
        types = ", ".join(str(tensor.dtype) for tensor, _ in pairs)
        raise ValueError(f"probabilities and rewards are {types}; accepted: torch.float64")
    return replicas(*pairs, *others)


def replicas(*tensors: tuple[Tensor, int]) -> tuple[int, ...]:
    """`(N,)` where a tensor has one dimension more than the number it comes with, else `()`.

    Raises:
        ValueError: another number of dimensions, or numbers of replicas that differ.
    """
    found: set[int] = set()
    for tensor, dimensions in tensors:
        if tensor.dim() not in (dimensions, dimensions + 1):
            raise ValueError(
                f"shape {tuple(tensor.shape)}; accepted: {dimensions} dimensions, after that of "
                "the replicas where each has its own"
            )
        found |= set(tensor.shape[:-dimensions])
    if len(found) > 1:
        raise ValueError(f"{sorted(found)} replicas; accepted: as many everywhere")
    return tuple(found)


def own(tensor: Tensor, rows: slice, dimensions: int) -> Tensor:
    """Those rows of a tensor that has a replica dimension before `dimensions` others, else all."""
    return tensor[rows] if tensor.dim() > dimensions else tensor


def restricted(model: Model | Dense, rows: slice) -> Model | Dense:
    """The model of those rows."""
    if isinstance(model, Dense):
        return Dense(own(model.kernel, rows, 3), own(model.reward, rows, 2))
    return Model(
        own(model.successor, rows, 3),
        own(model.probability, rows, 3),
        own(model.reward, rows, 3),
        own(model.start, rows, 1),
        own(model.terminal, rows, 1),
    )


def blocks(model: Model | Dense, count: int) -> Iterator[Block]:
    """Cut `count` replicas of a model into blocks that fit the cache; a single one on a GPU.

    Raises:
        ValueError: as `backups`.
    """
    size = fitting(model, count)
    for begin, backup in zip(range(0, count, size), backups(model, count, size), strict=True):
        rows = slice(begin, min(begin + size, count))
        yield Block(rows, restricted(model, rows), backup)


def fitting(model: Model | Dense, count: int, share: float = 1.0) -> int:
    """How many of `count` replicas fit that share of the cache, at least 1; all on a GPU."""
    if model.reward.device.type != "cpu":
        return max(1, count)
    states, actions = model.size
    shared = not model.batched if isinstance(model, Model) else model.kernel.dim() == 3
    width = 4 * model.probability.shape[-1] if sparse(model) else states
    return max(1, int(share * CACHE) // (8 * states * actions * (4 if shared else width)))


def sparse(model: Model | Dense) -> TypeGuard[Model]:
    """Whether the outcomes are looked up as they are listed."""
    return isinstance(model, Model) and SPARSE * model.probability.shape[-1] <= model.size[0]


def backups(model: Model | Dense, count: int, size: int, check: bool = True) -> Iterator[Backup]:
    """Blocks of `size` of `count` replicas; the next one may overwrite the last one's memory.

    Raises:
        ValueError: probabilities that do not sum to 1, a reward that is not finite; names state
            and action. Without `check`, nothing is read back from the device.
    """
    if check:
        check_reward(model)
        if isinstance(model, Model):
            check_rows(model.probability)
    parts = (restricted(model, slice(i, i + size)) for i in range(0, count, size))
    if sparse(model):
        yield from cast(Iterator[Model], parts)
        return
    laid = lying(model.kernel) if isinstance(model, Dense) and model.kernel.dim() == 4 else None
    if laid is None:
        matrices = copies(parts)
    else:  # many small blocks may follow: what all of them need is done once
        paid = batched(model).reward.mT.contiguous().mT.expand(count, -1, -1)
        matrices = map(Matrix, laid.split(size), paid.split(size))
    width = model.size[0] * model.size[1]
    for backup in matrices:
        if check and isinstance(model, Dense) and not sound(backup.kernel[..., :width]):
            check_rows(model.kernel)
        yield backup


def copies(parts: Iterable[Model | Dense]) -> Iterator[Matrix]:
    """The models one after the other, in the same memory where they have to be copied."""
    buffer: Tensor | None = None
    for part in parts:
        kernel, reward = batched(part)
        wide = matrix(kernel, buffer)
        buffer = None if wide.data_ptr() == kernel.data_ptr() else wide
        yield Matrix(wide, reward.mT.contiguous().mT)


def batched(model: Model | Dense) -> Dense:
    """Kernel `[B, S, A, S]` and mean reward `[B, S, A]`, `B = 1` where they are shared."""
    kernel, reward = model.dense() if isinstance(model, Model) else model
    return Dense(
        kernel if kernel.dim() == 4 else kernel[None], reward if reward.dim() == 3 else reward[None]
    )


def sound(kernel: Tensor) -> bool:
    """Whether the columns of `[B, S', S * A]` are distributions; costs no more than a sweep."""
    # The plain reduction first: of the two it fetches fresh memory at twice the speed.
    least = kernel.amin()
    ones = kernel.new_ones(kernel.shape[0], 1, kernel.shape[1])
    low, high = (float(total) - 1 for total in torch.aminmax(torch.bmm(ones, kernel)))
    return float(least) >= 0 and low >= -ROUNDING and high <= ROUNDING


def check_reward(model: Model | Dense) -> None:
    """Refuse a reward that is not finite, naming state and action."""
    if bool(torch.isfinite(model.reward.sum())):
        return
    strange = ~torch.isfinite(model.reward)  # the sum may have overflowed
    if bool(strange.any()):
        mask = strange[..., None] if isinstance(model, Dense) else strange
        found = model.reward[strange][0].item()
        raise ValueError(f"reward of {where(mask)} is {found}; accepted: finite numbers")
