"""CEM on the initial noise: refit a Gaussian of x_T to the best starts."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.diffusion.noise_agents import NoiseAgent, Seeker, fresh
from rlkit.diffusion.noise_policies import (
    LEAST,
    NoiseLaw,
    draw_noise,
    measure_noise,
    start_noise,
)
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.task import Noise
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer, check_real


@agent("cem_noise")
@dataclass(frozen=True)
class CEMNoise(NoiseAgent):
    """The cross-entropy method on x_T: mean and deviation of the elite, smoothed.

    De Boer et al. (2005), "A tutorial on the cross-entropy method", algorithm 3.2 with smoothing.

    Raises:
        ValueError: a field outside its range, or fewer than two elite starts.
    """

    batch: int = 16  # starts for each prompt an iteration, >= 2
    elite: float = 0.25  # share of them that the law is refitted to, in (0, 1]
    smoothing: float = 0.7  # weight of the elite against the law so far, in (0, 1]
    floor: float = 0.05  # smallest standard deviation, >= 1e-4
    allow_uncontrollable: bool = False  # whether to run where x_T has no influence

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check(least=2)
        check_real("elite", self.elite, 0, 1, open_low=True)
        check_real("smoothing", self.smoothing, 0, 1, open_low=True)
        check_real("floor", self.floor, LEAST)
        check_integer("elite starts", self.kept, 2)

    @property
    def kept(self) -> int:
        """Elite starts."""
        return math.ceil(self.elite * self.batch)

    def initial(self, spec: Spec, rng: Rng) -> Seeker:
        """Standard normal noise.

        Raises:
            ValueError: no points in R^d, or x_T has no influence.
        """
        law = start_noise(self.suited(spec), rng.n)
        return Seeker(law, (), fresh(rng), rng.replica)

    def act(self, spec: Spec, state: Seeker, observation: Tree, rng: Rng) -> tuple[Noise, Seeker]:
        """Starts drawn from the law of each prompt."""
        return self.starts(spec, rng, draw_noise(state.law, rng, "start", self.batch)), state

    def learn(self, spec: Spec, state: Seeker, batch: Transition, rng: Rng) -> Seeker:
        """Move the law towards the elite."""
        point, reward = self.scored(spec, batch)
        best = torch.argsort(reward, dim=-1, descending=True, stable=True)[..., : self.kept]
        elite = point.gather(2, best[..., None].expand(*best.shape, point.shape[-1]))
        mean = elite.mean(2)
        offset = elite - mean[:, :, None]
        deviation = torch.sqrt((offset * offset).mean(2))
        keep = 1 - self.smoothing
        law: NoiseLaw = state.law
        spread = (keep * law.deviation + self.smoothing * deviation).clamp(min=self.floor)
        after = NoiseLaw(keep * law.mean + self.smoothing * mean, torch.log(spread))
        return state._replace(law=after, iteration=state.iteration + 1)

    def diagnostics(self, spec: Spec, state: Seeker) -> dict[str, Tensor]:
        """Expected rewards, divergence of the noise, denoiser evaluations so far, `[N]`."""
        found = measure_noise(gaussian_task(spec), state.law, state.replica)
        return {**found, "evaluations": self.spent(spec, state.iteration)}
