"""Behind `ddpo_lqg`: the problems of its runs, their exact optima, and a sampler trained again."""

from functools import cache
from typing import Any

import numpy as np
import torch

from rlkit import registry
from rlkit.diffusion import riccati
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.policies import Steps
from rlkit.diffusion.proximal import noise_factor
from rlkit.figures import Array, Cell
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

ALPHAS = tuple(float(x) for x in np.geomspace(0.02, 50, 81))
SHOWN = 4  # replicas that are trained again


def part_of(cell: Cell, part: str) -> dict[str, Any]:
    """Fields of the problem or agent of a run, without its name."""
    found = {
        key.removeprefix(f"{part}."): value
        for key, value in cell.config.items()
        if key.startswith(f"{part}.") and key != f"{part}.name"
    }
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def task_of(cell: Cell) -> GaussianDiffusion:
    """The task of a run."""
    fields = tuple(sorted(part_of(cell, "env").items()))
    return drawn(cell.config["env.name"], fields)


@cache
def drawn(name: str, fields: tuple[tuple[str, Any], ...]) -> GaussianDiffusion:
    """The task of a problem, which is the same for all replicas."""
    problem = registry.load("problem", name)(**dict(fields))
    instance = problem.instance(Rng(0, "instance", torch.arange(1)))
    task: GaussianDiffusion = problem.task(instance)
    return task


def objective(cell: Cell, alpha: float) -> Array:
    """Reward minus `alpha` times path divergence, exact, `[R, N]`."""
    value: Array = cell.metric("gold_reward") - alpha * cell.metric("path_kl")
    return value


def worth(plan: riccati.Plan, chain: riccati.AffineChain, alpha: float) -> float:
    """Objective of a policy."""
    found = riccati.earn(chain, plan.slope, plan.offset)
    return float(found.reward - alpha * found.path_kl)


def best(cell: Cell, alpha: float) -> float:
    """The best objective of affine policies that keep the deviations of the reference."""
    chain = riccati.affine_chain(task_of(cell))
    return worth(riccati.solve(chain, alpha), chain, alpha)


def unrestricted(cell: Cell, alpha: float) -> float:
    """The best objective of all policies for x_T ~ N(0, 1)."""
    value = riccati.solve(riccati.affine_chain(task_of(cell)), alpha, free=True).value
    return float(value.mean(torch.zeros(()), torch.ones(())))


def own_target(cell: Cell, alpha: float) -> float:
    """Objective at the point that the agent of a run settles at."""
    task = task_of(cell)
    chain = riccati.affine_chain(task)
    if cell.config["agent.name"] == "dpok":
        t = torch.arange(1, task.steps + 1)[None]
        x = torch.zeros(1, task.steps, 1, dtype=torch.float64)
        price = float(cell.config["agent.kl_weight"]) * noise_factor(task, Steps(x, x, t, 0 * t))[0]
        return worth(riccati.fixed_point(chain, price), chain, alpha)
    if cell.config["agent.kl"] == "loss_only":
        price = torch.full_like(chain.gain, float(cell.config["agent.alpha"]))
        return worth(riccati.fixed_point(chain, price), chain, alpha)
    return worth(riccati.solve(chain, float(cell.config["agent.alpha"])), chain, alpha)


def front(cell: Cell) -> tuple[Array, Array, Array]:
    """Divergence and reward of the tilts of a run's task, and their objective, `[A]` each."""
    return tilts(cell.config["env.name"], tuple(sorted(part_of(cell, "env").items())))


@cache
def tilts(name: str, fields: tuple[tuple[str, Any], ...]) -> tuple[Array, Array, Array]:
    """The same at `ALPHAS`."""
    task = drawn(name, fields)
    kl, gain = (np.array([float(task.front(alpha)[i][0]) for alpha in ALPHAS]) for i in range(2))
    return kl, gain, gain - np.array(ALPHAS) * kl


def above_front(cell: Cell) -> Array:
    """Largest signed distance of a replica's records above the exact front, `[N]`."""
    objectives = front(cell)[2]
    alpha = np.array(ALPHAS)[:, None, None]
    line = cell.metric("gold_reward") - alpha * cell.metric("kl")
    excess: Array = ((line - objectives[:, None, None]) / np.sqrt(1 + alpha**2)).max((0, 1))
    return excess


class Marginals:
    """Laws of x_t for t = 0 .. T, of the reference, of a trained sampler and of the optimum.

    Attributes:
        reference, trained, tilted: means and deviations, `[2, T + 1]` each.
        chains: of the trained sampler, `[T + 1, B]`.
    """

    def __init__(self, cell: Cell, alpha: float, count: int = 10) -> None:
        task = task_of(cell)
        chain = riccati.affine_chain(task)
        zero = torch.zeros_like(chain.gain)
        slope, offset, self.chains = again(cell, count)
        self.reference = moments(riccati.earn(chain, zero, zero))
        self.trained = moments(riccati.earn(chain, slope, offset))
        tilt = task.judge.tilt(task.of_prompt(0), alpha, 0)
        levels = task.kernel.schedule.abar
        laws = [tilt.tilted.diffuse(float(level)) for level in levels]  # type: ignore[union-attr]
        mean = [float(law.mean.flatten()[0]) for law in laws]
        self.tilted = np.array([mean, [float(law.spectrum.flatten()[0]) ** 0.5 for law in laws]])


def moments(found: riccati.Affair) -> Array:
    """Means and deviations `[2, T + 1]`."""
    return torch.stack([found.mean, found.variance.sqrt()]).numpy()


def again(cell: Cell, count: int) -> tuple[torch.Tensor, torch.Tensor, Array]:
    """Slope and offset `[T]` of replica 0 of a run, trained once more, and `count` chains."""
    problem = registry.load("problem", cell.config["env.name"])(**part_of(cell, "env"))
    agent = registry.load("agent", cell.config["agent.name"])(**part_of(cell, "agent"))
    steps, seed = int(cell.config["steps"]), int(cell.config["seed"])
    loop = Rollout(Run(problem, agent, steps, SHOWN, seed, group=SHOWN))
    loop.advance(steps)
    group = loop.groups[0]
    parameters = group.carry.agent.policy.parameters
    prompt = torch.zeros(SHOWN, count, dtype=torch.int64)
    rng = Rng(seed, "shown", group.replica)
    chains = agent.model.write(group.spec, parameters, prompt, rng).chain[0, :, :, 0].numpy()
    slope, offset = riccati.of_policy(parameters)
    return slope[0], offset[0], chains
