"""Sequences with planted motifs: a Markov background that two short patterns may overwrite.

The law has full support, its log-probability is a sum over the placements of both motifs, and
sequences that carry a motif are at once natural and of high reward, as enhancers are in Wang et
al. 2024, "Fine-tuning discrete diffusion models via reward optimization" (DRAKES).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlkit.diffusion.checks import trusted
from rlkit.diffusion.masked import LETTERS, MarkovMask, check_tokens
from rlkit.diffusion.masked_chains import draw
from rlkit.diffusion.masked_tasks import BACKGROUND
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real

ALPHABET = "ACGT"
MOTIFS = ("GATAAG", "CACGTG")  # the core of GATA factors and the E-box
SHORTEST = 6
LONGEST = 200


def spell(word: str) -> Tensor:
    """Tokens `[W]` int64 of a word over A, C, G, T.

    Raises:
        ValueError: another letter, or no letter.
    """
    if not word or set(word) - set(ALPHABET):
        raise ValueError(f"word = {word!r}; accepted: one or more of the letters A, C, G, T")
    return torch.tensor([ALPHABET.index(letter) for letter in word])


def weights(word: str, consensus: float) -> Tensor:
    """Position weight matrix `[W, 4]` float64: `consensus` for the letters of a word.

    The other letters of a column share the rest equally.
    """
    match = (spell(word)[:, None] == torch.arange(LETTERS)).double()
    return match * consensus + (1 - match) * ((1 - consensus) / (LETTERS - 1))


def check_motifs(motifs: tuple[str, ...], length: int) -> None:
    """Accept two words over A, C, G, T of 1 to `length` letters.

    Raises:
        ValueError: another number of words, or a word that is none or too long.
    """
    if len(motifs) != 2:
        raise ValueError(f"motifs = {motifs}; accepted: two words")
    for word in motifs:
        spell(word)
        check_integer(f"letters of {word!r}", len(word), 1, length)


@dataclass(frozen=True)
class MotifLaw:
    """An order-1 Markov chain which motif 1 and then motif 2 overwrite, each with its own coin.

    Each motif is planted with probability `share`, independently, with its first letter uniform
    over the places where it fits; its letters are independent, the consensus with probability
    `1 - mutation`, each other letter with `mutation / 3`. What a motif covers of the background
    is lost (the chain goes on underneath), and where both overlap, the letters of motif 2 stay.
    """

    length: int = 30  # L in [6, 200]
    share: float = 0.3  # probability of each motif, in [0, 1]; 0 leaves the Markov chain
    mutation: float = 0.1  # probability that a planted letter is not the consensus, in (0, 1)
    motifs: tuple[str, ...] = MOTIFS  # consensus of both

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a field outside its range, or motifs that do not fit.
        """
        check_integer("length", self.length, SHORTEST, LONGEST)
        check_motifs(self.motifs, self.length)
        check_real("share", self.share, 0, 1)
        check_real("mutation", self.mutation, 0, 1, open_low=True, open_high=True)

    @cached_property
    def background(self) -> MarkovMask:
        """The law without motifs, with its exact denoiser; of one replica."""
        start = torch.full((1, LETTERS), 1 / LETTERS, dtype=torch.float64)
        return MarkovMask(start, torch.tensor([BACKGROUND], dtype=torch.float64), self.length)

    def background_on(self, device: torch.device) -> MarkovMask:
        """The law without motifs, on a device."""
        law = self.background
        if device == law.start.device:
            return law
        with trusted():
            return MarkovMask(law.start.to(device), law.transition.to(device), self.length)

    @cached_property
    def planted(self) -> tuple[Tensor, Tensor]:
        """Laws of the letters of both motifs, `[W, 4]` each."""
        first, second = (weights(word, 1 - self.mutation) for word in self.motifs)
        return first, second

    def sample(self, rng: Rng, name: str, count: int) -> Tensor:
        """Sequences `[N, count, L]` int64.

        Raises:
            ValueError: `count` < 1.
        """
        check_integer("count", count, 1)
        tokens = self._chain(rng, f"{name}/chain", count)
        spot = torch.arange(self.length, device=rng.device)
        for j, letters in enumerate(self.planted):
            width, law = len(letters), letters.to(rng.device)
            carried = rng.uniform(f"{name}/carried-{j}", count) < self.share
            first = rng.integers(f"{name}/place-{j}", self.length - width + 1, count)
            uniform = rng.uniform(f"{name}/letters-{j}", count, width, dtype=torch.float64)
            column = spot - first[..., None]
            written = draw(law, uniform).gather(2, column.clamp(0, width - 1))
            inside = (column >= 0) & (column < width) & carried[..., None]
            tokens = torch.where(inside, written, tokens)
        return tokens

    def _chain(self, rng: Rng, name: str, count: int) -> Tensor:
        law = self.background
        uniform = rng.uniform(name, count, self.length, dtype=torch.float64)
        transition = law.transition[0].to(rng.device)
        tokens = [draw(law.start[0].to(rng.device), uniform[..., 0])]
        for i in range(1, self.length):
            tokens.append(draw(transition[tokens[-1]], uniform[..., i]))
        return torch.stack(tokens, 2)

    def log_probability(self, tokens: Tensor) -> Tensor:
        """Log-probability `[N, B]` float64 of `tokens` `[N, B, L]` without a mask.

        Raises:
            ValueError: tokens outside `[0, 3]`.
        """
        check_tokens("tokens", tokens, self.length, LETTERS - 1)
        ratios = Placements(self, tokens.flatten(0, 1))
        plain = self.background_on(tokens.device).log_probability(tokens)
        return plain if self.share == 0 else plain + ratios.total().reshape(plain.shape)


