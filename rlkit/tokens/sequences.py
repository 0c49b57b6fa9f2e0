"""Responses in bulk: written by a tabular policy, scored, and read back.

A batch holds `B` responses a replica, `[N, B, H]`. A response may begin with tokens that are given
(a reset to a state of a data set); the policy writes the rest.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.tokens.automaton import Automaton, Rewards


class Responses(NamedTuple):
    """A batch of responses."""

    prompt: Tensor  # [N, B] int64
    token: Tensor  # [N, B, H] int64
    state: Tensor  # [N, B, H + 1] int64 automaton state before each token and at the end
    given: Tensor  # [N, B] int64 number of first tokens that were given


def look_up(table: Tensor, state: Tensor) -> Tensor:
    """Rows of `table` `[N, Z, ...]` at `state` `[N, B]`, `[N, B, ...]`."""
    tail = table.shape[2:]
    index = state.reshape(*state.shape, *[1] * len(tail)).expand(*state.shape, *tail)
    return table.gather(1, index)


def generate(
    automaton: Automaton,
    policy: Tensor,
    prompt: Tensor,
    rng: Rng,
    prefix: Tensor | None = None,
    given: Tensor | None = None,
    name: str = "token",
) -> Responses:
    """Write responses with a tabular policy.

    Args:
        automaton: the token MDP.
        policy: log-probabilities `[N, H, Z, V]`.
        prompt: `[N, B]` int64.
        rng: one uniform a token, `[N, B, H]`, whatever is given.
        prefix: `[N, B, H]` tokens of which the first `given` are kept.
        given: `[N, B]` int64 in `0 .. H`; None where nothing is given.
        name: of the draw.
    """
    batch = prompt.shape[1]
    u = rng.uniform(name, batch, automaton.horizon, dtype=policy.dtype)
    state = [automaton.origin.gather(1, prompt)]
    tokens = []
    for time in range(automaton.horizon):
        weight = look_up(policy[:, time], state[-1]).exp()
        cdf = torch.cumsum(weight, -1)
        token = (u[:, :, time, None] * cdf[..., -1:] >= cdf).sum(-1)
        token = token.clamp(max=automaton.vocabulary - 1)
        if prefix is not None and given is not None:
            token = torch.where(time < given, prefix[:, :, time], token)
        row = look_up(automaton.successor[:, time], state[-1])
        tokens.append(token)
        state.append(row.gather(-1, token[..., None]).squeeze(-1))
    none = torch.zeros_like(prompt) if given is None else given
    return Responses(prompt, torch.stack(tokens, -1), torch.stack(state, -1), none)


def walk(automaton: Automaton, prompt: Tensor, token: Tensor) -> Responses:
    """Read given responses `token` `[N, B, H]` to `prompt` `[N, B]`."""
    state = [automaton.origin.gather(1, prompt)]
    for time in range(automaton.horizon):
        row = look_up(automaton.successor[:, time], state[-1])
        state.append(row.gather(-1, token[..., time, None]).squeeze(-1))
    return Responses(prompt, token, torch.stack(state, -1), torch.zeros_like(prompt))


def at_tokens(table: Tensor, responses: Responses) -> Tensor:
    """`table` `[N, H, Z, V]` at the states and tokens of responses, `[N, B, H]`."""
    size = table.shape[-1]
    flat = table.flatten(2)
    index = responses.state[..., :-1] * size + responses.token
    return flat.gather(2, index.transpose(1, 2)).transpose(1, 2)


def log_probability(policy: Tensor, responses: Responses) -> Tensor:
    """Log-probability of each token, `[N, B, H]`, of a tabular policy `[N, H, Z, V]`."""
    return at_tokens(policy, responses)


def returns(rewards: Rewards, responses: Responses) -> Tensor:
    """Sum of the rewards of each response, `[N, B]`."""
    paid = at_tokens(rewards.token, responses).sum(-1)
    return paid + rewards.final.gather(1, responses.state[..., -1])


def first_error(sound: Tensor, responses: Responses) -> Tensor:
    """Position `[N, B]` of the token that made the first mistake; `H` where there is none.

    Args:
        sound: `[N, Z]` bool, states without a mistake so far.
        responses: `[N, B]`.
    """
    n, batch, _ = responses.state.shape
    fine = sound.gather(1, responses.state[..., 1:].flatten(1)).reshape(n, batch, -1)
    return torch.cumprod(fine.long(), -1).sum(-1)


def every_response(automaton: Automaton, limit: int = 1 << 20) -> Responses:
    """All sequences of tokens to every prompt, `[N, X * V**H]`, those of a prompt together.

    Some may hold illegal tokens: their reference probability is 0.

    Raises:
        ValueError: there are more than `limit`.
    """
    n, asked = automaton.origin.shape
    size, horizon = automaton.vocabulary, automaton.horizon
    count = size**horizon
    if asked * count > limit:
        raise ValueError(f"{asked * count} responses; accepted: at most {limit}")
    device = automaton.origin.device
    place = size ** torch.arange(horizon - 1, -1, -1, device=device)
    token = torch.arange(count, device=device)[:, None] // place % size
    prompt = torch.arange(asked, device=device).repeat_interleave(count).expand(n, -1)
    return walk(automaton, prompt, token.repeat(asked, 1).expand(n, -1, -1))


def prompts(automaton: Automaton, count: int, rng: Rng) -> Tensor:
    """Prompts `[N, count]` int64 from their law."""
    u = rng.uniform("prompt", count, dtype=torch.float64)
    cdf = torch.cumsum(automaton.prompt, 1).double()
    return (u[..., None] * cdf[:, None, -1:] >= cdf[:, None, :-1]).sum(-1)


def sample(
    automaton: Automaton, policy: Tensor, count: int, rng: Rng, prompt: Tensor | None = None
) -> Responses:
    """`count` responses of a policy, to fresh prompts unless given."""
    asked = prompts(automaton, count, rng) if prompt is None else prompt
    return generate(automaton, policy, asked, rng)
