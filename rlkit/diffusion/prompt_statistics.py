"""Running mean and deviation of the rewards of each prompt.

Black et al. (2024), "Training diffusion models with reinforcement learning", section 4.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.random import Rng

LEAST = 16  # rewards of a prompt below which those of the batch serve


class PromptStatistics(NamedTuple):
    """The last H rewards of each prompt, oldest overwritten first."""

    reward: Tensor  # [N, C, H]
    total: Tensor  # [N, C] int64 rewards seen so far


def start_statistics(rng: Rng, prompts: int, size: int) -> PromptStatistics:
    """No rewards yet; room for `size` of each prompt."""
    reward = torch.zeros(rng.n, prompts, size, dtype=torch.float64, device=rng.device)
    count = torch.zeros(rng.n, prompts, dtype=torch.int64, device=rng.device)
    return PromptStatistics(reward, count)


def record(seen: PromptStatistics, reward: Tensor, prompt: Tensor) -> PromptStatistics:
    """Statistics with rewards `[N, B]` of `prompt` `[N, B]` put in, in their order."""
    n, prompts, size = seen.reward.shape
    here = torch.nn.functional.one_hot(prompt, prompts)
    rank = ((here.cumsum(1) - 1) * here).sum(-1)
    total = here.sum(1)
    slot = (seen.total.gather(1, prompt) + rank) % size
    # Those that the same batch would overwrite go to a place that is cut off.
    kept = rank >= total.gather(1, prompt) - size
    index = torch.where(kept, prompt * size + slot, prompts * size)
    wide = torch.cat([seen.reward.flatten(1), seen.reward.new_zeros(n, 1)], 1)
    after = wide.scatter(1, index, reward.to(wide.dtype))[:, :-1]
    return PromptStatistics(after.reshape(seen.reward.shape), seen.total + total)


def moments_of(
    seen: PromptStatistics, reward: Tensor, prompt: Tensor, least: int = LEAST
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that belong to each reward `[N, B]`, `[N, B]` both.

    Those of its prompt's buffer, or of the whole batch `reward` while that holds fewer than
    `least`. The deviation is 1 where all rewards are the same, so that advantages are 0 there.
    """
    reward = reward.to(seen.reward.dtype)
    size = seen.reward.shape[2]
    filled = torch.arange(size, device=prompt.device) < seen.total[..., None]
    mean, deviation = _moments(seen.reward, filled.to(reward.dtype))
    whole = _moments(reward, torch.ones_like(reward))
    enough = seen.total.clamp(max=size).gather(1, prompt) >= least
    centre = torch.where(enough, mean.gather(1, prompt), whole[0][:, None])
    spread = torch.where(enough, deviation.gather(1, prompt), whole[1][:, None])
    return centre, spread


def _moments(values: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the last dimension, among the filled ones, `[...]`."""
    count = filled.sum(-1).clamp(min=1)
    mean = (values * filled).sum(-1) / count
    offset = (values - mean[..., None]) * filled
    spread = torch.sqrt((offset * offset).sum(-1) / count)
    constant = spread <= 1e-12 * (1 + mean.abs())
    return mean, torch.where(constant, torch.ones_like(spread), spread)
