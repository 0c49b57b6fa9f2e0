"""Parameters that learn: trees of tensors `[N, ...]`, each replica with its own optimiser."""

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


def improve(trained: Trained, loss: Loss, rate: float) -> Trained:
    """One step of Adam down the gradient of `loss`."""
    leaves, structure = tree_flatten(trained.parameters)
    after = []
    for leaf, slope, adam in zip(
        leaves, gradient(trained.parameters, loss), trained.adam, strict=True
    ):
        # Logits of illegal tokens are -inf and stay so.
        slope = torch.where(torch.isfinite(leaf), slope, torch.zeros_like(slope))
        after.append(descend(leaf, slope, adam, rate))
    return Trained(
        tree_unflatten([leaf for leaf, _ in after], structure), tuple(adam for _, adam in after)
    )
