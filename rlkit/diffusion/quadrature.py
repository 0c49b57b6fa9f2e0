"""Mixtures tilted by any reward, on a grid in one or two dimensions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.schedules import level
from rlkit.diffusion.tilting import Grid, temperature
from rlkit.validation import check_choice, check_real

CELLS = 1 << 22  # cells of one piece of a quadrature
Reward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GridTilt:
    """A tilt by any reward, on a grid (d <= 2).

    Attributes:
        grid: of x_0, and of x_T where its law is asked for.
        base: log density of the data, `[N, G]`.
        reward: `[N, G]`.
        log_z: `[N]`.
        alpha: temperature, `[N]`.
    """

    grid: Grid
    base: Tensor
    reward: Tensor
    log_z: Tensor
    alpha: Tensor

    @property
    def tilted(self) -> Tensor:
        """Log density of p*, `[N, G]`."""
        return self.base + self.reward / self.alpha[:, None] - self.log_z[:, None]

    def expectation(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Means of `values` `[N, G]` under the data and under p*, `[N]` each."""
        cell = self.grid.log_volume
        before, after = torch.exp(self.base + cell), torch.exp(self.tilted + cell)
        return (before * values).sum(-1), (after * values).sum(-1)

    def free_value(self) -> Tensor:
        """Optimum J* where the law of x_T may change too: alpha log Z, `[N]`."""
        return self.alpha * self.log_z

    def value(self, x: Tensor, abar: float | Tensor) -> Tensor:
        """Soft value at `x` `[N, B, d]` as the ratio of two integrals over x_0, `[N, B]`.

        Raises:
            ValueError: a level at which the noise is too narrow for the grid.
        """
        a = level(abar, x)
        self.refuse_narrow(a)
        points, gain = self.grid.points.to(x.device), self.reward / self.alpha[:, None]
        pieces = []
        width = max(1, CELLS // self.base.numel())
        levels = a.expand(a.shape[0], x.shape[1]).split(width, 1)
        for piece, now in zip(x.split(width, 1), levels, strict=True):
            offset = piece[:, :, None] - torch.sqrt(now)[..., None, None] * points[:, None]
            near = self.base[:, None] - 0.5 * (offset * offset).sum(-1) / (1 - now)[..., None]
            above = torch.logsumexp(near + gain[:, None], -1)
            pieces.append(above - torch.logsumexp(near, -1))
        return self.alpha[:, None] * torch.cat(pieces, 1)

    def refuse_narrow(self, abar: Tensor) -> None:
        """Accept levels whose noise spans cells: (1 - abar) / abar >= spacing^2 / 2.

        The trapezoidal rule then errs by 1e-4 of the integrals at most.
        """
        least = 2 * (self.grid.limit / (self.grid.size - 1)) ** 2
        if checking(abar) and bool((1 - abar < least * abar).any()):
            raise ValueError(
                f"abar = {float(abar.max())} is too near 1 for a grid of {self.grid.size} points a "
                f"side; accepted: (0, {1 / (1 + least)}]"
            )

    def initial_bias(self, abar: float) -> Tensor:
        """Loss from keeping x_T at p_T: alpha KL(p_T || p*_T), `[N]`, both laws on the grid."""
        before, ratio = self._ratio(abar)
        return self.alpha * (before * ratio).sum(-1) * math.exp(self.grid.log_volume)

    def start_bias(self, abar: float) -> Tensor:
        """Loss from a standard normal x_T: alpha log Z less the mean of V_T, `[N]`."""
        points = self.grid.points.to(self.base.device)
        constant = 0.5 * self.grid.dimension * math.log(2 * math.pi) - self.grid.log_volume
        white = torch.exp(-0.5 * (points * points).sum(-1) - constant)
        return self.alpha * (white * self._ratio(abar)[1]).sum(-1)

    def _ratio(self, abar: float) -> tuple[Tensor, Tensor]:
        """Density of x_t and the log of its ratio to that under p*, `[N, G]` each."""
        check_real("abar", abar, 0, 1, open_low=True, open_high=True)
        before, after = self._diffuse(self.base, abar), self._diffuse(self.tilted, abar)
        inside = (before > 1e-200) & (after > 1e-200)
        ratio = torch.log(torch.where(inside, before, 1.0) / torch.where(inside, after, 1.0))
        return before, ratio

    def _diffuse(self, log_density: Tensor, abar: float) -> Tensor:
        """Density `[N, G]` of x_t, one axis after the other."""
        axis = self.grid.axis.to(log_density.device)
        step = 2 * self.grid.limit / (self.grid.size - 1)
        offset = axis[:, None] - math.sqrt(abar) * axis
        spread = math.sqrt(2 * math.pi * (1 - abar))
        kernel = torch.exp(-0.5 * offset * offset / (1 - abar)) * (step / spread)
        density = torch.exp(log_density)
        if self.grid.dimension == 1:
            return density @ kernel.mT
        square = density.reshape(-1, self.grid.size, self.grid.size)
        return (kernel @ square @ kernel.mT).reshape(density.shape)


def grid_tilt(base: Mixture, reward: Reward, alpha: float | Tensor, grid: Grid) -> GridTilt:
    """Tilt by any reward in one or two dimensions, by quadrature.

    Args:
        base: `[N, 1, K]` components.
        reward: from points `[1, G, d]` to `[1, G]` or `[N, G]`.
        alpha: temperature > 0, a number or `[N]`.
        grid: of the dimension of `base`.

    Raises:
        ValueError: another dimension, rewards of another shape or not finite, or more than 1e-6
            of the tilted mass on the edge of the grid.
    """
    check_choice("dimension", grid.dimension, (base.dimension,))
    heat = temperature(alpha, base.replicas, base.mean)
    points = grid.points.to(base.mean.device)
    values = reward(points)
    size = points.shape[1]
    if values.shape not in ((1, size), (base.replicas, size)):
        raise ValueError(f"reward has shape {tuple(values.shape)}; accepted: [1 or N, {size}]")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("reward is not finite on the grid; accepted: (-inf, inf)")
    values = values.expand(base.replicas, size)
    log_density = base.log_density(points)
    log_z = grid.log_integral(log_density + values / heat[:, None])
    return GridTilt(grid, log_density, values, log_z, heat)
