"""Posterior sampling in a factored MDP with known rewards: what C-PSRL and F-PSRL share.

Once an episode a factored model is drawn from the posterior and solved; its policy is followed
to the end. Rewards are known, and how often an action ends the episode; transitions are not.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.factored.posterior import (
    Posterior,
    Sampled,
    Trajectory,
    conditional_rows,
    expected,
    sample,
    start,
    update,
)
from rlkit.factored.structure import ParentSets, joint_kernel, parent_sets
from rlkit.model_error import model_error
from rlkit.model_posteriors import given_survival
from rlkit.models import Dense, Model
from rlkit.planning import backward_induction
from rlkit.protocol import Discrete, Spec, Transition
from rlkit.random import Rng

BLOCK = 5 << 20  # bytes of joint tables built at once, to be solved while in the cache


class Learner(NamedTuple):
    """State of an agent that samples factored models."""

    posterior: Posterior
    parents: Tensor  # [N, dY] int64, graph of this episode's model, positions in the list of sets
    policy: Tensor  # [N, H * S] int64, stage by stage
    episode: Trajectory  # what this episode brought so far


def sets_of(spec: Spec, sparseness: int | None = None) -> ParentSets:
    """The list of parent sets of a factored problem, `sparseness` None for the prior's."""
    prior = spec.known.prior
    device = prior.known.device
    return parent_sets(
        prior.features, prior.sparseness if sparseness is None else sparseness, device
    )


def begin(
    spec: Spec,
    sets: ParentSets,
    allowed: Tensor,
    limits: tuple[int, int],
    concentration: float,
    rng: Rng,
) -> Learner:
    """Prior, first model and first policy.

    Args:
        spec: of a factored problem, checked by `told_prior`.
        sets: the list of parent sets.
        allowed: admissible sets `[dY, Q]` or `[N, dY, Q]` bool.
        limits: as `capacity` gives them.
        concentration: alpha > 0.
        rng: stream of the first model.
    """
    prior = spec.known.prior
    horizon = spec.horizon or 1
    posterior = start(sets, allowed.expand(rng.n, *allowed.shape[-2:]), prior.state, limits)
    model = sample(posterior, sets, prior.state, concentration, rng)
    everyone = torch.arange(rng.n, device=rng.device)
    zero = torch.zeros(rng.n, horizon, dtype=torch.int64, device=rng.device)
    episode = Trajectory(zero, zero, zero[:, 0])
    return Learner(posterior, model.parents, solve(spec, sets, model, everyone), episode)


def act(spec: Spec, state: Learner, observation: Tensor) -> Tensor:
    """Action `[N]` of the episode's policy."""
    states = state.policy.shape[1] // (spec.horizon or 1)
    at = state.episode.length * states + observation
    return state.policy.gather(1, at[:, None]).squeeze(1)


def learn(
    spec: Spec,
    sets: ParentSets,
    state: Learner,
    batch: Transition,
    concentration: float,
    rng: Rng,
) -> Learner:
    """Note the step; where an episode ends, learn from it and draw and solve a new model."""
    assert isinstance(spec.action, Discrete)
    state = state._replace(episode=note(state.episode, batch, spec.action.n))
    if not bool(batch.last.any()):
        return state
    rows = batch.last.nonzero().squeeze(1)
    everyone = rows.shape[0] == rng.n
    part: Learner = state if everyone else tree_map(lambda leaf: leaf[rows], state)
    some = rng if everyone else replace(rng, replica=rng.replica[rows])
    values = spec.known.prior.state
    posterior = update(part.posterior, sets, values, concentration, part.episode)
    model = sample(posterior, sets, values, concentration, some)
    episode = part.episode._replace(length=torch.zeros_like(part.episode.length))
    part = Learner(posterior, model.parents, solve(spec, sets, model, rows), episode)
    if everyone:
        return part
    return tree_map(lambda old, new: old.index_copy(0, rows, new), state, part)


