"""Samples of a mixture in one call against a loop over the steps of diffusers' DDIMScheduler.

100,000 chains of RING(2), 20 steps, float32, one thread, x_T drawn in the call; rates are chains a
second. The same exact denoiser is written for the loop in two ways: with the offsets of all points
from all means, as the formula reads, and with products that avoid them.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.diffusion import Kernel, linear_schedule, ring
from rlkit.diffusion.sampling import sample
from rlkit.random import Rng

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="diffusion", warmup=False),
    pytest.mark.filterwarnings("default"),
]

CHAINS, STEPS, VARIANCE = 100_000, 20, 0.0625
RATIO = 3.0  # how many times faster ours must be
Denoiser = Callable[[Tensor, Tensor], Tensor]  # noise from points [B, 2] and a level


def offsets(x: Tensor, abar: Tensor, mean: Tensor) -> Tensor:
    """The noise in `x`, from the score of the diffused mixture."""
    spread = abar * VARIANCE + (1 - abar)
    offset = x[:, None] - abar.sqrt() * mean
    share = torch.softmax(-0.5 * (offset * offset).sum(-1) / spread, -1)
    score = -(share[..., None] * offset).sum(1) / spread
    return -(1 - abar).sqrt() * score


def products(x: Tensor, abar: Tensor, mean: Tensor) -> Tensor:
    """The same; sum over components by a product."""
    spread = abar * VARIANCE + (1 - abar)
    centre = abar.sqrt() * mean
    share = torch.softmax(-0.5 * torch.cdist(x, centre).square() / spread, -1)
    return (1 - abar).sqrt() * (x - share @ centre) / spread


def theirs(diffusers: Any, denoiser: Callable[..., Tensor], eta: float) -> Callable[[], Tensor]:
    """The loop, as their pipelines write it."""
    abar = linear_schedule(STEPS).abar
    betas = (1 - abar[1:] / abar[:-1]).float().numpy()
    mean = ring(2).mean[0, 0].float()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=STEPS, trained_betas=betas, clip_sample=False, set_alpha_to_one=True
    )

    @torch.inference_mode()
    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        scheduler.set_timesteps(STEPS)
        x = torch.randn(CHAINS, 2, generator=generator)
        for t in scheduler.timesteps:
            noise = denoiser(x, scheduler.alphas_cumprod[t], mean)
            x = scheduler.step(noise, t, x, eta=eta, generator=generator).prev_sample
        return x

    return draw


def ours(eta: float) -> Callable[[], Tensor]:
    """One call, with the counter-based draws of this library."""
    kernel, data = Kernel(linear_schedule(STEPS), "ddim", eta=eta), ring(2).to(torch.float32)
    ids = torch.arange(1)

    def draw() -> Tensor:
        rng = Rng(0, "chains", ids)
        start = rng.normal("start", CHAINS, 2).contiguous()
        return sample(kernel, data, start, rng)[0]

    return draw


def counted(draw: Callable[[], Tensor]) -> Callable[[], int]:
    """A contestant that reports how many chains it drew."""
    return lambda: draw().shape[0]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_are_drawn_faster_than_by_a_loop_over_scheduler_steps(
    eta: float, race: Callable[..., Any]
) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.set_num_threads(1)
    peers = {
        "diffusers, offsets": theirs(diffusers, offsets, eta),
        "diffusers, products": theirs(diffusers, products, eta),
    }
    contestants = {"rlkit": ours(eta), **peers}
    share, deviation = 0.2, (0.2 * 0.8 / CHAINS) ** 0.5
    for name, draw in contestants.items():  # the same law: a fifth of the chains at each mode
        x = draw()
        assert x.shape == (CHAINS, 2) and x.dtype == torch.float32
        mode = torch.cdist(x, ring(2).mean[0, 0].float()).argmin(1)
        found = torch.bincount(mode, minlength=5) / CHAINS
        assert float((found - share).abs().max()) < 5 * deviation, name
        assert abs(float(x.norm(dim=1).mean()) - 2) < 0.05, name
    result = race({name: counted(draw) for name, draw in contestants.items()}, 9)
    assert result.ratio("diffusers, offsets") >= RATIO
    if eta == 0:  # with noise, most of our time goes into draws that any replica can repeat
        assert result.ratio("diffusers, products") >= RATIO
