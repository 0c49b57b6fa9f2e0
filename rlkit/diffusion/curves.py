"""Curves in the plane as mixtures of many narrow Gaussians: data whose denoiser is exact."""

import math

import torch
from torch import Tensor

from rlkit.diffusion.mixtures import Mixture, gaussian_mixture
from rlkit.validation import check_integer, check_real

ROLL = (1.5 * math.pi, 4.5 * math.pi)  # angles of the swiss roll of scikit-learn


def swiss_roll(n: int = 1, components: int = 96, deviation: float = 0.035) -> Mixture:
    """The swiss roll in the plane at a twentieth of its size, `[n, components]`.

    Angles are uniform, as in scikit-learn, so that the roll is thinner outside.

    Args:
        n: replicas, >= 1.
        components: Gaussians along the curve, >= 2.
        deviation: of each, > 0.
    """
    angle = ROLL[0] + (ROLL[1] - ROLL[0]) * grid(components)
    mean = angle[:, None] / 20 * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    return along(mean, n, deviation)


def moons(n: int = 1, components: int = 96, deviation: float = 0.035) -> Mixture:
    """Two half circles of radius 1/2 that interlock, `[n, components]`, scikit-learn's halved.

    Args:
        n: replicas, >= 1.
        components: Gaussians along both, an even number >= 2.
        deviation: of each, > 0.

    Raises:
        ValueError: an odd number of components.
    """
    if components % 2:
        raise ValueError(f"components = {components} is odd; accepted: even integers >= 2")
    angle = math.pi * grid(components // 2)
    upper = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    lower = torch.stack([1 - torch.cos(angle), 0.5 - torch.sin(angle)], 1)
    return along(0.5 * torch.cat([upper, lower]), n, deviation)


def grid(count: int) -> Tensor:
    """Midpoints of `count` equal parts of [0, 1]."""
    check_integer("components", count, 1)
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def along(mean: Tensor, n: int, deviation: float) -> Mixture:
    """Equal Gaussians at `mean` `[K, d]` in every of `n` replicas."""
    check_integer("n", n, 1)
    check_real("deviation", deviation, 0, open_low=True)
    k = len(mean)
    weight = torch.full((n, k), 1 / k, dtype=torch.float64)
    variance = torch.full((n, k), deviation * deviation, dtype=torch.float64)
    return gaussian_mixture(weight, mean.expand(n, -1, -1), variance)
