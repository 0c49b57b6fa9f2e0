"""Distributional value iteration on the lattice: tables of return laws, greedy for any functional.

Avila Pires et al. (2025), section 4: from `eta_0 = delta_0` on, act greedily in every state and
stock and set `eta_{n+1}(s, c)` to the law of `R + G(S', c + R)`. With a horizon `H` it is exact
after `H` iterations. Where the functional is an expectation, `Lattice.maximise` finds the same
policy from values alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.functionals import Functional
from rlkit.stocks.lattice import LARGEST, Lattice, cone, greedy, grid, moves


class Laws(NamedTuple):
    """Return laws and greedy actions of every stage, `t = 0 .. H - 1` steps from the start."""

    support: Tensor  # [G, m] values of the return
    probability: Tensor  # [H + 1, S, C, G] law of the return from a stage, state and stock on
    value: Tensor  # [H + 1, S, C] functional of stock plus return
    action: Tensor  # [H, S, C]


def distributional_value_iteration(
    lattice: Lattice, functional: Functional, admissible: bool = True
) -> Laws:
    """Greedy laws for a functional of stock plus return, from every state and stock.

    Args:
        lattice: the problem.
        functional: `K`.
        admissible: whether to refuse functionals that greedy steps do not optimise; False shows
            what they give.

    Raises:
        ValueError: as `check_admissible`; or tables that are too large.
    """
    if admissible:
        check_admissible(functional, lattice.model)
    backup = Backup(lattice)
    states, _actions, points = lattice.size
    law = backup.nothing.expand(states, points, -1)
    outcome = lattice.support[:, None] + backup.support  # [C, G, m] stock plus return
    laws, values, actions = [law], [functional.of(outcome, law)], []
    for _ in range(lattice.model.steps):
        choices = backup(law)
        score = functional.of(outcome, choices)
        best = greedy(score, 1)
        law = choices.gather(1, best[:, None, :, None].expand(-1, 1, -1, law.shape[-1])).squeeze(1)
        laws.append(law)
        values.append(score.gather(1, best[:, None]).squeeze(1))
        actions.append(best)
    stages = (torch.stack(part[::-1]) for part in (laws, values, actions))
    return Laws(backup.support, *stages)


class Backup:
    """The operator from laws `[S, C, G]` of the following return to laws `[S, A, C, G]`."""

    def __init__(self, lattice: Lattice) -> None:
        model = lattice.model
        move = moves(model, lattice.unit)
        least, most = cone(model, move)
        count = tuple(b - a + 1 for a, b in zip(least, most, strict=True))
        integers = grid(tuple(least), count).to(move.device)
        states, _actions, points = lattice.size
        entries = move[..., 0].numel() * points * integers.shape[0]
        if entries > LARGEST:
            raise ValueError(
                f"laws of {integers.shape[0]} returns in {states * points} states and stocks make "
                f"tables of {entries} entries; accepted: up to {LARGEST}; Lattice.maximise needs "
                "values alone"
            )
        self.lattice = lattice
        self.support = lattice.unit * integers.double()
        self.nothing = (integers == 0).all(-1).double()  # [G] all mass on zero
        # Return g after reward r came from return g - r, if that is one.
        before = integers - move[..., None, :] - torch.tensor(least, device=move.device)
        self.possible = ((before >= 0) & (before < torch.tensor(count))).all(-1)
        flat = torch.zeros_like(before[..., 0])
        for coordinate, size in enumerate(count):
            flat = flat * size + before[..., coordinate].clamp(0, size - 1)
        self.before = flat  # [S, A, K, G]

    def __call__(self, law: Tensor) -> Tensor:
        """Law of `R + G(S', C')` of every action."""
        index, probability = self.lattice.index, self.lattice.model.model.probability
        rows = law.flatten(0, 1)
        total = torch.zeros(())
        for outcome in range(index.shape[2]):
            moved = rows[index[:, :, outcome]]  # [S, A, C, G]
            source = self.before[:, :, outcome, None].expand(moved.shape)
            share = probability[:, :, outcome, None] * self.possible[:, :, outcome]
            total = total + share[:, :, None] * moved.gather(-1, source)
        return total
