"""DeepSea: one treasure at the end of a costly dive, which dithering never finds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit import planning
from rlkit.grids import Scene
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Instance
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import TabularProblem, gaps
from rlkit.validation import check_integer, check_real


@problem("DeepSea-v0")
@dataclass(frozen=True)
class DeepSea(TabularProblem):
    """Sinking a row a step, moving right costs a little and alone leads to the treasure.

    Osband, Van Roy, Russo and Wen (2019); as in bsuite: state `row * size + column`, one absorbing
    state at the end, start top left; actions 0 left, 1 right. Moving right costs `.01 / size`, in
    the last column it pays 1 besides; the optimum is .99. With `goal` .99 the last step is free of
    cost and the optimum `.99 - .01 (size - 1) / size`, another convention of the literature.
    Stochastic: a move right stays in its column with probability `1 / size`, and rewards in both
    ends of the last row have standard normal noise. The optimum is then
    `(1 - 1/N)**(N - 1) - .01 (1 - (1 - 1/N)**N)`: after a slip it pays to stop swimming. bsuite
    reports `(1 - 1/N)**(N - 1) - .01`, which is lower.

    Raises:
        ValueError: a field outside its range.
    """

    size: int = 10  # rows and columns, >= 2; steps of an episode
    stochastic: bool = False  # moves right may fail, pay at both ends of the last row is noisy
    randomize_actions: bool = False  # which action is right is drawn per replica and cell
    goal: float | None = None  # pay in all for right in the last cell; None: 1 less the cost
    noise: float = 0.0  # standard deviation of normal noise on every reward, >= 0

    def __post_init__(self) -> None:
        check_integer("size", self.size, 2)
        check_real("noise", self.noise, 0)
        if self.goal is not None:
            check_real("goal", self.goal)

    @property
    def horizon(self) -> int:
        """A step a row."""
        return self.size

    @property
    def staged(self) -> bool:
        """The row tells the steps left."""
        return False

    def model(self, rng: Rng) -> Model:
        """The sea, shared by all replicas unless actions are drawn."""
        size, last = self.size, self.size**2
        cell = torch.arange(last, device=rng.device)
        row, column = cell // size, cell % size
        reached = torch.stack([(column - 1).clamp(min=0), (column + 1).clamp(max=size - 1)], 1)
        outcome = torch.stack([reached, column[:, None].expand(-1, 2)], -1)
        below = torch.where(
            row[:, None, None] < size - 1, (row[:, None, None] + 1) * size + outcome, last
        )
        below = torch.cat([below, torch.full_like(below[:1], last)])
        slip = 1 / size if self.stochastic else 0.0
        law = torch.tensor([[1.0, 0.0], [1 - slip, slip]], dtype=torch.float64, device=rng.device)
        law = law.expand(last + 1, 2, 2)
        if not self.stochastic:
            below, law = below[..., :1], law[..., :1]
        reward = torch.zeros(last + 1, 2, 1, dtype=torch.float64, device=rng.device)
        reward[:, 1] = -0.01 / size
        reward[last - 1, 1] = 1 - 0.01 / size if self.goal is None else self.goal
        start, terminal = (torch.zeros(last + 1, device=rng.device) for _ in range(2))
        start[0], terminal[last] = 1, 1
        if self.randomize_actions:
            swap = rng.uniform("mapping", last + 1)[..., None, None] < 0.5
            below, law, reward = (
                torch.where(swap, table.flip(1), table) for table in (below, law, reward)
            )
        return from_outcomes(below, law, reward, start, terminal > 0)

    def noise_table(self, model: Model) -> Tensor | None:
        """Standard normal noise in both ends of the last row of a stochastic sea."""
        if not self.stochastic:
            return None
        spread = torch.full_like(model.mean_reward, self.noise)
        both = [self.size * (self.size - 1), self.size**2 - 1]
        spread[..., both, :] = (self.noise**2 + 1) ** 0.5
        return spread

    def solve(self, model: Model) -> tuple[Tensor, Tensor]:
        """Gaps `[..., S, A]` and the optimal value of the start, undiscounted."""
        plan = planning.backward_induction(model, self.size)
        return gaps(plan.q[..., 0, :, :]), plan.value[..., 0, 0]

    def render(self, instance: Instance, observation: Tensor) -> Scene:
        """The sea from the side: cells out of reach as walls, the treasure as goal."""
        row, column = divmod(int(observation[0]), self.size)
        rows = ["".join("." if c <= r else "X" for c in range(self.size)) for r in range(self.size)]
        rows[0], rows[-1] = "S" + rows[0][1:], rows[-1][:-1] + "G"
        return Scene(tuple(rows), (row, column) if row < self.size else None)
