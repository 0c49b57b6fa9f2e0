"""DPS: steps of the reference that follow the gradient of the reward of the posterior mean."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.guidance import Guided, check_guided, value_slope
from rlkit.diffusion.inference import SteeringAgent, Written
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_real


@agent("dps")
@dataclass(frozen=True)
class DPS(SteeringAgent):
    """Diffusion posterior sampling: each step is tilted along the gradient of `r(x0_hat) / alpha`.

    Chung et al. (2023), with the score's own units for the step size: points move by the variance
    of the step times the gradient. Exact for one Gaussian and a linear reward, else biased, as the
    reward of a mean is not the soft mean of rewards.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the target law, > 0; infinity is the reference
    batch: int = 64  # outputs an iteration, >= 1
    scale: float = 1.0  # of the gradient, >= 0; 0 is the reference

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_real("scale", self.scale, 0)

    def suits(self, task: DiffusionTask) -> None:
        """Refuse rewards without a gradient.

        Raises:
            ValueError: the reward has none.
        """
        check_guided(task, self.model)

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """Guided chains."""
        x = task.start(rng, "start", self.batch)
        for t in range(task.steps, 0, -1):
            slope = value_slope(task, self.model, memory, x, t, prompt) / self.alpha
            x = Guided(task).step(x, t, prompt, self.scale * slope, rng, f"move/{t}").point
        return Written(x, torch.ones_like(prompt[:, 0], dtype=torch.float64))

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """A forward and a backward call and a reward a step."""
        return float(3 * task.steps), float(task.steps + 1)
