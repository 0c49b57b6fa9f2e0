"""Factored Markov decision processes: features, sets of parents, what is known of the graph.

State and action are tuples of features `X`, the successor one of features `Y`; each `Y_j` depends
on a few of the `X`, its parents: `p(y | x) = prod_j p_j(y_j | x[z_j])`. There are no edges among
the `Y`. The joint index of a tuple counts with the first feature most significant; that of a state
and an action is `x = state * A + action`.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.protocol import Discrete, Spec
from rlkit.validation import check_integer

MEMORY = 2 << 30  # bytes that one replica's joint table may take
CODES = 1 << 26  # codes that the list of parent sets may hold


class CausalPrior(NamedTuple):
    """What is known of the graph of a factored MDP. Build it with `causal_prior`.

    Source: the sets `Z_j` of Mutti, De Santi, Restelli, Marx and Ramponi (2024), section 2.
    """

    state: tuple[int, ...]  # number of values of each state feature
    action: tuple[int, ...]  # number of values of each action feature
    known: Tensor  # [dY, dX] or [N, dY, dX] bool: edges known to exist
    sparseness: int  # Z, largest number of parents
    degree: int  # eta, lower bound on the number of known parents of every Y
    parents: Tensor | None = None  # as `known`: all edges, for agents told the whole graph

    @property
    def features(self) -> tuple[int, ...]:
        """Numbers of values of all `X`: state features, then action features."""
        return self.state + self.action


class ParentSets(NamedTuple):
    """All sets of at most `Z` parents, smaller ones first, and what they make of an `x`."""

    member: Tensor  # [Q, dX] bool
    size: Tensor  # [Q] int64 number of configurations
    code: Tensor  # [Q, X] int64 configuration, in [0, size), of each joint index x


def edges(parents: Sequence[Sequence[int]], features: int) -> Tensor:
    """Lists of parents, one for each `Y`, as a mask `[dY, dX]` bool.

    Raises:
        ValueError: a parent that is none of the `features` state and action features.
    """
    mask = torch.zeros(len(parents), features, dtype=torch.bool)
    for j, row in enumerate(parents):
        for parent in row:
            if not 0 <= parent < features:
                raise ValueError(
                    f"parent {parent} of successor feature {j}; accepted: state and action "
                    f"features 0 .. {features - 1} (edges among successor features are not)"
                )
            mask[j, parent] = True
    return mask


def causal_prior(
    state: Sequence[int],
    action: Sequence[int],
    known: Tensor,
    sparseness: int,
    degree: int = 0,
    parents: Tensor | None = None,
) -> CausalPrior:
    """A checked prior.

    Args:
        state: number of values of each state feature, >= 1.
        action: number of values of each action feature, >= 1.
        known: `[dY, dX]` or `[N, dY, dX]` bool, edges known to exist.
        sparseness: largest number of parents, >= 0.
        degree: lower bound on the number of known parents of every successor feature.
        parents: all edges, in the shape of `known`; None keeps them secret.

    Raises:
        ValueError: an argument outside its range, masks of another shape, or more known or true
            parents than `sparseness`.
    """
    features = (*state, *action)
    for j, values in enumerate(features):
        check_integer(f"values of feature {j}", values, 1)
    check_integer("number of state features", len(state), 1)
    check_integer("sparseness", sparseness, 0, len(features))
    check_integer("degree", degree, 0, sparseness)
    given = {"known": known} if parents is None else {"known": known, "parents": parents}
    for name, mask in given.items():
        check_mask(name, mask, len(state), len(features))
        many = mask.sum(-1)
        if int(many.max()) > sparseness:
            *_, j = (many > sparseness).nonzero()[0].tolist()
            raise ValueError(
                f"{name} gives successor feature {j} {int(many.max())} parents; accepted: up to "
                f"sparseness = {sparseness}"
            )
    if int(known.sum(-1).min()) < degree:
        raise ValueError(f"a feature has {int(known.sum(-1).min())} known parents < {degree=}")
    return CausalPrior(tuple(state), tuple(action), known, sparseness, degree, parents)


def check_mask(name: str, mask: Tensor, rows: int, columns: int) -> None:
    """Refuse what is not a mask `[dY, dX]` or `[N, dY, dX]` bool."""
    if mask.dtype != torch.bool or mask.dim() not in (2, 3) or mask.shape[-2:] != (rows, columns):
        raise ValueError(
            f"{name} is {list(mask.shape)} {mask.dtype}; accepted: bool [{rows}, {columns}] or "
            f"[N, {rows}, {columns}], one row a successor feature, one column a state or action "
            "feature"
        )


def told_prior(spec: Spec) -> CausalPrior:
    """The causal prior of a problem, agreeing with its spaces.

    Raises:
        ValueError: the problem discloses none, has other spaces, a known reward of another
            shape, no finite horizon, or a joint table beyond `MEMORY`.
    """
    prior = spec.known.prior
    if not isinstance(prior, CausalPrior):
        raise ValueError("needs a CausalPrior in spec.known.prior: a factored problem")
    if not isinstance(spec.observation, Discrete) or not isinstance(spec.action, Discrete):
        raise ValueError("needs Discrete states and actions")
    states, actions = math.prod(prior.state), math.prod(prior.action)
    if (states, actions) != (spec.observation.n, spec.action.n):
        raise ValueError(
            f"features make {states} states and {actions} actions; the problem has "
            f"{spec.observation.n} and {spec.action.n}"
        )
    if spec.horizon is None:
        raise ValueError("needs a finite horizon, the same in all replicas")
    if spec.known.reward is None or spec.known.reward.shape[-2:] != (states, actions):
        raise ValueError(f"needs a known reward of shape [..., {states}, {actions}]")
    check_joint(states, actions)
    return prior


def check_joint(states: int, actions: int) -> None:
    """Refuse a joint transition table that would not fit in memory."""
    taken = 8 * states * actions * states
    if taken > MEMORY:
        raise ValueError(
            f"a joint table of {states} states and {actions} actions takes {taken:,} bytes a "
            f"replica; accepted: up to {MEMORY:,}"
        )


def decode(index: Tensor, values: Sequence[int]) -> Tensor:
    """Features `[..., d]` of joint indices `[...]`."""
    columns = []
    for count in reversed(values):
        columns.append(index % count)
        index = torch.div(index, count, rounding_mode="floor")
    return torch.stack(columns[::-1], -1)


def encode(feature: Tensor, values: Sequence[int]) -> Tensor:
    """Joint indices `[...]` of features `[..., d]`."""
    index = torch.zeros_like(feature[..., 0])
    for j, count in enumerate(values):
        index = index * count + feature[..., j]
    return index


def subsets(features: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Sets of at most `largest` out of `features`, smaller ones first, then lexicographic."""
    for size in range(largest + 1):
        yield from combinations(range(features), size)


