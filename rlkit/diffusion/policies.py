"""Trainable samplers behind one interface, and those of points.

An algorithm writes chains and asks for log-probabilities and divergences of their steps. What
the parameters are is the business of the classes here and in `rlkit.diffusion.masked_policies`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.task import Chains, DiffusionTask, knowledge
from rlkit.networks.linear import embed, start_table
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer

FREQUENCIES = 4  # of the embedding of time


class Policy(Protocol):
    """A parametrised reverse chain; parameters are trees of tensors `[N, ...]`."""

    def start(self, spec: Spec, rng: Rng) -> Tree:
        """Parameters at which the policy is the reference.

        Raises:
            ValueError: the policy does not suit the task.
        """

    def write(
        self, spec: Spec, parameters: Tree, prompt: Tensor, rng: Rng, start: Tensor | None = None
    ) -> Chains:
        """Chains for `prompt` `[N, B]`, from x_T = `start` `[N, B, ...]` or fresh noise."""

    def log_probability(self, spec: Spec, parameters: Tree, chains: Chains) -> Tensor:
        """Log-probability of every step `[N, T, B]`; differentiable."""

    def divergence(self, spec: Spec, parameters: Tree, chains: Chains) -> Tensor:
        """KL(policy || reference) of the step from every x_t, `[N, T, B]`; differentiable."""

    def assess(
        self, spec: Spec, parameters: Tree, steps: "Steps", divergence: bool = True
    ) -> "Assessment":
        """Log-probabilities of single steps, in any order, and their divergences if asked for."""


class Steps(NamedTuple):
    """All steps of chains as one batch of `M = T B`, time first."""

    x: Tensor  # [N, M, ...] x_t
    following: Tensor  # [N, M, ...] x_(t-1)
    t: Tensor  # [N, M] int64, 1 .. T
    prompt: Tensor  # [N, M] int64


class Assessment(NamedTuple):
    """What a policy says of single steps; differentiable."""

    log_probability: Tensor  # [N, M] of x_(t-1) given x_t
    divergence: Tensor  # [N, M] KL(policy || reference) of the step from x_t, zeros if not wanted


def steps_of(chains: Chains) -> Steps:
    """Steps of chains `[N, T + 1, B, ...]`."""
    n, size, b = chains.chain.shape[:3]
    t = torch.arange(1, size, device=chains.prompt.device).repeat_interleave(b).expand(n, -1)
    prompt = chains.prompt.repeat(1, size - 1)
    return Steps(chains.chain[:, 1:].flatten(1, 2), chains.chain[:, :-1].flatten(1, 2), t, prompt)


class Moments(NamedTuple):
    """Mean and standard deviation of a step."""

    mean: Tensor  # [N, M, d]
    deviation: Tensor  # [N or 1, M or 1]


def gaussian_task(spec: Spec) -> GaussianDiffusion:
    """The task, if its points are real.

    Raises:
        ValueError: it is another one.
    """
    task: DiffusionTask = knowledge(spec)
    if not isinstance(task, GaussianDiffusion):
        raise ValueError("the agent needs points in R^d; the problem has masked sequences")
    return task


def reference_moments(task: GaussianDiffusion, x: Tensor, t: Tensor, prompt: Tensor) -> Moments:
    """Mean and deviation of the reference's step from x_t `[N, M, d]`, `t` `[N, M]`.

    Raises:
        ValueError: the step is a mixture of several Gaussians, or not isotropic.
    """
    law, kernel = task.law(prompt), task.kernel
    if kernel.kind != "exact":
        denoised = law.denoise(x, kernel.schedule.at(t))
        mean, deviation = kernel.gaussian(x, denoised, t)
        return Moments(mean, deviation)
    if law.mean.shape[2] > 1 or (task.dimension > 1 and law.basis is not None):
        raise ValueError("kernel = 'exact' has steps that are mixtures; accepted: 'ddpm', 'ddim'")
    step = kernel.law(law, x, t)
    return Moments(step.mean[:, :, 0], torch.sqrt(step.spectrum[:, :, 0, 0]))


class StepSampler:
    """What all policies share: they assess single steps, and so whole chains."""

    def assess(
        self, spec: Spec, parameters: Tree, steps: Steps, divergence: bool = True
    ) -> Assessment:
        """Log-probability `[N, M]` and, if asked for, KL from the reference of single steps."""
        raise NotImplementedError(f"{type(self).__name__} does not assess steps")

    def log_probability(self, spec: Spec, parameters: Tree, chains: Chains) -> Tensor:
        """Log-probability of every step `[N, T, B]`."""
        each = self.assess(spec, parameters, steps_of(chains), False).log_probability
        return each.reshape(chains.log_probability.shape)

    def divergence(self, spec: Spec, parameters: Tree, chains: Chains) -> Tensor:
        """KL from the reference of every step `[N, T, B]`."""
        each = self.assess(spec, parameters, steps_of(chains)).divergence
        return each.reshape(chains.log_probability.shape)


class GaussianSampler(StepSampler):
    """What policies of points share: they give `moments`, the rest follows."""

    def moments(
        self, spec: Spec, parameters: Tree, x: Tensor, t: Tensor, prompt: Tensor
    ) -> Moments:
        """Mean and deviation of x_(t-1), `t` `[N, M or 1]`; differentiable in `parameters`, `x`."""
        raise NotImplementedError(f"{type(self).__name__} has no moments")

    def write(
        self, spec: Spec, parameters: Tree, prompt: Tensor, rng: Rng, start: Tensor | None = None
    ) -> Chains:
        """Chains for `prompt` `[N, B]`; differentiable along the path where gradients are on."""
        task = gaussian_task(spec)
        x = task.start(rng, "start", prompt.shape[1]) if start is None else start
        points, logs = [x], []
        for t in range(task.steps, 0, -1):
            now = torch.full_like(prompt[:, :1], t)  # one level for all: K Gaussians, not K B
            mean, deviation = self.moments(spec, parameters, x, now, prompt)
            if task.kernel.deterministic:
                x = mean
                logs.append(torch.zeros_like(mean[..., 0]))
            else:
                noise = rng.normal(f"chain/{t}", *x.shape[1:], dtype=x.dtype)
                x = mean + deviation[..., None] * noise
                logs.append(log_normal(x, mean, deviation))
            points.append(x)
        return Chains(torch.stack(points[::-1], 1), prompt, torch.stack(logs[::-1], 1))

    def assess(
        self, spec: Spec, parameters: Tree, steps: Steps, divergence: bool = True
    ) -> Assessment:
        """Log density `[N, M]` and, if asked for, KL of two isotropic Gaussians `[N, M]`.

        Raises:
            ValueError: deterministic steps, of which both are infinite or undefined.
        """
        task = gaussian_task(spec)
        if task.kernel.deterministic:
            raise ValueError("eta = 0 has no density; accepted for divergences: (0, 1]")
        ours = self.moments(spec, parameters, steps.x, steps.t, steps.prompt)
        each = log_normal(steps.following, ours.mean, ours.deviation)
        if not divergence:
            return Assessment(each, torch.zeros_like(each))
        base = reference_moments(task, steps.x, steps.t, steps.prompt)
        return Assessment(each, kl_normal(ours, base, task.dimension))


def log_normal(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Log density of isotropic Gaussians, summed over dimensions, `[N, M]`."""
    square = ((x - mean) ** 2).sum(-1) / (deviation * deviation)
    d = x.shape[-1]
    return -0.5 * square - d * torch.log(deviation) - 0.5 * d * math.log(2 * math.pi)


