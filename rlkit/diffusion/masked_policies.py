"""Trainable samplers of masked sequences: laws of letters added to the reference's.

Relaxed letters `[N, B, L, 5]` stand for tokens where a gradient is to pass through a state.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, MASK, place, sequences
from rlkit.diffusion.masked_task import MaskedDiffusion, advance, step_log_probability
from rlkit.diffusion.policies import Assessment, Steps, StepSampler, clock
from rlkit.diffusion.relaxed import occupied, relaxed_logs
from rlkit.diffusion.task import Chains, DiffusionTask, knowledge
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng

SYMBOLS = LETTERS + 1


def masked_task(spec: Spec) -> MaskedDiffusion:
    """The task, if its points are masked sequences.

    Raises:
        ValueError: it is another one.
    """
    task: DiffusionTask = knowledge(spec)
    if not isinstance(task, MaskedDiffusion):
        raise ValueError("the agent needs masked sequences; the problem has points in R^d")
    return task


def reference_laws(task: MaskedDiffusion, tokens: Tensor) -> Tensor:
    """Log-probabilities `[N, M, L, 4]` of letters under the reference at `tokens` `[N, M, L]`."""
    return task.denoiser.conditional(tokens).log()


class MaskedSampler(StepSampler):
    """What policies of masked sequences share: they give `laws`, the rest follows."""

    def laws(self, spec: Spec, parameters: Tree, tokens: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]` at `tokens` `[N, M, L]`, times `[N, M]`."""
        raise NotImplementedError(f"{type(self).__name__} has no laws")

    def relaxed_laws(self, spec: Spec, parameters: Tree, x: Tensor, t: Tensor) -> Tensor:
        """`laws` at relaxed letters `x` `[N, M, L, 5]`, differentiable in both.

        On hard states it equals `laws` at masked positions; the other ones are left undefined.
        """
        raise NotImplementedError(f"{type(self).__name__} has no laws at relaxed letters")

    def write(
        self, spec: Spec, parameters: Tree, prompt: Tensor, rng: Rng, start: Tensor | None = None
    ) -> Chains:
        """Chains `[N, T + 1, B, L]`."""
        task = masked_task(spec)
        x = task.start(rng, "start", prompt.shape[1]) if start is None else start
        points, logs = [x], []
        with torch.no_grad():
            for t in range(task.steps, 0, -1):
                law = self.laws(spec, parameters, x, torch.full_like(prompt, t)).exp().double()
                following = advance(task, x, law, t, rng)
                logs.append(step_log_probability(task, x, following, law.log(), t))
                x = following
                points.append(x)
        return Chains(torch.stack(points[::-1], 1), prompt, torch.stack(logs[::-1], 1))

    def assess(
        self, spec: Spec, parameters: Tree, steps: Steps, divergence: bool = True
    ) -> Assessment:
        """Log-probability `[N, M]` and, if asked for, KL of single steps.

        The KL is the share revealed times KL of the laws, summed over masked positions.
        """
        task = masked_task(spec)
        law = self.laws(spec, parameters, steps.x, steps.t).double()  # as when written
        told = step_log_probability(task, steps.x, steps.following, law, steps.t)
        if not divergence:
            return Assessment(told, torch.zeros_like(told))
        base = reference_laws(task, steps.x)
        # Impossible letters have logarithms of -inf under both, whose gradient would be NaN.
        dead = torch.isinf(base)
        gain = law.masked_fill(dead, 0.0) - base.masked_fill(dead, 0.0)
        inner = (law.exp() * gain).sum(-1)
        masked = (steps.x == MASK).to(inner.dtype)
        count = steps.t.to(inner.dtype) if task.chain == "parallel" else masked.sum(-1)
        share = 1 / count.clamp(min=1)
        return Assessment(told, share * (masked * inner).sum(-1))

    def table(self, spec: Spec, parameters: Tree) -> Tensor:
        """Laws of all states at all times `[N, T, 5^L, L, 4]`, for exact measurements."""
        task = masked_task(spec)
        leaf = torch.utils._pytree.tree_leaves(parameters)[0]
        tokens = sequences(task.length, SYMBOLS).to(leaf.device).expand(len(leaf), -1, -1)
        with torch.no_grad():
            rows = [
                self.laws(spec, parameters, tokens, torch.full_like(tokens[..., 0], t))
                .double()
                .exp()
                for t in range(1, task.steps + 1)
            ]
        laws = torch.stack(rows, 1)
        return laws / laws.sum(-1, keepdim=True)


