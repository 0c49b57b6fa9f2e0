"""The same problem as a plain MDP: reward `gamma^p f(C') - f(C)`, discount `gamma^p`.

For a utility homogeneous of degree `p` the rewards telescope,
`f(c_0) + sum_t gamma^{p t} r_t = gamma^{p T} f(C_T) = f(c_0 + G)`, so any solver of plain MDPs is
an exact solver of the stock problem. With `gamma = 1` every utility qualifies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import Model, from_outcomes
from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import Utility
from rlkit.stocks.reachable import Reachable


class Reduced(NamedTuple):
    """A plain MDP over the entries of all layers, in order."""

    model: Model
    discount: float  # gamma^p
    offset: float  # f(c_0), which its value lacks


def reduce(reachable: Reachable, utility: Utility, stock: Tensor) -> Reduced:
    """The plain MDP of a utility from the initial stock `[m]`.

    Raises:
        ValueError: as `check_admissible`.
    """
    model = reachable.model
    check_admissible(utility, model)
    degree = 0.0 if utility.degree is None or model.gamma == 1 else utility.degree
    sizes = [layer.state.shape[0] for layer in reachable.layers]
    firsts = [sum(sizes[:time]) for time in range(len(sizes))]
    levels = [
        utility.f((layer.total + stock) / model.gamma**time)
        for time, layer in enumerate(reachable.layers)
    ]
    successor, reward = [], []
    for time, layer in enumerate(reachable.layers[:-1]):
        successor.append(firsts[time + 1] + layer.child)
        following = model.gamma**degree * levels[time + 1][layer.child]
        reward.append(following - levels[time][:, None, None])
    count = sizes[-1]
    shape = (count, *successor[0].shape[1:])
    successor.append((firsts[-1] + torch.arange(count))[:, None, None].expand(shape))
    reward.append(torch.zeros(shape, dtype=torch.float64))
    state = torch.cat([layer.state for layer in reachable.layers])
    ended = torch.arange(sum(sizes)) >= firsts[-1]
    start = torch.cat([reachable.start, torch.zeros(sum(sizes) - sizes[0])])
    plain = from_outcomes(
        torch.cat(successor), model.model.probability[state], torch.cat(reward), start, ended
    )
    return Reduced(plain, model.gamma**degree, float(utility.f(stock)))
