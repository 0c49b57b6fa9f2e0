"""DPM-Solver++: a second-order solver of the probability flow, for frozen samplers."""

import torch
from torch import Tensor

from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.schedules import Schedule


def dpm_solver(data: Mixture, schedule: Schedule, start: Tensor) -> Tensor:
    """Samples x_0 from x_T = `start` `[N, B, d]` with one denoising per level.

    DPM-Solver++(2M) of Lu et al. (2022), Algorithm 2, in the half log signal-to-noise ratio; the
    step to level 1, where that is infinite, returns the denoised point.
    """
    x, level = start, schedule.abar.to(start)
    alpha, sigma = torch.sqrt(level), torch.sqrt(1 - level)
    half = torch.log(alpha / sigma)  # rises towards the data
    before: Tensor | None = None
    for t in range(schedule.steps, 0, -1):
        denoised = data.denoise(x, level[t])
        if t == 1:
            return denoised
        guess = denoised
        if before is not None:
            ratio = (half[t] - half[t + 1]) / (half[t - 1] - half[t])
            guess = denoised + (denoised - before) / (2 * ratio)
        step = half[t - 1] - half[t]
        x = sigma[t - 1] / sigma[t] * x - alpha[t - 1] * torch.expm1(-step) * guess
        before = denoised
    return x
