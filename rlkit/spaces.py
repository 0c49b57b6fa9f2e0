"""Spaces of the protocol: as Gymnasium's, and what lies inside them."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from rlkit.protocol import (
    ActionSpace,
    Box,
    Composite,
    Discrete,
    MultiDiscrete,
    ObservationSpace,
    Tree,
)

REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def to_gymnasium(space: ObservationSpace) -> gymnasium.Space[Any]:
    """The Gymnasium space of one environment."""
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete([space.n] * space.length)
    if isinstance(space, Composite):
        return gymnasium.spaces.Dict({name: to_gymnasium(part) for name, part in space.parts})
    return gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)


def to_observation(space: ObservationSpace, observation: Tree) -> Tree:
    """ObservationSpace in the dtypes that its Gymnasium space declares."""
    if isinstance(space, Composite):
        return {name: to_observation(part, observation[name]) for name, part in space.parts}
    return observation.float() if isinstance(space, Box) else observation


def shape_of(space: ActionSpace) -> tuple[int, ...]:
    """Shape of one element, without the replica dimension."""
    if isinstance(space, Discrete):
        return ()
    return (space.length,) if isinstance(space, MultiDiscrete) else space.shape


def bounds_of(space: ActionSpace) -> tuple[float, float]:
    """Least and greatest number that an element may hold."""
    if isinstance(space, Box):
        return space.low, space.high
    return 0, space.n - 1


def is_bounded(space: gymnasium.Space[Any]) -> bool:
    """Whether no number of the space may grow without limit."""
    return not isinstance(space, gymnasium.spaces.Box) or space.is_bounded()


def parts_of(space: ObservationSpace, name: str) -> list[tuple[str, ActionSpace]]:
    """The parts of a space with their names, `name['x']`; a simple space is its only part."""
    if isinstance(space, Composite):
        return [(f"{name}[{key!r}]", part) for key, part in space.parts]
    return [(name, space)]


def check_action(space: ActionSpace, action: Tensor, rows: int) -> None:
    """Refuse actions outside the space of `rows` environments.

    Raises:
        ValueError: names the shape, data type or numbers of the action and those accepted.
    """
    shape = [rows, *shape_of(space)]
    if list(action.shape) != shape:
        raise ValueError(f"action has shape {list(action.shape)}, not {shape}")
    accepted = (*REAL, *WHOLE) if isinstance(space, Box) else WHOLE
    if action.dtype not in accepted:
        kind = str(action.dtype).removeprefix("torch.")
        wanted = "real numbers" if isinstance(space, Box) else "integers"
        raise ValueError(f"action = {action.tolist()} has data type {kind}, not {wanted}")
    if action.numel() == 0:
        return
    low, high = (extreme.item() for extreme in torch.aminmax(action))
    if isinstance(space, Box) and not (abs(low) < float("inf") and abs(high) < float("inf")):
        row = int((~torch.isfinite(action)).nonzero()[0, 0])
        raise ValueError(f"action of row {row} holds a number that is not finite")
    least, greatest = bounds_of(space)
    if low < least or high > greatest:
        raise ValueError(f"action {low:.9g} .. {high:.9g} outside {least} .. {greatest}")
