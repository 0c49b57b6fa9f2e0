"""Whether a run fits in memory, found by trying it at two replicas before it starts."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Protocol

CGROUP = Path("/sys/fs/cgroup")
PROBE = 2  # replicas of the trial
WORKING_COPIES = 4  # old state, new state, temporaries of a step
SIZE_REPLICAS = 64  # an integer field beyond free / (4 bytes x this) is refused untried


class Size(Protocol):
    """What a run's size depends on."""

    @property
    def steps(self) -> int:
        """Length of the run."""

    @property
    def replicas(self) -> int:
        """Repetitions asked for."""

    @property
    def padded_replicas(self) -> int:
        """Repetitions computed."""

    @property
    def device(self) -> str:
        """Where the state lives."""


def free_bytes(device: str = "cpu") -> int:
    """Free memory of a device; on the CPU the smaller of the system's and the control group's."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    system = _available()
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    if limit is None or used is None:
        return system
    return min(system, max(0, limit - used + _cache()))


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    pages = next((p for p in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if p in os.sysconf_names), "")
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages else 1 << 62


def _cache() -> int:
    """Bytes of cached files in the control group, which give way to a program's memory."""
    path = CGROUP / "memory.stat"
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def gib(count: float) -> str:
    """Bytes in readable units."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def check_memory(problem: Any, agent: Any, config: Size) -> None:
    """Refuse a run whose state and records exceed the free memory.

    Raises:
        ValueError: it does not fit, with the estimate; or problem and agent do not go together.
    """
    free = free_bytes(config.device)
    for group, part in (("env", problem), ("agent", agent)):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            needed = value * 4 * SIZE_REPLICAS if isinstance(value, int) else 0
            if needed > free and field.name != "horizon":
                raise ValueError(
                    f"{group}.{field.name} = {value}: arrays of this length need {gib(needed)} for "
                    f"{SIZE_REPLICAS} replicas, {gib(free)} are free; allowed: a smaller number"
                )
    state, metrics, points = trial(problem, agent, config.steps)
    memory = WORKING_COPIES * state * config.padded_replicas
    records = 8 * metrics * points * config.replicas
    if memory + records > free:
        padded = config.padded_replicas > config.replicas
        smaller = f"group={config.replicas}, " if padded else ""
        raise ValueError(
            f"replicas = {config.replicas}: needs about {gib(memory + records)} "
            f"({state:,.0f} bytes x {config.padded_replicas:,} replicas x {WORKING_COPIES} of state"
            f" + {points} records x {config.replicas:,} replicas x {metrics} metrics x 8 bytes), "
            f"{gib(free)} are free; allowed: {smaller}fewer replicas or smaller arrays"
        )


def trial(problem: Any, agent: Any, steps: int) -> tuple[float, int, int]:
    """Bytes of state a replica, number of metrics, number of records; takes one step.

    Raises:
        ValueError: the agent refuses the problem, or even two replicas do not fit.
    """
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from rlkit.rollout import Rollout, Run

    run = Run(problem, agent, steps, PROBE, group=PROBE, tier="eager")
    try:
        loop = Rollout(run)
        loop.advance(1)
        record = loop.record()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise ValueError(f"{PROBE} replicas of this problem and agent exceed the memory") from None
    instance = (leaf for group in loop.groups for leaf in tree_leaves(group.instance.replica))
    leaves = [*loop.state().values(), *(leaf for leaf in instance if isinstance(leaf, Tensor))]
    return sum(leaf.nbytes for leaf in leaves) / PROBE, len(record), len(loop.grid)
