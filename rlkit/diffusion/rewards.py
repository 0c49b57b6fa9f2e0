"""Rewards of points, each with its tilt where there is one."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.quadrature import GridTilt, grid_tilt
from rlkit.diffusion.tilting import (
    Grid,
    Tilt,
    linear_tilt,
    quadratic_tilt,
)

AnyTilt = Tilt | GridTilt


class Judge(Protocol):
    """A reward of points and prompts."""

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward `[N, B]` at `x` `[N, B, d]` for `prompt` `[N, B]`."""

    def solvable(self, data: Mixture) -> bool:
        """Whether `tilt` exists for such data."""

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """The optimum for prompt `c` on `data` `[N, 1, K]`.

        Raises:
            ValueError: there is none.
        """

    def bias(self, tilt: AnyTilt, abar: float) -> Tensor:
        """Loss from a standard normal x_T, `[N]`: alpha log Z less the mean of V_T."""

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """Expected reward of the tilted law for prompt `c`, `[N]`."""


def split_reward(judge: object, *arguments: Tensor) -> dict[str, Tensor]:
    """Summands `[N, B]` or `[N, B, k]` of a reward that has a method `parts`; else empty.

    Args:
        judge: any reward of `arguments`.
        arguments: points and prompts, or letters.
    """
    parts = getattr(judge, "parts", None)
    return {} if parts is None else dict(parts(*arguments))


def grid_of(data: Mixture) -> Grid:
    """A grid for data in one or two dimensions.

    Raises:
        ValueError: more dimensions.
    """
    if data.dimension > 2:
        raise ValueError(f"d = {data.dimension} without a closed-form tilt; accepted: 1 or 2")
    return Grid(8.0, 801 if data.dimension == 1 else 161, data.dimension)


class Closed:
    """What rewards with closed-form tilts share."""

    def solvable(self, data: Mixture) -> bool:
        """Always."""
        return True

    def bias(self, tilt: AnyTilt, abar: float) -> Tensor:
        """Loss from a standard normal x_T, by quadrature, `[N]`; NaN above two dimensions."""
        assert isinstance(tilt, Tilt)
        if tilt.base.dimension > 2:
            return torch.full_like(tilt.alpha, math.nan)
        return tilt.start_bias(abar, grid_of(tilt.base))


@dataclass(frozen=True)
class Linear(Closed):
    """`slope . x` for slopes `[N, C, d]`, one a prompt."""

    slope: Tensor

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward `[N, B]`."""
        return self.parts(x, prompt)["coordinates"].sum(-1)

    def parts(self, x: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        """Share of each coordinate, `[N, B, d]`."""
        slope = self.slope.gather(1, prompt[..., None].expand(*prompt.shape, x.shape[-1]))
        return {"coordinates": x * slope}

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """In closed form."""
        return linear_tilt(data, self.slope[:, c], alpha)

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """Slope times the mean of the tilted law."""
        assert isinstance(tilt, Tilt)
        return (tilt.tilted.moments()[0][:, 0] * self.slope[:, c]).sum(-1)


@dataclass(frozen=True)
class Quadratic(Closed):
    """`-(x - centre)' A (x - centre) / 2` for matrices `[N, d, d]`, centres `[N, C, d]`."""

    matrix: Tensor
    centre: Tensor

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward `[N, B]`."""
        index = prompt[..., None].expand(*prompt.shape, x.shape[-1])
        offset = x - self.centre.gather(1, index)
        return -0.5 * ((offset @ self.matrix) * offset).sum(-1)

    def parts(self, x: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        """Share of each coordinate `-(x - centre)_i (A (x - centre))_i / 2`, `[N, B, d]`."""
        index = prompt[..., None].expand(*prompt.shape, x.shape[-1])
        offset = x - self.centre.gather(1, index)
        return {"coordinates": -0.5 * (offset @ self.matrix) * offset}

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """In closed form."""
        return quadratic_tilt(data, self.matrix, self.centre[:, c], alpha)

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """From mean and covariance of the tilted law."""
        assert isinstance(tilt, Tilt)
        mean, covariance = (moment[:, 0] for moment in tilt.tilted.moments())
        offset = mean - self.centre[:, c]
        spread = covariance + offset[:, :, None] * offset[:, None]
        return -0.5 * (self.matrix * spread).sum((1, 2))


@dataclass(frozen=True)
class Modes:
    """Product of shares in softmax(-|x - centre_k|^2 / (2 rho^2)) of each prompt's modes.

    With one mode a share in (0, 1); with two, four times their product: 1 halfway between them.

    Attributes:
        centre: `[N, K, d]`.
        target: modes of each prompt, `[C, 1 or 2]` int64.
        rho: width, > 0.
    """

    centre: Tensor
    target: Tensor
    rho: float

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward in (0, 1), `[N, B]`."""
        offset = x[:, :, None] - self.centre[:, None]
        share = torch.softmax(-0.5 * (offset * offset).sum(-1) / (self.rho * self.rho), -1)
        chosen = share.gather(-1, self.target.to(prompt.device)[prompt])
        return chosen.squeeze(-1) if chosen.shape[-1] == 1 else 4 * chosen.prod(-1)

    def solvable(self, data: Mixture) -> bool:
        """By quadrature in one or two dimensions."""
        return data.dimension <= 2

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """By quadrature."""

        def reward(points: Tensor) -> Tensor:
            prompt = torch.full(points.shape[:2], c, device=points.device)
            prompt = prompt.expand(len(self.centre), -1)
            return self(points.expand(len(self.centre), -1, -1), prompt)

        return grid_tilt(data, reward, alpha, grid_of(data))

    def bias(self, tilt: AnyTilt, abar: float) -> Tensor:
        """By quadrature, `[N]`."""
        assert isinstance(tilt, GridTilt)
        return tilt.start_bias(abar)

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """By quadrature, `[N]`."""
        assert isinstance(tilt, GridTilt)
        return tilt.expectation(tilt.reward)[1]
