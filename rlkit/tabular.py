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
    """What a step reads; every leaf leads with `N` where replicas have models of their own."""

    packed: Tensor  # [rows * K] int64 alias columns of the successors, row = state * A + action
    reward: Tensor  # [rows] or, where outcomes differ in pay, [rows * K * 2]: both of each column
    noise: Tree  # [rows] float32 standard deviations; () if they are alike
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
    gaps add up in expectation to the difference between optimal and achieved value; where the
    problem is discounted they would have to be discounted too, which a recorded total does not do.
    """

    # Range of the rewards where replicas draw their own: it must not depend on the draw.
    reward_bounds: ClassVar[tuple[float, float] | None] = None

    @property
    def horizon(self) -> int | None:
        """Time limit, None for a task that never ends."""
        return None

    @property
    def gamma(self) -> float | None:
        """Discount factor, None where rewards are not discounted."""
        return None

    @property
    def noise(self) -> float:
        """Standard deviation of normal noise on every reward."""
        return 0.0

    def model(self, rng: Rng) -> Model:
        """The tables, with leading `N` where each replica draws its own.

        Args:
            rng: the instance stream.
        """
        raise NotImplementedError(f"{type(self).__name__} has no model")

    @property
    def staged(self) -> bool:
        """Whether the optimum depends on the steps left."""
        return self.gamma is None and self.horizon is not None

    def noise_table(self, model: Model) -> Tensor | None:
        """Standard deviation of the noise `[..., S, A]` where it differs, else None."""
        return None

    def instance(self, rng: Rng) -> Instance:
        """Tables of the model and its optimum.

        Raises:
            ValueError: episodes that can terminate in a task that never ends; see also `solve`.
        """
        model = self.model(rng)
        if self.horizon is None and bool(model.terminal.any()):
            raise ValueError("horizon = None, but there are terminal states: give a time limit")
        gap, optimum = self.solve(model)
        read = stepping(model, gap, self.noise_table(model))
        if not model.batched:
            return Instance(shared=Tables(model, read, optimum))
        alike = {name: lead(getattr(model, name), rng.n) for name in ("start", "terminal")}
        return Instance(replica=Tables(model._replace(**alike), read, optimum))

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
        out = drawn(packed.reshape(-1), row, packed.shape[-1], rng, "start")
        return TabularState(out.label, zero if self.staged else ())

    def transition(self, instance: Instance, state: TabularState, action: Tensor, rng: Rng) -> Step:
        """Draw the successor and pay its reward."""
        tables = held(instance)
        read = tables.stepping
        row = rows(tables.model, state.state, action)
        columns = tables.model.probability.shape[-1]
        out = drawn(read.packed.reshape(-1), row, columns, rng, "successor")
        alike = columns == 1 or tables.model.reward.shape[-1] == 1
        reward = read.reward.reshape(-1).index_select(
            0, row if alike else 2 * out.column + out.second
        )
        if isinstance(read.noise, Tensor):
            spread = read.noise.reshape(-1).index_select(0, row)
            reward = reward + spread * rng.normal("noise")
        elif self.noise:
            reward = reward + self.noise * rng.normal("noise")
        discount = torch.ones_like(reward)
        if isinstance(read.goes_on, Tensor):
            place = places(tables.model, out.label)
            discount = read.goes_on.reshape(-1).index_select(0, place)
        return Step(TabularState(out.label, self.after(state.stage)), reward, discount)

    def after(self, stage: Tree) -> Tree:
        """The next stage; the last one stays where a run is given a longer time limit.

        Gaps are those of the problem's own horizon, whatever time limit a run is given.
        """
        return (stage + 1).clamp(max=(self.horizon or 1) - 1) if self.staged else ()

    def observe(self, instance: Instance, state: TabularState) -> Tensor:
        """The state `[N]`."""
        return state.state

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the model to agents that say they need it."""
        model = held(instance).model
        states, actions = model.size
        known = Known(reward=model.mean_reward, model=model)
        bounds = self.reward_bounds
        noisy = bool(self.noise) or isinstance(held(instance).stepping.noise, Tensor)
        if bounds is None and not noisy and not model.batched:
            paid = model.reward.float()  # as the step pays it
            bounds = (float(paid.min()), float(paid.max()))
        bounds = bounds or (float("-inf"), float("inf"))
        return Spec(Discrete(states), Discrete(actions), self.horizon, known, reward_range=bounds)

    def diagnostics(
        self, instance: Instance, state: TabularState, action: Tensor
    ) -> dict[str, Tensor]:
        """Gap of the action `[N]` and whether it was optimal."""
        tables = held(instance)
        gap = tables.stepping.regret.reshape(-1).index_select(
            0, self.gap_rows(tables.model, state, action)
        )
        return {"regret": gap, "optimal": (gap <= OPTIMAL).float()}

    def gap_rows(self, model: Model, state: TabularState, action: Tensor) -> Tensor:
        """Flat position `[N]` of the action's gap at the present stage."""
        row = rows(model, state.state, action)
        if not self.staged:
            return row
        # Stages of one replica lie behind one another, before the next replica's.
        states, actions = model.size
        size, horizon = states * actions, self.horizon or 1
        own = state.state * actions + action
        return (row - own) * horizon + state.stage * size + own

    def optimal_action(self, instance: Instance, state: TabularState) -> Tensor:
        """An optimal action in every replica's state `[N]`."""
        tables = held(instance)
        actions = tables.model.size[1]
        first = self.gap_rows(tables.model, state, torch.zeros_like(state.state))
        every = first[:, None] + torch.arange(actions, device=first.device)
        gap = tables.stepping.regret.reshape(-1).index_select(0, every.reshape(-1))
        return gap.reshape(-1, actions).argmin(1)

    def optimal_policy(self, instance: Instance) -> Tensor:
        """Optimal actions `[..., S]`, or `[..., H, S]` of every stage if staged."""
        return self.gap_table(instance).argmin(-1)

    def gap_table(self, instance: Instance) -> Tensor:
        """`V* - Q*`, `[..., S, A]`, or `[..., H, S, A]` of every stage if staged."""
        tables = held(instance)
        flat = tables.stepping.regret
        stages = (self.horizon or 1,) if self.staged else ()
        return flat.reshape(*flat.shape[:-1], *stages, *tables.model.size)

    def optimal_value(self, instance: Instance) -> Tensor:
        """Value of the start under the optimal policy, or the gain: `[N]`, 0-d if shared."""
        return held(instance).optimum

    def state_values(self, instance: Instance) -> Tensor:
        """Optimal values `[..., S]` at the start of an episode; the bias for average reward."""
        model = held(instance).model
        if self.gamma is not None:
            return planning.policy_iteration(model, self.gamma).value
        if self.horizon is not None:
            return planning.backward_induction(model, self.horizon).value[..., 0, :]
        return planning.gain_and_bias(model).bias

    def span(self, instance: Instance) -> Tensor:
        """Largest minus smallest of `state_values`, `[...]`."""
        return planning.span(self.state_values(instance))

    def diameter(self, instance: Instance) -> Tensor:
        """Expected steps between the two states furthest apart, on the fastest way, `[...]`."""
        return planning.diameter(held(instance).model)


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


