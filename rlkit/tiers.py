"""Fast execution of chunks: compiled scan (CPU), CUDA graph, compiled random words.

Each tier runs `engine.step` unchanged. The rollout compares a fast chunk with the eager one
before it trusts it, because Inductor has been seen to miscompile counter arithmetic silently.
"""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from rlkit.blocks import block_words
from rlkit.engine import Carry, Streams
from rlkit.protocol import Tree
from rlkit.random import Rng, Word

BOUNDED_ROUNDS = 8  # leaves 4e-11 of gamma lanes unaccepted; such chunks are run again eagerly
NEAR_TIES = 0.01  # share of replicas that may part ways by a rounding at a near tie
TOLERANCE = 1e-4  # of float leaves, relative to 1 + their size

StepFunction = Callable[[Tree, Carry, Word, Streams], Carry]
Leaves = list[Tensor]
StepOfLeaves = Callable[[Leaves, Tensor, Tensor, Tensor, Leaves], Leaves]
Scanned = tuple[Leaves, Tensor]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled as one graph of fixed shapes.

    It gets a code object of its own: the compiler keeps eight variants of one, then refuses.
    """
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(own, fullgraph=True, dynamic=False, options=_options())


def _options() -> dict[str, Any]:
    """Without Inductor's assertions on its own buffers, a third of a small step's time."""
    from torch._inductor import config  # here, because it is large and eager runs never need it

    return {name: False for name in ("size_asserts", "alignment_asserts") if hasattr(config, name)}


def has_compiler() -> bool:
    """Whether a C++ compiler for Inductor's CPU code is on the path."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def same_constants(a: Tree, b: Tree) -> bool:
    """Whether two trees differ in nothing but the values of their tensors."""
    (leaves, structure), (others, other) = tree_flatten(a), tree_flatten(b)
    return structure == other and all(map(_same_constant, leaves, others))


def _same_constant(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor)
    try:
        return a is b or bool(a == b)
    except (RuntimeError, TypeError, ValueError):  # dataclasses that hold tensors
        return False


class FastChunk:
    """`length` steps in one call, for every group of a run: compiled at the first call.

    What is no tensor in `fixed` is compiled in: groups must agree on it, see `same_constants`.
    Leaves of the carry that a step hands through are inputs, so that they are not copied.

    Args:
        step: `(fixed, carry, time, streams) -> carry`, pure.
        seed: of the run; an input of the compiled code, which therefore serves every seed.
        length: steps a call.
        episode: length that every episode must have: the flag is raised if one has another.

    Attributes:
        trusted: whether a call was found to agree with eager steps.
    """

    def __init__(
        self, step: StepFunction, seed: int, length: int, episode: int | None = None
    ) -> None:
        self._step, self._seed, self._length, self._episode = step, seed, length, episode
        self.trusted = False
        self._run: Callable[..., Leaves] | None = None
        self._moving: list[bool] = []

    def __call__(
        self, fixed: Tree, carry: Carry, time: int, replica: Tensor
    ) -> tuple[Carry, Tensor]:
        """The carry after the chunk, and a 0-d flag: it must be made again, eagerly."""
        device = replica.device
        fixed_leaves, fixed_structure = tree_flatten(fixed)
        inputs = [leaf for leaf in fixed_leaves if isinstance(leaf, Tensor)]
        leaves, structure = tree_flatten(carry)
        if self._run is None:
            after = self._step(fixed, carry, time, Streams(self._seed, replica))
            kept = zip(tree_leaves(after), leaves, strict=True)
            self._moving = [new is not old for new, old in kept]
            build = graph_chunk if device.type == "cuda" else scan_chunk
            if self._length == 1:
                build = single_step
            self._run = build(self._one(fixed_leaves, fixed_structure, structure), self._length)
        moving, still = split(leaves, self._moving)
        flag = torch.zeros((), dtype=torch.bool, device=device)
        start = torch.tensor(time, device=device)
        key = torch.tensor(self._seed, device=device)
        *out, flag = self._run([*moving, flag], start, key, replica, [*still, *inputs])
        return tree_unflatten(join(out, still, self._moving), structure), flag

    def _one(self, fixed_leaves: Leaves, fixed_structure: Any, structure: Any) -> StepOfLeaves:
        """One step on flat leaves, those that move first and the flag last."""
        places = [i for i, leaf in enumerate(fixed_leaves) if isinstance(leaf, Tensor)]
        count = len(self._moving) - sum(self._moving)

        def one(
            state: Leaves, time: Tensor, key: Tensor, replica: Tensor, inputs: Leaves
        ) -> Leaves:
            rejected: list[Tensor] = []
            streams = Streams(key, replica, rounds=BOUNDED_ROUNDS, rejected=rejected)
            filled = list(fixed_leaves)
            for place, tensor in zip(places, inputs[count:], strict=True):
                filled[place] = tensor
            tree = tree_unflatten(filled, fixed_structure)
            carry = tree_unflatten(join(state[:-1], inputs[:count], self._moving), structure)
            after = self._step(tree, carry, time, streams)
            flag = state[-1]
            if self._episode is not None:
                flag = flag | (after.elapsed != (time + 1) % self._episode).any()
            for left in rejected:
                flag = flag | left
            return [*split(tree_leaves(after), self._moving)[0], flag]

        return one