def note(episode: Trajectory, batch: Transition, actions: int) -> Trajectory:
    """The episode with one more step."""
    at = episode.length[:, None]
    x = (batch.observation * actions + batch.action)[:, None]
    return Trajectory(
        episode.x.scatter(1, at, x),
        episode.successor.scatter(1, at, batch.next_observation[:, None]),
        episode.length + 1,
    )


def solve(spec: Spec, sets: ParentSets, model: Sampled, rows: Tensor) -> Tensor:
    """Optimal policies `[N, H * S]` of sampled models, those of replicas `rows` `[N]` of the run.

    Of equally good actions the first is taken. They are equal where the action does not matter to
    the sampled model: in terminal states, at the last stage if it alone decides no reward, and
    where the sampled graph leaves the action out.
    """
    policy = []
    for part, owner in pieces(spec, model, rows):
        dense = Dense(kernel(spec, sets, part, owner), own(spec.known.reward, owner, 2))
        q = backward_induction(dense, spec.horizon or 1, check=False).q
        policy.append(q.argmax(-1).flatten(1))
    return torch.cat(policy)


def pieces(spec: Spec, model: Sampled, rows: Tensor) -> Iterator[tuple[Sampled, Tensor]]:
    """Models with their replicas, as many at a time as `BLOCK` allows their joint tables."""
    prior = spec.known.prior
    states = math.prod(prior.state)
    size = max(1, BLOCK // (8 * states * states * math.prod(prior.action)))
    for place in range(0, rows.shape[0], size):
        some = slice(place, place + size)
        yield Sampled(*(leaf[some] for leaf in model)), rows[some]


def kernel(spec: Spec, sets: ParentSets, model: Sampled, rows: Tensor) -> Tensor:
    """Transition probabilities `[N, S, A, S]` of sampled models of replicas `rows`.

    Conditioned on what is known of the end of episodes: an action ends them as often as in the
    true model and leads to no terminal state otherwise. What ends them is left out of the row,
    so that it is worth nothing. In memory the successor comes before state and action.
    """
    prior = spec.known.prior
    joint = joint_kernel(conditional_rows(model, sets, prior.state))
    joint = joint.unflatten(2, (math.prod(prior.state), -1))
    laid = joint.movedim(1, -1)
    truth = spec.known.model
    return given_survival(laid, own_model(truth, rows)) if bool(truth.terminal.any()) else laid


def own_model(model: Model, rows: Tensor) -> Model:
    """The models of replicas `rows`, or the one that all share."""
    dims = (3, 3, 3, 1, 1)
    return Model(*(own(leaf, rows, n) for leaf, n in zip(model, dims, strict=True)))


def own(leaf: Any, rows: Tensor, dims: int) -> Any:
    """Rows of a leaf that has `dims` dimensions where all replicas share it."""
    return leaf if leaf.dim() == dims else leaf[rows]


def error(spec: Spec, sets: ParentSets, state: Learner, concentration: float) -> Tensor:
    """`model_error` of the model expected under the posterior given the episode's graph, `[N]`."""
    values = spec.known.prior.state
    model = expected(state.posterior, sets, values, concentration, state.parents)
    truth, errors = spec.known.model, []
    everyone = torch.arange(state.parents.shape[0], device=state.parents.device)
    for part, rows in pieces(spec, model, everyone):
        errors.append(model_error(kernel(spec, sets, part, rows), own_model(truth, rows)))
    return torch.cat(errors)


def graph_probability(state: Learner, matches: Tensor) -> Tensor:
    """Posterior probability that a set is one of `matches`, mean over the features, `[N]`.

    Args:
        state: of the agent.
        matches: `[N or 1, dY, Q]` bool.
    """
    posterior = state.posterior
    matches = matches.expand(posterior.candidate.shape[0], *matches.shape[-2:])
    share = torch.softmax(posterior.log_weight, -1)
    return (share * matches.gather(-1, posterior.candidate)).sum(-1).mean(-1)
