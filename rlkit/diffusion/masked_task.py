"""Diffusion on masked sequences as a task: reference sampler, reward, optimum by enumeration."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.masked import (
    LETTERS,
    MASK,
    Denoiser,
    MarkovMask,
    MaskTable,
    one_hot,
    place,
    sequences,
)
from rlkit.diffusion.masked_chains import (
    OneAtATime,
    ParallelSteps,
    all_masked,
    draw,
    refuse_changes,
    step_factors,
)
from rlkit.diffusion.masked_oracles import PAIR_LENGTH, parallel_values
from rlkit.diffusion.masked_tasks import MaskedTilt, Reward, tilt
from rlkit.diffusion.rewards import split_reward
from rlkit.diffusion.task import Optimum
from rlkit.random import Rng

CHAINS = ("single", "parallel")


def letters_of(point: Tensor) -> Tensor:
    """Letters `[..., L, 4]` of tokens `[N, B, L]` or of relaxed letters `[..., L, 4 or 5]`."""
    return one_hot(point) if point.dtype == torch.int64 else point[..., :LETTERS]


@dataclass(frozen=True)
class MaskedDiffusion:
    """Chains on masked sequences; see `rlkit.diffusion.task.DiffusionTask`.

    Attributes:
        denoiser: laws of letters `[N or 1, ...]`.
        chain: "parallel" (`steps` parallel steps) or "single" (one position a step).
        judge: true reward of letters `[..., L, 4]`.
        parallel: T of the parallel chain; the single one has L steps.
        proxy: observed reward, None for the true one.
        smooth: whether the observed reward has a gradient.
        table: law of the data where all sequences are enumerated, else None.
        memory: values at the temperatures asked for so far.
    """

    denoiser: Denoiser
    chain: str
    judge: Reward
    parallel: int
    proxy: Reward | None = None
    smooth: bool = True
    table: MaskTable | None = None
    memory: dict[float, Tensor] = field(default_factory=dict, repr=False, compare=False)

    prompts = 1

    @property
    def length(self) -> int:
        """Length L of a sequence."""
        return self.denoiser.length

    @property
    def steps(self) -> int:
        """Denoising steps T."""
        return self.parallel if self.chain == "parallel" else self.length

    @property
    def exact(self) -> bool:
        """Whether all pairs of states are enumerated."""
        return self.table is not None and self.length <= PAIR_LENGTH

    @property
    def differentiable(self) -> bool:
        """Whether the observed reward has a gradient in relaxed letters."""
        return self.smooth

    def start(self, rng: Rng, name: str, count: int) -> Tensor:
        """All masks, `[N, count, L]`."""
        return all_masked(rng, count, self.length)

    def data(self, rng: Rng, name: str, prompt: Tensor) -> Tensor:
        """Samples of the data law, `[N, B, L]`: one position a step is exact."""
        x = all_masked(rng, prompt.shape[1], self.length)
        for t in range(self.length, 0, -1):
            x = OneAtATime(self.denoiser).step(x, rng, f"{name}/{t}")
        return x

    def step(self, x: Tensor, t: int, prompt: Tensor, rng: Rng, name: str) -> Tensor:
        """x_(t-1) of the reference given x_t, `[N, B, L]`."""
        if self.chain == "parallel":
            return ParallelSteps(self.denoiser, self.parallel).step(x, t, rng, name)
        return OneAtATime(self.denoiser).step(x, rng, name)

    def log_probability(
        self, x: Tensor, t: int | Tensor, prompt: Tensor, following: Tensor
    ) -> Tensor:
        """Log-probability of x_(t-1) = `following` given x_t, `[N, B]`.

        Raises:
            ValueError: a step that changes a known letter, or reveals another number of positions
                than the single chain does.
        """
        refuse_changes(x, following)
        count = (x != following).sum(2)
        if self.chain == "single" and checking(count) and bool((count != 1).any()):
            raise ValueError(
                f"successor reveals {int(count[count != 1][0])} positions of a chain, accepted: 1"
            )
        return step_log_probability(self, x, following, self.denoiser.conditional(x).log(), t)

    def log_data(self, point: Tensor, prompt: Tensor) -> Tensor | tuple[()]:
        """Log-probability of tokens under the data law, `[N, B]`.

        Chains have that very law with an exact denoiser one position a step. `()` where only a
        denoiser is known.
        """
        if self.table is not None:
            code = (point * place(self.length).to(point.device)).sum(2)
            return self.table.log_marginal.expand(len(point), -1).gather(1, code)
        law = getattr(self.denoiser, "log_probability", None)
        return () if law is None else torch.as_tensor(law(point))

    def expect(self, x: Tensor, t: int, prompt: Tensor) -> Tensor:
        """Mean letters of x_0 given x_t, `[N, B, L, 4]`."""
        return one_hot(x) if t == 0 else self.denoiser.conditional(x)

    def reward(self, point: Tensor, prompt: Tensor) -> Tensor:
        """Observed reward of tokens `[N, B, L]` or relaxed letters `[N, B, L, 4 or 5]`."""
        return (self.proxy or self.judge)(letters_of(point))

    def parts(self, point: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        """Summands of the observed reward, where it tells them."""
        return split_reward(self.proxy or self.judge, letters_of(point))

    def gold(self, point: Tensor, prompt: Tensor) -> Tensor:
        """True reward, `[N, B]`."""
        return self.judge(letters_of(point))

    def rewards(self) -> Tensor:
        """True reward of all sequences, `[1, 4^L]`.

        Raises:
            ValueError: too many of them.
        """
        where = None if self.table is None else self.table.log_marginal.device
        return self.judge(one_hot(sequences(self.length).to(where)))[None]

    def tilt(self, alpha: float) -> MaskedTilt:
        """The tilted law and the soft values of the single chain.

        Raises:
            ValueError: sequences are not enumerated.
        """
        if self.table is None:
            raise ValueError(
                f"length = {self.length} is not enumerated; accepted: [1, 6] (longer sequences "
                "are measured as in MotifDNA-v0)"
            )
        return tilt(self.table, self.rewards(), alpha)

    def values(self, alpha: float) -> Tensor:
        """Soft values of every state at times 0 .. T, `[N or 1, T + 1, 5^L]`.

        Raises:
            ValueError: pairs of states are not enumerated.
        """
        if not self.exact or self.table is None:
            raise ValueError(f"length = {self.length} has no exact values; accepted: [1, 6]")
        if alpha not in self.memory:
            if self.chain == "parallel":
                laws, reward = self.table.conditionals(), self.rewards()
                self.memory[alpha] = parallel_values(laws, reward, alpha, self.parallel)
            else:
                found = self.tilt(alpha).value[:, None]
                self.memory[alpha] = found.expand(-1, self.steps + 1, -1)
        return self.memory[alpha]

    def value(self, x: Tensor, t: int, prompt: Tensor, alpha: float) -> Tensor:
        """Exact soft value, `[N, B]`.

        Raises:
            ValueError: pairs of states are not enumerated.
        """
        code = (x * place(self.length).to(x.device)).sum(2)
        return self.values(alpha)[:, t].expand(len(x), -1).gather(1, code)

    def optimum(self, alpha: float) -> Optimum:
        """Best reward minus `alpha` times divergence of the paths of this chain.

        Raises:
            ValueError: pairs of states are not enumerated.
        """
        best = self.values(alpha)[:, -1, -1]
        return Optimum(best, best, self.tilt(alpha).log_partition)

    def front(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Divergence KL(p* || p_0) and expected true reward of p*, `[N]` each.

        Raises:
            ValueError: sequences are not enumerated.
        """
        found = self.tilt(alpha)
        gain = (found.table.law * self.rewards()).sum(1)
        return gain / alpha - found.log_partition, gain


