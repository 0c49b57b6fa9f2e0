"""Preferences as token tensors: what agents know of a task that a language model sets.

There is one replica. The automaton has one state and tells prompts and horizon only: neither the
reference nor an optimum is known as a table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.lm.data import Preferences
from rlkit.lm.model import LanguageModel
from rlkit.protocol import Discrete, Known, Spec
from rlkit.tokens import Automaton, Responses, Rewards
from rlkit.tokens.data import Data
from rlkit.validation import check_integer


class LanguageKnowledge(NamedTuple):
    """What such a task discloses: the fields of a token MDP's knowledge, and the model."""

    automaton: Automaton  # one state; `prompt` [1, X] is uniform
    rewards: Rewards  # zeros: there is no gold reward
    data: Data
    proxy: Rewards  # zeros
    prompt_tokens: Tensor  # [1, X, P] int64, padded on the left
    prompt_length: Tensor  # [1, X] int64 tokens of each prompt
    step_start: Tensor  # [1, H] ones
    sound: Tensor  # [1, 1] true
    language: LanguageModel
    prompts: tuple[str, ...]  # the same prompts as text

    @property
    def horizon(self) -> int:
        """Most tokens of a response, its end included."""
        return self.automaton.horizon


def language_knowledge(spec: Spec) -> LanguageKnowledge:
    """What a task with a language model discloses.

    Raises:
        ValueError: the problem has no language model.
    """
    known = spec.known.tokens
    if not isinstance(known, LanguageKnowledge):
        raise ValueError("policy = 'lm': the problem has no language model; see rlkit lm train")
    return known


class Encoder:
    """Turns texts into rows of tokens, each prompt once.

    Args:
        language: the model and its tokenizer.
        horizon: most tokens of a response, its end included.
    """

    def __init__(self, language: LanguageModel, horizon: int) -> None:
        self.language, self.horizon = language, horizon
        self.numbers: dict[str, int] = {}
        self.prompts: list[list[int]] = []

    def prompt(self, place: str, text: str) -> int:
        """Number of a prompt.

        Raises:
            ValueError: it has no token, or leaves no room for the horizon in the model's context;
                names the place.
        """
        if text not in self.numbers:
            room = self.language.context - self.horizon
            tokens = self.language.encode(text, opening=True)
            if tokens[-1:] == [self.language.end]:  # some tokenizers close every text
                tokens = tokens[:-1]
            if not tokens:
                raise ValueError(f"{place}: the prompt has no tokens; accepted: one or more")
            if len(tokens) > room:
                raise ValueError(
                    f"{place}: the prompt has {len(tokens)} tokens; accepted: at most {room}, the "
                    f"context of {self.language.context} less the horizon of {self.horizon}"
                )
            self.numbers[text] = len(self.prompts)
            self.prompts.append(tokens)
        return self.numbers[text]

    def response(self, place: str, text: str) -> list[int]:
        """Tokens of a response with its end, padded to the horizon.

        Raises:
            ValueError: it has no token, holds the end token, or is longer than the horizon.
        """
        tokens = self.language.encode(text)
        if not tokens:
            raise ValueError(f"{place}: a response has no tokens; accepted: one or more")
        if self.language.end in tokens:
            raise ValueError(f"{place}: a response holds the end token; accepted: text without it")
        if len(tokens) + 1 > self.horizon:
            raise ValueError(
                f"{place}: a response has {len(tokens) + 1} tokens with its end; "
                f"accepted: at most the horizon, {self.horizon}"
            )
        filling = [self.language.pad] * (self.horizon - len(tokens) - 1)
        return [*tokens, self.language.end, *filling]

    def responses(self, rows: Sequence[tuple[str, str, str]]) -> Responses:
        """Rows of (place, prompt, response) as a batch of one replica."""
        device = next(self.language.module.parameters()).device
        number = [self.prompt(place, prompt) for place, prompt, _ in rows]
        token = [self.response(place, response) for place, _, response in rows]
        count = len(rows)
        asked = torch.tensor(number, dtype=torch.int64, device=device)[None]
        written = torch.tensor(token, dtype=torch.int64, device=device)
        state = torch.zeros(1, count, self.horizon + 1, dtype=torch.int64, device=device)
        return Responses(
            asked, written.reshape(1, count, self.horizon), state, torch.zeros_like(asked)
        )


def make_spec(language: LanguageModel, preferences: Preferences, horizon: int) -> Spec:
    """The task of a file of preferences.

    Comparisons are pairs, and their preferred responses demonstrations of outcome 1; verdicts are
    demonstrations whose outcome is the label.

    Args:
        language: the model, which is also the reference.
        preferences: of a file.
        horizon: most tokens of a response, its end included, >= 2.

    Raises:
        ValueError: as `Encoder`, or a horizon that leaves no room for a prompt.
    """
    check_integer("horizon", horizon, 2, language.context - 1)
    encoder, compared = Encoder(language, horizon), preferences.comparisons
    first = encoder.responses([(c.place, c.prompt, c.chosen) for c in compared])
    second = encoder.responses([(c.place, c.prompt, c.rejected) for c in compared])
    judged = encoder.responses([(v.place, v.prompt, v.response) for v in preferences.verdicts])
    device = first.token.device
    label = torch.tensor([v.desirable for v in preferences.verdicts], device=device).double()[None]
    ones = torch.ones(1, len(compared), dtype=torch.float64, device=device)
    shown = Responses(*(torch.cat(pair, 1) for pair in zip(first, judged, strict=True)))
    data = Data(shown, torch.cat([ones, label], 1), first, second, ones)
    known = disclose(encoder, data)
    return Spec(Discrete(1), Discrete(known.automaton.vocabulary), horizon, Known(tokens=known))


def disclose(encoder: Encoder, data: Data) -> LanguageKnowledge:
    """Prompts `[1, X, P]` padded on the left, and tables of one state."""
    language, device = encoder.language, data.outcome.device
    count, longest = len(encoder.prompts), max(map(len, encoder.prompts))
    rows = [[language.pad] * (longest - len(row)) + row for row in encoder.prompts]
    length = torch.tensor([[len(row) for row in encoder.prompts]], device=device)
    uniform = torch.full((1, count), 1 / count, dtype=torch.float64, device=device)
    size = int(language.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    shape = (1, encoder.horizon, 1, size)
    number = torch.zeros((), dtype=torch.int64, device=device)
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    automaton = Automaton(
        uniform, number.expand(1, count), number.expand(shape), nothing.expand(shape)
    )
    none = Rewards(nothing.expand(shape), nothing.expand(1, 1))
    return LanguageKnowledge(
        automaton, none, data, none, torch.tensor([rows], device=device), length,
        torch.ones(1, encoder.horizon, dtype=torch.float64, device=device),
        torch.ones(1, 1, dtype=torch.bool, device=device), language, tuple(encoder.numbers),
    )  # fmt: skip
