"""Posterior laws of an unknown finite MDP, sampled for all replicas at once.

Rows of the kernel have independent Dirichlet laws; mean rewards have normal laws, with the noise
known or unknown (normal-gamma).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.experience import Experience
from rlkit.models import Dense, Model
from rlkit.random import Rng

TINY = 1e-300  # keeps an empty row from being divided by zero


class NormalRewards(NamedTuple):
    """Prior N(`mean`, `std`^2) of every mean reward, noise of standard deviation `noise`."""

    mean: float
    std: float
    noise: float

    def sample(self, experience: Experience, rng: Rng) -> Tensor:
        """Mean rewards `[N, R, A]` from the posterior."""
        prior, each = 1 / self.std**2, 1 / self.noise**2
        precision = prior + each * experience.count
        centre = (prior * self.mean + each * experience.reward) / precision
        shape = experience.count.shape[1:]
        return centre + rng.normal("reward", *shape, dtype=torch.float64) / torch.sqrt(precision)


class NormalGammaRewards(NamedTuple):
    """Normal-gamma prior: mean `mean`, and `pseudo` for count, shape and rate alike.

    The noise has precision `tau` ~ Gamma(pseudo, rate pseudo), the mean reward given it is
    N(mean, 1 / (pseudo tau)). Osband, Russo and Van Roy (2013) use 1 for all four.
    """

    mean: float
    pseudo: float

    def sample(self, experience: Experience, rng: Rng) -> Tensor:
        """Mean rewards `[N, R, A]` from the posterior."""
        count = self.pseudo + experience.count
        centre = (self.pseudo * self.mean + experience.reward) / count
        spread = experience.square + self.pseudo * self.mean**2 - count * centre * centre
        rate = self.pseudo + 0.5 * spread.clamp(min=0)
        shape = self.pseudo + 0.5 * experience.count
        tau = rng.gamma("precision", shape, small=self.pseudo < 1) / rate
        normal = rng.normal("reward", *shape.shape[1:], dtype=torch.float64)
        return centre + normal / torch.sqrt(count * tau)


def sampled_kernel(experience: Experience, alpha: float, rng: Rng) -> Tensor:
    """Kernels `[N, R, A, S]` from the posterior of Dirichlet(`alpha`, ..., `alpha`) rows."""
    return rng.dirichlet("kernel", experience.visits + alpha, small=alpha < 1)


def absorbing(kernel: Tensor, reward: Tensor, ended: Tensor) -> Dense:
    """A model in which states seen to end episodes are absorbing and free.

    Args:
        kernel: `[N, S, A, S]`.
        reward: `[N, S, A]`.
        ended: `[N, S]` bool.
    """
    if not torch.compiler.is_compiling() and not bool(ended.any()):
        return Dense(kernel, reward)
    stay = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)[:, None]
    over = ended[..., None]
    return Dense(torch.where(over[..., None], stay, kernel), torch.where(over, 0.0, reward))


def survival(model: Model) -> Tensor:
    """Probability that the episode goes on, `[..., S, A]`; 0 in terminal states."""
    flat = model.successor.flatten(-3)
    ends = model.terminal.expand(*flat.shape[:-1], -1).gather(-1, flat).view(model.successor.shape)
    return 1 - (model.probability * ends).sum(-1)


def given_survival(kernel: Tensor, model: Model) -> Tensor:
    """Kernels `[N, S, A, S]` given how often every action ends the episode in `model`.

    What ends it is taken out: rows sum to the probability of going on.
    """
    alive = kernel * (~model.terminal)[..., None, None, :]
    left = alive.sum(-1).clamp(min=TINY)
    return alive * (survival(model) / left)[..., None]
