"""Best of N samples of the reference."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.inference import SteeringAgent, Written
from rlkit.diffusion.steering import svdd_select
from rlkit.diffusion.task import DiffusionTask, run_reference
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer


@agent("diffusion_best_of_n")
@dataclass(frozen=True)
class BestOfSamples(SteeringAgent):
    """Runs `candidates` chains of the reference for each output and keeps the best.

    Its law is `rlkit.diffusion.steering.best_of_n_law`, its divergence from the reference at most
    `log N - (N - 1) / N` nats. With one candidate it is the reference.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the law that outputs are compared with, > 0 or inf
    batch: int = 64  # outputs an iteration, >= 1
    candidates: int = 10  # N, chains an output, >= 1

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_integer("candidates", self.candidates, 1)

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """The best of each group of chains."""
        count = self.candidates
        asked = prompt.repeat_interleave(count, 1)
        start = task.start(rng, "start", self.batch * count)
        point = run_reference(task, start, asked, rng)
        reward = task.reward(point, asked).double().unflatten(1, (-1, count))
        unused = torch.zeros_like(reward[..., 0])
        kept = svdd_select(point.unflatten(1, (-1, count)), reward, 0.0, unused)
        return Written(kept.point, kept.share)

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """T calls and a reward a chain."""
        return float(self.candidates * task.steps), float(self.candidates)
