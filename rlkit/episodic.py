"""Learners that plan when an episode ends and hold the plan for the next one.

What differs between them is how they turn experience into action values. All replicas plan at
once where their episodes end together; else those that must, with the same numbers.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.experience import (
    Episode,
    Experience,
    absorb,
    empty,
    episode_length,
    extend,
    restart,
    sizes,
    start_episode,
)
from rlkit.models import Dense
from rlkit.planning import backward_induction
from rlkit.planning.layout import expected_next, matrix
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.sampling import argmax

UNROLL = 16  # up to this many successors an expectation is written out, term by term


class Learner(NamedTuple):
    """State of a learner of this kind."""

    experience: Experience
    episode: Episode
    q: Tensor  # [N, H, S, A] float64 action values in use, replica dimension innermost in memory


class Holder(Protocol):
    """What acting reads of a learner's state."""

    @property
    def episode(self) -> Episode:
        """The running episode."""

    @property
    def q(self) -> Tensor:
        """Action values in use `[N, H, S, A]`."""


Backup = Callable[..., tuple[Tensor, Tensor]]
Planner = Callable[[Spec, Experience, Rng], Tensor]  # action values [N, H, S, A]


def start(spec: Spec, rng: Rng, plan: Planner, staged: bool = False) -> Learner:
    """A learner without experience, its first plan made.

    Args:
        spec: of a task with episodes.
        rng: stream of the first plan.
        plan: from experience to action values `[N, H, S, A]`.
        staged: whether transitions and rewards are learned for each stage on its own.

    Raises:
        ValueError: no Discrete states and actions, no episode length, too large a table.
    """
    stages = episode_length(spec) if staged else 1
    experience = empty(spec, rng, stages)
    q = replicas_innermost(plan(spec, experience, rng))
    return Learner(experience, start_episode(spec, rng), q)


def act(spec: Spec, learner: Holder, observation: Tensor, rng: Rng) -> Tensor:
    """The best action `[N]` of the plan, ties broken uniformly."""
    (states, actions), n = sizes(spec), rng.n
    first = (learner.episode.stage * states + observation) * (actions * n)
    number = torch.arange(actions * n, device=rng.device).view(actions, n)
    flat = learner.q.movedim(0, -1).reshape(-1)
    values = flat.index_select(0, (first + number).view(-1)).view(actions, n)
    return argmax(values.T, rng)


def learn(
    spec: Spec, learner: Learner, batch: Transition, rng: Rng, plan: Planner, staged: bool = False
) -> Learner:
    """Note the step; where an episode ended, plan the next. Arguments as `start`."""
    episode = extend(spec, learner.episode, batch, staged)
    if torch.compiler.is_compiling():
        # Compiled chunks lie within an episode. One that does not is made again; till then the
        # clock must stay in range.
        return learner._replace(episode=restart(episode, batch.last))
    if not bool(batch.last.any()):
        return learner._replace(episode=episode)
    if bool(batch.last.all()):
        return turn(spec, learner, episode, batch, rng, plan)
    experience = absorb(learner.experience, episode, batch)
    rows = batch.last.nonzero().squeeze(1)
    part = tree_map(lambda leaf: leaf[rows], experience)
    few = plan(some(spec, rows), part, replace(rng, replica=rng.replica[rows]))
    q = learner.q.movedim(0, -1).index_copy(-1, rows, few.movedim(0, -1)).movedim(-1, 0)
    return Learner(experience, restart(episode, batch.last), q)


def renew(
    spec: Spec, learner: Learner, batch: Transition, rng: Rng, plan: Planner, staged: bool = False
) -> Learner:
    """`learn` for a step that ends the episode of every replica; it may be compiled."""
    return turn(spec, learner, extend(spec, learner.episode, batch, staged), batch, rng, plan)


def turn(
    spec: Spec, learner: Learner, episode: Episode, batch: Transition, rng: Rng, plan: Planner
) -> Learner:
    """The learner with a plan for the next episode of every replica, given all of this one."""
    experience = absorb(learner.experience, episode, batch)
    q = replicas_innermost(plan(spec, experience, rng))
    return Learner(experience, restart(episode, batch.last), q)


