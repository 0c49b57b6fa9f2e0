"""Masked diffusion on relaxed letters: states, steps and divergences that gradients pass through.

A relaxed state is `[N, B, L, 5]`, rows of non-negative numbers that sum to 1, the mask last; hard
states are its corners. Wang et al. 2024, "Fine-tuning discrete diffusion models via reward
optimization with applications to DNA and protein design" (DRAKES), back-propagate a reward
through whole chains of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, MASK, Denoiser, MarkovMask, MaskTable
from rlkit.diffusion.masked_training import NetworkDenoiser, logits
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

SYMBOLS = LETTERS + 1
NEVER = -1e6  # log-probability of what cannot happen; minus infinity has no gradient
SMALLEST = 1e-30  # probability whose logarithm is taken
DIVERGENCES = ("path", "released", "none")
BLENDS = ("kept", "released")

Laws = Callable[[Tensor, int], Tensor]  # log-laws [N, B, L, 4] at a relaxed state and a time


def relax(tokens: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Indicators `[..., L, 5]` of `tokens` `[..., L]` in `[0, 4]`."""
    return (tokens[..., None] == torch.arange(SYMBOLS, device=tokens.device)).to(dtype)


def harden(x: Tensor) -> Tensor:
    """Nearest hard state: tokens `[..., L]` int64 of relaxed letters `[..., L, 5]`."""
    return x.argmax(-1)


def straighten(x: Tensor) -> Tensor:
    """The nearest hard state in value, `x` in gradient (Bengio et al. 2013), `[..., L, 5]`."""
    return relax(harden(x.detach()), x.dtype) + (x - x.detach())


def ended(x: Tensor) -> Tensor:
    """The nearest sequence without a mask in value, `x` in gradient, `[..., L, 4]`."""
    letters = x[..., :LETTERS]
    top = relax(harden(letters.detach()), x.dtype)[..., :LETTERS]
    return top + (letters - letters.detach())


def check_relaxed(x: Tensor) -> None:
    """Accept relaxed letters `[N, B, L, 5]`.

    Raises:
        ValueError: another width.
    """
    if x.dim() != 4 or x.shape[-1] != SYMBOLS:
        raise ValueError(
            f"relaxed letters have shape {tuple(x.shape)}; accepted: [N, B, L, {SYMBOLS}]"
        )


# ------------------------------------------------------------------------- exact denoisers


