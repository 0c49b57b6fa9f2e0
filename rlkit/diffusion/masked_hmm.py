"""Masked sequences of a hidden Markov model: exact denoiser by forward and backward sums."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.masked import (
    LETTERS,
    MASK,
    MaskTable,
    check_rows,
    check_tokens,
    one_hot,
    refuse_impossible,
    sequences,
)
from rlkit.validation import check_integer


@dataclass(frozen=True)
class HMMMask:
    """A hidden chain on `K` states that emits one letter a position, of any length.

    Rabiner 1989, "A tutorial on hidden Markov models", equations 19 to 27, with a mask emitted
    with probability 1.

    Attributes:
        start: `[N, K]` law of the first hidden state.
        transition: `[N, K, K]` rows of transition probabilities.
        emission: `[N, K, 4]` law of the letter of each hidden state.
        length: `L >= 1`.
    """

    start: Tensor
    transition: Tensor
    emission: Tensor
    length: int

    def __post_init__(self) -> None:
        """Check the laws.

        Raises:
            ValueError: rows that do not sum to 1, an emission of other letters, or a length
                below 1.
        """
        check_integer("length", self.length, 1)
        check_rows("start", self.start)
        check_rows("transition", self.transition)
        check_rows("emission", self.emission)
        check_integer("emission.shape[2]", self.emission.shape[2], LETTERS, LETTERS)

    def table(self) -> MaskTable:
        """The same law as a table, for `L <= 10`."""
        tokens = sequences(self.length)
        return MaskTable.of(self.log_probability(tokens.expand(len(self.start), -1, -1)).exp())

    def log_probability(self, tokens: Tensor) -> Tensor:
        """Log-probability `[N, B]` of the unmasked ones of `tokens` `[N, B, L]`.

        Raises:
            ValueError: tokens outside `[0, 4]`.
        """
        check_tokens("tokens", tokens, self.length)
        return self._forward(self._seen(tokens))[1]

    def conditional(self, tokens: Tensor) -> Tensor:
        """Laws `[N, B, L, 4]` given `tokens` `[N, B, L]`, one-hot at unmasked positions.

        Raises:
            ValueError: tokens outside `[0, 4]` or of probability zero.
        """
        check_tokens("tokens", tokens, self.length)
        seen = self._seen(tokens)
        hidden = self._forward(seen)[0] * self._backward(seen)
        joint = (hidden[..., None] * self.emission[:, None, None]).sum(3)
        known = tokens[..., None] != MASK
        total = torch.where(known, joint * one_hot(tokens), joint).sum(3)
        refuse_impossible(tokens, total)
        return torch.where(known, one_hot(tokens), joint / total[..., None])

    def _seen(self, tokens: Tensor) -> Tensor:
        """Probability of each token in each hidden state, `[N, B, L, K]`, 1 at a mask."""
        letters = torch.cat([self.emission, torch.ones_like(self.emission[..., :1])], 2).mT
        rows = torch.arange(len(tokens), device=tokens.device)[:, None, None] % len(letters)
        return letters[rows, tokens]

    def _forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden laws given the tokens before, `[N, B, L, K]`; log-probability of all, `[N, B]`."""
        law, laws = self.start[:, None].expand_as(seen[:, :, 0]), []
        log = torch.zeros_like(law[..., 0])
        for emitted in seen.unbind(2):
            laws.append(law)
            joint = law * emitted
            total = joint.sum(2)
            log = log + total.log()
            law = _move(joint / total[..., None], self.transition)
        return torch.stack(laws, 2), log

    def _backward(self, seen: Tensor) -> Tensor:
        """Probability of the tokens after given the hidden state, up to scale, `[N, B, L, K]`."""
        future, futures = torch.ones_like(seen[:, :, 0]), []
        for emitted in reversed(seen.unbind(2)):
            futures.append(future)
            joint = _move(future * emitted, self.transition.mT)
            future = joint / joint.sum(2, keepdim=True)
        return torch.stack(futures[::-1], 2)


def _move(law: Tensor, transition: Tensor) -> Tensor:
    """`law` `[N, B, K]` times `transition` `[N, K, K]`."""
    return (law[..., None] * transition[:, None]).sum(2)
