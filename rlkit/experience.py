"""What tabular learners remember: counts of transitions, sums of rewards, the episode so far.

Tables have the replica dimension innermost in memory, the successor outermost. The transitions of
a running episode wait in a short log and enter the tables when it ends, so that a step copies
`[N, H]` numbers and not `[N, S, A, S]`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.protocol import Discrete, Spec, Transition
from rlkit.random import Rng
from rlkit.sampling import one_hot, zeros

LARGEST = 1 << 20  # numbers in one replica's table of transitions
LARGEST_VALUES = 1 << 18  # numbers in one replica's table of action values, copied every step


class Experience(NamedTuple):
    """Transitions seen so far; `R` is the number of states, or of stages times states."""

    visits: Tensor  # [N, R, A, S] float64 number of transitions
    count: Tensor  # type: ignore[assignment]  # [N, R, A] float64, `visits` over successors
    reward: Tensor  # [N, R, A] float64 sum of rewards
    square: Tensor  # [N, R, A] float64 sum of squared rewards
    ended: Tensor  # [N, S] bool: entering the state was seen to end an episode

    @property
    def mean_reward(self) -> Tensor:
        """Average reward `[N, R, A]`, 0 where nothing was seen."""
        return self.reward / self.count.clamp(min=1)

    @property
    def kernel(self) -> Tensor:
        """Relative frequencies `[N, R, A, S]`, rows of zeros where nothing was seen."""
        return self.visits / self.count.clamp(min=1)[..., None]

    @property
    def goes_on(self) -> Tensor:
        """`[N, S]` float64, 0 where entering the state ends the episode."""
        return (~self.ended).double()


class Episode(NamedTuple):
    """The running episode of every replica, at most `H` transitions."""

    stage: Tensor  # [N] int64 steps since the start
    code: Tensor  # [N, H] int64 place of each transition in `Experience.visits`
    reward: Tensor  # [N, H]


def sizes(spec: Spec) -> tuple[int, int]:
    """Numbers of states and of actions.

    Raises:
        ValueError: observations or actions are not Discrete.
    """
    if not isinstance(spec.observation, Discrete):
        raise ValueError(f"observations are {spec.observation}; the agent needs Discrete states")
    if not isinstance(spec.action, Discrete):
        raise ValueError(f"actions are {spec.action}; the agent needs Discrete actions")
    return spec.observation.n, spec.action.n


def episode_length(spec: Spec) -> int:
    """Steps of an episode.

    Raises:
        ValueError: the task never ends, or every replica has a time limit of its own.
    """
    if spec.horizon is None:
        raise ValueError("horizon = None: the agent needs episodes of one known length")
    return spec.horizon


def value_shape(spec: Spec, stages: int) -> tuple[int, int]:
    """Shape of a table of action values: stages times states, actions.

    Raises:
        ValueError: states and actions are not Discrete, or too many.
    """
    states, actions = sizes(spec)
    if stages * states * actions > LARGEST_VALUES:
        raise ValueError(
            f"{stages} stages, {states} states and {actions} actions make a table of "
            f"{stages * states * actions} numbers a replica; accepted: up to {LARGEST_VALUES}"
        )
    return stages * states, actions


def empty(spec: Spec, rng: Rng, stages: int = 1) -> Experience:
    """Nothing seen yet; with `stages > 1` row `h * S + s` is state `s` after `h` steps.

    Raises:
        ValueError: states and actions are not Discrete, or too many for a table of transitions.
    """
    states, actions = sizes(spec)
    rows = stages * states
    if rows * actions * states > LARGEST:
        raise ValueError(
            f"{stages} x {states} states, {actions} actions and {states} successors make a table "
            f"of {rows * actions * states} numbers a replica; accepted: up to {LARGEST}"
        )
    visits = zeros(rng, states, rows, actions, dtype=torch.float64).movedim(1, -1)
    # Three tensors: code compiled for one that is three would not serve the next episode.
    count, reward, square = (zeros(rng, rows, actions, dtype=torch.float64) for _ in range(3))
    return Experience(visits, count, reward, square, zeros(rng, states, dtype=torch.bool))


def start_episode(spec: Spec, rng: Rng) -> Episode:
    """An episode without a step.

    Raises:
        ValueError: as `episode_length`.
    """
    horizon = episode_length(spec)
    code = zeros(rng, horizon, dtype=torch.int64)
    return Episode(torch.zeros_like(rng.replica), code, zeros(rng, horizon))


def places(spec: Spec, batch: Transition, stage: Tensor | None = None) -> Tensor:
    """Place `[N]` of a transition in the memory of `visits`: (successor, row, action).

    Args:
        spec: spaces.
        batch: the transition.
        stage: `[N]`, where rows are stages times states.
    """
    states, actions = sizes(spec)
    row, rows = batch.observation, states
    if stage is not None:
        row, rows = stage * states + row, episode_length(spec) * states
    place: Tensor = (batch.next_observation * rows + row) * actions + batch.action
    return place


def extend(spec: Spec, episode: Episode, batch: Transition, staged: bool = False) -> Episode:
    """The episode with one more step; `staged` as `stages > 1` of `empty`."""
    at = episode.stage[None]  # the replica dimension last: several times faster than first
    place = places(spec, batch, episode.stage if staged else None)
    return Episode(
        episode.stage + 1,
        episode.code.T.scatter(0, at, place[None]).T,
        episode.reward.T.scatter(0, at, batch.reward[None]).T,
    )


def restart(episode: Episode, last: Tensor) -> Episode:
    """The episode, begun anew where `last` `[N]`."""
    return episode._replace(stage=episode.stage * ~last)


def absorb(experience: Experience, episode: Episode, batch: Transition) -> Experience:
    """Experience with the episodes that end in `batch`, already extended by it."""
    step = torch.arange(episode.code.shape[1], device=episode.code.device)[:, None]
    weight = ((step < episode.stage) & batch.last).double().T
    return add(experience, episode.code, episode.reward.double(), weight, batch)


def record(spec: Spec, experience: Experience, batch: Transition) -> Experience:
    """Experience with one transition of every replica, for learners without episodes."""
    place, reward = places(spec, batch)[:, None], batch.reward.double()[:, None]
    return add(experience, place, reward, torch.ones_like(reward), batch)


def add(
    experience: Experience, place: Tensor, reward: Tensor, weight: Tensor, batch: Transition
) -> Experience:
    """Experience with the transitions at `place` `[N, T]`, counted `weight` times.

    States that `batch` found to end an episode are marked.
    """
    rows, actions = experience.count.shape[1:]
    pair, paid = place % (rows * actions), weight * reward
    over = (batch.discount == 0)[:, None]
    entered = one_hot(batch.next_observation, experience.ended.shape[1], torch.bool)
    return Experience(
        scatter(experience.visits.movedim(-1, 1), place, weight).movedim(1, -1),
        scatter(experience.count, pair, weight),
        scatter(experience.reward, pair, paid),
        scatter(experience.square, pair, paid * reward),
        experience.ended | (entered & over),
    )


def scatter(table: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """`table` `[N, ...]` with `value` `[N, T]` added at the flat `place` `[N, T]` of each row."""
    flat = table.movedim(0, -1).reshape(-1, table.shape[0])
    place, value = place.T, value.T
    if flat.is_cuda:  # one element a row at a time: a fixed order of addition
        for index, number in zip(place.split(1), value.split(1), strict=True):
            flat = flat.scatter_add(0, index, number)
    else:
        flat = flat.scatter_add(0, place, value)
    return flat.reshape(*table.shape[1:], table.shape[0]).movedim(-1, 0)
