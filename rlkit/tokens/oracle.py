"""Exact optimum and exact evaluation on a token MDP, by dynamic programming over (time, state).

The objective is `J(pi) = E_pi[sum r - beta log(pi / pi_ref)]`, `beta > 0`, in the units of reward.
Policies are tables of log-probabilities `[N, H, Z, V]`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.validation import check_real


class Optimum(NamedTuple):
    """The policy that maximises reward minus `beta` times the divergence from the reference."""

    value: Tensor  # [N, H + 1, Z] beta log E_ref exp(rest of the reward / beta)
    q: Tensor  # [N, H, Z, V] reward of the token and value of its successor, without log pi_ref
    policy: Tensor  # [N, H, Z, V] log-probabilities


class Evaluation(NamedTuple):
    """Exact expectations over prompts and responses, `[N]` each."""

    reward: Tensor
    kl: Tensor  # KL(policy || reference) of responses, nats
    reverse_kl: Tensor  # KL(reference || policy)
    entropy: Tensor  # of responses, nats
    objective: Tensor  # reward - beta kl


def following(automaton: Automaton, value: Tensor, time: int) -> Tensor:
    """`value` `[N, Z]` at the successor of every state and token, `[N, Z, V]`."""
    table = automaton.successor[:, time]
    return value.gather(1, table.reshape(table.shape[0], -1)).reshape(table.shape)


def soft_optimum(automaton: Automaton, rewards: Rewards, beta: float) -> Optimum:
    """Soft backward induction: `pi* = pi_ref exp((Q - V) / beta)`.

    Raises:
        ValueError: `beta` not positive.
    """
    check_real("beta", beta, 0, open_low=True)
    values, q = [rewards.final], []
    for time in reversed(range(automaton.horizon)):
        q.append(rewards.token[:, time] + following(automaton, values[-1], time))
        weight = automaton.reference[:, time] + q[-1] / beta
        values.append(beta * torch.logsumexp(weight, -1))
    value, table = torch.stack(values[::-1], 1), torch.stack(q[::-1], 1)
    policy = automaton.reference + (table - value[:, :-1, :, None]) / beta
    return Optimum(value, table, policy)


def state_values(automaton: Automaton, rewards: Rewards, policy: Tensor) -> Tensor:
    """Expected rest of the reward under `policy`, `[N, H + 1, Z]`.

    With rewards 0 or 1 at the end it is the probability of success after each prefix.
    """
    values = [rewards.final]
    for time in reversed(range(automaton.horizon)):
        q = rewards.token[:, time] + following(automaton, values[-1], time)
        law = policy[:, time].exp()
        values.append(torch.where(law > 0, law * q, torch.zeros_like(q)).sum(-1))
    return torch.stack(values[::-1], 1)


def by_prompt(automaton: Automaton, value: Tensor) -> Tensor:
    """`value` `[N, H + 1, Z]` at the empty response to each prompt, `[N, X]`."""
    return value[:, 0].gather(1, automaton.origin)


def occupancy(automaton: Automaton, policy: Tensor) -> Tensor:
    """Law of the state at every time, `[N, H + 1, Z]`."""
    law = [automaton.start.to(policy.dtype)]
    for time in range(automaton.horizon):
        flow = law[-1][..., None] * policy[:, time].exp()
        table = automaton.successor[:, time].flatten(1)
        law.append(torch.zeros_like(law[-1]).scatter_add(1, table, flow.flatten(1)))
    return torch.stack(law, 1)


def expectation(automaton: Automaton, policy: Tensor, law: Tensor, score: Tensor) -> Tensor:
    """Expected sum of `score` `[N, H, Z, V]` over a response, `[N]`; tokens of no mass count 0."""
    weight = law[:, :-1, :, None] * policy.exp()
    return torch.where(weight > 0, weight * score, torch.zeros_like(weight)).sum((1, 2, 3))


def sequence_kl(automaton: Automaton, first: Tensor, second: Tensor) -> Tensor:
    """`E_x KL(first || second)` of responses `[N]`: the sum over time of the conditional ones.

    Infinite where `first` writes a token that `second` never does.
    """
    return expectation(automaton, first, occupancy(automaton, first), first - second)


def expected_reward(automaton: Automaton, rewards: Rewards, policy: Tensor, law: Tensor) -> Tensor:
    """Expected reward of a response `[N]` under a policy with occupancy `law` `[N, H + 1, Z]`."""
    paid = expectation(automaton, policy, law, rewards.token)
    return paid + (law[:, -1] * rewards.final).sum(1)


def evaluate(automaton: Automaton, rewards: Rewards, policy: Tensor, beta: float) -> Evaluation:
    """Expected reward, both divergences from the reference, entropy and objective of `policy`.

    Raises:
        ValueError: `beta` not positive.
    """
    check_real("beta", beta, 0, open_low=True)
    law = occupancy(automaton, policy)
    paid = expected_reward(automaton, rewards, policy, law)
    kl = expectation(automaton, policy, law, policy - automaton.reference)
    reverse = sequence_kl(automaton, automaton.reference, policy)
    entropy = expectation(automaton, policy, law, -policy)
    return Evaluation(paid, kl, reverse, entropy, paid - beta * kl)


def gaps(automaton: Automaton, rewards: Rewards) -> tuple[Tensor, Tensor]:
    """Cost of every token against the best continuation `[N, H, Z, V]`, and the best value `[N]`.

    Tokens that the reference never writes are illegal and cost infinitely much.
    """
    value, table = rewards.final, []
    for time in reversed(range(automaton.horizon)):
        q = rewards.token[:, time] + following(automaton, value, time)
        q = torch.where(automaton.reference[:, time] > -torch.inf, q, -torch.inf)
        value = q.amax(-1)
        table.append(value[..., None] - q)
    return torch.stack(table[::-1], 1), (automaton.start * value).sum(1)
