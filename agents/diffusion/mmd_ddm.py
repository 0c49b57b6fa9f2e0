"""MMD-DDM: the maximum mean discrepancy back-propagated through a few-step sampler."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.training import improve
from rlkit.diffusion.agents import Learner
from rlkit.diffusion.distances import (
    check_bandwidths,
    mmd2_polynomial,
    mmd2_rbf,
)
from rlkit.diffusion.fitting import FitAgent, fitted_task
from rlkit.diffusion.task import Chains
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer

KERNELS = ("rbf", "polynomial")


@agent("mmd_ddm")
@dataclass(frozen=True)
class MMDDDM(FitAgent):
    """Descends the unbiased squared MMD between samples and data, through all steps.

    Aiello, Valsesia and Magli (2023), "Fast inference in denoising diffusion models via MMD
    finetuning", equation 5, on the points themselves. Meant for DDIM with eta = 0; where steps
    have noise, it is drawn again for the gradient and differentiated along.

    Raises:
        ValueError: a field outside its range.
    """

    batch: int = 64  # chains and data a step, >= 2
    rate: float = 0.001  # step size of Adam, > 0
    kernel: str = "rbf"  # "rbf" or "polynomial", (<x, y> / d + 1)^degree
    bandwidths: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)  # lengths of "rbf" that are added up, > 0
    degree: int = 3  # of "polynomial", >= 1; the released class defaults to 1: means only
    policy: str = "residual"  # "residual" (a perceptron), "spread" (deviations too) or "affine"
    hidden: tuple[int, ...] = (64, 64)  # widths of the perceptron, >= 1
    look: int = 1024  # chains that measure it at records, >= 2

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_fit()
        check_choice("kernel", self.kernel, KERNELS)
        check_bandwidths("bandwidths", self.bandwidths)
        check_integer("degree", self.degree, 1)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: masked sequences, several prompts, or steps that are mixtures.
        """
        fitted_task(spec)
        return super().initial(spec, rng)

    def discrepancy(self, x: Tensor, y: Tensor) -> Tensor:
        """Unbiased squared MMD of `[N, B, d]` and `[N, B, d]`, `[N]`."""
        if self.kernel == "rbf":
            return mmd2_rbf(x, y, self.bandwidths)
        return mmd2_polynomial(x, y, self.degree)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step down the gradient, from the same x_T."""
        written: Chains = batch.action
        with torch.no_grad():
            data = fitted_task(spec).data(rng, "data", written.prompt)

        def loss(parameters: Tree) -> Tensor:
            chains = self.model.write(
                spec, parameters, written.prompt, rng, start=written.chain[:, -1]
            )
            return self.discrepancy(chains.point, data)

        policy = improve(state.policy, loss, self.rate)
        return state._replace(policy=policy, iteration=state.iteration + 1)

    def evaluations(self, spec: Spec) -> float:
        """T to write chains; T forward and twice that backward to improve."""
        return 4.0 * fitted_task(spec).steps