def relaxed_logs(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Log-laws `[N, B, L, 4]` of a denoiser at relaxed letters `x` `[N, B, L, 5]`.

    A table and a Markov chain have the multilinear extension of their marginals: a relaxed
    position is evidence `x[a] + x[mask]` for each letter `a`. On hard states it is the law given
    the unmasked tokens of the other positions. A network reads relaxed letters as they are.

    Raises:
        ValueError: another width than 5, or a denoiser that takes only hard states.
    """
    check_relaxed(x)
    if isinstance(denoiser, NetworkDenoiser):
        return torch.log_softmax(logits(denoiser.parameters, x.float()).to(x.dtype), -1)
    evidence = x[..., :LETTERS] + x[..., MASK:]
    if isinstance(denoiser, MaskTable):
        mass = tabled(denoiser.law.to(x.dtype), evidence)
    elif isinstance(denoiser, MarkovMask):
        mass = chained(denoiser, evidence)
    else:
        raise ValueError(
            f"{type(denoiser).__name__} takes only hard states; accepted: MaskTable, MarkovMask, "
            "NetworkDenoiser"
        )
    return torch.log((mass / mass.sum(-1, keepdim=True)).clamp(min=SMALLEST))


def joint(evidence: Tensor) -> Tensor:
    """Products over positions of `evidence` `[N, B, K, 4]`, one for each word, `[N, B, 4^K]`."""
    weight = evidence[:, :, 0]
    for i in range(1, evidence.shape[2]):
        weight = (weight[..., None] * evidence[:, :, i, None]).flatten(2)
    return weight


def tabled(law: Tensor, evidence: Tensor) -> Tensor:
    """Mass of each letter at each position given the evidence elsewhere, `[N, B, L, 4]`.

    Args:
        law: `[N or 1, 4^L]`.
        evidence: `[N, B, L, 4]`.
    """
    n, _, length, _ = evidence.shape
    half = length // 2
    if half == 0:
        return law[:, None, None].expand(n, evidence.shape[1], -1, -1)
    grid = law.reshape(-1, LETTERS**half, LETTERS ** (length - half)).expand(n, -1, -1)
    first, last = evidence[:, :, :half], evidence[:, :, half:]
    left, right = torch.bmm(joint(last), grid.mT), torch.bmm(joint(first), grid)
    return torch.cat([elsewhere(left, first), elsewhere(right, last)], 2)


def elsewhere(mass: Tensor, evidence: Tensor) -> Tensor:
    """The same for a table of each chain, by halves: `mass` `[N, B, 4^K]`, `[N, B, K, 4]`."""
    length = evidence.shape[2]
    if length == 1:
        return mass[:, :, None]
    half = length // 2
    grid = mass.unflatten(-1, (LETTERS**half, -1))
    first, last = evidence[:, :, :half], evidence[:, :, half:]
    left = (grid * joint(last)[:, :, None]).sum(-1)
    right = (grid * joint(first)[..., None]).sum(-2)
    return torch.cat([elsewhere(left, first), elsewhere(right, last)], 2)


def chained(law: MarkovMask, evidence: Tensor) -> Tensor:
    """Mass of each letter given the evidence elsewhere, by messages along the chain.

    Args:
        law: leaves lead with `N` or 1.
        evidence: `[N, B, L, 4]`; messages are scaled to sum to 1.
    """
    step, length = law.transition.to(evidence.dtype), law.length
    forward = [law.start.to(evidence.dtype)[:, None].expand_as(evidence[:, :, 0])]
    backward = [torch.ones_like(evidence[:, :, 0])]
    for i in range(length - 1):
        right = ((forward[-1] * evidence[:, :, i])[..., None] * step[:, None]).sum(2)
        forward.append(right / right.sum(-1, keepdim=True))
        seen = backward[-1] * evidence[:, :, length - 1 - i]
        left = (step[:, None] * seen[:, :, None]).sum(3)
        backward.append(left / left.sum(-1, keepdim=True))
    return torch.stack(forward, 2) * torch.stack(backward[::-1], 2)


def occupied(x: Tensor) -> Tensor:
    """Weight of each of the `5^L` hard states in relaxed letters `[N, B, L, 5]`, `[N, B, 5^L]`."""
    check_relaxed(x)
    weight = x[:, :, 0]
    for i in range(1, x.shape[2]):
        weight = (weight[..., None] * x[:, :, i, None]).flatten(2)
    return weight


# ------------------------------------------------------------------------- steps


def keep(log_law: Tensor, x: Tensor) -> Tensor:
    """Log-laws `[N, B, L, 4]`, with certainty where the largest entry of `x` is a letter.

    So a letter, once there, stays (the substitution of Sahoo et al. 2024).
    """
    top = harden(x.detach())
    own = torch.where(relax(top)[..., :LETTERS] > 0, 0.0, NEVER).to(log_law.dtype)
    return torch.where((top == MASK)[..., None], log_law, own)


def log_factors(log_law: Tensor, t: int) -> Tensor:
    """Log-law `[N, B, L, 5]` of the next token of a mask at time `t`: revealed with 1 / t."""
    check_integer("t", t, 1)
    stay = math.log1p(-1 / t) if t > 1 else NEVER
    masked = torch.full_like(log_law[..., :1], stay)
    return torch.cat([log_law - math.log(t), masked], -1)


def gumbel(rng: Rng, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard Gumbel numbers `[N, *shape]`: their largest sum with log-laws follows the law."""
    return -torch.log(rng.exponential(name, *shape, dtype=dtype))


def relaxed_step(
    x: Tensor,
    log_law: Tensor,
    t: int,
    noise: Tensor,
    temperature: float,
    hard: bool,
    blend: str = "kept",
) -> Tensor:
    """The state at `t - 1`, `[N, B, L, 5]`.

    The weight of the mask goes to `y`, the softmax of log-law plus noise over the temperature
    (Jang et al. 2017, "Categorical reparameterization with Gumbel-Softmax"). With
    `blend="kept"` letters keep their weight: `x + m (y - mask)`, and no mask is left at time 0.
    With "released" it is `(1 - m) x + m y`, the same on hard states; but it scales letters by
    `1 - m` too, so that a revealed letter has the gradient of what was kept masked, and a reward
    that is the same for all sequences has one.

    Args:
        x: at time `t`.
        log_law: `[N, B, L, 4]`.
        t: time, >= 1.
        noise: of `gumbel`, `[N, B, L, 5]`.
        temperature: > 0.
        hard: whether `y` is hard in value, with the gradient of the softmax.
        blend: "kept" or "released".

    Raises:
        ValueError: `temperature`, `t` or `blend` outside its range, or another width of `x`.
    """
    check_relaxed(x)
    check_real("temperature", temperature, 0, open_low=True)
    check_choice("blend", blend, BLENDS)
    y = torch.softmax((log_factors(log_law, t) + noise) / temperature, -1)
    y = straighten(y) if hard else y
    masked = x[..., MASK:]
    if blend == "released":
        return (1 - masked) * x + masked * y
    return torch.nn.functional.pad(x[..., :LETTERS], (0, 1)) + masked * y


# ------------------------------------------------------------------------- divergences


def check_same(ours: Tensor, base: Tensor) -> None:
    """Accept log-laws over the same letters.

    Raises:
        ValueError: the last dimensions differ.
    """
    if ours.shape[-2:] != base.shape[-2:]:
        raise ValueError(
            f"the policy has laws {tuple(ours.shape)}, the reference {tuple(base.shape)}; "
            "accepted: the same positions and letters"
        )


def path_divergence(ours: Tensor, base: Tensor, x: Tensor, t: int) -> Tensor:
    """KL of a parallel step from time `t`: revealed share times KL of the laws, `[N, B]`.

    `(1 / t) sum_i x_i[mask] KL(ours_i || base_i)`, of log-laws `[N, B, L, 4]`.

    Raises:
        ValueError: laws over different letters.
    """
    check_same(ours, base)
    inner = (ours.exp() * (ours - base)).sum(-1)
    return (x[..., MASK] * inner).sum(-1) / t


def released_divergence(ours: Tensor, base: Tensor, x: Tensor, level: float) -> Tensor:
    """What the released code of DRAKES adds up in place of `path_divergence`, `[N, B]`.

    `sum_i (1 - x_i[mask]) sum_a x_i[a] (-p + q + p log(p / q))_a / level`, without the length of
    the step. Masked positions weigh nothing, and at letters `p = q`: it is 0 on all hard states
    and sees only how soft relaxed ones are.

    Args:
        ours: `log p` `[N, B, L, 4]`.
        base: `log q` `[N, B, L, 4]`.
        x: `[N, B, L, 5]`.
        level: noise level `t / T` in `(0, 1]`.

    Raises:
        ValueError: laws over different letters.
    """
    check_same(ours, base)
    p, q = ours.exp(), base.exp()
    inner = (x[..., :LETTERS] * (-p + q + p * (ours - base))).sum(-1)
    return ((1 - x[..., MASK]) * inner).sum(-1) / level


# ------------------------------------------------------------------------- chains


class Ending(NamedTuple):
    """Where relaxed chains end."""

    point: Tensor  # [N, B, L, 5] at time 0
    divergence: Tensor  # [N, B] of the steps, summed


@dataclass(frozen=True)
class RelaxedChain:
    """How a chain is relaxed.

    Attributes:
        steps: T, >= 1.
        truncation: K in [0, T], the last steps that gradients pass through; the others are hard.
        temperature: of the softmax, > 0.
        straight_through: whether the last K states are hard in value.
        kl: divergence that is added up: "path", "released" or "none".
        blend: how a step mixes letters with new ones, "kept" or "released".

    Raises:
        ValueError: a number outside its range.
    """

    steps: int
    truncation: int
    temperature: float = 1.0
    straight_through: bool = True
    kl: str = "path"
    blend: str = "kept"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a field outside its range.
        """
        check_integer("steps", self.steps, 1)
        check_integer("truncation", self.truncation, 0, self.steps)
        check_real("temperature", self.temperature, 0, open_low=True)
        check_choice("kl", self.kl, DIVERGENCES)
        check_choice("blend", self.blend, BLENDS)

    def run(self, start: Tensor, ours: Laws, base: Laws, rng: Rng) -> Ending:
        """Chains from the hard states `start` `[N, B, L, 5]`, drawn by Gumbel numbers.

        Args:
            start: at time T.
            ours: log-laws that write; differentiable in parameters and state.
            base: log-laws of the reference, without gradient.
            rng: source of the draws `gumbel/T`, ..., `gumbel/1`.
        """
        x, total = start, torch.zeros_like(start[:, :, 0, 0])
        for t in range(self.steps, 0, -1):
            law = keep(ours(x, t), x)
            if self.kl != "none":
                with torch.no_grad():
                    reference = keep(base(x, t), x)
                total = total + self.step_divergence(law, reference, x, t)
            noise = gumbel(rng, f"gumbel/{t}", *x.shape[1:], dtype=x.dtype)
            passing = t <= self.truncation
            hard = self.straight_through or not passing
            x = relaxed_step(x, law, t, noise, self.temperature, hard, self.blend)
            x = x if passing else x.detach()
        return Ending(x, total)

    def step_divergence(self, law: Tensor, reference: Tensor, x: Tensor, t: int) -> Tensor:
        """The named divergence of the step from time `t`, `[N, B]`."""
        if self.kl == "released":
            return released_divergence(law, reference, x, t / self.steps)
        return path_divergence(law, reference, x, t)
