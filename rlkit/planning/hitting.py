"""Least expected times to reach a state, and the diameter (Jaksch, Ortner and Auer 2010)."""

import math

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.classes import edges, reachability
from rlkit.planning.discounted import ROUNDINGS
from rlkit.planning.layout import LINE, Matrix, batched, blocks, leading, matrix, narrow
from rlkit.validation import check_real

SWEEPS = 1_000_000  # when to give up


def hitting_times(model: Model | Dense, tolerance: float = 1e-11) -> Tensor:
    """Least expected steps from every state to every other, `[..., S, S]`: from row to column.

    Infinite throughout for a model that is not communicating.

    Args:
        model: shared or of `N` replicas.
        tolerance: the largest relative error, in (0, 1).

    Raises:
        ValueError: `tolerance` outside its range, a row that is no distribution, or times so long
            that a million sweeps do not find them.
    """
    check_real("tolerance", tolerance, 0, 1, open_low=True, open_high=True)
    lead = leading(model)
    states, actions = model.size
    (count,) = lead or (1,)
    time = model.reward.new_empty(count, states, states)
    for rows, part, backup in blocks(model, count):
        connected = reachability(edges(part)).all(-1).all(-1)
        kernel = backup.kernel if isinstance(backup, Matrix) else matrix(batched(part).kernel)
        time[rows] = to_targets(kernel, actions, connected, tolerance).mT
    return time.view(*lead, states, states)


def to_targets(kernel: Tensor, actions: int, connected: Tensor, tolerance: float) -> Tensor:
    """Times `[B, S, S]`, targets first, of kernels `[B, S', W]` of `matrix`.

    Infinite where not `connected`.

    Value iteration from below. If the last sweep added at most `d < 1` anywhere, the greedy policy
    needs at most `1 / (1 - d)` times the values, so they are within a factor of `1 - d`.
    """
    replicas, states, _ = kernel.shape
    # Rows of whole cache lines, for the reason given in `rlkit.planning.layout`.
    padded = kernel.new_zeros(replicas, states, states + -states % LINE)
    time = padded[..., :states]
    travelling = 1 - torch.eye(states, dtype=kernel.dtype, device=kernel.device)
    going = connected
    for _ in range(SWEEPS):
        if not bool(going.any()):
            return torch.where(connected[:, None, None], time, math.inf)
        following = narrow(torch.bmm(time, kernel), states, actions).amin(-1)
        added = (1 + following) * travelling - time
        time.add_(added * going[:, None, None])
        largest = time.amax((-2, -1))
        going = going & (added.amax((-2, -1)) > tolerance + ROUNDINGS * largest)
    raise ValueError(f"hitting times beyond {SWEEPS} sweeps; accepted: models that need fewer")


def diameter(model: Model | Dense, tolerance: float = 1e-11) -> Tensor:
    """The most steps that the best policy needs, expected, between two states, `[...]`.

    Infinite for a model that is not communicating. Spans of optimal biases are at most the
    diameter times the span of the rewards.

    Args:
        model: shared or of `N` replicas.
        tolerance: the largest relative error, in (0, 1).

    Raises:
        ValueError: as `hitting_times`.
    """
    return hitting_times(model, tolerance).amax((-2, -1))
