"""DDPO of many replicas together against one at a time, and against a plain loop over torch.

RING(2) with a mode as reward, 20 steps of DDIM with eta = 1, batches of 32 chains, two passes in
four parts each, a perceptron of two layers of 64; rates are chains trained on a second. The loop is
written as kvablack/ddpo-pytorch is (a module, `torch.optim.Adam`, statistics in a deque, passes
over permuted steps), with the same exact denoiser and one seed, which is what it can train.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkit.agents.diffusion.ddpo import DDPO
from rlkit.diffusion import linear_schedule, ring
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="diffusion", warmup=False),
    pytest.mark.filterwarnings("ignore:all rewards of a batch"),
]

REPLICAS, BATCH, STEPS, PASSES, PARTS, RATE = 64, 32, 20, 2, 4, 3e-4
ITERATIONS = 4
ALONE, LOOP = 6.0, 3.0  # how many times faster ours must be


def ours(replicas: int) -> Callable[[], int]:
    """Our agent; a call trains `replicas` seeds for some iterations."""
    problem = GaussMixDiffusion(data="ring", reward="modes", kernel="ddim", steps=STEPS)
    agent = DDPO(alpha=0.0, kl="none", batch=BATCH, rate=RATE, epochs=PASSES, pieces=PARTS)
    loop = Rollout(Run(problem, agent, 10_000, replicas, group=replicas))

    def train() -> int:
        loop.advance(loop.step + ITERATIONS)
        return replicas * ITERATIONS * BATCH

    return train


class Sampler(nn.Module):
    """The exact denoiser plus a perceptron, with the DDIM step and its log-probability."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(64, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        hidden = (nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.network = nn.Sequential(*hidden, last)
        self.abar = linear_schedule(STEPS).abar.float()
        self.centre = ring(2).mean[0, 0].float()

    def law(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of x_(t-1) for points `[B, 2]` at levels `[B]`."""
        now, then = self.abar[t][:, None], self.abar[t - 1][:, None]
        spread = now * 0.0625 + (1 - now)
        offset = x[:, None] - now.sqrt()[..., None] * self.centre
        share = torch.softmax(-0.5 * (offset * offset).sum(-1) / spread, -1)
        score = -(share[..., None] * offset).sum(1) / spread
        guess = (x + (1 - now) * score) / now.sqrt()
        told = torch.cat([x, guess, t[:, None] / STEPS], 1)
        denoised = guess + self.network(told)
        noise = (x - now.sqrt() * denoised) / (1 - now).sqrt()
        variance = ((1 - then) / (1 - now) * (1 - now / then)).clamp(min=1e-4)
        kept = (1 - then - variance).clamp(min=0).sqrt()
        return then.sqrt() * denoised + kept * noise, variance.sqrt()

    def log_probability(self, x: Tensor, t: Tensor, following: Tensor) -> Tensor:
        """Of x_(t-1), up to a constant, `[B]`."""
        mean, deviation = self.law(x, t)
        each = -((following - mean) ** 2) / (2 * deviation**2) - deviation.log()
        return each.sum(-1)


def loop() -> Callable[[], int]:
    """A call trains one seed for some iterations."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler = Sampler()
    optimiser = torch.optim.Adam(sampler.parameters(), RATE)
    seen: deque[float] = deque(maxlen=32)

    def train() -> int:
        for _ in range(ITERATIONS):
            iterate(sampler, optimiser, seen, generator)
        return ITERATIONS * BATCH

    return train


def iterate(
    sampler: Sampler, optimiser: torch.optim.Adam, seen: deque[float], generator: torch.Generator
) -> None:
    """A batch of chains and the passes over it."""
    chain, logs = roll_out(sampler, generator)
    share = torch.softmax(-2 * ((chain[-1][:, None] - sampler.centre) ** 2).sum(-1), -1)
    reward = share[:, 0]
    seen.extend(reward.tolist())
    known = torch.tensor(list(seen))
    advantage = ((reward - known.mean()) / (known.std(correction=0) + 1e-6)).clamp(-5, 5)
    x, following = torch.cat(chain[:-1]), torch.cat(chain[1:])
    t = torch.arange(STEPS, 0, -1).repeat_interleave(BATCH)
    old, gain = torch.cat(logs), advantage.repeat(STEPS)
    for _ in range(PASSES):
        for index in torch.randperm(len(t), generator=generator).chunk(PARTS):
            log = sampler.log_probability(x[index], t[index], following[index])
            ratio = torch.exp(log - old[index])
            bounded = ratio.clamp(0.8, 1.2)
            loss = -torch.minimum(ratio * gain[index], bounded * gain[index]).mean()
            optimiser.zero_grad()
            with torch.enable_grad():
                loss.backward()
            nn.utils.clip_grad_norm_(sampler.parameters(), 1.0)
            optimiser.step()


@torch.no_grad()
def roll_out(sampler: Sampler, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Chains x_T, ..., x_0 and the log-probabilities of their steps."""
    chain, logs = [torch.randn(BATCH, 2, generator=generator)], []
    for t in range(STEPS, 0, -1):
        now = torch.full((BATCH,), t)
        mean, deviation = sampler.law(chain[-1], now)
        chain.append(mean + deviation * torch.randn(BATCH, 2, generator=generator))
        logs.append(sampler.log_probability(chain[-2], now, chain[-1]))
    return chain, logs


def test_many_replicas_are_trained_faster_together(race: Callable[..., Any]) -> None:
    contestants = {
        "together": ours(REPLICAS),
        "one at a time": ours(1),
        "plain torch loop": loop(),
    }
    for contestant in contestants.values():
        contestant()
    result = race(contestants, 5)
    assert result.ratio("one at a time") >= ALONE
    assert result.ratio("plain torch loop") >= LOOP
