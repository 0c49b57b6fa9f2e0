"""The best mean of the best returns: a convex search over the initial stock.

`min_{c_0} { -c_0 + max_pi E max(c_0 + G, 0) / tau }` is the optimum over policies that may be
drawn once, at the start (a minimax exchange: the upper tail mean is concave in the law). The best
deterministic policy can be strictly worse; both values are reported.

The objective is convex and piecewise linear. Every evaluation gives a policy, whose tangent is a
lower bound everywhere; the next point is where the tangents of the two ends cross. The search ends
after finitely many policies, at the exact minimum.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit.distributions import Law, check_level, cvar_upper
from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import excess
from rlkit.stocks.search import Optimum, Returns, breakpoints, one_reward, policy, solve

EXACT = 1e-12  # relative gap at which a tangent touches


class Mixed(NamedTuple):
    """The best policy drawn at the start, and the best deterministic one that was met."""

    value: float  # of the mixture: the optimum
    stock: float  # initial stock at the minimum
    weight: tuple[float, ...]  # of each policy, one or two
    action: tuple[Any, ...]  # the policies
    law: Law  # of the return under the mixture, [X]
    deterministic: Optimum  # best of the policies met at all breakpoints: a lower bound


class Tangent(NamedTuple):
    """A policy, and the line that touches its bracket from below at one stock."""

    stock: float
    height: float
    left: float  # smallest and largest slope of the bracket there
    right: float
    probability: Tensor  # [X] law of the return
    final: Tensor  # [X] utility that the policy maximises

    def line(self, slope: float, at: float) -> float:
        """Height of the tangent of a slope at another stock."""
        return self.height + slope * (at - self.stock)


def best_upper_cvar(returns: Returns, tau: float) -> Mixed:
    """Policies with the largest mean of the largest returns, of mass `tau` in (0, 1].

    Raises:
        ValueError: `tau` outside its range, or several rewards.
    """
    check_level(tau)
    check_admissible(excess(), returns.model)
    level = breakpoints(returns)
    low = tangent(returns, tau, -float(level[-1]))
    high = tangent(returns, tau, -float(level[0]))
    while True:
        if low.right >= -EXACT or high.left <= EXACT:  # one policy is flat where it is best
            only = low if low.right >= -EXACT else high
            return mixed(returns, tau, [only], [1.0])
        stock = (high.height - high.left * high.stock - low.height + low.right * low.stock) / (
            low.right - high.left
        )
        crossing = low.line(low.right, stock)
        middle = tangent(returns, tau, stock)
        if middle.height <= crossing + EXACT * (1 + abs(crossing)):
            share = high.left / (high.left - low.right)
            return mixed(returns, tau, [low, high], [share, 1 - share], stock)
        if middle.left <= EXACT and middle.right >= -EXACT:
            return mixed(returns, tau, [middle], [1.0])
        low, high = (middle, high) if middle.right < 0 else (low, middle)


def tangent(returns: Returns, tau: float, stock: float) -> Tangent:
    """The bracket of the best policy at an initial stock."""
    shifted = one_reward(returns) + stock
    final = shifted.clamp(min=0)
    solved = solve(returns, final[None])
    probability = solved.probability[0]
    near = EXACT * (1 + shifted.abs().amax())
    above, least = probability[shifted > near].sum(), probability[shifted >= -near].sum()
    height = -stock + float(solved.value[0]) / tau
    left, right = float(above) / tau - 1, float(least) / tau - 1
    return Tangent(stock, height, left, right, probability, final)


def mixed(
    returns: Returns,
    tau: float,
    parts: list[Tangent],
    weight: list[float],
    stock: float | None = None,
) -> Mixed:
    """The mixture of the tangents' policies, or a deterministic policy that is as good."""
    single = deterministic(returns, tau, parts)
    masses = torch.stack([w * part.probability for w, part in zip(weight, parts, strict=True)])
    law = Law(one_reward(returns), masses.sum(0))
    value = float(cvar_upper(law, tau))
    if single.value >= value - EXACT * (1 + abs(value)):
        return Mixed(single.value, single.stock, (1.0,), (single.action,), single.law, single)
    action = tuple(policy(returns, part.final) for part in parts)
    place = parts[0].stock if stock is None else stock
    return Mixed(value, place, tuple(weight), action, law, single)


def deterministic(returns: Returns, tau: float, parts: list[Tangent]) -> Optimum:
    """Best deterministic policy among those of the tangents and of all breakpoints."""
    value, level = one_reward(returns), breakpoints(returns)
    middle = (level[1:] + level[:-1]) / 2
    own = torch.tensor([part.stock for part in parts], dtype=level.dtype, device=level.device)
    stock = torch.cat([own, -level, -middle])
    final = (value + stock[:, None]).clamp(min=0)
    tails = cvar_upper(Law(value, solve(returns, final).probability), tau)
    row = int((tails >= tails.amax() - EXACT * (1 + tails.amax().abs())).long().argmax())
    action = policy(returns, final[row])
    law = Law(value, returns.law(action))
    return Optimum(float(tails[row]), float(stock[row]), law, action)
