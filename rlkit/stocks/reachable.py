"""Short horizons with any rewards and discount: the reachable stocks, layer by layer.

A layer holds each (state, total) that some policy reaches in `t` steps, where the total is the
un-normalised stock `gamma^t C_t` with `C_0 = 0`; another initial stock shifts the totals of all
layers alike. The number of totals grows up to exponentially in the horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.stocks.admissible import check_admissible
from rlkit.stocks.augmented import StockModel
from rlkit.stocks.functionals import Functional
from rlkit.stocks.lattice import greedy

LARGEST = 1 << 22  # entries of the largest layer
SAME = 1e-9  # totals closer than this, relative to the largest reward, are one


class Layer(NamedTuple):
    """What can be reached after `t` steps."""

    state: Tensor  # [n] int64
    total: Tensor  # [n, m]
    child: Tensor  # [n, A, K] int64 position in the next layer; empty in the last one


@dataclass(frozen=True)
class Reachable:
    """The layers of a stock model; made by `reach`."""

    model: StockModel
    layers: list[Layer] = field(repr=False)
    start: Tensor = field(repr=False)  # [n_0] probability of the first layer's entries

    @property
    def support(self) -> Tensor:
        """Totals of the last layer, `[X, m]`; points may repeat in different states."""
        return self.layers[-1].total

    def maximise(self, final: Tensor) -> "Choices":
        """Best expected utility; `final` `[..., X]` is the utility of the last layer's totals."""
        values, actions = [final], []
        for layer in self.layers[-2::-1]:
            q = self._lookahead(layer, values[-1])
            values.append(q.amax(-1))
            actions.append(greedy(q, -1))
        return Choices(values[::-1], actions[::-1])

    def best(self, final: Tensor) -> Tensor:
        """Best expected utility from the start, `[...]`; `final` is `[..., X]`."""
        for layer in self.layers[-2::-1]:
            final = self._lookahead(layer, final).amax(-1)
        return (self.start * final).sum(-1)

    def _lookahead(self, layer: Layer, value: Tensor) -> Tensor:
        """`[..., n, A]` of values `[..., n']` of the next layer."""
        return (self.model.model.probability[layer.state] * value[..., layer.child]).sum(-1)

    def law(self, action: Sequence[Tensor]) -> Tensor:
        """Law of the final total under a policy, `[..., X]`; `action[t]` is `[..., n_t]`."""
        mass = self.start.expand(*action[0].shape[:-1], -1)
        for layer, following, chosen in zip(self.layers, self.layers[1:], action, strict=False):
            own = torch.arange(layer.state.shape[0], device=mass.device)
            moved = mass[..., None] * self.model.model.probability[layer.state, chosen]
            empty = mass.new_zeros(*mass.shape[:-1], following.state.shape[0])
            to = layer.child[own, chosen]
            mass = empty.scatter_add(-1, to.flatten(-2), moved.flatten(-2))
        return mass

    def value(self, plan: "Choices") -> Tensor:
        """Value of the start, `[...]`."""
        return (self.start * plan.value[0]).sum(-1)


class Choices(NamedTuple):
    """Values and greedy actions of every layer."""

    value: list[Tensor]  # [..., n_t]
    action: list[Tensor]  # [..., n_t] int64


def reach(model: StockModel, largest: int = LARGEST) -> Reachable:
    """All reachable totals.

    Args:
        model: with a horizon.
        largest: entries of the largest layer, outcomes included.

    Raises:
        ValueError: an infinite horizon, or a layer that is too large.
    """
    tables = model.model
    state = tables.start.nonzero().squeeze(1)
    total = torch.zeros(state.shape[0], model.dimension, dtype=torch.float64, device=state.device)
    start, layers, scale = tables.start[state], [], 1.0
    grain = SAME * (float(model.reward.abs().amax()) or 1.0)
    for time in range(model.steps):
        entries = state.shape[0] * tables.probability[0].numel()
        if entries > largest:
            raise ValueError(
                f"{state.shape[0]} reachable stocks after {time} steps make a table of {entries} "
                f"entries; accepted: up to {largest}; use solve_on_grid"
            )
        following = tables.successor[state]
        sums = total[:, None, None, :] + scale * model.reward[state]
        # Outcomes that cannot happen lead to where the first possible one leads.
        first = model.certain[state].long().argmax(-1, keepdim=True)
        pick = torch.where(model.certain[state], torch.arange(following.shape[2]), first)
        following = following.gather(2, pick)
        sums = sums.gather(2, pick[..., None].expand(sums.shape))
        joint = torch.cat([following[..., None].double(), (sums / grain).round()], -1)
        unique, child = torch.unique(joint.flatten(0, 2), dim=0, return_inverse=True)
        layers.append(Layer(state, total, child.reshape(following.shape)))
        representative = torch.zeros(unique.shape[0], dtype=torch.int64, device=state.device)
        representative = representative.scatter(0, child, torch.arange(child.shape[0]))
        state = following.flatten()[representative]
        total = sums.flatten(0, 2)[representative]
        scale *= model.gamma
    layers.append(Layer(state, total, torch.empty(0, dtype=torch.int64)))
    return Reachable(model, layers, start)


class Outcome(NamedTuple):
    """What greedy steps reach from one initial stock."""

    value: float  # functional of the law of stock plus return
    probability: Tensor  # [X] law of the return on the support
    action: list[Tensor]  # [n_t] a layer


def dynamic_programming(
    reachable: Reachable,
    functional: Functional,
    stock: Tensor,
    timed: bool = False,
    admissible: bool = True,
) -> Outcome:
    """Distributional value iteration on the reachable stocks.

    Args:
        reachable: the problem.
        functional: `K`.
        stock: the initial one, `[m]`.
        timed: whether greedy steps weigh totals `gamma^t C_t`, which is right for any utility,
            instead of stocks `C_t`.
        admissible: whether to refuse functionals that greedy steps do not optimise.

    Raises:
        ValueError: as `check_admissible`; or a stock of another dimension.
    """
    model = reachable.model
    if tuple(stock.shape) != (model.dimension,):
        raise ValueError(f"stock has shape {list(stock.shape)}; accepted: [{model.dimension}]")
    if admissible:
        check_admissible(functional, model, timed)
    final = reachable.support + stock
    entries = len(final) * max(layer.child.numel() for layer in reachable.layers)
    if entries > 8 * LARGEST:
        raise ValueError(
            f"laws on {len(final)} totals make a table of {entries} entries; accepted: up to "
            f"{8 * LARGEST}; Reachable.maximise needs values alone"
        )
    law = torch.eye(final.shape[0], dtype=torch.float64)  # [n_t, X] of the final total
    actions, probability = [], model.model.probability
    for time in reversed(range(model.steps)):
        layer = reachable.layers[time]
        each = (probability[layer.state][..., None] * law[layer.child]).sum(2)  # [n, A, X]
        score = functional.of(final if timed else final / model.gamma**time, each)
        best = greedy(score, 1)
        law = each.gather(1, best[:, None, None].expand(-1, 1, each.shape[2])).squeeze(1)
        actions.append(best)
    outcome = reachable.start @ law
    value = functional.of(final, outcome)
    return Outcome(float(value), outcome, actions[::-1])
