"""Search for likely or valuable responses with tabular policies: greedy, and beams."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton
from rlkit.tokens.sequences import Responses
from rlkit.validation import check_integer


class Beams(NamedTuple):
    """The responses that a search kept to each prompt, the best first."""

    token: Tensor  # [N, X, W, H] int64
    state: Tensor  # [N, X, W, H + 1] int64
    score: Tensor  # [N, X, W]; -inf where there are fewer than W responses

    @property
    def responses(self) -> Responses:
        """All of them, `[N, X * W]`."""
        n, prompts, width, _ = self.token.shape
        prompt = torch.arange(prompts, device=self.token.device).repeat_interleave(width)
        prompt = prompt.expand(n, -1)
        token, state = self.token.flatten(1, 2), self.state.flatten(1, 2)
        return Responses(prompt, token, state, torch.zeros_like(prompt))

    @property
    def best(self) -> Responses:
        """The best to each prompt, `[N, X]`."""
        return Beams(self.token[:, :, :1], self.state[:, :, :1], self.score[:, :, :1]).responses


def at_states(table: Tensor, state: Tensor) -> Tensor:
    """Rows of `table` `[N, Z, ...]` at `state` `[N, X, W]`, `[N, X, W, ...]`."""
    row = torch.arange(len(table), device=state.device)[:, None, None]
    return table[row, state]


def kept(order: Tensor, leaf: Tensor) -> Tensor:
    """`leaf` `[N, X, C, ...]` at `order` `[N, X, W]`."""
    tail = leaf.shape[3:]
    index = order.reshape(*order.shape, *[1] * len(tail)).expand(*order.shape, *tail)
    return leaf.gather(2, index)


def best_first(score: Tensor, width: int) -> Tensor:
    """Indices of the `width` largest of the last dimension; the first of equals wins."""
    return torch.argsort(score, stable=True, dim=-1, descending=True)[..., :width]


def beam_search(
    automaton: Automaton,
    policy: Tensor,
    width: int,
    value: Tensor | None = None,
    proposals: int | None = None,
) -> Beams:
    """Beam search without length normalisation; `width` 1 is greedy.

    Args:
        automaton: the token MDP.
        policy: log-probabilities `[N, H, Z, V]`; prefixes are kept by their log-probability.
        width: prefixes kept, >= 1.
        value: `[N, H + 1, Z]`; prefixes are kept by the value of their state instead.
        proposals: continuations of a prefix that are looked at, the likeliest; None: all that the
            policy can write.

    Raises:
        ValueError: `width` or `proposals` below 1.
    """
    check_integer("width", width, 1)
    if proposals is not None:
        check_integer("proposals", proposals, 1)
    n, prompts = automaton.origin.shape
    size = automaton.vocabulary
    state = automaton.origin[..., None].expand(n, prompts, width)
    score = torch.full((n, prompts, width), -torch.inf, dtype=policy.dtype, device=policy.device)
    score = torch.cat([torch.zeros_like(score[..., :1]), score[..., 1:]], -1)
    token = torch.zeros(n, prompts, width, 0, dtype=torch.int64, device=policy.device)
    path = state[..., None]
    for time in range(automaton.horizon):
        law = at_states(policy[:, time], state)
        if proposals is not None and proposals < size:
            rank = torch.argsort(best_first(law, size), -1)
            law = torch.where(rank < proposals, law, -torch.inf)
        after = at_states(automaton.successor[:, time], state)
        candidate = (score[..., None] + law).flatten(2)
        key = candidate
        if value is not None:
            worth = at_states(value[:, time + 1], after.flatten(2)).to(policy.dtype)
            key = torch.where(candidate > -torch.inf, worth, -torch.inf)
        order = best_first(key, width)
        score, state = kept(order, candidate), kept(order, after.flatten(2))
        token = torch.cat([kept(order // size, token), (order % size)[..., None]], -1)
        path = torch.cat([kept(order // size, path), state[..., None]], -1)
    if value is not None:
        score = torch.where(score > -torch.inf, at_states(value[:, -1], state), score)
    return Beams(token, path, score)


def greedy(automaton: Automaton, policy: Tensor) -> Responses:
    """The likeliest token at every step, to each prompt: `[N, X]`."""
    return beam_search(automaton, policy, 1).best