def log_power(law: MarkovMask, steps: int) -> Tensor:
    """Log-probabilities of `steps` >= 1 transitions of one replica's chain, `[5, 5]`.

    Row 4 starts before the first token; column 4 asks for nothing, its entries are 0.
    """
    table = torch.zeros(LETTERS + 1, LETTERS + 1, dtype=torch.float64)
    first = law.start[0] @ law.powers[0, steps - 1]
    table[:, :LETTERS] = torch.cat([law.powers[0, steps], first[None]]).log()
    return table


@dataclass(frozen=True)
class Placements:
    """Ratios of the law given where the motifs are to the law without, for sequences `[R, L]`.

    Both motifs with a background letter between them have the product of their ratios, by the
    Markov property; only the few placements that touch or overlap are taken one by one.

    Attributes:
        law: of the sequences.
        tokens: `[R, L]` int64 in `[0, 3]`.
    """

    law: MotifLaw
    tokens: Tensor

    def total(self) -> Tensor:
        """Log of the sum over all placements, `[R]`."""
        share = self.law.share
        with_, without = math.log(share), math.log1p(-share) if share < 1 else -math.inf
        one, two = self.alone(0), self.alone(1)
        places = [math.log(one.shape[1]), math.log(two.shape[1])]
        both = torch.cat([self.apart(one, two), self.touching()], 1).logsumexp(1)
        cases = (
            torch.full_like(both, 2 * without),
            with_ + without - places[0] + one.logsumexp(1),
            with_ + without - places[1] + two.logsumexp(1),
            2 * with_ - sum(places) + both,
        )
        return torch.stack(cases).logsumexp(0)

    @cached_property
    def fit(self) -> tuple[Tensor, Tensor]:
        """Log-probability of each letter in each column of both motifs, `[R, L, W]`."""
        first, second = (
            letters.log().T.to(self.tokens.device)[self.tokens] for letters in self.law.planted
        )
        return first, second

    @cached_property
    def prefix(self) -> Tensor:
        """Log-probability under the background of the first 0, 1, ..., L letters, `[R, L + 1]`."""
        chain, tokens = self.law.background, self.tokens
        first = chain.start[0].to(tokens.device).log()[tokens[:, :1]]
        step = chain.transition[0].to(tokens.device).log()[tokens[:, :-1], tokens[:, 1:]]
        return torch.nn.functional.pad(torch.cat([first, step], 1).cumsum(1), (1, 0))

    def forgotten(self, width: int) -> Tensor:
        """Log-ratio of the background without a window to the background, `[R, L - width + 1]`."""
        edge = torch.nn.functional.pad(self.tokens, (1, 1), value=LETTERS)
        count = self.law.length - width + 1
        table = log_power(self.law.background, width + 1) if width < self.law.length else None
        # Letters just outside the window; where the window is all there is, nothing is left.
        if table is None:
            bridge = torch.zeros_like(self.prefix[:, :1])
        else:
            bridge = table.to(edge.device)[edge[:, :count], edge[:, width + 1 :]]
        end = torch.nn.functional.pad(self.prefix, (0, 1), mode="replicate")[:, width + 1 :]
        return bridge - (end - self.prefix[:, :count])

    def letters(self, motif: int, columns: range, first: int, count: int) -> Tensor:
        """Log-probability of some columns of a motif placed at `first` and following, `[R, count]`.

        Args:
            motif: 0 or 1.
            columns: of the motif.
            first: smallest place.
            count: number of places.
        """
        total = self.fit[motif].new_zeros(len(self.tokens), count)
        for column in columns:
            total = total + self.fit[motif][:, first + column : first + column + count, column]
        return total

    def alone(self, motif: int) -> Tensor:
        """Log-ratios of one motif at each place, `[R, L - W + 1]`."""
        width = len(self.law.planted[motif])
        ratio = self.forgotten(width)
        return ratio + self.letters(motif, range(width), 0, ratio.shape[1])

    def apart(self, one: Tensor, two: Tensor) -> Tensor:
        """Log-ratios of both motifs with a letter between them, motif 1 first and last, `[R, K]`.

        Args:
            one: of motif 1 alone, `[R, L - W + 1]`.
            two: of motif 2 alone.
        """
        widths = [len(letters) for letters in self.law.planted]
        orders = ((one, two, widths[0] + 1), (two, one, widths[1] + 1))
        return torch.cat(
            [
                before.logcumsumexp(1)[:, : after.shape[1] - shift] + after[:, shift:]
                for before, after, shift in orders
                if after.shape[1] > shift
            ]
            or [one[:, :0]],
            1,
        )

    def touching(self) -> Tensor:
        """Log-ratios of both motifs side by side or overlapping, motif 2 on top, `[R, K]`."""
        length, (one, two) = self.law.length, [len(letters) for letters in self.law.planted]
        ratios = []
        for shift in range(-two, one + 1):  # of motif 2 against motif 1
            left, right = min(0, shift), max(one, shift + two)
            count = length - (right - left) + 1
            if count < 1:
                continue
            # The window of both begins at 0, 1, ...; each motif begins a little later.
            top = self.letters(1, range(two), shift - left, count)
            under = self.forgotten(right - left) + top
            for column in (c for c in range(one) if not shift <= c < shift + two):
                under = under + self.letters(0, range(column, column + 1), -left, count)
            ratios.append(under)
        return torch.cat(ratios, 1)


