"""Optimism in the face of uncertainty by value iteration with upper confidence bounds."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.episodic import (
    Learner,
    act,
    backward,
    best,
    expectations,
    learn,
    log_term,
    optimism_range,
    renew,
    stages,
    start,
)
from rlkit.experience import Experience, episode_length
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
    `Q_h = min(H - h + 1, r + P V_{h+1} + scale * b)`, and `H - h + 1` where nothing was tried
    (theirs also never exceeds the Q of the episode before).
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
    scale: float = 1.0  # factor of the bonus, > 0
    delta: float = 0.05  # probability with which optimism may fail, in (0, 1)
    reward_max: float = 1.0  # largest mean reward, > 0
    stage_dependent: bool = False  # learn transitions and rewards for each stage on its own

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False
    episodic: ClassVar[bool] = True  # plans where an episode ends, and only there

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

    def renew(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """`learn` where the episode of every replica ended."""
        return renew(spec, state, batch, rng, self.plan, self.stage_dependent)

    def plan(self, spec: Spec, experience: Experience, rng: Rng) -> Tensor:
        """Upper bounds of the action values `[N, H, S, A]`."""
        return rng.fused(
            "plan", lambda _, *leaves: self.optimistic(spec, Experience(*leaves)), *experience
        )

    def optimistic(self, spec: Spec, experience: Experience) -> Tensor:
        """Backward induction with the bonus, `[N, H, S, A]`."""
        horizon = episode_length(spec)
        bounds, kernel = self.bounds(spec, experience), experience.kernel
        shared = None if self.stage_dependent else expectations(kernel)

        def one(value: Tensor, left: Any, *own: Tensor) -> tuple[Tensor, Tensor]:
            bound = bounds if shared else Bounds(*own[1:])
            expected = shared or expectations(own[0])
            mean = expected(value)
            upper = bound.level + mean
            if self.bonus == "stage":
                upper = upper + left * bound.slope
            if self.bonus == "bernstein":
                variance = (expected(value * value) - mean * mean).clamp(min=0)
                upper = upper + bound.slope * torch.sqrt(variance)
            # An action never tried has an infinite bonus.
            q = torch.minimum(upper, torch.as_tensor(left).to(upper) * self.reward_max)
            return q, best(q) * experience.goes_on

        staged = () if shared else stages(horizon, kernel, *bounds)
        return backward(horizon, one, torch.zeros_like(experience.goes_on), *staged)

    def bounds(self, spec: Spec, experience: Experience) -> "Bounds":
        """What the bonus owes to the numbers of visits alone."""
        horizon, log = episode_length(spec), log_term(spec, self.delta, 5)
        top, reward = horizon * self.reward_max, experience.mean_reward
        width = self.scale / torch.sqrt(experience.count)
        if self.bonus == "stage":
            return Bounds(reward, self.reward_max * math.sqrt(log) * width)
        if self.bonus == "bernstein":
            tried = experience.count.clamp(min=1)
            known = math.sqrt(8) * top * width + self.scale * 14 * top * log / (3 * tried)
            return Bounds(reward + known, self.scale * torch.sqrt(8 * log / tried))
        return Bounds(reward + (7 * top * log if self.bonus == "hoeffding" else top) * width, width)


class Bounds(NamedTuple):
    """Parts of a bonus, `[N, R, A]` each."""

    level: Tensor  # reward and what is added at every stage, infinite where nothing was tried
    slope: Tensor  # factor of the stages left, or of the standard deviation of the next value
