"""Draws read from blocks of consecutive steps: the numbers of `Rng`, at the cost of a look-up.

A draw is about a hundred small operations whatever its size, so with few replicas it costs far
more than the step that uses it. `Prefetch` keeps the words of many steps; a `BlockRng` keeps the
finished numbers and hands them out row by row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlkit.random import Rng, Word, philox, words_at

Key = tuple[Word, str, str, str, tuple[int, ...], torch.dtype]


class Prefetch:
    """Words of a block of consecutive steps drawn at once: the numbers of `words_at`, cheaper.

    Drawing costs about a hundred small operations whatever the size, so one draw for many steps
    pays while it fits the cache; larger draws go straight through.
    """

    def __init__(
        self, limit: int = 1 << 18, longest: int = 256, draw: Callable[..., Tensor] | None = None
    ) -> None:
        self.limit, self.longest = limit, longest
        self._draw = block_words if draw is None else draw
        self._blocks: dict[tuple[int, ...], tuple[int, Tensor, Tensor]] = {}
        self._latest: dict[tuple[int, ...], int] = {}  # step of the last draw

    def __call__(
        self,
        seed: Word,
        stream: int,
        replica: Tensor,
        step: Word,
        name: int,
        count: int,
        round_: int,
    ) -> Tensor:
        """The words `[count, N]` of one step, from the cache where they are there."""
        size = min(self.longest, self.limit // max(1, count * replica.shape[0]))
        if size < 2 or round_ or isinstance(step, Tensor) or isinstance(seed, Tensor):
            return words_at(seed, stream, replica, step, name, count, round_)
        key = (seed, stream, name, count)
        start, block, owner = self._blocks.get(key, (-1, replica, replica))
        if owner is not replica:  # a draw for some rows must not be answered with others
            return words_at(seed, stream, replica, step, name, count, round_)
        if start < 0 or not 0 <= step - start < block.shape[0]:
            # A draw that is not made at every step would waste a block.
            follows = self._latest.get(key, step - 1) == step - 1
            start = step
            block = self._draw(seed, stream, replica, start, size if follows else 1, name, count)
            self._blocks[key] = (start, block, replica)
        self._latest[key] = step
        return block[step - start]

    def clear(self) -> None:
        """Forget all blocks: other replicas follow."""
        self._blocks.clear()
        self._latest.clear()


def block_words(
    seed: Word, stream: Word, replica: Tensor, start: Word, steps: int, name: Word, count: int
) -> Tensor:
    """`words_at` for `steps` consecutive steps: `[steps, count, N]`."""
    time = torch.arange(steps, device=replica.device)[:, None, None] + start
    if count == 1:
        words: Tensor = philox(replica, time, name, 0, seed, stream)[0]
        return words
    blocks = torch.arange((count + 3) // 4, device=replica.device)[:, None]
    output = torch.broadcast_tensors(*philox(replica, time, name, blocks, seed, stream))
    return torch.stack(output, 2).reshape(steps, -1, replica.shape[0])[:, :count]


class Blocks:
    """Rows of draws by seed, stream, kind, name and shape.

    Args:
        limit: numbers kept of one draw, >= 1; draws larger than half of it are not kept at all.
        longest: steps in a block, >= 2.
    """

    def __init__(self, limit: int = 1 << 15, longest: int = 256) -> None:
        self.limit, self.longest = limit, longest
        self._rows: dict[Key, tuple[int, tuple[Tensor, ...], Tensor]] = {}

    def read(self, rng: Rng, key: Key, draw: Callable[[Rng], Tensor], count: int) -> Tensor | None:
        """The draw `[N, ...]` of the step of `rng`, None where a block would not pay."""
        step = rng.step
        if isinstance(step, Tensor):
            return None
        start, rows, owner = self._rows.get(key, (0, (), rng.replica))
        if owner is not rng.replica:
            return None
        if 0 <= step - start < len(rows):
            return rows[step - start]
        size = min(self.longest, self.limit // max(1, count * rng.n))
        if size < 2:
            return None
        rows = make_rows(rng, step, size, draw)
        self._rows[key] = (step, rows, rng.replica)
        return rows[0]


def make_rows(rng: Rng, start: int, size: int, draw: Callable[[Rng], Tensor]) -> tuple[Tensor, ...]:
    """`draw` at steps `start .. start + size - 1`, each `[N, ...]` as if it were drawn alone."""
    time = torch.arange(start, start + size, device=rng.device)
    many = Rng(rng.seed, rng.stream, rng.replica.repeat(size), time.repeat_interleave(rng.n))
    numbers = draw(many).movedim(0, -1)
    split = numbers.reshape(*numbers.shape[:-1], size, rng.n).movedim(-2, 0).contiguous()
    return tuple(row.movedim(-1, 0) for row in split.unbind(0))


@dataclass(frozen=True)
class BlockRng(Rng):
    """An `Rng` whose uniform and normal draws are read from `blocks`."""

    blocks: Blocks = field(default_factory=Blocks, repr=False, compare=False)

    def at(self, stream: str, step: Word) -> "BlockRng":
        """The same generator at another stream and step; cheaper than `replace`."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, stream=stream, step=step)
        return twin

    def uniform(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As `Rng.uniform`."""
        return self._read("uniform", Rng.uniform, name, shape, dtype)

    def open(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As `Rng.open`."""
        return self._read("open", Rng.open, name, shape, dtype)

    def normal(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As `Rng.normal`."""
        return self._read("normal", Rng.normal, name, shape, dtype)

    def _read(
        self,
        kind: str,
        method: Callable[..., Tensor],
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        key = (self.seed, self.stream, kind, name, shape, dtype)
        row = self.blocks.read(
            self, key, lambda many: method(many, name, *shape, dtype=dtype), math.prod(shape)
        )
        if row is None:
            return method(self, name, *shape, dtype=dtype)
        self._claim(name)
        return row
