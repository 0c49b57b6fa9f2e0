"""What is measured of a sampler: reward, divergence of paths and of samples, distance to the best.

Exact by enumeration on short masked sequences and for affine policies on a single Gaussian, else
from the same chains at every record.
"""

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.masked import sequences
from rlkit.diffusion.masked_oracles import ChainLaw, objective, parallel_law, single_law
from rlkit.diffusion.masked_policies import MaskedSampler
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.motif_task import MotifDiffusion
from rlkit.diffusion.policies import AffinePolicy, Policy
from rlkit.diffusion.riccati import measure_affine, solved
from rlkit.diffusion.task import DiffusionTask, asked, knowledge
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng

LOOK = 256  # chains that estimate what no enumeration gives


def measure(
    spec: Spec, policy: Policy, parameters: Tree, replica: Tensor, alpha: float
) -> dict[str, Tensor]:
    """Expectations of a trained sampler, `[N]` each.

    `gold_reward` and `proxy_reward`; `path_kl` from the reference, which deterministic steps do not
    have; `gap` of the objective
    `gold_reward - alpha path_kl` from the best of these chains for x_T of the same law, where that
    is known, which it is not for DDPM and DDIM on mixtures; for enumerated sequences also `kl` and
    `tv`, of samples to the data and to the tilted law.
    """
    task = knowledge(spec)
    if isinstance(task, MaskedDiffusion) and task.exact and isinstance(policy, MaskedSampler):
        return enumerate_chain(task, policy.table(spec, parameters), alpha)
    if isinstance(task, GaussianDiffusion) and isinstance(policy, AffinePolicy) and solved(task):
        return measure_affine(task, parameters, alpha)
    rng = Rng(0, "look", replica)
    with torch.no_grad():
        chains = policy.write(spec, parameters, asked(task, rng, LOOK), rng)
    found = rewards_of(task, chains.point, chains.prompt)
    if isinstance(task, GaussianDiffusion) and task.kernel.deterministic:
        return found
    with torch.no_grad():
        path = policy.divergence(spec, parameters, chains).sum(1).mean(1).double()
    found["path_kl"] = path
    if isinstance(task, MotifDiffusion):
        found |= task.describe(chains.point)
    if task.exact and not (isinstance(task, GaussianDiffusion) and not task.attained):
        best = task.optimum(alpha).fixed.expand(len(path))
        found["gap"] = best - (found["gold_reward"] - alpha * path)
    return found


def rewards_of(task: DiffusionTask, point: Tensor, prompt: Tensor) -> dict[str, Tensor]:
    """Mean true and observed reward of samples, `[N]` each."""
    with torch.no_grad():
        return {
            "gold_reward": task.gold(point, prompt).double().mean(1),
            "proxy_reward": task.reward(point, prompt).double().mean(1),
        }


def enumerate_chain(task: MaskedDiffusion, table: Tensor, alpha: float) -> dict[str, Tensor]:
    """The same, exactly, of laws `[N, T, 5^L, L, 4]`."""
    assert task.table is not None
    base = task.table.conditionals()
    chain: ChainLaw = (
        parallel_law(table, base, task.parallel)
        if task.chain == "parallel"
        else single_law(table, base)
    )
    reward, tilted = task.rewards(), task.tilt(alpha)
    every = sequences(task.length).to(reward.device)[None]
    observed = task.reward(every, every[..., 0])
    ratio = torch.log(chain.law.clamp(min=1e-300)) - torch.log(task.table.law)
    n = len(chain.law)
    return {
        "gold_reward": (chain.law * reward).sum(1),
        "proxy_reward": (chain.law * observed).sum(1),
        "path_kl": chain.path_kl,
        "gap": task.optimum(alpha).fixed.expand(n) - objective(chain, reward, alpha),
        "kl": (chain.law * ratio).sum(1),
        "tv": 0.5 * (chain.law - tilted.table.law).abs().sum(1),
    }
