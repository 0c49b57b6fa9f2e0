"""TDS: particles that follow the gradient of the value, weights that correct for it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.diffusion.guidance import Guided, Proposal, check_guided, value_slope
from rlkit.diffusion.inference import Written
from rlkit.diffusion.particles import ParticleAgent
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_real


@agent("tds")
@dataclass(frozen=True)
class TDS(ParticleAgent):
    """Twisted diffusion sampler: sequential Monte Carlo with a guided proposal.

    Wu et al. (2023), Algorithm 1: proposals move by their variance times the gradient of the
    twisting function, the value of the posterior mean; weights gain
    `exp((V_(t-1) - V_t) / alpha) p_pre / q` a step.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.1  # temperature of the target law, > 0; infinity is the reference
    batch: int = 60  # outputs an iteration, a multiple of `particles`
    particles: int = 10  # K of a group, >= 1
    threshold: float = 0.5  # effective share that calls for resampling, in [0, 1]; 1: always
    scheme: str = "systematic"  # "systematic" or "multinomial"
    scale: float = 1.0  # of the gradient in the proposal, >= 0; 0 is plain SMC
    value: str = "pm"  # "exact", "pm" or "mc"
    target: str = "mean"  # of "mc": "mean", "soft" or "bellman"
    pretrain: int = 512  # chains that "mc" is fitted to; 0: infinitely many, by enumeration
    hidden: tuple[int, ...] = (64, 64)  # layers of the fitted network, >= 1
    rate: float = 0.01  # its step size, > 0
    updates: int = 200  # its steps of Adam, >= 0

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.filter  # noqa: B018
        self.check(self.particles)
        check_real("scale", self.scale, 0)

    def suits(self, task: DiffusionTask) -> None:
        """Refuse values without a gradient and steps without a density.

        Raises:
            ValueError: saying which.
        """
        check_guided(task, self.model)
        if Guided(task).deterministic:
            raise ValueError("eta = 0 has no density; accepted for weights: (0, 1]")

    def generate(self, task: DiffusionTask, memory: Tree, prompt: Tensor, rng: Rng) -> Written:
        """All particles at the end."""

        def move(x: Tensor, t: int, asked: Tensor, name: str) -> Proposal:
            slope = value_slope(task, self.model, memory, x, t, asked) / self.alpha
            return Guided(task).step(x, t, asked, self.scale * slope, rng, name)

        return self.filter.write(task, memory, prompt, move, rng)

    def calls(self, task: DiffusionTask) -> tuple[float, float]:
        """A forward and a backward call a step, the latter for posterior means only."""
        posterior = self.value == "pm"
        return float(task.steps * (3 if posterior else 1)), float(
            task.steps + 1 if posterior else 1
        )
