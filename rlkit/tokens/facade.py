"""Episodes that begin in the middle of a response, for the Gymnasium environments."""

from typing import Any

import torch
from torch import Tensor

from rlkit.tokens.data import read_tokens
from rlkit.tokens.sequences import walk
from rlkit.tokens.task import TokenKnowledge


def state_after(known: TokenKnowledge, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """State `[N]` and number `[N]` of tokens written, the same prompt and prefix in every row.

    Args:
        known: the token MDP.
        options: "prompt", a number (it may be left out where there is one prompt), and "prefix",
            a list of tokens (left out: none).

    Raises:
        ValueError: no such prompt; a token that does not exist or that the reference never writes
            there, naming it and its position; a prefix that ends the response.
    """
    automaton = known.automaton
    count = automaton.prompt.shape[1]
    prompt = options.get("prompt", 0 if count == 1 else None)
    if prompt is None:
        raise ValueError(f"prefix without a prompt; accepted: prompt 0 .. {count - 1}")
    prefix = [int(token) for token in options.get("prefix", ())]
    token, length = read_tokens(automaton, [int(prompt)], [prefix])
    path = walk(automaton, torch.full_like(length, int(prompt)), token).state[:, 0]
    state, time = path[:, len(prefix)], length[:, 0].clone()
    if len(prefix) == automaton.horizon or bool(known.over.gather(1, state[:, None]).any()):
        raise ValueError(
            f"prefix of {len(prefix)} tokens ends the response; accepted: one that can go on"
        )
    return state, time
