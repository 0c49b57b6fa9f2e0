"""Finite horizon: backward induction, and the values of policies (Puterman 1994, chapter 4)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.layout import Backup, Matrix, backups, fitting, leading, narrow, padded
from rlkit.planning.policies import check_policy
from rlkit.validation import check_integer, check_real

SHARE = 1 / 4  # of the cache for a block: most of it then lies in what no other program uses

Best = Callable[[Tensor, slice, int], Tensor]  # (q [B, S, A], rows, stage) -> value [B, S]


class Plan(NamedTuple):
    """Values of every stage, `h = 0 .. H - 1` steps from the start; they carry no gradients."""

    value: Tensor  # [..., H + 1, S], zero at stage H
    q: Tensor  # [..., H, S, A]


def backward_induction(
    model: Model | Dense, horizon: int, cap: float | None = None, check: bool = True
) -> Plan:
    """Optimal values of `horizon` steps, undiscounted (Puterman 1994, section 4.5).

    Args:
        model: shared or of `N` replicas; a `Dense` is planned fastest, above all one whose
            kernels come from `successor_major`.
        horizon: steps, >= 1.
        cap: None, or the most that a step can pay: no value of stage `h` exceeds
            `cap * (H - h)`, as optimistic agents demand.
        check: whether rows of probabilities are checked. Without, the rows may sum to less than
            1 (the rest pays nothing), and nothing is read back from the device.

    Raises:
        ValueError: `horizon` below 1; a row that is no distribution; names state and action.
    """
    return sweep(model, horizon, None, leading(model), cap, check)


def optimal_values(
    model: Model | Dense, horizon: int, cap: float | None = None, check: bool = True
) -> Tensor:
    """The values `[..., H + 1, S]` of `backward_induction` alone, in an `A`-th of its memory.

    Arguments and errors as there.
    """
    return sweep(model, horizon, None, leading(model), cap, check, keep=False).value


def finite_policy_value(model: Model | Dense, policy: Tensor, horizon: int) -> Plan:
    """Values of a policy over `horizon` steps, undiscounted (Puterman 1994, section 4.2).

    Args:
        model: shared or of `N` replicas.
        policy: probabilities of actions, `[..., H, S, A]`; or `[S, A]`, `[..., 1, S, A]` where
            all stages share them.
        horizon: steps, >= 1.

    Raises:
        ValueError: `horizon` below 1; a row of policy or model that is no distribution.
    """
    staged = stages(policy, horizon, model.size)

    def expectation(q: Tensor, rows: slice, stage: int) -> Tensor:
        own = staged[rows] if staged.dim() == 4 else staged
        return (own[..., stage, :, :] * q).sum(-1)

    return sweep(model, horizon, expectation, leading(model, (staged, 3)))


def stages(policy: Tensor, horizon: int, size: tuple[int, int]) -> Tensor:
    """A policy as checked `[..., H, S, A]`."""
    check_integer("horizon", horizon, 1)
    check_policy(policy, size)
    staged = policy[None] if policy.dim() == 2 else policy
    if staged.shape[-3] not in (1, horizon):
        raise ValueError(
            f"policy {tuple(policy.shape)}; accepted: [..., {horizon}, S, A], [..., 1, S, A], "
            "[S, A]"
        )
    return staged.expand(*staged.shape[:-3], horizon, *size)


def sweep(
    model: Model | Dense,
    horizon: int,
    best: Best | None,
    lead: tuple[int, ...],
    cap: float | None = None,
    check: bool = True,
    keep: bool = True,
) -> Plan:
    """Sweep from the last stage to the first; `best` makes the values of a stage from its `q`.

    Args:
        model: shared or of `N` replicas.
        horizon: steps, >= 1.
        best: value `[B, S]` of `q` `[B, S, A]`, given rows and stage; None: the largest.
        lead: `(N,)`, or `()` for a single result.
        cap: as in `backward_induction`.
        check: as in `backward_induction`.
        keep: whether `q` is kept of all stages; else of the first alone.
    """
    check_integer("horizon", horizon, 1)
    if cap is not None:
        check_real("cap", cap)
    states, actions = model.size
    (count,) = lead or (1,)
    # In memory, stages are outermost and states innermost: that is how sweeps write them.
    value = model.reward.new_empty(horizon + 1, count, 1, states)
    value[horizon] = 0
    wide = model.reward.new_empty(horizon if keep else 1, count, 1, padded(states * actions))
    table = narrow(wide[:, :, 0], states, actions).mT
    size = fitting(model, count, SHARE)
    with torch.inference_mode():  # small operations are called faster there
        models = backups(model, count, size, check)
        parts = zip(*(tensor.split(size, 1) for tensor in (value, wide, table)), strict=True)
        for begin, backup, part in zip(range(0, count, size), models, parts, strict=False):
            rows = slice(begin, begin + size)
            for stage, q, now in descent(backup, *part):
                if cap is not None:
                    q.clamp_(max=cap * (horizon - stage))
                if best is None:
                    torch.amax(q, 1, keepdim=True, out=now)
                else:
                    now[:, 0] = best(q.mT, rows, stage)
    value, table = value[:, :, 0], table.mT
    if not lead:
        return Plan(value[:, 0], table[:, 0])
    return Plan(value.movedim(0, 1), table.movedim(0, 1))


def descent(
    backup: Backup, value: Tensor, wide: Tensor, table: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """From the last stage on: its number, its `q` `[B, A, S]`, and where its values belong.

    Args:
        backup: of `B` replicas.
        value: memory for the values `[H + 1, B, 1, S]`, zero at stage H, else to be written by
            the caller.
        wide: memory for `q` in whole cache lines, `[H, B, 1, W]`; `[1, B, 1, W]` where all stages
            share it.
        table: `q` as it lies there, `[H, B, A, S]` or `[1, B, A, S]`.
    """
    *values, following = value.unbind(0)
    horizon = len(values)
    rooms, tables = (part.unbind(0) * (horizon // len(part)) for part in (wide, table))
    if isinstance(backup, Matrix):
        kernel, reward = backup.kernel.expand(len(following), -1, -1), backup.reward.mT
    parts = list(zip(range(horizon), values, rooms, tables, strict=True))
    for stage, now, room, q in reversed(parts):
        if isinstance(backup, Model):
            q.copy_(backup.lookahead(following[:, 0]).mT)
        elif stage == horizon - 1:
            q.copy_(reward)  # nothing follows: one product saved
        else:
            torch.bmm(following, kernel, out=room)
            q.add_(reward)
        yield stage, q, now
        following = now
