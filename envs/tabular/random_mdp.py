"""Random MDPs with Dirichlet rows: the prior of posterior sampling made into a problem."""

from dataclasses import dataclass

import torch

from rlkit.models import Model, from_kernel
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem
from rlkit.validation import check_integer, check_real


@problem("RandomMDP-v0")
@dataclass(frozen=True)
class RandomMDP(TabularProblem):
    """A dense MDP drawn for each replica: Dirichlet rows and normal mean rewards.

    Osband, Russo and Van Roy (2013). Regret averaged over replicas is Bayesian regret. Start:
    state 0.

    Raises:
        ValueError: a field outside its range.
    """

    states: int = 10  # >= 1
    actions: int = 5  # >= 1
    concentration: float | None = None  # Dirichlet parameter, > 0; None: 1 / states
    reward_mean: float = 1.0  # mean of the law of the mean rewards
    reward_deviation: float = 1.0  # its standard deviation, >= 0
    noise: float = 1.0  # standard deviation of normal noise on every reward, >= 0
    horizon: int | None = 20  # steps of an episode, >= 1; None: average reward

    def __post_init__(self) -> None:
        check_integer("states", self.states, 1)
        check_integer("actions", self.actions, 1)
        if self.concentration is not None:
            check_real("concentration", self.concentration, 0, open_low=True)
        check_real("reward_mean", self.reward_mean)
        check_real("reward_deviation", self.reward_deviation, 0)
        check_real("noise", self.noise, 0)
        if self.horizon is not None:
            check_integer("horizon", self.horizon, 1)

    def model(self, rng: Rng) -> Model:
        """A draw for each replica."""
        shape = (rng.n, self.states, self.actions)
        alpha = 1 / self.states if self.concentration is None else self.concentration
        parameters = torch.full(
            (*shape, self.states), alpha, dtype=torch.float64, device=rng.device
        )
        kernel = rng.dirichlet("kernel", parameters)
        normal = rng.normal("reward", *shape[1:], dtype=torch.float64)
        start = torch.zeros(self.states, dtype=torch.float64, device=rng.device)
        start[0] = 1.0
        return from_kernel(kernel, self.reward_mean + self.reward_deviation * normal, start)
