"""Reverse chains on masked sequences: one position at a time, and `T` parallel steps.

Both start fully masked and only ever reveal tokens, by the laws of a denoiser; time runs from
`steps` down to 0. A chain is a policy: of the exact denoiser it is the reference, of another
denoiser a fine-tuned model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.diffusion.masked import LETTERS, MASK, Denoiser, check_tokens, one_hot
from rlkit.random import Rng
from rlkit.validation import check_integer


def all_masked(rng: Rng, batch: int, length: int) -> Tensor:
    """The first state of every chain, `[N, batch, length]` int64."""
    return torch.full((rng.n, batch, length), MASK, device=rng.device)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index drawn in proportion to `weights` `[..., K]` by `uniform` `[...]` in `[0, 1)`.

    Returns:
        `[...]` int64; never an index of weight zero where the sum is positive.
    """
    edges = weights.cumsum(-1)
    # In float64 the largest uniform number times the sum is below the sum.
    return (edges <= uniform[..., None] * edges[..., -1:]).sum(-1)


def refuse_changes(tokens: Tensor, successor: Tensor) -> None:
    """Accept steps from `tokens` to `successor` `[N, B, L]` that keep every unmasked token.

    Raises:
        ValueError: an unmasked token changes; names the first chain.
    """
    if not checking(tokens):
        return
    wrong = ((tokens != MASK) & (successor != tokens)).any(2)
    if bool(wrong.any()):
        before, after = tokens[wrong][0].tolist(), successor[wrong][0].tolist()
        raise ValueError(
            f"successor = {after} changes an unmasked token of {before}; accepted: only masked "
            f"positions (token {MASK}) change"
        )


