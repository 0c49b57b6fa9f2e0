"""What a problem may define for environments: legal actions, and where episodes begin.

`action_mask(instance, state)` gives the legal actions `[N, A]`, or `[N, length, A]` for the entries
of sequences. `check_action(instance, state, action)` raises ValueError where legality is no matter
of single entries. `reset_to(instance, options, usual)` gives a state and the number `[N]` of
steps that lead to it; `usual` is the start that `reset` drew, for what `options` leave open.
"""

from typing import Any

import torch
from torch import Tensor

from rlkit.protocol import Instance, Problem, Tree


def legal_actions(problem: Problem, instance: Instance, state: Tree) -> dict[str, Tensor]:
    """The legal actions `[N, ..., A]` bool under "action_mask"; empty where all are legal."""
    legal = getattr(problem, "action_mask", None)
    return {} if legal is None else {"action_mask": legal(instance, state)}


def check_legal(
    problem: Problem, instance: Instance, state: Tree, action: Tensor, elapsed: Any
) -> None:
    """Refuse an illegal action `[N, ...]`; `elapsed` `[N]` are steps since the episode began.

    Raises:
        ValueError: names the action, its position in the episode, and the row; or what the
            problem's own `check_action` says.
    """
    for legal in legal_actions(problem, instance, state).values():
        wrong = ~legal.gather(-1, action[..., None]).squeeze(-1)
        if bool(wrong.any()):
            row, *entry = wrong.nonzero()[0].tolist()
            place = f"entry {entry[0]} of the " if entry else ""
            accepted = legal[row, *entry].nonzero().flatten().tolist()
            raise ValueError(
                f"{place}action {action[row].tolist()} at position {int(elapsed[row])} of row "
                f"{row} is illegal; accepted: {accepted}"
            )
    own = getattr(problem, "check_action", None)
    if own is not None:
        own(instance, state, action)


def begin_at(
    problem: Problem, instance: Instance, options: dict[str, Any], usual: Tree, zero: Tensor
) -> tuple[Tree, Tensor]:
    """The state that `options` ask for and the steps to it `[N]`; else the `usual` and `zero`.

    Raises:
        ValueError: options that the problem refuses.
    """
    asked = {key: value for key, value in options.items() if key != "reset_mask"}
    reset_to = getattr(problem, "reset_to", None)
    if not asked or reset_to is None:
        return usual, zero
    state, steps = reset_to(instance, asked, usual)
    return state, torch.as_tensor(steps).to(zero.dtype)
