"""Problems given by the tables of a finite MDP.

A tabular problem is its fields and a `model`; stepping, the exact optimum and regret follow from
`TabularProblem`. The objective is read off the fields: discounted where there is a `gamma`,
else the sum over an episode of `horizon` steps, else the average reward of one that never ends.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit import alias, planning
from rlkit.models import Model
from rlkit.protocol import Discrete, Instance, Known, Spec, Step, Tree
from rlkit.random import Rng

OPTIMAL = 1e-9  # gap up to which an action counts as optimal


class Stepping(NamedTuple):
    """What a step reads: flat tables, those of replica `n` after those of `n - 1`."""

    packed: Tensor  # [rows * K] int64 alias columns of the successors, row = state * A + action
    reward: Tensor  # [rows] or, where outcomes differ in pay, [rows * K * 2]: both of each column
    goes_on: Tree  # [states] float32, 0 where terminal; () if no state is
    start: Tensor  # [K0] packed alias columns of the start, or [1]: the only start
    regret: Tensor  # [stages * rows] float64 gap of the action, per stage with a finite horizon


class Tables(NamedTuple):
    """A problem's model, what a step reads and what its optimum is."""

    model: Model
    stepping: Stepping
    optimum: Tensor  # [...] value of the start under the optimal policy, or the gain


class TabularState(NamedTuple):
    """Where a replica is."""

    state: Tensor  # [N] int64
    stage: Tree  # [N] int64 steps since the start, () unless the optimum depends on it


