"""Rewards of sequences by how well two motifs fit, smooth or counted.

A motif scores a window by the mean over its columns of the log-odds, in bits, of a position
weight matrix (the consensus with probability 1/2, each other letter with 1/6) against uniform
letters: 1 for the consensus, less 0.264 for each letter that differs. So the two motifs together
give about 1 to the median sequence of length 30 and about 2 to one that holds both.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS
from rlkit.diffusion.motifs import LONGEST, MOTIFS, check_motifs, weights
from rlkit.validation import check_real

CONSENSUS = 0.5  # probability of the consensus letter in a column of the weight matrix
SHARPNESS = 8.0  # of the soft maximum over places
DISTANCE = (12.0, 3.0)  # preferred distance between the motifs and its tolerance


def log_odds(word: str) -> Tensor:
    """Mean log-odds in bits of each letter in each column, `[W, 4]` float64."""
    return (weights(word, CONSENSUS) * LETTERS).log2() / len(word)


def check_letters(letters: Tensor, shortest: int) -> None:
    """Accept floating `letters` `[..., L, 4]` with `L >= shortest`.

    Raises:
        ValueError: another last dimension or dtype, or too short.
    """
    shape = tuple(letters.shape)
    good = len(shape) >= 2 and shape[-1] == LETTERS and shape[-2] >= shortest
    if not good or not letters.is_floating_point():
        raise ValueError(
            f"letters are {letters.dtype} of shape {shape}, accepted: floating point of shape "
            f"[..., L, {LETTERS}] with L >= {shortest}"
        )


@dataclass(frozen=True)
class MotifReward:
    """Sum over both motifs of the soft maximum of their scores, and a bonus for their distance.

    `r(x) = sum_j LSE_8(s_j) + spacing E[exp(-(|p_1 - p_2| - 12)^2 / 18)]`, `LSE_8(v) = log sum
    exp(8 v) / 8`, where place `p_j` has probability proportional to `exp(8 s_j)`: the gradient
    of `LSE_8`, so that the best hits decide and the bonus is smooth.
    """

    spacing: float = 0.0  # weight of the bonus, >= 0
    motifs: tuple[str, ...] = MOTIFS  # consensus of both

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: `spacing` < 0, or not two words.
        """
        check_real("spacing", self.spacing, 0)
        check_motifs(self.motifs, LONGEST)

    @cached_property
    def matrices(self) -> tuple[Tensor, ...]:
        """Mean log-odds of both motifs, `[W, 4]` each."""
        return tuple(log_odds(word) for word in self.motifs)

    def scores(self, letters: Tensor) -> tuple[Tensor, ...]:
        """Scores of each motif at each place, `[..., L - W + 1]`, at most 1.

        Args:
            letters: `[..., L, 4]` indicators, or relaxed ones; the scores are linear in them.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        check_letters(letters, max(map(len, self.motifs)))
        scores = []
        for matrix in self.matrices:
            weight = matrix.to(letters)
            # Term by term and row by row, so that a sequence has the same bits in any company.
            fit = sum(letters[..., a, None] * weight[:, a] for a in range(LETTERS))
            count = letters.shape[-2] - len(weight) + 1
            columns = [torch.as_tensor(fit)[..., j : j + count, j] for j in range(len(weight))]
            scores.append(sum(columns[1:], columns[0]).contiguous())
        return tuple(scores)

    def __call__(self, letters: Tensor) -> Tensor:
        """Rewards `[...]` of `letters` `[..., L, 4]`.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        one, two = self.scores(letters)
        reward = (SHARPNESS * one).logsumexp(-1) + (SHARPNESS * two).logsumexp(-1)
        reward = reward / SHARPNESS
        return reward if self.spacing == 0 else reward + self.spacing * spaced(one, two)

    def parts(self, letters: Tensor) -> dict[str, Tensor]:
        """Soft maximum of each motif and the bonus for their distance, `[...]` each.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        one, two = self.scores(letters)
        names = {"motif_1": one, "motif_2": two}
        parts = {name: (SHARPNESS * s).logsumexp(-1) / SHARPNESS for name, s in names.items()}
        return parts if self.spacing == 0 else parts | {"spacing": self.spacing * spaced(one, two)}


def spaced(one: Tensor, two: Tensor) -> Tensor:
    """Expected closeness of the distance of two best hits to the preferred one, `[...]`.

    Args:
        one: scores `[..., P]` of motif 1.
        two: scores `[..., Q]` of motif 2.

    Returns:
        In `[0, 1]`.
    """
    first = torch.arange(one.shape[-1], device=one.device)[:, None]
    last = torch.arange(two.shape[-1], device=one.device)
    away = ((first - last).abs().to(one.dtype) - DISTANCE[0]) / DISTANCE[1]
    close = torch.exp(-0.5 * away * away)
    here, there = torch.softmax(SHARPNESS * one, -1), torch.softmax(SHARPNESS * two, -1)
    return (here[..., :, None] * close * there[..., None, :]).sum((-2, -1))


@dataclass(frozen=True)
class MotifCount:
    """Number of places where a motif scores at least `threshold`; it has no gradient."""

    threshold: float = 0.7  # in (-0.6, 1]: 0.7 allows one letter that differs, 1 allows none
    motifs: tuple[str, ...] = MOTIFS  # consensus of both

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: `threshold` outside its range, where all or no places would count; or not
                two words.
        """
        check_motifs(self.motifs, LONGEST)
        check_real("threshold", self.threshold, math.log2(2 / 3), 1, open_low=True)

    def __call__(self, letters: Tensor) -> Tensor:
        """Counts `[...]`, in the dtype of `letters` `[..., L, 4]`.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        return torch.cat(self.reached(letters), -1).sum(-1).to(letters.dtype)

    def parts(self, letters: Tensor) -> dict[str, Tensor]:
        """Count of each motif, `[...]` each.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        one, two = (hits.sum(-1).to(letters.dtype) for hits in self.reached(letters))
        return {"motif_1": one, "motif_2": two}

    def reached(self, letters: Tensor) -> list[Tensor]:
        """Where each motif scores enough, `[..., L - W + 1]` bool.

        Raises:
            ValueError: another shape, or shorter than a motif.
        """
        # Room for the rounding of single precision: scores are multiples of 0.264 below 1.
        scores = MotifReward(motifs=self.motifs).scores(letters.detach())
        return [s > self.threshold - 1e-3 for s in scores]
