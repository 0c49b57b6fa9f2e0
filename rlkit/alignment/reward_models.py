"""Tabular reward models: fitted to comparisons, read as rewards, measured exactly.

A model is one table: rewards of final states `[N, Z]` ("final") or of tokens `[N, H, Z, V]`
("token"). Comparisons see rewards up to a constant for each prompt, in units in which the
comparisons' inverse temperature is 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.knowledge import collected, knowledge
from rlkit.preferences import bradley_terry, bradley_terry_nll
from rlkit.protocol import Spec
from rlkit.tokens import Automaton, Responses, Rewards
from rlkit.tokens.oracle import following
from rlkit.validation import check_choice

SOURCES = ("observed", "final_model", "token_model")
KINDS = ("final", "token")
RIDGE = 1.0  # on the sum of log-likelihoods: a standard normal prior
NEWTON, CONJUGATE = 15, 60  # steps of the fit, and of the linear solves within
HALVINGS = 6  # of a Newton step that goes too far


class Comparisons(NamedTuple):
    """Which entries of the flat table `[N, F]` each compared response collects."""

    first: Tensor  # [N, P, K] int64
    second: Tensor  # [N, P, K] int64
    preferred: Tensor  # [N, P] in [0, 1]


def blank(spec: Spec, kind: str) -> Tensor:
    """A table of zeros, `[N, Z]` or `[N, H, Z, V]`.

    Raises:
        ValueError: an unknown kind.
    """
    check_choice("kind", kind, KINDS)
    rewards = knowledge(spec).rewards
    like = rewards.final if kind == "final" else rewards.token
    return torch.zeros(like.shape, dtype=torch.float64, device=like.device)


def table_rewards(spec: Spec, table: Tensor) -> Rewards:
    """The table `[N, Z]` or `[N, H, Z, V]` as rewards."""
    if table.dim() == 2:
        return Rewards(blank(spec, "token"), table)
    return Rewards(table, blank(spec, "final"))


def believed(spec: Spec, table: Tensor) -> Spec:
    """`spec` with the model as its proxy."""
    tokens = knowledge(spec)._replace(proxy=table_rewards(spec, table))
    return replace(spec, known=spec.known._replace(tokens=tokens))


def entries(automaton: Automaton, kind: str, responses: Responses) -> Tensor:
    """Entries of the flat table that responses collect, `[N, B, K]`: one, or one a token."""
    if kind == "final":
        return responses.state[..., -1:]
    time = torch.arange(automaton.horizon, device=responses.token.device)
    place = time * automaton.states + responses.state[..., :-1]
    return place * automaton.vocabulary + responses.token


def comparisons(spec: Spec, kind: str) -> Comparisons:
    """All that were collected.

    Raises:
        ValueError: there are none.
    """
    data, automaton = collected(spec, "pairs"), knowledge(spec).automaton
    first, second = (entries(automaton, kind, side) for side in (data.first, data.second))
    return Comparisons(first, second, data.preferred)


def margin(flat: Tensor, seen: Comparisons) -> Tensor:
    """Reward of the first minus that of the second response of each pair, `[N, P]`."""
    first, second = (flat.gather(1, side.flatten(1)) for side in (seen.first, seen.second))
    return (first - second).unflatten(1, seen.first.shape[1:]).sum(-1)


def spread(weight: Tensor, seen: Comparisons, size: int) -> Tensor:
    """The transpose of `margin`: `weight` `[N, P]` back on the flat table `[N, size]`."""
    wide = weight[..., None].expand(seen.first.shape).flatten(1)
    table = torch.zeros(len(weight), size, dtype=weight.dtype, device=weight.device)
    return table.scatter_add(1, seen.first.flatten(1), wide).scatter_add(
        1, seen.second.flatten(1), -wide
    )


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows `[N, F]`, `[N, 1]`."""
    return (a * b).sum(1, keepdim=True)


