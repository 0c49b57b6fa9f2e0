"""Eligibility traces kept while acting: one for every start time, the newest first.

Once a step, in this order (Daley et al., 2023, algorithm 1): `step_traces` decays the older
entries by the action just taken, `add_trace` enters its own pair, `credit` adds the step's error
to all of them, and `clear` forgets the entries of episodes that ended.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.protocol import Tree
from rlkit.random import Rng
from rlkit.sampling import one_hot, zeros
from rlkit.traces.rules import Past, find, powers, take
from rlkit.validation import check_real

TOLERANCE = 1e-6  # weight below which an entry is forgotten
MERGE = 4  # columns that cost as much as one entry with a key


class Traces(NamedTuple):
    """The last `K` pairs of every replica; column `k` was entered `k` steps ago.

    An entry of weight (and product) 0 is empty: every rule leaves it so. Merged traces of a Markov
    rule have one column for every pair instead and no keys.
    """

    key: Tree  # [N, K] int64, state * A + action, anything where empty; () if merged
    weight: Tensor  # [N, K] gamma**t * beta_t
    product: Tree  # [N, K] product of gamma * rho since; () where the rule does not read it


def capacity(rule: str, gamma: float, lambda_: float, horizon: int | None = None) -> int:
    """Entries worth keeping: older ones weigh less than 1e-6, or none is as old.

    Under "importance_sampling" and "recursive_retrace" weights may outgrow `(gamma lambda)**t`;
    there `gamma**t < 1e-6` decides, which for the former is a convention, not a bound.

    Raises:
        ValueError: an unknown rule, `gamma` outside [0, 1), `lambda_` outside [0, 1].
    """
    check_real("gamma", gamma, 0, 1, open_high=True)
    check_real("lambda_", lambda_, 0, 1)
    decay = gamma * lambda_ if find(rule).bounded or lambda_ == 0 else gamma
    longest = 1 if decay == 0 else math.ceil(math.log(TOLERANCE) / math.log(decay))
    return max(1, longest if horizon is None else min(longest, horizon))


def start_traces(
    rng: Rng,
    capacity: int,
    rule: str | None = None,
    pairs: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Traces:
    """No entries yet.

    Args:
        rng: whose replicas `N`.
        capacity: entries `K` >= 1; the oldest is forgotten first.
        rule: leaves out what it does not read; None keeps everything.
        pairs: number of states times actions; given, a Markov rule's traces are merged where that
            is faster.
        dtype: of the weights.

    Raises:
        ValueError: an unknown rule.
    """
    chosen = find("moretrace" if rule is None else rule)
    if chosen.markov and pairs is not None and pairs <= MERGE * capacity:
        return Traces((), zeros(rng, pairs, dtype=dtype), ())
    return Traces(
        zeros(rng, capacity, dtype=torch.int64),
        zeros(rng, capacity, dtype=dtype),
        zeros(rng, capacity, dtype=dtype) if chosen.products else (),
    )


def step_traces(
    traces: Traces,
    rule: str,
    gamma: float,
    lambda_: float,
    rho: Tensor,
    target_probability: Tensor | None = None,
    greedy: Tensor | None = None,
) -> Traces:
    """Decay all entries by the action just taken; `add_trace` must follow.

    Args:
        traces: entries up to the step before.
        rule: one of `RULES`.
        gamma: discount, in [0, 1].
        lambda_: decay, in [0, 1].
        rho: importance ratio of the action, `[N]`.
        target_probability: of the action, `[N]`, read by "tree_backup".
        greedy: whether the action maximises Q, `[N]`, read by "watkins".

    Raises:
        ValueError: an unknown rule, or what it reads is missing.
    """
    chosen = find(rule)
    taken = take(chosen, rho, target_probability, greedy).columns(traces.weight.dtype)
    if chosen.recursion is None:
        weight = gamma * lambda_ * chosen.factor(taken) * traces.weight
        return Traces(traces.key, weight if chosen.bounded else ceiled(weight), traces.product)
    product = ceiled(gamma * taken.rho * traces.product) if chosen.products else traces.product
    count = traces.weight.shape[1]
    age = [powers(base, count, traces.weight)[1:] for base in (gamma, lambda_)]
    past = Past(traces.weight, product, gamma, lambda_, *age)
    return Traces(traces.key, chosen.recursion(past, taken), product)


def ceiled(values: Tensor) -> Tensor:
    """Infinities as the largest number, `[N, K]`, so that a later ratio of 0 makes 0 of them."""
    return values.clamp(max=torch.finfo(values.dtype).max)


def add_trace(traces: Traces, key: Tensor) -> Traces:
    """Enter the pairs `key` `[N]` with weight 1; the oldest entry makes room."""
    weight, product = traces.weight, traces.product
    if not isinstance(traces.key, Tensor):
        return traces._replace(weight=weight + one_hot(key, weight.shape[1], weight.dtype))
    one = torch.ones_like(weight[:, 0])
    return Traces(
        push(traces.key, key),
        push(weight, one),
        push(product, one) if isinstance(product, Tensor) else (),
    )


def push(values: Tensor, first: Tensor) -> Tensor:
    """`values` `[N, K]` moved by one column, `first` `[N]` in front, the last dropped."""
    return torch.cat([first[None], values.T[:-1]]).T


def clear(traces: Traces, last: Tensor) -> Traces:
    """Forget all entries of the replicas where `last` `[N]` is true."""
    keep = ~last[:, None]
    product = traces.product
    return Traces(
        traces.key,
        traces.weight * keep,
        product * keep if isinstance(product, Tensor) else (),
    )


def weights(traces: Traces) -> Tensor:
    """`gamma**t * beta_t` of every entry, `[N, K]`, 0 where empty."""
    return traces.weight


def credit(q: Tensor, traces: Traces, error: Tensor) -> Tensor:
    """`q` `[N, pairs]` with `weights * error` added at every entry; `error` `[N]` times step size.

    Entries of one pair accumulate.
    """
    update = error[:, None] * traces.weight
    return q.scatter_add(1, traces.key, update) if isinstance(traces.key, Tensor) else q + update
