"""Episodes that begin in the middle of a response, for the Gymnasium environments."""

import operator
from typing import Any

import torch
from torch import Tensor

from rlkit.tokens.data import read_tokens
from rlkit.tokens.sequences import walk
from rlkit.tokens.task import TokenKnowledge
from rlkit.validation import check_choice

OPTIONS = ("prefix", "prompt")


def integers(name: str, value: object, listed: Any) -> list[int]:
    """What is listed, as integers.

    Args:
        name: of the option.
        value: of the option, for the message.
        listed: to be read.

    Raises:
        ValueError: it is no list, or something in it is no integer.
    """
    try:
        return [operator.index(each) for each in listed]
    except TypeError:
        kind = "an integer" if name == "prompt" else "a list of integers"
        raise ValueError(f"{name} = {value!r}; accepted: {kind}") from None


def state_after(known: TokenKnowledge, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """State `[N]` and number `[N]` of tokens written, the same prompt and prefix in every row.

    Args:
        known: the token MDP.
        options: "prompt", a number (it may be left out where there is one prompt), and "prefix",
            a list of tokens (left out: none).

    Raises:
        ValueError: another option; no such prompt; a token that does not exist or that the
            reference never writes there, naming it and its position; a prefix that ends the
            response.
    """
    for name in options:
        check_choice("option", name, OPTIONS)
    automaton = known.automaton
    count = automaton.prompt.shape[1]
    prompt = options.get("prompt", 0 if count == 1 else None)
    if prompt is None:
        raise ValueError(f"prefix without a prompt; accepted: prompt 0 .. {count - 1}")
    given = options.get("prefix", ())
    (number,), prefix = integers("prompt", prompt, [prompt]), integers("prefix", given, given)
    token, length = read_tokens(automaton, [number], [prefix])
    path = walk(automaton, torch.full_like(length, number), token).state[:, 0]
    state, time = path[:, len(prefix)], length[:, 0].clone()
    if len(prefix) == automaton.horizon or bool(known.over.gather(1, state[:, None]).any()):
        raise ValueError(
            f"prefix of {len(prefix)} tokens ends the response; accepted: one that can go on"
        )
    return state, time
