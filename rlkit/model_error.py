"""How far a learned transition model is from the true one."""

from torch import Tensor

from rlkit.models import Model


def model_error(kernel: Tensor, truth: Model) -> Tensor:
    """Mean L1 distance of the rows of `kernel` `[N, S, A, S]` from the truth, `[N]` in `[0, 2]`.

    Over all actions of the states that are not terminal. Terminal successors count as one, which
    `kernel` may leave out of its rows: what happens after the end is no matter.
    """
    alive = (~truth.terminal).double()
    inside = alive[..., None, None, :]
    difference = ((kernel - truth.kernel) * inside).abs().sum(-1)
    ends = ((kernel * inside).sum(-1) - (truth.kernel * inside).sum(-1)).abs()
    distance = (difference + ends).mean(-1)
    return (distance * alive).sum(-1) / alive.sum(-1)
