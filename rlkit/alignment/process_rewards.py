"""Process rewards from outcomes: values of tokens and steps, and what they choose and blame.

A policy `psi` trained on outcomes is a reward `beta sum log(psi / pi_ref)` of responses, and then
also of their tokens: with `q_t` the sum up to token t, `q_t = beta log E[exp(reward / beta)]` over
the ways the reference may go on from there (Yuan et al. 2024, proposition 3.1).
"""

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge
from rlkit.protocol import Spec
from rlkit.tokens import Automaton, Responses, Rewards
from rlkit.tokens.data import Data
from rlkit.tokens.oracle import following

TIE = 1e-9  # scores that differ by less are equal


def check_outcomes(outcome: Tensor) -> None:
    """Refuse labels other than 0 and 1.

    Raises:
        ValueError: names replica and row.
    """
    wrong = (outcome != 0) & (outcome != 1)
    if bool(wrong.any()):
        replica, row = wrong.nonzero()[0].tolist()
        value = outcome[replica, row].item()
        raise ValueError(f"outcome of row {row}, replica {replica} is {value}; accepted: 0 or 1")


def check_labelled_problem(spec: Spec) -> None:
    """Refuse problems whose observed rewards cannot be labels.

    Raises:
        ValueError: token rewards, final rewards outside [0, 1], or an outcome between.
    """
    known = knowledge(spec)
    low, high = float(known.proxy.final.min()), float(known.proxy.final.max())
    if bool((known.proxy.token != 0).any()) or low < 0 or high > 1:
        raise ValueError(
            f"final rewards are {low} .. {high}, token rewards up to "
            f"{float(known.proxy.token.abs().max())}; accepted: outcomes 0 or 1 alone"
        )
    check_outcomes(known.data.outcome)


