"""The optimum of KL-regularised fine-tuning: data tilted by exp(reward / alpha).

For exact marginals p_t, the soft value is V_t = alpha (log Z + log p*_t - log p_t), p*_t being the
forward diffusion of the tilted data p*: the optimal kernel is the exact reverse kernel of p*.
With x_T free the optimum is alpha log Z; with x_T fixed to the law p_T it is the mean of V_T,
smaller by alpha KL(p_T || p*_T), and its samples are not p*.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlkit.diffusion.mixtures import Mixture, check_weights, spectra
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real

BORDER = 1e-6  # largest mass on the edge of a grid


def temperature(alpha: float | Tensor, n: int, like: Tensor) -> Tensor:
    """The temperature of each replica, `[N]`, in the dtype and on the device of `like`.

    Raises:
        ValueError: not > 0 and finite.
    """
    value = torch.as_tensor(alpha, dtype=like.dtype, device=like.device).expand(n)
    wrong = ~(torch.isfinite(value) & (value > 0))
    if bool(wrong.any()):
        raise ValueError(f"alpha = {float(value[wrong][0])} outside (0, inf)")
    return value


@dataclass(frozen=True)
class Grid:
    """A lattice for quadrature on the cube [-limit, limit]^d, d <= 2.

    Attributes:
        limit: half the side, > 0.
        size: points a side, >= 3.
        dimension: 1 or 2.
    """

    limit: float = 8.0
    size: int = 801
    dimension: int = 1

    def __post_init__(self) -> None:
        check_real("limit", self.limit, 0, open_low=True)
        check_integer("size", self.size, 3)
        check_integer("dimension", self.dimension, 1, 2)

    @property
    def axis(self) -> Tensor:
        """Points of one side, `[size]`."""
        return torch.linspace(-self.limit, self.limit, self.size, dtype=torch.float64)

    @property
    def points(self) -> Tensor:
        """All points, `[1, G, d]`, G = size ** d."""
        side = [self.axis] * self.dimension
        return torch.cartesian_prod(*side).reshape(1, -1, self.dimension)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of a cell."""
        return self.dimension * math.log(2 * self.limit / (self.size - 1))

    def log_integral(self, log_density: Tensor) -> Tensor:
        """Log integral of a function given by its logarithm `[N, G]`, `[N]`.

        Raises:
            ValueError: more than 1e-6 of it lies on the edge of the grid, or it is not finite.
        """
        total = torch.logsumexp(log_density, -1) + self.log_volume
        points = self.points.to(log_density.device)
        edge = (points.abs() >= self.limit * (1 - 1e-12)).any(-1)
        share = (torch.softmax(log_density, -1) * edge).sum(-1).max()
        if not float(share) <= BORDER or not bool(torch.isfinite(total).all()):
            raise ValueError(
                f"mass {float(share)} on the edge of the grid [-{self.limit}, {self.limit}]; "
                f"accepted: [0, {BORDER}]"
            )
        return total


