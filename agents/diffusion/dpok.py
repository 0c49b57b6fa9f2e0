"""DPOK: policy gradients over the steps of a sampler, with a value network and a penalty."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import Trained, improve, start_training
from rlkit.diffusion.agents import DiffusionAgent, Learner
from rlkit.diffusion.proximal import (
    Rollout,
    minibatches,
    noise_factor,
    ratio,
    refuse_unsuitable,
    rollout_of,
)
from rlkit.diffusion.step_values import (
    Replay,
    StepValue,
    draw_steps,
    remember_chains,
    start_replay,
    start_values,
    step_values,
)
from rlkit.diffusion.task import Chains, knowledge
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


class Baseline(NamedTuple):
    """What DPOK keeps beside its policy."""

    value: Trained
    replay: Replay


@agent("dpok")
@dataclass(frozen=True)
class DPOK(DiffusionAgent):
    """Diffusion policy optimisation with a KL penalty and a learned baseline V(x_t, t, c).

    Fan et al. (2023), algorithm 1 as in the published code: ratios are cut off on both sides
    (no gradient outside, whatever the sign of the advantage), and the penalty is the squared
    distance of predicted noises, which is the KL of a step up to a factor of t, for masked
    sequences the KL. It is differentiated at the states met, so that no step pays for the
    divergence of later ones. Published weights 100 and 0.01, clip 1e-4 and rate 1e-5 belong to
    means over 16,384 dimensions; these here to sums over few.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # weight of the divergence in the measured objective, >= 0
    batch: int = 32  # chains an iteration, >= 1
    rate: float = 0.003  # step size of Adam, > 0
    policy: str = "residual"  # points: "affine", "residual", "spread"; masked: "table", "network"
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of all networks, >= 1
    reward_weight: float = 1.0  # w_r of the advantage, > 0
    kl_weight: float = 0.1  # w_kl of the penalty, >= 0
    penalty: str = "noise"  # "noise" (squared distance of predictions) or "kl" of the step
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    reduce: str = "sum"  # of log-probabilities and penalties over dimensions: "sum" or "mean"
    policy_steps: int = 5  # gradient steps an iteration, over parts of the batch, >= 1
    value_steps: int = 5  # gradient steps of the baseline an iteration, >= 1
    value_rate: float = 0.003  # step size of Adam for the baseline, > 0
    value_batch: int = 256  # steps of chains in one of them, >= 1
    replay: int = 128  # chains that the baseline learns from, >= `batch`
    gradient_clip: float = 1.0  # largest norm of a gradient of the policy, > 0, inf for none

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_real("reward_weight", self.reward_weight, 0, open_low=True)
        check_real("kl_weight", self.kl_weight, 0)
        check_choice("penalty", self.penalty, ("noise", "kl"))
        check_choice("reduce", self.reduce, ("sum", "mean"))
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("policy_steps", self.policy_steps, 1)
        check_integer("value_steps", self.value_steps, 1)
        check_real("value_rate", self.value_rate, 0, open_low=True)
        check_integer("value_batch", self.value_batch, 1)
        check_integer("replay", self.replay, self.batch)
        check_real("gradient_clip", self.gradient_clip, 0, open_low=True, infinite=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference, values of zero and an empty buffer.

        Raises:
            ValueError: a problem without densities or rewards of points, an unfit policy, or more
                minibatches than steps of chains.
        """
        refuse_unsuitable(spec)
        check_integer("policy_steps", self.policy_steps, 1, self.batch * knowledge(spec).steps)
        return super().initial(spec, rng)

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """Values and chains to learn them from."""
        values = start_training(start_values(spec, rng.child("value"), self.hidden))
        return Baseline(values, start_replay(spec, rng, self.replay))

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Steps of the baseline, then of the policy."""
        chains, reward = batch.action, batch.feedback.reward
        old: Baseline = state.memory
        replay = remember_chains(old.replay, chains, reward)
        value = self.regressed(spec, old.value, replay, rng)
        rollout = self.judged(spec, value.parameters, chains, reward)
        policy = state.policy
        for piece in minibatches(rollout, rng, 1, self.policy_steps):
            policy = improve(
                policy,
                lambda p, piece=piece: self.loss(spec, p, piece),  # type: ignore[misc]
                self.rate,
                self.gradient_clip,
            )
        memory = Baseline(value, replay)
        return state._replace(policy=policy, memory=memory, iteration=state.iteration + 1)

    def regressed(self, spec: Spec, value: Trained, replay: Replay, rng: Rng) -> Trained:
        """Values after steps towards the rewards of remembered chains."""
        for index in range(self.value_steps):
            steps, reward = draw_steps(replay, rng, f"value/{index}", self.value_batch)

            def loss(parameters: StepValue, steps=steps, reward=reward) -> Tensor:  # type: ignore[no-untyped-def]
                error = step_values(spec, parameters, steps) - reward
                return (error * error).mean(1)

            value = improve(value, loss, self.value_rate)
        return value

    def judged(self, spec: Spec, values: StepValue, chains: Chains, reward: Tensor) -> Rollout:
        """Steps with weighted advantages and weights of their divergence."""
        bare = torch.zeros_like(chains.log_probability)
        rollout = rollout_of(chains, bare, bare)
        told = reward[:, None].expand_as(bare).flatten(1).to(bare.dtype)
        with torch.no_grad():
            advantage = told - step_values(spec, values, rollout.steps).to(bare.dtype)
            weight = torch.full_like(told, self.kl_weight)
            if self.penalty == "noise":
                weight = weight * noise_factor(knowledge(spec), rollout.steps).to(weight.dtype)
        return rollout._replace(advantage=self.reward_weight * advantage, weight=weight)

    def loss(self, spec: Spec, parameters: Tree, rollout: Rollout) -> Tensor:
        """Negative gain with a cut-off ratio plus the penalty, mean over steps, `[N]`."""
        found = self.model.assess(spec, parameters, rollout.steps, self.kl_weight > 0)
        share = 1.0 if self.reduce == "sum" else 1 / math.prod(rollout.steps.x.shape[2:])
        bare = ratio(found.log_probability, rollout.log_probability, share)
        gain = rollout.advantage * bare.clamp(1 - self.clip, 1 + self.clip)
        return (share * rollout.weight * found.divergence - gain).mean(1)

    def evaluations(self, spec: Spec) -> float:
        """T a chain and 3 T for the pass over its steps; the baseline has a network of its own."""
        return 4.0 * knowledge(spec).steps
