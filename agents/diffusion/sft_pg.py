"""SFT-PG: a few-step sampler drawn to the data by policy gradient on a critic of its samples."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import Trained, improve, start_training
from rlkit.diffusion.agents import Learner
from rlkit.diffusion.critics import critic_loss, criticise, start_critic, start_value, value
from rlkit.diffusion.distances import mmd_witness, quantiles, witness_1d
from rlkit.diffusion.fitting import QUANTILES, FitAgent, fitted_task
from rlkit.diffusion.policies import GaussianSampler, Steps, log_normal, steps_of
from rlkit.diffusion.problem import check_finite
from rlkit.diffusion.task import Chains
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real

CRITICS = ("exact", "mmd", "learned")
BASELINES = ("value", "none")


class Memory(NamedTuple):
    """What the agent keeps beside its policy; () for what it does not need."""

    critic: Trained | tuple[()]
    value: Trained | tuple[()]
    data: Tensor | tuple[()]  # [N, M] quantiles of the data
    buffer: Tensor  # [N, n_critic, T + 1, B, d] chains since the last change of the policy


class Advantages(NamedTuple):
    """Steps that the policy learns from."""

    steps: Steps
    advantage: Tensor  # [N, M]


@agent("sft_pg")
@dataclass(frozen=True)
class SFTPG(FitAgent):
    """Policy gradient down an integral probability metric between samples and data.

    Fan and Lee (2023), "Optimizing DDPM sampling with shortcut fine-tuning", Theorem 3.1 and
    Algorithm 1. The critic f is high on samples; steps that led to a high f(x_0) - V(x_t, t)
    become less likely. Chains pile up over `n_critic` iterations, in each of which critic and
    value take a step; then the policy takes `n_generator`, and the pile is cleared. f is taken
    with mean 0 on the data: a constant critic changes nothing.

    Raises:
        ValueError: a field outside its range.
    """

    batch: int = 64  # chains an iteration, >= 2
    rate: float = 0.001  # step size of the policy's Adam, > 0
    critic: str = "learned"  # "learned", "mmd" (witness of kernels) or, on the line, "exact" (W1)
    critic_rate: float = 0.001  # step size of critic and value, > 0
    critic_hidden: tuple[int, ...] = (64, 64)  # widths of critic and value, >= 1
    penalty: float = 0.0  # weight of (|f'| - 1)^2, >= 0; the released code has none
    baseline: str = "value"  # "value" (learned V(x_t, t)) or "none"
    coupled: bool = False  # the value's error moves the critic, too, as in the released toy script
    n_critic: int = 1  # iterations between changes of the policy, >= 1
    n_generator: int = 1  # steps of Adam on the policy each time, >= 1
    minibatch: int = 0  # denoising steps in each of them, >= 0; 0: all that piled up
    gradient_clip: float = 0.0  # largest norm of the policy's gradient, >= 0; 0: no limit
    policy: str = "residual"  # "residual" (a perceptron), "spread" (deviations too) or "affine"
    hidden: tuple[int, ...] = (64, 64)  # widths of the perceptron, >= 1
    look: int = 1024  # chains that measure it at records, >= 2

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_fit()
        check_choice("critic", self.critic, CRITICS)
        check_real("critic_rate", self.critic_rate, 0, open_low=True)
        check_real("penalty", self.penalty, 0)
        check_choice("baseline", self.baseline, BASELINES)
        check_integer("n_critic", self.n_critic, 1)
        check_integer("n_generator", self.n_generator, 1)
        check_integer("minibatch", self.minibatch, 0)
        check_real("gradient_clip", self.gradient_clip, 0)
        if self.coupled and (self.critic, self.baseline) != ("learned", "value"):
            raise ValueError(
                f"coupled = True with critic = {self.critic!r}, baseline = {self.baseline!r}; "
                "accepted: critic = 'learned', baseline = 'value'"
            )
        for size in self.critic_hidden:
            check_integer("critic_hidden", size, 1)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: masked sequences, several prompts, steps that are mixtures or have no
                density, more piled steps than there are, or an exact critic above one dimension.
        """
        task = fitted_task(spec)
        if task.kernel.deterministic:
            raise ValueError("eta = 0 has no density; accepted: (0, 1]")
        if self.critic == "exact" and task.dimension > 1:
            raise ValueError(
                f"critic = 'exact' in {task.dimension} dimensions; accepted: 'mmd', 'learned'"
            )
        piled = self.n_critic * self.batch * task.steps
        check_integer("minibatch", self.minibatch * self.n_generator, 0, piled)
        return super().initial(spec, rng)

    def remember(self, spec: Spec, rng: Rng) -> Memory:
        """Critic and value 0, nothing piled up."""
        task = fitted_task(spec)
        d, wide = task.dimension, self.critic_hidden
        critic: Trained | tuple[()] = ()
        level: Trained | tuple[()] = ()
        data: Tensor | tuple[()] = ()
        if self.critic == "learned":
            critic = start_training(start_critic(rng.child("critic"), d, wide))
        if self.baseline == "value":
            level = start_training(start_value(rng.child("value"), d, wide))
        if self.critic == "exact":
            data = quantiles(task.mixture, QUANTILES)
        shape = (rng.n, self.n_critic, task.steps + 1, self.batch, d)
        empty = torch.zeros(shape, dtype=torch.float64, device=rng.device)
        return Memory(critic, level, data, empty)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step of critic and value; every `n_critic` iterations, some of the policy."""
        written: Chains = batch.action
        memory: Memory = state.memory
        slot = int(rng.step) % self.n_critic  # the host knows it; reading the state back would wait
        parts = list(memory.buffer.unbind(1))
        parts[slot] = written.chain
        memory = memory._replace(buffer=torch.stack(parts, 1))
        data = fitted_task(spec).data(rng, "data", written.prompt)
        worth = self.worth(spec, memory, written.point, data)
        memory = memory._replace(
            value=self.regressed(spec, memory, written, worth),
            critic=self.criticised(spec, memory, written, data, rng),
        )
        policy = state.policy
        if slot == self.n_critic - 1:
            policy = self.improved(spec, policy, memory, data, worth, rng)
            memory = memory._replace(buffer=torch.zeros_like(memory.buffer))
        return Learner(policy, memory, state.iteration + 1, state.replica)

    def worth(self, spec: Spec, memory: Memory, point: Tensor, data: Tensor) -> Tensor:
        """Critic f at samples `[N, B, d]`, less its mean on the data unless `coupled`, `[N, B]`.

        Raises:
            ValueError: a value that is not finite.
        """
        with torch.no_grad():
            if isinstance(memory.data, Tensor):
                found = witness_1d(point[..., 0], memory.data, point[..., 0])
            elif isinstance(memory.critic, Trained):
                found = criticise(memory.critic.parameters, point).double()
                if not self.coupled:  # then V learns the constant, and f learns from V
                    level = criticise(memory.critic.parameters, data).mean(1, keepdim=True)
                    found = found - level.double()
            else:
                # Its mean on the data is a constant, too, which only the value has to learn.
                found = mmd_witness(point, fitted_task(spec).mixture)
        check_finite("the critic", found)
        return found

    def regressed(
        self, spec: Spec, memory: Memory, written: Chains, worth: Tensor
    ) -> Trained | tuple[()]:
        """A step of V(x_t, t) towards f(x_0) `worth` `[N, B]`, at all t."""
        if not isinstance(memory.value, Trained):
            return ()
        steps, horizon = steps_of(written), fitted_task(spec).steps
        target = worth.float().repeat(1, horizon)

        def loss(parameters: Tree) -> Tensor:
            return ((value(parameters, steps.x, steps.t, horizon) - target) ** 2).mean(1)

        return improve(memory.value, loss, self.critic_rate)

    def criticised(
        self, spec: Spec, memory: Memory, written: Chains, data: Tensor, rng: Rng
    ) -> Trained | tuple[()]:
        """A step of f up on samples and down on data `[N, B, d]`; `coupled`, towards V, too."""
        if not isinstance(memory.critic, Trained):
            return ()
        mix = rng.uniform("mix", data.shape[1])
        horizon = fitted_task(spec).steps
        values = self.levels(spec, memory, steps_of(written)) if self.coupled else None

        def loss(parameters: Tree) -> Tensor:
            gap = critic_loss(parameters, written.point, data, self.penalty, mix)
            if values is None:
                return gap
            target = criticise(parameters, written.point).repeat(1, horizon)
            return gap + ((values - target) ** 2).mean(1)

        return improve(memory.critic, loss, self.critic_rate)

    def improved(
        self,
        spec: Spec,
        policy: Trained,
        memory: Memory,
        data: Tensor,
        worth: Tensor,
        rng: Rng,
    ) -> Trained:
        """Steps of policy gradient on what piled up; `worth` `[N, B]` is f at the last points."""
        known = worth if self.critic != "learned" and self.n_critic == 1 else None
        found = self.advantages(spec, memory, data, known)
        total = found.advantage.shape[1]
        order = rng.permutation("order", total) if self.minibatch else None
        for turn in range(self.n_generator):
            part = found
            if order is not None:
                part = chosen(found, order[:, turn * self.minibatch :][:, : self.minibatch])
            loss = partial(self.objective, spec, part)
            policy = improve(policy, loss, self.rate, self.gradient_clip or math.inf)
        return policy

    def advantages(
        self, spec: Spec, memory: Memory, data: Tensor, worth: Tensor | None = None
    ) -> Advantages:
        """All piled steps with f(x_0) - V(x_t, t); f `[N, n_critic B]`, unless it is given."""
        n, piles, size, b, d = memory.buffer.shape
        chain = memory.buffer.transpose(1, 2).reshape(n, size, piles * b, d)
        prompt = torch.zeros(n, piles * b, dtype=torch.int64, device=chain.device)
        steps = steps_of(Chains(chain, prompt, chain[:, 1:, :, 0]))
        if worth is None:
            worth = self.worth(spec, memory, chain[:, 0], data)
        advantage = worth.repeat(1, size - 1)
        if isinstance(memory.value, Trained):
            advantage = advantage - self.levels(spec, memory, steps).double()
        return Advantages(steps, advantage)

    def levels(self, spec: Spec, memory: Memory, steps: Steps) -> Tensor:
        """V at all steps, `[N, M]`, held fixed."""
        assert isinstance(memory.value, Trained)
        with torch.no_grad():
            return value(memory.value.parameters, steps.x, steps.t, fitted_task(spec).steps)

    def objective(self, spec: Spec, found: Advantages, parameters: Tree) -> Tensor:
        """Mean of advantage times log-probability, `[N]`, to be made small."""
        model, steps = self.model, found.steps
        assert isinstance(model, GaussianSampler)
        law = model.moments(spec, parameters, steps.x, steps.t, steps.prompt)
        score = log_normal(steps.following, law.mean, law.deviation)
        return (found.advantage * score).mean(1)

    def evaluations(self, spec: Spec) -> float:
        """T to write chains; one forward and twice that backward for each step learned from."""
        steps = fitted_task(spec).steps
        piled = self.n_critic * self.batch
        learned = self.n_generator * (self.minibatch or piled * steps)
        return steps + 3.0 * learned / piled


def chosen(found: Advantages, index: Tensor) -> Advantages:
    """Steps at `index` `[N, m]` int64."""
    steps = found.steps
    deep = index[..., None].expand(*index.shape, steps.x.shape[-1])
    part = Steps(
        steps.x.gather(1, deep),
        steps.following.gather(1, deep),
        steps.t.gather(1, index),
        steps.prompt.gather(1, index),
    )
    return Advantages(part, found.advantage.gather(1, index))
