"""MaskedSeq: masked diffusion on short or long sequences of a Markov chain."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.masked import LETTERS, MASK, MarkovMask, MaskTable, check_tokens
from rlkit.diffusion.masked_task import CHAINS, MaskedDiffusion
from rlkit.diffusion.masked_tasks import BACKGROUND, motif_reward, pair_reward
from rlkit.diffusion.problem import ChainState, DiffusionProblem
from rlkit.diffusion.task import DiffusionTask
from rlkit.protocol import Instance, MultiDiscrete
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer

REWARDS = {"pairs": pair_reward, "motif": motif_reward}


class MaskedTables(NamedTuple):
    """A drawn law of sequences."""

    start: Tensor  # [N, 4]
    transition: Tensor  # [N, 4, 4]
    log_marginal: Tensor  # [N, 5^L], or [N, 0] where L is too large


@problem("MaskedSeq-v0")
@dataclass(frozen=True)
class MaskedSeq(DiffusionProblem):
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

    @property
    def horizon(self) -> int:
        """Denoising steps of a chain."""
        return self.steps if self.chain == "parallel" else self.length

    def instance(self, rng: Rng) -> Instance:
        """The Markov law, the same for all replicas."""
        start = torch.full((rng.n, LETTERS), 1 / LETTERS, dtype=torch.float64, device=rng.device)
        law = torch.tensor(BACKGROUND, dtype=torch.float64, device=rng.device)
        transition = law.expand(rng.n, -1, -1)
        table = start[:, :0]
        if self.length <= 6:
            table = MarkovMask(start[:1], transition[:1], self.length).table().log_marginal
            table = table.expand(rng.n, -1)
        return Instance(replica=MaskedTables(start, transition, table))

    def task(self, instance: Instance) -> MaskedDiffusion:
        """The sampler with its reward."""
        tables: MaskedTables = instance.replica
        table = MaskTable(tables.log_marginal, self.length) if self.length <= 6 else None
        denoiser = table or MarkovMask(tables.start, tables.transition, self.length)
        return MaskedDiffusion(denoiser, self.chain, REWARDS[self.reward], self.steps, table=table)

    def point_space(self, task: DiffusionTask) -> MultiDiscrete:
        """Four letters and the mask."""
        return MultiDiscrete(LETTERS + 1, self.length)

    def check_start(self, task: DiffusionTask, start: Tensor) -> None:
        """Refuse tokens outside 0 .. 4, or of probability 0.

        Raises:
            ValueError: naming the token, or the sequence.
        """
        tokens = start[:, None]
        check_tokens("x_T", tokens, self.length)
        task.expect(tokens, task.steps, tokens[..., 0])

    def check_action(self, instance: Instance, state: ChainState, action: Tensor) -> None:
        """Refuse a step of the single chain that reveals another number of positions than one.

        Raises:
            ValueError: naming the number.
        """
        if self.chain == "single":
            count = (action != state.point).sum(1)
            if bool((count != 1).any()):
                wrong = int(count[count != 1][0])
                raise ValueError(f"action reveals {wrong} positions of a chain; accepted: 1")

    def action_mask(self, instance: Instance, state: ChainState) -> Tensor:
        """Legal tokens of each position, `[N, L, 5]` bool."""
        return legal_letters(state)

    def legalise(self, state: ChainState, action: Tensor) -> Tensor:
        """`action` with known letters kept, at the end no mask, and as many revealed as may be."""
        legal = legal_letters(state)
        fine = legal.gather(2, action[..., None]).squeeze(2)
        following = torch.where(fine, action, legal.to(torch.int8).argmax(2))
        return following if self.chain == "parallel" else first_revealed(state.point, following)


def first_revealed(tokens: Tensor, following: Tensor) -> Tensor:
    """`tokens` `[N, L]` with one mask revealed: the first that `following` reveals, else as A."""
    masked = tokens == MASK
    revealed = masked & (following != MASK)
    none = ~revealed.any(1, keepdim=True)
    candidate = torch.where(none, masked, revealed)
    first = candidate & (candidate.cumsum(1) == 1)
    letter = torch.where(following == MASK, 0, following)
    return torch.where(first, letter, tokens)


def legal_letters(state: ChainState) -> Tensor:
    """Tokens that each position may take, `[N, L, 5]` bool: masks stay masks but for the end."""
    token = torch.arange(LETTERS + 1, device=state.point.device)
    own = state.point[..., None] == token
    free = (state.point == MASK)[..., None] & (token < MASK)
    last = (state.time == 1)[:, None, None]
    return torch.where(last & free.any(-1, keepdim=True), free, own | free)
