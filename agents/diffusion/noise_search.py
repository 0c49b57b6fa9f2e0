"""Random and local search for one initial noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.noise_agents import NoiseAgent, Seeker, fresh
from rlkit.diffusion.noise_policies import measure_starts
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.task import Noise
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import choose
from rlkit.validation import check_real


class Best(NamedTuple):
    """The best start so far."""

    point: Tensor  # [N, C, d]
    reward: Tensor  # [N, C]


@agent("noise_search")
@dataclass(frozen=True)
class NoiseSearch(NoiseAgent):
    """Keeps the best x_T seen: best of N where `radius` is 1, else a local search around it.

    Candidates are `sqrt(1 - radius^2)` times the best one plus `radius` times fresh noise, which
    leaves N(0, I) invariant. Its answer is a point, not a law of samples.

    Raises:
        ValueError: a field outside its range.
    """

    batch: int = 8  # starts for each prompt an iteration, >= 1
    radius: float = 1.0  # share of fresh noise in a candidate, in (0, 1]
    allow_uncontrollable: bool = False  # whether to run where x_T has no influence

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_real("radius", self.radius, 0, 1, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Seeker:
        """A first start, of unknown reward.

        Raises:
            ValueError: no points in R^d, or x_T has no influence.
        """
        task = self.suited(spec)
        point = task.start(rng, "start", task.prompts)
        best = Best(point, torch.full_like(point[..., 0], -math.inf))
        return Seeker(best, (), fresh(rng), rng.replica)

    def act(self, spec: Spec, state: Seeker, observation: Tree, rng: Rng) -> tuple[Noise, Seeker]:
        """Candidates around the best start."""
        best: Tensor = state.law.point
        _, c, d = best.shape
        white = rng.normal("start", c, self.batch, d, dtype=best.dtype).contiguous()
        kept = math.sqrt(1 - self.radius * self.radius)
        return self.starts(spec, rng, kept * best[:, :, None] + self.radius * white), state

    def learn(self, spec: Spec, state: Seeker, batch: Transition, rng: Rng) -> Seeker:
        """Keep the better of the best so far and the best candidate."""
        point, reward = self.scored(spec, batch)
        top, index = reward.max(-1)
        found = choose(point.flatten(0, 1), index.flatten()).reshape(state.law.point.shape)
        better = top > state.law.reward
        best = Best(
            torch.where(better[..., None], found, state.law.point),
            torch.where(better, top, state.law.reward),
        )
        return state._replace(law=best, iteration=state.iteration + 1)

    def diagnostics(self, spec: Spec, state: Seeker) -> dict[str, Tensor]:
        """Rewards of the samples from the best start, denoiser evaluations so far, `[N]`."""
        rng = Rng(0, "look", state.replica)
        found = measure_starts(gaussian_task(spec), state.law.point[:, :, None], rng)
        return {**found, "evaluations": self.spent(spec, state.iteration)}