@dataclass(frozen=True)
class Tilt:
    """A mixture and its tilt, in closed form.

    Attributes:
        base: law of the data, `[N, 1, K]` components.
        tilted: p*, in proportion to the base times exp(reward / alpha), `[N, 1, K']` components.
        log_z: log of its normaliser, `[N]`.
        alpha: temperature, `[N]`.
    """

    base: Mixture
    tilted: Mixture
    log_z: Tensor
    alpha: Tensor

    def value(self, x: Tensor, abar: float | Tensor) -> Tensor:
        """Soft value alpha log E[exp(reward / alpha) | x_t = x] at `x` `[N, B, d]`, `[N, B]`."""
        after, before = self.tilted.diffuse(abar), self.base.diffuse(abar)
        gain = after.log_density(x) - before.log_density(x)
        return self.alpha[:, None] * (self.log_z[:, None] + gain)

    def guidance(self, x: Tensor, abar: float | Tensor) -> Tensor:
        """Exact guidance, the gradient of V_t / alpha, at `x`, `[N, B, d]`."""
        return self.tilted.diffuse(abar).score(x) - self.base.diffuse(abar).score(x)

    def free_value(self) -> Tensor:
        """Optimum J* where the law of x_T may change too: alpha log Z, `[N]`."""
        return self.alpha * self.log_z

    def fixed_value(self, abar: float | Tensor, grid: Grid, start: Mixture | None = None) -> Tensor:
        """Optimum J* where x_T keeps its law: the mean of V_T, `[N]`, by quadrature.

        Args:
            abar: level of T.
            grid: for x_T.
            start: law of x_T, `[N, 1, K]` components; None for p_T.
        """
        law = self.base.diffuse(abar) if start is None else start
        points = grid.points.to(law.mean.device)
        log_density = law.log_density(points)
        grid.log_integral(log_density)
        weight = torch.exp(log_density + grid.log_volume)
        return (weight * self.value(points, abar)).sum(-1)

    def initial_bias(self, abar: float | Tensor, grid: Grid) -> Tensor:
        """Loss from keeping x_T at p_T: alpha KL(p_T || p*_T), `[N]`, by quadrature."""
        points = grid.points.to(self.base.mean.device)
        before = self.base.diffuse(abar).log_density(points)
        after = self.tilted.diffuse(abar).log_density(points)
        grid.log_integral(before)
        weight = torch.exp(before + grid.log_volume)
        return self.alpha * (weight * (before - after)).sum(-1)

    def start_bias(self, abar: float, grid: Grid) -> Tensor:
        """Loss from a standard normal x_T: alpha log Z less the mean of V_T, `[N]`."""
        origin = torch.zeros_like(self.base.mean[:, :, :1])
        white = Mixture(origin[..., 0], origin, torch.ones_like(origin))
        return self.free_value() - self.fixed_value(abar, grid, white)

    def sampled_bias(
        self, abar: float | Tensor, rng: Rng, count: int, name: str = "bias"
    ) -> tuple[Tensor, Tensor]:
        """Estimate of `initial_bias` in any dimension and its standard error, `[N]` each."""
        check_integer("count", count, 2)
        before = self.base.diffuse(abar)
        x = before.sample(rng, name, count)
        gain = before.log_density(x) - self.tilted.diffuse(abar).log_density(x)
        error = gain.std(-1) / math.sqrt(count)
        return self.alpha * gain.mean(-1), self.alpha * error

    def fixed_log_density(self, x: Tensor, abar: float | Tensor, grid: Grid) -> Tensor:
        """Log density at `x` `[1, P, d]` of x_0 at the optimum that keeps x_T at p_T, `[N, P]`.

        The mean of p*(x_0 | x_T) over p_T: what the optimal kernel makes of an untilted start.
        """
        points = grid.points.to(self.base.mean.device)
        law = self.tilted.posterior(points, abar)
        start = self.base.diffuse(abar).log_density(points) + grid.log_volume
        rows = [torch.logsumexp(law.log_density(spot) + start, -1) for spot in x.split(1, 1)]
        return torch.stack(rows, 1)


def _close(base: Mixture, tilted: Mixture, alpha: Tensor) -> Tilt:
    """Normalise the weights of `tilted`; what they sum to is Z."""
    log_z = torch.logsumexp(tilted.log_weight, -1)
    weighted = replace(tilted, log_weight=tilted.log_weight - log_z[..., None])
    return Tilt(base, weighted, log_z[:, 0], alpha)


def linear_tilt(base: Mixture, slope: Tensor, alpha: float | Tensor) -> Tilt:
    """Tilt by the reward slope . x: means move by S slope / alpha, covariances stay.

    Args:
        base: `[N, 1, K]` components.
        slope: `[N, d]`.
        alpha: temperature > 0, a number or `[N]`.
    """
    heat = temperature(alpha, base.replicas, base.mean)
    push = (slope / heat[:, None])[:, None, None]
    inner = base.spectrum * base.inward(push.expand_as(base.mean))
    shift = base.outward(inner)
    gain = (push * (base.mean + 0.5 * shift)).sum(-1)
    return _close(
        base, replace(base, log_weight=base.log_weight + gain, mean=base.mean + shift), heat
    )


