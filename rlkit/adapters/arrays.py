"""Observation spaces and tensors as numpy sees them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.protocol import Tree


def flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A Box of one dimension, of at least one number: policy networks refuse empty inputs.

    Of a Dict every Box; other spaces are returned as they are.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: flat_space(part) for name, part in space.items()})
    if not isinstance(space, spaces.Box) or space.shape == (max(1, *space.shape),):
        return space
    if 0 in space.shape:
        return spaces.Box(0.0, 1.0, (1,), np.float32)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return spaces.Box(low, high, dtype=np.float32)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy on the host that shares no memory with the engine."""
    array: NDArray[Any] = tensor.cpu().numpy().copy()
    return array


def flat_rows(array: NDArray[Any]) -> NDArray[Any]:
    """`[N, a, b, ...]` to `[N, a * b * ...]`; empty rows become one zero."""
    if array.size == 0:
        return np.zeros((array.shape[0], 1), dtype=array.dtype)
    return array.reshape(array.shape[0], -1)


def to_arrays(observation: Tree, space: spaces.Space[Any], flatten: bool) -> Any:
    """Copies `[N, ...]` on the host of a tensor or a dict of such; Boxes flat if `flatten`."""
    if isinstance(space, spaces.Dict):
        return {name: to_arrays(observation[name], part, flatten) for name, part in space.items()}
    array = to_numpy(observation)
    return flat_rows(array) if flatten and isinstance(space, spaces.Box) else array


def take_row(arrays: Any, row: int) -> Any:
    """Row of an array `[N, ...]`, or of every array of a dict."""
    if isinstance(arrays, dict):
        return {name: array[row] for name, array in arrays.items()}
    return arrays[row]


def copy_arrays(arrays: Any) -> Any:
    """A copy of an array, or of every array of a dict."""
    if isinstance(arrays, dict):
        return {name: array.copy() for name, array in arrays.items()}
    return arrays.copy()


def first_row(tree: Tree) -> Tree:
    """The same tree for the first row: Python numbers of `[N]`, arrays of `[N, ...]`."""
    return tree_map(lambda leaf: to_numpy(leaf[0]) if leaf.dim() > 1 else leaf[0].item(), tree)