def some(spec: Spec, rows: Tensor) -> Spec:
    """What is known of the replicas `rows` `[n]` alone."""
    reward, model = spec.known.reward, spec.known.model
    if reward is not None and reward.dim() == 3:
        reward = reward[rows]
    if model is not None and model.batched:
        model = type(model)(*(leaf[rows] for leaf in model))
    return replace(spec, known=spec.known._replace(reward=reward, model=model))


def backward(horizon: int, one: Backup, value: Tensor, *staged: Tensor) -> Tensor:
    """Action values `[N, H, S, A]` of the stages, from the last to the first.

    Args:
        horizon: steps of an episode.
        one: from values `[N, S]` of the next stage, the number of stages left, this one included,
            and what is `staged`, to action values `[N, S, A]` and values of the stage.
        value: `[N, S]` after the last stage.
        staged: `[N, H, ...]`, of which `one` is given its stage, `[N, ...]`.
    """
    if torch.compiler.is_compiling():  # unrolled, the stages would be compiled one by one
        from torch._higher_order_ops.scan import scan

        def body(value: Tensor, stage: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            left, *own = stage
            q, before = one(value, left, *(leaf.movedim(-1, 0) for leaf in own))
            return before.clone(), q.movedim(0, -1).clone()

        lefts = torch.arange(1, horizon + 1, device=value.device)
        stages = (lefts, *(leaf.movedim(0, -1).flip(0) for leaf in staged))
        return scan(body, value.clone(), stages)[1].flip(0).movedim(-1, 0)
    table = []
    for left in range(1, horizon + 1):
        q, value = one(value, left, *(leaf[:, -left] for leaf in staged))
        table.append(q)
    return stacked(table)


def stages(horizon: int, *tables: Tensor) -> tuple[Tensor, ...]:
    """Tables `[N, H * S, ...]`, stage by stage, as `[N, H, S, ...]`."""
    return tuple(table.unflatten(1, (horizon, -1)) for table in tables)


def solution(model: Dense, horizon: int) -> Tensor:
    """Optimal action values `[N, H, S, A]` of models, whose rows may sum to less than 1."""
    if not torch.compiler.is_compiling():
        return backward_induction(model, horizon, check=False).q
    expected = expectations(model.kernel)

    def one(value: Tensor, left: Any) -> tuple[Tensor, Tensor]:
        q = model.reward + expected(value)
        return q, best(q)

    return backward(horizon, one, torch.zeros_like(model.reward[..., 0]))


def replicas_innermost(table: Tensor) -> Tensor:
    """The same `[N, ...]`, in memory as `[..., N]`: acting looks one entry a replica up."""
    return table.movedim(0, -1).contiguous().movedim(-1, 0)


def stacked(table: list[Tensor]) -> Tensor:
    """Action values `[N, S, A]` from the last stage to the first as `[N, H, S, A]`."""
    return torch.stack([q.movedim(0, -1) for q in reversed(table)]).movedim(-1, 0)


def best(q: Tensor) -> Tensor:
    """Largest action value, `[..., A]` to `[...]`."""
    return reduce(torch.maximum, q.unbind(-1))


def expectations(kernel: Tensor) -> Callable[[Tensor], Tensor]:
    """From values `[N, S]` of the successors to expected values `[N, S, A]`.

    Args:
        kernel: `[N, S, A, S]` weights of the successors.
    """
    if kernel.shape[-1] <= UNROLL:

        def written_out(value: Tensor) -> Tensor:
            each = zip(kernel.unbind(-1), value.unbind(-1), strict=True)
            return reduce(torch.add, [column * v[:, None, None] for column, v in each])

        return written_out
    wide, actions = matrix(kernel), kernel.shape[2]
    return lambda value: expected_next(wide, value, actions)


def optimism_range(spec: Spec, reward_max: float) -> float:
    """`reward_max`, which no reward may exceed where optimism is to hold.

    Raises:
        ValueError: the problem declares larger rewards.
    """
    top = spec.reward_range[1]
    if top != float("inf") and top > reward_max:
        raise ValueError(f"reward_max = {reward_max}, but rewards go up to {top}")
    return reward_max


def log_term(spec: Spec, delta: float, factor: float = 1.0) -> float:
    """`ln(factor S A T / delta)` of a run of `T` steps.

    Raises:
        ValueError: the length of the run is not known.
    """
    states, actions = sizes(spec)
    if spec.total_steps is None:
        raise ValueError("total_steps = None: the bonus depends on the length of the run")
    return math.log(factor * states * actions * spec.total_steps / delta)