def solve(matrix: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """Conjugate gradients for a positive definite `matrix` of rows `[N, F]`, a fixed number."""
    solution, residual = torch.zeros_like(right), right
    direction, size = residual, dot(residual, residual)
    for _ in range(steps):
        image = matrix(direction)
        rate = size / dot(direction, image).clamp(min=1e-300)
        solution, residual = solution + rate * direction, residual - rate * image
        before, size = size, dot(residual, residual)
        direction = residual + size / before.clamp(min=1e-300) * direction
    return solution


def fit(spec: Spec, kind: str, ridge: float = RIDGE) -> Tensor:
    """The table that minimises `sum nll + ridge / 2 * |table|^2` over all comparisons.

    Bradley and Terry (1952); Newton's method with conjugate gradients and the best of halved
    steps. `ridge` > 0 makes the minimum unique and finite.

    Raises:
        ValueError: no comparisons.
    """
    seen, empty = comparisons(spec, kind), blank(spec, kind)
    flat = empty.flatten(1)
    size = flat.shape[1]
    for _ in range(NEWTON):
        gain = margin(flat, seen)
        chance = bradley_terry(gain)
        slope = spread(chance - seen.preferred, seen, size) + ridge * flat
        weight = chance * (1 - chance)

        def curvature(direction: Tensor, weight: Tensor = weight) -> Tensor:
            return spread(weight * margin(direction, seen), seen, size) + ridge * direction

        step = solve(curvature, slope, CONJUGATE)
        flat = flat - shorten(flat, step, gain, seen, ridge) * step
    return flat.reshape(empty.shape)


def shorten(flat: Tensor, step: Tensor, gain: Tensor, seen: Comparisons, ridge: float) -> Tensor:
    """The best of 0, 1, 1/2, ... times a step down the loss `[N, F]`, `[N, 1]`."""
    change = margin(step, seen)
    sizes = [0.0, *(2.0**-i for i in range(HALVINGS))]
    losses = []
    for size in sizes:
        moved = flat - size * step
        nll = bradley_terry_nll(gain - size * change, seen.preferred).sum(1)
        losses.append(nll + ridge / 2 * dot(moved, moved).squeeze(1))
    best = torch.stack(losses, 1).argmin(1, keepdim=True)
    return torch.tensor(sizes, dtype=flat.dtype, device=flat.device)[best]


def fitted(spec: Spec, source: str) -> Tensor:
    """The model of an agent's field `reward`, "final_model" or "token_model".

    Raises:
        ValueError: no comparisons.
    """
    return fit(spec, source.removesuffix("_model"))


def reward_moments(automaton: Automaton, rewards: Rewards, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the reward of a response to each prompt, `[N, X]` each.

    Args:
        automaton: the token MDP.
        rewards: of tokens and final states.
        policy: log-probabilities `[N, H, Z, V]`.
    """
    first, second = rewards.final, rewards.final * rewards.final
    for time in reversed(range(automaton.horizon)):
        now, weight = rewards.token[:, time], policy[:, time].exp()
        mean, square = (following(automaton, moment, time) for moment in (first, second))
        second = (weight * (now * now + 2 * now * mean + square)).sum(-1)
        first = (weight * (now + mean)).sum(-1)
    mean, square = (moment.gather(1, automaton.origin) for moment in (first, second))
    return mean, (square - mean * mean).clamp(min=0)


def within_prompts(automaton: Automaton, rewards: Rewards) -> Tensor:
    """Variance of the reward of the reference's responses to one prompt, `[N]`, prompts averaged.

    Rewards that differ by a constant for each prompt have the same.
    """
    variance = reward_moments(automaton, rewards, automaton.reference)[1]
    return (automaton.prompt * variance).sum(1)


def quality(spec: Spec, table: Tensor, slope: float = 1.0) -> dict[str, Tensor]:
    """How good a model is, `[N]` each: on the comparisons, and exactly on the reference's law.

    `nll` and `accuracy` (ties a half) are means over the collected comparisons. `error` is the
    standard deviation of model minus gold within a prompt, `correlation` that of the two.

    Args:
        spec: of a token MDP.
        table: the model.
        slope: inverse temperature of the comparisons, per unit of the model's reward.
    """
    known = knowledge(spec)
    seen = comparisons(spec, KINDS[table.dim() > 2])
    gain = margin(table.flatten(1), seen)
    agree = 0.5 + 0.5 * torch.sign(gain) * torch.sign(seen.preferred - 0.5)
    model, gold = table_rewards(spec, table), known.rewards

    def spread_of(sign: int) -> Tensor:
        both = Rewards(*(a + sign * b for a, b in zip(model, gold, strict=True)))
        return within_prompts(known.automaton, both)

    apart, alone = spread_of(-1), [within_prompts(known.automaton, r) for r in (model, gold)]
    scale = torch.sqrt(alone[0] * alone[1])
    covariance = (alone[0] + alone[1] - apart) / 2
    return {
        "nll": bradley_terry_nll(slope * gain, seen.preferred).mean(1),
        "accuracy": agree.mean(1),
        "error": torch.sqrt(apart),
        "correlation": torch.where(scale > 0, covariance / scale.clamp(min=1e-300), 0.0),
    }
