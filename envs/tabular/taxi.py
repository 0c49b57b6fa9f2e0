"""Taxi: Gymnasium's tables, solved exactly."""

from dataclasses import dataclass

import torch
from gymnasium.envs.toy_text.taxi import TaxiEnv
from torch import Tensor

from rlkit.grids import Cell, Scene
from rlkit.models import Model
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.transitions import from_transitions
from rlkit.validation import check_integer, check_real

STREETS = ("R...G", ".....", ".....", ".....", "Y..B.")
STOPS: tuple[Cell, ...] = ((0, 0), (0, 4), (4, 0), (4, 3))
NAMES = ("R", "G", "Y", "B", "the taxi")
FENCES: tuple[Cell, ...] = ((0, 1), (1, 1), (3, 0), (3, 2), (4, 0), (4, 2))
STATES, RIDING = 500, 4


@problem("Taxi-v0")
@dataclass(frozen=True)
class Taxi(TabularProblem):
    """Fetch a passenger and deliver him at his stop; the tables are Gymnasium's.

    Dietterich (2000). State: `((row * 5 + column) * 5 + passenger) * 4 + destination`, passenger 4
    in the taxi. Actions: 0 south, 1 north, 2 east, 3 west, 4 pick up, 5 drop off. A step costs 1,
    a vain pick-up or drop-off 10, delivery pays 20 and ends the episode. Terminal: the states with
    the passenger at his destination, which delivery alone can reach.

    Raises:
        ValueError: a field outside its range.
    """

    gamma: float | None = None  # discount factor in [0, 1); None: the sum over an episode
    horizon: int = 200  # time limit of an episode, >= 1

    def __post_init__(self) -> None:
        if self.gamma is not None:
            check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """Gymnasium's tables, shared by all replicas."""
        taxi = TaxiEnv()
        state = torch.arange(STATES)
        terminal = state // 4 % 5 == state % 4
        start = torch.as_tensor(taxi.initial_state_distrib)
        model = from_transitions(taxi.P, start, terminal)
        return Model(*(table.to(rng.device) for table in model))

    def render(self, instance: Instance, observation: Tensor) -> Scene:
        """The town with taxi, passenger and destination."""
        place, rest = divmod(int(observation[0]), 20)
        taxi, (passenger, target) = divmod(place, 5), divmod(rest, 4)
        return Scene(
            STREETS,
            agent=taxi,
            rider=taxi if passenger == RIDING else STOPS[passenger],
            target=STOPS[target],
            fences=FENCES,
            caption=f"passenger: {NAMES[passenger]}, destination: {NAMES[target]}",
        )
