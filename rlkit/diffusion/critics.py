"""Learned critics of laws of points, and values of half-denoised points."""

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.diffusion.policies import clock
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.protocol import Tree
from rlkit.random import Rng


def start_critic(rng: Rng, d: int, hidden: tuple[int, ...]) -> Perceptron:
    """A critic of points in `d` dimensions that starts as 0."""
    return start_perceptron(rng, (d, *hidden, 1))


def criticise(parameters: Perceptron, x: Tensor) -> Tensor:
    """F at `x` `[N, B, d]`, `[N, B]` float32."""
    return perceptron(parameters, x.float(), functional.relu).squeeze(-1)


def start_value(rng: Rng, d: int, hidden: tuple[int, ...]) -> Perceptron:
    """Values of points and noise levels that start as 0."""
    moment = clock(torch.zeros(1, 1, dtype=torch.int64), 1).shape[-1]
    return start_perceptron(rng, (d + moment, *hidden, 1))


def value(parameters: Perceptron, x: Tensor, t: Tensor, steps: int) -> Tensor:
    """V(x_t, t) at `x` `[N, M, d]`, `t` `[N, M]` in `0 .. steps`, `[N, M]` float32."""
    inputs = torch.cat([x.float(), clock(t, steps)], -1)
    return perceptron(parameters, inputs, functional.relu).squeeze(-1)


def critic_loss(
    parameters: Tree, sample: Tensor, data: Tensor, penalty: float, mix: Tensor
) -> Tensor:
    """`E f(data) - E f(sample)` plus a gradient penalty, `[N]`: minimised, f is high on samples.

    Gulrajani et al. (2017), equation 3: `penalty` times the mean of (|f'| - 1)^2 between the two.

    Args:
        parameters: of the critic.
        sample: `[N, B, d]`.
        data: `[N, B, d]`.
        penalty: weight >= 0; at 0 nothing bounds the slope of f.
        mix: uniform on [0, 1], `[N, B]`, where between sample and data the slope is looked at.
    """
    gap = criticise(parameters, data).mean(1) - criticise(parameters, sample).mean(1)
    if penalty == 0:
        return gap
    between = (data + mix[..., None] * (sample - data)).float().detach().requires_grad_()
    total = criticise(parameters, between).sum()
    (slope,) = torch.autograd.grad(total, between, create_graph=True)
    length = torch.sqrt((slope * slope).sum(-1) + 1e-12)
    return gap + penalty * ((length - 1) ** 2).mean(1)
