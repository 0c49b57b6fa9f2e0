"""FrozenLake: Gymnasium's tables, solved exactly."""

from dataclasses import dataclass

import torch
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from torch import Tensor

from rlkit import grids
from rlkit.models import Model
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.transitions import from_transitions
from rlkit.validation import check_integer, check_real

MAPS = {
    "4x4": "SFFF|FHFH|FFFH|HFFG",
    "8x8": "SFFFFFFF|FFFFFFFF|FFFHFFFF|FFFFFHFF|FFFHFFFF|FHHFFFHF|FHFFHFHF|FFFHFFFG",
}
MARKS = {"S": "start", "F": "frozen", "H": "hole", "G": "goal"}


@problem("FrozenLake-v0")
@dataclass(frozen=True)
class FrozenLake(TabularProblem):
    """Cross slippery ice to the goal without falling into a hole; the tables are Gymnasium's.

    State: cells in reading order. Actions: 0 left, 1 down, 2 right, 3 up. On slippery ice a move
    goes to either side with probability 1/3 each. Entering the goal pays 1; goal and holes end the
    episode.

    Raises:
        ValueError: a field outside its range, or a malformed map.
    """

    map: str = "4x4"  # "4x4", "8x8" or rows by '|'; S start, F frozen, H hole, G goal
    slippery: bool = True  # whether moves go to a side two times in three
    gamma: float | None = None  # discount factor in [0, 1); None: the sum over an episode
    horizon: int = 100  # time limit of an episode, >= 1; Gymnasium's is 100, on 8x8 200

    def __post_init__(self) -> None:
        if self.map not in MAPS and "|" not in self.map:
            raise ValueError(
                f"map = {self.map!r} unknown; accepted: {', '.join(MAPS)}, or rows separated by '|'"
            )
        grids.parse(self.layout, MARKS)
        if self.gamma is not None:
            check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_integer("horizon", self.horizon, 1)

    @property
    def layout(self) -> str:
        """The map, rows by `|`."""
        return MAPS.get(self.map, self.map)

    def model(self, rng: Rng) -> Model:
        """Gymnasium's tables, shared by all replicas; holes and goals are terminal."""
        lake = FrozenLakeEnv(desc=self.layout.split("|"), is_slippery=self.slippery)
        terminal = torch.tensor([mark in "GH" for mark in self.layout.replace("|", "")])
        start = torch.as_tensor(lake.initial_state_distrib)
        model = from_transitions(lake.P, start, terminal)
        return Model(*(table.to(rng.device) for table in model))

    def render(self, instance: Instance, observation: Tensor) -> grids.Scene:
        """The lake with the agent."""
        grid = grids.parse(self.layout, MARKS)
        return grids.Scene(grid.rows, grid.free[int(observation[0])])
