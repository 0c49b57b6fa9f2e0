"""Preference games between whole responses, where these can be listed."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.games import bradley_terry_game
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.sequences import Responses, every_response, log_probability, returns

LARGEST = 4096  # responses


class ResponseGame(NamedTuple):
    """All responses to one prompt as the items of a game."""

    responses: Responses  # [N, L]
    reference: Tensor  # [N, L] probabilities
    preference: Tensor  # [N, L, L]


def response_game(
    automaton: Automaton, rewards: Rewards, prompt: int = 0, scale: float = 1.0
) -> ResponseGame:
    """The game of a Bradley-Terry judge between responses; put another `preference` in its place.

    A response that the reference never writes loses against every one that it does.

    Raises:
        ValueError: a prompt that does not exist, or more than 4096 responses.
    """
    count = automaton.prompt.shape[1]
    if not 0 <= prompt < count:
        raise ValueError(f"prompt = {prompt}; accepted: 0 .. {count - 1}")
    every = every_response(automaton, LARGEST * count)
    width = every.prompt.shape[1] // count
    chosen = slice(prompt * width, (prompt + 1) * width)
    listed = Responses(*(leaf[:, chosen] for leaf in every))
    law = torch.exp(log_probability(automaton.reference, listed).sum(-1))
    game = bradley_terry_game(returns(rewards, listed), scale)
    legal = (law > 0).to(game.dtype)
    lead = (legal[:, :, None] - legal[:, None] + 1) / 2  # 1 where only the first is legal
    both = legal[:, :, None] * legal[:, None]
    return ResponseGame(listed, law, torch.where(both > 0, game, lead))
