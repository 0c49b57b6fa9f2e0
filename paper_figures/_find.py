"""Computations for the figures of FIND: divergences of samples, and samples along the way."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from torch import Tensor

from rlkit import registry
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.noise_policies import NoiseLaw, draw_noise, every_prompt, log_noise
from rlkit.diffusion.policies import gaussian_task
from rlkit.figures import Array, Cell
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

NEIGHBOURS = 5


def reached(cell: Cell, level: float, metric: str = "queries") -> Array:
    """`metric` `[N]` where the reward first passes `level`, between records; else its last value.

    The value before the first record is 0.
    """
    reward, spent = cell.metric("gold_reward"), cell.metric(metric)
    found = []
    for column, used in zip(reward.T, spent.T, strict=True):
        passed = np.flatnonzero(column >= level)
        if not len(passed):
            found.append(float(used[-1]))
        elif passed[0] == 0:
            found.append(float(used[0]))
        else:
            ends = slice(passed[0] - 1, passed[0] + 1)
            found.append(float(np.interp(level, column[ends], used[ends])))
    return np.array(found)


def ratio_of_medians(above: Array, below: Array, resamples: int = 4000) -> tuple[float, ...]:
    """Median of `above` `[N]` over that of `below` `[M]`, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [
        np.median(rng.choice(above, len(above))) / np.median(rng.choice(below, len(below)))
        for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.median(above) / np.median(below)), float(low), float(high)


def front(task: GaussianDiffusion, count: int = 100_000) -> tuple[Array, Array]:
    """KL(p* || p_0) and expected reward of p*, over temperatures, from `count` draws of p_0."""
    prompt = torch.zeros(1, 20_000, dtype=torch.int64)
    rewards = []
    for piece in range(count // 20_000):
        point = task.data(Rng(piece, "front", torch.arange(1)), "data", prompt)
        rewards.append(task.reward(point, prompt)[0].numpy())
    reward = np.concatenate(rewards)
    divergence, gain = [], []
    for alpha in np.geomspace(0.05, 20, 60):
        weight = np.exp((reward - reward.max()) / alpha)
        weight /= weight.sum()
        gain.append((weight * reward).sum())
        inside = weight > 0
        divergence.append((weight[inside] * np.log(weight[inside] * len(reward))).sum())
    return np.array(divergence), np.array(gain)


def neighbour_divergence(task: GaussianDiffusion, point: Array) -> float:
    """KL(q || p_0) from samples `[M, d]` of q: entropy by fifth neighbours, density of p_0 exact.

    Kozachenko and Leonenko (1987).
    """
    count, d = point.shape
    radius = cKDTree(point).query(point, NEIGHBOURS + 1)[0][:, -1]
    ball = 0.5 * d * np.log(np.pi) - gammaln(0.5 * d + 1)
    entropy = digamma(count) - digamma(NEIGHBOURS) + ball + d * np.log(radius).mean()
    log_p = task.of_prompt(0).log_density(torch.tensor(point)[None])[0]
    return float(-entropy - log_p.mean())


def exact_divergence(task: GaussianDiffusion, law: NoiseLaw, rng: Rng, count: int) -> Array:
    """KL(p_x0 || p_0) `[N]` by change of variables, averaged over `count` draws of each law.

    log p_x0(x_0) = log p(x_T) - log |det d x_0 / d x_T|.
    """
    start = draw_noise(law, rng, "divergence", count)
    log_q = log_noise(law, start[:, None])[:, 0, 0]
    start = start[:, 0]
    prompt = every_prompt(task, rng.replica, count)
    with torch.enable_grad():
        x = start.detach().requires_grad_()
        end = x
        for t in range(task.steps, 0, -1):
            end = task.step(end, t, prompt, rng, f"map/{t}")
        rows = [
            torch.autograd.grad(end[..., i].sum(), x, retain_graph=True)[0]
            for i in range(task.dimension)
        ]
    volume = torch.linalg.slogdet(torch.stack(rows, -2))[1]
    log_p = task.of_prompt(0).log_density(end.detach())
    found: Array = (log_q - volume - log_p).mean(1).numpy()
    return found


class Trail:
    """A run that stops at chosen iterations to be looked at."""

    def __init__(
        self, env: dict[str, object], agent: str, fields: dict[str, object], steps: int, n: int
    ) -> None:
        problem = registry.load("problem", "NoisePrompt-v0")(**env)
        self.agent = registry.load("agent", agent)(**fields)
        self.run = Rollout(Run(problem, self.agent, steps, replicas=n, group=n, seed=11))

    @property
    def spec(self) -> Spec:
        """The specification."""
        return self.run.groups[0].spec

    @property
    def task(self) -> GaussianDiffusion:
        """The task."""
        return gaussian_task(self.spec)

    def at(self, step: int) -> Tree:
        """State of the agent after `step` iterations."""
        self.run.advance(step)
        return self.run.groups[0].carry.agent

    def reward(self) -> float:
        """Median over replicas of the expected reward now."""
        return float(self.run.record()["gold_reward"].median())

    def samples(self, state: Tree, count: int) -> Array:
        """Samples `[N, count, d]` of a trained sampler, for the first prompt."""
        rng = Rng(5, "samples", torch.arange(self.run.run.replicas))
        prompt = torch.zeros(rng.n, count, dtype=torch.int64)
        with torch.no_grad():
            chains = self.agent.model.write(self.spec, state.policy.parameters, prompt, rng)
        point: Array = chains.point.numpy()
        return point


def passage(task: GaussianDiffusion, start: Tensor, prompt: Tensor) -> list[NDArray[np.float64]]:
    """Points x_T, ..., x_0 `[B, d]` of the first replica, from `start` `[N, B, d]`."""
    x, rng = start, Rng(0, "passage", torch.arange(len(start)))
    found = [x[0].numpy()]
    with torch.no_grad():
        for t in range(task.steps, 0, -1):
            x = task.step(x, t, prompt, rng, f"step/{t}")
            found.append(x[0].numpy())
    return found