def quadratic_tilt(base: Mixture, a: Tensor, centre: Tensor, alpha: float | Tensor) -> Tilt:
    """Tilt by the reward -(x - centre)' A (x - centre) / 2.

    With R the square root of S and H = I + R A R / alpha, covariances become R H^-1 R.

    Args:
        base: `[N, 1, K]` components.
        a: symmetric matrix A, `[N, d, d]`; need not be positive.
        centre: `[N, d]`.
        alpha: temperature > 0, a number or `[N]`.

    Raises:
        ValueError: M = I + S A / alpha is not positive definite for a component, that is, the
            tilt has infinite mass.
    """
    heat = temperature(alpha, base.replicas, base.mean)
    q = 0.5 * (a + a.mT)[:, None, None] / heat[:, None, None, None, None]
    d = base.dimension
    axes = torch.eye(d, dtype=base.mean.dtype, device=base.mean.device)
    basis = axes.expand(d, d) if base.basis is None else base.basis[:, None]
    root = (basis * torch.sqrt(base.spectrum)[..., None, :]) @ basis.mT
    inverse_root = (basis / torch.sqrt(base.spectrum)[..., None, :]) @ basis.mT
    h = axes + root @ q @ root
    least, _ = spectra("M = I + S A / alpha", h)
    covariance = root @ torch.linalg.solve(h, root)
    offset = (base.mean - centre[:, None, None])[..., None]
    moved = root @ torch.linalg.solve(h, inverse_root @ offset)
    cost = 0.5 * torch.log(least).sum(-1) + 0.5 * (offset.mT @ q @ moved)[..., 0, 0]
    mean = centre[:, None, None] + moved[..., 0]
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    return _close(base, Mixture(base.log_weight - cost, mean, values, vectors[:, 0]), heat)


def mixture_tilt(
    base: Mixture, weight: Tensor, centre: Tensor, rho: float, alpha: float | Tensor
) -> Tilt:
    """Tilt by the reward alpha log sum_j weight_j N(x; centre_j, rho^2 I): a product of mixtures.

    Args:
        base: `[N, 1, K]` components.
        weight: `[N, J]`, rows sum to 1.
        centre: `[N, J, d]`.
        rho: standard deviation of the components of the reward, > 0.
        alpha: temperature and scale of the reward > 0, a number or `[N]`.

    Returns:
        A tilt with K J components, component (k, j) at k J + j.
    """
    check_weights("weight", weight)
    check_real("rho", rho, 0, open_low=True)
    heat = temperature(alpha, base.replicas, base.mean)
    j, variance = weight.shape[1], rho * rho
    spread = base.spectrum.repeat_interleave(j, 2)
    basis = None if base.basis is None else base.basis.repeat_interleave(j, 1)
    mean = base.mean.repeat_interleave(j, 2)
    wide = Mixture(base.log_weight.repeat_interleave(j, 2), mean, spread + variance, basis)
    target = centre[:, None].repeat(1, 1, base.mean.shape[2], 1)
    offset = wide.inward(target - mean)
    overlap = wide._log_joint(offset) + torch.log(weight)[:, None].repeat(1, 1, base.mean.shape[2])
    shift = wide.outward(spread / wide.spectrum * offset)
    tilted = Mixture(overlap, mean + shift, spread * variance / wide.spectrum, basis)
    return _close(base, tilted, heat)


def linear_reward(x: Tensor, slope: Tensor) -> Tensor:
    """The reward slope . x at `x` `[N, B, d]`, slope `[N, d]`; `[N, B]`."""
    return (x * slope[:, None]).sum(-1)


def quadratic_reward(x: Tensor, a: Tensor, centre: Tensor) -> Tensor:
    """The reward -(x - centre)' A (x - centre) / 2, A `[N, d, d]`, centre `[N, d]`; `[N, B]`."""
    offset = x - centre[:, None]
    return -0.5 * ((offset @ (0.5 * (a + a.mT))) * offset).sum(-1)


def mode_reward(x: Tensor, centre: Tensor, target: int, rho: float = 0.5) -> Tensor:
    """Share of centre `target` in softmax(-|x - centre_k|^2 / (2 rho^2)), in (0, 1), `[N, B]`.

    Args:
        x: `[N, B, d]`.
        centre: `[N, K, d]`.
        target: in `0 .. K - 1`.
        rho: width > 0.
    """
    check_integer("target", target, 0, centre.shape[1] - 1)
    check_real("rho", rho, 0, open_low=True)
    offset = x[:, :, None] - centre[:, None]
    return torch.softmax(-0.5 * (offset * offset).sum(-1) / (rho * rho), -1)[..., target]
