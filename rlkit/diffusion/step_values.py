"""Values V(x_t, t, c) of noisy points, learned from remembered chains."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.diffusion.masked_policies import SYMBOLS
from rlkit.diffusion.policies import Steps, clock
from rlkit.diffusion.task import Chains, knowledge
from rlkit.networks.linear import embed, start_table
from rlkit.networks.mlp import Perceptron, perceptron, start_perceptron
from rlkit.protocol import Spec
from rlkit.random import Rng

WIDTH = 8  # of the embedding of a prompt


class StepValue(NamedTuple):
    """A perceptron on points (or letters), time and prompt."""

    network: Perceptron
    prompt: Tensor  # [N, C, W] embeddings


class Replay(NamedTuple):
    """The last H chains, newest last."""

    chain: Tensor  # [N, H, T, ...] x_1, ..., x_T
    prompt: Tensor  # [N, H] int64
    reward: Tensor  # [N, H] of x_0
    total: Tensor  # [N] int64 chains seen so far


def start_values(spec: Spec, rng: Rng, hidden: tuple[int, ...]) -> StepValue:
    """Values of zero."""
    task = knowledge(spec)
    x = task.start(rng, "shape", 1)
    size = features(x).shape[-1] + clock(torch.ones(1, 1), 1).shape[-1] + WIDTH
    network = start_perceptron(rng.child("network"), (size, *hidden, 1))
    return StepValue(network, start_table(rng, "prompt", task.prompts, WIDTH, 1))


def features(x: Tensor) -> Tensor:
    """What a network sees of points `[N, M, d]` or tokens `[N, M, L]`, `[N, M, F]` float32."""
    if x.is_floating_point():
        return x.float()
    return functional.one_hot(x, SYMBOLS).flatten(2).float()


def step_values(spec: Spec, parameters: StepValue, steps: Steps) -> Tensor:
    """Values at x_t, `[N, M]` float32."""
    told = embed(parameters.prompt, steps.prompt)
    inputs = torch.cat([features(steps.x), clock(steps.t, knowledge(spec).steps), told], -1)
    return perceptron(parameters.network, inputs, functional.silu).squeeze(-1)


def start_replay(spec: Spec, rng: Rng, size: int) -> Replay:
    """Room for `size` chains."""
    task = knowledge(spec)
    shape = task.start(rng.child("replay"), "shape", 1)[:, :, None]
    empty = torch.zeros_like(shape).repeat(1, size, task.steps, *[1] * (shape.dim() - 3))
    zero = torch.zeros(rng.n, size, device=rng.device)
    return Replay(empty, zero.long(), zero.double(), torch.zeros_like(rng.replica))


def remember_chains(replay: Replay, chains: Chains, reward: Tensor) -> Replay:
    """The newest H chains of old and new ones."""
    size = replay.prompt.shape[1]
    fresh = chains.chain[:, 1:].transpose(1, 2)
    return Replay(
        torch.cat([replay.chain, fresh], 1)[:, -size:],
        torch.cat([replay.prompt, chains.prompt], 1)[:, -size:],
        torch.cat([replay.reward, reward.to(replay.reward.dtype)], 1)[:, -size:],
        replay.total + chains.prompt.shape[1],
    )


def draw_steps(replay: Replay, rng: Rng, name: str, count: int) -> tuple[Steps, Tensor]:
    """`count` random steps of remembered chains and the rewards at their ends, `[N, count]`.

    Their `following` is x_t again: values do not look at it.
    """
    size, levels = replay.chain.shape[1:3]
    filled = replay.total.clamp(max=size)
    draw = rng.uniform(f"{name}/chain", count, dtype=torch.float64)
    chain = size - 1 - (draw * filled[:, None]).long()
    level = rng.integers(f"{name}/level", levels, count)
    row = torch.arange(len(chain), device=chain.device)[:, None]
    x = replay.chain[row, chain, level]
    steps = Steps(x, x, level + 1, replay.prompt.gather(1, chain))
    return steps, replay.reward.gather(1, chain).float()
