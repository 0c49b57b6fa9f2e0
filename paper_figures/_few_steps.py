"""What the figures of few-step samplers share: frozen baselines, runs once more, their chains."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlkit import parameters
from rlkit.diffusion.curves import moons, swiss_roll
from rlkit.diffusion.distances import mmd2_to_mixture
from rlkit.diffusion.fitting import QUANTILES, distance, reference_points
from rlkit.diffusion.kernels import Kernel
from rlkit.diffusion.mixtures import Mixture, gm1, gm2
from rlkit.diffusion.schedules import Schedule, linear_schedule, sigmoid_schedule
from rlkit.diffusion.solvers import dpm_solver
from rlkit.figures import Array, Cell
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

DATA = {"gm1": gm1, "gm2": gm2, "swiss_roll": swiss_roll, "moons": moons}
FULL = 200  # steps of a full chain


def build(config: Mapping[str, Any], kind: Literal["problem", "agent"]) -> Any:
    """Problem or agent of a flattened configuration."""
    prefix = {"problem": "env.", "agent": "agent."}[kind]
    fields = {k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}
    return parameters.build(kind, fields)


def levels(steps: int, end_beta: float = 0.0) -> Schedule:
    """The sigmoid schedule to `end_beta`, or where that is 0 the linear one."""
    return sigmoid_schedule(steps, end_beta) if end_beta else linear_schedule(steps)


def frozen(
    data: Mixture, schedule: Schedule, sampler: str, variance: str, start: Tensor, rng: Rng
) -> Tensor:
    """Samples of the pre-trained denoiser by "ddpm", "ddim" or "dpm++", `[N, B, d]`."""
    if sampler == "dpm++":
        return dpm_solver(data, schedule, start)
    kernel = Kernel(schedule, sampler, variance, 0.0)
    x = start
    for t in range(schedule.steps, 0, -1):
        mean, deviation = kernel.gaussian(x, data.denoise(x, schedule.at(t)), t)
        noise = rng.normal(f"noise/{t}", *x.shape[1:], dtype=x.dtype)
        x = mean if kernel.deterministic else mean + deviation[..., None] * noise
    return x


@cache
def baseline(
    data: str,
    steps: int,
    sampler: str,
    count: int = 8192,
    replicas: int = 8,
    end_beta: float = 0.0,
    variance: str = "small",
) -> tuple[Array, Array]:
    """Distance and squared MMD of the pre-trained sampler from the data, `[N]` each."""
    rng = Rng(1, "baseline", torch.arange(replicas))
    found = []
    for row in range(replicas):  # one by one: full chains of all would fill the memory
        one = Rng(1, "baseline", rng.replica[row : row + 1])
        law = DATA[data](1)
        start = one.normal("start", count, law.dimension, dtype=torch.float64).contiguous()
        x = frozen(law, levels(steps, end_beta), sampler, variance, start, one)
        size = QUANTILES if law.dimension == 1 else count
        target = reference_points(law, size, one)
        found.append((distance(x, target).item(), mmd2_to_mixture(x[:, :4096], law).item()))
    both = np.array(found)
    return both[:, 0], both[:, 1]


class Rerun:
    """A run once more in the same groups, as far as `steps`; shows its first replica."""

    def __init__(self, cell: Cell, steps: int, count: int = 4000) -> None:
        config = cell.config
        self.cell, self.count, self.group = cell, count, int(config["group"])
        self.problem, self.agent = build(config, "problem"), build(config, "agent")
        loop = Rollout(
            Run(
                self.problem,
                self.agent,
                max(steps, 1),
                1,
                int(config["seed"]),
                group=self.group,
            )
        )
        self.loop, self.spec = loop, loop.groups[0].spec

    def chains(self, steps: int) -> Array:
        """Points after `steps` iterations, noise level first, `[T + 1, B, d]`.

        Raises:
            ValueError: the run does not come out as it was recorded.
        """
        self.loop.advance(steps)
        state = self.loop.groups[0].carry.agent
        if steps in self.cell.step:
            again = self.agent.diagnostics(self.spec, state)["distance"][0].item()
            wanted = self.cell.metric("distance")[self.cell.step == steps][0, 0]
            if not np.isclose(again, wanted, rtol=1e-6):
                raise ValueError(f"{self.cell.run.key} again: distance {again}, was {wanted}")
        rng = Rng(2, "chains", torch.arange(self.group))
        prompt = torch.zeros(self.group, self.count, dtype=torch.int64)
        with torch.no_grad():
            written = self.agent.model.write(self.spec, state.policy.parameters, prompt, rng)
        found: Array = written.chain[0].numpy()
        return found

    @property
    def data(self) -> Array:
        """A sample of the data, `[B, d]`."""
        rng = Rng(2, "data", torch.arange(self.group))
        prompt = torch.zeros(self.group, self.count, dtype=torch.int64)
        sample: Array = self.spec.known.diffusion.data(rng, "data", prompt)[0].numpy()
        return sample
