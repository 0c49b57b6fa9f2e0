"""Undiscounted problems with rewards on a lattice: all stocks of a box at once, as dense tables.

For `gamma = 1` and rewards that are integer multiples of a unit, stocks stay on a lattice. Tables
have a dimension `C` of lattice points; leading dimensions are batches of utilities or of shifts of
the initial stock, so that a search over thousands of initial stocks is one backward sweep.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.models import where
from rlkit.stocks.augmented import StockModel
from rlkit.validation import check_real

LARGEST = 1 << 24  # entries of the table of successors
EXACT = 1e-9  # by how much a reward may miss a multiple of the unit
TIE = 1e-12  # relative difference below which two actions are equally good


class Plan(NamedTuple):
    """Values and greedy actions of every stage, `t = 0 .. H - 1` steps from the start."""

    value: Tensor  # [..., H + 1, S, C] expected utility of the final stock
    action: Tensor  # [..., H, S, C] int64, the first of several best ones


def greedy(q: Tensor, dim: int) -> Tensor:
    """First action along `dim` that is best up to rounding; `q` without that dimension."""
    best = q.amax(dim, keepdim=True)
    return (q >= best - TIE * (1 + best.abs())).to(torch.uint8).argmax(dim)


@dataclass(frozen=True)
class Lattice:
    """A stock model whose stocks are lattice points; made by `on_lattice`."""

    model: StockModel
    low: tuple[int, ...]  # [m] smallest multiple of the unit, a coordinate
    count: tuple[int, ...]  # [m] points a coordinate; their product is C
    unit: float  # distance of neighbouring points
    index: Tensor = field(repr=False)  # [S, A, K, C] int64: flat (state, point) after an outcome

    @property
    def size(self) -> tuple[int, int, int]:
        """Numbers of states, actions and points."""
        states, actions = self.model.model.size
        return states, actions, math.prod(self.count)

    @property
    def support(self) -> Tensor:
        """Stocks `[C, m]`."""
        return self.unit * grid(self.low, self.count).to(self.index.device).double()

    def place(self, stock: tuple[float, ...] | None = None) -> int:
        """Flat position of a stock, of zero by default.

        Raises:
            ValueError: it is no point of the lattice.
        """
        stock = (0.0,) * len(self.count) if stock is None else stock
        position = 0
        for value, low, count in zip(stock, self.low, self.count, strict=True):
            steps = round(value / self.unit)
            if abs(value / self.unit - steps) > EXACT or not low <= steps < low + count:
                high = self.unit * (low + count - 1)
                raise ValueError(
                    f"stock {stock} is no point of the lattice: multiples of {self.unit} from "
                    f"{self.unit * low} to {high} a coordinate"
                )
            position = position * count + steps - low
        return position

    def lookahead(self, value: Tensor) -> Tensor:
        """Expected value after each action, `[..., S, A, C]` of `[..., S, C]`.

        The batch lies innermost in memory, so that a look-up copies a row of it.
        """
        states, actions, points = self.size
        batch = value.shape[:-2]
        rows = value.flatten(-2).reshape(-1, states * points).T.contiguous()
        model, total = self.model.model, rows.new_empty(0)
        for outcome in range(self.index.shape[2]):
            index = self.index[:, :, outcome]
            share = model.probability[:, :, outcome, None].expand(index.shape).reshape(-1, 1)
            if outcome == 0:
                total = share * rows.index_select(0, index.reshape(-1))
                continue
            some = self.model.certain[:, :, outcome, None].expand(index.shape).reshape(-1)
            some = some.nonzero().squeeze(1)
            moved = share[some] * rows.index_select(0, index.reshape(-1)[some])
            total.index_add_(0, some, moved)
        q = total.reshape(states, actions, points, -1).movedim(-1, 0)
        return q.reshape(*batch, states, actions, points)

    def maximise(self, final: Tensor) -> Plan:
        """Best expected utility from every state and stock; `final` `[..., C]` is the utility.

        Backward induction: the value iteration of `distributional_value_iteration` for `E f`,
        which needs the expectation alone.
        """
        states = self.size[0]
        values = [final[..., None, :].expand(*final.shape[:-1], states, final.shape[-1])]
        actions = []
        for _ in range(self.model.steps):
            q = self.lookahead(values[-1])
            values.append(q.amax(-2))
            actions.append(greedy(q, -2))
        return Plan(torch.stack(values[::-1], -3), torch.stack(actions[::-1], -3))

    def best(self, final: Tensor) -> Tensor:
        """Best expected utility from stock zero, `[...]`; `final` is `[..., C]`.

        Visits only what can be reached, stage by stage.
        """
        states, _actions, points = self.size
        model, live = self.model.model, self.live()
        flat = final.reshape(-1, points).T
        value = flat.repeat(states, 1)  # [S * C, B]
        for stage in reversed(range(self.model.steps)):
            state, point = live[stage].nonzero(as_tuple=True)
            index, share = self.index[state, :, :, point], model.probability[state]
            q = torch.zeros(())
            for outcome in range(index.shape[2]):
                moved = value.index_select(0, index[:, :, outcome].reshape(-1))
                q = q + share[:, :, outcome, None] * moved.unflatten(0, index.shape[:2])
            value = torch.zeros_like(value).index_copy(0, state * points + point, q.amax(1))
        start = value.unflatten(0, (states, points))[:, self.place()]
        return (model.start @ start).reshape(final.shape[:-1])

    def evaluate(self, final: Tensor, action: Tensor) -> Tensor:
        """Expected utility `[..., H + 1, S, C]` of the policy `action` `[..., H, S, C]`."""
        states = self.size[0]
        values = [final[..., None, :].expand(*final.shape[:-1], states, final.shape[-1])]
        for stage in reversed(range(self.model.steps)):
            chosen = action[..., stage, :, :].unsqueeze(-2)
            values.append(self.lookahead(values[-1]).gather(-2, chosen).squeeze(-2))
        return torch.stack(values[::-1], -3)

    def law(self, action: Tensor, start: int | None = None) -> Tensor:
        """Law of the final stock under a policy, `[..., C]`: a forward sweep.

        Args:
            action: `[..., H, S, C]`.
            start: flat position of the initial stock, zero by default.
        """
        return self.occupancy(action, start)[..., -1, :, :].sum(-2)

    def occupancy(self, action: Tensor, start: int | None = None) -> Tensor:
        """Joint law of state and stock at every stage under a policy, `[..., H + 1, S, C]`."""
        states, _actions, points = self.size
        model = self.model.model
        mass = torch.zeros(states, points, dtype=torch.float64, device=self.index.device)
        mass[:, self.place() if start is None else start] = model.start
        masses = [mass.expand(*action.shape[:-3], states, points)]
        own = torch.arange(states, device=mass.device)[:, None]
        column = torch.arange(points, device=mass.device)
        for stage in range(self.model.steps):
            chosen = action[..., stage, :, :]
            following = torch.zeros_like(masses[-1]).flatten(-2)
            for outcome in range(self.index.shape[2]):
                to = self.index[own, chosen, outcome, column]
                moved = masses[-1] * model.probability[own, chosen, outcome]
                following = following.scatter_add(-1, to.flatten(-2), moved.flatten(-2))
            masses.append(following.unflatten(-1, (states, points)))
        return torch.stack(masses, -3)

    def value(self, plan: Plan, start: int | None = None) -> Tensor:
        """Value of the start, `[...]`, from the stock at a flat position (zero by default)."""
        at = self.place() if start is None else start
        return (self.model.model.start * plan.value[..., 0, :, at]).sum(-1)

    def live(self) -> Tensor:
        """Whether some policy from stock zero comes to a state and stock, `[H + 1, S, C]` bool."""
        states, _actions, points = self.size
        inside = torch.zeros(states, points, dtype=torch.bool, device=self.index.device)
        inside[:, self.place()] = self.model.model.start > 0
        stages = [inside]
        for _ in range(self.model.steps):
            going = inside[:, None, None, :] & self.model.certain[..., None]
            hit = torch.zeros(states * points, dtype=torch.bool, device=inside.device)
            hit[self.index[going]] = True
            inside = hit.unflatten(0, (states, points))
            stages.append(inside)
        return torch.stack(stages)

    def reachable(self) -> Tensor:
        """Whether some policy from stock zero may end at a point, `[C]` bool."""
        return self.live()[-1].any(0)


def on_lattice(
    model: StockModel,
    first: tuple[int, ...] | None = None,
    last: tuple[int, ...] | None = None,
    unit: float = 1.0,
    largest: int = LARGEST,
) -> Lattice:
    """The lattice that holds every stock reached from a box of initial ones, in any state.

    Points beyond what `t` steps can reach from the box are clamped to the edge in stage `t`:
    tables are right for the box at stage 0 and for all that follows from it.

    Args:
        model: undiscounted, with a horizon.
        first: lower corner of the box in units `[m]`, zero by default.
        last: upper corner, `first` by default.
        unit: rewards are integer multiples of it, > 0.
        largest: entries of the largest table, `S * A * K * C`.

    Raises:
        ValueError: a discount below 1, no horizon, a reward that is no multiple of the unit, an
            empty box, or too many points.
    """
    check_real("unit", unit, 0, open_low=True)
    if model.gamma != 1:
        raise ValueError(
            f"gamma = {model.gamma}: discounted stocks leave the lattice; use rlkit.stocks.reach "
            "for short horizons, rlkit.stocks.solve_on_grid for long ones"
        )
    move = moves(model, unit)
    least, most = cone(model, move)
    first = (0,) * model.dimension if first is None else first
    last = first if last is None else last
    if len(first) != model.dimension or len(last) != model.dimension:
        raise ValueError(
            f"box from {first} to {last} for {model.dimension} rewards: one number a reward"
        )
    if any(a > b for a, b in zip(first, last, strict=True)):
        raise ValueError(f"box from {first} to {last} is empty")
    low = tuple(a + b for a, b in zip(first, least, strict=True))
    count = tuple(b + d - c + 1 for b, c, d in zip(last, low, most, strict=True))
    entries = move[..., 0].numel() * math.prod(count)
    if entries > largest:
        raise ValueError(
            f"lattice of {' x '.join(map(str, count))} stocks makes tables of {entries} entries; "
            f"accepted: up to {largest}"
        )
    return Lattice(model, low, count, unit, successors(model, move, low, count))


def moves(model: StockModel, unit: float) -> Tensor:
    """Rewards in units, `[S, A, K, m]` int64; zero for outcomes that cannot happen."""
    scaled = torch.where(model.certain[..., None], model.reward / unit, 0.0)
    steps = scaled.round()
    off = (scaled - steps).abs().amax(-1) > EXACT
    if bool(off.any()):
        values = (scaled - steps).abs().amax(-1)[off]
        value = float(model.reward[off][0][(scaled - steps)[off][0].abs().argmax()])
        raise ValueError(
            f"reward of {where(off)} is {value:g}, {values[0]:.2g} off a multiple of unit = "
            f"{unit:g}; accepted: multiples of it (choose another unit, or use rlkit.stocks.reach)"
        )
    return steps.long()


def cone(model: StockModel, move: Tensor) -> tuple[list[int], list[int]]:
    """Smallest and largest sum of rewards within the horizon from any state, `[m]` each."""
    ends: list[list[int]] = []
    for sign in (-1, 1):
        step = torch.where(model.certain[..., None], sign * move, torch.iinfo(torch.int64).min)
        total = torch.zeros(move.shape[0], move.shape[3], dtype=torch.int64, device=move.device)
        for _ in range(model.steps):
            # A sum may also stop early, at the stage where it is farthest.
            after = step + total[model.model.successor] * model.certain[..., None]
            total = after.amax((1, 2)).clamp(min=0)
        ends.append((sign * total.amax(0)).tolist())
    return ends[0], ends[1]


def grid(low: tuple[int, ...], count: tuple[int, ...]) -> Tensor:
    """All integer points of a box, `[C, m]` int64, the last coordinate fastest."""
    axes = [torch.arange(a, a + n) for a, n in zip(low, count, strict=True)]
    return torch.cartesian_prod(*axes).reshape(-1, len(count))


def successors(
    model: StockModel, move: Tensor, low: tuple[int, ...], count: tuple[int, ...]
) -> Tensor:
    """Flat (state, point) after an outcome, `[S, A, K, C]`; points are clamped to the box."""
    place = torch.zeros(*move.shape[:3], math.prod(count), dtype=torch.int64, device=move.device)
    points = (grid(low, count) - torch.tensor(low)).to(move.device)
    for coordinate, size in enumerate(count):
        moved = points[:, coordinate] + move[..., coordinate, None]
        place = place * size + moved.clamp(0, size - 1)
    return model.model.successor[..., None] * math.prod(count) + place
