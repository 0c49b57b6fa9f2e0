"""FewStepGauss: samplers of few steps whose only signal is the distance of their law from data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from torch import Tensor

from rlkit.diffusion.curves import moons, swiss_roll
from rlkit.diffusion.fitting import Fit, reference_points
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.kernels import VARIANCES, Kernel
from rlkit.diffusion.mixtures import Mixture, gm1, gm2, on_device
from rlkit.diffusion.problem import DiffusionProblem
from rlkit.diffusion.schedules import (
    Schedule,
    cosine_schedule,
    linear_schedule,
    sigmoid_schedule,
)
from rlkit.protocol import Box, Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer, check_real

DATA: dict[str, Callable[[int], Mixture]] = {
    "gm1": gm1,
    "gm2": gm2,
    "swiss_roll": swiss_roll,
    "moons": moons,
}
KERNELS = ("ddpm", "ddim")
SCHEDULES = ("linear", "cosine", "sigmoid")


class FewStepTables(NamedTuple):
    """Data and what stands for them in the reward."""

    log_weight: Tensor  # [N, 1, K]
    mean: Tensor  # [N, 1, K, d]
    spectrum: Tensor  # [N, 1, K, d]
    basis: Tensor  # [N, K, d, d], or [N, 0] where covariances are multiples of the identity
    reference: Tensor  # [N, M, d]


@problem("FewStepGauss-v0")
@dataclass(frozen=True)
class FewStepGauss(DiffusionProblem):
    """Few reverse steps to GM1, GM2, a swiss roll or two moons; the reward is a fit of laws.

    State x_t with its level t, action x_(t-1). The reward of a batch, the same for all its points,
    is minus its Wasserstein distance from the data: W1 from exact quantiles on the line, sliced W2
    from a sample in the plane. Data are mixtures (the curves of 96 narrow components), so the
    pre-trained denoiser is exact and all error is that of the few steps.

    Raises:
        ValueError: a field outside its range.
    """

    data: str = "gm1"  # "gm1", "gm2", "swiss_roll" or "moons"
    steps: int = 5  # denoising steps T, >= 1
    kernel: str = "ddpm"  # reverse steps: "ddpm" or "ddim"
    variance: str = "small"  # of "ddpm": "small" or "large"
    eta: float = 0.0  # noise of "ddim", in [0, 1]
    last_variance: float = 1e-4  # of the last step where it would be 0, > 0
    schedule: str = "linear"  # noise levels: "linear", "cosine" or "sigmoid"
    end_beta: float = 0.01  # of "sigmoid": its largest rate, in (1e-5, 1)
    reference: int = 512  # points that stand for the data in the reward, >= 1

    example_agent: ClassVar[str] = "diffusion_best_of_n"

    def __post_init__(self) -> None:
        check_choice("data", self.data, DATA)
        check_integer("steps", self.steps, 1)
        check_choice("kernel", self.kernel, KERNELS)
        check_choice("variance", self.variance, VARIANCES)
        check_real("eta", self.eta, 0, 1)
        check_real("last_variance", self.last_variance, 0, open_low=True)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_real("end_beta", self.end_beta, 1e-5, 1, open_low=True, open_high=True)
        check_integer("reference", self.reference, 1)

    @property
    def horizon(self) -> int:
        """Denoising steps T."""
        return self.steps

    @cached_property
    def levels(self) -> Schedule:
        """Noise levels."""
        if self.schedule == "sigmoid":
            return sigmoid_schedule(self.steps, self.end_beta)
        if self.schedule == "cosine":
            return cosine_schedule(self.steps)
        return linear_schedule(self.steps)

    @cached_property
    def reverse(self) -> Kernel:
        """Reverse steps."""
        return Kernel(self.levels, self.kernel, self.variance, self.eta, self.last_variance)

    def instance(self, rng: Rng) -> Instance:
        """The preset, the same for all replicas, and a reference of its own for each."""
        made = on_device(DATA[self.data](rng.n), rng.device)
        basis = made.basis if made.basis is not None else made.mean.new_zeros(rng.n, 0)
        reference = reference_points(made, self.reference, rng)
        return Instance(
            replica=FewStepTables(made.log_weight, made.mean, made.spectrum, basis, reference)
        )

    def task(self, instance: Instance) -> GaussianDiffusion:
        """The sampler with its reward."""
        tables: FewStepTables = instance.replica
        basis = tables.basis if tables.basis.dim() == 4 else None
        mixture = Mixture(tables.log_weight, tables.mean, tables.spectrum, basis)
        return GaussianDiffusion(mixture, self.reverse, Fit(tables.reference))

    def point_space(self, task: GaussianDiffusion) -> Box:  # type: ignore[override]
        """Points of R^d."""
        return Box((task.dimension,))
