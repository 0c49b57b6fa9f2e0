"""Long discounted horizons: totals on a grid, values in between by linear interpolation.

The stock itself grows like `gamma^-t`; the total `gamma^t C_t` stays bounded. Policies see state,
total and time. The error is bounded: cutting an infinite horizon after `n` steps costs at most
`L gamma^n r / (1 - gamma)` for a utility with Lipschitz constant `L` and rewards up to `r`, and
each of the `n + 1` interpolations, the last one at the start, at most `L / 2` spacings.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.augmented import StockModel
from rlkit.stocks.functionals import Utility
from rlkit.stocks.lattice import greedy
from rlkit.validation import check_real

LARGEST = 1 << 24  # entries of a table of one step


class Approximation(NamedTuple):
    """Values at the start, and the greedy policy on the grid."""

    value: Tensor  # [B] expected utility of initial stock plus return
    error: float  # bound of its error
    action: Tensor  # [n, S, C] int64
    total: Tensor  # [C] points of the grid


def solve_on_grid(
    model: StockModel,
    utility: Utility,
    stock: Tensor,
    spacing: float,
    tolerance: float = 1e-3,
    timed: bool = False,
) -> Approximation:
    """Best expected utility from each of the initial stocks `[B]`, for one reward.

    Args:
        model: one reward; the horizon may be infinite if discounted.
        utility: an admissible one.
        stock: initial stocks `[B]`.
        spacing: of the grid, > 0.
        tolerance: error that cutting an infinite horizon may cause, > 0.
        timed: opt in to utilities that are not homogeneous.

    Raises:
        ValueError: an argument out of range, a functional that is not admissible, several
            rewards, or a grid that is too large.
    """
    check_real("spacing", spacing, 0, open_low=True)
    check_real("tolerance", tolerance, 0, open_low=True)
    if model.dimension != 1:
        raise ValueError(f"the model has {model.dimension} rewards; the grid takes 1")
    reward = torch.where(model.certain, model.reward[..., 0], 0.0)
    width = far(model)
    low = float(stock.min()) + width * min(0.0, float(reward.min()))
    high = float(stock.max()) + width * max(0.0, float(reward.max()))
    radius = max(abs(low), abs(high))
    check_admissible(utility, model, timed, radius)
    slope, largest = utility.lipschitz(radius), float(reward.abs().max())
    steps, cut = cut_at(model, slope * largest, tolerance)
    count = math.ceil((high - low) / spacing) + 2
    if count * reward.numel() > LARGEST:
        raise ValueError(
            f"grid of {count} totals makes tables of {count * reward.numel()} entries; accepted: "
            f"up to {LARGEST}; choose a larger spacing"
        )
    total = low + spacing * torch.arange(count, dtype=torch.float64)
    value, action = utility.f(total[:, None]).expand(reward.shape[0], count), []
    for time in reversed(range(steps)):
        q = after(model, value, total, model.gamma**time * reward)
        action.append(greedy(q, 1))
        value = q.amax(1)
    start = model.model.start @ at(value, total, stock.expand(reward.shape[0], -1))
    error = cut + slope * (steps + 1) * spacing / 2
    return Approximation(start, error, torch.stack(action[::-1]), total)


def far(model: StockModel) -> float:
    """Sum of all discounts within the horizon."""
    if model.horizon is None:
        return 1 / (1 - model.gamma)
    return float(sum(model.gamma**time for time in range(model.horizon)))


def cut_at(model: StockModel, scale: float, tolerance: float) -> tuple[int, float]:
    """Number of steps, and the error of stopping there; `scale` is `L r`."""
    if model.horizon is not None:
        return model.horizon, 0.0
    rest = max(scale, tolerance) / (1 - model.gamma)
    steps = max(1, math.ceil(math.log(tolerance / rest) / math.log(model.gamma)))
    return steps, scale / (1 - model.gamma) * model.gamma**steps


def after(model: StockModel, value: Tensor, total: Tensor, reward: Tensor) -> Tensor:
    """Expected value `[S, A, C]` of each action; `value` `[S, C]`, `reward` `[S, A, K]`."""
    states, actions, outcomes = reward.shape
    mean = torch.zeros(states, actions, len(total), dtype=torch.float64)
    for outcome in range(outcomes):
        rows = value[model.model.successor[..., outcome]].flatten(0, 1)
        points = (total + reward[..., outcome, None]).flatten(0, 1)
        following = at(rows, total, points).unflatten(0, (states, actions))
        mean = mean + model.model.probability[..., outcome, None] * following
    return mean


def at(value: Tensor, total: Tensor, point: Tensor) -> Tensor:
    """Linear interpolation of `value` `[R, C]` on the grid `total` `[C]` at `point` `[R, P]`."""
    position = ((point - total[0]) / (total[1] - total[0])).clamp(0, len(total) - 1)
    left = position.floor().clamp(max=len(total) - 2).long()
    share = position - left
    return (1 - share) * value.gather(1, left) + share * value.gather(1, left + 1)
