"""DRAKES: a reward's gradient through relaxed chains of masked diffusion."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from rlkit.alignment.training import improve
from rlkit.diffusion.agents import DiffusionAgent, Learner
from rlkit.diffusion.masked_policies import MaskedSampler, masked_task
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.relaxed import (
    BLENDS,
    DIVERGENCES,
    Ending,
    RelaxedChain,
    ended,
    relax,
    relaxed_logs,
)
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


@agent("drakes")
@dataclass(frozen=True)
class DRAKES(DiffusionAgent):
    """Direct reward back-propagation with Gumbel softmax, on sequences.

    Wang et al. (2024), "Fine-tuning discrete diffusion models via reward optimization with
    applications to DNA and protein design", Algorithm 1. Every iteration draws relaxed chains;
    the reward's gradient reaches their last `truncation` steps, that of the divergence all of
    them. `kl="path"` is the divergence of the objective; "released" is what the published code
    computes, which is 0 on hard states. `blend="released"` is its step, whose gradient leaks
    through what is kept (see `rlkit.diffusion.relaxed.relaxed_step`). Chains that are scored and
    measured are fresh and hard.

    The gradient of hard states is replaced by that of soft ones, which is biased: on tiny exact
    problems policy gradients with the same divergence (`ddpo`) come closer to the optimum.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # weight of the divergence from the reference, >= 0
    batch: int = 32  # chains an iteration, >= 1
    rate: float = 0.003  # step size of Adam, > 0
    policy: str = "network"  # "network", "table" (up to 6 letters) or "conv" (a trained denoiser)
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of "network", >= 1
    truncation: int = 5  # K, last steps that the reward's gradient passes, in [0, T]
    temperature: float = 1.0  # of the Gumbel softmax, > 0
    straight_through: bool = True  # whether states of the last K steps are hard in value
    kl: str = "path"  # divergence in the loss: "path", "released" or "none"
    blend: str = "kept"  # how a step mixes old and new letters: "kept" or "released"
    warmup: int = 0  # iterations over which alpha rises linearly from 0, >= 0
    gradient_clip: float = 1.0  # largest norm of a gradient, > 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_integer("truncation", self.truncation, 0)
        check_real("temperature", self.temperature, 0, open_low=True)
        check_choice("kl", self.kl, DIVERGENCES)
        check_choice("blend", self.blend, BLENDS)
        check_integer("warmup", self.warmup, 0)
        check_real("gradient_clip", self.gradient_clip, 0, open_low=True)
        if self.truncation == 0 and (self.alpha == 0 or self.kl == "none"):
            raise ValueError("truncation = 0 without a divergence has no gradient; accepted: >= 1")

    @property
    def sampler(self) -> MaskedSampler:
        """The class of samplers, of sequences."""
        return cast(MaskedSampler, self.model)

    def refuse_policies(self) -> None:
        """Refuse policies of points.

        Raises:
            ValueError: naming the policy.
        """
        if not isinstance(self.model, MaskedSampler):
            raise ValueError(f"policy = {self.policy!r}; accepted: 'network', 'table', 'conv'")

    def chain(self, task: MaskedDiffusion) -> RelaxedChain:
        """How chains are relaxed.

        Raises:
            ValueError: more truncated steps than steps.
        """
        divergence = self.kl if self.alpha > 0 else "none"
        return RelaxedChain(
            task.steps,
            self.truncation,
            self.temperature,
            self.straight_through,
            divergence,
            self.blend,
        )

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: no masked sequences in parallel steps, a reward or a denoiser without
                gradient, more truncated steps than steps, or a policy that does not suit.
        """
        task = masked_task(spec)
        if task.chain != "parallel":
            raise ValueError(f"chain = {task.chain!r}; accepted: 'parallel'")
        self.chain(task)
        self.refuse_policies()
        probe = relax(task.start(rng, "probe", 1), self.dtype).requires_grad_()
        relaxed_logs(task.denoiser, probe)
        differentiable_reward(task, probe)
        return super().initial(spec, rng)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of relaxed states."""
        return torch.float32 if self.policy == "conv" else torch.float64

    def relaxed(self, spec: Spec, parameters: Tree, rng: Rng) -> Ending:
        """Relaxed chains of the sampler, differentiable."""
        task, sampler = masked_task(spec), self.sampler
        start = relax(task.start(rng, "start", self.batch), self.dtype)
        time = torch.zeros(start.shape[:2], dtype=torch.int64, device=start.device)
        return self.chain(task).run(
            start,
            lambda x, t: sampler.relaxed_laws(spec, parameters, x, time + t),
            lambda x, t: relaxed_logs(task.denoiser, x),
            rng,
        )

    def loss(self, spec: Spec, parameters: Tree, iteration: Tensor, rng: Rng) -> Tensor:
        """Negative reward plus weighted divergence, means over chains, `[N]`."""
        task = masked_task(spec)
        ending = self.relaxed(spec, parameters, rng)
        point = ended(ending.point)
        if self.truncation:
            reward = differentiable_reward(task, point)
        else:
            reward = point.new_zeros(point.shape[:2])
        price = self.alpha * self.share(iteration)
        return price * ending.divergence.mean(1) - reward.mean(1)

    def share(self, iteration: Tensor) -> Tensor:
        """Part of alpha that acts in an iteration `[N]`, rising to 1."""
        return ((iteration + 1).double() / max(1, self.warmup)).clamp(max=1)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step down the gradient of the loss of fresh relaxed chains."""
        policy = improve(
            state.policy,
            lambda parameters: self.loss(spec, parameters, state.iteration, rng),
            self.rate,
            self.gradient_clip,
        )
        return state._replace(policy=policy, iteration=state.iteration + 1)

    def evaluations(self, spec: Spec) -> float:
        """T to be scored, T relaxed, and 2 backward for each step that a gradient passes."""
        steps = masked_task(spec).steps
        back = steps if self.alpha > 0 and self.kl != "none" else self.truncation
        return 2 * steps + 2 * back


def differentiable_reward(task: MaskedDiffusion, point: Tensor) -> Tensor:
    """Observed reward `[N, B]` of relaxed letters `[N, B, L, 4 or 5]`.

    Raises:
        ValueError: it has no gradient.
    """
    with torch.enable_grad():
        reward = task.reward(point, torch.zeros_like(point[..., 0, 0], dtype=torch.int64))
    if not task.differentiable or not reward.requires_grad:
        raise ValueError("the reward breaks the graph; accepted: one with a gradient in letters")
    return reward
