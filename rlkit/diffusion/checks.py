"""Checks of values read tensors back, which would hold up an accelerator in every step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_trusted = [0]  # depth of `trusted` blocks


def checking(values: Tensor) -> bool:
    """Whether `values` are to be checked: on the CPU, but not compiled nor inside `trusted`."""
    return values.is_cpu and not torch.compiler.is_compiling() and _trusted[0] == 0


@contextmanager
def trusted() -> Iterator[None]:
    """A block whose arguments were checked before."""
    _trusted[0] += 1
    try:
        yield
    finally:
        _trusted[0] -= 1
