"""Denoisers and reward models that are trained, on sequences with planted motifs.

Both are convolutional networks of `rlkit.networks.convolution`, shared by all replicas (`N = 1`)
and a function of numbers only, so that they are trained once a process.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.alignment.training import Loss, improve, start_training
from rlkit.diffusion.masked import LETTERS, MASK, check_tokens, one_hot
from rlkit.diffusion.motif_rewards import MotifReward
from rlkit.diffusion.motifs import MotifLaw
from rlkit.networks.convolution import Scorer, Tagger, score, start_scorer, start_tagger, tag
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real

SEQUENCES = 20_000  # of the training set
HALF = 5_000  # of them, for each reward model


class Training(NamedTuple):
    """How long, how wide and how fast a network is trained; hashable."""

    width: int = 32  # of the stream, >= 1
    steps: int = 1500  # of Adam, >= 1
    batch: int = 64  # sequences a step, >= 1
    rate: float = 2e-3  # first step size, > 0; it falls to 0 as a cosine
    seed: int = 0  # of data, weights and batches, in [0, 2**32)


def check_training(training: Training) -> None:
    """Accept numbers in their ranges.

    Raises:
        ValueError: a number outside its range.
    """
    for name in ("width", "steps", "batch"):
        check_integer(name, getattr(training, name), 1)
    check_real("rate", training.rate, 0, open_low=True)
    check_integer("seed", training.seed, 0, 2**32 - 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside, so that what is trained has the same bits whatever the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def channels(tokens: Tensor) -> Tensor:
    """Indicators `[..., L, 5]` float32 of `tokens` `[..., L]` in `[0, 4]`."""
    return (tokens[..., None] == torch.arange(MASK + 1, device=tokens.device)).float()


def mask_some(tokens: Tensor, rng: Rng, name: str) -> tuple[Tensor, Tensor]:
    """Mask `m` positions of each sequence, `m` uniform on `1 .. L`, spread over the batch.

    Where each position is masked with probability `t` uniform on `(0, 1]`, a set of `m` masks
    has `E[1 / t] = 1 / (m choose(L, m))`. So this is the loss of Sahoo et al. (2024), Equation
    10, with the integral over `t` done: each sequence weighs `L / m` in place of `1 / t`, whose
    variance is infinite.

    Args:
        tokens: `[N, B, L]` without a mask.
        rng: source of the draws.
        name: of the draws.

    Returns:
        Which positions are masked `[N, B, L]`, and the weight of each sequence `[N, B]`.
    """
    batch, length = tokens.shape[1:]
    offset = rng.uniform(f"{name}/count", 1)
    level = (torch.arange(batch, device=tokens.device) + offset) / batch
    count = torch.floor(level * length).clamp(max=length - 1).long() + 1
    rank = rng.uniform(f"{name}/order", batch, length).argsort(2).argsort(2)
    return rank < count[..., None], length / count.float()


def denoising_loss(log_law: Tensor, tokens: Tensor, masked: Tensor, weight: Tensor) -> Tensor:
    """Weighted negative log-probability of the masked tokens, the mean over the batch, `[N]`.

    Its expectation is at least `-log p_0`, with equality for the exact denoiser (Sahoo et al.
    2024, Equation 10).

    Args:
        log_law: `[N, B, L, 4]` of a denoiser that saw the masked tokens.
        tokens: `[N, B, L]` without a mask.
        masked: `[N, B, L]` bool.
        weight: of each sequence, `[N, B]`: `1 / t`, or that of `mask_some`.
    """
    missed = -log_law.gather(3, tokens[..., None])[..., 0]
    return (weight * torch.where(masked, missed, 0.0).sum(2)).mean(1)


@dataclass(frozen=True)
class NetworkDenoiser:
    """A convolutional network as a denoiser.

    Attributes:
        parameters: leaves lead with `N`, or 1 for all replicas.
        length: `L`.
    """

    parameters: Tagger
    length: int

    def conditional(self, tokens: Tensor) -> Tensor:
        """Laws `[N, B, L, 4]` given `tokens` `[N, B, L]`, one-hot at unmasked positions; float64.

        Raises:
            ValueError: tokens outside `[0, 4]` or another length.
        """
        check_tokens("tokens", tokens, self.length)
        law = self.relaxed(channels(tokens)).double().exp()
        law = law / law.sum(-1, keepdim=True)
        return torch.where((tokens == MASK)[..., None], law, one_hot(tokens))

    def relaxed(self, x: Tensor) -> Tensor:
        """Log-laws of all positions, masked or not, `[N, B, L, 4]` float32; differentiable.

        Args:
            x: `[N, B, L, 5]` indicators with the mask last, or relaxed ones.
        """
        return torch.log_softmax(logits(self.parameters, x.float()), -1)


def logits(parameters: Tagger, x: Tensor) -> Tensor:
    """Unnormalised log-laws of all positions, `[N, B, L, 4]`.

    Args:
        parameters: of one network a replica, or of one for all.
        x: `[N, B, L, 5]` indicators with the mask last, or relaxed ones.
    """
    if parameters.head.weight.shape[0] == x.shape[0]:
        return tag(parameters, x)
    return tag(parameters, x.flatten(0, 1)[None]).reshape(*x.shape[:3], -1)


def scores(parameters: Scorer, letters: Tensor) -> Tensor:
    """Scores `[...]` of `letters` `[..., L, 4]`, relaxed or not, by one network for all."""
    flat = letters.float().reshape(1, -1, *letters.shape[-2:])
    return score(parameters, flat).reshape(letters.shape[:-2])


def fit(start: Tree, loss: Callable[[Rng], Loss], rng: Rng, training: Training) -> Tree:
    """Parameters after Adam on a fresh loss a step, the step size falling as a cosine.

    Args:
        start: initial parameters, leaves `[N, ...]`.
        loss: makes the loss of a step from its draws.
        rng: stream of the draws; step `k` uses its step `k`.
        training: steps and first step size.
    """
    trained = start_training(start)
    with one_thread():
        for step in range(training.steps):
            rate = training.rate * 0.5 * (1 + math.cos(math.pi * step / training.steps))
            trained = improve(trained, loss(replace(rng, step=step)), rate)
    return trained.parameters


@cache
def training_sequences(law: MotifLaw, seed: int, count: int = SEQUENCES) -> Tensor:
    """The training set, `[1, count, L]` int64; the same for the same arguments."""
    return law.sample(Rng(seed, "sequences", torch.tensor([0])), "data", count)


@cache
def trained_denoiser(law: MotifLaw, training: Training) -> NetworkDenoiser:
    """A denoiser of one replica, trained on the training set of `law`.

    Raises:
        ValueError: a number of `training` outside its range.
    """
    check_training(training)
    data = training_sequences(law, training.seed)
    rng = Rng(training.seed, "denoiser", torch.tensor([0]))

    def loss(here: Rng) -> Loss:
        chosen = here.integers("batch", data.shape[1], training.batch)
        tokens = data[:, chosen[0]]
        masked, weight = mask_some(tokens, here, "mask")
        seen = channels(torch.where(masked, MASK, tokens))

        def value(parameters: Tree) -> Tensor:
            log_law = torch.log_softmax(tag(parameters, seen), -1)
            return denoising_loss(log_law, tokens, masked, weight) / law.length

        return value

    start = start_tagger(rng, MASK + 1, training.width, LETTERS, zero=True)
    return NetworkDenoiser(fit(start, loss, rng, training), law.length)


class Proxies(NamedTuple):
    """Two models of the same reward, trained on disjoint halves; each for all replicas."""

    tuning: Scorer  # what is optimised
    judging: Scorer  # what the result is judged by


@cache
def trained_rewards(
    law: MotifLaw, reward: MotifReward, noise: float, training: Training
) -> Proxies:
    """Reward models fitted by least squares to noisy labels of 5 000 sequences each.

    Both are trained at once, as two replicas of a network.

    Args:
        law: of the sequences.
        reward: that is labelled.
        noise: standard deviation of the labels, >= 0.
        training: of both.

    Raises:
        ValueError: a number outside its range.
    """
    check_training(training)
    check_real("noise", noise, 0)
    rng = Rng(training.seed, "rewards", torch.tensor([0, 1]))
    tokens = training_sequences(law, training.seed)[0, : 2 * HALF].reshape(2, HALF, -1)
    letters = one_hot(tokens)
    labels = reward(letters) + noise * rng.normal("noise", HALF, dtype=torch.float64)
    middle, scale = labels.mean(1), labels.std(1)
    inputs, targets = letters.float(), ((labels - middle[:, None]) / scale[:, None]).float()
    row = torch.arange(2)[:, None]

    def loss(here: Rng) -> Loss:
        chosen = here.integers("batch", HALF, training.batch)
        x, y = inputs[row, chosen], targets[row, chosen]
        return lambda parameters: (score(parameters, x) - y).square().mean(1)

    fitted = fit(start_scorer(rng, LETTERS, training.width), loss, rng, training)
    return Proxies(*(rescaled(fitted, j, middle, scale) for j in range(2)))


def rescaled(parameters: Scorer, replica: int, middle: Tensor, scale: Tensor) -> Scorer:
    """One replica of a network, its output multiplied by `scale` and moved by `middle`, `[N]`."""
    one: Scorer = tree_map(lambda leaf: leaf[replica : replica + 1], parameters)
    *inner, last = one.head
    factor, shift = scale[replica].float(), middle[replica].float()
    wide = last._replace(weight=last.weight * factor, bias=last.bias * factor + shift)
    return one._replace(head=(*inner, wide))
