"""What a token MDP discloses, and how batches of responses are cut and joined."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.protocol import Spec
from rlkit.random import Rng
from rlkit.tokens import Responses
from rlkit.tokens.problem import Data, TokenKnowledge

WORD = 2**31  # what a uniform number below a length is drawn from


def knowledge(spec: Spec) -> TokenKnowledge:
    """The token MDP.

    Raises:
        ValueError: the problem is none.
    """
    known: TokenKnowledge | None = spec.known.tokens
    if known is None:
        raise ValueError("the problem discloses no token MDP; the agent needs known.tokens")
    return known


def collected(spec: Spec, what: str) -> Data:
    """The data of the problem.

    Args:
        spec: of a token MDP.
        what: "pairs" or "demonstrations", of which there must be one at least.

    Raises:
        ValueError: there are none.
    """
    data = knowledge(spec).data
    count = (data.preferred if what == "pairs" else data.outcome).shape[1]
    if count == 0:
        raise ValueError(f"{what} = 0: the agent learns from them; accepted: [1, inf)")
    return data


def rows(batch: Responses, index: Tensor) -> Responses:
    """The responses `index` `[N, M]` of a batch."""

    def pick(leaf: Tensor) -> Tensor:
        tail = leaf.shape[2:]
        wide = index.reshape(*index.shape, *[1] * len(tail)).expand(*index.shape, *tail)
        return leaf.gather(1, wide)

    return Responses(*(pick(leaf) for leaf in batch))


def join(first: Responses, second: Responses) -> Responses:
    """Both batches as one, the first one first."""
    return Responses(*(torch.cat([a, b], 1) for a, b in zip(first, second, strict=True)))


def either(use_first: Tensor, first: Responses, second: Responses) -> Responses:
    """Of two batches of `B` responses the one that `use_first` `[N, B]` says."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(use_first.reshape(*use_first.shape, *[1] * (a.dim() - 2)), a, b)

    return Responses(*tree_map(pick, tuple(first), tuple(second)))


def places(tokens: Tensor, rng: Rng) -> Tensor:
    """A uniform place `0 .. tokens - 1` in each of some responses of `tokens` `[N, B]` int64."""
    return rng.integers("length", WORD, tokens.shape[1]) * tokens // WORD


def choose_rows(values: Tensor, index: Tensor) -> Tensor:
    """`values` `[N, M]` at `index` `[N, B]`."""
    return values.gather(1, index)