@lru_cache(maxsize=32)
def parent_sets(
    features: tuple[int, ...], sparseness: int, device: torch.device | str = "cpu"
) -> ParentSets:
    """The sets of at most `sparseness` of the `features`.

    Args:
        features: numbers of values.
        sparseness: in `[0, dX]`.
        device: of the tables.

    Raises:
        ValueError: `sparseness` outside its range, or a list too long to be held.
    """
    check_integer("sparseness", sparseness, 0, len(features))
    number = sum(math.comb(len(features), size) for size in range(sparseness + 1))
    joint = math.prod(features)
    if number * joint > CODES:
        raise ValueError(
            f"{number:,} parent sets over {joint:,} joint values take {number * joint:,} codes; "
            f"accepted: up to {CODES:,}"
        )
    x = decode(torch.arange(joint, device=device), features)
    member = torch.zeros(number, len(features), dtype=torch.bool)
    size = torch.ones(number, dtype=torch.int64)
    code = torch.zeros(number, joint, dtype=torch.int64, device=device)
    for row, chosen in enumerate(subsets(len(features), sparseness)):
        member[row, list(chosen)] = True
        size[row] = math.prod(features[i] for i in chosen)
        if chosen:
            code[row] = encode(x[:, list(chosen)], [features[i] for i in chosen])
    return ParentSets(member.to(device), size.to(device), code)


def supersets(sets: ParentSets, known: Tensor, exact_size: int | None = None) -> Tensor:
    """Which of the sets contain the known parents: `[..., dY, Q]` bool of `known` `[..., dY, dX]`.

    Args:
        sets: the list.
        known: masks.
        exact_size: keep only sets of this many parents; None for any.
    """
    missing = known.float() @ (~sets.member).float().T
    allowed = missing == 0
    if exact_size is not None:
        allowed &= sets.member.sum(1) == exact_size
    return allowed


def equals(sets: ParentSets, parents: Tensor) -> Tensor:
    """Which of the sets is the given one: `[..., dY, Q]` bool of `parents` `[..., dY, dX]`."""
    extra = (~parents).float() @ sets.member.float().T
    return supersets(sets, parents) & (extra == 0)


def joint_kernel(rows: Sequence[Tensor]) -> Tensor:
    """Product of factors: `[N, S, X]`, the successor first, of rows `p_j(y | x)` `[N, N_j, X]`."""
    kernel = rows[0]
    for row in rows[1:]:
        kernel = (kernel[:, :, None] * row[:, None]).flatten(1, 2)
    return kernel
