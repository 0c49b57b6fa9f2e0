"""Classifier guidance: steps of the reference that follow the gradient of a fitted value."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.guidance import Guided, check_guided, value_slope
from rlkit.diffusion.inference import ValuedAgent, Written
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real

REDUCTIONS = ("sum", "mean")


@agent("classifier_guidance")
@dataclass(frozen=True)
class ClassifierGuidance(ValuedAgent):
    """Each step is tilted along the gradient of a value fitted to chains of the reference.

    Dhariwal and Nichol (2021) with the value over `alpha` in place of the classifier's
    log-probability; on masked sequences, Nisonoff et al. (2024), first order.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the target law, > 0; infinity is the reference
    batch: int = 64  # outputs an iteration, >= 1
    scale: float = 1.0  # of the gradient, >= 0; 0 is the reference
    reduction: str = "sum"  # over the batch before the gradient; "mean" is B times weaker (code)
    value: str = "mc"  # "mc" or "exact"
    target: str = "mean"  # of "mc": "mean", "soft" or "bellman"
    pretrain: int = 512  # chains that "mc" is fitted to; 0: infinitely many, by enumeration
    hidden: tuple[int, ...] = (64, 64)  # layers of the fitted network, >= 1
    rate: float = 0.01  # its step size, > 0
    updates: int = 200  # its steps of Adam, >= 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_real("scale", self.scale, 0)
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_choice("value", self.value, ("mc", "exact"))
        self.model  # noqa: B018

    def suits(self, task: DiffusionTask) -> None:
        """Refuse values without a gradient.

        Raises:
            ValueError: the value has none.
        """
        check_guided(task, self.model)

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """Guided chains."""
        x = task.start(rng, "start", self.batch)
        scale = self.scale / self.alpha
        if self.reduction == "mean":
            scale = scale / self.batch
        for t in range(task.steps, 0, -1):
            slope = value_slope(task, self.model, memory, x, t, prompt)
            x = Guided(task).step(x, t, prompt, scale * slope, rng, f"move/{t}").point
        return Written(x, torch.ones_like(prompt[:, 0], dtype=torch.float64))

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """A call a step; the value has a network of its own."""
        return float(task.steps), 0.0
