"""Optimism about finite models: the best law within a confidence set, and the best plan in it.

The planning of UCRL2 (Jaksch, Ortner and Auer 2010): every row of the kernel may be any law within
an L1 distance of its estimate, and each sweep of value iteration takes the best one for the
values at hand. Rows of a batch do not influence one another: sums have a fixed order, and value
iteration stops each row by its own test.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Planned
from rlkit.protocol import Spec
from rlkit.regression import dot

DAMPING = 0.9  # weight of the kernel beside the identity, which makes every chain aperiodic


def l1_optimistic(p: Tensor, radius: Tensor, u: Tensor) -> Tensor:
    """The law within L1 distance `radius` of `p` under which the mean of `u` is largest.

    Jaksch et al. (2010), figure 2: the best outcome gains half the radius, which is taken from the
    worst outcomes upward.

    Args:
        p: `[..., S]`, sums to 1.
        radius: `[...]`, >= 0.
        u: `[..., S]`.

    Returns:
        `[..., S]`, of the broadcast shape.
    """
    p, u = torch.broadcast_tensors(p, u)
    order = torch.argsort(u, dim=-1, stable=True)
    return torch.zeros_like(p).scatter(-1, order, shifted(p.gather(-1, order), radius))


def shifted(p: Tensor, radius: Tensor) -> Tensor:
    """`p` `[..., S]`, worst outcome first, with half of `radius` `[...]` moved to the best."""
    moved = torch.minimum(0.5 * radius, 1 - p[..., -1]).clamp(min=0)[..., None]
    up_to_here = torch.cumsum(p, -1)
    left = torch.minimum((up_to_here - moved).clamp(min=0), p)
    return torch.cat([left[..., :-1], p[..., -1:] + moved], -1)


class Optimistic(NamedTuple):
    """A set of models: mean rewards, and kernels within an L1 ball around an estimate.

    `lookahead` takes the best model of the set for the values it is given, so that any planner
    finds the best policy and the best model at once: extended value iteration.
    """

    kernel: Tensor  # [..., S, A, S] float64, rows sum to 1
    reward: Tensor  # [..., S, A] float64 largest plausible mean
    radius: Tensor | None = None  # [..., S, A] in L1 distance; None: the estimate alone
    goes_on: Tensor | None = None  # [..., S] 0 where entering the state ends the episode; None: 1

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of states and of actions."""
        states, actions = self.reward.shape[-2:]
        return states, actions

    def lookahead(self, value: Tensor, discount: float = 1.0) -> Tensor:
        """`max r(s, a) + discount * E value(s')` over the set, `[..., S, A]` of `[..., S]`."""
        if self.goes_on is not None:
            value = value * self.goes_on
        if self.radius is None:
            return self.reward + discount * dot(self.kernel, value[..., None, None, :])
        ranked, order = torch.sort(value, dim=-1, stable=True)
        at = order[..., None, None, :].expand(self.kernel.shape)
        law = shifted(self.kernel.gather(-1, at), self.radius)
        return self.reward + discount * dot(law, ranked[..., None, None, :])


class Iterated(NamedTuple):
    """Where relative value iteration stopped."""

    gain: Tensor  # [n] reward per step, within half the tolerance if converged
    value: Tensor  # [n, S] relative values, centred: largest plus smallest is zero
    q: Tensor  # [n, S, A] one sweep further
    converged: Tensor  # [n] bool, whether the tolerance was met


def relative_value_iteration(
    model: Planned, value: Tensor, tolerance: Tensor, sweeps: int
) -> Iterated:
    """Gain of `n` models by damped relative value iteration, each row until its own test.

    A row stops when the span of `T v - v` is below `tolerance`: then the gain of the greedy policy
    is within `tolerance` of the optimum (Puterman 1994, theorem 8.5.6). Where some states are
    hardly ever left that may take longer than `sweeps`; what is returned then are about the
    values of that many steps to go, and the greedy policy is good for a run of that length.

    Args:
        model: of `n` rows, or one for all.
        value: `[n, S]` to begin with, finite.
        tolerance: `[n]`, > 0.
        sweeps: at most this many, >= 1.
    """
    q = model.lookahead(value)
    for _ in range(sweeps - 1):
        step = q.amax(-1) - value
        running = span(step) >= tolerance
        if not bool(running.any()):
            break
        # A row that has stopped keeps its value, hence its q, bit for bit.
        moved = value + DAMPING * (step - middle(step)[:, None])
        value = torch.where(running[:, None], moved, value)
        q = model.lookahead(value)
    step, centre = q.amax(-1) - value, middle(value)
    return Iterated(
        middle(step), value - centre[:, None], q - centre[:, None, None], span(step) < tolerance
    )


def finite_horizon_values(model: Optimistic, horizon: int) -> Tensor:
    """Values of every stage by backward induction, `[..., H, S, A]`.

    The best model may differ from stage to stage.
    """
    value, q = torch.zeros_like(model.reward[..., 0]), []
    for _ in range(horizon):
        q.append(model.lookahead(value))
        value = q[-1].amax(-1)
    return torch.stack(q[::-1], -3)


def span(value: Tensor) -> Tensor:
    """Largest minus smallest entry, `[..., S]` to `[...]`."""
    return value.amax(-1) - value.amin(-1)


def middle(value: Tensor) -> Tensor:
    """Half of largest plus smallest entry, `[..., S]` to `[...]`."""
    return 0.5 * (value.amax(-1) + value.amin(-1))


def reward_radius(visits: Tensor, time: Tensor, delta: float) -> Tensor:
    """Radius of the mean of rewards in [0, 1], equation (3) of Jaksch et al. (2010), `[n, S, A]`.

    Args:
        visits: `[n, S, A]`; 0 counts as 1.
        time: `[n]` step at which the phase begins, >= 1.
        delta: probability that any interval ever fails, in (0, 1).
    """
    _, states, actions = visits.shape
    level = torch.log(2 * states * actions * time.double() / delta)
    return torch.sqrt(7 * level[:, None, None] / (2 * visits.clamp(min=1)))


def kernel_radius(visits: Tensor, time: Tensor, delta: float) -> Tensor:
    """L1 radius of a row of the kernel, equation (4) of Jaksch et al. (2010), `[n, S, A]`.

    Args:
        visits: `[n, S, A]`; 0 counts as 1.
        time: `[n]` step at which the phase begins, >= 1.
        delta: as in `reward_radius`.
    """
    _, states, actions = visits.shape
    level = torch.log(2 * actions * time.double() / delta)
    return torch.sqrt(14 * states * level[:, None, None] / visits.clamp(min=1))


def reward_bounds(
    agent: object, spec: Spec, low: float | None, high: float | None
) -> tuple[float, float]:
    """Smallest and largest reward: what is given, else what the problem says.

    Raises:
        ValueError: an end that is not finite, or ends in the wrong order.
    """
    low = spec.reward_range[0] if low is None else low
    high = spec.reward_range[1] if high is None else high
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"{type(agent).__name__} needs bounded rewards, this problem's are in [{low}, {high}]; "
            "give reward_low and reward_high"
        )
    return low, high
