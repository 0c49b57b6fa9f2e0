"""Optimism in the face of uncertainty by value iteration with upper confidence bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.episodic import (
    Learner,
    act,
    best,
    expectations,
    learn,
    log_term,
    optimism_range,
    start,
)
from rlkit.experience import Experience, episode_length, sizes
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real

BONUSES = ("hoeffding", "bernstein", "stage", "root")


@agent("ucbvi")
@dataclass(frozen=True)
class UCBVI:
    """Plans in the empirical model with a bonus on rarely tried actions, once an episode.

    Azar, Osband and Munos (2017), "Minimax regret bounds for reinforcement learning":
    `Q_h = min(H - h + 1, r + P V_{h+1} + scale * b)`, and `H - h + 1` where nothing was tried.
    With `L = ln(5 S A T / delta)` of a run of `T` steps and `n` visits the bonus `b` is

    - "hoeffding": `7 H L / sqrt(n)`, their Algorithm 3;
    - "bernstein": `sqrt(8 L Var V / n) + 14 H L / (3 n) + sqrt(8 H^2 / n)`, their Algorithm 4;
      theirs has `min(1e4 H^3 S^2 A L^2 / N', H^2)` in the last term, which is `H^2` until a state
      was reached `N' = 1e4 H S^2 A L^2` times;
    - "stage": `(H - h + 1) sqrt(L / n)`;
    - "root": `H / sqrt(n)`, of no theorem.

    Mean rewards are taken to lie in `[0, reward_max]`; values and bonuses are in its units.

    Raises:
        ValueError: a field outside its range.
    """

    bonus: str = "hoeffding"  # "hoeffding", "bernstein", "stage" or "root"
    scale: float = 1.0  # factor of the bonus, > 0; 1 is the theorem's
    delta: float = 0.05  # probability with which optimism may fail, in (0, 1)
    reward_max: float = 1.0  # largest mean reward, > 0
    stage_dependent: bool = False  # learn transitions and rewards for each stage on its own

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("bonus", self.bonus, BONUSES)
        check_real("scale", self.scale, 0, open_low=True)
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("reward_max", self.reward_max, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """Every action as good as can be.

        Raises:
            ValueError: as `rlkit.episodic.start`; rewards beyond `reward_max`; a run of unknown
                length.
        """
        optimism_range(spec, self.reward_max)
        return start(spec, rng, self.plan, self.stage_dependent)

    def act(
        self, spec: Spec, state: Learner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Learner]:
        """The action of the largest upper bound `[N]`."""
        return act(spec, state, observation, rng), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """New upper bounds where an episode ended."""
        return learn(spec, state, batch, rng, self.plan, self.stage_dependent)

    def plan(self, spec: Spec, experience: Experience, rng: Rng) -> Tensor:
        """Upper bounds of the action values `[N, H, S, A]`."""
        horizon, states = episode_length(spec), sizes(spec)[0]
        bonus = self.bonuses(spec)
        parts = zip(
            experience.count.split(states, 1),
            experience.mean_reward.split(states, 1),
            map(expectations, experience.kernel.split(states, 1)),
            strict=True,
        )
        rows = list(parts)
        table, value = [], torch.zeros_like(experience.goes_on)
        for left in range(1, horizon + 1):
            count, reward, expected = rows[-left if self.stage_dependent else 0]
            upper = reward + expected(value) + bonus(left, count, value, expected)
            # An action never tried has an infinite bonus.
            table.append(upper.clamp(max=left * self.reward_max))
            value = best(table[-1]) * experience.goes_on
        return torch.stack(table[::-1], 1)

    def bonuses(self, spec: Spec) -> "Bonus":
        """The bonus `[N, S, A]` of stage `H - left + 1`, infinite where nothing was tried."""
        horizon, log = episode_length(spec), log_term(spec, self.delta, 5)
        top, scale = horizon * self.reward_max, self.scale
        width = {"hoeffding": 7 * top * log, "root": top}.get(self.bonus, 0.0)

        def plain(left: int, count: Tensor, value: Tensor, expected: Expectation) -> Tensor:
            by_stage = left * self.reward_max * math.sqrt(log)
            size = by_stage if self.bonus == "stage" else width
            return scale * size / torch.sqrt(count)

        def bernstein(left: int, count: Tensor, value: Tensor, expected: Expectation) -> Tensor:
            mean = expected(value)
            variance = (expected(value * value) - mean * mean).clamp(min=0)
            tried = count.clamp(min=1)
            known = torch.sqrt(8 * log * variance / tried) + 14 * top * log / (3 * tried)
            rest = math.sqrt(8) * top / torch.sqrt(count)
            return scale * (known + rest)

        return bernstein if self.bonus == "bernstein" else plain


Expectation = Callable[[Tensor], Tensor]
Bonus = Callable[[int, Tensor, Tensor, Expectation], Tensor]
