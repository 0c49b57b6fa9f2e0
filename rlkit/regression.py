"""Gaussian linear regression for `N` replicas at once, in float64.

A law N(m, S) is carried as its mean and a square root `S = root root'`, updated in rank one by
Potter's formula (Potter and Stern 1963; Bierman 1977, section II.5): the Sherman-Morrison update
of S without its loss of symmetry and positivity, at the same O(d^2) cost and without a Cholesky
factorisation per step. Sums over features are trees of elementwise additions, so a replica's
numbers depend neither on `N` nor on the memory layout.
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.protocol import Box, Discrete, GaussianPrior, Spec
from rlkit.random import Rng
from rlkit.sampling import UNROLL
from rlkit.validation import check_real


class Gaussian(NamedTuple):
    """Law of a parameter in `R^d` for each replica."""

    mean: Tensor  # [N, d]
    root: Tensor  # [N, d, d], covariance = root root'
    gain: Tensor  # [N] nats learnt: half the log ratio of prior to present covariance determinant


class Moments(NamedTuple):
    """Normal equations of a ridge regression: the same law as `precision`, `precision @ mean`."""

    precision: Tensor  # [N, d, d]
    moment: Tensor  # [N, d]


def pairwise_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension, `[..., d]` to `[...]`, in an order fixed by `d`.

    `Tensor.sum` associates differently for different layouts and `N`; this never does.
    """
    if x.shape[-1] <= UNROLL:
        return reduce(torch.add, x.unbind(-1))
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        odd = x[..., 2 * half :]
        x = x[..., :half] + x[..., half : 2 * half]
        x = torch.cat([x, odd], -1) if odd.shape[-1] else x
    return x[..., 0]


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product over the last dimension with broadcasting; `[..., d]` to `[...]`."""
    return pairwise_sum(x * y)


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """`[N, ..., r, d]` times `[N, ..., d]`: `[N, ..., r]`; also features times a parameter."""
    return dot(matrix, vector[..., None, :])


def action_set(spec: Spec) -> tuple[int, int]:
    """Numbers of arms and of features of a problem that shows its action set.

    Raises:
        ValueError: the observation is not a table `[arms, features]` with one action a row.
    """
    shape = spec.observation.shape if isinstance(spec.observation, Box) else ()
    arms = spec.action.n if isinstance(spec.action, Discrete) else None
    if len(shape) != 2 or shape[0] != arms:
        raise ValueError(
            f"observation shape = {shape} with action = {spec.action} is not an action set: "
            "allowed is Box((arms, features)) with Discrete(arms)"
        )
    return shape


def replicate(rng: Rng, value: Tensor) -> Tensor:
    """A copy of `value` for each replica, `[N, ...]` float64, replica innermost in memory."""
    value = value.to(rng.device, torch.float64)
    return value[..., None].repeat(*(1,) * value.ndim, rng.n).movedim(-1, 0)


def gaussian(rng: Rng, mean: Tensor, covariance: Tensor) -> Gaussian:
    """The law N(`mean` `[d]`, `covariance` `[d, d]`) in every replica.

    Raises:
        ValueError: shapes that disagree, or a covariance that is not positive definite.
    """
    size = mean.shape[0]
    if covariance.shape != (size, size):
        raise ValueError(f"covariance shape = {tuple(covariance.shape)}, allowed ({size}, {size})")
    covariance = covariance.double()
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.item() or not torch.equal(covariance, covariance.mT):
        raise ValueError("covariance is not symmetric positive definite")
    gain = torch.zeros(rng.n, dtype=torch.float64, device=rng.device)
    return Gaussian(replicate(rng, mean), replicate(rng, factor), gain)


def isotropic(rng: Rng, features: int, variance: float) -> Gaussian:
    """The law N(0, `variance` I) in `R^features`, in every replica."""
    check_real("variance", variance, low=0.0, open_low=True)
    eye = torch.eye(features, dtype=torch.float64)
    return gaussian(rng, torch.zeros(features), variance * eye)


def prior(spec: Spec, rng: Rng, variance: float | None) -> Gaussian:
    """The problem's Gaussian prior, or N(0, `variance` I) when a variance is given.

    Raises:
        ValueError: no variance given and the problem discloses no Gaussian prior of its features.
    """
    _, features = action_set(spec)
    if variance is not None:
        return isotropic(rng, features, variance)
    known = spec.known.prior
    if not isinstance(known, GaussianPrior) or known.mean.shape != (features,):
        raise ValueError(
            f"variance = None and the problem discloses no Gaussian prior of {features} features: "
            "allowed is a variance in (0, inf)"
        )
    return gaussian(rng, known.mean, known.covariance)


def noise_level(spec: Spec, noise: float | None) -> float:
    """Standard deviation of the rewards: `noise` if given, else what the problem discloses.

    Raises:
        ValueError: neither is known, or it is not in (0, inf).
    """
    value = spec.known.noise if noise is None else noise
    if value is None:
        raise ValueError("noise = None and the problem discloses none: allowed is (0, inf)")
    check_real("noise", value, low=0.0, open_low=True)
    return value


def update(law: Gaussian, x: Tensor, y: Tensor, noise: float) -> Gaussian:
    """Condition on `y = <x, theta> + noise xi`, for `x` `[N, d]`, `y` `[N]` and `noise > 0`.

    Several laws a replica, as `[N, ..., d]`, are updated at once; `x = 0` changes nothing.
    """
    mean, root, gain = law
    x = x.double()
    phi = matvec(root.mT, x)
    spread, variance = dot(phi, phi), noise * noise
    total = spread + variance
    direction = matvec(root, phi)
    mean = mean + direction * ((y.double() - dot(mean, x)) / total)[..., None]
    factor = 1 / (total * (1 + torch.sqrt(variance / total)))
    root = root - (direction * factor[..., None])[..., None] * phi[..., None, :]
    return Gaussian(mean, root, gain + 0.5 * torch.log1p(spread / variance))


def covariance(law: Gaussian) -> Tensor:
    """`[N, d, d]`."""
    return dot(law.root[:, :, None, :], law.root[:, None, :, :])


def deviations(law: Gaussian, features: Tensor) -> Tensor:
    """Standard deviation of `<a, theta>` for each row `a` of `features` `[N, K, d]`: `[N, K]`."""
    projected = features[:, :, :1] * law.root[:, None, 0, :]
    for i in range(1, features.shape[-1]):
        projected = projected + features[:, :, i : i + 1] * law.root[:, None, i, :]
    return torch.sqrt(dot(projected, projected))


def sample(law: Gaussian, rng: Rng, name: str, scale: Tensor | float = 1.0) -> Tensor:
    """A parameter from N(mean, `scale`^2 covariance), `[N, d]`; `scale` a number or `[N, 1]`."""
    z = rng.normal(name, law.mean.shape[1], dtype=torch.float64)
    return law.mean + scale * matvec(law.root, z)


def samples(law: Gaussian, rng: Rng, name: str, count: int) -> Tensor:
    """Parameters from the law, `[N, count, d]`, from float32 normals."""
    z = rng.normal(name, count, law.mean.shape[1]).double()
    # Contiguous factors: the kernel chosen for strided ones depends on N.
    return law.mean[:, None] + torch.matmul(z.contiguous(), law.root.contiguous().mT)


def accumulate(moments: Moments, x: Tensor, y: Tensor, noise: float) -> Moments:
    """Add an observation, as `update`, to the normal equations."""
    x, weight = x.double(), 1 / (noise * noise)
    precision = moments.precision + (weight * x)[:, :, None] * x[:, None, :]
    return Moments(precision, moments.moment + (weight * y.double())[:, None] * x)


def moments(law: Gaussian) -> Moments:
    """Normal equations of a law."""
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance(law)))
    return Moments(precision, matvec(precision, law.mean))