def kl_normal(ours: Moments, base: Moments, d: int) -> Tensor:
    """KL(ours || base) of isotropic Gaussians in `d` dimensions, `[N, M]`."""
    ratio = ours.deviation / base.deviation
    shift = ((ours.mean - base.mean) ** 2).sum(-1) / (base.deviation * base.deviation)
    return 0.5 * (shift + d * (ratio * ratio - 1 - 2 * torch.log(ratio)))


class AffineParameters(NamedTuple):
    """Added to the mean of each step."""

    slope: Tensor  # [N, T, d, d]
    offset: Tensor  # [N, T, C, d]


@dataclass(frozen=True)
class AffinePolicy(GaussianSampler):
    """The reference's mean plus an affine map of x_t, one for each step; fixed deviation."""

    def start(self, spec: Spec, rng: Rng) -> AffineParameters:
        """Zeros."""
        task = gaussian_task(spec)
        d = task.dimension
        shape = (rng.n, task.steps, task.prompts, d)
        zero = torch.zeros(shape, dtype=torch.float64, device=rng.device)
        refuse_mixtures(task, rng)
        return AffineParameters(zero[:, :, :1].expand(-1, -1, d, -1) + 0.0, zero)

    def moments(
        self, spec: Spec, parameters: AffineParameters, x: Tensor, t: Tensor, prompt: Tensor
    ) -> Moments:
        """Mean and deviation of x_(t-1)."""
        base = reference_moments(gaussian_task(spec), x, t, prompt)
        n, m = x.shape[:2]
        row = torch.arange(n, device=x.device)[:, None].expand(n, m)
        slope, offset = parameters.slope[row, t - 1], parameters.offset[row, t - 1, prompt]
        return Moments(base.mean + (slope @ x[..., None]).squeeze(-1) + offset, base.deviation)


class ResidualParameters(NamedTuple):
    """A perceptron on points, time and prompt."""

    network: Perceptron
    prompt: Tensor  # [N, C, W] embeddings


