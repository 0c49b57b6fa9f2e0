"""MaskedSeq: masked diffusion on short or long sequences of a Markov chain."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.checks import trusted
from rlkit.diffusion.masked import LETTERS, MarkovMask, MaskTable
from rlkit.diffusion.masked_task import CHAINS, MaskedDiffusion
from rlkit.diffusion.masked_tasks import BACKGROUND, Reward, motif_reward, pair_reward
from rlkit.diffusion.sequence_problem import SequenceProblem
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer


@dataclass(frozen=True)
class Pairs:
    """`pair_reward` with its two summands."""

    def __call__(self, letters: Tensor) -> Tensor:
        """Reward `[...]` of `letters` `[..., L, 4]`."""
        return pair_reward(letters)

    def parts(self, letters: Tensor) -> dict[str, Tensor]:
        """Number of CG, and minus half the number of AA, `[...]` each."""
        now, then = letters[..., :-1, :], letters[..., 1:, :]
        favoured, avoided = now[..., 1] * then[..., 2], now[..., 0] * then[..., 0]
        return {"CG": favoured.sum(-1), "AA": -0.5 * avoided.sum(-1)}


REWARDS: dict[str, Reward] = {"pairs": Pairs(), "motif": motif_reward}


class MaskedTables(NamedTuple):
    """A drawn law of sequences."""

    start: Tensor  # [N, 4]
    transition: Tensor  # [N, 4, 4]
    log_marginal: Tensor  # [N, 5^L], or [N, 0] where L is too large


@problem("MaskedSeq-v0")
@dataclass(frozen=True)
class MaskedSeq(SequenceProblem):
    """Reverse masked diffusion on sequences of four letters; short ones are solved exactly.

    State x_t with its time t, action x_(t-1), which may only reveal masked positions. The presets
    MS4 (`length=4, reward=pairs, steps=8`) and MS5 (the default).

    Raises:
        ValueError: a field outside its range.
    """

    length: int = 5  # letters of a sequence, >= 3; up to 6 everything is enumerated
    reward: str = "motif"  # "pairs" (CG minus half of AA) or "motif" (soft maximum of ACG)
    chain: str = "parallel"  # "parallel" (T steps) or "single" (one position a step)
    steps: int = 10  # T of the parallel chain, >= 1

    def __post_init__(self) -> None:
        check_integer("length", self.length, 3)
        check_choice("reward", self.reward, REWARDS)
        check_choice("chain", self.chain, CHAINS)
        check_integer("steps", self.steps, 1)

    def instance(self, rng: Rng) -> Instance:
        """The Markov law, the same for all replicas."""
        start = torch.full((1, LETTERS), 1 / LETTERS, dtype=torch.float64)
        transition = torch.tensor([BACKGROUND], dtype=torch.float64)
        law = MarkovMask(start, transition, self.length)
        table = law.table().log_marginal if self.length <= 6 else start[:, :0]
        every = (part.to(rng.device) for part in (start, transition, table))
        tables = MaskedTables(*(part.expand(rng.n, *part.shape[1:]) for part in every))
        return Instance(replica=tables)

    def task(self, instance: Instance) -> MaskedDiffusion:
        """The sampler with its reward."""
        tables: MaskedTables = instance.replica
        table = MaskTable(tables.log_marginal, self.length) if self.length <= 6 else None
        with trusted():  # checked where the instance was drawn
            denoiser = table or MarkovMask(tables.start, tables.transition, self.length)
        return MaskedDiffusion(denoiser, self.chain, REWARDS[self.reward], self.steps, table=table)
