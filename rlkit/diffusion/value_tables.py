"""Values of enumerated masked states: means over visits of chains, or by enumeration."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, clean_codes, place, sum_over_masks
from rlkit.diffusion.masked_oracles import PAIR_LENGTH, pair_probability, pairs_on
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.task import DiffusionTask, asked
from rlkit.random import Rng

LOT = 8192  # chains drawn at once


class Trajectories(NamedTuple):
    """Chains of the reference and their rewards."""

    chain: Tensor  # [N, T + 1, P, ...] x_0, ..., x_T
    prompt: Tensor  # [N, P]
    reward: Tensor  # [N, P] float64


def reference_chains(task: DiffusionTask, count: int, rng: Rng) -> Trajectories:
    """`count` chains of the reference, scored."""
    lots = []
    for first in range(0, count, LOT):
        here = rng.child(f"lot {first}")
        prompt = asked(task, here, min(LOT, count - first))
        x = task.start(here, "start", prompt.shape[1])
        points = [x]
        for t in range(task.steps, 0, -1):
            x = task.step(x, t, prompt, here, f"chain/{t}")
            points.append(x)
        reward = task.reward(x, prompt).double()
        lots.append(Trajectories(torch.stack(points[::-1], 1), prompt, reward))
    return Trajectories(
        torch.cat([lot.chain for lot in lots], 2),
        torch.cat([lot.prompt for lot in lots], 1),
        torch.cat([lot.reward for lot in lots], 1),
    )


def enumerated(task: DiffusionTask) -> bool:
    """Whether a fit is a table of all states and times."""
    return isinstance(task, MaskedDiffusion) and task.length <= PAIR_LENGTH


def codes(x: Tensor) -> Tensor:
    """Codes of states `[..., L]`, `[...]` int64."""
    return (x * place(x.shape[-1]).to(x.device)).sum(-1)


def table_fit(task: MaskedDiffusion, chains: Trajectories, target: str, alpha: float) -> Tensor:
    """Values of all states at times 0 .. T, `[N, T + 1, 5^L]`: means over the visits of chains.

    A state not visited at a time has the mean over its visits at all times, one never visited the
    mean over all chains.
    """
    code, size = codes(chains.chain), (LETTERS + 1) ** task.length
    zero = code.new_zeros((len(code), size), dtype=torch.float64)
    soft = target != "mean"
    rows, rest = [zero], mean_of(chains.reward, soft, alpha)[:, None].expand_as(zero)
    top = chains.reward.amax(1, keepdim=True)
    gain = torch.exp((chains.reward - top) / alpha) if soft else chains.reward
    every = code[:, 1:].flatten(1)
    visits = zero.scatter_add(1, every, torch.ones_like(every, dtype=torch.float64))
    total = zero.scatter_add(1, every, gain.repeat(1, task.steps))
    pooled = total / visits.clamp(min=1)
    if soft:
        pooled = top + alpha * torch.log(pooled.clamp(min=1e-300))
    rest = torch.where(visits > 0, pooled, rest)
    aim = chains.reward
    for t in range(1, task.steps + 1):
        spot = code[:, t]
        visits = zero.scatter_add(1, spot, torch.ones_like(aim))
        gain = torch.exp((aim - top) / alpha) if soft else aim
        found = zero.scatter_add(1, spot, gain) / visits.clamp(min=1)
        if soft:
            found = top + alpha * torch.log(found.clamp(min=1e-300))
        row = torch.where(visits > 0, found, rest)
        rows.append(row)
        if target == "bellman":
            aim = row.gather(1, spot)
    return torch.stack(rows, 1)


def mean_values(task: MaskedDiffusion) -> Tensor:
    """`E[r | x_t]` of all states at times 0 .. T under the reference, `[N or 1, T + 1, 5^L]`.

    States that the single chain has at other times only are included.

    Raises:
        ValueError: pairs of states are not enumerated.
    """
    assert task.table is not None
    reward, least = task.rewards(), task.rewards().min() - 1  # above it logs exist
    if task.chain == "single":
        clean = task.table.log_marginal[:, clean_codes(task.length)]
        total = sum_over_masks(clean + torch.log(reward - least))
        mean = torch.exp(total - task.table.log_marginal) + least
        return mean[:, None].expand(-1, task.steps + 1, -1)
    laws = task.table.conditionals()
    zero, edge = torch.zeros_like(task.table.log_marginal), pairs_on(laws)
    clean = clean_codes(task.length).to(zero.device)
    values = [zero.index_copy(1, clean, reward.expand(len(zero), -1))]
    for t in range(1, task.steps + 1):
        flow = pair_probability(laws, t) * values[-1][:, edge.target]
        values.append(zero.index_add(1, edge.source, flow))
    return torch.stack(values, 1)


def mean_of(reward: Tensor, soft: bool, alpha: float) -> Tensor:
    """Mean over chains `[N, P]`, or `alpha log mean exp(r / alpha)`, `[N]`."""
    if not soft:
        return reward.mean(1)
    count = torch.full_like(reward[:, 0], reward.shape[1])
    return alpha * (torch.logsumexp(reward / alpha, 1) - torch.log(count))
