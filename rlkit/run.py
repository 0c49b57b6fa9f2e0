"""What is simulated, and at which steps it is recorded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.engine import check_count, check_seed
from rlkit.protocol import Agent, Problem

TIERS = ("auto", "eager", "words", "compiled", "graph")


@dataclass(frozen=True)
class Run:
    """What is simulated. A replica's results are a function of this and its number alone.

    Attributes:
        problem, agent: frozen dataclasses of parameters.
        steps: length T of the run, >= 1.
        replicas: number of independent repetitions, >= 1.
        seed: in `[0, 2**32)`.
        first_replica: global number of the first repetition, >= 0.
        group: replicas advanced together, >= 1; the last group is padded and the padding dropped.
        tier: one of `TIERS`; "auto" is "eager".
        device: torch device.
        time_limit: episode length in place of the problem's horizon: an integer, or `[replicas]`.
    """

    problem: Problem
    agent: Agent
    steps: int
    replicas: int
    seed: int = 0
    first_replica: int = 0
    group: int = 1024
    tier: str = "auto"
    device: str = "cpu"
    time_limit: int | Tensor | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1)
        check_count("replicas", self.replicas, 1)
        check_count("first_replica", self.first_replica, 0)
        check_count("group", self.group, 1)
        check_seed(self.seed)
        if self.first_replica + self.replicas > 2**32:
            raise ValueError(f"replica numbers go to {self.first_replica + self.replicas} > 2**32")
        if self.steps >= 2**32 - 1:
            raise ValueError(f"steps = {self.steps} outside [1, 2**32 - 1)")
        if self.tier not in TIERS:
            raise ValueError(f"tier = {self.tier!r} is not one of {', '.join(TIERS)}")
        check_limit(self.time_limit, self.replicas)


def check_limit(limit: int | Tensor | None, replicas: int) -> None:
    """Refuse time limits that are not integers >= 1, one for all or one a replica."""
    if isinstance(limit, Tensor):
        whole = not (limit.is_floating_point() or limit.is_complex() or limit.dtype == torch.bool)
        if tuple(limit.shape) != (replicas,) or not whole or int(limit.min()) < 1:
            raise ValueError(f"time_limit = {limit} is not [{replicas}] integers >= 1")
    elif limit is not None:
        check_count("time_limit", limit, 1)


def largest_chunk(steps: int) -> int:
    """Steps of the longest chunk: a power of two near `steps / 64`, in `1 .. 64`."""
    return 1 << min(6, max(0, (steps // 64).bit_length() - 1))


def record_grid(steps: int, per_decade: int = 40) -> list[int]:
    """Steps after which a record is taken; a function of the length of the run alone.

    Every step up to the longest chunk, then about `per_decade` log-spaced multiples of it, and
    the last step.
    """
    chunk = largest_chunk(steps)
    grid = set(range(1, min(chunk, steps) + 1)) | {steps}
    point = float(chunk)
    while point < steps:
        grid.add(min(steps, chunk * round(point / chunk)))
        point *= 10 ** (1 / per_decade)
    return sorted(grid)