def split(leaves: Leaves, moving: list[bool]) -> tuple[Leaves, Leaves]:
    """Leaves that move, and the others."""
    pairs = list(zip(leaves, moving, strict=True))
    return [leaf for leaf, moves in pairs if moves], [leaf for leaf, moves in pairs if not moves]


def join(first: Leaves, second: Leaves, moving: list[bool]) -> Leaves:
    """What `split` took apart."""
    ones, others = iter(first), iter(second)
    return [next(ones) if moves else next(others) for moves in moving]


def scan_chunk(one: Callable[..., Leaves], length: int) -> Callable[..., Leaves]:
    """A compiled scan of `length` steps."""
    from torch._higher_order_ops.scan import scan

    def run(leaves: Leaves, start: Tensor, key: Tensor, replica: Tensor, inputs: Leaves) -> Leaves:
        def body(state: Leaves, time: Tensor) -> Scanned:
            # A leaf handed through unchanged would alias its input, which scan forbids.
            return [leaf.clone() for leaf in one(state, time, key, replica, inputs)], time.clone()

        return list(scan(body, leaves, start + torch.arange(length))[0])

    return compiled(run)


def single_step(one: Callable[..., Leaves], length: int) -> Callable[..., Leaves]:
    """One compiled step, without the scan."""
    return compiled(one)


