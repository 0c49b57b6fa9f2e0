"""Least-squares value iteration: ridge regressions on features, one a stage, for `N` replicas.

The regression of stage `h` has precision `Lambda_h = ridge I + sum phi phi'` and the targets
`r + V_{h+1}(s')`, which change with every plan. As states are finite, past data enter through sums
alone: the regression on the rewards, and the sum of the features of all transitions into each
state. No transition is stored. `Lambda_h^-1` is carried as a square root, updated once an episode
(`rlkit.regression.update`): every stage has seen at most one more transition.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.episodic import best, replicas_innermost
from rlkit.experience import (
    Episode,
    episode_length,
    extend,
    restart,
    scatter,
    start_episode,
    value_shape,
)
from rlkit.linear_mdps import feature_table
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.regression import Gaussian, isotropic, matvec, update
from rlkit.sampling import zeros

LARGEST = 1 << 17  # numbers in one replica's regressions


class Regressions(NamedTuple):
    """Ridge regressions of all stages."""

    reward: Gaussian  # mean [N, H, d] on the rewards alone, root [N, H, d, d] of Lambda^-1
    moment: Tensor  # [N, H, d, S] float64 sum of the features of transitions into each state


class LinearLearner(NamedTuple):
    """State of a learner of linear values."""

    regressions: Regressions
    episode: Episode
    q: Tensor  # [N, H, S, A] float64 action values in use, replica dimension innermost in memory


Bound = Callable[[Gaussian, Tensor, int], Tensor]  # (law, features [N or 1, K, d], h) -> [N, K]
Planner = Callable[[Spec, Regressions, Rng, Tensor], Tensor]  # action values [N, H, S, A]


def start(spec: Spec, rng: Rng, plan: Planner, ridge: float) -> LinearLearner:
    """A learner without experience, its first plan made.

    Args:
        spec: of a task with episodes; without features each pair of state and action is one.
        rng: stream of the first plan.
        plan: from regressions and features `[N or 1, S, A, d]` to action values `[N, H, S, A]`.
        ridge: weight of the prior at 0, > 0.

    Raises:
        ValueError: no Discrete states and actions, no episode length, features of other states
            and actions, too large a regression.
    """
    table, horizon = feature_table(spec).to(rng.device), episode_length(spec)
    value_shape(spec, horizon)
    states, size = table.shape[-3], table.shape[-1]
    if horizon * size * (size + states) > LARGEST:
        raise ValueError(
            f"{horizon} regressions on {size} features with {states} states take "
            f"{horizon * size * (size + states)} numbers a replica; accepted: up to {LARGEST}"
        )
    one = isotropic(rng, size, 1 / ridge)
    law = Gaussian(*(stagewise(leaf, horizon) for leaf in one))
    moment = zeros(rng, horizon, size, states, dtype=torch.float64)
    regressions = Regressions(law, moment)
    q = replicas_innermost(plan(spec, regressions, rng, own_features(table)))
    return LinearLearner(regressions, start_episode(spec, rng), q)


def stagewise(leaf: Tensor, horizon: int) -> Tensor:
    """`[N, ...]` repeated for every stage, `[N, H, ...]`, replica dimension innermost in memory."""
    repeated = leaf[:, None].expand(-1, horizon, *leaf.shape[1:])
    return replicas_innermost(repeated)


def own_features(table: Tensor) -> Tensor:
    """`[S, A, d]` or `[N, S, A, d]` as `[1 or N, S, A, d]`."""
    return table if table.dim() == 4 else table[None]


def learn(
    spec: Spec, learner: LinearLearner, batch: Transition, rng: Rng, plan: Planner
) -> LinearLearner:
    """Note the step; where an episode ended, regress and plan the next. Arguments as `start`."""
    episode = extend(spec, learner.episode, batch)
    if torch.compiler.is_compiling():
        # Compiled chunks lie within an episode, as those of `rlkit.episodic.learn`.
        return learner._replace(episode=restart(episode, batch.last))
    if not bool(batch.last.any()):
        return learner._replace(episode=episode)
    table = own_features(feature_table(spec).to(rng.device))
    regressions = absorb(learner.regressions, table, episode, batch)
    if bool(batch.last.all()):
        q = replicas_innermost(plan(spec, regressions, rng, table))
    else:
        rows = batch.last.nonzero().squeeze(1)
        part = tree_map(lambda leaf: leaf[rows], regressions)
        own = table[rows] if table.shape[0] > 1 else table
        few = plan(spec, part, replace(rng, replica=rng.replica[rows]), own)
        q = learner.q.movedim(0, -1).index_copy(-1, rows, few.movedim(0, -1)).movedim(-1, 0)
    return LinearLearner(regressions, restart(episode, batch.last), q)


def absorb(
    regressions: Regressions, table: Tensor, episode: Episode, batch: Transition
) -> Regressions:
    """Regressions with the episodes that end in `batch`, already extended by it.

    Args:
        regressions: so far.
        table: features `[N or 1, S, A, d]`.
        episode: transitions of the running episode.
        batch: its last transition; where its discount is 0 no successor counts.
    """
    replicas, horizon = episode.code.shape
    states, actions, size = table.shape[1:]
    stage = torch.arange(horizon, device=table.device)
    seen = (stage < episode.stage[:, None]) & batch.last[:, None]
    pair, reached = episode.code % (states * actions), episode.code // (states * actions)
    row = pair
    if table.shape[0] > 1:
        first = torch.arange(replicas, device=table.device) * (states * actions)
        row = pair + first[:, None]
    x = table.reshape(-1, size)[row] * seen[..., None]
    ends = stage == episode.stage[:, None] - 1
    weight = torch.where(ends, batch.discount.double()[:, None], 1.0)
    feature = torch.arange(size, device=table.device)
    place = ((stage[:, None] * size + feature) * states)[None] + reached[..., None]
    moment = scatter(regressions.moment, place.flatten(1), (x * weight[..., None]).flatten(1))
    law = update(regressions.reward, x, episode.reward, 1.0)
    return Regressions(Gaussian(*map(replicas_innermost, law)), moment)


def iterate(regressions: Regressions, table: Tensor, bound: Bound) -> Tensor:
    """Action values `[N, H, S, A]` by regression on rewards and next values, last stage first.

    Args:
        regressions: of all stages.
        table: features `[N or 1, S, A, d]`.
        bound: values `[N, K]` of `K` features, given the law of the weights and the stage `h`:
            `N(w_h, Lambda_h^-1)` with `w_h` the ridge regression.
    """
    law, moment = regressions
    states, actions = table.shape[1:3]
    features = table.flatten(1, 2)
    value, q = torch.zeros_like(moment[:, 0, 0]), []
    for stage in reversed(range(moment.shape[1])):
        own = Gaussian(*(leaf[:, stage] for leaf in law))
        following = matvec(own.root, matvec(own.root.mT, matvec(moment[:, stage], value)))
        values = bound(own._replace(mean=own.mean + following), features, stage)
        q.append(values.unflatten(1, (states, actions)))
        value = best(q[-1])
    return torch.stack(q[::-1], 1)


def confidence_log(spec: Spec, size: int, delta: float) -> float:
    """`ln(2 d T / delta)` of `d` features and a run of `T` steps (Jin et al. 2020, theorem 3.1).

    Raises:
        ValueError: the length of the run is not known.
    """
    if spec.total_steps is None:
        raise ValueError("total_steps = None: the bonus depends on the length of the run")
    return math.log(2 * size * spec.total_steps / delta)
