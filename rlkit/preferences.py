"""Preference models: the probability of a comparison, its likelihood, and scripted teachers.

Labels are the probability that the first of two is preferred: 1, 0, or 1/2 for a tie.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlkit.random import Rng
from rlkit.validation import check_real


def bradley_terry(difference: Tensor, scale: float = 1.0) -> Tensor:
    """Probability that the first wins, by `difference` of rewards (first minus second)."""
    return 1 / (1 + torch.exp(-scale * difference))


def bradley_terry_nll(difference: Tensor, label: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of comparisons under Bradley and Terry (1952), elementwise.

    Args:
        difference: reward of the first minus reward of the second.
        label: probability that the first is preferred, in [0, 1].
        margin: taken off the difference in favour of the preferred one, None for 0.

    Raises:
        ValueError: a label outside [0, 1], naming its row.
    """
    check_labels(label)
    shift = torch.zeros_like(difference) if margin is None else margin
    won, lost = logsigmoid(difference - shift), logsigmoid(-difference - shift)
    return -(label * won + (1 - label) * lost)


def plackett_luce_nll(score: Tensor, order: Tensor) -> Tensor:
    """Negative log-likelihood of rankings under Plackett (1975) and Luce (1959), `[...]`.

    Args:
        score: `[..., K]` rewards.
        order: `[..., K]` int64 items, the best first.
    """
    ranked = score.gather(-1, order)
    rest = torch.logcumsumexp(ranked.flip(-1), -1).flip(-1)
    return (rest - ranked).sum(-1)


def check_labels(label: Tensor) -> None:
    """Refuse labels outside [0, 1], naming the first row."""
    wrong = ~((label >= 0) & (label <= 1))
    if bool(wrong.any()):
        row = wrong.nonzero()[0].tolist()
        raise ValueError(f"label of row {row} is {label[tuple(row)].item()}; accepted: [0, 1]")


def has_finite_mle(wins: Tensor) -> bool:
    """Whether item rewards have a finite maximum-likelihood estimate.

    True where the directed graph of wins is strongly connected (Ford 1957); otherwise a ridge is
    needed.

    Args:
        wins: `[K, K]`, how often the row's item beat the column's.
    """
    count, _ = connected_components(wins.numpy() > 0, directed=True, connection="strong")
    return int(count) == 1


def centred(reward: Tensor) -> Tensor:
    """Rewards shifted to sum to zero over the last dimension: comparisons see no shift."""
    return reward - reward.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Teacher:
    """A scripted teacher of B-Pref (Lee, Smith, Dragan, Abbeel 2021, arXiv 2111.03026).

    Compares two segments by their sum of rewards, later steps first, and errs in five ways.
    Thresholds are in units of a segment's return.

    Raises:
        ValueError: a field outside its range.
    """

    rationality: float = float("inf")  # inverse temperature of the comparison, >= 0
    discount: float = 1.0  # weight of a step relative to the next, in (0, 1]; below 1 is myopic
    mistake: float = 0.0  # probability of a flipped label, in [0, 1]
    skip: float = float("-inf")  # no label where both returns are below this
    equal: float = 0.0  # label 1/2 where returns differ by less, >= 0

    def __post_init__(self) -> None:
        check_real("rationality", self.rationality, 0, infinite=True)
        check_real("discount", self.discount, 0, 1, open_low=True)
        check_real("mistake", self.mistake, 0, 1)
        check_real("skip", self.skip, infinite=True)
        check_real("equal", self.equal, 0)

    def label(self, first: Tensor, second: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Probability that the second is preferred `[N, B]` in {0, 1/2, 1}, and a bool: labelled.

        Args:
            first: rewards of the first segments `[N, B, L]`.
            second: rewards of the second segments `[N, B, L]`.
            rng: of the draws "comparison" and "mistake".
        """
        length = first.shape[-1]
        ages = np.arange(length - 1, -1, -1)
        weight = torch.tensor(self.discount**ages, dtype=first.dtype, device=first.device)
        gain = ((second - first) * weight).sum(-1)
        plain = [x.sum(-1) for x in (first, second)]
        batch = first.shape[1]
        choice = (gain > 0).to(first.dtype)
        if np.isfinite(self.rationality):
            u = rng.uniform("comparison", batch, dtype=first.dtype)
            choice = (u < bradley_terry(gain, self.rationality)).to(first.dtype)
        if self.mistake > 0:
            flip = rng.uniform("mistake", batch, dtype=first.dtype) < self.mistake
            choice = torch.where(flip, 1 - choice, choice)
        tied = (plain[1] - plain[0]).abs() < self.equal
        half = torch.full_like(choice, 0.5)
        return torch.where(tied, half, choice), torch.maximum(*plain) >= self.skip
