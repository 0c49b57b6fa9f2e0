"""Whether spaces hold something, and whether values lie inside them."""

import torch
from torch import Tensor

from rlkit.checker.report import Fault
from rlkit.checker.trace import ROWS, form
from rlkit.protocol import ActionSpace, Box, Composite, Discrete, MultiDiscrete, ObservationSpace
from rlkit.spaces import bounds_of, parts_of, shape_of


def check_declared(space: object, name: str) -> None:
    """Refuse what is no simple space, or one that holds nothing."""
    if isinstance(space, Discrete | MultiDiscrete):
        if space.n < 1 or getattr(space, "length", 1) < 1:
            kind = type(space).__name__
            least = "n >= 1" if isinstance(space, Discrete) else "n >= 1 and length >= 1"
            raise Fault(f"spec.{name} = {space}: a {kind} space needs {least}")
    elif not isinstance(space, Box):
        raise Fault(
            f"spec.{name} is a {type(space).__name__}: give a Discrete, a Box or a MultiDiscrete"
        )
    elif not space.low < space.high:
        raise Fault(f"spec.{name} = {space}: low must be less than high")


def check_space(value: object, space: ObservationSpace, name: str) -> None:
    """Refuse what is not in `space`, row by row."""
    if not isinstance(space, Composite):
        check_part(value, space, name)
        return
    names = [key for key, _ in space.parts]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise Fault(f"{name} is {found}: return a dict of {names}, as the spec says")
    for (path, part), key in zip(parts_of(space, name), names, strict=True):
        check_part(value[key], part, path)


def check_part(value: object, space: ActionSpace, name: str) -> None:
    """Refuse what is not in a simple space."""
    if not isinstance(value, Tensor):
        raise Fault(f"{name} is a {type(value).__name__}: return a tensor")
    shape = (ROWS, *shape_of(space))
    if value.shape != shape:
        raise Fault(f"{name} has shape {list(value.shape)}, the spec says {list(shape)}")
    real = isinstance(space, Box)
    if not value.dtype.is_floating_point if real else value.dtype != torch.int64:
        wanted = "a floating-point type" if real else "int64"
        raise Fault(f"{name} is {form(value)}, a {type(space).__name__} space wants {wanted}")
    check_bounds(value, space, name)


def check_bounds(value: Tensor, space: ActionSpace, name: str) -> None:
    """Refuse numbers outside `space`; NaN is another check's business."""
    if value.numel() == 0:
        return
    low, high = bounds_of(space)
    known = value[~torch.isnan(value)]
    for extreme in (known.min(), known.max()) if known.numel() else ():
        if not low <= float(extreme) <= high:
            raise Fault(f"{name} {float(extreme):.6g} outside [{low}, {high}] of the spec")
