"""The lock-step loop: thousands of replicas of one agent on one problem.

Three tiers run the same `engine.step`: eager operations; random words drawn in compiled blocks
with eager dynamics ("words"); a compiled scan of K steps on the CPU ("compiled") or a CUDA graph
of K compiled steps ("graph"). Agents that plan between episodes are compiled within them, and so
the steps that end episodes where they offer it. Results do not depend on the chunk length K, nor
on how many replicas share the run; groups of one fixed size make that hold for batched linear
algebra too.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_unflatten,
)

from rlkit import engine, tiers
from rlkit.blocks import Prefetch
from rlkit.engine import Carry, Streams, check_static
from rlkit.protocol import Agent, Known, Problem, Spec, Tree
from rlkit.random import Kernels
from rlkit.run import TIERS as TIERS
from rlkit.run import Run as Run
from rlkit.run import largest_chunk as largest_chunk
from rlkit.run import record_grid as record_grid

CACHED = 1 << 24  # random words that the groups of a run may keep of one draw


class Group:
    """A fixed number of replicas advanced together."""

    def __init__(self, run: Run, first: int) -> None:
        self.run = run
        self.replica = torch.arange(first, first + run.group, device=run.device)
        streams = Streams(run.seed, self.replica)
        self.instance = run.problem.instance(streams.at("instance", 0))
        limit = run.problem.horizon if run.time_limit is None else run.time_limit
        if isinstance(limit, Tensor):
            limit = limit[(self.replica - run.first_replica).clamp(max=run.replicas - 1)]
        horizon = None if isinstance(limit, Tensor) else limit
        spec = run.problem.spec(self.instance)
        self.spec = replace(spec, horizon=horizon, total_steps=run.steps)
        self.limit = limit
        check_needs(run.agent, self.spec)
        self.carry = engine.begin(
            run.problem, run.agent, self.spec, self.instance, streams, self.limit
        )
        self.time = 0  # steps done; ahead of the other groups' if an advance was cut short
        self.prefetch = Prefetch()
        self.kernels: Kernels | None = None

    @property
    def told(self) -> Tree:
        """What compiled code takes from a group: tensors as inputs, all else as constants."""
        return self.fixed, replace(self.spec, known=Known())

    @property
    def fixed(self) -> Tree:
        """What the steps read and never change."""
        return self.instance, self.spec.known, () if self.limit is None else self.limit

    def step(
        self, fixed: Tree, carry: Carry, time: Any, streams: Streams, renew: bool = False
    ) -> Carry:
        """`engine.step` on this group's problem and agent; `fixed` may be another group's."""
        instance, known, limit = fixed
        bare = self.spec
        spec = Spec(
            bare.observation, bare.action, bare.horizon, known, bare.total_steps, bare.reward_range
        )
        limit = None if self.limit is None else limit
        run = self.run
        return engine.step(
            run.problem, run.agent, spec, instance, limit, carry, time, streams, renew
        )

    def eager(self, carry: Carry, time: int, count: int) -> Carry:
        """`count` steps as ordinary operations."""
        for offset in range(count):
            # The first step of a run is watched for draws that share a name.
            used: set[tuple[str, str]] | None = set() if time + offset == 0 else None
            streams = Streams(
                self.run.seed, self.replica, self.prefetch, used=used, kernels=self.kernels
            )
            after = self.step(self.fixed, carry, time + offset, streams)
            if time + offset == 0:
                check_static(carry, after)
            carry = after
        return carry


def check_needs(agent: Agent, spec: Any) -> None:
    """Refuse a problem that does not disclose what the agent needs."""
    for name in agent.needs:
        if getattr(spec.known, name, None) is None:
            raise ValueError(
                f"{type(agent).__name__} needs spec.known.{name}, which this problem does not give"
            )


class Rollout:
    """A run in progress: advance it, record it, save and restore its state.

    Attributes:
        grid: steps at which `record` is meant to be taken.
        step: steps done.
        tier: the tier in use, after any fallback.
    """

    def __init__(self, run: Run, chunk: int | None = None) -> None:
        self.run, self.step = run, 0
        self.grid = record_grid(run.steps)
        self.chunk = largest_chunk(run.steps) if chunk is None else chunk
        self.tier = "eager" if run.tier == "auto" else run.tier
        self.episode = self._episode_length()
        tiers.keep_freed_memory()
        starts = range(run.first_replica, run.first_replica + run.replicas, run.group)
        with torch.no_grad():
            self.groups = [Group(run, first) for first in starts]
        self._close: tiers.FastChunk | None = None
        self._fast = self._fast_tier()
        self._close = self._closing()
        self._share_cache()

    def _episode_length(self) -> int | None:
        """Where chunks are all of an episode but its last step, in which the agent plans."""
        limit = self.run.problem.horizon if self.run.time_limit is None else self.run.time_limit
        if self.tier != "compiled" or not getattr(self.run.agent, "episodic", False):
            return None
        if not isinstance(limit, int) or limit < 3:
            return None
        self.chunk = limit - 1
        return limit

    def _share_cache(self) -> None:
        """With many groups each keeps fewer words, or they would outgrow the state."""
        share = CACHED // len(self.groups)
        fast = self.tier == "words" or self.episode is not None
        draw = tiers.CompiledWords() if fast else None
        for group in self.groups:
            if self.episode is not None and self._close is None:
                group.kernels = tiers.CompiledKernels(group.replica)
            if draw is None:
                group.prefetch = Prefetch(limit=min(1 << 18, share))
            else:
                group.prefetch = Prefetch(limit=min(1 << 22, share), longest=64, draw=draw)

    def _fast_tier(self) -> tiers.FastChunk | None:
        if self.tier not in ("compiled", "graph"):
            return None
        if self.chunk == 1 or not (self.run.agent.compilable or self.episode):
            self.tier = "eager"
            return None
        if torch.device(self.run.device).type != {"compiled": "cpu", "graph": "cuda"}[self.tier]:
            raise ValueError(f"tier {self.tier!r} does not run on {self.run.device!r}")
        if not all(tiers.same_constants(self.groups[0].told, g.told) for g in self.groups[1:]):
            self._fall_back("the spec differs between groups in more than tensors of NamedTuples")
            return None
        return tiers.FastChunk(self.groups[0].step, self.run.seed, self.chunk, self.episode)

    def _closing(self) -> tiers.FastChunk | None:
        """The last step of an episode, where the agent plans in a way that can be compiled."""
        if self._fast is None or self.episode is None or not hasattr(self.run.agent, "renew"):
            return None
        step = partial(self.groups[0].step, renew=True)
        return tiers.FastChunk(step, self.run.seed, 1, self.episode)

    @torch.no_grad()
    def advance(self, until: int) -> None:
        """Run to step `until`, at most `run.steps`.

        Raises:
            ValueError: `until` is behind the present step or beyond the run.
        """
        if not self.step <= until <= self.run.steps:
            raise ValueError(f"until = {until} outside [{self.step}, {self.run.steps}]")
        for group in self.groups:
            while group.time < until:
                count = self._span(group.time, until)
                group.carry, group.time = self._run(group, group.time, count), group.time + count
        self.step = until

    def _span(self, time: int, until: int) -> int:
        """Length of the next chunk: whole chunks where they fit, else single steps."""
        length = self.episode or self.chunk
        aligned = time % length == 0 and time > 0
        return self.chunk if aligned and until - time >= self.chunk else 1

    def _run(self, group: Group, time: int, count: int) -> Carry:
        fast = self._fast if count > 1 else None
        if self.episode is not None and (time + 1) % self.episode == 0:
            fast = self._close
        if fast is None:
            return group.eager(group.carry, time, count)
        try:
            carry, given_up = fast(group.fixed, group.carry, time, group.replica)
        except RuntimeError as error:  # the compiler's errors, and CUDA's while a graph is captured
            what = "a chunk" if fast.trusted else "compilation"
            self._fall_back(f"{what} failed: {tiers.first_line(error)}", fast)
            return group.eager(group.carry, time, count)
        if given_up:
            carry = group.eager(group.carry, time, count)
            if self.episode and bool((carry.elapsed != (time + count) % self.episode).any()):
                self._fall_back("episodes end at different times")
        elif not fast.trusted:
            return self._verify(group, carry, time, count, fast)
        return carry

    def _verify(
        self, group: Group, carry: Carry, time: int, count: int, fast: tiers.FastChunk
    ) -> Carry:
        """Trust a chunk if its first result agrees with the eager one."""
        expected = group.eager(group.carry, time, count)
        share = tiers.disagreement(carry, expected, self.run.group)
        if share > tiers.NEAR_TIES:
            self._fall_back(f"{share:.1%} of replicas differ from the eager tier", fast)
            return expected
        fast.trusted = True
        return carry

    def _fall_back(self, reason: str, chunk: tiers.FastChunk | None = None) -> None:
        """Without the steps that close episodes where `chunk` is those, else to eager steps."""
        what = f"tier {self.run.tier!r} is"
        if chunk is not None and chunk is self._close:
            what = "compiled ends of episodes are"
        else:
            self.tier, self._fast = "eager", None
        if self._close is not None:
            for group in self.groups:
                group.kernels = tiers.CompiledKernels(group.replica)
        self._close = None
        warnings.warn(f"{what} not used: {reason}", RuntimeWarning, stacklevel=2)

    @torch.no_grad()
    def record(self) -> dict[str, Tensor]:
        """Totals so far and the agent's diagnostics: `[replicas]` each, on the CPU.

        Raises:
            ValueError: problem and agent use one name for two quantities.
        """
        rows = []
        for group in self.groups:
            totals, own = group.carry.totals, self._diagnostics(group)
            both = sorted(set(totals) & set(own))
            if both:
                raise ValueError(f"diagnostic {both[0]!r} of the agent is one of the problem's too")
            rows.append({**totals, **own})
        return {k: self._join([row[k] for row in rows]) for k in rows[0]}

    def _diagnostics(self, group: Group) -> dict[str, Tensor]:
        method = getattr(self.run.agent, "diagnostics", None)
        return {} if method is None else dict(method(group.spec, group.carry.agent))

    def actions(self) -> Tree:
        """The last action of every replica, `[replicas, ...]`, where it is a single tensor."""
        if not isinstance(self.groups[0].carry.action, Tensor):
            return None
        return self._join([g.carry.action for g in self.groups])

    def _join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([p.detach().cpu() for p in parts])[: self.run.replicas]

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the carry by name, contiguous on the CPU, padding included.

        The groups follow one another in a leaf: the number of leaves does not grow with them.
        """
        columns = zip(*(tree_leaves(group.carry) for group in self.groups), strict=True)
        return {
            name: torch.cat([leaf.detach().cpu().contiguous() for leaf in column])
            for name, column in zip(self._names(), columns, strict=True)
        }

    def _names(self) -> list[str]:
        return [keystr(path) for path, _ in tree_flatten_with_path(self.groups[0].carry)[0]]

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Continue from what `state` returned after `step` steps of the same run.

        Raises:
            ValueError: a leaf is missing, left over, or of another shape or dtype.
        """
        names, count = self._names(), len(self.groups)
        for name, leaf in zip(names, tree_leaves(self.groups[0].carry), strict=True):
            got, shape = state.get(name), (count * leaf.shape[0], *leaf.shape[1:])
            if got is None:
                raise ValueError(f"checkpoint lacks {name}")
            if got.shape != shape or got.dtype != leaf.dtype:
                raise ValueError(
                    f"checkpoint has {name} {list(got.shape)} {got.dtype}, "
                    f"this run needs {list(shape)} {leaf.dtype}"
                )
        surplus = sorted(set(state) - set(names))
        if surplus:
            raise ValueError(f"checkpoint has {surplus[0]}, which this run does not know")
        if not 0 <= step <= self.run.steps:
            raise ValueError(f"checkpoint is at step {step}, outside [0, {self.run.steps}]")
        columns = [state[name].chunk(count) for name in names]
        for index, group in enumerate(self.groups):
            # The memory layout is what a step leaves: sums over it must not change their order.
            template = group.eager(group.carry, 0, 1) if step else group.carry
            leaves, structure = tree_flatten(template)
            fresh = [
                torch.empty_like(leaf).copy_(column[index])
                for leaf, column in zip(leaves, columns, strict=True)
            ]
            group.carry, group.time = tree_unflatten(fresh, structure), step
        self.step = step


@dataclass(frozen=True)
class History:
    """Records of a run.

    Attributes:
        step: `[R]` int64, steps taken at each record.
        metrics: `[R, N]` float64 each: cumulative reward and problem diagnostics.
        diagnostics: `[R, N]` each: agent diagnostics.
    """

    step: Tensor
    metrics: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


def records(loop: Rollout) -> Iterator[dict[str, Tensor]]:
    """Advance `loop` to its end, yielding the record at each point of the grid."""
    for point in loop.grid:
        if point > loop.step:
            loop.advance(point)
            yield loop.record()


def simulate(
    problem: Problem,
    agent: Agent,
    steps: int,
    replicas: int,
    *,
    seed: int = 0,
    first_replica: int = 0,
    group: int = 1024,
    tier: str = "auto",
    device: str = "cpu",
    time_limit: int | Tensor | None = None,
) -> History:
    """Run `replicas` independent repetitions of `agent` on `problem` for `steps` steps.

    Arguments are those of `Run`.
    """
    run = Run(problem, agent, steps, replicas, seed, first_replica, group, tier, device, time_limit)
    loop = Rollout(run)
    rows = list(records(loop))
    totals = set(loop.groups[0].carry.totals)
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return History(
        torch.tensor(loop.grid),
        {k: v for k, v in stacked.items() if k in totals},
        {k: v for k, v in stacked.items() if k not in totals},
    )
