"""Diffusion on sequences with planted motifs as a task: trained sampler, true and other rewards."""

from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

from rlkit.diffusion.masked import one_hot
from rlkit.diffusion.masked_task import MaskedDiffusion
from rlkit.diffusion.masked_tasks import Reward
from rlkit.diffusion.masked_training import training_sequences
from rlkit.diffusion.motif_rewards import MotifReward
from rlkit.diffusion.motifs import MotifLaw, kmer_correlation
from rlkit.random import Rng
from rlkit.validation import check_real

TOP = 1e-3  # share of the training set that naturalness is measured against


@cache
def best_sequences(law: MotifLaw, reward: MotifReward, seed: int, share: float = TOP) -> Tensor:
    """Training sequences of the highest reward, `[1, count, L]`, the best first.

    Args:
        law: of the training set.
        reward: by which they are ranked.
        seed: of the training set.
        share: of it, in `(0, 1]`, one sequence at least.

    Raises:
        ValueError: `share` outside its range.
    """
    check_real("share", share, 0, 1, open_low=True)
    data = training_sequences(law, seed)
    rank = reward(one_hot(data))[0].argsort(descending=True, stable=True)
    return data[:, rank[: max(1, round(share * data.shape[1]))]]


@dataclass(frozen=True)
class MotifDiffusion(MaskedDiffusion):
    """Chains of a denoiser that was trained on sequences with motifs.

    Attributes:
        law: of the data.
        seed: of the training set.
        truth: the smooth reward, by which naturalness ranks the training set.
        judging: a second learned reward, None where rewards are not learned.
    """

    law: MotifLaw = field(default_factory=MotifLaw)
    seed: int = 0
    truth: MotifReward = field(default_factory=MotifReward)
    judging: Reward | None = None

    def data(self, rng: Rng, name: str, prompt: Tensor) -> Tensor:
        """Samples of the data law, `[N, B, L]`."""
        return self.law.sample(rng, name, prompt.shape[1])

    def log_data(self, point: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Exact log-probability of tokens `[N, B, L]` under the data law, `[N, B]`.

        A trained denoiser only approaches that law.
        """
        return self.law.log_probability(point)

    def naturalness(self, point: Tensor) -> Tensor:
        """Correlation of 3-letter words with the best training sequences, `[N]`.

        Args:
            point: tokens `[N, B, L]`.
        """
        best = best_sequences(self.law, self.truth, self.seed).to(point.device)
        return kmer_correlation(point, best)

    def describe(self, point: Tensor) -> dict[str, Tensor]:
        """What the tables of papers show of tokens `[N, B, L]`, `[N]` each.

        Medians of the true reward, of the observed one and, where rewards are learned, of the
        other model; mean log-probability under the data law; naturalness.
        """
        letters = one_hot(point)
        judges = {"true": self.judge, "proxy": self.proxy or self.judge, "judged": self.judging}
        medians = {
            f"median_{name}": judge(letters).double().median(1).values
            for name, judge in judges.items()
            if judge is not None
        }
        natural = {"log_data": self.log_data(point).mean(1), "natural": self.naturalness(point)}
        return medians | natural
