"""Learning curves of evaluations at irregular steps, reduced to their area while they grow.

The protocol of Daley, White, Amato and Machado (2023), after their published code: the policy is
evaluated after each episode, the sequence of evaluations, which begins with a 0 at step 0, is
smoothed by a trailing mean, joined by straight lines and summed over all steps. Their lines reach
each point a step early and their last episode runs on past the end; ours do not. That is less than
a thousandth of an area, alike for all rules.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Model
from rlkit.random import Rng


class LearningCurve(NamedTuple):
    """One growing curve a replica; all that is needed of it is its last point and its sum."""

    window: Tensor  # [N, W] float64 the last W evaluations, 0 where there were fewer
    evaluations: Tensor  # [N] int64 so far, the first 0 among them
    steps: Tensor  # [N] int64 steps so far
    place: Tensor  # [N] int64 step of the last point
    height: Tensor  # [N] float64 of the last point: the mean over the window
    area: Tensor  # [N] float64 sum of the curve over the steps before the last point
    latest: Tensor  # [N] float64 the last evaluation


def start_curve(rng: Rng, window: int) -> LearningCurve:
    """Curves at (0, 0), `[N]`, to be smoothed over `window >= 1` evaluations."""
    whole = torch.zeros(rng.n, dtype=torch.int64, device=rng.device)
    real = torch.zeros(rng.n, dtype=torch.float64, device=rng.device)
    none = real.new_zeros(rng.n, window)
    return LearningCurve(none, whole + 1, whole, whole, real, real, real)


def add_evaluations(curve: LearningCurve, rows: Tensor, values: Tensor) -> LearningCurve:
    """Put a point at the present step into some of the curves.

    Args:
        curve: of all replicas.
        rows: replicas `[R]` int64, each at most once.
        values: their evaluations `[R]`.
    """
    width = curve.window.shape[1]
    count = curve.evaluations[rows]
    window = curve.window[rows].scatter(1, (count % width)[:, None], values[:, None])
    height = window.sum(1) / (count + 1).clamp(max=width)
    gap = curve.steps[rows] - curve.place[rows]
    # Steps place .. place + gap - 1 of the line from the last point to this one.
    rise = (height - curve.height[rows]) * (gap - 1).clamp(min=0) / 2
    return LearningCurve(
        curve.window.index_copy(0, rows, window),
        curve.evaluations.index_copy(0, rows, count + 1),
        curve.steps,
        curve.place.index_copy(0, rows, curve.steps[rows]),
        curve.height.index_copy(0, rows, height),
        curve.area.index_copy(0, rows, curve.area[rows] + gap * curve.height[rows] + rise),
        curve.latest.index_copy(0, rows, values),
    )


def next_step(curve: LearningCurve) -> LearningCurve:
    """The curves one step later."""
    return curve._replace(steps=curve.steps + 1)


def area(curve: LearningCurve) -> Tensor:
    """Sum of each curve over steps `0 .. steps`, level from its last point on, `[N]`."""
    return curve.area + (curve.steps + 1 - curve.place) * curve.height


def expected_return(model: Model, policy: Tensor, gamma: float, steps: int) -> Tensor:
    """Expected discounted return from the start, cut after `steps` steps, `[R]` float64.

    Backward recursion `v_{k+1} = r_pi + gamma P_pi v_k` from `v_0 = 0`.

    Args:
        model: shared by all rows, or with one table for each.
        policy: action probabilities `[R, S, A]`.
        gamma: discount factor.
        steps: number of rewards counted, >= 1.
    """
    chosen = model.probability * policy[..., None].double()
    base = (chosen * model.reward).flatten(2).sum(-1)
    weight = (gamma * chosen).flatten(2)
    successor = model.successor.flatten(-3)
    value, following = torch.zeros_like(base), torch.empty_like(weight).flatten(1)
    for _ in range(steps):
        # Written into one buffer: this loop is most of the cost of an evaluation.
        if model.batched:
            torch.gather(value, 1, successor, out=following)
        else:
            torch.index_select(value, 1, successor, out=following)
        torch.sum(following.view(weight.shape).mul_(weight), -1, out=value)
        value += base
    return (value * model.start).sum(-1)
