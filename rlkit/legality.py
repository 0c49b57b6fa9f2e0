"""Two things a problem may define for environments: legal actions, and where episodes begin.

`action_mask(instance, state)` gives the legal actions `[N, A]`; `reset_to(instance, options)` a
state and the number `[N]` of steps that lead to it.
"""

from typing import Any

import torch
from torch import Tensor

from rlkit.protocol import Instance, Problem, Tree


def legal_actions(problem: Problem, instance: Instance, state: Tree) -> dict[str, Tensor]:
    """The legal actions `[N, A]` bool under "action_mask"; empty where all are legal."""
    legal = getattr(problem, "action_mask", None)
    return {} if legal is None else {"action_mask": legal(instance, state)}


def check_legal(masks: dict[str, Tensor], action: Tensor, elapsed: Any) -> None:
    """Refuse an illegal action `[N]`; `elapsed` `[N]` are steps since the episode began.

    Raises:
        ValueError: names the action, its position in the episode, and the row.
    """
    for legal in masks.values():
        wrong = ~legal.gather(1, action.reshape(-1, 1))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"action {int(action[row])} at position {int(elapsed[row])} of row {row} is "
                f"illegal; accepted: {legal[row].nonzero().flatten().tolist()}"
            )


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
    state, steps = reset_to(instance, asked)
    return state, torch.as_tensor(steps).to(zero.dtype)
