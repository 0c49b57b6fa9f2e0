"""Parameters that learn: trees of tensors `[N, ...]`, each replica with its own optimiser."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlkit.optimizers import Adam, descend, start_adam
from rlkit.protocol import Tree

Loss = Callable[[Tree], Tensor]  # of parameters, one value a replica [N]


class Trained(NamedTuple):
    """Parameters and the moments of their optimiser."""

    parameters: Tree  # leaves [N, ...]
    adam: tuple[Adam, ...]  # one a leaf, in their order


def start_training(parameters: Tree) -> Trained:
    """No step taken yet."""
    return Trained(parameters, tuple(start_adam(leaf) for leaf in tree_flatten(parameters)[0]))


def gradient(parameters: Tree, loss: Loss) -> list[Tensor]:
    """Gradient of the summed loss at every leaf; replicas do not touch each other."""
    leaves, structure = tree_flatten(parameters)
    with torch.enable_grad():
        inner = [leaf.detach().requires_grad_() for leaf in leaves]
        total = loss(tree_unflatten(inner, structure)).sum()
        return list(torch.autograd.grad(total, inner))


def limited(slopes: list[Tensor], bound: float) -> list[Tensor]:
    """A gradient over all leaves, in each replica cut at the norm `bound`."""
    if not math.isfinite(bound):
        return slopes
    squares = [(slope.double() * slope).flatten(1).sum(1) for slope in slopes]
    factor = torch.clamp(bound / (torch.sqrt(torch.stack(squares).sum(0)) + 1e-12), max=1.0)
    return [
        slope * factor.to(slope.dtype).reshape(-1, *[1] * (slope.dim() - 1)) for slope in slopes
    ]


def improve(trained: Trained, loss: Loss, rate: float, bound: float = math.inf) -> Trained:
    """One step of Adam down the gradient of `loss`, whose norm is cut at `bound` in each replica.

    Args:
        trained: what learns.
        loss: of its parameters.
        rate: step size.
        bound: > 0, infinite for none.
    """
    leaves, structure = tree_flatten(trained.parameters)
    # Logits of illegal tokens are -inf and stay so.
    slopes = [
        torch.where(torch.isfinite(leaf), slope, torch.zeros_like(slope))
        for leaf, slope in zip(leaves, gradient(trained.parameters, loss), strict=True)
    ]
    moved = [
        descend(leaf, slope, adam, rate)
        for leaf, slope, adam in zip(leaves, limited(slopes, bound), trained.adam, strict=True)
    ]
    return Trained(
        tree_unflatten([leaf for leaf, _ in moved], structure), tuple(adam for _, adam in moved)
    )
