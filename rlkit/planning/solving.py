"""Systems of linear equations whose solution does not depend on the batch they are solved in."""

import torch
from torch import Tensor

from rlkit.planning.layout import LINE


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """`x` `[..., S]` with `matrix x = right`, of `[..., S, S]` and `[..., S]`.

    Systems are padded to whole cache lines, as alignment changes the rounding of LAPACK.

    Raises:
        torch.linalg.LinAlgError: a matrix is singular.
    """
    size = matrix.shape[-1]
    wide = size + -size % LINE
    padded = torch.eye(wide, dtype=matrix.dtype, device=matrix.device)
    padded = padded.expand(*matrix.shape[:-2], wide, wide).contiguous()
    padded[..., :size, :size] = matrix
    rows = torch.nn.functional.pad(right, (0, wide - size))
    return torch.linalg.solve(padded, rows[..., None])[..., :size, 0]


def poisson(kernel: Tensor, reward: Tensor) -> Tensor:
    """`x` `[..., S]` of unichain `kernel` `[..., S, S]`: its mean is the gain, the rest the bias.

    `x = reward + kernel x - mean(x)`: the evaluation equations (Puterman 1994, 8.2.6), with the
    bias normalised to mean zero.
    """
    states = kernel.shape[-1]
    identity = torch.eye(states, dtype=kernel.dtype, device=kernel.device)
    return solve(identity - kernel + 1 / states, reward)
