"""Least-squares value iteration with upper confidence bounds."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.episodic import act, optimism_range
from rlkit.experience import episode_length
from rlkit.linear_values import LinearLearner, Regressions, confidence_log, iterate, learn, start
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.regression import Gaussian, deviations, matvec
from rlkit.validation import check_real


@agent("lsvi_ucb")
@dataclass(frozen=True)
class LSVIUCB:
    """Optimism for values linear in features: ridge regression and a bonus, once an episode.

    Jin, Yang, Wang and Jordan (2020), "Provably efficient reinforcement learning with linear
    function approximation", Algorithm 1: backward over the stages `w_h` is the ridge regression
    of `r + max_a Q_{h+1}` on the features and `Q_h = min(w_h' phi + beta |phi|_{Lambda_h^-1},
    H - h + 1)`, with `beta = scale d H sqrt(ln(2 d T / delta))` in a run of `T` steps. Theirs
    caps every stage at `H`; their scale is an unspecified absolute constant. A problem that
    discloses no features gets one for each state and action.

    Raises:
        ValueError: a field outside its range.
    """

    scale: float = 0.05  # factor of the bonus, >= 0
    ridge: float = 1.0  # weight of the prior at 0, > 0
    delta: float = 0.05  # probability with which optimism may fail, in (0, 1)
    reward_max: float = 1.0  # largest mean reward, > 0

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False
    episodic: ClassVar[bool] = True  # plans where an episode ends, and only there

    def __post_init__(self) -> None:
        check_real("scale", self.scale, 0)
        check_real("ridge", self.ridge, 0, open_low=True)
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("reward_max", self.reward_max, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> LinearLearner:
        """Upper bounds without experience.

        Raises:
            ValueError: as `rlkit.linear_values.start`; rewards beyond `reward_max`; a run of
                unknown length.
        """
        optimism_range(spec, self.reward_max)
        return start(spec, rng, self.plan, self.ridge)

    def act(
        self, spec: Spec, state: LinearLearner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, LinearLearner]:
        """The action of the largest upper bound `[N]`."""
        return act(spec, state, observation, rng), state

    def learn(self, spec: Spec, state: LinearLearner, batch: Transition, rng: Rng) -> LinearLearner:
        """New upper bounds where an episode ended."""
        return learn(spec, state, batch, rng, self.plan)

    def width(self, spec: Spec, size: int) -> float:
        """`beta`, in units of the reward, with `size` features."""
        log = confidence_log(spec, size, self.delta)
        return self.scale * self.reward_max * size * episode_length(spec) * math.sqrt(log)

    def plan(self, spec: Spec, regressions: Regressions, rng: Rng, table: Tensor) -> Tensor:
        """Upper bounds of the action values `[N, H, S, A]`."""
        width, horizon = self.width(spec, table.shape[-1]), episode_length(spec)

        def upper(law: Gaussian, features: Tensor, stage: int) -> Tensor:
            bound = matvec(features, law.mean) + width * deviations(law, features)
            return bound.clamp(max=(horizon - stage) * self.reward_max)

        return iterate(regressions, table, upper)
