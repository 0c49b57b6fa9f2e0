"""Best-of-n: the law of the best of several responses of the reference, exactly where it can be.

Its probabilities are those of the reference times a factor that depends on the score alone. So all
responses of one score are one class, and divergence, reward and entropy are sums over classes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge
from rlkit.alignment.measures import successes
from rlkit.protocol import Spec
from rlkit.tokens import Automaton, Rewards, log_probability, returns, soft_optimum, walk

GRID = 0.01  # token rewards that are multiples of it are counted in levels
LEVELS = 1024  # at most
RESPONSES = 4096  # to all prompts, at most, that are listed
TIE = 1e-9  # scores that differ by less are equal


class Classes(NamedTuple):
    """The reference's responses to each prompt by class, `[N, X, M]` each."""

    mass: Tensor  # probability
    score: Tensor  # what is compared
    gold: Tensor  # mass times mean gold reward
    log_law: Tensor  # mass times mean log-probability
    sound: Tensor  # probability of a successful one


def kl_bound(count: int) -> float:
    """`log n - (n - 1) / n` nats, at most which the best of `count` diverges from the reference."""
    return math.log(count) - (count - 1) / count


def response_classes(spec: Spec, score: Rewards) -> Classes | None:
    """Classes of one score, or None where they are too many.

    Args:
        spec: of a token MDP.
        score: by which responses are compared. Its token rewards are multiples of 0.01, or all
            responses together are at most 4096.
    """
    automaton = knowledge(spec).automaton
    level = (score.token / GRID).round()
    spread = (level.amax((0, 2, 3)) - level.amin((0, 2, 3))).sum()
    if bool(((level * GRID - score.token).abs() < TIE).all()) and spread < LEVELS:
        return by_level(spec, score, level.long())
    if automaton.prompt.shape[1] * automaton.vocabulary**automaton.horizon <= RESPONSES:
        return listed(spec, score)
    return None


def by_level(spec: Spec, score: Rewards, level: Tensor) -> Classes:
    """One class for every final state and sum of token levels `[N, H, Z, V]`: forward sums."""
    known = knowledge(spec)
    automaton: Automaton = known.automaton
    least = level.amin((0, 2, 3))
    count = int((level.amax((0, 2, 3)) - least).sum()) + 1
    n, prompts = automaton.origin.shape
    rise, shape = torch.arange(count, device=level.device), (n, prompts, automaton.states, count)
    mass = torch.zeros(n, prompts, automaton.states * count, dtype=torch.float64)
    first = automaton.origin[..., None] * count
    mass = mass.to(level.device).scatter(2, first, 1.0)
    sums = [mass, torch.zeros_like(mass), torch.zeros_like(mass)]  # mass, gold, log-law
    for time in range(automaton.horizon):
        law = automaton.reference[:, time]
        gains = (known.rewards.token[:, time], torch.where(law > -torch.inf, law, 0.0))
        above = (rise + (level[:, time] - least[time])[..., None]).clamp(max=count - 1)
        index = automaton.successor[:, time, ..., None] * count + above
        spots = index[:, None].expand(n, prompts, *index.shape[1:]).flatten(2)
        parts = [total.reshape(shape)[:, :, :, None] for total in sums]
        chance = law.exp()[:, None, :, :, None]
        flows = [chance * parts[0]]
        for part, gain in zip(parts[1:], gains, strict=True):
            flows.append(chance * (part + gain[:, None, :, :, None] * parts[0]))
        sums = [torch.zeros_like(mass).scatter_add(2, spots, flow.flatten(2)) for flow in flows]
    total = score.final[..., None] + (rise + least.sum()).double() * GRID
    wide = total[:, None].expand(shape).flatten(2)
    final = known.rewards.final[:, None, :, None].expand(shape).flatten(2)
    sound = successes(known)[:, None, :, None].expand(shape).flatten(2)
    return Classes(sums[0], wide, sums[1] + sums[0] * final, sums[2], sums[0] * sound)


