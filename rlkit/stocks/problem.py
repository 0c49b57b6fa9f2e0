"""Tabular problems with several rewards a step."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit import alias
from rlkit.models import Model
from rlkit.protocol import Instance, Spec, Step
from rlkit.random import Rng
from rlkit.tabular import Stepping, TabularProblem, TabularState, drawn, rows, stepping


class VectorTables(NamedTuple):
    """`rlkit.tabular.Tables`, with the rewards of every outcome."""

    model: Model
    stepping: Stepping
    optimum: Tensor  # [] value of the start
    rewards: Tensor  # [S, A, K, m] float64
    columns: Tensor  # [rows * K * 2, m] float32: both of each alias column


class VectorTabularProblem(TabularProblem):
    """A tabular problem that also discloses a vector of `m` rewards.

    `Step.feedback` is the vector `[N, m]` of a step and `spec.known.rewards` are those of every
    outcome of the model. The scalar reward, which the regret is about, is the model's own.
    """

    def rewards(self, model: Model) -> Tensor:
        """Rewards of every outcome, `[S, A, K, m]`; zero in terminal states."""
        raise NotImplementedError(f"{type(self).__name__} gives no rewards")

    def instance(self, rng: Rng) -> Instance:
        """Tables of the model, its optimum and its rewards, shared by all replicas."""
        model = self.model(rng)
        gap, optimum = self.solve(model)
        rewards = self.rewards(model).double()
        table = alias.alias(model.probability)
        other = table.other[..., None].expand(rewards.shape)
        columns = torch.stack([rewards, rewards.gather(-2, other)], -2).float()
        tables = VectorTables(model, stepping(model, gap), optimum, rewards, columns.flatten(0, -2))
        return Instance(shared=tables)

    def transition(self, instance: Instance, state: TabularState, action: Tensor, rng: Rng) -> Step:
        """Draw the outcome: successor, scalar reward and rewards."""
        tables: VectorTables = instance.shared
        read = tables.stepping
        row = rows(tables.model, state.state, action)
        count = tables.model.probability.shape[-1]
        out = drawn(read.packed, row, count, rng, "successor")
        column = 2 * out.column + out.second
        alike = count == 1 or tables.model.reward.shape[-1] == 1
        reward = read.reward.index_select(0, row if alike else column)
        discount = torch.ones_like(reward)
        if isinstance(read.goes_on, Tensor):
            discount = read.goes_on.index_select(0, out.label)
        feedback = tables.columns.index_select(0, column)
        return Step(TabularState(out.label, self.after(state.stage)), reward, discount, feedback)

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the model and all rewards to agents that say they need them."""
        tables: VectorTables = instance.shared
        spec = super().spec(instance)
        return replace(spec, known=spec.known._replace(rewards=tables.rewards))
