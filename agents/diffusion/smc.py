"""SMC: particles of the reference, resampled by the change of their value."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.guidance import Proposal
from rlkit.diffusion.inference import Written
from rlkit.diffusion.particles import ParticleAgent
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent


@agent("diffusion_smc")
@dataclass(frozen=True)
class DiffusionSMC(ParticleAgent):
    """Sequential Monte Carlo with the reference as proposal.

    Weights gain `exp((V_(t-1) - V_t) / alpha)` a step; groups of `particles` are resampled where
    their effective share falls to `threshold`, and at the end. All particles are outputs. Wu et al.
    (2023) with the bootstrap proposal.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the target law, > 0; infinity is the reference
    batch: int = 60  # outputs an iteration, a multiple of `particles`
    particles: int = 10  # K of a group, >= 1
    threshold: float = 0.5  # effective share that calls for resampling, in [0, 1]; 1: always
    scheme: str = "systematic"  # "systematic" or "multinomial"
    value: str = "pm"  # "exact", "pm", "pm_argmax" or "mc"
    target: str = "mean"  # of "mc": "mean", "soft" or "bellman"
    pretrain: int = 512  # chains that "mc" is fitted to; 0: infinitely many, by enumeration
    hidden: tuple[int, ...] = (64, 64)  # layers of the fitted network, >= 1
    rate: float = 0.01  # its step size, > 0
    updates: int = 200  # its steps of Adam, >= 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.filter  # noqa: B018
        self.check(self.particles)

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """All particles at the end."""

        def move(x: Tensor, t: int, asked: Tensor, name: str) -> Proposal:
            following = task.step(x, t, asked, rng, name)
            return Proposal(following, torch.zeros_like(asked, dtype=torch.float64))

        return self.filter.write(task, memory, prompt, move, rng)

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """A call a step, which gives the posterior mean as well, and its reward."""
        posterior = self.value in ("pm", "pm_argmax")
        return float(task.steps), float(task.steps + 1 if posterior else 1)
