"""Least-squares value iteration with perturbed histories."""

import math
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.episodic import act, optimism_range
from rlkit.experience import episode_length
from rlkit.linear_values import LinearLearner, Regressions, confidence_log, iterate, learn, start
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.regression import Gaussian, matvec
from rlkit.validation import check_integer, check_real


@agent("lsvi_phe")
@dataclass(frozen=True)
class LSVIPHE:
    """Optimism by the best of several regressions on perturbed rewards, drawn anew each episode.

    Ishfaq et al. (2021), "Randomized exploration for reinforcement learning with general value
    function approximation", LSVI-PHE: backward over the stages, `ensemble` ridge regressions
    have normal noise of standard deviation `sigma` on every target and `sigma sqrt(ridge)` on
    the prior; `Q_h = min(max_m w_m' phi, H - h + 1)`. Such weights are exactly
    `N(w_h, sigma^2 Lambda_h^-1)` given the data, and are drawn so, once an episode for all
    states. By default `sigma = scale H sqrt(d ln(2 d T / delta))`, the order that their theorem
    asks for. One regression without the cap is RLSVI (Osband, Van Roy and Wen 2016).

    Raises:
        ValueError: a field outside its range.
    """

    sigma: float | None = None  # size of the noise, >= 0; None: by scale
    scale: float = 0.05  # factor of the default size, >= 0
    ensemble: int = 10  # perturbed regressions M, >= 1
    ridge: float = 1.0  # weight of the prior at 0, > 0
    delta: float = 0.05  # probability in the default size, in (0, 1)
    reward_max: float = 1.0  # largest mean reward, > 0

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False
    episodic: ClassVar[bool] = True  # plans where an episode ends, and only there

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_real("sigma", self.sigma, 0)
        check_real("scale", self.scale, 0)
        check_integer("ensemble", self.ensemble, 1)
        check_real("ridge", self.ridge, 0, open_low=True)
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("reward_max", self.reward_max, 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> LinearLearner:
        """Values of pure noise.

        Raises:
            ValueError: as `rlkit.linear_values.start`; rewards beyond `reward_max`; a run of
                unknown length where `sigma` depends on it.
        """
        optimism_range(spec, self.reward_max)
        return start(spec, rng, self.plan, self.ridge)

    def act(
        self, spec: Spec, state: LinearLearner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, LinearLearner]:
        """The action of the largest drawn value `[N]`."""
        return act(spec, state, observation, rng), state

    def learn(self, spec: Spec, state: LinearLearner, batch: Transition, rng: Rng) -> LinearLearner:
        """New draws where an episode ended."""
        return learn(spec, state, batch, rng, self.plan)

    def spread(self, spec: Spec, size: int) -> float:
        """Standard deviation of the noise on a target, with `size` features."""
        if self.sigma is not None:
            return self.sigma
        log = confidence_log(spec, size, self.delta)
        return self.scale * self.reward_max * episode_length(spec) * math.sqrt(size * log)

    def plan(self, spec: Spec, regressions: Regressions, rng: Rng, table: Tensor) -> Tensor:
        """Drawn action values `[N, H, S, A]`."""
        size, horizon = table.shape[-1], episode_length(spec)
        spread = self.spread(spec, size)
        normal = rng.normal("weights", horizon, self.ensemble, size, dtype=torch.float64)

        def largest(law: Gaussian, features: Tensor, stage: int) -> Tensor:
            drawn = perturbed(law, normal[:, stage], spread)
            values = [matvec(features, one) for one in drawn.unbind(1)]
            return reduce(torch.maximum, values).clamp(max=(horizon - stage) * self.reward_max)

        return iterate(regressions, table, largest)


def perturbed(law: Gaussian, normal: Tensor, spread: float) -> Tensor:
    """Weights `N(mean, spread^2 Lambda^-1)` of standard `normal` `[N, M, d]`, `[N, M, d]`."""
    return law.mean[:, None] + spread * matvec(law.root[:, None], normal)
