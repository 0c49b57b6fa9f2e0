"""Stochastic chain: pay at the far end, within reach only of those who never turn."""

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


@problem("StochasticChain-v0")
@dataclass(frozen=True)
class StochasticChain(TabularProblem):
    """A chain as long as an episode; moving right slips back with probability `1 / states`.

    From the experiments of Osband and Van Roy (2017). Actions: 0 left, which never fails, 1 right.
    Right at the far end pays 1, left at the near end 0, both with standard normal noise; nothing
    else pays. The optimum is `(1 - 1/N)**(N - 1)`. Start: the near end.

    Raises:
        ValueError: a field outside its range.
    """

    states: int = 10  # length of the chain and steps of an episode, >= 2

    def __post_init__(self) -> None:
        check_integer("states", self.states, 2)

    @property
    def horizon(self) -> int:
        """As many steps as states."""
        return self.states

    def model(self, rng: Rng) -> Model:
        """The chain, shared by all replicas."""
        count, last = self.states, self.states - 1
        kernel = torch.zeros(count, 2, count, dtype=torch.float64)
        for state in range(count):
            kernel[state, 0, max(0, state - 1)] = 1.0
            kernel[state, 1, min(last, state + 1)] = 1 - 1 / count
            kernel[state, 1, max(0, state - 1)] += 1 / count
        reward = torch.zeros(count, 2, dtype=torch.float64)
        reward[last, 1] = 1.0
        start = torch.zeros(count, dtype=torch.float64)
        start[0] = 1.0
        return from_kernel(kernel.to(rng.device), reward.to(rng.device), start.to(rng.device))

    def noise_table(self, model: Model) -> Tensor:
        """Standard normal noise of left at the near and right at the far end, `[S, 2]`."""
        spread = torch.zeros_like(model.mean_reward)
        spread[0, 0], spread[-1, 1] = 1.0, 1.0
        return spread

    def render(self, instance: Instance, observation: Tensor) -> Scene:
        """The chain as one row."""
        return Scene(("S" + "." * (self.states - 2) + "G",), (0, int(observation[0])))
