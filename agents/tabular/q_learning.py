"""Q-learning with epsilon-greedy exploration."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.episodic import best
from rlkit.experience import episode_length, sizes, value_shape
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import argmax, choose, full, zeros
from rlkit.validation import check_real


class ActionValues(NamedTuple):
    """Action values, of every stage if there is no discount."""

    stage: Tensor  # [N] int64 steps since the start, 0 if discounted
    q: Tensor  # [N, R, A] float64, `R` states or stages times states
    visits: Tensor  # [N, R, A] float64


@agent("q_learning")
@dataclass(frozen=True)
class QLearning:
    """Q-learning (Watkins and Dayan 1992) that tries a random action now and then.

    Without a discount the values are those of the steps left in the episode; with one they are
    stationary, and an episode cut short is no end.

    Raises:
        ValueError: a field outside its range.
    """

    epsilon: float = 0.1  # probability of a uniform action, in [0, 1]
    gamma: float | None = None  # discount in [0, 1); None: sum over an episode
    step_size: float | None = None  # in (0, 1]; None: 1 / number of visits
    first_value: float = 0.0  # of every action

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("epsilon", self.epsilon, 0, 1)
        if self.gamma is not None:
            check_real("gamma", self.gamma, 0, 1, open_high=True)
        if self.step_size is not None:
            check_real("step_size", self.step_size, 0, 1, open_low=True)
        check_real("first_value", self.first_value)

    def stages(self, spec: Spec) -> int:
        """Stages with values of their own."""
        return 1 if self.gamma is not None else episode_length(spec)

    def initial(self, spec: Spec, rng: Rng) -> ActionValues:
        """The first values.

        Raises:
            ValueError: no Discrete states and actions, or too many; no discount and no episode
                length.
        """
        shape = value_shape(spec, self.stages(spec))
        q = full(rng, self.first_value, *shape, dtype=torch.float64)
        count = zeros(rng, *shape, dtype=torch.float64)
        return ActionValues(torch.zeros_like(rng.replica), q, count)

    def act(
        self, spec: Spec, state: ActionValues, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, ActionValues]:
        """The best action so far `[N]`, or a random one."""
        states, actions = sizes(spec)
        greedy = argmax(choose(state.q, state.stage * states + observation), rng)
        explore = rng.uniform("explore") < self.epsilon
        return torch.where(explore, rng.integers("action", actions), greedy), state

    def learn(self, spec: Spec, state: ActionValues, batch: Transition, rng: Rng) -> ActionValues:
        """One update of the visited entry."""
        states, actions = sizes(spec)
        place = (state.stage * states + batch.observation) * actions + batch.action
        q, count = (table.flatten(1) for table in (state.q, state.visits))
        visit, old = choose(count, place) + 1, choose(q, place)
        rate = 1 / visit if self.step_size is None else self.step_size
        target = batch.reward.double() + self.following(spec, state, batch)
        new = old + rate * (target - old)
        stage = state.stage if self.gamma is not None else (state.stage + 1) * ~batch.last
        return ActionValues(
            stage,
            q.scatter(1, place[:, None], new[:, None]).reshape(state.q.shape),
            count.scatter(1, place[:, None], visit[:, None]).reshape(state.visits.shape),
        )

    def following(self, spec: Spec, state: ActionValues, batch: Transition) -> Tensor:
        """Discounted value `[N]` of the successor."""
        states = sizes(spec)[0]
        if self.gamma is not None:
            return self.gamma * best(choose(state.q, batch.next_observation)) * batch.discount
        stage, horizon = state.stage + 1, episode_length(spec)
        row = stage.clamp(max=horizon - 1) * states + batch.next_observation
        return best(choose(state.q, row)) * batch.discount * (stage < horizon)
