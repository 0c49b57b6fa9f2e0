"""Estimates of the soft value of a noisy point, `V_t(x_t) = alpha log E[exp(r / alpha) | x_t]`.

"exact" is that; "pm" is the reward of the posterior mean of x_0, "pm_argmax" of its likeliest
letters; "mc" is fitted to chains of the reference. At time 0 all of them are the reward itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import improve, start_training
from rlkit.diffusion.masked import LETTERS, sequences
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.policies import clock
from rlkit.diffusion.task import DiffusionTask
from rlkit.diffusion.value_tables import (
    Trajectories,
    codes,
    enumerated,
    mean_values,
    reference_chains,
    table_fit,
)
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

VALUES = ("exact", "pm", "pm_argmax", "mc")
TARGETS = ("mean", "soft", "bellman")
STEP_BATCH = 256  # states in a gradient step of a fit
EQUAL = 1e-9  # letters whose probabilities differ by less are equally likely: the first counts
CAP = 8.0  # (target - value) / alpha above which the soft loss goes on as a line


class NetworkValue(NamedTuple):
    """A fitted perceptron."""

    network: Perceptron
    offset: Tensor  # [N] mean reward, which is added


@dataclass(frozen=True)
class ValueModel:
    """How values are estimated; what it learnt is a tree `memory` of leaves `[N, ...]`.

    Attributes:
        kind: "exact", "pm", "pm_argmax" or "mc".
        alpha: temperature, > 0.
        target: of "mc": "mean" of the rewards (least squares, the limit of infinite `alpha`, as in
            the released code), "soft" (the soft value), or "bellman" (the soft value of the next
            step's fit).
        pretrain: chains of the reference that "mc" is fitted to; 0 stands for the limit of
            infinitely many, by enumeration.
        hidden: widths of its perceptron, where states are not enumerated.
        rate: its step size, > 0.
        updates: its steps of Adam, >= 0.

    Raises:
        ValueError: a field outside its range, or a soft value at infinite `alpha`.
    """

    kind: str
    alpha: float
    target: str = "mean"
    pretrain: int = 512
    hidden: tuple[int, ...] = (64, 64)
    rate: float = 1e-2
    updates: int = 200

    def __post_init__(self) -> None:
        check_choice("value", self.kind, VALUES)
        check_choice("target", self.target, TARGETS)
        check_real("alpha", self.alpha, 0, open_low=True, infinite=True)
        check_integer("pretrain", self.pretrain, 0)
        check_real("rate", self.rate, 0, open_low=True)
        check_integer("updates", self.updates, 0)
        for size in self.hidden:
            check_integer("hidden", size, 1)
        soft = self.kind == "exact" or (self.kind == "mc" and self.target != "mean")
        if soft and math.isinf(self.alpha):
            raise ValueError(
                f"alpha = inf with value = {self.kind!r} has no soft value; accepted: (0, inf), or "
                "value = 'mc' with target = 'mean'"
            )

    def start(self, task: DiffusionTask, rng: Rng) -> Tree:
        """What "mc" learns from chains of the reference; (), or a table of states, for the others.

        Raises:
            ValueError: the task has no exact value, or no letters.
        """
        if self.kind == "exact" and not task.exact:
            raise ValueError("value = 'exact' for a task without it; accepted: 'pm' or 'mc'")
        if self.kind == "pm_argmax" and not isinstance(task, MaskedDiffusion):
            raise ValueError("value = 'pm_argmax' for points of R^d; accepted: 'pm'")
        if self.kind == "mc" and self.pretrain == 0:
            return self.limit(task).expand(rng.n, -1, -1)
        if self.kind in ("pm", "pm_argmax") and isinstance(task, MaskedDiffusion):
            return self.plugged_table(task, rng) if enumerated(task) else ()
        if self.kind != "mc":
            return ()
        with torch.no_grad():
            chains = reference_chains(task, self.pretrain, rng)
        if isinstance(task, MaskedDiffusion) and enumerated(task):
            return table_fit(task, chains, self.target, self.alpha)
        return self.network_fit(task, chains, rng)

    def __call__(
        self, task: DiffusionTask, memory: Tree, x: Tensor, t: int, prompt: Tensor
    ) -> Tensor:
        """Estimated values at x_t `[N, B, ...]`, `[N, B]` float64; differentiable in points."""
        if t == 0:
            return task.reward(x, prompt).double()
        if self.kind == "exact":
            return task.value(x, t, prompt, self.alpha)
        if self.kind == "mc":
            return self.fitted(task, memory, x, t, prompt)
        if enumerated(task):
            return memory.gather(1, codes(x))
        return self.plugged(task, x, t, prompt)

    def plugged(self, task: DiffusionTask, x: Tensor, t: int, prompt: Tensor) -> Tensor:
        """Reward of the posterior mean or of the likeliest letters at x_t, `[N, B]`."""
        guess = task.expect(x, t, prompt)
        if self.kind == "pm_argmax":
            guess = (guess / EQUAL).round().argmax(-1)
        return task.reward(guess, prompt).double()

    def plugged_table(self, task: MaskedDiffusion, rng: Rng) -> Tensor:
        """The same at all states, `[N, 5^L]`, of t >= 1: it does not depend on t."""
        states = sequences(task.length, LETTERS + 1).to(rng.device).expand(rng.n, -1, -1)
        with torch.no_grad():
            return self.plugged(task, states, 1, states[..., 0] * 0)

    def fitted(
        self, task: DiffusionTask, memory: Tree, x: Tensor, t: int, prompt: Tensor
    ) -> Tensor:
        """Values of "mc", `[N, B]`."""
        if enumerated(task):
            return memory[:, t].gather(1, codes(x))
        times = torch.full_like(prompt, t)
        return network_value(task, memory, inputs_of(task, x), times, prompt).double()

    def limit(self, task: DiffusionTask) -> Tensor:
        """What "mc" tends to with more chains, `[N or 1, T + 1, 5^L]`.

        Raises:
            ValueError: states are not enumerated.
        """
        if not (isinstance(task, MaskedDiffusion) and task.exact):
            raise ValueError("pretrain = 0 where states are not enumerated; accepted: [1, inf)")
        return task.values(self.alpha) if self.target != "mean" else mean_values(task)

    def network_fit(self, task: DiffusionTask, chains: Trajectories, rng: Rng) -> NetworkValue:
        """A perceptron after `updates` steps of Adam on random states of the chains."""
        first = inputs_of(task, chains.chain[:, 0, :1])
        size = first.shape[2] + clock(chains.prompt[:, :1], task.steps).shape[2] + task.prompts
        trained = start_training(start_perceptron(rng.child("value"), (size, *self.hidden, 1)))
        offset = chains.reward.mean(1).float()
        for update in range(self.updates):
            count = task.steps * chains.prompt.shape[1]
            index = rng.integers(f"batch/{update}", count, STEP_BATCH)
            loss = self.loss(task, chains, NetworkValue(trained.parameters, offset), index)
            trained = improve(trained, loss, self.rate)
        return NetworkValue(trained.parameters, offset)

    def loss(
        self, task: DiffusionTask, chains: Trajectories, now: NetworkValue, index: Tensor
    ) -> Callable[[Perceptron], Tensor]:
        """Mean loss `[N]` of networks on the states `index` `[N, M]` of the chains, time first."""
        count = chains.prompt.shape[1]
        rows = torch.arange(len(index), device=index.device)[:, None]
        time, spot = index // count + 1, index % count
        state, prompt = chains.chain[rows, time, spot], chains.prompt.gather(1, spot)
        aim = chains.reward.gather(1, spot).float()
        if self.target == "bellman":
            with torch.no_grad():
                later = inputs_of(task, chains.chain[rows, time - 1, spot])
                guess = network_value(task, now, later, time - 1, prompt)
            aim = torch.where(time > 1, guess, aim)

        def value(network: Perceptron) -> Tensor:
            told = now._replace(network=network)
            found = network_value(task, told, inputs_of(task, state), time, prompt)
            return regression(aim, found, self.target, self.alpha).mean(1)

        return value


def regression(aim: Tensor, value: Tensor, target: str, alpha: float) -> Tensor:
    """Loss of a fitted value at each state: its minimiser is the mean or the soft mean of `aim`.

    The soft one is `exp(z) - z - 1`, `z = (aim - value) / alpha`, a line above `z` = 8.
    """
    if target == "mean":
        return (aim - value) * (aim - value)
    z = (aim - value) / alpha
    low = z.clamp(max=CAP)
    return torch.exp(low) * (1 + (z - low)) - z - 1


def inputs_of(task: DiffusionTask, x: Tensor) -> Tensor:
    """What a perceptron sees of points or tokens `[N, M, ...]`, `[N, M, F]` float32."""
    if isinstance(task, MaskedDiffusion):
        return torch.nn.functional.one_hot(x, LETTERS + 1).flatten(2).float()
    return x.float()


def network_value(
    task: DiffusionTask, memory: NetworkValue, state: Tensor, time: Tensor, prompt: Tensor
) -> Tensor:
    """Values `[N, M]` float32 at `state` `[N, M, F]` and times and prompts `[N, M]`."""
    told = torch.nn.functional.one_hot(prompt, task.prompts).float()
    seen = torch.cat([state, clock(time, task.steps), told], -1)
    out = perceptron(memory.network, seen, torch.nn.functional.silu)
    return memory.offset[:, None] + out.squeeze(-1)