@dataclass(frozen=True)
class ResidualPolicy(GaussianSampler):
    """The reference's prediction of x_0 plus a perceptron that starts as zero.

    Attributes:
        hidden: widths of its hidden layers.
        spread: whether the deviation of a step is learned too, as a factor.
    """

    hidden: tuple[int, ...] = (64, 64)
    spread: bool = False

    width: ClassVar[int] = 8  # of the embedding of a prompt

    def start(self, spec: Spec, rng: Rng) -> ResidualParameters:
        """Zero residuals."""
        task = gaussian_task(spec)
        refuse_mixtures(task, rng)
        inputs = 2 * task.dimension + 2 * FREQUENCIES + self.width
        outputs = task.dimension + (1 if self.spread else 0)
        network = start_perceptron(rng.child("network"), (inputs, *self.hidden, outputs))
        return ResidualParameters(network, start_table(rng, "prompt", task.prompts, self.width, 1))

    def moments(
        self, spec: Spec, parameters: ResidualParameters, x: Tensor, t: Tensor, prompt: Tensor
    ) -> Moments:
        """Mean and deviation of x_(t-1)."""
        task = gaussian_task(spec)
        law = task.law(prompt)
        if task.kernel.kind == "exact":
            base = reference_moments(task, x, t, prompt)
            guess = law.denoise(x, task.kernel.schedule.at(t))
            out = self.residual(task, parameters, x, guess, t, prompt)
            return self.widened(
                Moments(base.mean + out[..., : task.dimension], base.deviation), out
            )
        guess = law.denoise(x, task.kernel.schedule.at(t))
        out = self.residual(task, parameters, x, guess, t, prompt)
        denoised = guess + out[..., : task.dimension]
        return self.widened(Moments(*task.kernel.gaussian(x, denoised, t)), out)

    def residual(
        self,
        task: GaussianDiffusion,
        parameters: ResidualParameters,
        x: Tensor,
        guess: Tensor,
        t: Tensor,
        prompt: Tensor,
    ) -> Tensor:
        """Outputs of the perceptron `[N, M, d or d + 1]`."""
        told = embed(parameters.prompt, prompt)
        moment = clock(t, task.steps).expand(-1, x.shape[1], -1)
        inputs = torch.cat([x.float(), guess.float(), moment, told], -1)
        return perceptron(parameters.network, inputs, torch.nn.functional.silu).to(x.dtype)

    def widened(self, law: Moments, out: Tensor) -> Moments:
        """`law`, its deviation times the exponential of the last output."""
        if not self.spread:
            return law
        return law._replace(deviation=law.deviation * torch.exp(out[..., -1].clamp(-3, 3)))


def clock(t: Tensor, steps: int) -> Tensor:
    """Sines and cosines of t / T, `[N, M, 2 FREQUENCIES]` float32."""
    octave = torch.arange(FREQUENCIES, device=t.device, dtype=torch.float32).exp2()
    phase = (t.float() / steps * math.pi / 2)[..., None] * octave
    return torch.cat([phase.sin(), phase.cos()], -1)


def refuse_mixtures(task: GaussianDiffusion, rng: Rng) -> None:
    """Refuse kernels without Gaussian steps.

    Raises:
        ValueError: naming the kernel.
    """
    t = torch.ones(rng.n, 1, dtype=torch.int64, device=rng.device)
    x = torch.zeros(rng.n, 1, task.dimension, dtype=torch.float64, device=rng.device)
    reference_moments(task, x, t, 0 * t)


OF_POINTS = ("affine", "residual", "spread")
OF_SEQUENCES = ("table", "network", "conv")


def check_policy(kind: str, hidden: tuple[int, ...]) -> None:
    """Refuse unknown policies and networks without layers.

    Raises:
        ValueError: naming the argument.
    """
    check_choice("policy", kind, OF_POINTS + OF_SEQUENCES)
    for size in hidden:
        check_integer("hidden", size, 1)


def check_suits(kind: str, task: DiffusionTask) -> None:
    """Refuse policies of points for sequences and the reverse.

    Raises:
        ValueError: naming the policies that suit.
    """
    points = isinstance(task, GaussianDiffusion)
    suited, what = (OF_POINTS, "points") if points else (OF_SEQUENCES, "sequences")
    if kind not in suited:
        raise ValueError(f"policy = {kind!r} on {what}; accepted: {', '.join(suited)}")


def policy_class(kind: str, hidden: tuple[int, ...]) -> Policy:
    """The policy of an agent's fields `policy` and `hidden`."""
    from rlkit.diffusion.conv_policy import ConvPolicy
    from rlkit.diffusion.masked_policies import NetworkPolicy, TablePolicy

    kinds: dict[str, Callable[[], Policy]] = {
        "affine": AffinePolicy,
        "residual": lambda: ResidualPolicy(hidden),
        "spread": lambda: ResidualPolicy(hidden, spread=True),
        "table": TablePolicy,
        "network": lambda: NetworkPolicy(hidden),
        "conv": ConvPolicy,
    }
    return kinds[kind]()
