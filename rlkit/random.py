"""Counter-based random streams: every number is a hash of where it is used.

A number is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as
1, 2, 3") keyed by (seed, stream) and counted by (replica, step, name, round and block). There is
no hidden state: replica 4711 meets the same luck alone, among 10,000, in another chunk or after a
resume, and a draw added elsewhere shifts nothing.

Counter words: `replica`, `step`, `fnv1a(name)`, `round << 20 | block`; element `e` of a draw is
word `e % 4` of block `e // 4` (gamma draws spend one block an element). Arithmetic is int64 with
the replica dimension innermost: the other layout is miscompiled by Inductor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MAX_ROUNDS = 4096
MAX_BLOCKS = 1 << 20
LANES = 1 << 18  # gammas drawn at once outside compiled code

Word = int | Tensor


def fnv1a(text: str) -> int:
    """32-bit FNV-1a hash of an ASCII name, in `[0, 2**32)`."""
    value = 0x811C9DC5
    for character in text:
        value = ((value ^ ord(character)) * 0x01000193) & MASK
    return value


def philox(c0: Word, c1: Word, c2: Word, c3: Word, k0: Word, k1: Word) -> list[Any]:
    """Philox4x32-10 of broadcastable counters in `[0, 2**32)`; four words of the same range."""
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & MASK) ^ c1 ^ k0, ((p0 >> 32) & MASK) ^ c3 ^ k1
        c1, c3 = p1 & MASK, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return [c0, c1, c2, c3]


def words_at(
    seed: Word, stream: int, replica: Tensor, step: Word, name: int, count: int, round_: int = 0
) -> Tensor:
    """The first `count` words of a named draw: `[count, N]` int64, replica innermost."""
    if count == 1:
        return philox(replica, step, name, round_ << 20, seed, stream)[0][None]
    blocks = torch.arange((count + 3) // 4, device=replica.device)[:, None] + (round_ << 20)
    output = torch.broadcast_tensors(*philox(replica, step, name, blocks, seed, stream))
    return torch.stack(output, 1).reshape(-1, replica.shape[0])[:count]


WordSource = Callable[[Word, int, Tensor, Word, int, int, int], Tensor]
Kernels = Callable[["Rng", str, Callable[..., Tensor], tuple[Tensor, ...]], Tensor | None]


def unit(word: Tensor) -> Tensor:
    """Float32 in `[0, 1)` from the upper 24 bits of a word."""
    return (word >> 8).float() * 2.0**-24


def unit64(high: Tensor, low: Tensor) -> Tensor:
    """Float64 in `[0, 1)` from 53 bits of two words."""
    return ((high >> 5) * 2**26 + (low >> 6)).double() * 2.0**-53


def open_unit(word: Tensor) -> Tensor:
    """Float32 in `(0, 1)`: 23 bits and a half, so that neither end can be rounded to."""
    return ((word >> 9).float() + 0.5) * 2.0**-23


def open_unit64(high: Tensor, low: Tensor) -> Tensor:
    """Float64 in `(0, 1)`: 52 bits and a half."""
    return (((high >> 5) * 2**25 + (low >> 7)).double() + 0.5) * 2.0**-52


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the first `count` ones of `mask` `[L]`, which is 0 or 1 in int32.

    `nonzero_static` does this ten times slower.

    Returns:
        Positions `[count]`, the first one (or 0) repeated where there are fewer; which of them
        are real `[count]`; whether there are more than `count`, 0-d.
    """
    rank = torch.cumsum(mask, 0, dtype=torch.int32)
    wanted = torch.arange(1, count + 1, dtype=torch.int32, device=mask.device)
    found = torch.searchsorted(rank, wanted)
    real = found < mask.shape[0]
    first = torch.where(real[0], found[0], 0)
    return torch.where(real, found, first), real, rank[-1] > count


