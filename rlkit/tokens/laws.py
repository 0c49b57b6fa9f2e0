"""Exact laws of the reward of a response, and what follows: win rates and best-of-n.

Rewards must be multiples of a step, so that the law is a vector over levels and the dynamic
program runs over (time, state, level).
"""

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.validation import check_integer, check_real

GRID = 1e-6  # by how much a reward may miss a multiple of the step


def levels_of(table: Tensor, step: float, name: str) -> Tensor:
    """Rewards as integer multiples of `step`."""
    scaled = table / step
    if bool(((scaled - scaled.round()).abs() > GRID).any()):
        raise ValueError(f"{name} rewards are no multiples of step = {step}")
    return scaled.round().long()


def reward_law(
    automaton: Automaton, rewards: Rewards, policy: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """Levels `[L]` and their probabilities `[N, X, L]` for each prompt.

    Args:
        automaton: the token MDP.
        rewards: multiples of `step`.
        policy: log-probabilities `[N, H, Z, V]`.
        step: of the reward grid, > 0.

    Raises:
        ValueError: `step` not positive, or a reward that is no multiple of it.
    """
    check_real("step", step, 0, open_low=True)
    token, final = levels_of(rewards.token, step, "token"), levels_of(rewards.final, step, "final")
    spread = token.flatten(2)
    least, most = spread.amin((0, 2)), spread.amax((0, 2))
    low = int(least.sum() + final.min())
    count = int(most.sum() + final.max()) - low + 1
    n, prompts = automaton.origin.shape
    states = automaton.states
    level = torch.arange(count, device=policy.device)
    law = torch.zeros(n, prompts, states * count, dtype=policy.dtype, device=policy.device)
    first = automaton.origin[..., None] * count
    law = law.scatter(2, first, torch.ones_like(first, dtype=policy.dtype))
    for time in range(automaton.horizon):
        # Levels are counted from the least total so far.
        rise = (level + (token[:, time] - least[time])[..., None]).clamp(max=count - 1)
        target = automaton.successor[:, time, ..., None] * count + rise
        flow = law.reshape(n, prompts, states, 1, count) * policy[:, time, None, :, :, None].exp()
        index = target[:, None].expand(flow.shape)
        law = torch.zeros_like(law).scatter_add(2, index.flatten(2), flow.flatten(2))
    end = (level + (final - final.min())[..., None]).clamp(max=count - 1)
    index = end[:, None].expand(n, prompts, states, count).flatten(2)
    total = torch.zeros(n, prompts, count, dtype=law.dtype, device=law.device)
    return (level + low).to(law.dtype) * step, total.scatter_add(2, index, law)


def win_rate(first: Tensor, second: Tensor) -> Tensor:
    """Probability that a draw of `first` beats one of `second` `[..., L]`, ties a half."""
    below = torch.cumsum(second, -1) - second
    return (first * (below + second / 2)).sum(-1)


def best_of_law(law: Tensor, count: int) -> Tensor:
    """Law of the best of `count` independent draws from `law` `[..., L]`.

    Raises:
        ValueError: `count` below 1.
    """
    check_integer("count", count, 1)
    up_to = torch.cumsum(law, -1)
    power = torch.ones_like(up_to)
    for _ in range(count):
        power = power * up_to
    return torch.diff(power, dim=-1, prepend=torch.zeros_like(power[..., :1]))


def best_of_responses(reward: Tensor, law: Tensor, count: int) -> Tensor:
    """Law of the best of `count` responses, ties broken at random; `[..., L]`.

    A level of reward has mass `F**n - G**n`, `F` and `G` the masses up to and below it, and is
    shared in the proportions of `law`: `F**n - G**n = (F - G) (F**(n-1) + F**(n-2) G + ...)`.

    Args:
        reward: of each response `[..., L]`.
        law: probability of each response.
        count: responses drawn, >= 1.

    Raises:
        ValueError: `count` below 1.
    """
    check_integer("count", count, 1)
    ordered, order = torch.sort(reward, -1)
    mass = torch.cumsum(law.gather(-1, order), -1)
    padded = torch.cat([torch.zeros_like(mass[..., :1]), mass], -1)
    value = reward.contiguous()
    up_to = padded.gather(-1, torch.searchsorted(ordered, value, right=True))
    below = padded.gather(-1, torch.searchsorted(ordered, value))
    # Not as a quotient: responses of tiny probability have `F = G` in floating point.
    total, power = torch.ones_like(law), torch.ones_like(law)
    for _ in range(count - 1):
        power = power * below
        total = total * up_to + power
    return law * total


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """`KL(first || second)` of laws over the last dimension, nats."""
    ratio = torch.log(first) - torch.log(second)
    return torch.where(first > 0, first * ratio, torch.zeros_like(first)).sum(-1)


def pass_at_k(chance: Tensor, prompt: Tensor, count: int) -> Tensor:
    """Probability `[N]` that one at least of `count` responses to a prompt succeeds.

    Args:
        chance: of success of a response to each prompt, `[N, X]` in [0, 1].
        prompt: probabilities of the prompts `[N, X]`.
        count: responses, >= 1.

    Raises:
        ValueError: `count` below 1.
    """
    check_integer("count", count, 1)
    # Sums of probabilities may exceed 1 by a rounding.
    failure = torch.log1p(-chance.clamp(max=1))
    return -(prompt * torch.expm1(count * failure)).sum(1)
