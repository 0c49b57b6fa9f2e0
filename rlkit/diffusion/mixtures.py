"""Gaussian mixtures under forward diffusion: densities, scores, posteriors, reverse kernels.

All covariances along a diffusion are functions of the covariance of the data: they share its
eigenvectors, so one eigendecomposition serves every noise level of every chain.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlkit.diffusion.schedules import level
from rlkit.random import Rng
from rlkit.validation import check_integer

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Mixture:
    """Mixtures of K Gaussians in d dimensions, one a replica (C = 1) or one a chain (C = B).

    Points are `[N, B, d]`. Levels `abar` are numbers, `[N]` or `[N, B]`, in (0, 1].

    Attributes:
        log_weight: normalised, `[N, C, K]`.
        mean: `[N, C, K, d]`.
        spectrum: eigenvalues of the covariances, `[N, C, K, d]` (or 1 for C), > 0.
        basis: their eigenvectors, in columns, `[N, K, d, d]`; None for the coordinate axes.
    """

    log_weight: Tensor
    mean: Tensor
    spectrum: Tensor
    basis: Tensor | None = None

    @property
    def replicas(self) -> int:
        """Number of replicas N."""
        return self.mean.shape[0]

    @property
    def dimension(self) -> int:
        """Dimension d of a point."""
        return self.mean.shape[-1]

    @property
    def weight(self) -> Tensor:
        """Weights `[N, C, K]`."""
        return torch.exp(self.log_weight)

    @property
    def covariance(self) -> Tensor:
        """Covariances `[N, C, K, d, d]`."""
        if self.basis is None:
            return torch.diag_embed(self.spectrum)
        basis = self.basis[:, None]
        return (basis * self.spectrum[..., None, :]) @ basis.mT

    def to(self, dtype: torch.dtype) -> "Mixture":
        """The same mixture in another precision, for fast samplers."""
        basis = None if self.basis is None else self.basis.to(dtype)
        return Mixture(
            self.log_weight.to(dtype), self.mean.to(dtype), self.spectrum.to(dtype), basis
        )

    def inward(self, vector: Tensor) -> Tensor:
        """Coordinates of `[N, C, K, d]` along the eigenvectors of each component."""
        if self.basis is None:
            return vector
        return (vector.transpose(1, 2) @ self.basis).transpose(1, 2)

    def outward(self, vector: Tensor) -> Tensor:
        """Inverse of `inward`, `[N, C, K, d]`."""
        if self.basis is None:
            return vector
        return (vector.transpose(1, 2) @ self.basis.mT).transpose(1, 2)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log weight plus log density of each component at `x` `[N, B, d]`, `[N, B, K]`."""
        return self._log_joint(self.inward(x[:, :, None] - self.mean))

    def _log_joint(self, offset: Tensor) -> Tensor:
        square = offset * offset / self.spectrum + torch.log(self.spectrum)
        constant = self.dimension * math.log(2 * math.pi)
        return self.log_weight - 0.5 * (square.sum(-1) + constant)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density at `x` `[N, B, d]`, `[N, B]`."""
        return torch.logsumexp(self.log_joint(x), -1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Posterior probability of each component at `x` `[N, B, d]`, `[N, B, K]`."""
        return torch.softmax(self.log_joint(x), -1)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density at `x`, `[N, B, d]`."""
        offset = self.inward(x[:, :, None] - self.mean)
        share = torch.softmax(self._log_joint(offset), -1)
        return -(share[..., None] * self.outward(offset / self.spectrum)).sum(2)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `[N, C, d]` and covariance `[N, C, d, d]` of the whole mixture."""
        weight = self.weight[..., None]
        mean = (weight * self.mean).sum(2)
        offset = self.mean - mean[:, :, None]
        spread = self.covariance + offset[..., :, None] * offset[..., None, :]
        return mean, (weight[..., None] * spread).sum(2)

    def sample(self, rng: Rng, name: str, count: int) -> Tensor:
        """Draws `[N, count, d]`; `count` independent ones where C = 1, else one a chain.

        Raises:
            ValueError: `count` < 1, or not C where C > 1.
        """
        check_integer("count", count, 1)
        chains = self.mean.shape[1]
        if chains not in (1, count):
            raise ValueError(f"count = {count}; accepted: {chains}, one draw a chain")
        noise = rng.normal(f"{name}/noise", count, self.dimension, dtype=self.mean.dtype)
        every = self.mean + self.outward(torch.sqrt(self.spectrum) * noise.contiguous()[:, :, None])
        if self.mean.shape[2] == 1:
            return every[:, :, 0]
        u = rng.uniform(f"{name}/component", count, dtype=self.mean.dtype).contiguous()
        edges = torch.cumsum(torch.softmax(self.log_weight, -1), -1)[..., :-1]
        index = (u[..., None] >= edges).sum(-1)[..., None, None]
        return every.gather(2, index.expand(*every.shape[:2], 1, self.dimension)).squeeze(2)

    def diffuse(self, abar: float | Tensor) -> "Mixture":
        """Law of sqrt(abar) x_0 + sqrt(1 - abar) noise, `[N, C, K]` components."""
        a = level(abar, self.mean)[..., None, None]
        return replace(self, mean=torch.sqrt(a) * self.mean, spectrum=a * self.spectrum + (1 - a))

    def reverse(self, x: Tensor, abar: float | Tensor, earlier: float | Tensor) -> "Mixture":
        """Law of x_s given x_t = `x` for data of this mixture: the exact reverse kernel.

        Component k: mean sqrt(abar_s) m + sqrt(a) C_s C_t^-1 (x - sqrt(abar_t) m) and covariance
        C_s - a C_s C_t^-1 C_s = (1 - a) C_s C_t^-1, with a = abar_t / abar_s.

        Args:
            x: `[N, B, d]`.
            abar: level of t.
            earlier: level of s, above the level of t.

        Returns:
            A mixture for each chain, C = B.
        """
        now, then = level(abar, self.mean)[..., None, None], level(earlier, self.mean)
        then = then[..., None, None]
        a = now / then
        wide, narrow = now * self.spectrum + (1 - now), then * self.spectrum + (1 - then)
        offset = self.inward(x[:, :, None] - torch.sqrt(now) * self.mean)
        noisy = replace(self, spectrum=wide)
        joint = noisy._log_joint(offset)
        pull = self.outward(narrow / wide * offset)
        mean = torch.sqrt(then) * self.mean + torch.sqrt(a) * pull
        return Mixture(torch.log_softmax(joint, -1), mean, (1 - a) * narrow / wide, self.basis)

    def posterior(self, x: Tensor, abar: float | Tensor) -> "Mixture":
        """Law of x_0 given x_t = `x` `[N, B, d]`, C = B; degenerate at level 1."""
        return self.reverse(x, abar, 1.0)

    def denoise(self, x: Tensor, abar: float | Tensor) -> Tensor:
        """Posterior mean of x_0 given x_t = `x`, `[N, B, d]` (Tweedie's formula)."""
        law = self.posterior(x, abar)
        return (torch.exp(law.log_weight)[..., None] * law.mean).sum(2)


