"""Policy gradients over single denoising steps: shuffled minibatches, ratios, clipped descent."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.fitting import Fit
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.policies import Policy, Steps, reference_moments, steps_of
from rlkit.diffusion.task import Chains, DiffusionTask, knowledge
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng

OVERFLOW = 20.0  # largest logarithm of a ratio


class Rollout(NamedTuple):
    """The steps of a batch of chains, a row each."""

    steps: Steps
    log_probability: Tensor  # [N, M] under who wrote them
    advantage: Tensor  # [N, M]
    weight: Tensor  # [N, M] of the divergence from the reference in the loss


def rollout_of(chains: Chains, advantage: Tensor, weight: Tensor) -> Rollout:
    """All steps of `chains`; `advantage` and `weight` are `[N, T, B]`."""
    rows = (chains.log_probability, advantage, weight)
    return Rollout(steps_of(chains), *(row.flatten(1) for row in rows))


def take(rollout: Rollout, index: Tensor) -> Rollout:
    """Rows `index` `[N, m]` int64 of a rollout."""
    steps = Steps(*(rows_of(leaf, index) for leaf in rollout.steps))
    return Rollout(steps, *(row.gather(1, index) for row in rollout[1:]))


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """`values` `[N, M, ...]` at `index` `[N, m]`, `[N, m, ...]`."""
    wide = index.reshape(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, wide.expand(*index.shape, *values.shape[2:]))


def minibatches(rollout: Rollout, rng: Rng, epochs: int, pieces: int) -> Iterator[Rollout]:
    """`epochs` times all steps in an order of their own for each replica, in `pieces` parts."""
    for epoch in range(epochs):
        order = rng.permutation(f"shuffle/{epoch}", rollout.log_probability.shape[1])
        for index in order.tensor_split(pieces, 1):
            yield take(rollout, index.contiguous())


def ratio(log_probability: Tensor, written: Tensor, share: float) -> Tensor:
    """Probability ratio of steps to the power `share`: 1, or 1 / d for means over dimensions.

    Raises:
        ValueError: log-probabilities of another dtype or device than the stored ones.
    """
    for name in ("dtype", "device"):
        ours, theirs = getattr(log_probability, name), getattr(written, name)
        if ours != theirs:
            raise ValueError(f"stored log-probabilities have {name} {theirs}; accepted: {ours}")
    return torch.exp((share * (log_probability - written)).clamp(max=OVERFLOW))


def surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Schulman et al. (2017), equation 7: the smaller of two gains, one with a bounded ratio."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def divergence_to_go(each: Tensor) -> Tensor:
    """Divergence of all steps after that from x_t, `[N, T, B]`, from that of each `[N, T, B]`.

    The step from x_t, at index t - 1, is followed by those from x_(t-1), ..., x_1.
    """
    return each.cumsum(1) - each


def behaviour(spec: Spec, policy: Policy, parameters: Tree, chains: Chains) -> Tensor:
    """Divergence of every step under the policy that wrote it, `[N, T, B]`, no gradient."""
    with torch.no_grad():
        return policy.divergence(spec, parameters, chains)


def noise_factor(task: DiffusionTask, rollout: Steps) -> Tensor:
    """`|eps - eps_pre|^2` over the divergence of steps of equal deviation, `[N, M]`.

    Noise differs by `sqrt(abar / (1 - abar))` times what predictions of x_0 do, means by the
    step's slope D in the latter: the factor is `2 sigma^2 abar / ((1 - abar) D^2)`. The mean of
    DDPM, `(x - (1 - a) / sqrt(1 - abar) eps) / sqrt(a)`, stands for that of the exact kernel
    too. It is 1 for masked sequences, which have no noise.
    """
    if not isinstance(task, GaussianDiffusion):
        return torch.ones_like(rollout.t, dtype=torch.float64)
    kernel, x = task.kernel, rollout.x[..., :1]
    ddpm = replace(kernel, kind="ddpm") if kernel.kind == "exact" else kernel
    slope = ddpm.gaussian(torch.zeros_like(x), torch.ones_like(x), rollout.t)[0].squeeze(-1)
    level = kernel.schedule.at(rollout.t)
    deviation = reference_moments(task, rollout.x, rollout.t, rollout.prompt).deviation
    return 2 * deviation * deviation * level / ((1 - level) * slope * slope)


def refuse_unsuitable(spec: Spec) -> None:
    """Refuse problems on which steps have no density or points no reward of their own.

    Raises:
        ValueError: no diffusion MDP, eta = 0, or a reward that is a distance of laws.
    """
    task = knowledge(spec)
    if isinstance(task, GaussianDiffusion):
        if task.kernel.deterministic:
            raise ValueError("eta = 0 has no density; accepted: (0, 1]")
        if isinstance(task.judge, Fit):
            raise ValueError("the reward is a distance of laws; the agent needs one of each point")


def warn_of_constant(reward: Tensor) -> None:
    """Say once that a batch of rewards `[N, B]`, B >= 2, is all the same in some replica."""
    if reward.shape[1] > 1 and checking(reward) and bool((reward == reward[:, :1]).all(1).any()):
        warnings.warn("all rewards of a batch are the same: its advantages are 0", stacklevel=2)