def step_values(reward: Tensor, mask: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of the steps of responses, and which there are, `[N, B, H]` each.

    Step k of a response is at place k; the other places hold 0.

    Args:
        reward: `[N, B, H]` of tokens, 0 where there is none.
        mask: `[N, B, H]` 1 for tokens of a response.
        start: `[N, H]` 1 where a step begins.
    """
    place = (start.to(torch.int64).cumsum(-1) - 1).clamp(min=0)
    place = place[:, None].expand(reward.shape)
    total = torch.zeros_like(reward).scatter_add(2, place, reward)
    tokens = torch.zeros_like(reward).scatter_add(2, place, mask.to(reward.dtype))
    return total, tokens > 0


def least(values: Tensor, there: Tensor) -> Tensor:
    """Smallest value `[N, B]` over the steps that there are, of `[N, B, H]`."""
    return torch.where(there, values, torch.inf).amin(-1)


def pick_best(score: Tensor, gold: Tensor, group: int) -> Tensor:
    """Mean gold reward `[N]` of the response with the highest score of each `group` neighbours.

    The first one of equals is taken, so that responses must come in an order without meaning.
    """
    best = (score / TIE).round().unflatten(1, (-1, group)).argmax(-1, keepdim=True)
    return gold.unflatten(1, (-1, group)).gather(-1, best).squeeze(-1).mean(1)


def elected(answer: Tensor, weight: Tensor, gold: Tensor, group: int) -> Tensor:
    """Mean gold reward `[N]` of the answer with the most votes of each `group` neighbours.

    Args:
        answer: `[N, B]` int64 of each response.
        weight: `[N, B]` of its vote.
        gold: `[N, B]` gold reward, a function of the answer.
        group: responses that vote together.
    """
    given = answer.unflatten(1, (-1, group))
    same = given[..., None, :] == given[..., None]
    votes = (same * weight.unflatten(1, (-1, group))[..., None, :]).sum(-1)
    return pick_best(votes.flatten(1), gold, group)


def first_mistake(sound: Tensor, responses: Responses) -> tuple[Tensor, Tensor]:
    """Where a response `[N, B]` first leaves the states `sound` `[N, Z]`, and whether it does."""
    state = responses.state
    right = sound.gather(1, state.flatten(1)).reshape(state.shape)
    wrong = right[..., :-1] & ~right[..., 1:]
    return wrong.to(torch.int8).argmax(-1), wrong.any(-1)


def found(values: Tensor, there: Tensor, place: Tensor, made: Tensor) -> Tensor:
    """Share `[N]` of mistakes that have the smallest value of their response; ties share.

    Args:
        values: `[N, B, H]` of tokens or steps.
        there: `[N, B, H]` bool: which exist.
        place: `[N, B]` of the first mistake.
        made: `[N, B]` bool: whether there is one; 0 is returned where none is.
    """
    lowest = there & (values <= least(values, there)[..., None] + TIE)
    hit = lowest.gather(-1, place[..., None]).squeeze(-1).to(values.dtype)
    share = made * hit / lowest.sum(-1).clamp(min=1)
    return share.sum(1) / made.sum(1).clamp(min=1)


def expected_outcome(automaton: Automaton, rewards: Rewards) -> Tensor:
    """Mean of what the reference still earns, `[N, H + 1, Z]`.

    With outcomes as rewards the label of a step that Wang et al. (2024), Math-Shepherd, estimate
    by completions.
    """
    law, values = automaton.reference.exp(), [rewards.final]
    for time in reversed(range(automaton.horizon)):
        paid = rewards.token[:, time] + following(automaton, values[-1], time)
        values.append((law[:, time] * paid).sum(-1))
    return torch.stack(values[::-1], 1)


def along(table: Tensor, responses: Responses) -> Tensor:
    """`table` `[N, H + 1, Z]` after each token of responses, `[N, B, H]`."""
    state = responses.state[..., 1:].transpose(1, 2)
    return table[:, 1:].gather(2, state).transpose(1, 2)


def outcome_head(data: Data, states: int) -> Tensor:
    """Share of successes by last state, one added on each side, `[N, Z]`.

    An outcome reward model with a scalar for every last state, at its mean under a uniform prior.
    """
    end, label = data.demonstration.state[..., -1], data.outcome
    zero = label.new_zeros(label.shape[0], states)
    good = zero.scatter_add(1, end, label)
    return (good + 1) / (zero.scatter_add(1, end, torch.ones_like(label)) + 2)


def prompts_to_keep(outcome: Tensor, group: int, low: float, high: float) -> Tensor:
    """1 for responses `[N, B]` to prompts whose share of successes is in `[low, high]`, else 0."""
    share = outcome.unflatten(1, (-1, group)).mean(-1, keepdim=True)
    keep = (share >= low) & (share <= high)
    return keep.expand(-1, -1, group).flatten(1).to(outcome.dtype)


def discounted(reward: Tensor, discount: float) -> Tensor:
    """Sums over this and later tokens, each `discount` times the one before, `[N, B, H]`."""
    total, out = torch.zeros_like(reward[..., 0]), []
    for time in reversed(range(reward.shape[-1])):
        total = reward[..., time] + discount * total
        out.append(total)
    return torch.stack(out[::-1], -1)


def token_means(reward: Tensor, mask: Tensor, group: int) -> Tensor:
    """Mean over the tokens of each response, `[N, B / group, group, 1]`."""
    mean = (reward * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return mean.unflatten(1, (-1, group))[..., None]


def leave_one_out_tokens(reward: Tensor, mask: Tensor, group: int) -> Tensor:
    """Token rewards minus the mean over the other responses of theirs, `[N, B, H]`.

    Cui et al. (2025), PRIME, equation 5; neighbours in groups of `group` >= 2.
    """
    mean = token_means(reward, mask, group)
    others = (mean.sum(2, keepdim=True) - mean) / (group - 1)
    return ((reward.unflatten(1, (-1, group)) - others).flatten(1, 2)) * mask


def released_leave_one_out(reward: Tensor, mask: Tensor, group: int) -> Tensor:
    """The same as the released code has it: `(reward - mean) / (group - 1)` is added, `[N, B, H]`.

    PRIME-RL/PRIME, `core_algos.compute_rloo_returns`: the token takes part in its own baseline.
    """
    all_of_them = token_means(reward, mask, group).sum(2, keepdim=True) / (group - 1)
    own = reward.unflatten(1, (-1, group)) * (group / (group - 1))
    return (own - all_of_them).flatten(1, 2) * mask


def largest_return(reward: Tensor, mask: Tensor) -> Tensor:
    """Largest size of a sum over this and later tokens, `[N, 1, 1]`; 1 where all are 0."""
    size = (discounted(reward * mask, 1.0) * mask).abs().amax((1, 2))[:, None, None]
    return torch.where(size > 0, size, torch.ones_like(size))
