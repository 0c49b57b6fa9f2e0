"""RiverSwim: a chain with a current, small pay at the near end and large at the far one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.grids import Scene
from rlkit.models import Model, from_kernel
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer


@problem("RiverSwim-v0")
@dataclass(frozen=True)
class RiverSwim(TabularProblem):
    """Swimming right against the current pays 1 at the far end, drifting left .005 at the near.

    Strehl and Littman (2008), with the numbers of Osband, Russo and Van Roy (2013). Actions: 0
    left, which never fails, and 1 right. Start: the near end.

    Raises:
        ValueError: a field outside its range.
    """

    states: int = 6  # length of the chain, >= 2
    horizon: int | None = 20  # steps of an episode, >= 1; None: average reward

    def __post_init__(self) -> None:
        check_integer("states", self.states, 2)
        if self.horizon is not None:
            check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """The chain, shared by all replicas."""
        last = self.states - 1
        kernel = torch.zeros(self.states, 2, self.states, dtype=torch.float64)
        current = torch.tensor([0.05, 0.6, 0.35], dtype=torch.float64)
        for state in range(self.states):
            kernel[state, 0, max(0, state - 1)] = 1.0
            if 0 < state < last:
                kernel[state, 1, state - 1 : state + 2] = current
        kernel[0, 1, :2] = torch.tensor([0.4, 0.6], dtype=torch.float64)
        kernel[last, 1, last - 1 :] = torch.tensor([0.4, 0.6], dtype=torch.float64)
        reward = torch.zeros(self.states, 2, dtype=torch.float64)
        reward[0, 0], reward[last, 1] = 0.005, 1.0
        start = torch.zeros(self.states, dtype=torch.float64)
        start[0] = 1.0
        return from_kernel(kernel.to(rng.device), reward.to(rng.device), start.to(rng.device))

    def render(self, instance: Instance, observation: Tensor) -> Scene:
        """The river as one row."""
        return Scene(("S" + "." * (self.states - 2) + "G",), (0, int(observation[0])))
