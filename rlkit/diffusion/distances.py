"""Distances between laws of points: Wasserstein on the line and sliced, kernels, exact witnesses.

Integral probability metrics are `sup_f E_p f - E_q f` over a class of functions; the maximiser,
the witness, is what SFT-PG pays its samples. Laws are samples `[N, B, d]` (on the line `[N, B]`)
or Gaussian mixtures, for which everything with a Gaussian kernel is a closed form.
"""

import math
from collections.abc import Sequence
from functools import cache, reduce

import torch
from torch import Tensor

from rlkit.diffusion.mixtures import Mixture
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real

BANDWIDTHS = (0.2, 0.5, 1.0, 2.0)  # lengths of the Gaussian kernels that are added up
TOGETHER = 20  # directions projected on at once


@cache
def coupling(first: int, second: int) -> tuple[list[int], list[int], list[float]]:
    """Monotone coupling of two samples: ranks in each and the probability that they share."""
    whole = first * second  # in units of 1 / whole all edges are integers
    edges = sorted({*range(second, whole + 1, second), *range(first, whole + 1, first)})
    starts = [0, *edges[:-1]]
    left, right = [edge // second for edge in starts], [edge // first for edge in starts]
    return left, right, [(b - a) / whole for a, b in zip(starts, edges, strict=True)]


def transport(x: Tensor, y: Tensor, power: int) -> Tensor:
    """Least mean of `|x - y| ** power` over couplings on the line, exact for samples of any sizes.

    Args:
        x: `[..., B]`.
        y: `[..., M]`.
        power: 1 or 2.

    Returns:
        `[...]`; differentiable.
    """
    check_integer("power", power, 1, 2)
    x, y = torch.sort(x, -1).values, torch.sort(y, -1).values
    if x.shape[-1] == y.shape[-1]:
        gap = (x - y).abs()
        return (gap if power == 1 else gap * gap).mean(-1)
    left, right, share = coupling(x.shape[-1], y.shape[-1])
    weight = torch.tensor(share, dtype=x.dtype, device=x.device)
    gap = (x[..., left] - y[..., right]).abs()
    return ((gap if power == 1 else gap * gap) * weight).sum(-1)


def w1_1d(x: Tensor, y: Tensor) -> Tensor:
    """Wasserstein distance of order 1 between samples `[N, B]` and `[N, M]`, `[N]`, by sorting."""
    return transport(x, y, 1)


def directions(d: int, count: int = 100, dtype: torch.dtype = torch.float64) -> Tensor:
    """Unit vectors `[count, d]`: equally spaced on the half circle, drawn above two dimensions."""
    check_integer("d", d, 1)
    check_integer("count", count, 1)
    if d == 1:
        return torch.ones(1, 1, dtype=dtype)
    if d == 2:
        angle = math.pi * (torch.arange(count, dtype=dtype) + 0.5) / count
        return torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    drawn = Rng(0, "directions", torch.zeros(1, dtype=torch.int64))
    vector = drawn.normal("vector", count, d, dtype=dtype)[0]
    return vector / vector.norm(dim=1, keepdim=True)


def sliced_w2(x: Tensor, y: Tensor, count: int = 100) -> Tensor:
    """Sliced Wasserstein distance of order 2 of `[N, B, d]` and `[N, M, d]`, `[N]`.

    Root of the mean over `count` directions of the squared distance on the line.
    """
    axes = directions(x.shape[-1], count, x.dtype).to(x.device)
    squares = [transport(shadow(x, some), shadow(y, some), 2) for some in axes.split(TOGETHER, 0)]
    return torch.sqrt(torch.cat(squares, 1).mean(1).clamp(min=1e-300))


def shadow(x: Tensor, axes: Tensor) -> Tensor:
    """Coordinates of `x` `[N, B, d]` along `axes` `[P, d]`, `[N, P, B]`."""
    # Term by term: a product of matrices may round a row otherwise in other company.
    terms = (x[:, None, :, i] * axes[:, i, None] for i in range(x.shape[-1]))
    return reduce(torch.add, terms)


def quantiles(data: Mixture, count: int) -> Tensor:
    """Quantiles of order (i + 1/2) / `count` of mixtures on the line, `[N, count]`, by bisection.

    Raises:
        ValueError: more than one dimension.
    """
    check_integer("d", data.dimension, 1, 1)
    check_integer("count", count, 1)
    mean, deviation = data.mean[..., 0], torch.sqrt(data.spectrum[..., 0])  # [N, 1, K]
    level = (torch.arange(count, dtype=mean.dtype, device=mean.device) + 0.5) / count
    reach = 10 * deviation.amax((1, 2))[:, None]
    low = (mean.amin((1, 2))[:, None] - reach) + 0 * level
    high = (mean.amax((1, 2))[:, None] + reach) + 0 * level
    for _ in range(60):
        middle = 0.5 * (low + high)
        share = torch.special.ndtr((middle[..., None] - mean) / deviation)
        below = (data.weight * share).sum(-1) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def witness_1d(p: Tensor, q: Tensor, at: Tensor) -> Tensor:
    """The 1-Lipschitz f that maximises `E_p f - E_q f` on the line: f' = sign(F_q - F_p).

    Args:
        p: sample `[N, B]`.
        q: sample `[N, M]`.
        at: where f is wanted, `[N, A]`.

    Returns:
        f `[N, A]`, with mean 0 under `q`; constant outside both samples.
    """
    joint, order = torch.sort(torch.cat([p, q], 1), 1)
    # Integers, so that equal distribution functions differ by exactly 0.
    mine = (order < p.shape[1]).long()
    behind = torch.cumsum((1 - mine) * p.shape[1] - mine * q.shape[1], 1)[:, :-1]
    slope = torch.sign(behind).to(joint.dtype)
    rise = torch.cumsum(slope * (joint[:, 1:] - joint[:, :-1]), 1)
    height = torch.cat([torch.zeros_like(joint[:, :1]), rise], 1)
    slope = torch.cat([slope, torch.zeros_like(slope[:, :1])], 1)

    def value(point: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(point, joint[:, :1]), joint[:, -1:])
        cell = (torch.searchsorted(joint, inside.contiguous(), right=True) - 1).clamp(min=0)
        return height.gather(1, cell) + slope.gather(1, cell) * (inside - joint.gather(1, cell))

    return value(at) - value(q).mean(1, keepdim=True)


def check_bandwidths(name: str, bandwidths: Sequence[float]) -> None:
    """Refuse an empty sum of kernels, and lengths that are not positive.

    Raises:
        ValueError: naming the argument.
    """
    check_integer(f"number of {name}", len(bandwidths), 1)
    for length in bandwidths:
        check_real(name, length, 0, open_low=True)


def rbf(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Sum of kernels exp(-|x - y|^2 / (2 l^2)) over lengths l, `[N, B, M]`."""
    # Term by term: a sum over a short last dimension takes longer than all exponentials.
    offsets = (x[:, :, None, i] - y[:, None, :, i] for i in range(x.shape[-1]))
    square = reduce(torch.add, (offset * offset for offset in offsets))
    return reduce(torch.add, (torch.exp(square * (-0.5 / (h * h))) for h in bandwidths))


def polynomial(x: Tensor, y: Tensor, degree: int = 3) -> Tensor:
    """Kernel (<x, y> / d + 1)^degree, `[N, B, M]`; of degree 1 it sees means only."""
    check_integer("degree", degree, 1)
    base = (x[:, :, None] * y[:, None]).sum(-1) / x.shape[-1] + 1
    product = base
    for _ in range(degree - 1):
        product = product * base
    return product


def unbiased(within_p: Tensor, within_q: Tensor, across: Tensor) -> Tensor:
    """U-statistic of squared MMD from kernel matrices `[N, B, B]`, `[N, M, M]`, `[N, B, M]`.

    May be negative.

    Raises:
        ValueError: a sample of one point.
    """
    total = -2 * across.mean((1, 2))
    for name, matrix in (("x", within_p), ("y", within_q)):
        size = matrix.shape[1]
        check_integer(f"points of {name}", size, 2)
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2).sum(1)
        total = total + (matrix.sum((1, 2)) - diagonal) / (size * (size - 1))
    return total


def mmd2_rbf(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Unbiased squared MMD of `[N, B, d]` and `[N, M, d]` with Gaussian kernels, `[N]`."""
    return unbiased(rbf(x, x, bandwidths), rbf(y, y, bandwidths), rbf(x, y, bandwidths))


def mmd2_polynomial(x: Tensor, y: Tensor, degree: int = 3) -> Tensor:
    """Unbiased squared MMD of `[N, B, d]` and `[N, M, d]` with a polynomial kernel, `[N]`."""
    return unbiased(polynomial(x, x, degree), polynomial(y, y, degree), polynomial(x, y, degree))


def embedding(data: Mixture, x: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Mean of the Gaussian kernels between `x` `[N, B, d]` and mixtures, `[N, B]`."""
    total = torch.zeros_like(x[..., 0])
    for length in bandwidths:
        wide = Mixture(
            data.log_weight, data.mean, data.spectrum + length * length, data.basis
        ).log_density(x)
        total = total + torch.exp(wide + 0.5 * data.dimension * math.log(2 * math.pi * length**2))
    return total


def inner(first: Mixture, second: Mixture, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Mean of the Gaussian kernels between two mixtures `[N, 1, K]`, `[N]`: sums over pairs."""
    d = first.dimension
    offset = first.mean[:, 0, :, None] - second.mean[:, 0, None]  # [N, K, J, d]
    spread = first.covariance[:, 0, :, None] + second.covariance[:, 0, None]
    share = first.weight[:, 0, :, None] * second.weight[:, 0, None]
    eye = torch.eye(d, dtype=spread.dtype, device=spread.device)
    total = torch.zeros_like(share[:, 0, 0])
    for length in bandwidths:
        ratio = eye + spread / (length * length)
        scaled = torch.linalg.solve(ratio, offset[..., None]).squeeze(-1)
        square = (offset * scaled).sum(-1) / (length * length)
        each = torch.exp(-0.5 * (square + torch.linalg.slogdet(ratio).logabsdet))
        total = total + (share * each).sum((1, 2))
    return total


def mmd2_mixtures(
    first: Mixture, second: Mixture, bandwidths: Sequence[float] = BANDWIDTHS
) -> Tensor:
    """Squared MMD of two Gaussian mixtures with Gaussian kernels, `[N]`, in closed form."""
    return (
        inner(first, first, bandwidths)
        + inner(second, second, bandwidths)
        - 2 * inner(first, second, bandwidths)
    )


def mmd2_to_mixture(
    x: Tensor, data: Mixture, bandwidths: Sequence[float] = BANDWIDTHS, chunk: int = 1024
) -> Tensor:
    """Unbiased squared MMD of points `[N, B, d]` to mixtures, `[N]`; `chunk` bounds memory."""
    size = x.shape[1]
    check_integer("points of x", size, 2)
    sums = [rbf(part, x, bandwidths).sum((1, 2)) for part in x.split(chunk, 1)]
    within = torch.stack(sums).sum(0) - size * len(bandwidths)
    cross = embedding(data, x, bandwidths).mean(1)
    return within / (size * (size - 1)) - 2 * cross + inner(data, data, bandwidths)


def mmd_witness(x: Tensor, data: Mixture, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Witness of the squared MMD at its own points `[N, B, d]`, `[N, B]`, up to a factor.

    Mean kernel to the other points minus that to the data: E_p k(x, .) - E_q k(x, .).
    """
    size = x.shape[1]
    check_integer("points of x", size, 2)
    matrix = rbf(x, x, bandwidths)
    others = (matrix.sum(2) - torch.diagonal(matrix, dim1=1, dim2=2)) / (size - 1)
    return others - embedding(data, x, bandwidths)
