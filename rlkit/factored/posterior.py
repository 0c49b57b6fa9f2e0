"""Posterior over graphs and conditional tables of a factored MDP, in closed form.

Two levels (Mutti et al., 2024): the parents `z_j` of each successor feature are uniform over the
sets that contain the known ones and have at most `Z` members, independently over `j`; given them
every row of the table is Dirichlet(alpha, ..., alpha), alpha per cell (the K2 score of Cooper and
Herskovits, 1992, for alpha = 1; not the BDeu of Heckerman et al., 1995, which divides alpha by the
number of cells). Counts are kept for every admissible set, in tables of its own size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.factored.structure import ParentSets, decode, supersets
from rlkit.random import Rng

TOGETHER = 20_000  # weights updated at once, so that what a step touches stays in the cache


class Posterior(NamedTuple):
    """Weights of the admissible parent sets and their counts.

    `K` admissible sets, padded where a feature has fewer; `R` rows of all their tables together.
    Table `k` of feature `j` begins at row `first[j, k]`; a row is `N_j` cells and their sum.
    """

    candidate: Tensor  # [N, dY, K] int64, position in the list of sets
    first: Tensor  # [N, dY, K] int64
    log_weight: Tensor  # [N, dY, K] float64, log marginal likelihood; -inf where padded
    counts: Tensor  # [N, R * sum_j (N_j + 1)] float32, features one after another


class Sampled(NamedTuple):
    """One factored model."""

    parents: Tensor  # [N, dY] int64, position in the list of sets
    table: Tensor  # [N, C, sum_j N_j] float64: rows p_j(. | c), features side by side


class Trajectory(NamedTuple):
    """Transitions to learn from, the first `length` of `H`."""

    x: Tensor  # [N, H] int64 joint index of state and action
    successor: Tensor  # [N, H] int64
    length: Tensor  # [N] int64


def capacity(sets: ParentSets, degree: int, exact_size: int | None = None) -> tuple[int, int]:
    """Admissible sets `K` and rows `R` of their tables, at most, with `degree` known parents.

    A function of the problem's size alone, so that replicas with graphs of their own have
    states of one shape.
    """
    known = sets.member[sets.member.sum(1) == degree]
    allowed = supersets(sets, known, exact_size)
    rows = (allowed * sets.size).sum(1)
    return int(allowed.sum(1).max()), int(rows.max())


def start(
    sets: ParentSets, allowed: Tensor, successor: Sequence[int], limits: tuple[int, int]
) -> Posterior:
    """The prior: all admissible sets equally likely, no counts.

    Args:
        sets: the list.
        allowed: admissible sets `[N, dY, Q]` bool.
        successor: numbers of values `N_j` of the successor features.
        limits: `K` and `R`, as `capacity` gives them.

    Raises:
        ValueError: a feature without an admissible set.
    """
    total = allowed.sum(-1)
    if int(total.min()) == 0:
        *_, j = (total == 0).nonzero()[0].tolist()
        raise ValueError(f"no admissible parent set for successor feature {j}")
    width, depth = limits
    order = torch.argsort((~allowed).long(), dim=-1, stable=True)[..., :width]
    real = allowed.gather(-1, order)
    size = sets.size[order] * real
    first = (torch.cumsum(size, -1) - size) * real
    weight = torch.zeros(order.shape, dtype=torch.float64, device=order.device)
    n = order.shape[0]
    return Posterior(
        order,
        first,
        weight.masked_fill(~real, float("-inf")),
        weight.new_zeros(n, depth * sum(values + 1 for values in successor), dtype=torch.float32),
    )


def bases(successor: Sequence[int], counts: Tensor) -> tuple[Tensor, Tensor, int]:
    """First cell of each feature's tables `[dY]`, values of each `[dY]`, and rows `R`."""
    values = torch.tensor(successor, device=counts.device)
    wide = values + 1
    depth = counts.shape[1] // sum(value + 1 for value in successor)
    return (torch.cumsum(wide, 0) - wide) * depth, values, depth


