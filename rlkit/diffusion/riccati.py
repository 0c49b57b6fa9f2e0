"""Chains with affine Gaussian steps in one dimension: exact objectives, optima, fixed points.

Step t, for t = 1 .. T at index t - 1, is x_(t-1) ~ N(K x + b, v). An affine policy adds
`slope x + offset` to its mean. Rewards are quadratic, `-p x^2 / 2 + q x + c`, and so are all
values. Nothing here samples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.policies import AffineParameters, reference_moments
from rlkit.diffusion.rewards import Linear, Quadratic


class Parabola(NamedTuple):
    """`-p x^2 / 2 + q x + c`, floats or tensors of one shape."""

    p: Tensor
    q: Tensor
    c: Tensor

    def mean(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Expectation over a law with this mean and variance."""
        return -0.5 * self.p * (variance + mean * mean) + self.q * mean + self.c


@dataclass(frozen=True)
class AffineChain:
    """A reference chain and its reward, float64.

    Attributes:
        gain: K, `[T]`.
        shift: b, `[T]`.
        variance: v > 0, `[T]`.
        reward: of x_0, `[]` coefficients.
    """

    gain: Tensor
    shift: Tensor
    variance: Tensor
    reward: Parabola


class Plan(NamedTuple):
    """An affine policy and its value at T."""

    slope: Tensor  # [T] added to K
    offset: Tensor  # [T] added to b
    value: Parabola  # of x_T


class Affair(NamedTuple):
    """What a policy earns."""

    reward: Tensor  # [...]
    path_kl: Tensor  # [...]
    mean: Tensor  # [..., T + 1] of x_t
    variance: Tensor  # [..., T + 1] of x_t


def affine_chain(task: GaussianDiffusion) -> AffineChain:
    """The chain of a task with one Gaussian in one dimension, of replica 0 and prompt 0.

    Raises:
        ValueError: several components or dimensions, no density, or a reward of modes.
    """
    mixture = task.mixture
    if task.dimension > 1 or mixture.mean.shape[2] > 1:
        k, d = mixture.mean.shape[2:]
        raise ValueError(f"{k} components in {d} dimensions; accepted: 1 in 1")
    if task.kernel.deterministic:
        raise ValueError("eta = 0 has no density; accepted: (0, 1]")
    n, device = mixture.replicas, mixture.mean.device
    t = torch.arange(1, task.steps + 1, device=device).repeat(2).expand(n, -1)
    x = torch.arange(2, device=device).repeat_interleave(task.steps).expand(n, -1)
    found = reference_moments(task, x[..., None].double(), t, 0 * t)
    zero, one = found.mean[0, :, 0].split(task.steps)
    deviation = found.deviation.expand(t.shape)[0, : task.steps]
    return AffineChain(one - zero, zero, deviation * deviation, parabola_of(task))


def parabola_of(task: GaussianDiffusion) -> Parabola:
    """The reward of replica 0 and prompt 0.

    Raises:
        ValueError: it is neither linear nor quadratic.
    """
    judge = task.judge
    if isinstance(judge, Linear):
        slope = judge.slope[0, 0, 0]
        return Parabola(slope * 0, slope, slope * 0)
    if isinstance(judge, Quadratic):
        a, centre = judge.matrix[0, 0, 0], judge.centre[0, 0, 0]
        return Parabola(a, a * centre, -0.5 * a * centre * centre)
    raise ValueError(f"reward is {type(judge).__name__}; accepted: Linear, Quadratic")


def solve(chain: AffineChain, alpha: float, free: bool = False) -> Plan:
    """Optimum of reward minus `alpha` times path divergence, `alpha` > 0, by Riccati's equations.

    With x_(t-1) = K x + b + delta + sqrt(v) noise and V = -P y^2 / 2 + q y + c after it,
    `delta = v (q - P (K x + b)) / D`, D = alpha + v P. Shifts keep the variance of every step;
    with `free` it is optimal too, which is the unrestricted optimum.
    """
    after, slopes, offsets = chain.reward, [], []
    rows = zip(chain.gain, chain.shift, chain.variance, strict=True)
    for gain, shift, v in rows:
        d = alpha + v * after.p
        slopes.append(-v * after.p * gain / d)
        offsets.append(v * (after.q - after.p * shift) / d)
        spread = alpha * torch.log1p(v * after.p / alpha) if free else v * after.p
        cost = 0.5 * v * after.q * after.q / d - 0.5 * spread
        drift = alpha / d * (after.q * shift - 0.5 * after.p * shift * shift)
        after = Parabola(
            alpha / d * after.p * gain * gain,
            alpha / d * (after.q - after.p * shift) * gain,
            after.c + cost + drift,
        )
    return Plan(torch.stack(slopes), torch.stack(offsets), after)