@dataclass(frozen=True)
class TablePolicy(MaskedSampler):
    """Free logits `[N, 5^L, L, 4]` added to the reference's, the same at all times."""

    def start(self, spec: Spec, rng: Rng) -> Tensor:
        """Zeros.

        Raises:
            ValueError: the states are too many to be enumerated.
        """
        task = masked_task(spec)
        if not task.exact:
            raise ValueError(f"policy = 'table' with length = {task.length}; accepted: [1, 6]")
        shape = (rng.n, SYMBOLS**task.length, task.length, LETTERS)
        return torch.zeros(shape, dtype=torch.float64, device=rng.device)

    def laws(self, spec: Spec, parameters: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`."""
        code = (tokens * place(tokens.shape[2]).to(tokens.device)).sum(2)
        row = torch.arange(len(parameters), device=tokens.device)[:, None]
        logits = parameters[row, code] + reference_laws(masked_task(spec), tokens)
        return torch.log_softmax(logits, -1)

    def relaxed_laws(self, spec: Spec, parameters: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`; logits of hard states are mixed."""
        base = relaxed_logs(masked_task(spec).denoiser, x)
        mixed = torch.bmm(occupied(x), parameters.flatten(2)).unflatten(-1, base.shape[2:])
        return torch.log_softmax(base + mixed, -1)


class NetworkParameters(NamedTuple):
    """A perceptron on letters and time."""

    network: Perceptron


@dataclass(frozen=True)
class NetworkPolicy(MaskedSampler):
    """A perceptron on all letters and time, added to the reference's log-probabilities.

    Attributes:
        hidden: widths of its hidden layers.
    """

    hidden: tuple[int, ...] = (64, 64)

    def start(self, spec: Spec, rng: Rng) -> NetworkParameters:
        """Zero residuals."""
        length = masked_task(spec).length
        outputs = length * LETTERS
        inputs = length * SYMBOLS + clock(torch.ones(1, 1), 1).shape[-1]
        return NetworkParameters(start_perceptron(rng, (inputs, *self.hidden, outputs)))

    def laws(self, spec: Spec, parameters: NetworkParameters, tokens: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`."""
        task = masked_task(spec)
        base = reference_laws(task, tokens)
        seen = torch.nn.functional.one_hot(tokens, SYMBOLS).float()
        return torch.log_softmax(base + self.residual(task, parameters, seen, t).to(base), -1)

    def relaxed_laws(
        self, spec: Spec, parameters: NetworkParameters, x: Tensor, t: Tensor
    ) -> Tensor:
        """Log-probabilities of letters `[N, M, L, 4]`."""
        task = masked_task(spec)
        base = relaxed_logs(task.denoiser, x)
        return torch.log_softmax(base + self.residual(task, parameters, x.float(), t).to(base), -1)

    def residual(
        self, task: MaskedDiffusion, parameters: NetworkParameters, seen: Tensor, t: Tensor
    ) -> Tensor:
        """What is added at letters `[N, M, L, 5]`, relaxed or not, `[N, M, L, 4]`."""
        inputs = torch.cat([seen.flatten(2), clock(t, task.steps)], -1)
        out = perceptron(parameters.network, inputs, torch.nn.functional.silu)
        return out.unflatten(-1, (task.length, LETTERS))