def kmers(tokens: Tensor, k: int = 3) -> Tensor:
    """How often each word of `k` letters occurs in sequences `tokens` `[N, B, L]`, `[N, 4^k]`.

    Counts are summed over the sequences, in float64; words are in the order of their codes.

    Raises:
        ValueError: `k` outside `[1, L]`, or tokens outside `[0, 3]`.
    """
    length = tokens.shape[-1]
    check_integer("k", k, 1, length)
    check_tokens("tokens", tokens, length, LETTERS - 1)
    count = length - k + 1
    code = sum(LETTERS ** (k - 1 - j) * tokens[..., j : j + count] for j in range(k))
    flat = torch.as_tensor(code).flatten(1)
    total = torch.zeros(len(tokens), LETTERS**k, dtype=torch.float64, device=tokens.device)
    return total.scatter_add(1, flat, torch.ones_like(flat, dtype=torch.float64))


def kmer_correlation(tokens: Tensor, reference: Tensor, k: int = 3) -> Tensor:
    """Pearson correlation of the counts of words in samples and in a reference, `[N]`.

    The measure of naturalness in DRAKES: the reference holds the training sequences of the
    highest reward.

    Args:
        tokens: `[N, B, L]` int64 in `[0, 3]`.
        reference: `[N or 1, B', L']`.
        k: letters a word.

    Returns:
        `[N]` float64; NaN where all words are equally frequent on one side.

    Raises:
        ValueError: `k` or a token outside its range.
    """
    ours, theirs = kmers(tokens, k), kmers(reference, k)
    ours, theirs = ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    return (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1))