def fixed_point(chain: AffineChain, price: Tensor) -> Plan:
    """Where every step trades the reward that follows it against its own divergence only.

    So do DPOK and `kl = "loss_only"`. Each step maximises expected reward minus `price` `[T]` times
    its divergence, later steps being what they are; their divergence counts for nothing.

    Returns:
        The policy, and the expected reward of x_0 as a function of x_T.
    """
    after, slopes, offsets = chain.reward, [], []
    rows = zip(chain.gain, chain.shift, chain.variance, price, strict=True)
    for gain, shift, v, alpha in rows:
        d = alpha + v * after.p
        slopes.append(-v * after.p * gain / d)
        offsets.append(v * (after.q - after.p * shift) / d)
        k, b = gain + slopes[-1], shift + offsets[-1]
        after = Parabola(
            after.p * k * k,
            (after.q - after.p * b) * k,
            after.c + after.q * b - 0.5 * after.p * (b * b + v),
        )
    return Plan(torch.stack(slopes), torch.stack(offsets), after)


def earn(chain: AffineChain, slope: Tensor, offset: Tensor) -> Affair:
    """Exact reward and path divergence of affine policies `[..., T]`, from x_T ~ N(0, 1)."""
    mean = torch.zeros_like(slope[..., 0])
    spread, path = torch.ones_like(mean), torch.zeros_like(mean)
    means, spreads = [mean], [spread]
    for t in reversed(range(len(chain.gain))):
        s, o, v = slope[..., t], offset[..., t], chain.variance[t]
        added = s * mean + o
        path = path + (added * added + s * s * spread) / (2 * v)
        k = chain.gain[t] + s
        mean, spread = k * mean + chain.shift[t] + o, k * k * spread + v
        means.append(mean)
        spreads.append(spread)
    reward = chain.reward.mean(mean, spread)
    return Affair(reward, path, torch.stack(means[::-1], -1), torch.stack(spreads[::-1], -1))


def of_policy(parameters: AffineParameters) -> tuple[Tensor, Tensor]:
    """Slopes and offsets `[N, T]` of trained affine policies in one dimension."""
    return parameters.slope[:, :, 0, 0], parameters.offset[:, :, 0, 0]


def solved(task: GaussianDiffusion) -> bool:
    """Whether affine policies on this task have an exact objective here."""
    single = task.dimension == 1 and task.mixture.mean.shape[2] == 1 and task.prompts == 1
    return single and isinstance(task.judge, (Linear, Quadratic)) and not task.kernel.deterministic


def measure_affine(
    task: GaussianDiffusion, parameters: AffineParameters, alpha: float
) -> dict[str, Tensor]:
    """Exact expectations of affine policies, `[N]` each, as `rlkit.diffusion.measures` has them.

    `kl` is that of x_0 from the data.
    """
    chain = affine_chain(task)
    found = earn(chain, *of_policy(parameters))
    mean, variance = found.mean[:, 0], found.variance[:, 0]
    data, width = task.mixture.mean[0, 0, 0, 0], task.mixture.spectrum[0, 0, 0, 0]
    ratio, offset = variance / width, mean - data
    one = torch.ones_like(mean[:1])
    best = solve(chain, alpha, free=True).value.mean(0 * one, one).expand_as(mean)
    return {
        "gold_reward": found.reward,
        "proxy_reward": found.reward,
        "path_kl": found.path_kl,
        "gap": best - (found.reward - alpha * found.path_kl),
        "kl": 0.5 * (ratio + offset * offset / width - 1 - torch.log(ratio)),
    }
