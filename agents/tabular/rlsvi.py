"""Randomised least-squares value iteration for tables."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlkit.episodic import Learner, act, backward, best, expectations, learn, renew, stages, start
from rlkit.experience import Experience, episode_length, sizes
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_real


@agent("rlsvi")
@dataclass(frozen=True)
class RLSVI:
    """Acts greedily in action values drawn around those of ridge regression, once an episode.

    Osband, Van Roy and Wen (2016), "Generalization and exploration via randomized value
    functions", Algorithm 1 with one feature for each state and action: backward over the stages
    `Q_h ~ N(sum of targets / (n + ridge), sigma^2 / (n + ridge))`, where a target is the reward
    plus the value of the successor at the next stage. One draw serves all states for the whole
    episode. `sigma = 0` is certainty equivalence.

    Raises:
        ValueError: a field outside its range.
    """

    sigma: float = 0.1  # size of the noise, >= 0
    ridge: float = 1.0  # weight of the prior at 0, > 0
    stage_dependent: bool = False  # learn transitions and rewards for each stage on its own

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False
    episodic: ClassVar[bool] = True  # plans where an episode ends, and only there

    def __post_init__(self) -> None:
        check_real("sigma", self.sigma, 0)
        check_real("ridge", self.ridge, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """Action values of pure noise.

        Raises:
            ValueError: as `rlkit.episodic.start`.
        """
        return start(spec, rng, self.plan, self.stage_dependent)

    def act(
        self, spec: Spec, state: Learner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Learner]:
        """The action of the largest drawn value `[N]`."""
        return act(spec, state, observation, rng), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """New action values where an episode ended."""
        return learn(spec, state, batch, rng, self.plan, self.stage_dependent)

    def renew(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """`learn` where the episode of every replica ended."""
        return renew(spec, state, batch, rng, self.plan, self.stage_dependent)

    def plan(self, spec: Spec, experience: Experience, rng: Rng) -> Tensor:
        """Action values `[N, H, S, A]` drawn backward over the stages."""
        horizon, (states, actions) = episode_length(spec), sizes(spec)
        count = self.ridge + experience.count
        kernel, reward = experience.visits / count[..., None], experience.reward / count
        normal = rng.normal("value", horizon, states, actions, dtype=torch.float64)
        tables = (kernel, reward, self.sigma / torch.sqrt(count))
        shared = None if self.stage_dependent else expectations(kernel)

        def one(value: Tensor, left: Any, normal: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
            kernel, reward, width = own or tables
            mean = reward + (shared or expectations(kernel))(value)
            q = mean + width * normal
            return q, best(q) * experience.goes_on

        staged = () if shared else stages(horizon, *tables)
        value = torch.zeros_like(experience.goes_on)
        return backward(horizon, one, value, normal, *staged)