def on_device(mixture: Mixture, device: torch.device) -> Mixture:
    """The same mixture on another device."""
    basis = None if mixture.basis is None else mixture.basis.to(device)
    return Mixture(
        mixture.log_weight.to(device), mixture.mean.to(device), mixture.spectrum.to(device), basis
    )


def check_weights(name: str, weight: Tensor) -> None:
    """Accept probabilities over the last dimension of `weight` `[N, K]`.

    Raises:
        ValueError: a negative or non-finite weight, or a row that does not sum to 1.
    """
    wrong = ~(torch.isfinite(weight) & (weight >= 0))
    if bool(wrong.any()):
        raise ValueError(f"{name} holds {float(weight[wrong][0])}; accepted: [0, 1]")
    total = weight.sum(-1).reshape(-1)
    off = (total - 1).abs() > TOLERANCE
    if bool(off.any()):
        raise ValueError(f"{name} sums to {float(total[off][0])}; accepted: 1 within {TOLERANCE}")


def spectra(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `[..., d]` and eigenvectors `[..., d, d]` of positive definite matrices.

    Raises:
        ValueError: a matrix that is not finite, symmetric and positive definite.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"{name} has entries that are not finite")
    skew = float((matrix - matrix.mT).abs().max())
    if skew > TOLERANCE * float(matrix.abs().max()):
        raise ValueError(f"{name} differs from its transpose by {skew}; accepted: symmetric")
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    least = float(values.min())
    if least <= 0:
        raise ValueError(f"{name} has eigenvalue {least}; accepted: (0, inf), positive definite")
    return values, vectors


