"""One denoising step and whole chains: exact reverse kernel, DDPM and DDIM.

Chains are `[N, T + 1, B, d]`, the first index after the replica being the noise level t.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.schedules import Schedule
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

KINDS = ("exact", "ddpm", "ddim")
VARIANCES = ("small", "large")


@dataclass(frozen=True)
class Chain:
    """Chains from noise to data.

    Attributes:
        points: x_t at index t, `[N, T + 1, B, d]`.
        log_probability: of x_(t-1) given x_t at index t - 1, `[N, T, B]`; zeros where the steps
            are deterministic.
    """

    points: Tensor
    log_probability: Tensor


@dataclass(frozen=True)
class Kernel:
    """How x_(t-1) is drawn from x_t, for t in `1 .. T`.

    "exact" is the reverse conditional of a mixture: marginals are exact for any T. "ddpm" (Ho et
    al. 2020, equations 6 and 7) and "ddim" (Song et al. 2021, equation 12) are Gaussians around a
    prediction of x_0; ddim with eta = 1 is ddpm with small variance.

    Attributes:
        schedule: noise levels.
        kind: "exact", "ddpm" or "ddim".
        variance: of ddpm: "small" is beta-tilde, "large" is 1 - a.
        eta: of ddim, in [0, 1]; 0 is deterministic.
        last_variance: replaces beta-tilde = 0 at t = 1, > 0, so that densities exist.
    """

    schedule: Schedule
    kind: str = "exact"
    variance: str = "small"
    eta: float = 1.0
    last_variance: float = 1e-4

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("variance", self.variance, VARIANCES)
        check_real("eta", self.eta, 0, 1)
        check_real("last_variance", self.last_variance, 0, open_low=True)

    @property
    def deterministic(self) -> bool:
        """Whether steps have no density."""
        return self.kind == "ddim" and self.eta == 0

    def gaussian(self, x: Tensor, denoised: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean `[N, B, d]` and standard deviation `[N or 1, B or 1]` of ddpm or ddim.

        Args:
            x: x_t, `[N, B, d]`.
            denoised: the prediction of x_0, `[N, B, d]`.
            t: in `1 .. T`, an integer, `[N]` or `[N, B]`.

        Raises:
            ValueError: the exact kernel, which is a mixture; `t` outside `1 .. T`.
        """
        check_choice("kind", self.kind, KINDS[1:])
        now, then = self._levels(t, x)
        spread = (1 - then) / (1 - now) * (1 - now / then)
        floored = torch.where(spread > 0, spread, torch.full_like(spread, self.last_variance))
        if self.kind == "ddpm":
            a = now / then
            forward, backward = torch.sqrt(then) * (1 - a), torch.sqrt(a) * (1 - then)
            mean = forward[..., None] * denoised + backward[..., None] * x
            variance = floored if self.variance == "small" else 1 - a
            return mean / (1 - now)[..., None], torch.sqrt(variance)
        noise = (x - torch.sqrt(now)[..., None] * denoised) / torch.sqrt(1 - now)[..., None]
        kept = torch.sqrt(torch.clamp(1 - then - self.eta * self.eta * spread, min=0.0))
        mean = torch.sqrt(then)[..., None] * denoised + kept[..., None] * noise
        return mean, self.eta * torch.sqrt(floored)

    def law(self, data: Mixture, x: Tensor, t: int | Tensor) -> Mixture:
        """Law of x_(t-1) given x_t for data of a mixture, C = B.

        Args:
            data: law of x_0, `[N, 1, K]` components.
            x: x_t, `[N, B, d]`.
            t: in `1 .. T`, an integer, `[N]` or `[N, B]`.

        Raises:
            ValueError: `t` outside `1 .. T`, or a deterministic kernel.
        """
        self._has_density()
        now, then = self._levels(t, x)
        if self.kind == "exact":
            return data.reverse(x, now, then)
        mean, deviation = self.gaussian(x, data.denoise(x, now), t)
        variance = (deviation * deviation)[..., None, None].expand(*x.shape[:2], 1, x.shape[2])
        return Mixture(torch.zeros_like(x[..., :1]), mean[:, :, None], variance)

    def chain(self, data: Mixture, start: Tensor, rng: Rng, name: str = "chain") -> Chain:
        """All T steps from x_T = `start` `[N, B, d]`, with their log-probabilities.

        Draws are named `name/t`.
        """
        x, points, logs = start, [start], []
        for t in range(self.schedule.steps, 0, -1):
            if self.deterministic:
                x, _ = self.gaussian(x, data.denoise(x, self.schedule.at(t)), t)
                logs.append(torch.zeros_like(x[..., 0]))
            else:
                law = self.law(data, x, t)
                x = law.sample(rng, f"{name}/{t}", x.shape[1])
                logs.append(law.log_density(x))
            points.append(x)
        return Chain(torch.stack(points[::-1], 1), torch.stack(logs[::-1], 1))

    def log_probability(self, data: Mixture, points: Tensor) -> Tensor:
        """Log-probability of every step of chains `[N, T + 1, B, d]`, `[N, T, B]`.

        Raises:
            ValueError: a number of steps other than T, or a deterministic kernel.
        """
        if points.shape[1] != self.schedule.steps + 1:
            raise ValueError(f"chains have {points.shape[1] - 1} steps, not {self.schedule.steps}")
        steps = range(1, self.schedule.steps + 1)
        return torch.stack(
            [self.law(data, points[:, t], t).log_density(points[:, t - 1]) for t in steps], 1
        )

    def _has_density(self) -> None:
        if self.deterministic:
            raise ValueError("eta = 0 has no density; accepted for log-probabilities: (0, 1]")

    def _levels(self, t: int | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Levels of t and t - 1, `[N or 1, B or 1]`."""
        if isinstance(t, int):
            check_integer("t", t, 1, self.schedule.steps)
        elif checking(t):
            check_integer("t", int(t.min()), 1, self.schedule.steps)
        return self.schedule.at(t).to(x), self.schedule.at(t - 1).to(x)


def gaussian_log_density(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Log density of isotropic Gaussians at `x`, `[N, B]`.

    Args:
        x: `[N, B, d]`.
        mean: `[N, B, d]`.
        deviation: `[N or 1, B or 1]`, > 0.
    """
    spectrum = (deviation * deviation)[..., None, None].expand(*mean.shape[:2], 1, mean.shape[2])
    return Mixture(torch.zeros_like(mean[..., :1]), mean[:, :, None], spectrum).log_density(x)


def white_noise(rng: Rng, count: int, d: int, name: str = "start") -> Tensor:
    """The usual start of a chain, x_T standard normal, `[N, count, d]` float64."""
    check_integer("count", count, 1)
    check_integer("d", d, 1)
    return rng.normal(name, count, d, dtype=torch.float64).contiguous()
