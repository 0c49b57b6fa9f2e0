"""Choosing among samples at inference time: candidates by value, particles by weight, best of n.

Chains `[N, B, ...]` are grouped by position: chains `g K .. g K + K - 1` of a replica are the
particles of population `g`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.selection import Classes, best_of
from rlkit.diffusion.checks import checking
from rlkit.diffusion.masked import LETTERS
from rlkit.diffusion.masked_chains import OneAtATime, ParallelSteps, draw
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.task import DiffusionTask
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

SCHEMES = ("systematic", "multinomial")


class Choice(NamedTuple):
    """What was kept of each chain's candidates."""

    point: Tensor  # [N, B, ...]
    share: Tensor  # [N] effective share of the candidates in (0, 1], mean over chains


def candidates(
    task: DiffusionTask, x: Tensor, t: int, prompt: Tensor, count: int, rng: Rng, name: str
) -> Tensor:
    """`count` independent x_(t-1) of the reference from each x_t, `[N, B, count, ...]`.

    On sequences one call of the denoiser serves all candidates of a chain.
    """
    if isinstance(task, MaskedDiffusion):
        return masked_candidates(task, x, t, count, rng, name)
    wide = x.repeat_interleave(count, 1)
    moved = task.step(wide, t, prompt.repeat_interleave(count, 1), rng, name)
    return moved.unflatten(1, (x.shape[1], count))


def masked_candidates(
    task: MaskedDiffusion, x: Tensor, t: int, count: int, rng: Rng, name: str
) -> Tensor:
    """The same for tokens `[N, B, L]`, `[N, B, count, L]`."""
    chains, length = x.shape[1:]
    if task.chain == "parallel":
        law = ParallelSteps(task.denoiser, task.parallel).kernel(x, t)
        uniform = rng.uniform(name, chains, count, length, dtype=torch.float64)
        return draw(law[:, :, None], uniform)
    law = OneAtATime(task.denoiser).kernel(x).flatten(2)
    index = draw(law[:, :, None], rng.uniform(name, chains, count, dtype=torch.float64))
    spot = torch.arange(length, device=x.device)
    revealed = spot == (index // LETTERS)[..., None]
    return torch.where(revealed, (index % LETTERS)[..., None], x[:, :, None])


def svdd_select(point: Tensor, value: Tensor, alpha: float, uniform: Tensor) -> Choice:
    """Keep one candidate of each chain with probability in proportion to `exp(value / alpha)`.

    Li et al. 2024, "Derivative-free guidance in continuous and discrete diffusion models with
    soft value-based decoding", Algorithm 1; `alpha` = 0 keeps the best, as the released code does.

    Args:
        point: `[N, B, M, ...]`, exchangeable, so the first of several best ones is as good as any.
        value: of each candidate at its own time, `[N, B, M]` float64.
        alpha: temperature in `[0, inf]`; infinity chooses uniformly.
        uniform: one number in `[0, 1)` a chain, `[N, B]` float64.

    Raises:
        ValueError: no candidates, `alpha` < 0, or a value that is not finite; names the first.
    """
    check_integer("candidates", value.shape[2], 1)
    check_real("alpha", alpha, 0, infinite=True)
    refuse_infinite(value)
    gain = value - value.amax(2, keepdim=True)
    if alpha == 0:
        index = value.argmax(2)
        weight = (gain == 0).double()
    else:
        weight = torch.exp(gain / alpha)
        index = draw(weight, uniform)
    wide = index.reshape(*index.shape, *[1] * (point.dim() - 2))
    kept = point.gather(2, wide.expand(-1, -1, 1, *point.shape[3:])).squeeze(2)
    return Choice(kept, (effective(weight) / value.shape[2]).mean(1))


def refuse_infinite(value: Tensor) -> None:
    """Accept finite values of candidates `[N, B, M]`.

    Raises:
        ValueError: naming the first one that is not finite.
    """
    wrong = ~torch.isfinite(value)
    if checking(value) and bool(wrong.any()):
        row, chain, candidate = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"value of candidate {candidate} of chain {chain} of replica {row} is "
            f"{float(value[wrong][0])}; accepted: finite numbers"
        )


