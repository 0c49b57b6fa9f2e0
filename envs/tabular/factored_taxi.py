"""The taxi with its four state features, whose causal graph is known."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.factored.structure import CausalPrior, causal_prior, decode, edges, encode
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Instance, Spec
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem, TabularState
from rlkit.validation import check_integer

# Of the 5 x 5 grid of Gymnasium's Taxi: walls on the east side of these cells, and the stops.
WALLS = ((0, 1), (1, 1), (3, 0), (4, 0), (3, 2), (4, 2))
STOPS = ((0, 0), (0, 4), (4, 0), (4, 3))
RIDING = 4  # the passenger's place in the taxi; 0 .. 3 are the stops
ROW, COLUMN, PASSENGER, DESTINATION, ACTION = range(5)
SOUTH, NORTH, EAST, WEST, PICK_UP, DROP_OFF = range(6)


@problem("FactoredTaxi-v0")
@dataclass(frozen=True)
class FactoredTaxi(TabularProblem):
    """Fetch a passenger at one of four stops and deliver at another, which ends the episode.

    Dietterich (2000); at `size` 5 the tables are those of Gymnasium's `Taxi`, smaller grids have
    stops in the corners and no walls. State: row, column, passenger (stop, or 4 in the taxi) and
    destination, first most significant. Actions: 0 south, 1 north, 2 east, 3 west, 4 pick up, 5
    drop off. Reward -1 a step, -10 for an illegal pick-up or drop-off, 20 for the delivery.
    States with the passenger at the destination are terminal. Start: uniform over the others
    with the passenger at a stop.

    Raises:
        ValueError: a field outside its range.
    """

    size: int = 3  # side of the grid, in [2, 5]
    horizon: int = 15  # steps of an episode, >= 1
    known_parents: int = 2  # disclosed parents of a feature, as far as it has them, in [0, 4]
    sparseness: int = 4  # disclosed bound on the number of parents, in [4, 5]
    graph: bool = True  # whether the whole graph is disclosed, for agents that ask for it

    reward_bounds: ClassVar[tuple[float, float]] = (-10.0, 20.0)

    def __post_init__(self) -> None:
        check_integer("size", self.size, 2, 5)
        check_integer("horizon", self.horizon, 1)
        check_integer("known_parents", self.known_parents, 0, 4)
        check_integer("sparseness", self.sparseness, 4, 5)

    @property
    def stops(self) -> tuple[tuple[int, int], ...]:
        """Row and column of the four stops."""
        last = self.size - 1
        return STOPS if self.size == 5 else ((0, 0), (0, last), (last, 0), (last, last))

    @property
    def features(self) -> tuple[int, int, int, int]:
        """Numbers of rows, columns, places of the passenger and destinations."""
        return (self.size, self.size, 5, 4)

    @property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """Minimal parents of each feature of the successor, its own value first."""
        column = (COLUMN, ACTION, ROW) if self.size == 5 else (COLUMN, ACTION)
        passenger = (PASSENGER, ACTION, ROW, COLUMN)
        return ((ROW, ACTION), column, passenger, (DESTINATION,))

    def outcomes(self) -> tuple[Tensor, Tensor]:
        """Successors `[S, 6]` int64 and rewards `[S, 6]`, without regard to the end."""
        size, stops = self.size, torch.tensor(self.stops)
        states = decode(torch.arange(size * size * 20), self.features)
        row, column, passenger, destination = states.unbind(1)
        walls = WALLS if size == 5 else ()
        east = torch.zeros(size, size, dtype=torch.bool)  # whether the east side is closed
        east[:, -1] = True
        for cell in walls:
            east[cell] = True
        here = (stops[:, 0] == row[:, None]) & (stops[:, 1] == column[:, None])  # [S, 4]
        at_stop, stop = here.any(1), here.long().argmax(1)
        west = east[row, (column - 1).clamp(min=0)] | (column == 0)
        after = states[:, None].repeat(1, 6, 1)
        after[:, SOUTH, ROW] = (row + 1).clamp(max=size - 1)
        after[:, NORTH, ROW] = (row - 1).clamp(min=0)
        after[:, EAST, COLUMN] = column + (~east[row, column]).long()
        after[:, WEST, COLUMN] = column - (~west).long()
        fetched = at_stop & (passenger == stop)
        after[:, PICK_UP, PASSENGER] = torch.where(fetched, RIDING, passenger)
        dropped = at_stop & (passenger == RIDING)
        after[:, DROP_OFF, PASSENGER] = torch.where(dropped, stop, passenger)
        reward = torch.full((states.shape[0], 6), -1.0, dtype=torch.float64)
        reward[~fetched, PICK_UP] = -10.0
        reward[~dropped, DROP_OFF] = -10.0
        reward[dropped & (stop == destination), DROP_OFF] = 20.0
        return encode(after, self.features), reward

    def model(self, rng: Rng) -> Model:
        """The tables, shared by all replicas."""
        successor, reward = self.outcomes()
        states = decode(torch.arange(successor.shape[0]), self.features)
        passenger, destination = states[:, PASSENGER], states[:, DESTINATION]
        terminal = passenger == destination
        start = ((passenger != RIDING) & ~terminal).double()
        certain = torch.ones(*successor.shape, 1, dtype=torch.float64)
        tables = (successor[..., None], certain, reward[..., None], start / start.sum(), terminal)
        return from_outcomes(*(table.to(rng.device) for table in tables))

    def diagnostics(
        self, instance: Instance, state: TabularState, action: Tensor
    ) -> dict[str, Tensor]:
        """Gap of the action `[N]`, whether it was optimal, and 1 where an episode begins."""
        began = (state.stage == 0).float()
        return {**super().diagnostics(instance, state, action), "episodes": began}

    def prior(self, device: torch.device) -> CausalPrior:
        """What is disclosed of the graph."""
        known = [row[: self.known_parents] for row in self.parents]
        masks = (edges(rows, 5).to(device) for rows in (known, self.parents))
        told, whole = masks
        degree = min(self.known_parents, 1)  # the destination has one parent
        return causal_prior(
            self.features, (6,), told, self.sparseness, degree, whole if self.graph else None
        )

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the prior over graphs, and the model to agents that need it."""
        spec = super().spec(instance)
        known = spec.known._replace(prior=self.prior(spec.known.model.terminal.device))
        return replace(spec, known=known)