def drawn(packed: Tensor, row: Tensor, columns: int, rng: Rng, name: str) -> alias.Draw:
    """Outcomes of `row` `[N]`; a certain one costs no random number."""
    if columns > 1:
        return alias.draw(packed, row, columns, rng.words(name, 1)[:, 0])
    return alias.Draw(alias.first_label(packed.index_select(0, row)), row, torch.zeros_like(row))


def lead(table: Tensor, replicas: int) -> Tensor:
    """`table` `[S]` or `[N, S]` as `[N, S]`."""
    return table.expand(replicas, -1)


def stepping(model: Model, gap: Tensor, noise: Tensor | None = None) -> Stepping:
    """Flat tables of a model.

    Shapes do not depend on what replicas drew: the start counts as certain, and states as never
    terminal, only where all replicas share `model.start` `[S]` and `model.terminal` `[S]`.

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
    batch = model.probability.shape[:-3]
    flat = (*batch, -1)
    goes_on: Tree = ()
    if model.terminal.dim() > 1 or bool(model.terminal.any()):
        goes_on = (~model.terminal).float().expand(*batch, -1).contiguous()
    return Stepping(
        packed.reshape(flat),
        reward.float().reshape(flat),
        () if noise is None else noise.float().reshape(flat),
        goes_on,
        starts(model.start).expand(*batch, -1).contiguous(),
        gap.reshape(flat),
    )


def starts(start: Tensor) -> Tensor:
    """Packed alias columns `[..., K0]` of the states of `[N, S]`, of the possible ones of `[S]`."""
    if start.dim() > 1:
        order = torch.arange(start.shape[-1], device=start.device).expand(start.shape)
        return alias.pack(alias.alias(start), order)
    order = (start > 0).nonzero().squeeze(1)
    return alias.pack(alias.alias(start[order]), order)
