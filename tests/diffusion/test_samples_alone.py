"""The fast sampler draws what the kept chains draw."""

import pytest
import torch

from rlkit.diffusion import (
    Kernel,
    gaussian_mixture,
    gm1,
    gm2,
    linear_schedule,
    lqg,
    ring,
    terminal_schedule,
)
from rlkit.diffusion.sampling import coefficients, is_round, sample
from rlkit.random import Rng

STEPS = 12
KERNELS = {
    "ddim": Kernel(linear_schedule(STEPS), "ddim", eta=0.0),
    "ddim-0.4": Kernel(linear_schedule(STEPS), "ddim", eta=0.4),
    "ddpm": Kernel(terminal_schedule(STEPS, 0.1), "ddpm"),
    "ddpm-large": Kernel(linear_schedule(STEPS), "ddpm", variance="large"),
    "exact": Kernel(linear_schedule(STEPS), "exact"),
}


def uneven(n):
    """Two replicas of three round components of different widths in the plane."""
    weight = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)[:n]
    mean = torch.tensor([[[2.0, 0], [-1, 1.5], [-1, -2]], [[0, 1], [1, 0], [3, 3]]])[:n]
    variance = torch.tensor([[0.1, 0.4, 0.2], [0.3, 0.3, 0.05]], dtype=torch.float64)[:n]
    return gaussian_mixture(weight, mean, variance)


MIXTURES = {"ring": ring(2, 2), "ring-16": ring(16, 2), "uneven": uneven(2), "lqg": lqg(2),
            "gm1": gm1(2), "gm2": gm2(2)}  # fmt: skip


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", MIXTURES)
def test_samples_are_the_ends_of_the_kept_chains(kind, name):
    kernel, data = KERNELS[kind], MIXTURES[name]
    rng = Rng(5, "test", torch.arange(2))
    start = rng.normal("start", 40, data.dimension, dtype=torch.float64).contiguous()
    got = sample(kernel, data, start, rng)
    expected = kernel.chain(data, start, rng).points[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["ring", "uneven", "gm1"])
def test_each_step_in_single_precision_is_that_in_double(name):
    kernel, data = KERNELS["ddim"], MIXTURES[name]
    assert is_round(data)
    ids = torch.arange(2)
    x = Rng(3, "test", ids).normal("x", 500, data.dimension, dtype=torch.float64).contiguous()
    for t in range(1, STEPS + 1):
        here = torch.sqrt(kernel.schedule.at(t))
        point = here * 2 * x + torch.sqrt(1 - here * here) * x.flip(1)
        mean, _ = kernel.gaussian(point, data.denoise(point, kernel.schedule.at(t)), t)
        one = Kernel(kernel.schedule, "ddim", eta=0.0)
        got = one_step(one, data.to(torch.float32), point.float(), t)
        torch.testing.assert_close(got.double(), mean, atol=1e-5, rtol=1e-5)


def one_step(kernel, data, x, t):
    """A step of the fast sampler."""
    from rlkit.diffusion.sampling import _advance

    same = bool((data.spectrum == data.spectrum[:, :, :1]).all())
    step = coefficients(kernel, data, t, same)
    return _advance(step, x.transpose(1, 2).contiguous(), same).transpose(1, 2)


def test_chains_in_single_precision_end_where_those_in_double_do():
    kernel, data = KERNELS["ddim"], ring(2)
    start = Rng(1, "test", torch.arange(1)).normal("start", 20_000, 2).contiguous()
    rng = Rng(1, "test", torch.arange(1))
    got = sample(kernel, data.to(torch.float32), start, rng).double()
    expected = kernel.chain(data, start.double(), rng).points[:, 0]
    away = (got - expected).abs().amax(-1)
    # Rounding grows along chains that start between two modes.
    assert float(away.mean()) < 1e-6 and float(away.max()) < 1e-3


def test_a_replica_is_sampled_alone_as_among_others():
    kernel, data = KERNELS["ddpm"], ring(2, 3)
    start = Rng(2, "test", torch.arange(3)).normal("start", 64, 2).contiguous()
    every = sample(kernel, data.to(torch.float32), start, Rng(2, "test", torch.arange(3)))
    alone = sample(
        kernel, ring(2).to(torch.float32), start[1:2], Rng(2, "test", torch.arange(1, 2))
    )
    assert torch.equal(every[1], alone[0])
