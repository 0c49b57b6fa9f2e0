"""DDIM steps on the noise levels of a trained model, with densities.

Steps are counted in their order: k = 0 starts at the noise, k = T - 1 ends at the sample.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.images.model import SPACINGS, Noise
from rlkit.validation import check_choice, check_integer, check_real


@dataclass(frozen=True)
class Sampler:
    """Song et al. (2021), equation 12, on a subset of the training steps.

    Attributes:
        timestep: training steps, decreasing, `[T]` int64.
        now: level of each step, `[T]` float32.
        then: level that each step leads to, `[T]` float32.
        prediction: what the model predicts: "epsilon", "v_prediction" or "sample".
        clip: bound of the predicted sample, infinite for none.
        eta: of the noise, in [0, 1]; 0 is deterministic, 1 has the variance of DDPM.
        floor: least standard deviation of a step with noise, > 0; without it the last step onto
            level 1 would have no density.
    """

    timestep: Tensor
    now: Tensor
    then: Tensor
    prediction: str = "epsilon"
    clip: float = math.inf
    eta: float = 1.0
    floor: float = 0.01

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.timestep.shape[0]

    @property
    def deterministic(self) -> bool:
        """Whether steps have no density."""
        return self.eta == 0

    @property
    def floored(self) -> Tensor:
        """Whether the noise of a step is only the floor, `[T]`."""
        then, now = self.then, self.now
        return self.eta * torch.sqrt((1 - then) / (1 - now) * (1 - now / then)) < self.floor

    def parts(self, x: Tensor, output: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """Predicted sample and noise of a model's `output` at `x`, `[B, ...]` each.

        The sample is clipped, the noise is not made to fit it: as DDIMScheduler does.
        """
        now = self._wide(self.now, k, x)
        signal, noise = torch.sqrt(now), torch.sqrt(1 - now)
        if self.prediction == "epsilon":
            sample, left = (x - noise * output) / signal, output
        elif self.prediction == "sample":
            sample, left = output, (x - signal * output) / noise
        else:
            sample, left = signal * x - noise * output, signal * output + noise * x
        if self.clip < math.inf:
            sample = sample.clamp(-self.clip, self.clip)
        return sample, left

    def gaussian(self, x: Tensor, output: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean `[B, ...]` and standard deviation `[B or 1, 1, ...]` of the next point.

        Args:
            x: present points `[B, ...]`.
            output: of the model there, `[B, ...]`.
            k: which step, an integer or `[B]` int64.
        """
        sample, noise = self.parts(x, output, k)
        now, then = self._wide(self.now, k, x), self._wide(self.then, k, x)
        deviation = self.eta * torch.sqrt((1 - then) / (1 - now) * (1 - now / then))
        kept = torch.sqrt((1 - then - deviation * deviation).clamp(min=0))
        mean = torch.sqrt(then) * sample + kept * noise
        return mean, deviation if self.deterministic else deviation.clamp(min=self.floor)

    def log_density(
        self, value: Tensor, mean: Tensor, deviation: Tensor, reduction: str = "mean"
    ) -> Tensor:
        """Log density of `value` `[B, ...]`, mean or sum over its coordinates, `[B]`.

        Raises:
            ValueError: a deterministic sampler.
        """
        if self.deterministic:
            raise ValueError("eta = 0 has no density; accepted for log-probabilities: (0, 1]")
        return gaussian_log_density(value, mean, deviation, reduction)

    def _wide(self, table: Tensor, k: int | Tensor, x: Tensor) -> Tensor:
        index = torch.as_tensor(k, device=table.device)
        return table[index].reshape(-1, *[1] * (x.dim() - 1))


def gaussian_log_density(
    value: Tensor, mean: Tensor, deviation: Tensor, reduction: str = "mean"
) -> Tensor:
    """Log density of independent Gaussians `[B, ...]`, mean or sum over coordinates, `[B]`."""
    z = (value - mean) / deviation
    each = -0.5 * z * z - torch.log(deviation) - 0.5 * math.log(2 * math.pi)
    flat = each.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)


def make_sampler(
    noise: Noise, steps: int, eta: float, spacing: str = "auto", floor: float = 0.01
) -> Sampler:
    """DDIM on `steps` of the training steps.

    Args:
        noise: of the model.
        steps: T, at most the number of training steps.
        eta: in [0, 1].
        spacing: "leading" (whose first step lies below the noisiest level), "trailing",
            "linspace", or "auto" for what the scheduler of the folder says.
        floor: of the standard deviation, > 0.

    Raises:
        ValueError: an argument outside its range, or a first level of 0.
    """
    total = noise.abar.shape[0]
    check_integer("sampling steps", steps, 1, total)
    check_real("eta", eta, 0, 1)
    check_real("floor", floor, 0, open_low=True)
    check_choice("spacing", spacing, ("auto", *SPACINGS))
    grid = timesteps(noise.spacing if spacing == "auto" else spacing, total, steps, noise.offset)
    index = torch.tensor(grid, device=noise.abar.device)
    now = noise.abar[index]
    if not bool((now > 0).all()):
        raise ValueError("the first level is 0 (rescale_betas_zero_snr); accepted: above 0")
    last = torch.full_like(now[:1], noise.final)
    return Sampler(index, now, torch.cat([now[1:], last]), noise.prediction, noise.clip, eta, floor)


def timesteps(spacing: str, total: int, steps: int, offset: int) -> list[int]:
    """Training steps in decreasing order; Lin et al. (2024), Table 2.

    Raises:
        ValueError: an offset that leads beyond the training steps.
    """
    exact: NDArray[Any]
    if spacing == "linspace":
        exact = np.linspace(0, total - 1, steps)
    elif spacing == "leading":
        exact = np.arange(steps) * float(total // steps) + offset
    else:
        exact = np.round(total - np.arange(steps)[::-1] * (total / steps)) - 1
    grid = [int(t) for t in exact.round()]
    if grid[-1] >= total:
        raise ValueError(f"steps_offset = {offset} leads beyond the {total} training steps")
    return grid[::-1]
