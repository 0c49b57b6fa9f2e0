"""Gradients of value estimates and reference steps that follow them.

Points: the law of x_(t-1) is tilted by `exp(slope . x_(t-1))`, which moves the mean of a Gaussian
by its variance times the slope (Dhariwal and Nichol 2021, Algorithm 1). Masked sequences: each
letter's probability is multiplied by `exp(slope)`, the slope being the derivative of the value in
this letter minus that in the mask (Nisonoff et al. 2024).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.masked import LETTERS, MASK, place
from rlkit.diffusion.masked_chains import OneAtATime, ParallelSteps, draw
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.masked_training import NetworkDenoiser
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.task import DiffusionTask
from rlkit.diffusion.value_models import ValueModel, network_value
from rlkit.diffusion.value_tables import codes, enumerated
from rlkit.protocol import Tree
from rlkit.random import Rng

STEEPEST = 40.0  # of a masked slope either way: e^40 leaves float64 room


class Proposal(NamedTuple):
    """A guided step."""

    point: Tensor  # [N, B, ...] x_(t-1)
    log_ratio: Tensor  # [N, B] log p_pre - log q of the step; 0 where steps are deterministic


def check_guided(task: DiffusionTask, model: ValueModel) -> None:
    """Refuse values without a gradient.

    Raises:
        ValueError: a reward without a gradient under the posterior mean, likeliest letters, or
            exact values of states that are not enumerated.
    """
    if model.kind == "pm" and not task.differentiable:
        raise ValueError("value = 'pm' of a reward without a gradient; accepted: 'mc'")
    if model.kind == "pm_argmax":
        raise ValueError("value = 'pm_argmax' has no gradient; accepted: 'pm', 'mc' or 'exact'")


def value_slope(
    task: DiffusionTask, model: ValueModel, memory: Tree, x: Tensor, t: int, prompt: Tensor
) -> Tensor:
    """Slope of the estimated value at x_t, for t >= 1.

    Where the states of a masked chain are enumerated and values are a table, that is the
    derivative of the table's multilinear extension: a difference.

    Returns:
        Points: the gradient, `[N, B, d]`. Sequences: what a letter in place of the mask adds,
        `[N, B, L, 4]`, 0 at unmasked positions.
    """
    if not isinstance(task, MaskedDiffusion):
        with torch.enable_grad():
            here = x.detach().requires_grad_()
            total = model(task, memory, here, t, prompt).sum()
            return torch.autograd.grad(total, here)[0]
    if model.kind == "exact" or (model.kind == "mc" and enumerated(task)):
        table = memory[:, t] if model.kind == "mc" else task.values(model.alpha)[:, t]
        slope = table_slope(table, x)
    else:
        slope = letter_slope(task, model, memory, x, t, prompt)
    return torch.where((x == MASK)[..., None], slope, torch.zeros_like(slope))


def table_slope(table: Tensor, x: Tensor) -> Tensor:
    """`V(x with letter a at i) - V(x)` from a table `[N or 1, 5^L]`, `[N, B, L, 4]`."""
    code = codes(x)
    shift = torch.arange(LETTERS, device=x.device) - x[..., None]
    moved = code[..., None, None] + shift * place(x.shape[2]).to(x.device)[:, None]
    wide = table.expand(len(x), -1)
    there = wide.gather(1, moved.flatten(1)).reshape(moved.shape)
    return there - wide.gather(1, code)[..., None, None]


def letter_slope(
    task: MaskedDiffusion, model: ValueModel, memory: Tree, x: Tensor, t: int, prompt: Tensor
) -> Tensor:
    """Derivative of a differentiable value in each letter minus that in the mask, `[N, B, L, 4]`.

    The reward of the posterior mean is taken on probabilities; through the denoiser too where it
    is a network, else with its laws held fixed.
    """
    with torch.enable_grad():
        seen = torch.nn.functional.one_hot(x, LETTERS + 1).double().requires_grad_()
        if model.kind == "mc":
            times = torch.full_like(prompt, t)
            value = network_value(task, memory, seen.flatten(2).float(), times, prompt)
        else:
            if isinstance(task.denoiser, NetworkDenoiser):
                law = task.denoiser.relaxed(seen).double().exp()
            else:
                law = task.denoiser.conditional(x)
            letters = seen[..., :LETTERS] + seen[..., LETTERS:] * law
            value = task.reward(letters, prompt)
        slope = torch.autograd.grad(value.sum(), seen)[0]
    return slope[..., :LETTERS] - slope[..., LETTERS:]


@dataclass(frozen=True)
class Guided:
    """Reference steps that follow a slope.

    Attributes:
        task: the reference.
    """

    task: DiffusionTask

    @property
    def deterministic(self) -> bool:
        """Whether steps have no density."""
        return isinstance(self.task, GaussianDiffusion) and self.task.kernel.deterministic

    def step(
        self, x: Tensor, t: int, prompt: Tensor, slope: Tensor, rng: Rng, name: str
    ) -> Proposal:
        """x_(t-1) from x_t `[N, B, ...]` along `slope`: `[N, B, d]` or `[N, B, L, 4]`."""
        if isinstance(self.task, MaskedDiffusion):
            return masked_step(self.task, x, t, slope, rng, name)
        assert isinstance(self.task, GaussianDiffusion)
        if self.deterministic:
            return Proposal(flow_step(self.task, x, t, prompt, slope), torch.zeros_like(x[..., 0]))
        law = self.task.kernel.law(self.task.law(prompt), x, t)
        bent = tilted_step(law, slope)
        point = bent.sample(rng, name, x.shape[1])
        return Proposal(point, law.log_density(point) - bent.log_density(point))


def tilted_step(law: Mixture, slope: Tensor) -> Mixture:
    """Laws of steps `[N, B, K]` times `exp(slope . x)`, `slope` `[N, B, d]`, normalised."""
    inward = law.inward(slope[:, :, None].expand(law.mean.shape))
    gain = (slope[:, :, None] * law.mean).sum(-1) + 0.5 * (law.spectrum * inward * inward).sum(-1)
    moved = law.mean + law.outward(law.spectrum * inward)
    return Mixture(torch.log_softmax(law.log_weight + gain, -1), moved, law.spectrum, law.basis)


def flow_step(task: GaussianDiffusion, x: Tensor, t: int, prompt: Tensor, slope: Tensor) -> Tensor:
    """The deterministic step whose score is the reference's plus `slope`, `[N, B, d]`.

    Dhariwal and Nichol 2021, Algorithm 2.
    """
    abar = task.kernel.schedule.at(t).to(x)
    guess = task.expect(x, t, prompt) + (1 - abar) / torch.sqrt(abar) * slope
    return task.kernel.gaussian(x, guess, t)[0]


def masked_step(
    task: MaskedDiffusion, x: Tensor, t: int, slope: Tensor, rng: Rng, name: str
) -> Proposal:
    """Tokens at time t - 1 `[N, B, L]` from laws times `exp(slope)`."""
    steep = torch.exp(slope.clamp(-STEEPEST, STEEPEST))
    if task.chain == "single":
        kernel = OneAtATime(task.denoiser).kernel(x)
        bent = (kernel * steep).flatten(2)
        index = draw(bent, rng.uniform(name, x.shape[1], dtype=torch.float64))
        spot = torch.arange(x.shape[2], device=x.device)
        revealed = spot == (index // LETTERS)[..., None]
        point = torch.where(revealed, (index % LETTERS)[..., None], x)
        both = [law.gather(2, index[..., None])[..., 0] for law in (kernel.flatten(2), bent)]
        return Proposal(point, torch.log(both[0]) - torch.log(both[1] / bent.sum(2)))
    law = ParallelSteps(task.denoiser, task.parallel).kernel(x, t)
    bent = torch.cat([law[..., :LETTERS] * steep, law[..., LETTERS:]], -1)
    bent = bent / bent.sum(-1, keepdim=True)
    point = draw(bent, rng.uniform(name, *x.shape[1:], dtype=torch.float64))
    each = torch.log(law) - torch.log(bent)
    return Proposal(point, each.gather(3, point[..., None])[..., 0].sum(2))
