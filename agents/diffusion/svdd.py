"""SVDD: several candidates a step, one of which is kept by its soft value."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.guidance import Guided
from rlkit.diffusion.inference import ValuedAgent, Written
from rlkit.diffusion.steering import candidates, svdd_select
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer


@agent("svdd")
@dataclass(frozen=True)
class SVDD(ValuedAgent):
    """Soft value-based decoding: of M reference steps from each state one is kept.

    Li et al. (2024), Algorithm 1: SVDD-PM with `value="pm"`, SVDD-MC with `value="mc"`. Needs no
    gradient of the reward. The released code is `greedy`.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the target law, > 0; infinity is the reference
    batch: int = 64  # outputs an iteration, >= 1
    candidates: int = 10  # M, drawn from the reference at each step, >= 1
    greedy: bool = False  # keep the best candidate (the paper's alpha = 0) instead of drawing one
    value: str = "pm"  # "exact", "pm", "pm_argmax" or "mc"
    target: str = "mean"  # of "mc": "mean", "soft" or "bellman"
    pretrain: int = 512  # chains that "mc" is fitted to; 0: infinitely many, by enumeration
    hidden: tuple[int, ...] = (64, 64)  # layers of the fitted network, >= 1
    rate: float = 0.01  # its step size, > 0
    updates: int = 200  # its steps of Adam, >= 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_integer("candidates", self.candidates, 1)
        self.model  # noqa: B018

    def suits(self, task: DiffusionTask) -> None:
        """Refuse deterministic steps.

        Raises:
            ValueError: all candidates are the same.
        """
        if Guided(task).deterministic:
            raise ValueError("eta = 0 makes all candidates equal; accepted: (0, 1]")

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """Chains that choose among candidates at every step."""
        count, model = self.candidates, self.model
        x, share = task.start(rng, "start", self.batch), []
        asked = prompt.repeat_interleave(count, 1)
        for t in range(task.steps, 0, -1):
            found = candidates(task, x, t, prompt, count, rng, f"candidates/{t}")
            value = model(task, memory, found.flatten(1, 2), t - 1, asked)
            uniform = rng.uniform(f"choice/{t}", self.batch, dtype=torch.float64)
            kept = svdd_select(
                found, value.unflatten(1, (-1, count)), 0.0 if self.greedy else self.alpha, uniform
            )
            x = kept.point
            share.append(kept.share)
        return Written(x, torch.stack(share).mean(0))

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """A call a step, and one a candidate before the last step for posterior means."""
        if self.value in ("pm", "pm_argmax"):
            judged = self.candidates * task.steps
            return float(task.steps + judged - self.candidates), float(judged)
        return float(task.steps), float(self.candidates)
