"""DDPO: policy gradients over the steps of a sampler."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.training import improve
from rlkit.diffusion.agents import DiffusionAgent, Learner
from rlkit.diffusion.prompt_statistics import (
    LEAST,
    PromptStatistics,
    moments_of,
    record,
    start_statistics,
)
from rlkit.diffusion.proximal import (
    Rollout,
    behaviour,
    divergence_to_go,
    minibatches,
    ratio,
    refuse_unsuitable,
    rollout_of,
    surrogate,
    warn_of_constant,
)
from rlkit.diffusion.task import Chains, knowledge
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


@agent("ddpo")
@dataclass(frozen=True)
class DDPO(DiffusionAgent):
    """Denoising diffusion policy optimisation: every denoising step is an action.

    Black et al. (2024), equations 3 and 4, for points and, with the discrete twin of the step, for
    masked sequences. Their clip of 1e-4 belongs to means over 16,384 dimensions; here sums over
    few of them are usual, and 0.2. With `kl="return"` the divergence of later steps enters the
    return and that of the step itself the loss: an unbiased gradient of reward minus `alpha` times
    path divergence. With "loss_only" (as in DPOK) later divergences are nobody's fault.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # weight of the divergence from the reference, >= 0
    batch: int = 32  # chains an iteration, >= 2
    rate: float = 0.003  # step size of Adam, > 0
    policy: str = "residual"  # points: "affine", "residual", "spread"; masked: "table", "network"
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of a network, >= 1
    mode: str = "is"  # "is" (importance sampling with clip) or "sf" (a single on-policy step)
    kl: str = "return"  # where alpha acts: "return", "loss_only" or "none"
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    epochs: int = 2  # passes over a batch of "is", >= 1
    pieces: int = 4  # minibatches over (t, chain) a pass of "is", >= 1
    reduce: str = "sum"  # of log-probabilities over dimensions: "sum" or "mean"
    advantage_clip: float = 5.0  # largest advantage in standard deviations, > 0
    gradient_clip: float = 1.0  # largest norm of a gradient, > 0, inf for none
    buffer: int = 32  # rewards of each prompt that give its mean and deviation, >= 16

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check(least=2)
        check_choice("mode", self.mode, ("is", "sf"))
        check_choice("kl", self.kl, ("return", "loss_only", "none"))
        check_choice("reduce", self.reduce, ("sum", "mean"))
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)
        check_integer("pieces", self.pieces, 1)
        check_integer("buffer", self.buffer, LEAST)
        check_real("advantage_clip", self.advantage_clip, 0, open_low=True)
        check_real("gradient_clip", self.gradient_clip, 0, open_low=True, infinite=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference and empty buffers.

        Raises:
            ValueError: a problem without densities or rewards of points, an unfit policy, or more
                minibatches than steps of chains.
        """
        refuse_unsuitable(spec)
        if self.mode == "is":
            check_integer("pieces", self.pieces, 1, self.batch * knowledge(spec).steps)
        return super().initial(spec, rng)

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """Rewards of every prompt."""
        return start_statistics(rng, knowledge(spec).prompts, self.buffer)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Steps of policy gradient on the chains just written."""
        rollout, memory = self.judged(spec, state, batch.action, batch.feedback.reward)
        policy = state.policy
        if self.mode == "sf":
            policy = improve(
                policy, lambda p: self.loss(spec, p, rollout), self.rate, self.gradient_clip
            )
        else:
            for piece in minibatches(rollout, rng, self.epochs, self.pieces):
                policy = improve(
                    policy,
                    lambda p, piece=piece: self.loss(spec, p, piece),  # type: ignore[misc]
                    self.rate,
                    self.gradient_clip,
                )
        return state._replace(policy=policy, memory=memory, iteration=state.iteration + 1)

    def judged(
        self, spec: Spec, state: Learner, chains: Chains, reward: Tensor
    ) -> tuple[Rollout, PromptStatistics]:
        """Steps with advantages and weights of their divergence, in standard deviations."""
        warn_of_constant(reward)
        memory = record(state.memory, reward, chains.prompt)
        mean, deviation = moments_of(memory, reward, chains.prompt)
        price = (0.0 if self.kl == "none" else self.alpha) / deviation
        advantage = ((reward - mean) / deviation)[:, None].expand_as(chains.log_probability)
        if self.kl == "return" and self.alpha > 0:
            each = behaviour(spec, self.model, state.policy.parameters, chains)
            later = divergence_to_go(each).to(advantage.dtype)
            advantage = advantage - price[:, None] * (later - later.mean(2, keepdim=True))
        advantage = advantage.clamp(-self.advantage_clip, self.advantage_clip)
        return rollout_of(chains, advantage, price[:, None].expand_as(advantage)), memory

    def loss(self, spec: Spec, parameters: Tree, rollout: Rollout) -> Tensor:
        """Negative gain plus priced divergence, mean over steps, `[N]`."""
        wanted = self.kl != "none" and self.alpha > 0
        found = self.model.assess(spec, parameters, rollout.steps, wanted)
        share = 1.0 if self.reduce == "sum" else 1 / math.prod(rollout.steps.x.shape[2:])
        if self.mode == "sf":
            gain = rollout.advantage * share * found.log_probability
        else:
            bare = ratio(found.log_probability, rollout.log_probability, share)
            gain = surrogate(bare, rollout.advantage, self.clip)
        return (share * rollout.weight * found.divergence - gain).mean(1)

    def evaluations(self, spec: Spec) -> float:
        """T a chain, T more where divergences enter the return, 3 T for each pass over it."""
        known = 1 if self.kl == "return" and self.alpha > 0 else 0
        passes = 1 if self.mode == "sf" else self.epochs
        return knowledge(spec).steps * (1 + known + 3 * passes)
