"""Distributional policy iteration on the lattice: evaluate, improve, until nothing changes.

Avila Pires et al. (2025), section 4: no improvement makes the functional smaller in any state and
with any stock.
"""

import torch
from torch import Tensor

from rlkit.stocks.lattice import Lattice, Plan, greedy


def improve(lattice: Lattice, value: Tensor, action: Tensor) -> Tensor:
    """Greedy policy `[H, S, C]` against values `[H + 1, S, C]`; keeps `action` where it is best."""
    stages = []
    for stage in range(lattice.model.steps):
        q = lattice.lookahead(value[stage + 1])
        best = greedy(q, 1)
        own = action[stage][:, None]
        gain = q.gather(1, best[:, None]) - q.gather(1, own)
        small = 1e-12 * (1 + q.abs().amax(1, keepdim=True))
        stages.append(torch.where(gain > small, best[:, None], own).squeeze(1))
    return torch.stack(stages)


def distributional_policy_iteration(
    lattice: Lattice, final: Tensor, action: Tensor | None = None
) -> tuple[Plan, int]:
    """Best policy for the expectation of a utility, by policy iteration.

    Args:
        lattice: the problem.
        final: utility of the final stock, `[C]`; an admissible one.
        action: first policy `[H, S, C]`, by default action 0 throughout.

    Returns:
        The plan, and the number of improvements, at most `H` of which change anything.
    """
    states, _actions, points = lattice.size
    if action is None:
        shape = (lattice.model.steps, states, points)
        action = torch.zeros(shape, dtype=torch.int64, device=final.device)
    count = 0
    while True:
        value = lattice.evaluate(final, action)
        better = improve(lattice, value, action)
        if torch.equal(better, action):
            return Plan(value, action), count
        action, count = better, count + 1