def enumerated(denoiser: MarkovMask) -> MaskTable | None:
    """The table of a Markov law that is short enough."""
    return denoiser.table() if denoiser.length <= PAIR_LENGTH else None


def advance(task: "MaskedDiffusion", tokens: Tensor, law: Tensor, t: int, rng: Rng) -> Tensor:
    """Next tokens `[N, B, L]` under laws of letters `[N, B, L, 4]` float64."""
    if task.chain == "parallel":
        uniform = rng.uniform(f"chain/{t}", *tokens.shape[1:], dtype=torch.float64)
        return draw(step_factors(tokens, law, t), uniform)
    masked = (tokens == MASK).double()
    weight = (masked[..., None] * law).flatten(2)
    index = draw(weight, rng.uniform(f"chain/{t}", tokens.shape[1], dtype=torch.float64))
    spot = torch.arange(task.length, device=tokens.device)
    return torch.where(spot == (index // LETTERS)[..., None], (index % LETTERS)[..., None], tokens)


def step_log_probability(
    task: "MaskedDiffusion", tokens: Tensor, following: Tensor, law: Tensor, t: int | Tensor
) -> Tensor:
    """Log-probability `[N, M]` of steps under log laws `[N, M, L, 4]`, at times `t`."""
    masked = tokens == MASK
    revealed = masked & (following != MASK)
    letter = torch.where(revealed, following, 0)
    told = law.gather(-1, letter[..., None]).squeeze(-1)
    total = torch.where(revealed, told, torch.zeros_like(told)).sum(-1)
    if task.chain == "single":
        return total - torch.log(masked.sum(-1).clamp(min=1).to(total.dtype))
    time = torch.as_tensor(t, device=tokens.device).to(total.dtype).expand(total.shape)
    kept = (masked & ~revealed).sum(-1)
    stay = torch.where(kept > 0, kept * torch.log1p(-1 / time), torch.zeros_like(total))
    return total - revealed.sum(-1) * torch.log(time) + stay