@dataclass(frozen=True)
class Rng:
    """Named draws for `N` replicas at one step of one stream.

    Every method takes the `name` of the draw and returns `[N, ...]` with the replica dimension
    innermost in memory. The same name twice in one (stream, step) would give the same numbers.

    Attributes:
        seed: in `[0, 2**32)`.
        stream: "instance", "reset", "env", "act", "learn", ...
        replica: `[N]` int64 global replica numbers in `[0, 2**32)`.
        step: in `[0, 2**32)`; a 0-d int64 tensor inside compiled code.
        rounds: rejection rounds before a lane is given up (compiled code), None for no bound.
        rejected: collects a 0-d flag for each bounded draw that left a lane unaccepted.
        source: where words come from; a cache of blocks returns the same numbers faster.
        used: names drawn so far, in debug mode, to refuse a second draw of the same name.
        kernels: runs a function of draws compiled, equal up to rounding, or returns None.
    """

    seed: Word
    stream: str
    replica: Tensor
    step: Word = 0
    rounds: int | None = None
    rejected: list[Tensor] | None = field(default=None, repr=False, compare=False)
    source: WordSource = field(default=words_at, repr=False, compare=False)
    used: set[tuple[str, str]] | None = field(default=None, repr=False, compare=False)
    kernels: Kernels | None = field(default=None, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Number of replicas."""
        return self.replica.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of every draw."""
        return self.replica.device

    def fused(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(rng, *inputs)`, as one compiled kernel where the run has them.

        Args:
            name: of the kernel, one a function.
            function: pure; tensors that differ between calls must be among the inputs.
            inputs: `[...]`.
        """
        if self.kernels is not None:
            value = self.kernels(self, name, function, inputs)
            if value is not None:
                return value
        return function(replace(self, kernels=None), *inputs)

    def child(self, stream: str) -> "Rng":
        """Independent streams below this one, for a sampler used twice in a step."""
        return replace(self, stream=f"{self.stream}/{stream}")

    def _words(self, name: str, count: int) -> Tensor:
        """`[count, N]` words of round 0."""
        self._claim(name)
        if count > 4 * MAX_BLOCKS:
            raise ValueError(f"draw {name!r} asks for {count} words, at most {4 * MAX_BLOCKS}")
        stream = fnv1a(self.stream)
        return self.source(self.seed, stream, self.replica, self.step, fnv1a(name), count, 0)

    def _claim(self, name: str) -> None:
        if self.used is None:
            return
        if (self.stream, name) in self.used:
            raise ValueError(f"draw {name!r} of stream {self.stream!r} is used twice in one step")
        self.used.add((self.stream, name))

    def words(self, name: str, count: int) -> Tensor:
        """`[N, count]` int64 in `[0, 2**32)`."""
        return self._words(name, count).T

    def _replica_first(self, flat: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`[prod(shape), N]` to `[N, *shape]`, without moving memory."""
        if not shape:
            return flat[0]
        return flat.reshape(*shape, self.n).movedim(-1, 0)

    def uniform(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on `[0, 1)`, `[N, *shape]`."""
        count = math.prod(shape)
        if dtype == torch.float64:
            word = self._words(name, 2 * count)
            return self._replica_first(unit64(word[:count], word[count:]), shape)
        return self._replica_first(unit(self._words(name, count)), shape)

    def open(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on `(0, 1)`, both ends excluded, `[N, *shape]`."""
        count = math.prod(shape)
        if dtype == torch.float64:
            word = self._words(name, 2 * count)
            return self._replica_first(open_unit64(word[:count], word[count:]), shape)
        return self._replica_first(open_unit(self._words(name, count)), shape)

    def normal(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal by Box and Muller, both members of each pair used, `[N, *shape]`."""
        count = math.prod(shape)
        half = (count + 1) // 2
        if dtype == torch.float64:
            word = self._words(name, 4 * half).reshape(4, half, self.n)
            radius, turn = open_unit64(word[0], word[1]), unit64(word[2], word[3])
        else:
            word = self._words(name, 2 * half).reshape(2, half, self.n)
            radius, turn = open_unit(word[0]), unit(word[1])
        length, angle = torch.sqrt(-2 * torch.log(radius)), 2 * math.pi * turn
        if count == 1:
            return self._replica_first(length * torch.cos(angle), shape)
        pair = torch.cat([length * torch.cos(angle), length * torch.sin(angle)])
        return self._replica_first(pair[:count], shape)

    def exponential(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exponential of rate 1, `[N, *shape]`."""
        return -torch.log(self.open(name, *shape, dtype=dtype))

    def rademacher(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """-1 or 1 with equal probability, `[N, *shape]`."""
        word = self._words(name, math.prod(shape))
        return self._replica_first(1 - 2 * (word & 1).to(dtype), shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Uniform on `0 .. high - 1`, `[N, *shape]` int64; bias at most `high / 2**32`.

        Raises:
            ValueError: `high` outside `1 .. 2**31`.
        """
        if not 1 <= high <= 2**31:
            raise ValueError(f"high = {high} outside 1 .. 2**31")
        return self._replica_first((self._words(name, math.prod(shape)) * high) >> 32, shape)

    def categorical(self, name: str, cdf: Tensor) -> Tensor:
        """Index with cumulative probabilities `cdf` `[S]` or `[N, S]`; `[N]` int64."""
        u = self.uniform(name, dtype=cdf.dtype)
        return (u[:, None] >= cdf[..., :-1]).sum(-1)

    def permutation(self, name: str, size: int) -> Tensor:
        """Uniform permutations of `0 .. size - 1`, `[N, size]` int64, by sorting 63-bit keys."""
        word = self._words(name, 2 * size)
        key = ((word[:size] >> 1) << 32) | word[size:]
        return torch.argsort(key, dim=0).T

    def log_gamma(self, name: str, alpha: Tensor) -> Tensor:
        """Logarithm of Gamma(`alpha`, 1), `alpha > 0`, `[N, ...]` as `alpha`, in its dtype.

        Below 1 by `G(a) = G(a + 1) U ** (1 / a)`, in logarithms because such variates underflow.
        """
        flat = self._flat(name, alpha)
        value = torch.log(self._marsaglia_tsang(name, torch.where(flat < 1, flat + 1, flat)))
        u = self._replica_last(self.open(f"{name}/boost", flat.shape[0], dtype=flat.dtype))
        return self._unflat(torch.where(flat < 1, value + torch.log(u) / flat, value), alpha)

    def gamma(self, name: str, alpha: Tensor, small: bool = True) -> Tensor:
        """Gamma(`alpha`, 1), `[N, ...]` as `alpha`, by Marsaglia and Tsang (2000).

        Args:
            name: of the draw.
            alpha: shape parameters > 0.
            small: False promises `alpha >= 1` everywhere and saves the boost of smaller ones.
        """
        if small:
            return torch.exp(self.log_gamma(name, alpha))
        return self._unflat(self._marsaglia_tsang(name, self._flat(name, alpha)), alpha)

    def beta(self, name: str, a: Tensor, b: Tensor, small: bool = True) -> Tensor:
        """Beta(`a`, `b`), `[N, ...]`, as a ratio of gammas; `small` as in `gamma`."""
        alpha = torch.stack([a, b], 1)
        if small:
            g = self.log_gamma(name, alpha)
            return 1 / (1 + torch.exp(g[:, 1] - g[:, 0]))
        g = self.gamma(name, alpha, small=False)
        return g[:, 0] / (g[:, 0] + g[:, 1])

    def dirichlet(self, name: str, alpha: Tensor, small: bool = True) -> Tensor:
        """Dirichlet over the last dimension of `alpha` `[N, ..., S]`; `small` as in `gamma`."""
        if small:
            return torch.softmax(self.log_gamma(name, alpha), -1)
        g = self.gamma(name, alpha, small=False)
        # Term by term: `sum` associates differently where a replica is alone.
        return g / reduce(torch.add, g.unbind(-1))[..., None]

    def _replica_last(self, value: Tensor) -> Tensor:
        """`[N, ...]` to `[E, N]`."""
        return value.movedim(0, -1).reshape(-1, self.n)

    def _flat(self, name: str, alpha: Tensor) -> Tensor:
        self._claim(name)
        flat = self._replica_last(alpha)
        if flat.shape[0] > MAX_BLOCKS:
            raise ValueError(f"draw {name!r} asks for {flat.shape[0]} gammas, at most {MAX_BLOCKS}")
        return flat

    def _unflat(self, flat: Tensor, like: Tensor) -> Tensor:
        return self._replica_first(flat, like.shape[1:])

    def _marsaglia_tsang(self, name: str, alpha: Tensor) -> Tensor:
        """Gamma(`alpha`), `alpha >= 1` `[E, N]`; each rejection round has its own counter."""
        if self.rounds is not None:
            return self.proposals(name, alpha, 0, self.rounds)
        if self.kernels is not None:
            return self.fused(name, lambda rng, a: rng._marsaglia_tsang(name, a), alpha)
        # Piece by piece: the counters take ten times the memory of the variates.
        rows = max(1, LANES // self.n)
        firsts = range(0, alpha.shape[0], rows)
        pieces = zip(alpha.split(rows), firsts, strict=True)
        return torch.cat([self.proposals(name, piece, first, None) for piece, first in pieces])

    def proposals(self, name: str, alpha: Tensor, first: int, rounds: int | None) -> Tensor:
        """Elements `first` and following of a draw, `[e, N]`."""
        element = torch.arange(first, first + alpha.shape[0], device=self.device)[:, None]
        value = self._round(name, alpha, self.replica[None], element, 0).reshape(-1)
        flat = alpha.reshape(-1)
        if rounds is None:
            value = self._retry_until_accepted(name, flat, value, first)
        else:
            value = self._retry_bounded(name, flat, value, rounds)
        return value.reshape(alpha.shape)

    def _round(
        self, name: str, alpha: Tensor, replica: Tensor, element: Tensor, round_: Word
    ) -> Tensor:
        """One proposal a lane, -1 where it is rejected; `round_` may add a leading dimension.

        No separate mask: compiled code stores boolean tensors one element at a time.
        """
        counter = element + (round_ << 20)
        stream, key = fnv1a(self.stream), fnv1a(name)
        w0, w1, w2, w3 = philox(replica, self.step, key, counter, self.seed, stream)
        if alpha.dtype == torch.float64:
            # 52 bits where the tail is made, 32 where resolution is all that matters.
            radius = open_unit64(w0, w1)
            turn = w2.double() * 2.0**-32
            u = (w3.double() + 0.5) * 2.0**-32
        else:
            radius, turn, u = open_unit(w0), unit(w1), open_unit(w2)
        x = torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * turn)
        d = alpha - 1.0 / 3.0
        root = 1 + x / torch.sqrt(9 * d)
        v = root * root * root
        bound = 0.5 * x * x + d * (1 - v + torch.log(torch.clamp(v, min=1e-30)))
        return torch.where((root > 0) & (u < torch.exp(bound)), d * v, -1.0)

    def _lanes(
        self, name: str, alpha: Tensor, lanes: Tensor, round_: Word, first: int = 0
    ) -> Tensor:
        """A proposal for some lanes of the flat `[e * N]` array that begins at element `first`."""
        row = torch.div(lanes, self.n, rounding_mode="floor")
        replica = self.replica.index_select(0, lanes - row * self.n)
        return self._round(name, alpha.index_select(0, lanes), replica, row + first, round_)

    def _retry_until_accepted(self, name: str, alpha: Tensor, value: Tensor, first: int) -> Tensor:
        for round_ in range(1, MAX_ROUNDS):
            lanes = torch.nonzero(value < 0).squeeze(1)
            if lanes.numel() == 0:
                return value
            value = value.index_copy(0, lanes, self._lanes(name, alpha, lanes, round_, first))
        raise RuntimeError(f"draw {name!r} was not accepted in {MAX_ROUNDS} rounds: bad alpha")

    def _retry_bounded(self, name: str, alpha: Tensor, value: Tensor, rounds: int) -> Tensor:
        """Retries of fixed cost, for compiled code; what is left over raises the `rejected` flag.

        At least 0.95 of the lanes are accepted each round: a sixteenth of them has room for those
        that need a second, an eighth of that for those that need more.
        """
        size = alpha.shape[0]
        few, real, crowd = first_true((value < 0).int(), min(size, max(256, size // 16)))
        # `value` is not gathered: Inductor would compute it again, lane by lane.
        result = self._lanes(name, alpha, few, 1)
        room = min(few.shape[0], max(64, few.shape[0] // 8))
        rest, waiting, queue = first_true(((result < 0) & real).int(), room)
        # The remaining rounds in one piece: unrolled they would be compiled one by one.
        round_ = torch.arange(2, rounds, device=self.device)[:, None]
        proposals = self._lanes(name, alpha, few.index_select(0, rest), round_).unbind(0)
        chosen = proposals[0]
        for proposal in proposals[1:]:
            chosen = torch.where(chosen < 0, proposal, chosen)
        result = torch.where(waiting[0], result.index_copy(0, rest, chosen), result)
        # Repeated lanes must write what the first of them writes.
        result = torch.where(real, result, result[0])
        if self.rejected is not None:
            self.rejected.append(crowd | queue | (waiting & (chosen < 0)).any())
        return torch.where(real[0], value.index_copy(0, few, result), value)
