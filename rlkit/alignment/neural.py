"""Policies and critics that generalise: n-grams and transformers.

Their outputs are added to the reference's log-probabilities and start as zeros: the policy starts
as the reference, illegal tokens stay illegal, and padding, the only legal token after an end,
keeps log-probability 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.alignment.knowledge import knowledge
from rlkit.alignment.policies import AutomatonReference, written
from rlkit.networks.linear import Affine, affine, embed, start_affine, start_table
from rlkit.networks.transformer import (
    DEVIATION,
    Transformer,
    empty_cache,
    forward,
    forward_step,
    start_transformer,
)
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses
from rlkit.tokens.sequences import look_up

Writer = Callable[[list[Tensor]], Tensor]  # tokens so far [N, B] -> outputs for the next [N, B, V]


class NeuralPolicy(AutomatonReference):
    """What policies share that add outputs to the reference; they define `outputs`, `writer`."""

    exact: ClassVar[bool] = False

    def outputs(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """What is added to the reference's log-probabilities, `[N, B, H, V]`."""
        raise NotImplementedError(f"{type(self).__name__} has no outputs")

    def writer(self, spec: Spec, parameters: Tree, prompt: Tensor) -> Writer:
        """The same token by token, for responses to `prompt` `[N, B]`."""
        raise NotImplementedError(f"{type(self).__name__} has no writer")

    def laws(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens where each is written `[N, B, H, V]`."""
        outputs = self.outputs(spec, parameters, responses)
        return torch.log_softmax(self.reference_laws(spec, responses) + outputs, -1)

    def score(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probability of each token `[N, B, H]`, 0 after the end."""
        laws = self.laws(spec, parameters, responses)
        return laws.gather(-1, responses.token[..., None]).squeeze(-1)

    @torch.no_grad()
    def write(
        self,
        spec: Spec,
        parameters: Tree,
        prompt: Tensor,
        rng: Rng,
        prefix: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Responses:
        """Responses to `prompt` `[N, B]`; arguments as `rlkit.tokens.generate`."""
        automaton = knowledge(spec).automaton
        dtype, size = automaton.reference.dtype, automaton.vocabulary
        shape = (prompt.shape[1], automaton.horizon)
        u = rng.uniform("token", *shape, dtype=dtype).contiguous()
        following = self.writer(spec, parameters, prompt)
        row = torch.arange(rng.n, device=rng.device)[:, None]
        state, tokens = [automaton.origin.gather(1, prompt)], list[Tensor]()
        for time in range(automaton.horizon):
            law = automaton.reference[row, time, state[-1]] + following(tokens)
            cdf = torch.cumsum(torch.softmax(law, -1), -1)
            token = torch.searchsorted(cdf, u[:, :, time, None] * cdf[..., -1:], right=True)
            token = token.squeeze(-1).clamp(max=size - 1)
            if prefix is not None and given is not None:
                token = torch.where(time < given, prefix[:, :, time], token)
            tokens.append(token)
            state.append(automaton.successor[row, time, state[-1], token])
        none = torch.zeros_like(prompt) if given is None else given
        return Responses(prompt, torch.stack(tokens, -1), torch.stack(state, -1), none)

    def table(self, parameters: Tree) -> Tensor:
        """Refused: the policy need not be a function of time and state.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{type(self).__name__} has no table; accepted: policies with exact")


@dataclass(frozen=True)
class NGramPolicy(NeuralPolicy):
    """Outputs `[N, C, V]` by the last `order` tokens; `C = (V + 1) ** order`, time plays no part.

    The words of the prompt count as tokens; before them there is a mark of its own.
    """

    order: int  # tokens that are seen, >= 1

    def start(self, spec: Spec, rng: Rng) -> Tensor:
        """Zeros."""
        reference = knowledge(spec).automaton.reference
        size = reference.shape[-1]
        return reference.new_zeros(reference.shape[0], (size + 1) ** self.order, size)

    def outputs(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """What is added to the reference's log-probabilities, `[N, B, H, V]`."""
        size, first = knowledge(spec).automaton.vocabulary, words(spec, responses.prompt)
        seen = contexts(torch.cat([first, responses.token[..., :-1]], -1), self.order, size)
        return embed(parameters, seen[:, :, first.shape[-1] :])

    def writer(self, spec: Spec, parameters: Tree, prompt: Tensor) -> Writer:
        """The same token by token."""
        size, first = knowledge(spec).automaton.vocabulary, words(spec, prompt)

        def following(tokens: list[Tensor]) -> Tensor:
            recent = [token[..., None] for token in tokens[-self.order :]]
            seen = contexts(torch.cat([first, *recent], -1), self.order, size)
            return embed(parameters, seen[..., -1])

        return following


def words(spec: Spec, prompt: Tensor) -> Tensor:
    """Words of `prompt` `[N, B]`, `[N, B, P]`."""
    return look_up(knowledge(spec).prompt_tokens, prompt)


def contexts(token: Tensor, order: int, size: int) -> Tensor:
    """Number of the last `order` tokens before each place of `token` `[N, B, L]`, and at its end.

    Returns:
        `[N, B, L + 1]` int64 in `[0, (size + 1) ** order)`; 0 where there are none.
    """
    mark = functional.pad(token + 1, (order, 0))
    index = torch.zeros_like(mark[..., order - 1 :])
    for back in range(order, 0, -1):
        first = order - back
        index = index * (size + 1) + mark[..., first : first + index.shape[-1]]
    return index


class Reader(NamedTuple):
    """A transformer that reads a prompt and what was written so far; leaves lead with `N`."""

    prompt: Tensor | tuple[()]  # [N, X, D] embeddings of prompts without words
    token: Tensor  # [N, V, D]
    body: Transformer
    head: Affine  # D -> outputs


def start_reader(spec: Spec, rng: Rng, width: int, layers: int, outputs: int) -> Reader:
    """Initial weights; all outputs are 0."""
    known = knowledge(spec)
    count, asked = known.prompt_tokens.shape[1:]
    size, length = known.automaton.vocabulary, max(asked, 1) + known.automaton.horizon - 1
    return Reader(
        () if asked else start_table(rng, "prompt", count, width, DEVIATION),
        start_table(rng, "token", size, width, DEVIATION),
        start_transformer(rng, length, width, layers),
        start_affine(rng, "head", width, outputs, 0.0),
    )


def opening(spec: Spec, parameters: Reader, prompt: Tensor) -> Tensor:
    """Embeddings of the words of `prompt` `[N, B]`, or of itself, `[N, B, P, D]`."""
    if isinstance(parameters.prompt, Tensor):
        return embed(parameters.prompt, prompt)[:, :, None]
    return embed(parameters.token, words(spec, prompt))


def read(spec: Spec, parameters: Reader, responses: Responses, heads: int) -> Tensor:
    """Outputs of the head before each token, `[N, B, H, outputs]`."""
    first = opening(spec, parameters, responses.prompt)
    inputs = torch.cat([first, embed(parameters.token, responses.token[..., :-1])], 2)
    hidden = forward(parameters.body, inputs, heads)
    return affine(parameters.head, hidden[:, :, first.shape[2] - 1 :])


@dataclass(frozen=True)
class TransformerPolicy(NeuralPolicy):
    """Outputs of a causal transformer that reads prompt and response."""

    width: int  # of the stream, a multiple of `heads`
    layers: int  # >= 1
    heads: int  # of attention, >= 1

    def start(self, spec: Spec, rng: Rng) -> Reader:
        """Initial weights; all outputs are 0."""
        size = knowledge(spec).automaton.vocabulary
        return start_reader(spec, rng.child("policy"), self.width, self.layers, size)

    def outputs(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """What is added to the reference's log-probabilities, `[N, B, H, V]`."""
        return read(spec, parameters, responses, self.heads)

    def writer(self, spec: Spec, parameters: Tree, prompt: Tensor) -> Writer:
        """The same token by token, with a cache."""
        first = opening(spec, parameters, prompt)
        cache = empty_cache(parameters.body, prompt.shape[1], self.heads)
        before = first.shape[2] - 1
        for position in range(before):
            forward_step(parameters.body, first[:, :, position], cache, position, self.heads)

        def following(tokens: list[Tensor]) -> Tensor:
            x = embed(parameters.token, tokens[-1]) if tokens else first[:, :, -1]
            position = before + len(tokens)
            hidden = forward_step(parameters.body, x, cache, position, self.heads)
            return affine(parameters.head, hidden)

        return following


@dataclass(frozen=True)
class TransformerCritic:
    """The value that a causal transformer reads off prompt and response."""

    width: int  # of the stream, a multiple of `heads`
    layers: int  # >= 1
    heads: int  # of attention, >= 1

    def start(self, spec: Spec, rng: Rng) -> Reader:
        """Initial weights; all values are 0."""
        return start_reader(spec, rng.child("critic"), self.width, self.layers, 1)

    def values(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Value before each token `[N, B, H]`, 0 after the end."""
        value = read(spec, parameters, responses, self.heads).squeeze(-1)
        return value * written(spec, responses)
