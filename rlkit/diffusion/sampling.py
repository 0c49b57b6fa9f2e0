"""Samples alone, fast: no chain is kept and no log-probability computed.

Of a mixture whose components are round, the denoised point is a softmax of numbers that are
linear in the point and its square; a step is then two small products with chains innermost in
memory. Coefficients are computed in double precision whatever the precision of the chains.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.kernels import Kernel
from rlkit.diffusion.mixtures import Mixture
from rlkit.random import Rng


class Step(NamedTuple):
    """Coefficients of one step of round mixtures, chains in the last dimension.

    Attributes:
        score: of the point, and of its square where variances differ, `[N, K, d or d + 1]`.
        offset: of each component, `[N, K, 1]`.
        pull: rows that make the numerators and the denominator, `[N, d + 1 or d + 2, K]`.
        keep: of the point itself, `[N, 1, 1]`.
        deviation: of the noise, `[N, 1, 1]`; 0 for none.
    """

    score: Tensor
    offset: Tensor
    pull: Tensor
    keep: Tensor
    deviation: Tensor


def sample(kernel: Kernel, data: Mixture, start: Tensor, rng: Rng, name: str = "chain") -> Tensor:
    """The last points of the chains of `Kernel.chain` from the same draws, up to rounding.

    Args:
        kernel: of the steps.
        data: law of x_0, `[N, 1, K]` components, in the precision of the chains.
        start: x_T, `[N, B, d]`.
        rng: draws are named `name/t`.
        name: of the draws.

    Returns:
        x_0, `[N, B, d]`.
    """
    if kernel.kind == "exact" or not is_round(data):
        return _plain(kernel, data, start, rng, name)
    x = start.transpose(1, 2).contiguous()
    one_variance = bool((data.spectrum == data.spectrum[:, :, :1]).all())
    for t in range(kernel.schedule.steps, 0, -1):
        step = coefficients(kernel, data, t, one_variance)
        x = _advance(step, x, one_variance)
        if not kernel.deterministic:
            noise = rng.normal(f"{name}/{t}/noise", *start.shape[1:], dtype=x.dtype)
            x = torch.addcmul(x, noise.transpose(1, 2), step.deviation)
    return x.transpose(1, 2).contiguous()


def is_round(data: Mixture) -> bool:
    """Whether all covariances are multiples of the identity."""
    return data.basis is None and bool((data.spectrum == data.spectrum[..., :1]).all())


def coefficients(kernel: Kernel, data: Mixture, t: int, one_variance: bool) -> Step:
    """Coefficients of the step from t, in the precision of `data`.

    With C_k = abar v_k + 1 - abar, component k scores log w_k - d/2 log C_k - |x - sqrt(abar)
    m_k|^2 / (2 C_k), and predicts (1 - abar) / C_k m_k + sqrt(abar) v_k / C_k x. Where all C_k
    are one number, the square of x scores all components alike and is left out.

    Args:
        kernel: "ddpm" or "ddim".
        data: round components `[N, 1, K]`.
        t: in `1 .. T`.
        one_variance: whether the variances of a replica are one number.
    """
    mean, variance = data.mean[:, 0].double(), data.spectrum[:, 0, :, :1].double()
    log_weight = data.log_weight[:, 0, :, None].double()
    # Steps are linear in the denoised point and in the point.
    unit, zero = torch.ones_like(mean[:, :1, :1]), torch.zeros_like(mean[:, :1, :1])
    denoised, deviation = kernel.gaussian(zero, unit, t)
    point, _ = kernel.gaussian(unit, zero, t)
    abar = kernel.schedule.at(t).to(mean).reshape(-1, 1, 1)
    spread, root = abar * variance + (1 - abar), torch.sqrt(abar)
    score = root * mean / spread
    offset = log_weight - 0.5 * mean.shape[2] * torch.log(spread)
    offset = offset - 0.5 * abar * (mean * mean).sum(2, keepdim=True) / spread
    pull = denoised * (1 - abar) / spread * mean
    slope = denoised * root * variance / spread
    rows, keep = [pull, torch.ones_like(slope)], point.expand_as(slope[:, :1])
    if one_variance:
        keep = keep + slope[:, :1]
    else:
        score, rows = torch.cat([score, -0.5 / spread], 2), [*rows, slope]
    like = data.mean.dtype
    every = (score, offset, torch.cat(rows, 2).mT, keep, deviation.reshape(-1, 1, 1))
    return Step(*(value.to(like).contiguous() for value in every))


def _advance(step: Step, x: Tensor, one_variance: bool) -> Tensor:
    """Means of the next points, `[N, d, B]`."""
    d = x.shape[1]
    seen = x if one_variance else torch.cat([x, (x * x).sum(1, keepdim=True)], 1)
    joint = torch.baddbmm(step.offset, step.score, seen)
    joint.sub_(joint.amax(1, keepdim=True)).exp_()
    pulled = torch.bmm(step.pull, joint)
    total = pulled[:, d : d + 1]
    moved = pulled[:, :d].div_(total)
    if one_variance:
        return torch.addcmul(moved, x, step.keep)
    return torch.addcmul(moved, x, pulled[:, d + 1 :].div_(total) + step.keep)


def _plain(kernel: Kernel, data: Mixture, x: Tensor, rng: Rng, name: str) -> Tensor:
    for t in range(kernel.schedule.steps, 0, -1):
        if kernel.deterministic:
            x, _ = kernel.gaussian(x, data.denoise(x, kernel.schedule.at(t)), t)
        else:
            x = kernel.law(data, x, t).sample(rng, f"{name}/{t}", x.shape[1])
    return x
