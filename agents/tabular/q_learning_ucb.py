"""Optimistic Q-learning for episodes."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.episodic import best, log_term, optimism_range
from rlkit.experience import episode_length, sizes, value_shape
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import argmax, choose, full, zeros
from rlkit.validation import check_real


class StageTable(NamedTuple):
    """Action values of every stage."""

    stage: Tensor  # [N] int64 steps since the start
    q: Tensor  # [N, H * S, A] float64
    visits: Tensor  # [N, H * S, A] float64


@agent("q_learning_ucb")
@dataclass(frozen=True)
class QLearningUCB:
    """Model-free optimism: Q-learning for each stage with a bonus on every target.

    Jin, Allen-Zhu, Bubeck and Jordan (2018), "Is Q-learning provably efficient?", Algorithm 1:
    from `Q = H`, at the `n`th visit `Q <- (1 - a) Q + a (r + V_{h+1}(s') + b)` with rate
    `a = (H + 1) / (H + n)`, bonus `b = scale sqrt(H^3 L / n)`, `L = ln(S A T / delta)` and
    `V_h = min(H, max Q_h)`. Their scale is an unspecified absolute constant.

    Raises:
        ValueError: a field outside its range.
    """

    scale: float = 1.0  # factor of the bonus, >= 0
    delta: float = 0.05  # probability with which optimism may fail, in (0, 1)
    reward_max: float = 1.0  # largest mean reward, > 0

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("scale", self.scale, 0)
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("reward_max", self.reward_max, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> StageTable:
        """Every value `H`.

        Raises:
            ValueError: no Discrete states and actions, or too many; no episode length, rewards
                beyond `reward_max`, a run of unknown length.
        """
        horizon = episode_length(spec)
        shape = value_shape(spec, horizon)
        log_term(spec, self.delta)
        top = horizon * optimism_range(spec, self.reward_max)
        q = full(rng, top, *shape, dtype=torch.float64)
        return StageTable(torch.zeros_like(rng.replica), q, zeros(rng, *shape, dtype=torch.float64))

    def act(
        self, spec: Spec, state: StageTable, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, StageTable]:
        """The action of the largest upper bound `[N]`."""
        row = state.stage * sizes(spec)[0] + observation
        return argmax(choose(state.q, row), rng), state

    def learn(self, spec: Spec, state: StageTable, batch: Transition, rng: Rng) -> StageTable:
        """One update of the visited entry."""
        (states, actions), horizon = sizes(spec), episode_length(spec)
        place = (state.stage * states + batch.observation) * actions + batch.action
        q, count = (table.flatten(1) for table in (state.q, state.visits))
        visit, old = choose(count, place) + 1, choose(q, place)
        target = batch.reward.double() + self.following(spec, state, batch)
        cube = horizon**3 * log_term(spec, self.delta)
        bonus = self.scale * self.reward_max * torch.sqrt(cube / visit)
        rate = (horizon + 1) / (horizon + visit)
        new = old + rate * (target + bonus - old)
        return StageTable(
            (state.stage + 1) * ~batch.last,
            q.scatter(1, place[:, None], new[:, None]).reshape(state.q.shape),
            count.scatter(1, place[:, None], visit[:, None]).reshape(state.visits.shape),
        )

    def following(self, spec: Spec, state: StageTable, batch: Transition) -> Tensor:
        """Value `[N]` of the successor at the next stage, 0 after the last and where it ended."""
        states, horizon = sizes(spec)[0], episode_length(spec)
        stage = state.stage + 1
        row = stage.clamp(max=horizon - 1) * states + batch.next_observation
        value = best(choose(state.q, row)).clamp(max=horizon * self.reward_max)
        return value * batch.discount * (stage < horizon)