def listed(spec: Spec, score: Rewards) -> Classes:
    """A class of its own for each of the `V**H` responses to a prompt."""
    known = knowledge(spec)
    automaton = known.automaton
    n, prompts = automaton.origin.shape
    size, device = automaton.vocabulary**automaton.horizon, automaton.prompt.device
    number = torch.arange(size, device=device)[:, None]
    place = automaton.vocabulary ** torch.arange(automaton.horizon, device=device)
    token = (number // place % automaton.vocabulary).repeat(prompts, 1).expand(n, -1, -1)
    asked = torch.arange(prompts, device=device).repeat_interleave(size).expand(n, -1)
    every = walk(automaton, asked, token)
    law = log_probability(automaton.reference, every).sum(-1)
    mass = law.exp()
    columns = (
        mass,
        returns(score, every),
        mass * returns(known.rewards, every),
        torch.where(mass > 0, mass * law, torch.zeros_like(mass)),
        mass * successes(known).gather(1, every.state[..., -1]),
    )
    return Classes(*(column.unflatten(1, (prompts, size)) for column in columns))


def factor(up_to: Tensor, mass: Tensor, count: int) -> Tensor:
    """`(F^n - (F - m)^n) / m`: what choosing the best of `count` multiplies probabilities by.

    Args:
        up_to: `F`, probability of a score up to this one.
        mass: `m`, probability of this very score.
        count: `n`, >= 1.
    """
    high = up_to.clamp(min=1e-300)
    share = (mass / high).clamp(1e-12, 1.0)
    # 1 - (1 - share)^n without cancellation.
    missed = -torch.expm1(count * torch.log1p(-share)) / share
    return torch.exp((count - 1) * torch.log(high)) * missed


def best_of(classes: Classes, count: int) -> Tensor:
    """The factor of each class where the highest score wins, ties at random, `[N, X, M]`."""
    score, order = torch.sort((classes.score / TIE).round(), -1)
    mass = classes.mass.gather(-1, order)
    total = mass.cumsum(-1)
    changes = torch.ones_like(score[..., :1], dtype=torch.bool)
    begins = torch.cat([changes, score[..., 1:] != score[..., :-1]], -1)
    place = torch.arange(score.shape[-1], device=score.device).expand(score.shape)
    start = torch.where(begins, place, 0).cummax(-1).values
    ends = torch.cat([begins[..., 1:], changes], -1)
    last = torch.where(ends, place, score.shape[-1] - 1).flip(-1).cummin(-1).values.flip(-1)
    up_to = total.gather(-1, last)
    below = torch.where(start > 0, total.gather(-1, (start - 1).clamp(min=0)), 0.0)
    sorted_factor = factor(up_to, up_to - below, count)
    return torch.zeros_like(mass).scatter(-1, order, sorted_factor)


def best_of_verdicts(classes: Classes, count: int) -> Tensor:
    """The same where what is compared is 0 or 1 with the score as its mean."""
    mean = classes.score
    success = (classes.mass * mean).sum(-1, keepdim=True)
    one = torch.ones_like(success)
    return mean * factor(one, success, count) + (1 - mean) * factor(1 - success, 1 - success, count)


def measure_best(spec: Spec, classes: Classes, factors: Tensor, beta: float) -> dict[str, Tensor]:
    """What `rlkit.alignment.measures.measure` says, of the law with these factors, `[N]` each."""
    known = knowledge(spec)

    def mean(values: Tensor) -> Tensor:
        return (known.automaton.prompt * (factors * values).sum(-1)).sum(1)

    log_factor = torch.log(factors.clamp(min=1e-300))
    gold, kl = mean(classes.gold), mean(classes.mass * log_factor)
    value = soft_optimum(known.automaton, known.rewards, beta).value[:, 0]
    measured = {
        "gold_reward": gold,
        "proxy_reward": mean(classes.mass * classes.score),
        "kl": kl,
        "entropy": -mean(classes.log_law) - kl,
        "gap": (known.automaton.start * value).sum(1) - gold + beta * kl,
    }
    if not bool(known.sound.all()):
        measured["success"] = mean(classes.sound)
    return measured
