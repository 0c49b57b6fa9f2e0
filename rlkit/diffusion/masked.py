"""Masked sequences: data laws on `{A, C, G, T}^L` and their exact denoisers.

A state is a sequence of tokens in `{0, ..., 4}`, 4 being the mask; its code in `[0, 5^L)` reads
the tokens as digits, the first one leading. A denoiser maps states to the laws
`p(x_i = a | unmasked tokens)` of all positions; unmasked positions keep their token. Sahoo et
al. 2024, "Simple and effective masked diffusion language models", is where the network learns
what is computed here.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking
from rlkit.validation import check_integer

LETTERS = 4
MASK = 4
TABLE_LENGTH = 10  # 5^10 marginals are 78 MB a replica
TOLERANCE = 1e-9


class Denoiser(Protocol):
    """The laws of all positions given the unmasked tokens."""

    @property
    def length(self) -> int:
        """Length `L` of a sequence."""

    def conditional(self, tokens: Tensor) -> Tensor:
        """Laws `[N, B, L, 4]` given `tokens` `[N, B, L]`, one-hot at unmasked positions."""


def check_rows(name: str, rows: Tensor) -> None:
    """Accept float64 `rows` `[..., K]` of probabilities that sum to 1 within 1e-9.

    Raises:
        ValueError: not float64, a negative or infinite entry, or a sum that is not 1.
    """
    if rows.dtype != torch.float64:
        raise ValueError(f"{name} is {rows.dtype}, accepted: torch.float64")
    if not checking(rows):
        return
    flat = rows.reshape(-1, rows.shape[-1])
    wrong = ~(flat >= 0).all(1) | ~((flat.sum(1) - 1).abs() <= TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} has row {row} = {flat[row].tolist()[:8]} of sum {float(flat[row].sum())}; "
            f"accepted: entries >= 0 that sum to 1 within {TOLERANCE}"
        )


def check_tokens(name: str, tokens: Tensor, length: int, last: int = MASK) -> None:
    """Accept int64 `tokens` `[N, B, L]` in `[0, last]`.

    Raises:
        ValueError: another shape or dtype, or a token outside the range.
    """
    if tokens.dtype != torch.int64 or tokens.dim() != 3 or tokens.shape[2] != length:
        raise ValueError(
            f"{name} is {tokens.dtype} of shape {tuple(tokens.shape)}, accepted: torch.int64 of "
            f"shape [N, B, {length}]"
        )
    if not checking(tokens):
        return
    wrong = (tokens < 0) | (tokens > last)
    if bool(wrong.any()):
        raise ValueError(f"{name} has the token {int(tokens[wrong][0])} outside [0, {last}]")


def sequences(length: int, symbols: int = LETTERS) -> Tensor:
    """All sequences in the order of their codes, `[symbols^L, L]` int64.

    Raises:
        ValueError: `length` < 1 or above the length of tables, 10.
    """
    check_integer("length", length, 1, TABLE_LENGTH)
    axes = [torch.arange(symbols)] * length
    return torch.cartesian_prod(*axes).reshape(-1, length)


def place(length: int, symbols: int = LETTERS + 1) -> Tensor:
    """Weight of each position in a code, `[L]` int64."""
    return symbols ** torch.arange(length - 1, -1, -1)


def clean_codes(length: int) -> Tensor:
    """Codes of the states without a mask, in the order of `sequences`, `[4^L]` int64."""
    return sequences(length) @ place(length)


def one_hot(tokens: Tensor) -> Tensor:
    """Indicators `[..., L, 4]` float64 of `tokens` `[..., L]`, zero at a mask."""
    return (tokens[..., None] == torch.arange(LETTERS, device=tokens.device)).double()


def sum_over_masks(log_law: Tensor) -> Tensor:
    """Log of the sum of a table over every completion of every state.

    Args:
        log_law: `[N, 4^L]` logs of non-negative numbers.

    Returns:
        `[N, 5^L]`; where nothing is masked, `log_law` itself.
    """
    length = (log_law.shape[1].bit_length() - 1) // 2
    table = log_law.reshape(-1, *(LETTERS,) * length)
    for axis in range(1, length + 1):
        table = torch.cat([table, table.logsumexp(axis, keepdim=True)], axis)
    return table.reshape(log_law.shape[0], -1)


def product_law(letters: Tensor) -> Tensor:
    """Law `[N, 4^L]` of independent positions with laws `letters` `[N, L, 4]`.

    Raises:
        ValueError: a row is not a law, or the length is above 10.
    """
    check_rows("letters", letters)
    check_integer("letters.shape[1]", letters.shape[1], 1, TABLE_LENGTH)
    law = letters[:, 0]
    for i in range(1, letters.shape[1]):
        law = (law[:, :, None] * letters[:, i, None]).flatten(1)
    return law


def refuse_impossible(tokens: Tensor, total: Tensor) -> None:
    """Accept states of positive probability.

    Args:
        tokens: `[N, B, L]`.
        total: `[N, B, K]` factors of the probability of the unmasked tokens.

    Raises:
        ValueError: an entry of `total` is zero; names the tokens.
    """
    if not checking(tokens):
        return
    zero = ~(total > 0).all(2)
    if bool(zero.any()):
        state = tokens[zero][0].tolist()
        raise ValueError(
            f"tokens = {state} have probability 0 under the data law; accepted: unmasked tokens "
            "of positive probability"
        )


@dataclass(frozen=True)
class MaskTable:
    """A law of sequences as the marginals of all states; any conditional is a ratio of two.

    Attributes:
        log_marginal: `[N, 5^L]` float64, log-probability of the unmasked tokens of each state.
        length: `L` in `[1, 10]`.
    """

    log_marginal: Tensor
    length: int

    @classmethod
    def of(cls, law: Tensor) -> "MaskTable":
        """The table of `law` `[N, 4^L]`.

        Raises:
            ValueError: a row is not a law, its size is no power of 4, or `L` is above 10.
        """
        sizes = [LETTERS**length for length in range(1, TABLE_LENGTH + 1)]
        if law.dim() != 2 or law.shape[1] not in sizes:
            raise ValueError(
                f"law has shape {tuple(law.shape)}, accepted: [N, 4^L] with L in "
                f"[1, {TABLE_LENGTH}]"
            )
        check_rows("law", law)
        return cls(sum_over_masks(law.log()), sizes.index(law.shape[1]) + 1)

    @property
    def law(self) -> Tensor:
        """Probabilities of the sequences, `[N, 4^L]`."""
        return self.log_marginal[:, clean_codes(self.length)].exp()

    def conditional(self, tokens: Tensor) -> Tensor:
        """Laws `[N, B, L, 4]` given `tokens` `[N, B, L]`, one-hot at unmasked positions.

        Raises:
            ValueError: tokens outside `[0, 4]` or of probability zero.
        """
        check_tokens("tokens", tokens, self.length)
        weight = place(self.length).to(tokens.device)
        code = (tokens * weight).sum(2)
        letters = torch.arange(LETTERS, device=tokens.device)
        shift = (letters - tokens[..., None]) * weight[:, None]
        table = self.log_marginal.expand(tokens.shape[0], -1)
        total = table.gather(1, code)
        refuse_impossible(tokens, (total > -torch.inf)[..., None])
        filled = table.gather(1, (code[..., None, None] + shift).flatten(1))
        ratio = (filled.reshape(shift.shape) - total[..., None, None]).exp()
        return torch.where(tokens[..., None] == MASK, ratio, one_hot(tokens))

    def conditionals(self) -> Tensor:
        """Laws of all positions at all states, `[N, 5^L, L, 4]`.

        Raises:
            ValueError: a state has probability zero.
        """
        states = sequences(self.length, LETTERS + 1).to(self.log_marginal.device)
        return self.conditional(states.expand(self.log_marginal.shape[0], -1, -1))


@dataclass(frozen=True)
class MarkovMask:
    """A stationary Markov chain of any length; only the nearest unmasked neighbours matter.

    `p(x_i | l at distance d, r at distance e)` is proportional to `P^d[l, .] P^e[., r]`.

    Attributes:
        start: `[N, 4]` law of the first token.
        transition: `[N, 4, 4]` rows of transition probabilities.
        length: `L >= 1`.
    """

    start: Tensor
    transition: Tensor
    length: int

    def __post_init__(self) -> None:
        """Check the laws.

        Raises:
            ValueError: rows that do not sum to 1, or a length below 1.
        """
        check_integer("length", self.length, 1)
        check_rows("start", self.start)
        check_rows("transition", self.transition)

    @cached_property
    def powers(self) -> Tensor:
        """Transition matrices of 0, 1, ..., L steps, `[N, L + 1, 4, 4]`."""
        step = self.transition
        powers = [torch.eye(LETTERS).to(step).expand_as(step)]
        for _ in range(self.length):
            powers.append((powers[-1][..., None] * step[:, None]).sum(2))
        return torch.stack(powers, 1)

    def table(self) -> MaskTable:
        """The same law as a table, for `L <= 10`."""
        tokens = sequences(self.length)
        return MaskTable.of(self.log_probability(tokens.expand(len(self.start), -1, -1)).exp())

    def log_probability(self, tokens: Tensor) -> Tensor:
        """Log-probability `[N, B]` of sequences `tokens` `[N, B, L]` without a mask.

        Raises:
            ValueError: tokens outside `[0, 3]`.
        """
        check_tokens("tokens", tokens, self.length, LETTERS - 1)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None] % len(self.start)
        first = self.start[rows, tokens[..., 0]].log()
        rest = self.transition[rows[..., None], tokens[..., :-1], tokens[..., 1:]].log()
        return first + rest.sum(2)

    def conditional(self, tokens: Tensor) -> Tensor:
        """Laws `[N, B, L, 4]` given `tokens` `[N, B, L]`, one-hot at unmasked positions.

        Raises:
            ValueError: tokens outside `[0, 4]` or of probability zero.
        """
        check_tokens("tokens", tokens, self.length)
        powers = self.powers
        known, spot = tokens != MASK, torch.arange(self.length, device=tokens.device)
        # Neighbours strictly to the left and to the right; -1 and L where there is none.
        seen = torch.where(known, spot, -1).cummax(2).values
        left = torch.nn.functional.pad(seen[..., :-1], (1, 0), value=-1)
        seen = torch.where(known, spot, self.length).flip(2).cummin(2).values.flip(2)
        right = torch.nn.functional.pad(seen[..., 1:], (0, 1), value=self.length)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None, None] % len(powers)
        before = tokens.gather(2, left.clamp(min=0))
        after = tokens.gather(2, right.clamp(max=self.length - 1))
        free = (self.start[:, None, :, None] * powers).sum(2)
        forward = torch.where(
            (left < 0)[..., None],
            free[rows, spot],
            powers[rows, spot - left.clamp(min=0), before.clamp(max=LETTERS - 1)],
        )
        backward = powers.mT[rows, right - spot, after.clamp(max=LETTERS - 1)]
        joint = forward * torch.where((right == self.length)[..., None], 1.0, backward)
        # At an unmasked token: its probability given its neighbours, which must not be zero.
        total = torch.where(known[..., None], joint * one_hot(tokens), joint).sum(3)
        refuse_impossible(tokens, total)
        return torch.where(known[..., None], one_hot(tokens), joint / total[..., None])
