"""Policies that are kept for a phase: what was seen, since when, and which rows must plan anew.

Learners that plan when counts have grown enough end their phases at different times in different
replicas; `take` and `turn` let them plan for the rows that are due and for no others.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit import experience
from rlkit.experience import Episode, Experience
from rlkit.optimism import Optimistic, finite_horizon_values, relative_value_iteration
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.sampling import choose, zeros

State = TypeVar("State")


class Phase(NamedTuple):
    """What a replica remembers, and the policy of its present phase."""

    experience: Experience  # of homogeneous rows, one a state
    episode: Tree  # the running Episode, () where the task never ends
    before: Tensor  # [N, S, A] float64 visits when the phase began
    policy: Tensor  # [N, S] int64 actions; [N, H, S] where there are episodes
    value: Tensor  # [N, S] float64 relative values of the last plan, to begin the next one
    time: Tensor  # [N] int64 steps so far
    began: Tensor  # [N] int64 steps before the phase
    phases: Tensor  # [N] int64 phases so far
    cut: Tensor  # [N] int64 phases whose plan was cut short


def begin(spec: Spec, rng: Rng) -> Phase:
    """Nothing seen, no plan yet.

    Raises:
        ValueError: states and actions are not Discrete, or too many.
    """
    seen = experience.empty(spec, rng)
    states = seen.count.shape[1]
    stages = () if spec.horizon is None else (spec.horizon,)
    episode = () if spec.horizon is None else experience.start_episode(spec, rng)
    none = torch.zeros_like(rng.replica)
    policy = zeros(rng, *stages, states, dtype=torch.int64)
    value = zeros(rng, states, dtype=torch.float64)
    return Phase(seen, episode, seen.count, policy, value, none, none, none, none)


def advance(
    spec: Spec, phase: Phase, batch: Transition, plan: Callable[[Phase, Tensor], Phase]
) -> Phase:
    """Count the transition; `plan` the next phase of the replicas `[n]` whose phase has ended."""
    phase = remember(spec, phase, batch)
    due = doubled(phase, batch)
    return plan(phase, due.nonzero().squeeze(1)) if bool(due.any()) else phase


def follow(phase: Phase, observation: Tensor) -> Tensor:
    """The policy's action `[N]`."""
    if isinstance(phase.episode, Episode):
        return choose(choose(phase.policy, phase.episode.stage), observation)
    return choose(phase.policy, observation)


def remember(spec: Spec, phase: Phase, batch: Transition) -> Phase:
    """One more step. Transitions of an episode are counted when it ends."""
    time = phase.time + 1
    if not isinstance(phase.episode, Episode):
        seen = experience.record(spec, phase.experience, batch)
        return phase._replace(experience=seen, time=time)
    episode, seen = experience.extend(spec, phase.episode, batch), phase.experience
    if bool(batch.last.any()):
        seen = experience.absorb(seen, episode, batch)
        episode = experience.restart(episode, batch.last)
    return phase._replace(experience=seen, episode=episode, time=time)


def since(phase: Phase) -> Tensor:
    """Visits in the present phase `[N, S, A]`."""
    return phase.experience.count - phase.before


def doubled(phase: Phase, batch: Transition) -> Tensor:
    """Whether visits in the phase have reached those before it, at least 1, somewhere: `[N]` bool.

    Jaksch, Ortner and Auer (2010), section 3: the phase ends. Where there are episodes, it ends
    with the episode.
    """
    if isinstance(phase.episode, Episode):
        if not bool(batch.last.any()):
            return batch.last
        return batch.last & (since(phase) >= phase.before.clamp(min=1)).flatten(1).any(1)
    before = at(phase.before, batch)
    return at(phase.experience.count, batch) - before >= before.clamp(min=1)


def at(table: Tensor, batch: Transition) -> Tensor:
    """Entry `[N]` of `table` `[N, S, A]` at the state and action of a transition."""
    return choose(choose(table, batch.observation), batch.action)


class Plan(NamedTuple):
    """What planning gave for the `n` rows that were due."""

    policy: Tensor  # [n, S] or [n, H, S] int64
    value: Tensor  # [n, S] float64 relative values
    converged: Tensor  # [n] bool


def solve(
    model: Optimistic, horizon: int | None, begin: Tensor, tolerance: Tensor, sweeps: int, rng: Rng
) -> Plan:
    """The best policy of `n` models or sets of models, for episodes or for the average reward.

    Args:
        model: of `n` rows.
        horizon: steps of an episode; None: average reward.
        begin: `[n, S]` where relative value iteration begins.
        tolerance: `[n]` of the gain, > 0.
        sweeps: of relative value iteration at most, >= 1.
        rng: of the `n` rows, for ties.
    """
    if horizon is not None:
        q = finite_horizon_values(model, horizon)
        return Plan(greedy(q, rng), begin, torch.ones_like(tolerance, dtype=torch.bool))
    found = relative_value_iteration(model, begin, tolerance, sweeps)
    return Plan(greedy(found.q, rng), found.value, found.converged)


def turn(phase: Phase, rows: Tensor, plan: Plan) -> Phase:
    """The next phase of the replicas `rows` `[n]`, with their new plans."""
    began, one = phase.time.index_select(0, rows), torch.ones_like(rows)
    count = phase.experience.count.index_select(0, rows)
    return phase._replace(
        before=phase.before.index_copy(0, rows, count),
        policy=phase.policy.index_copy(0, rows, plan.policy),
        value=phase.value.index_copy(0, rows, plan.value),
        began=phase.began.index_copy(0, rows, began),
        phases=phase.phases.index_add(0, rows, one),
        cut=phase.cut.index_add(0, rows, (~plan.converged).long()),
    )


def take(tree: State, rows: Tensor) -> State:
    """Rows `[n]` of every leaf `[N, ...]`."""
    some: State = tree_map(lambda leaf: leaf.index_select(0, rows), tree)
    return some


def draws(rng: Rng, rows: Tensor) -> Rng:
    """The random numbers of the replicas `rows` `[n]`."""
    return replace(rng, replica=rng.replica.index_select(0, rows))


def greedy(q: Tensor, rng: Rng, name: str = "tie") -> Tensor:
    """Actions of largest `q` `[n, ..., A]`, ties broken uniformly and independently: `[n, ...]`."""
    tied = torch.cumsum((q == q.amax(-1, keepdim=True)).float(), -1)
    target = torch.floor(rng.uniform(name, *q.shape[1:-1]) * tied[..., -1])
    return (tied[..., :-1] <= target[..., None]).sum(-1)


def known_reward(spec: Spec, rows: Tensor) -> Tensor:
    """Mean reward of the replicas `rows` `[n]`: `[n, S, A]`, or `[S, A]` where all share it.

    Raises:
        ValueError: the problem does not disclose it.
    """
    reward = spec.known.reward
    if reward is None:
        raise ValueError("known_reward = True, but this problem does not disclose its mean reward")
    return (reward.index_select(0, rows) if reward.dim() == 3 else reward).double()


def average_reward(agent: object, spec: Spec) -> tuple[int, int]:
    """Numbers of states and actions of a problem that never ends.

    Raises:
        ValueError: states and actions are not Discrete, or the problem has episodes.
    """
    if spec.horizon is not None:
        raise ValueError(
            f"{type(agent).__name__} maximises the average reward of a task that never ends; this "
            f"problem has episodes of {spec.horizon} steps; accepted: horizon = None"
        )
    return experience.sizes(spec)
