"""What agents that choose the initial noise share."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.noise_policies import every_prompt, refuse_lost_noise
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.task import Noise
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.validation import check_integer


class Seeker(NamedTuple):
    """State of such an agent."""

    law: Any  # the law of x_T, Trained where gradients move it
    memory: Any  # what else an agent keeps, () for most
    iteration: Tensor  # [N] int64 iterations so far
    replica: Tensor  # [N] int64 their numbers, for the draws of what is looked at


class NoiseAgent:
    """Batches of x_T for every prompt, and their count; agents add fields, `learn` and a law.

    A step of the engine is an iteration: `act` chooses `batch` starts for each prompt, `learn`
    gets the rewards of the frozen sampler.
    """

    # Set in every class, where the catalogue reads them: ("diffusion",) and False.
    needs: ClassVar[tuple[str, ...]]
    compilable: ClassVar[bool]

    # Fields of every such agent.
    batch: int
    allow_uncontrollable: bool

    def check(self, least: int = 1) -> None:
        """Refuse shared fields outside their range; a batch holds `least` or more."""
        check_integer("batch", self.batch, least)

    def suited(self, spec: Spec) -> GaussianDiffusion:
        """The task.

        Raises:
            ValueError: no points in R^d, or a sampler under which x_T has no influence.
        """
        task = gaussian_task(spec)
        refuse_lost_noise(task.kernel, self.allow_uncontrollable)
        return task

    def starts(self, spec: Spec, rng: Rng, point: Tensor) -> Noise:
        """The action that runs `point` `[N, C, B, d]`."""
        prompt = every_prompt(gaussian_task(spec), rng.replica, point.shape[2])
        return Noise(point.flatten(1, 2), prompt)

    def scored(self, spec: Spec, batch: Transition) -> tuple[Tensor, Tensor]:
        """Starts `[N, C, B, d]` with their rewards `[N, C, B]`.

        Raises:
            ValueError: rewards of another shape.
        """
        point, reward = batch.action.point, batch.feedback.reward
        if reward.shape != point.shape[:2]:
            raise ValueError(
                f"reward has shape {tuple(reward.shape)}; accepted: {tuple(point.shape[:2])}"
            )
        task = gaussian_task(spec)
        n, c = len(point), task.prompts
        return point.reshape(n, c, -1, task.dimension), reward.double().reshape(n, c, -1)

    def spent(self, spec: Spec, iteration: Tensor) -> Tensor:
        """Evaluations of the denoiser so far `[N]`: T for each start."""
        task = gaussian_task(spec)
        return iteration.double() * (self.batch * task.prompts * task.steps)


def fresh(rng: Rng) -> Tensor:
    """Iterations `[N]`: none."""
    return torch.zeros_like(rng.replica)
