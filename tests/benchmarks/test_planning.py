"""Speed of backward induction, beside a plain loop of batched matrix products.

All contestants plan the same 1,000 models in float64 and keep nothing between calls. A unit is one
sweep of one model: `S * A` expectations over `S` successors and `S` maxima.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.models import Dense
from rlkit.planning import backward_induction, optimal_values, successor_major

pytestmark = [
    pytest.mark.benchmark(timer=time.process_time, min_rounds=3, warmup=True),
    pytest.mark.filterwarnings("default"),
]

MODELS, STATES, ACTIONS, HORIZON = 1_000, 50, 4, 20


@pytest.fixture(scope="module")
def dense() -> Dense:
    """Random models as a user would make them: kernels `[N, S, A, S]`, contiguous."""
    generator = torch.Generator().manual_seed(0)
    shape = (MODELS, STATES, ACTIONS, STATES)
    kernel = torch.rand(shape, dtype=torch.float64, generator=generator)
    reward = torch.rand(shape[:-1], dtype=torch.float64, generator=generator)
    return Dense(kernel / kernel.sum(-1, keepdim=True), reward)


def plain(model: Dense) -> Tensor:
    """Values of the first stage by `bmm` and `max` over all models, stage after stage."""
    flat = model.kernel.view(MODELS, STATES * ACTIONS, STATES)
    value = torch.zeros(MODELS, STATES, dtype=torch.float64)
    for _ in range(HORIZON):
        q = model.reward + torch.bmm(flat, value[..., None]).view_as(model.reward)
        value = q.max(-1).values
    return value


def kept(model: Dense) -> tuple[Tensor, Tensor]:
    """The same loop, keeping what `backward_induction` gives: values and `q` of every stage."""
    flat = model.kernel.view(MODELS, STATES * ACTIONS, STATES)
    values, table = [torch.zeros(MODELS, STATES, dtype=torch.float64)], []
    for _ in range(HORIZON):
        table.append(model.reward + torch.bmm(flat, values[-1][..., None]).view_as(model.reward))
        values.append(table[-1].max(-1).values)
    return torch.stack(values[::-1], 1), torch.stack(table[::-1], 1)


def counted(run: Callable[[Dense], object], model: Dense) -> Callable[[], int]:
    def contestant() -> int:
        run(model)
        return MODELS * HORIZON

    return contestant


@pytest.fixture(scope="module")
def laid(dense: Dense) -> Dense:
    """Kernels that lie `successor_major` in memory, as a sampler can produce them."""
    return Dense(successor_major(dense.kernel), dense.reward)


def test_optimal_values_against_a_plain_loop(
    dense: Dense, laid: Dense, race: Callable[..., Any]
) -> None:
    """Timed: the call, with its checks of all rows and its allocations.

    The first contestant moves no kernel; the second one pays in each call for laying out kernels
    `[N, S, A, S]`, block by block.
    """
    first = plain(dense)
    for model in (laid, dense):
        torch.testing.assert_close(optimal_values(model, HORIZON)[:, 0], first, rtol=0, atol=1e-12)
    result = race(
        {
            "optimal_values": counted(lambda model: optimal_values(model, HORIZON), laid),
            "with the layout": counted(lambda model: optimal_values(model, HORIZON), dense),
            "bmm and max": counted(plain, dense),
        },
        rounds=15,
    )
    assert result.ratio("bmm and max") >= 4


def test_backward_induction_against_a_plain_loop_that_keeps_all(
    dense: Dense, laid: Dense, race: Callable[..., Any]
) -> None:
    """The same with the whole `q` on both sides, 30 MB, most of it fresh memory at each call."""
    value, table = kept(dense)
    for model in (laid, dense):
        plan = backward_induction(model, HORIZON)
        torch.testing.assert_close(plan.value, value, rtol=0, atol=1e-12)
        torch.testing.assert_close(plan.q, table, rtol=0, atol=1e-12)
    result = race(
        {
            "backward_induction": counted(lambda model: backward_induction(model, HORIZON), laid),
            "with the layout": counted(lambda model: backward_induction(model, HORIZON), dense),
            "bmm and max, all kept": counted(kept, dense),
        },
        rounds=15,
    )
    assert result.ratio("bmm and max, all kept") >= 3
