"""Gaussian laws of the initial noise, one for each prompt, and their closed-form optima."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.kernels import Kernel
from rlkit.diffusion.measures import LOOK
from rlkit.diffusion.task import DiffusionTask, run_reference
from rlkit.random import Rng
from rlkit.validation import check_choice, check_real

LEAST = 1e-4  # smallest standard deviation
LOST = 0.01  # level of x_T below which a stochastic sampler forgets it
SHOWN = 8  # prompts whose rewards are reported one by one, at most
REGULARISERS = ("kl", "squared")


class NoiseLaw(NamedTuple):
    """A Gaussian of x_T for each prompt."""

    mean: Tensor  # [N, C, d]
    log_deviation: Tensor  # [N, C, d]

    @property
    def deviation(self) -> Tensor:
        """Standard deviations `[N, C, d]`."""
        return torch.exp(self.log_deviation)


def refuse_lost_noise(kernel: Kernel, allowed: bool) -> None:
    """Refuse samplers whose x_0 does not depend on x_T, unless `allowed`.

    Raises:
        ValueError: steps have noise and x_T is all noise.
    """
    last = float(kernel.schedule.abar[-1])
    if not allowed and not kernel.deterministic and last < LOST:
        eta = f", eta = {kernel.eta}" if kernel.kind == "ddim" else ""
        raise ValueError(
            f"initial noise has no influence: kernel = {kernel.kind!r}{eta}, terminal abar = "
            f"{last:.2g}; accepted: 'ddim' with eta = 0, terminal abar >= {LOST}, or "
            "allow_uncontrollable = True"
        )


def start_noise(task: GaussianDiffusion, n: int, deviation: float = 1.0) -> NoiseLaw:
    """N(0, `deviation`^2) for every prompt.

    Raises:
        ValueError: `deviation` not > 0 and finite.
    """
    check_real("deviation", deviation, 0, open_low=True)
    mean = task.mixture.mean.new_zeros(n, task.prompts, task.dimension)
    return NoiseLaw(mean, mean + math.log(deviation))


def clamped(law: NoiseLaw) -> NoiseLaw:
    """`law` with standard deviations of at least 1e-4.

    Raises:
        ValueError: a parameter that is not finite.
    """
    for name, value in zip(("mu", "log sigma"), law, strict=True):
        if checking(value) and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} of the noise is not finite")
    return law._replace(log_deviation=law.log_deviation.clamp(min=math.log(LEAST)))


def every_prompt(task: DiffusionTask, like: Tensor, count: int) -> Tensor:
    """Each prompt `count` times in a row, `[N, C count]` int64; `like` `[N]` int64."""
    index = torch.arange(task.prompts, device=like.device).repeat_interleave(count)
    return index.expand(like.shape[0], -1).contiguous()


def draw_noise(law: NoiseLaw, rng: Rng, name: str, count: int) -> Tensor:
    """`count` starts for each prompt, `[N, C, count, d]`."""
    _, c, d = law.mean.shape
    white = rng.normal(name, c, count, d, dtype=law.mean.dtype).contiguous()
    return law.mean[:, :, None] + law.deviation[:, :, None] * white


def log_noise(law: NoiseLaw, point: Tensor, mean_over_coordinates: bool = False) -> Tensor:
    """Log density of `point` `[N, H, C, B, d]`, `[N, H, C, B]`; or its mean over coordinates."""
    mean, log = law.mean[:, None, :, None], law.log_deviation[:, None, :, None]
    scaled = (point - mean) * torch.exp(-log)
    each = -0.5 * scaled * scaled - log - 0.5 * math.log(2 * math.pi)
    return each.mean(-1) if mean_over_coordinates else each.sum(-1)


def distance(law: NoiseLaw, kind: str) -> Tensor:
    """How far each law is from N(0, I), coordinate by coordinate, `[N, C, d]`.

    "kl" is the divergence from the law to N(0, 1); "squared" is mu^2 + (sigma - 1)^2.
    """
    check_choice("regulariser", kind, REGULARISERS)
    square = law.mean * law.mean
    if kind == "squared":
        return square + (law.deviation - 1) * (law.deviation - 1)
    return 0.5 * (square + law.deviation * law.deviation - 1 - 2 * law.log_deviation)


def measure_starts(task: GaussianDiffusion, start: Tensor, rng: Rng) -> dict[str, Tensor]:
    """Mean rewards of the samples from `start` `[N, C, B, d]`, `[N]` each.

    `gold_reward` over all prompts, `reward_c` of each where there are several, 8 at most.
    """
    n, c, count, _ = start.shape
    prompt = every_prompt(task, rng.replica, count)
    with torch.no_grad():
        point = run_reference(task, start.flatten(1, 2), prompt, rng)
        return by_prompt(task.gold(point, prompt).reshape(n, c, count))


def by_prompt(reward: Tensor) -> dict[str, Tensor]:
    """Means of rewards `[N, C, B]`: over all, and of each prompt where there are several."""
    each = reward.double().mean(-1)
    found = {"gold_reward": each.mean(1)}
    if 1 < each.shape[1] <= SHOWN:
        found |= {f"reward_{i}": each[:, i] for i in range(each.shape[1])}
    return found


def measure_noise(task: GaussianDiffusion, law: NoiseLaw, replica: Tensor) -> dict[str, Tensor]:
    """Expected rewards and `noise_kl`, the divergence of x_T from N(0, I), mean over prompts.

    With a deterministic sampler that maps x_T one to one this is also the divergence of x_0 from
    the samples of the reference, and of the paths.
    """
    rng = Rng(0, "look", replica)
    start = draw_noise(law, rng, "start", max(1, LOOK // task.prompts))
    found = measure_starts(task, start, rng)
    return {**found, "noise_kl": distance(law, "kl").sum(-1).mean(1)}


def affine_map(task: GaussianDiffusion) -> tuple[float, float]:
    """Slope A and offset B of x_0 = A x_T + B, for one Gaussian in one dimension and eta = 0.

    Raises:
        ValueError: other data, or steps with noise.
    """
    law = task.mixture
    if law.mean.shape[2] > 1 or task.dimension > 1 or not task.kernel.deterministic:
        raise ValueError("the map is not affine; accepted: one Gaussian, d = 1, 'ddim', eta = 0")
    replica = torch.arange(law.replicas, device=law.mean.device)
    rng, prompt = Rng(0, "map", replica), replica[:, None].expand(-1, 2) * 0
    ends = law.mean.new_tensor([[[0.0], [1.0]]]).expand(law.replicas, -1, -1)
    low, high = run_reference(task, ends, prompt, rng)[0, :, 0].tolist()
    return high - low, low


def affine_optimum(
    slope: float, offset: float, curvature: float, centre: float, beta: float, kind: str
) -> tuple[float, float]:
    """The best mu and sigma for reward -curvature (x_0 - centre)^2 / 2, x_0 = slope x_T + offset.

    Of expected reward minus `beta` times `distance`.

    Args:
        slope: A of the map.
        offset: B of the map.
        curvature: of the reward, > 0.
        centre: of the reward.
        beta: weight of the regulariser, > 0.
        kind: "kl" or "squared".
    """
    check_choice("regulariser", kind, REGULARISERS)
    check_real("curvature", curvature, 0, open_low=True)
    check_real("beta", beta, 0, open_low=True)
    steep = curvature * slope * slope
    pull = -curvature * slope * (offset - centre)
    if kind == "kl":
        return pull / (steep + beta), math.sqrt(beta / (beta + steep))
    return pull / (steep + 2 * beta), 2 * beta / (2 * beta + steep)