class TabularProblem:
    """Everything a problem needs beside its `model`; inherit and add fields.

    Observation: the state. Regret of a step is the gap `V*(s) - Q*(s, a)` of the optimal policy
    (of the stage in a finite horizon; `gain + bias - Q` for average reward). Over an episode the
    gaps add up, in expectation, to the difference between optimal and achieved value.
    """

    gamma: ClassVar[float | None] = None
    noise: ClassVar[float] = 0.0  # standard deviation of normal noise on every reward

    @property
    def horizon(self) -> int | None:
        """Time limit, None for a task that never ends."""
        return None

    def model(self, rng: Rng) -> Model:
        """The tables, with leading `N` where each replica draws its own.

        Args:
            rng: the instance stream.
        """
        raise NotImplementedError

    @property
    def staged(self) -> bool:
        """Whether the optimum depends on the steps left."""
        return self.gamma is None and self.horizon is not None

    def instance(self, rng: Rng) -> Instance:
        """Tables of the model and its optimum."""
        model = self.model(rng)
        gap, optimum = self.solve(model)
        tables = Tables(model, stepping(model, gap), optimum)
        return Instance(replica=tables) if model.batched else Instance(shared=tables)

    def solve(self, model: Model) -> tuple[Tensor, Tensor]:
        """Gaps `[..., S, A]`, or `[..., H, S, A]` if staged, and the optimal value of the start.

        Raises:
            ValueError: an average-reward question about a model that is not communicating.
        """
        if self.gamma is not None:
            solution = planning.policy_iteration(model, self.gamma)
            return gaps(solution.q), (model.start * solution.value).sum(-1)
        if self.horizon is not None:
            plan = planning.backward_induction(model, self.horizon)
            return gaps(plan.q), (model.start * plan.value[..., 0, :]).sum(-1)
        answer = planning.gain_and_bias(model)
        return gaps(answer.q), answer.gain

    def reset(self, instance: Instance, rng: Rng) -> TabularState:
        """Draw the first state."""
        tables = held(instance)
        packed = tables.stepping.start
        zero = torch.zeros_like(rng.replica)
        row = torch.arange(rng.n, device=rng.device) if tables.model.batched else zero
        columns = packed.shape[0] // (rng.n if tables.model.batched else 1)
        if columns == 1:
            state = (packed.index_select(0, row) >> alias.LABEL_BITS) & (alias.LABELS - 1)
        else:
            state = alias.draw(packed, row, columns, rng.words("start", 1)[:, 0]).label
        return TabularState(state, zero if self.staged else ())

    def transition(self, instance: Instance, state: TabularState, action: Tensor, rng: Rng) -> Step:
        """Draw the successor and pay its reward."""
        tables = held(instance)
        read = tables.stepping
        row = rows(tables.model, state.state, action)
        columns = tables.model.probability.shape[-1]
        if columns == 1:
            following = (read.packed.index_select(0, row) >> alias.LABEL_BITS) & (alias.LABELS - 1)
            reward = read.reward.index_select(0, row)
        else:
            out = alias.draw(read.packed, row, columns, rng.words("successor", 1)[:, 0])
            following = out.label
            alike = tables.model.reward.shape[-1] == 1
            reward = read.reward.index_select(0, row if alike else 2 * out.column + out.second)
        if self.noise:
            reward = reward + self.noise * rng.normal("noise")
        discount = torch.ones_like(reward)
        if isinstance(read.goes_on, Tensor):
            discount = read.goes_on.index_select(0, places(tables.model, following))
        stage = state.stage + 1 if self.staged else ()
        return Step(TabularState(following, stage), reward, discount)

    def observe(self, instance: Instance, state: TabularState) -> Tensor:
        """The state `[N]`."""
        return state.state

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the model to agents that say they need it."""
        model = held(instance).model
        states, actions = model.size
        known = Known(reward=model.mean_reward, model=model)
        low, high = float("-inf"), float("inf")
        if not self.noise:
            low, high = float(model.reward.min()), float(model.reward.max())
        return Spec(
            Discrete(states), Discrete(actions), self.horizon, known, reward_range=(low, high)
        )

    def diagnostics(
        self, instance: Instance, state: TabularState, action: Tensor
    ) -> dict[str, Tensor]:
        """Gap of the action `[N]` and whether it was optimal."""
        tables = held(instance)
        row = rows(tables.model, state.state, action)
        if self.staged:
            # Stages of one replica lie behind one another, before the next replica's.
            states, actions = tables.model.size
            size, horizon = states * actions, self.horizon or 1
            own = state.state * actions + action
            row = (row - own) * horizon + state.stage * size + own
        gap = tables.stepping.regret.index_select(0, row)
        return {"regret": gap, "optimal": (gap <= OPTIMAL).float()}

    def optimal_value(self, instance: Instance) -> Tensor:
        """Value of the start under the optimal policy, or the gain: `[N]`, 0-d if shared."""
        return held(instance).optimum


def held(instance: Instance) -> Tables:
    """The tables of an instance, shared or of the replicas."""
    tables: Tables = instance.replica or instance.shared
    return tables


def gaps(q: Tensor) -> Tensor:
    """`max_a q - q`, `[..., S, A]`."""
    return q.amax(-1, keepdim=True) - q


def rows(model: Model, state: Tensor, action: Tensor) -> Tensor:
    """Flat row of state and action `[N]` in the tables."""
    return places(model, state) * model.size[1] + action


def places(model: Model, state: Tensor) -> Tensor:
    """Flat position of the state `[N]` in the tables."""
    if not model.batched:
        return state
    offset = torch.arange(state.shape[0], device=state.device) * model.size[0]
    return offset + state


def stepping(model: Model, gap: Tensor) -> Stepping:
    """Flat tables of a model.

    Raises:
        ValueError: more than 2**20 states.
    """
    states, _ = model.size
    if states > alias.LABELS:
        raise ValueError(f"{states} states; accepted: up to {alias.LABELS}")
    table = alias.alias(model.probability)
    packed = alias.pack(table, model.successor)
    reward = model.reward
    if reward.shape[-1] > 1:
        reward = torch.stack([reward, reward.gather(-1, table.other)], -1)
    goes_on: Tree = (~model.terminal).float().reshape(-1) if bool(model.terminal.any()) else ()
    return Stepping(
        packed.reshape(-1),
        reward.float().reshape(-1),
        goes_on,
        starts(model.start).reshape(-1),
        gap.reshape(-1),
    )


def starts(start: Tensor) -> Tensor:
    """Packed alias columns `[..., K0]` of the states with positive probability in `[..., S]`."""
    count = max(1, int((start > 0).sum(-1).max()))
    order = torch.argsort((start <= 0).long(), dim=-1, stable=True)[..., :count]
    return alias.pack(alias.alias(start.gather(-1, order)), order)
