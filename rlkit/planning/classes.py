"""Classes of states: which communicate, which are closed (Puterman 1994, sections 8.3 and A.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlkit.models import Dense, Model
from rlkit.planning.layout import Backup, Block, Matrix, blocks, leading
from rlkit.planning.policies import under


def reachability(edge: Tensor) -> Tensor:
    """Which states can be reached from which, in any number of steps, bool `[B, S, S]`."""
    states = edge.shape[-1]
    reach = edge | torch.eye(states, dtype=torch.bool, device=edge.device)
    length = 1
    while length < states:  # paths of up to `length` steps
        numbers = reach.float()
        reach, length = torch.bmm(numbers, numbers) > 0, 2 * length
    return reach


def closed(reach: Tensor) -> Tensor:
    """States of closed classes, bool `[B, S]`: those that can be reached from all they reach."""
    return (~reach | reach.mT).all(-1)


def two_closed(reach: Tensor) -> Tensor:
    """First state of the first closed class and of the second, `[B, 2]`; equal if there is one."""
    inside = closed(reach)
    first = inside.long().argmax(-1)
    rest = inside & ~at(reach, first)
    second = torch.where(rest.any(-1), rest.long().argmax(-1), first)
    return torch.stack([first, second], -1)


def at(values: Tensor, index: Tensor) -> Tensor:
    """`values[b, index[b]]`, `[B, S]` of `[B, S, S]`."""
    return values[torch.arange(values.shape[0], device=values.device), index]


def edges(model: Model | Dense, policy: Tensor | None = None) -> Tensor:
    """Which successors the policy, or any, can lead to, bool `[B, S, S]`, `B = 1` where shared."""
    if policy is None:
        states, actions = model.size
        policy = model.reward.new_full((states, actions), 1 / actions)
    kernel = under(model, policy).kernel
    return (kernel if kernel.dim() == 3 else kernel[None]) > 0


def expected(backup: Backup, value: Tensor) -> Tensor:
    """`E value(s')`, `[B, S, A]` of `value` `[B, S]`."""
    if isinstance(backup, Matrix):
        return backup.following(value)
    return backup._replace(reward=torch.zeros_like(backup.reward)).lookahead(value)


def two_classes(model: Model | Dense, backup: Backup) -> Tensor:
    """States of two recurrent classes, `[B, 2]`; equal if the model is weakly communicating.

    It is if all states that some policy makes recurrent can reach each other (Puterman 1994,
    section 8.3.1): then one class is closed under all actions, and no policy stays outside of it.
    """
    reach = reachability(edges(model))
    first = closed(reach).long().argmax(-1)
    outside = ~at(reach, first)
    staying = torch.ones(1, 1, model.size[1], dtype=torch.bool, device=reach.device)
    for _ in range(reach.shape[-1]):  # leave out states that cannot stay with the others
        staying = expected(backup, (~outside).double()) == 0
        if bool((staying.any(-1) | ~outside).all()):
            break
        outside = outside & staying.any(-1)
    usable = (staying | ~outside[..., None]).double()
    kept = reachability(edges(model, usable / usable.sum(-1, keepdim=True)))
    recurrent = closed(kept) & outside
    second = torch.where(recurrent.any(-1), recurrent.long().argmax(-1), first)
    return torch.stack([first, second], -1)


def is_communicating(model: Model | Dense) -> Tensor:
    """Whether every state can be reached from every other, bool `[...]`.

    Args:
        model: shared or of `N` replicas.

    Raises:
        ValueError: a row is no distribution; names state and action.
    """
    return over(model, lambda part, _: reachability(edges(part)).all(-1).all(-1))


def is_weakly_communicating(model: Model | Dense) -> Tensor:
    """Whether all but states transient under every policy communicate, bool `[...]`.

    Args:
        model: shared or of `N` replicas.

    Raises:
        ValueError: a row is no distribution; names state and action.
    """

    def same(part: Model | Dense, backup: Backup) -> Tensor:
        pair = two_classes(part, backup)
        return pair[:, 0] == pair[:, 1]

    return over(model, same)


def over(model: Model | Dense, question: Callable[[Model | Dense, Backup], Tensor]) -> Tensor:
    """Answers `[...]` to a question that is put block by block."""
    lead = leading(model)
    (count,) = lead or (1,)
    answer = torch.empty(count, dtype=torch.bool, device=model.reward.device)
    for rows, part, backup in blocks(model, count):
        answer[rows] = question(part, backup)
    return answer.view(lead)


def refuse(pair: Tensor, replica: int | None, kind: str, accepted: str) -> None:
    """Refuse a block whose states `pair` `[B, 2]` differ somewhere.

    Args:
        pair: two states of different classes, equal where there are none.
        replica: the first of the block, None where there are no replicas.
        kind: of what is refused.
        accepted: what would be fine.

    Raises:
        ValueError: names the two states.
    """
    apart = pair[:, 0] != pair[:, 1]
    if bool(apart.any()):
        row = int(apart.long().argmax())
        one, two = pair[row].tolist()
        which = "" if replica is None else f" of replica {replica + row}"
        raise ValueError(
            f"{kind}{which}: states {one} and {two} belong to different recurrent classes; "
            f"accepted: {accepted}"
        )


def check_weakly_communicating(block: Block, lone: bool) -> None:
    """Refuse a block with a model that is not weakly communicating; `lone` where `N` is absent.

    Raises:
        ValueError: names a state of each of two classes.
    """
    pair = two_classes(block.model, block.backup)
    first = None if lone else block.rows.start
    refuse(pair, first, "model", "weakly communicating models")


def check_unichain(kernel: Tensor) -> None:
    """Refuse chains `[..., S, S]` with two closed classes.

    Raises:
        ValueError: names a state of each of two classes.
    """
    states = kernel.shape[-1]
    pair = two_closed(reachability(kernel.reshape(-1, states, states) > 0))
    first = None if kernel.dim() == 2 else 0
    refuse(pair, first, "chain", "chains with one closed class")
