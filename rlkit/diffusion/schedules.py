"""Noise levels of a diffusion chain: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.validation import check_integer, check_real, interval

CLIP = 1e-3  # least ratio of two neighbouring levels of the cosine schedule


def level(abar: float | Tensor, like: Tensor) -> Tensor:
    """A signal level as `[N or 1, B or 1]`, in the dtype and on the device of `like`.

    Args:
        abar: in (0, 1]; a number, `[]`, `[N]` (one a replica) or `[N, B]` (one a chain).
        like: any floating tensor.

    Raises:
        ValueError: a level outside (0, 1], or more than two dimensions.
    """
    value = torch.as_tensor(abar, dtype=like.dtype, device=like.device)
    if value.dim() > 2:
        raise ValueError(f"abar has shape {tuple(value.shape)}; accepted: [], [N] or [N, B]")
    if checking(value):
        wrong = ~((value > 0) & (value <= 1))
        if bool(wrong.any()):
            raise ValueError(f"abar = {float(value[wrong][0])} outside {interval(0, 1, True)}")
    return value.reshape(*value.shape, *(1,) * (2 - value.dim()))


@dataclass(frozen=True)
class Schedule:
    """Signal levels abar_0 = 1 > abar_1 > ... > abar_T > 0, shared by all replicas.

    Steps `t` are integers, `[N]` or `[N, B]` int64; answers are `[N or 1, B or 1]`.

    Attributes:
        abar: `[T + 1]` float64.

    Raises:
        ValueError: fewer than one step, abar_0 not 1, levels outside (0, 1] or not decreasing.
    """

    abar: Tensor

    def __post_init__(self) -> None:
        check_integer("T", self.abar.shape[0] - 1, 1)
        level(self.abar, self.abar)
        if float(self.abar[0]) != 1:
            raise ValueError(f"abar[0] = {float(self.abar[0])}; accepted: 1")
        rises = self.abar[1:] >= self.abar[:-1]
        if bool(rises.any()):
            t = int(rises.int().argmax()) + 1
            raise ValueError(f"abar[{t}] = {float(self.abar[t])} is not below abar[{t - 1}]")

    @property
    def steps(self) -> int:
        """Number of denoising steps T."""
        return self.abar.shape[0] - 1

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratios abar / (1 - abar), `[T + 1]`, infinite at 0."""
        return self.abar / (1 - self.abar)

    def at(self, t: int | Tensor) -> Tensor:
        """The level abar_t, `t` in `0 .. T`, `[N or 1, B or 1]`.

        Raises:
            ValueError: `t` outside `0 .. T`.
        """
        if isinstance(t, int):
            check_integer("t", t, 0, self.steps)
            return self.abar[t].reshape(1, 1)
        index = torch.as_tensor(t)  # where it lies: reading it back would hold up the device
        if checking(index):
            low, high = int(index.min()), int(index.max())
            if low < 0 or high > self.steps:
                raise ValueError(f"t = {low if low < 0 else high} outside [0, {self.steps}]")
        value = self.abar.to(index.device)[index]
        return value.reshape(*value.shape, *(1,) * (2 - value.dim()))

    def ratio(self, t: int | Tensor) -> Tensor:
        """The ratio a_t = abar_t / abar_(t-1), `t` in `1 .. T`, `[N or 1, B or 1]`."""
        return self.at(t) / self.at(t - 1)

    def beta_tilde(self, t: int | Tensor) -> Tensor:
        """Variance of x_(t-1) given x_t and x_0, 0 at t = 1, `[N or 1, B or 1]`."""
        now, then = self.at(t), self.at(t - 1)
        return (1 - then) / (1 - now) * (1 - now / then)

    def sigma(self, eta: float) -> Tensor:
        """Noise of DDIM(eta) at t = 1 .. T: eta sqrt(beta-tilde_t), `[T]`.

        Raises:
            ValueError: `eta` outside [0, 1].
        """
        check_real("eta", eta, 0, 1)
        return eta * torch.sqrt(self.beta_tilde(torch.arange(1, self.steps + 1)).squeeze(1))


def linear_schedule(steps: int, b0: float = 0.1, b1: float = 20.0) -> Schedule:
    """Levels exp(-(b0 u + (b1 - b0) u^2 / 2)) at u = t / T (Song et al. 2021, VP).

    Args:
        steps: T >= 1.
        b0: noise rate at the data, >= 0.
        b1: noise rate at the end, >= 0.

    Returns:
        Schedule with `[T + 1]` levels.
    """
    check_integer("T", steps, 1)
    check_real("b0", b0, 0)
    check_real("b1", b1, 0)
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    return Schedule(torch.exp(-(b0 * u + 0.5 * (b1 - b0) * u * u)))


def terminal_schedule(steps: int, terminal_abar: float, b0: float = 0.1) -> Schedule:
    """The linear schedule that ends at a chosen level: b1 = -2 log(terminal_abar) - b0.

    Args:
        steps: T >= 1.
        terminal_abar: abar_T in (0, exp(-b0 / 2)]; a rate would be negative above.
        b0: noise rate at the data, >= 0.

    Returns:
        Schedule with `[T + 1]` levels.
    """
    check_real("b0", b0, 0)
    check_real("terminal_abar", terminal_abar, 0, math.exp(-0.5 * b0), open_low=True)
    return linear_schedule(steps, b0, max(0.0, -2 * math.log(terminal_abar) - b0))


def cosine_schedule(steps: int, offset: float = 0.008) -> Schedule:
    """Levels cos^2 of (u + offset) / (1 + offset) pi / 2, ratios at least 0.001.

    Nichol and Dhariwal (2021), equation 17, with their clipping of beta at 0.999.

    Args:
        steps: T >= 1.
        offset: keeps the first steps from being too small, >= 0.

    Returns:
        Schedule with `[T + 1]` levels.
    """
    check_integer("T", steps, 1)
    check_real("offset", offset, 0)
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    ratio = torch.clamp(curve[1:] / curve[:-1], min=CLIP)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(ratio, 0)]))


def sigmoid_schedule(steps: int, end_beta: float = 0.01, start_beta: float = 1e-5) -> Schedule:
    """Levels whose noise rates 1 - a_t rise as a sigmoid from `start_beta` to `end_beta`.

    Fan and Lee (2023), SFT-PG, released toy experiment: with ten steps and the default
    `end_beta` the last level is 0.951, far from pure noise; with 0.5 it is 0.037.

    Args:
        steps: T >= 1.
        end_beta: largest rate, in (start_beta, 1).
        start_beta: least rate, in (0, 1).

    Returns:
        Schedule with `[T + 1]` levels.
    """
    check_integer("T", steps, 1)
    check_real("start_beta", start_beta, 0, 1, open_low=True, open_high=True)
    check_real("end_beta", end_beta, start_beta, 1, open_low=True, open_high=True)
    rise = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64))
    ratio = 1 - (start_beta + rise * (end_beta - start_beta))
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(ratio, 0)]))
