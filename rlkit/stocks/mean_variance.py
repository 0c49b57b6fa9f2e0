"""The best mean minus variance: a search over the initial stock, exact over all policies.

`max_pi { E G - w Var G } = max_b max_pi E[G - w (G - b)^2]`, Avila Pires et al. (2025), section 5;
the initial stock is `-b`. Each policy contributes a parabola in `b` with its top at its mean. Plus
`w b^2` they are lines, whose upper envelope is convex: a chord bounds it from above, the lines of
the two ends from below, so intervals that cannot hold the maximum are dropped.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.distributions import Law, expectation, variance
from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import quadratic
from rlkit.stocks.search import Optimum, Returns, breakpoints, one_reward, policy, solve
from rlkit.validation import check_real

EXACT = 1e-11  # relative gap at which an interval is closed


class Ends(NamedTuple):
    """Both ends of the intervals that may hold the maximum, `[I]` each."""

    place: Tensor
    height: Tensor  # of the envelope
    slope: Tensor  # of a line that touches it there


def best_mean_variance(returns: Returns, weight: float, timed: bool = False) -> Optimum:
    """Policy with the largest mean minus `weight` times variance of the return.

    Args:
        returns: the problem.
        weight: of the variance, >= 0.
        timed: opt in to discounts below 1, for policies that see the time.

    Raises:
        ValueError: `weight` negative, a discount below 1 without `timed`, or several rewards.
    """
    check_real("weight", weight, 0)
    check_admissible(quadratic(weight), returns.model, timed)
    level = breakpoints(returns)
    best, ends = evaluate(returns, weight, level[[0, -1]])
    low, high = row(ends, slice(0, 1)), row(ends, slice(1, 2))
    while len(low.place):
        bound = chord(low, high, weight)
        crossing = (high.height - high.slope * high.place - low.height + low.slope * low.place) / (
            low.slope - high.slope
        )
        tolerance = EXACT * (1 + abs(best[0]))
        alive = (bound > best[0] + tolerance) & (high.slope > low.slope) & (low.place < crossing)
        alive &= crossing < high.place
        low, high, crossing = row(low, alive), row(high, alive), crossing[alive]
        if not len(crossing):
            break
        found, middle = evaluate(returns, weight, crossing)
        best = max(best, found)
        # The envelope is its two lines where it touches their crossing: their tops are known.
        below = low.height + low.slope * (crossing - low.place)
        alive = middle.height > below + EXACT * (1 + below.abs())
        low, middle, high = row(low, alive), row(middle, alive), row(high, alive)
        low, high = join(low, middle), join(middle, high)
    return optimum(returns, weight, best[1])


def evaluate(returns: Returns, weight: float, b: Tensor) -> tuple[tuple[float, float], Ends]:
    """Best objective of the policies at `b` `[I]` with that policy's `b`; and the envelope."""
    value = one_reward(returns)
    solved = solve(returns, value - weight * (value - b[:, None]) ** 2)
    law = Law(value.expand_as(solved.probability), solved.probability)
    mean = expectation(law)
    objective = mean - weight * variance(law)
    place = int(objective.argmax())
    ends = Ends(b, solved.value + weight * b * b, 2 * weight * mean)
    return (float(objective[place]), float(b[place])), ends


def chord(low: Ends, high: Ends, weight: float) -> Tensor:
    """Largest value of chord minus `weight * b^2` on each interval, `[I]`."""
    slope = (high.height - low.height) / (high.place - low.place)
    top = low.place
    if weight:
        top = torch.minimum(torch.maximum(slope / (2 * weight), low.place), high.place)
    return low.height + slope * (top - low.place) - weight * top * top


def row(ends: Ends, keep: Tensor | slice) -> Ends:
    """Some of the intervals."""
    return Ends(*(part[keep] for part in ends))


def join(first: Ends, second: Ends) -> Ends:
    """The intervals of both."""
    return Ends(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


def optimum(returns: Returns, weight: float, b: float) -> Optimum:
    """The policy at `b`, with the stock that is its own: minus its mean."""
    value = one_reward(returns)
    action = policy(returns, value - weight * (value - b) ** 2)
    law = Law(value, returns.law(action))
    mean = expectation(law)
    return Optimum(float(mean - weight * variance(law)), -float(mean), law, action)
