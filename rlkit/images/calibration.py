"""Rewards expected of a noise distribution, by a network that reads the distribution itself."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from rlkit.images.moments import State, stepped
from rlkit.random import Rng

WIDTHS = (256, 256, 256)


def start_network(inputs: int, rng: Rng) -> State:
    """Weights of a network of three hidden layers, its last one zero, `[1, i, o]` by name."""
    sizes, state = (inputs, *WIDTHS, 1), {}
    one = Rng(rng.seed, rng.stream, rng.replica[:1], rng.step)
    for layer, (read, written) in enumerate(pairwise(sizes)):
        draw = one.normal(f"net/{layer}", read, written).contiguous() / math.sqrt(read)
        last = layer == len(WIDTHS)
        state[f"net/{layer}/weight"] = torch.zeros_like(draw) if last else draw
        state[f"net/{layer}/bias"] = torch.zeros_like(draw[:, 0])
    return state


def expected(state: State, features: Tensor) -> Tensor:
    """Predicted rewards `[C]` of features `[C, i]`."""
    layers = len(WIDTHS) + 1
    for layer in range(layers):
        features = features @ state[f"net/{layer}/weight"][0] + state[f"net/{layer}/bias"]
        if layer < layers - 1:
            features = torch.relu(features)
    return features[:, 0]


def learn(
    state: State, features: Tensor, reward: Tensor, updates: int, rate: float
) -> tuple[State, Tensor]:
    """Steps of least squares on the newest rewards.

    Args:
        state: with the network.
        features: of the distributions, `[C, i]`.
        reward: `[C, B]`.
        updates: number of steps.
        rate: step size of Adam.

    Returns:
        The state, and the predictions afterwards `[C]` float64.
    """
    names = [f"net/{k}/{part}" for k in range(len(WIDTHS) + 1) for part in ("weight", "bias")]
    for _ in range(updates):
        leaves = {name: state[name].clone().requires_grad_() for name in names}
        error = expected(leaves, features)[:, None] - reward.float()
        gradients = torch.autograd.grad((error * error).mean(), list(leaves.values()))
        state = stepped(state, dict(zip(names, gradients, strict=True)), rate)
    return state, expected(state, features).double()
