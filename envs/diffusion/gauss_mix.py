"""GaussMixDiffusion: chains on a mixture of Gaussians with closed-form optimum."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.kernels import KINDS, VARIANCES, Kernel
from rlkit.diffusion.mixtures import Mixture, gm1, gm2, lqg, ring
from rlkit.diffusion.problem import DiffusionProblem
from rlkit.diffusion.rewards import Judge, Linear, Modes, Quadratic
from rlkit.diffusion.schedules import (
    Schedule,
    cosine_schedule,
    linear_schedule,
    terminal_schedule,
)
from rlkit.protocol import Box, Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer, check_real

DATA = ("lqg", "gm1", "gm2", "ring")
REWARDS = ("linear", "quadratic", "modes")
SCHEDULES = ("linear", "cosine")
SLOPE = {"lqg": (1.0,), "gm1": (1.0,), "gm2": (0.8, -0.5)}
MATRIX = {"lqg": ((1.5,),), "gm1": ((1.5,),), "gm2": ((1.0, 0.2), (0.2, 0.5))}
CENTRE = {"lqg": (-1.0,), "gm1": (-1.0,), "gm2": (0.5, -0.5)}


class GaussTables(NamedTuple):
    """A drawn mixture."""

    log_weight: Tensor  # [N, 1, K]
    mean: Tensor  # [N, 1, K, d]
    spectrum: Tensor  # [N, 1, K, d]
    basis: Tensor  # [N, K, d, d], or [N, 0] where covariances are multiples of the identity


def mixture_of(tables: GaussTables) -> Mixture:
    """The mixture of what an instance holds."""
    basis = tables.basis if tables.basis.dim() == 4 else None
    return Mixture(tables.log_weight, tables.mean, tables.spectrum, basis)


def tables_of(mixture: Mixture) -> GaussTables:
    """What an instance holds of a mixture."""
    basis = mixture.basis
    if basis is None:
        basis = mixture.mean.new_zeros(mixture.replicas, 0)
    return GaussTables(mixture.log_weight, mixture.mean, mixture.spectrum, basis)


@problem("GaussMixDiffusion-v0")
@dataclass(frozen=True)
class GaussMixDiffusion(DiffusionProblem):
    """Reverse diffusion to a mixture of Gaussians; every optimum is a closed form.

    State x_t with its level t and prompt c, action x_(t-1), reward of x_0 at the end. Presets LQG,
    GM1, GM2 and RING(d) with their linear, quadratic or mode rewards; with "modes" each prompt is a
    target component.

    Raises:
        ValueError: a field outside its range, or a reward that the data have no preset of.
    """

    data: str = "gm1"  # "lqg", "gm1", "gm2" or "ring"
    dimension: int = 2  # of "ring": 2, or >= 6
    reward: str = "linear"  # "linear", "quadratic" or "modes"
    prompts: int = 1  # target components of "modes", 1 .. K
    rho: float = 0.5  # width of "modes", > 0
    steps: int = 10  # denoising steps T, >= 1
    schedule: str = "linear"  # noise levels: "linear" or "cosine"
    terminal_abar: float = 0.0  # level of x_T in (0, 0.95]; 0: what b0 = 0.1, b1 = 20 give
    kernel: str = "ddpm"  # reverse steps: "exact", "ddpm" or "ddim"
    variance: str = "small"  # of "ddpm": "small" or "large"
    eta: float = 1.0  # noise of "ddim", in [0, 1]
    last_variance: float = 1e-4  # of the last step where it would be 0, > 0

    example_agent: ClassVar[str] = "diffusion_best_of_n"

    def __post_init__(self) -> None:
        check_choice("data", self.data, DATA)
        check_choice("reward", self.reward, REWARDS)
        if self.dimension != 2:
            check_integer("dimension", self.dimension, 6)
        check_integer("prompts", self.prompts, 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("kernel", self.kernel, KINDS)
        check_choice("variance", self.variance, VARIANCES)
        check_integer("steps", self.steps, 1)
        check_real("rho", self.rho, 0, open_low=True)
        check_real("terminal_abar", self.terminal_abar, 0, 0.95)
        if self.terminal_abar > 0 and self.schedule != "linear":
            raise ValueError(
                f"terminal_abar = {self.terminal_abar} with schedule = {self.schedule!r}; "
                "accepted: schedule = 'linear'"
            )
        check_real("eta", self.eta, 0, 1)
        check_real("last_variance", self.last_variance, 0, open_low=True)
        if self.reward != "modes" and (self.prompts > 1 or self.data == "ring"):
            raise ValueError(
                f"reward = {self.reward!r} with data = {self.data!r}, prompts = {self.prompts}; "
                "accepted: 'modes' for 'ring' and for several prompts"
            )
        components = {"lqg": 1, "gm1": 2, "gm2": 3, "ring": 5}[self.data]
        check_integer("prompts", self.prompts, 1, components)

    @property
    def horizon(self) -> int:
        """Denoising steps T."""
        return self.steps

    @cached_property
    def levels(self) -> Schedule:
        """Noise levels."""
        if self.terminal_abar > 0:
            return terminal_schedule(self.steps, self.terminal_abar)
        make = cosine_schedule if self.schedule == "cosine" else linear_schedule
        return make(self.steps)

    @cached_property
    def reverse(self) -> Kernel:
        """Reverse steps."""
        return Kernel(self.levels, self.kernel, self.variance, self.eta, self.last_variance)

    def instance(self, rng: Rng) -> Instance:
        """The preset, the same for all replicas."""
        n = rng.n
        made = ring(self.dimension, n) if self.data == "ring" else PRESETS[self.data](n)
        tables = tables_of(made)
        return Instance(replica=GaussTables(*(table.to(rng.device) for table in tables)))

    def task(self, instance: Instance) -> GaussianDiffusion:
        """The sampler with its reward."""
        mixture = mixture_of(instance.replica)
        return GaussianDiffusion(mixture, self.reverse, self.judge(mixture), self.prompts)

    def judge(self, mixture: Mixture) -> Judge:
        """The reward."""
        n, like = mixture.replicas, mixture.mean
        if self.reward == "modes":
            target = torch.arange(self.prompts)[:, None]
            return Modes(mixture.mean[:, 0], target, self.rho)

        def shared(rows: tuple[object, ...]) -> Tensor:
            value = torch.tensor(rows, dtype=like.dtype, device=like.device)
            return value.expand(n, *value.shape)

        if self.reward == "linear":
            return Linear(shared((SLOPE[self.data],)))
        return Quadratic(shared(MATRIX[self.data]), shared((CENTRE[self.data],)))

    def point_space(self, task: GaussianDiffusion) -> Box:  # type: ignore[override]
        """Points of R^d."""
        return Box((task.dimension,))


PRESETS = {"lqg": lqg, "gm1": gm1, "gm2": gm2}