def effective(weight: Tensor) -> Tensor:
    """Effective sample size `(sum w)^2 / sum w^2` over the last dimension, in `[1, K]`."""
    total = weight.sum(-1)
    return total * total / (weight * weight).sum(-1)


class Population(NamedTuple):
    """Weighted particles in G groups of K each."""

    point: Tensor  # [N, G K, ...]
    value: Tensor  # [N, G K] estimate at their time
    log_weight: Tensor  # [N, G, K]
    log_z: Tensor  # [N, G] log of the estimated normaliser up to the last resampling


def gather_chains(values: Tensor, index: Tensor) -> Tensor:
    """Chains `index` `[N, B]` of `values` `[N, B, ...]`."""
    wide = index.reshape(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, wide.expand(-1, -1, *values.shape[2:]))


def ancestors(weight: Tensor, uniform: Tensor) -> Tensor:
    """Parents of K offspring in each group, in proportion to `weight`, `[N, G, K]` int64.

    Args:
        weight: `[N, G, K]` >= 0.
        uniform: in `[0, 1)`; `[N, G, 1]` for systematic resampling (Kitagawa 1996), whose points
            are `(u + i) / K`, or `[N, G, K]` for multinomial resampling.
    """
    count = weight.shape[2]
    edges = weight.cumsum(2)
    point = uniform
    if uniform.shape[2] == 1:
        point = (uniform + torch.arange(count, device=weight.device)) / count
    found = torch.searchsorted(edges, (point * edges[..., -1:]).contiguous(), right=True)
    return found.clamp(max=count - 1)


def resample(
    population: Population, threshold: float, scheme: str, rng: Rng, name: str
) -> tuple[Population, Tensor]:
    """Resample the groups whose effective sample size is at most `threshold` times K.

    The mean weight of a resampled group goes into its normaliser, whose expectation does not
    change (Del Moral 2004): `E[exp(log_z) mean(exp(log_weight))]` is the true one.

    Args:
        population: before.
        threshold: in `[0, 1]`; 1 always resamples, 0 never does.
        scheme: "systematic" or "multinomial".
        rng: source of the draw.
        name: of the draw.

    Returns:
        The population after, and the effective share `[N, G]` before.

    Raises:
        ValueError: another scheme, or a weight that is not finite; names the first.
    """
    check_choice("scheme", scheme, SCHEMES)
    log = population.log_weight
    refuse_infinite(log)
    groups, count = log.shape[1:]
    weight = torch.exp(log - log.amax(2, keepdim=True))
    share = effective(weight) / count
    again = (share <= threshold) if threshold < 1 else torch.ones_like(share, dtype=torch.bool)
    points = 1 if scheme == "systematic" else count
    uniform = rng.uniform(name, groups, points, dtype=torch.float64).contiguous()
    place = torch.arange(count, device=log.device).expand(log.shape)
    parent = torch.where(again[..., None], ancestors(weight, uniform), place)
    offset = torch.arange(groups, device=log.device)[:, None] * count
    index = (parent + offset).flatten(1)
    mean = torch.logsumexp(log, 2) - torch.log(torch.full_like(population.log_z, count))
    return Population(
        gather_chains(population.point, index),
        population.value.gather(1, index),
        torch.where(again[..., None], torch.zeros_like(log), log),
        population.log_z + torch.where(again, mean, torch.zeros_like(mean)),
    ), share


def best_of_n_law(law: Tensor, reward: Tensor, count: int) -> Tensor:
    """Law of the best of `count` samples, `[N, X]`.

    `F(x)^n - F(x-)^n` with `F` the law of the reward; points of equal reward share it in
    proportion to their probabilities.

    Args:
        law: `[N, X]` of one sample.
        reward: `[N, X]` or `[1, X]`; less than 1e-9 apart is equal.
        count: n >= 1.

    Raises:
        ValueError: `count` < 1.
    """
    check_integer("count", count, 1)
    mass, score = law[:, None], reward.expand_as(law)[:, None]
    return law * best_of(Classes(mass, score, mass, mass, mass), count)[:, 0]