def gaussian_mixture(weight: Tensor, mean: Tensor, covariance: Tensor) -> Mixture:
    """A mixture for each replica, in float64.

    Args:
        weight: `[N, K]`, rows sum to 1.
        mean: `[N, K, d]`.
        covariance: `[N, K, d, d]`, or `[N, K]` for multiples of the identity.

    Raises:
        ValueError: shapes that do not match, weights that are no probabilities, means that are
            not finite, covariances that are not positive definite.
    """
    weight, mean, covariance = weight.double(), mean.double(), covariance.double()
    if mean.dim() != 3 or weight.shape != mean.shape[:2]:
        raise ValueError(
            f"weight {tuple(weight.shape)}, mean {tuple(mean.shape)}; accepted: [N, K], [N, K, d]"
        )
    n, k, d = mean.shape
    if covariance.shape not in ((n, k), (n, k, d, d)):
        raise ValueError(
            f"covariance has shape {tuple(covariance.shape)}; accepted: {(n, k)}, {(n, k, d, d)}"
        )
    check_weights("weight", weight)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("mean has entries that are not finite")
    values: Tensor
    basis: Tensor | None
    if covariance.dim() == 2:
        values, basis = covariance[..., None].expand(n, k, d), None
        spectra("covariance", covariance[..., None, None])
    else:
        values, basis = spectra("covariance", covariance)
    return Mixture(torch.log(weight)[:, None], mean[:, None], values[:, None], basis)


def _preset(n: int, weight: list[float], mean: list[list[float]], covariance: Tensor) -> Mixture:
    check_integer("n", n, 1)
    w, m = torch.tensor(weight, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)
    return gaussian_mixture(
        w.expand(n, -1), m.expand(n, -1, -1), covariance.expand(n, *covariance.shape)
    )


def lqg(n: int = 1) -> Mixture:
    """Preset LQG, `[n, 1]` components in one dimension: N(1, 0.5)."""
    return _preset(n, [1.0], [[1.0]], torch.tensor([0.5], dtype=torch.float64))


def gm1(n: int = 1) -> Mixture:
    """Preset GM1, `[n, 2]` components in one dimension: 0.6 at -1.5, 0.4 at 1.5."""
    return _preset(n, [0.6, 0.4], [[-1.5], [1.5]], torch.tensor([0.1, 0.1], dtype=torch.float64))


def gm2(n: int = 1) -> Mixture:
    """Preset GM2, `[n, 3]` correlated components in two dimensions."""
    rows = [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.05], [-0.05, 0.2]]]
    covariance = torch.tensor(rows, dtype=torch.float64)
    return _preset(n, [0.5, 0.3, 0.2], [[2.0, 0.0], [-1.0, 1.5], [-1.0, -2.0]], covariance)


def ring(d: int, n: int = 1) -> Mixture:
    """Preset RING(d), `[n, 5]` equal components of standard deviation 0.25.

    In the plane at radius 2; above, at sqrt(d) times five orthonormal directions, which are the
    cosines of the discrete cosine transform.

    Raises:
        ValueError: `d` neither 2 nor at least 6.
    """
    check_integer("d", d, 2)
    if 2 < d < 6:
        raise ValueError(f"d = {d}; accepted: 2 or [6, inf)")
    k = torch.arange(5, dtype=torch.float64)[:, None]
    if d == 2:
        angle = 2 * math.pi * k / 5
        mean = 2 * torch.cat([torch.cos(angle), torch.sin(angle)], 1)
    else:
        place = (torch.arange(d, dtype=torch.float64) + 0.5) / d
        mean = math.sqrt(2) * torch.cos(math.pi * (k + 1) * place)
    return _preset(n, [0.2] * 5, mean.tolist(), torch.full((5,), 0.0625, dtype=torch.float64))
