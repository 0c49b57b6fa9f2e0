"""Checks of values read tensors back from the device; inside a step they are left out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_trusted = [0]  # depth of `trusted` blocks


def checking() -> bool:
    """Whether values are to be checked: not in compiled code, nor inside `trusted`."""
    return not torch.compiler.is_compiling() and _trusted[0] == 0


@contextmanager
def trusted() -> Iterator[None]:
    """A block whose arguments were checked before."""
    _trusted[0] += 1
    try:
        yield
    finally:
        _trusted[0] -= 1