def graph_chunk(one: Callable[..., Leaves], length: int) -> Callable[..., Leaves]:
    """A CUDA graph of `length` compiled steps on buffers of its own."""
    step = compiled(one)
    captured: dict[str, Any] = {}

    def capture(
        leaves: Leaves, start: Tensor, key: Tensor, replica: Tensor, inputs: Leaves
    ) -> None:
        buffers = [torch.empty_like(leaf).copy_(leaf) for leaf in leaves]
        held = [start.clone(), key.clone(), replica.clone()]
        given = [torch.empty_like(leaf).copy_(leaf) for leaf in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(buffers, *held, given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            state = buffers
            for offset in range(length):
                state = step(state, held[0] + offset, held[1], held[2], given)
            for buffer, leaf in zip(buffers, state, strict=True):
                buffer.copy_(leaf)
        captured.update(graph=graph, buffers=buffers, held=held, given=given)

    def run(leaves: Leaves, start: Tensor, key: Tensor, replica: Tensor, inputs: Leaves) -> Leaves:
        if not captured:
            capture(leaves, start, key, replica, inputs)
        pairs = [
            *zip(captured["buffers"], leaves, strict=True),
            *zip(captured["held"], [start, key, replica], strict=True),
            *zip(captured["given"], inputs, strict=True),
        ]
        for buffer, value in pairs:
            buffer.copy_(value)
        captured["graph"].replay()
        return [buffer.clone() for buffer in captured["buffers"]]

    return run


class CompiledWords:
    """Random words of many steps from one compiled kernel, for otherwise eager dynamics.

    The first block of each shape is compared with the eager one.
    """

    def __init__(self) -> None:
        self._draw = compiled(block_words)
        self._trusted: set[tuple[int, ...]] = set()
        self._refused = False

    def __call__(
        self,
        seed: Word,
        stream: int,
        replica: Tensor,
        start: Word,
        steps: int,
        name: int,
        count: int,
    ) -> Tensor:
        """`block_words`, with every number an input so that one kernel serves all draws."""
        arguments = (seed, stream, replica, start, steps, name, count)
        if self._refused:
            return block_words(*arguments)
        as_tensor = [torch.tensor(x, device=replica.device) for x in (seed, stream, start, name)]
        try:
            words: Tensor = self._draw(
                as_tensor[0], as_tensor[1], replica, as_tensor[2], steps, as_tensor[3], count
            )
        except RuntimeError as error:
            return self._refuse(first_line(error), block_words(*arguments))
        shape = (steps, count, replica.shape[0])
        if shape not in self._trusted:
            expected = block_words(*arguments)
            if not torch.equal(words, expected):
                return self._refuse("they differ from the eager ones", expected)
            self._trusted.add(shape)
        return words

    def _refuse(self, reason: str, words: Tensor) -> Tensor:
        """Eager words from now on."""
        self._refused = True
        warnings.warn(f"compiled words are not used: {reason}", RuntimeWarning, stacklevel=2)
        return words


class CompiledKernels:
    """Functions of draws for all replicas of a group, compiled, for otherwise eager agents.

    Equal to the eager ones up to rounding; the first call of each is compared with them.
    """

    def __init__(self, replica: Tensor) -> None:
        self._replica = replica
        self._kernels: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self, rng: Rng, name: str, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> Tensor | None:
        """`function(rng, *inputs)`, or None where it must be called eagerly."""
        if rng.replica is not self._replica:
            return None
        key = (rng.stream, name, *((x.shape, x.stride(), x.dtype) for x in inputs))
        if key not in self._kernels:
            self._kernels[key] = self._trusted(rng, function, inputs)
        kernel = self._kernels[key]
        return None if kernel is None else self._call(kernel, rng, inputs)

    def _call(self, kernel: Any, rng: Rng, inputs: tuple[Tensor, ...]) -> Tensor | None:
        seed, step = (torch.as_tensor(x, device=rng.device) for x in (rng.seed, rng.step))
        value, rejected = kernel(seed, rng.replica, step, *inputs)
        return None if bool(rejected) else value

    def _trusted(
        self, rng: Rng, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> Any:
        """The compiled kernel, None if it fails or differs from the eager numbers."""
        stream = rng.stream

        def kernel(
            seed: Tensor, replica: Tensor, step: Tensor, *inputs: Tensor
        ) -> tuple[Tensor, Tensor]:
            rejected: list[Tensor] = []
            value = function(Rng(seed, stream, replica, step, BOUNDED_ROUNDS, rejected), *inputs)
            flags = rejected or [torch.zeros((), dtype=torch.bool, device=replica.device)]
            return value, torch.stack(flags).any()

        fast = compiled(kernel)
        try:
            value = self._call(fast, rng, inputs)
        except RuntimeError as error:
            return self._refuse(first_line(error))
        expected = function(replace(rng, kernels=None, used=None), *inputs)
        if value is not None and not torch.allclose(value, expected, TOLERANCE, TOLERANCE):
            return self._refuse("they differ from the eager numbers")
        return fast

    def _refuse(self, reason: str) -> None:
        warnings.warn(f"compiled kernels are not used: {reason}", RuntimeWarning, stacklevel=2)


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks of up to 31 MiB for the next step.

    By default glibc hands blocks of megabytes back to the system, which clears their pages again
    at the next step: up to a third of its time. Having freed one such block, it keeps smaller
    ones (`M_MMAP_THRESHOLD` in mallopt(3)). No page of it is touched.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def disagreement(a: Carry, b: Carry, n: int) -> float:
    """Share of replicas whose state differs between two carries beyond rounding."""
    differs = torch.zeros(n, dtype=torch.bool)
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        if x.dtype.is_floating_point:
            close = torch.isclose(x, y, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        else:
            close = x == y
        differs |= ~close.reshape(n, -1).all(1).cpu()
    return differs.double().mean().item()
