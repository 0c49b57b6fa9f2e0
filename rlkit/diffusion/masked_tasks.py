"""Rewards of masked sequences, the two small published tasks, and tilted laws in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.masked import (
    LETTERS,
    MarkovMask,
    MaskTable,
    clean_codes,
    one_hot,
    sequences,
    sum_over_masks,
)
from rlkit.validation import check_real

Reward = Callable[[Tensor], Tensor]
BACKGROUND = (
    (0.4, 0.3, 0.2, 0.1),
    (0.1, 0.4, 0.3, 0.2),
    (0.2, 0.1, 0.4, 0.3),
    (0.3, 0.2, 0.1, 0.4),
)


def pair_reward(letters: Tensor) -> Tensor:
    """Number of CG minus half the number of AA among adjacent pairs, `[...]`.

    Args:
        letters: `[..., L, 4]` indicators, or relaxed ones.
    """
    now, then = letters[..., :-1, :], letters[..., 1:, :]
    return (now[..., 1] * then[..., 2] - 0.5 * now[..., 0] * then[..., 0]).sum(-1)


def motif_reward(letters: Tensor) -> Tensor:
    """Soft maximum over places of the score of ACG (+2 a match, -1 a mismatch), over 12, `[...]`.

    Args:
        letters: `[..., L, 4]` indicators, or relaxed ones, `L >= 3`.
    """
    last = letters.shape[-2] - 2
    match = sum(letters[..., j : last + j, j] for j in range(3))
    score = 3 * torch.as_tensor(match) - 3
    return (2 * score).logsumexp(-1) / 12


@dataclass(frozen=True)
class MaskedTask:
    """A data law with a reward and the temperature at which its numbers are published.

    Attributes:
        denoiser: exact, of one replica.
        reward: function of indicators `[..., L, 4]`, `[...]`.
        alpha: temperature, > 0.
        steps: of the T-step chain.
    """

    denoiser: MarkovMask
    reward: Reward
    alpha: float
    steps: int

    def rewards(self) -> Tensor:
        """Reward of every sequence, `[1, 4^L]`."""
        return self.reward(one_hot(sequences(self.denoiser.length)))[None]


def preset(name: str) -> MaskedTask:
    """The small tasks "MS4" (pairs, `L = 4`) and "MS5" (motif, `L = 5`) on the same Markov law.

    Raises:
        ValueError: another name.
    """
    start = torch.full((1, LETTERS), 1 / LETTERS, dtype=torch.float64)
    transition = torch.tensor([BACKGROUND], dtype=torch.float64)
    if name == "MS4":
        return MaskedTask(MarkovMask(start, transition, 4), pair_reward, 0.5, 8)
    if name == "MS5":
        return MaskedTask(MarkovMask(start, transition, 5), motif_reward, 0.1, 10)
    raise ValueError(f"name = {name!r} unknown; accepted: 'MS4', 'MS5'")


@dataclass(frozen=True)
class MaskedTilt:
    """The law `p* = p_0 e^{r / alpha} / Z` and the soft values of the one-at-a-time chain.

    Attributes:
        table: `MaskTable` of `p*`.
        log_partition: `[N]`, `log Z`.
        value: `[N, 5^L]`, `V(x) = alpha log E[e^{r / alpha} | unmasked tokens of x]`, NaN where
            those have probability zero.
    """

    table: MaskTable
    log_partition: Tensor
    value: Tensor


def tilt(table: MaskTable, reward: Tensor, alpha: float) -> MaskedTilt:
    """Tilt a law by a reward.

    Args:
        table: of `p_0`.
        reward: `[N, 4^L]` or `[1, 4^L]`, of every sequence.
        alpha: temperature, > 0.

    Raises:
        ValueError: `alpha <= 0`, or a reward of another shape or not finite.
    """
    check_real("alpha", alpha, 0, open_low=True)
    count = LETTERS**table.length
    if reward.dim() != 2 or reward.shape[1] != count or not bool(reward.isfinite().all()):
        raise ValueError(
            f"reward has shape {tuple(reward.shape)}, accepted: finite numbers of shape "
            f"[N, {count}] or [1, {count}]"
        )
    clean = table.log_marginal[:, clean_codes(table.length)]
    mass = sum_over_masks(clean + reward / alpha)
    log_partition = mass[:, -1]
    tilted = MaskTable(mass - log_partition[:, None], table.length)
    return MaskedTilt(tilted, log_partition, alpha * (mass - table.log_marginal))
