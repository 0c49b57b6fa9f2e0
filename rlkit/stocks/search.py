"""What the searches over the initial stock share: a batch of utilities, solved at once.

An initial stock `c_0` is a shift of the final one, so every search asks for the best policies of
utilities `f(c_0 + G)` of the return `G` from stock zero, many at a time.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlkit.distributions import Law
from rlkit.stocks.augmented import StockModel
from rlkit.stocks.lattice import Lattice

CHUNK = 1 << 22  # entries of the tables that are held at once


class Returns(Protocol):
    """A problem whose return has finitely many values: `Lattice` or `Reachable`."""

    @property
    def model(self) -> StockModel:
        """The problem."""

    @property
    def support(self) -> Tensor:
        """Values of the return `[X, m]`."""

    def maximise(self, final: Tensor) -> Any:
        """Plan with the best policies for utilities `final` `[B, X]` of the return."""

    def best(self, final: Tensor) -> Tensor:
        """Best expected utilities at the start, `[B]`."""

    def value(self, plan: Any) -> Tensor:
        """The same of a plan, `[B]`."""

    def law(self, action: Any) -> Tensor:
        """Laws of the return `[B, X]`."""


class Solved(NamedTuple):
    """Best expected utilities and the laws of the return that achieve them."""

    value: Tensor  # [B]
    probability: Tensor  # [B, X]


class Optimum(NamedTuple):
    """The best policy that a search has found."""

    value: float  # of the objective
    stock: float  # initial stock
    law: Law  # of the return, [X]
    action: Any  # the policy: Lattice `[H, S, C]`, Reachable a list of `[n_t]`


def entries(returns: Returns) -> int:
    """Entries of the tables of one utility."""
    if isinstance(returns, Lattice):
        states, actions, points = returns.size
        return returns.model.steps * states * max(actions, returns.index.shape[2]) * points
    return int(sum(layer.child.numel() for layer in getattr(returns, "layers", [])))


def solve(returns: Returns, final: Tensor) -> Solved:
    """Values and laws for utilities `[B, X]`, a chunk at a time."""
    parts = []
    for chunk in final.split(max(1, CHUNK // max(1, entries(returns)))):
        plan = returns.maximise(chunk)
        parts.append((returns.value(plan), returns.law(plan.action)))
    value, probability = (torch.cat(part) for part in zip(*parts, strict=True))
    return Solved(value, probability)


def values(returns: Returns, final: Tensor) -> Tensor:
    """Values `[B]` of utilities `[B, X]`, a chunk at a time, without the laws."""
    chunks = final.split(max(1, CHUNK // max(1, entries(returns))))
    return torch.cat([returns.best(chunk) for chunk in chunks])


def policy(returns: Returns, final: Tensor) -> Any:
    """The policy for one utility `[X]`."""
    return returns.maximise(final).action


def one_reward(returns: Returns) -> Tensor:
    """Values of the return `[X]`.

    Raises:
        ValueError: the problem has several rewards.
    """
    if returns.model.dimension != 1:
        raise ValueError(
            f"the problem has {returns.model.dimension} rewards; this objective is about 1: use "
            "a utility of all of them"
        )
    return returns.support.squeeze(-1)


def breakpoints(returns: Returns) -> Tensor:
    """Returns that some policy may reach, ascending and each once, `[P]`."""
    value = one_reward(returns)
    if isinstance(returns, Lattice):
        value = value[returns.reachable()]
    return torch.unique(value)