def update(
    posterior: Posterior,
    sets: ParentSets,
    successor: Sequence[int],
    concentration: float,
    data: Trajectory,
) -> Posterior:
    """Bayes' rule for episodes, one step after another.

    Each step adds `log (alpha + n(c, y)) / (N_j alpha + n(c))` to the weight of every admissible
    set, then counts; the sum is the Dirichlet-multinomial score and the order does not matter.

    Args:
        posterior: before.
        sets: the list.
        successor: numbers of values `N_j`.
        concentration: alpha > 0.
        data: episodes.
    """
    after = posterior._replace(
        log_weight=posterior.log_weight.clone(), counts=posterior.counts.clone()
    )
    n, features, width = posterior.candidate.shape
    size = max(1, TOGETHER // (features * width))
    for begin in range(0, n, size):
        some = slice(begin, begin + size)
        part = Posterior(*(leaf[some] for leaf in after))
        absorb(part, sets, successor, concentration, Trajectory(*(leaf[some] for leaf in data)))
    return after


def absorb(
    posterior: Posterior,
    sets: ParentSets,
    successor: Sequence[int],
    concentration: float,
    data: Trajectory,
) -> None:
    """`update` in place of weights and counts."""
    base, values, _ = bases(successor, posterior.counts)
    wide = (values + 1)[:, None]
    y = decode(data.successor, successor)[..., None]  # [N, H, dY, 1]
    shape, codes = posterior.candidate.shape, sets.code.reshape(-1)
    place = (posterior.candidate * sets.code.shape[1]).flatten(1)
    first = posterior.first * wide + base[:, None]
    mass = (concentration * values.double())[:, None]
    counts, weight = posterior.counts, posterior.log_weight
    real = torch.isfinite(weight).float()
    whole = bool(real.all()) and int(data.length.min()) == data.x.shape[1]
    for h in range(int(data.length.max())):
        code = codes.index_select(0, (place + data.x[:, h, None]).view(-1)).view(shape)
        row = torch.addcmul(first, code, wide)
        cell, total = (row + y[:, h]).flatten(1), (row + values[:, None]).flatten(1)
        top = concentration + counts.gather(1, cell).view(shape).double()
        bottom = mass + counts.gather(1, total).view(shape).double()
        gain = torch.log(top / bottom)
        seen = real if whole else real * (data.length > h).float()[:, None, None]
        weight += gain if whole else seen * gain
        counts.scatter_add_(1, cell, seen.flatten(1))
        counts.scatter_add_(1, total, seen.flatten(1))


def sample(
    posterior: Posterior,
    sets: ParentSets,
    successor: Sequence[int],
    concentration: float,
    rng: Rng,
) -> Sampled:
    """A graph from its posterior, then every row of its tables from its Dirichlet law.

    Draws: "parents" and "table".
    """
    chosen = draw_sets(posterior.log_weight, rng)
    parents = posterior.candidate.gather(-1, chosen).squeeze(-1)
    # Elements have counters of their own: leaving out rows that nobody reads changes no number.
    # That does not hold for the boost of alpha < 1.
    longest = sets.size if concentration < 1 else sets.size[parents]
    first = posterior.first.gather(-1, chosen)
    seen = tables(posterior, successor, first, int(longest.max()))
    alpha = concentration + seen.double()
    return Sampled(parents, dirichlet(alpha, successor, concentration < 1, rng))


def expected(
    posterior: Posterior,
    sets: ParentSets,
    successor: Sequence[int],
    concentration: float,
    parents: Tensor,
) -> Sampled:
    """Posterior mean of the tables, given the graph `parents` `[N, dY]` of admissible sets."""
    chosen = (posterior.candidate == parents[..., None]).long().argmax(-1, keepdim=True)
    first = posterior.first.gather(-1, chosen)
    seen = tables(posterior, successor, first, int(sets.size[parents].max())).double()
    parts = [part + concentration for part in seen.split(list(successor), -1)]
    return Sampled(parents, torch.cat([part / part.sum(-1, keepdim=True) for part in parts], -1))


def tables(posterior: Posterior, successor: Sequence[int], first: Tensor, rows: int) -> Tensor:
    """Counts `[N, rows, sum_j N_j]` of the tables that begin at `first` `[N, dY, 1]`.

    What follows a shorter table is of no meaning and never read.
    """
    base, values, depth = bases(successor, posterior.counts)
    device = values.device
    owner = torch.repeat_interleave(torch.arange(len(successor), device=device), values)
    value = torch.cat([torch.arange(count, device=device) for count in successor])
    row = first[:, owner, 0][:, None] + torch.arange(rows, device=device)[:, None]
    cell = base[owner] + row.clamp(max=depth - 1) * (values[owner] + 1) + value
    return posterior.counts.gather(1, cell.flatten(1)).view(cell.shape)


def dirichlet(alpha: Tensor, successor: Sequence[int], small: bool, rng: Rng) -> Tensor:
    """Draw "table": Dirichlet laws side by side, `[N, C, sum_j N_j]` as `alpha`."""
    if small:
        parts = rng.log_gamma("table", alpha).split(list(successor), -1)
        return torch.cat([torch.softmax(part, -1) for part in parts], -1)
    parts = rng.gamma("table", alpha, small=False).split(list(successor), -1)
    return torch.cat([part / part.sum(-1, keepdim=True) for part in parts], -1)


def draw_sets(log_weight: Tensor, rng: Rng) -> Tensor:
    """Position of a set drawn by its posterior probability: `[N, dY, 1]` of `[N, dY, K]`."""
    cdf = torch.cumsum(torch.softmax(log_weight, -1), -1)
    u = rng.uniform("parents", log_weight.shape[1], dtype=torch.float64)[..., None]
    chosen = (u * cdf[..., -1:] >= cdf[..., :-1]).sum(-1, keepdim=True)
    last = torch.isfinite(log_weight).sum(-1, keepdim=True) - 1
    return torch.minimum(chosen, last)


def conditional_rows(model: Sampled, sets: ParentSets, successor: Sequence[int]) -> list[Tensor]:
    """Factors of a model at every joint index: `p_j(y | x)` as `[N, N_j, X]`, one for each `j`."""
    rows = []
    for j, table in enumerate(model.table.split(list(successor), -1)):
        code = sets.code[model.parents[:, j]][:, None]
        rows.append(table.mT.gather(2, code.expand(-1, successor[j], -1)))
    return rows
