"""Finite horizon: backward induction."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Planned
from rlkit.validation import check_integer


class Plan(NamedTuple):
    """Optimal values of every stage, `h = 0 .. H - 1` steps from the start."""

    value: Tensor  # [..., H + 1, S], zero at stage H
    q: Tensor  # [..., H, S, A]


def backward_induction(model: Planned, horizon: int) -> Plan:
    """Optimal values of `horizon` steps, undiscounted.

    Raises:
        ValueError: `horizon` below 1.
    """
    check_integer("horizon", horizon, 1)
    states, _actions = model.size
    first = model.lookahead(torch.zeros(states, dtype=torch.float64))
    values, table = [torch.zeros_like(first[..., 0])], []
    for _ in range(horizon):
        table.append(model.lookahead(values[-1]))
        values.append(table[-1].amax(-1))
    return Plan(torch.stack(values[::-1], -2), torch.stack(table[::-1], -3))
