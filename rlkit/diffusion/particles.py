"""Sequential Monte Carlo over a reverse chain: particles that are weighted, then resampled."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.guidance import Proposal
from rlkit.diffusion.inference import ValuedAgent, Written
from rlkit.diffusion.steering import SCHEMES, Population, resample
from rlkit.diffusion.task import DiffusionTask
from rlkit.diffusion.value_models import ValueModel
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

Move = Callable[[Tensor, int, Tensor, str], Proposal]  # x_t, t, prompt, name of the draws


@dataclass(frozen=True)
class Particles:
    """Particle filter whose weights gain `(V_(t-1) - V_t) / alpha + log p_pre - log q` a step.

    Wu et al. 2023, "Practical and asymptotically exact conditional sampling in diffusion models"
    (TDS), Algorithm 1, with any proposal q. Groups aim at `p_pre(x_0..T) exp(r / alpha) / Z`, whose
    x_T may differ in law from the reference's.

    Attributes:
        model: value estimate; its `alpha` is the temperature.
        size: particles K of a group, >= 1.
        threshold: groups of an effective share at most this are resampled, in [0, 1].
        scheme: "systematic" or "multinomial".
    """

    model: ValueModel
    size: int
    threshold: float
    scheme: str

    def __post_init__(self) -> None:
        check_integer("particles", self.size, 1)
        check_real("threshold", self.threshold, 0, 1)
        check_choice("scheme", self.scheme, SCHEMES)

    def run(
        self, task: DiffusionTask, memory: Tree, prompt: Tensor, move: Move, rng: Rng
    ) -> tuple[Population, Tensor]:
        """All steps from fresh x_T for `prompt` `[N, G K]`, equal within groups.

        Returns:
            The population at t = 0, resampled to equal weights, and the mean effective share
            `[N]`. `log_z` `[N, G]` is the log of an unbiased estimate of
            `E[exp(r / alpha)]` under the reference.
        """
        x, alpha = task.start(rng, "start", prompt.shape[1]), self.model.alpha
        value = self.model(task, memory, x, task.steps, prompt)
        log = (value / alpha).unflatten(1, (-1, self.size))
        state, shares = Population(x, value, log, torch.zeros_like(log[..., 0])), []
        for t in range(task.steps, 0, -1):
            moved = move(state.point, t, prompt, f"move/{t}")
            value = self.model(task, memory, moved.point, t - 1, prompt)
            gain = (value - state.value) / alpha + moved.log_ratio
            log = state.log_weight + gain.reshape(state.log_weight.shape)
            threshold = self.threshold if t > 1 else 1.0
            state, share = resample(
                Population(moved.point, value, log, state.log_z),
                threshold,
                self.scheme,
                rng,
                f"parents/{t}",
            )
            shares.append(share.mean(1))
        return state, torch.stack(shares).mean(0)

    def write(
        self, task: DiffusionTask, memory: Tree, prompt: Tensor, move: Move, rng: Rng
    ) -> Written:
        """All particles at t = 0."""
        state, share = self.run(task, memory, prompt, move, rng)
        return Written(state.point, share)


class ParticleAgent(ValuedAgent):
    """One that resamples groups of particles by that estimate."""

    particles: int
    threshold: float
    scheme: str

    @property
    def group(self) -> int:
        """Particles share a prompt."""
        return self.particles

    @property
    def filter(self) -> Particles:
        """The particle filter."""
        return Particles(self.model, self.particles, self.threshold, self.scheme)