@dataclass(frozen=True)
class OneAtATime:
    """Reveal one masked position, chosen uniformly, a step; its samples follow the data law.

    The jump chain of the continuous-time reverse process with rate `1 / t` a position.

    Attributes:
        denoiser: laws of the tokens.
    """

    denoiser: Denoiser

    @property
    def steps(self) -> int:
        """Number of steps, the length of a sequence."""
        return self.denoiser.length

    def kernel(self, tokens: Tensor) -> Tensor:
        """Probability `[N, B, L, 4]` of revealing each token at each position.

        Args:
            tokens: `[N, B, L]`, each chain with a mask.

        Raises:
            ValueError: a chain without a mask, or tokens outside `[0, 4]`.
        """
        masked = self._masked(tokens)
        share = masked.double() / masked.sum(2, keepdim=True)
        return share[..., None] * self.denoiser.conditional(tokens)

    def step(self, tokens: Tensor, rng: Rng, name: str = "reveal") -> Tensor:
        """Successors `[N, B, L]` of `tokens` `[N, B, L]`.

        Args:
            tokens: each chain with a mask.
            rng: source of the draw.
            name: of the draw.

        Raises:
            ValueError: a chain without a mask, or tokens outside `[0, 4]`.
        """
        kernel = self.kernel(tokens).flatten(2)
        index = draw(kernel, rng.uniform(name, tokens.shape[1], dtype=torch.float64))
        spot = torch.arange(self.denoiser.length, device=tokens.device)
        chosen = spot == (index // LETTERS)[..., None]
        return torch.where(chosen, (index % LETTERS)[..., None], tokens)

    def log_probability(self, tokens: Tensor, successor: Tensor) -> Tensor:
        """Log-probability `[N, B]` of steps from `tokens` to `successor` `[N, B, L]`.

        Raises:
            ValueError: a step that changes an unmasked token or reveals another number of
                positions than one.
        """
        check_tokens("successor", successor, self.denoiser.length)
        kernel = self.kernel(tokens)
        refuse_changes(tokens, successor)
        revealed = tokens != successor
        count = revealed.sum(2)
        if checking(count) and bool((count != 1).any()):
            wrong = int(count[count != 1][0])
            raise ValueError(f"successor reveals {wrong} positions of a chain, accepted: 1")
        token = torch.where(revealed, successor, 0)
        return (kernel.gather(3, token[..., None])[..., 0] * revealed).sum(2).log()

    def sample(self, rng: Rng, batch: int) -> Tensor:
        """Sequences `[N, batch, L]` from fully masked ones.

        Raises:
            ValueError: `batch` < 1.
        """
        check_integer("batch", batch, 1)
        tokens = all_masked(rng, batch, self.denoiser.length)
        for t in range(self.steps, 0, -1):
            tokens = self.step(tokens, rng, f"reveal-{t}")
        return tokens

    def _masked(self, tokens: Tensor) -> Tensor:
        check_tokens("tokens", tokens, self.denoiser.length)
        masked = tokens == MASK
        if checking(masked) and not bool(masked.any(2).all()):
            raise ValueError("tokens have a chain without a mask, accepted: at least 1 a chain")
        return masked


@dataclass(frozen=True)
class ParallelSteps:
    """From time `t` to `t - 1` each masked position is revealed with probability `1 / t`.

    Tokens revealed together are independent, so samples follow the data law only as the number
    of steps grows (total variation of order `1 / steps`).

    Attributes:
        denoiser: laws of the tokens.
        steps: `T >= 1`.
    """

    denoiser: Denoiser
    steps: int

    def __post_init__(self) -> None:
        """Check the number of steps.

        Raises:
            ValueError: `steps` < 1.
        """
        check_integer("steps", self.steps, 1)

    def kernel(self, tokens: Tensor, t: int) -> Tensor:
        """Law `[N, B, L, 5]` of each next token, independent between positions.

        Args:
            tokens: `[N, B, L]` at time `t`.
            t: in `[1, steps]`.

        Raises:
            ValueError: `t` or a token outside its range.
        """
        check_integer("t", t, 1, self.steps)
        return step_factors(tokens, self.denoiser.conditional(tokens), t)

    def step(self, tokens: Tensor, t: int, rng: Rng, name: str = "reveal") -> Tensor:
        """States at time `t - 1`, `[N, B, L]`, from `tokens` `[N, B, L]` at time `t`.

        Args:
            tokens: at time `t`.
            t: in `[1, steps]`.
            rng: source of the draw.
            name: of the draw.

        Raises:
            ValueError: `t` or a token outside its range.
        """
        uniform = rng.uniform(name, *tokens.shape[1:], dtype=torch.float64)
        return draw(self.kernel(tokens, t), uniform)

    def log_probability(self, tokens: Tensor, t: int, successor: Tensor) -> Tensor:
        """Log-probability `[N, B]` of steps from `tokens` at `t` to `successor` `[N, B, L]`.

        Minus infinity where the last step leaves a mask.

        Raises:
            ValueError: `t` outside its range, or a step that changes an unmasked token.
        """
        check_tokens("successor", successor, self.denoiser.length)
        kernel = self.kernel(tokens, t)
        refuse_changes(tokens, successor)
        return kernel.gather(3, successor[..., None])[..., 0].log().sum(2)

    def sample(self, rng: Rng, batch: int) -> Tensor:
        """Sequences `[N, batch, L]` from fully masked ones.

        Raises:
            ValueError: `batch` < 1.
        """
        check_integer("batch", batch, 1)
        tokens = all_masked(rng, batch, self.denoiser.length)
        for t in range(self.steps, 0, -1):
            tokens = self.step(tokens, t, rng, f"reveal-{t}")
        return tokens


def step_factors(tokens: Tensor, conditional: Tensor, t: int) -> Tensor:
    """Law of each next token in a parallel step from time `t`, `[N, B, L, 5]`.

    Args:
        tokens: `[N, B, L]` or `[1, B, L]`.
        conditional: `[N, B, L, 4]` laws of a denoiser; only masked positions count.
        t: time, >= 1.
    """
    masked = (tokens == MASK)[..., None]
    revealed = torch.where(masked, conditional / t, one_hot(tokens))
    kept = (masked.double() * (1 - 1 / t)).expand(*conditional.shape[:-1], 1)
    return torch.cat([revealed, kept], -1)
