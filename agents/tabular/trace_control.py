"""Off-policy control with one eligibility trace for each start, under any trace rule."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.exploration import (
    epsilon_greedy,
    epsilon_greedy_value,
    epsilon_mixture,
    greedy_policy,
    table_size,
    warm_up,
)
from rlkit.learning_curves import (
    add_evaluations,
    area,
    expected_return,
    next_step,
    start_curve,
)
from rlkit.models import Model
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import categorical, choose
from rlkit.traces import (
    RULES,
    Traces,
    add_trace,
    capacity,
    clear,
    credit,
    start_traces,
    step_traces,
)
from rlkit.traces.policies import WITHOUT_RATIOS
from rlkit.validation import check_choice, check_integer, check_real


class TraceControlState(NamedTuple):
    """What the agent has learned."""

    q: Tensor  # [N, S, A] float32
    traces: Traces
    episodes: Tensor  # [N] int64 finished so far
    curve: Tree  # LearningCurve, () without the monitor
    judged: Tree  # [N, S, A] bool greedy actions when last evaluated, () without the monitor


@agent("trace_control")
@dataclass(frozen=True)
class TraceControl:
    """Expected SARSA with trajectory-aware traces: every visited pair learns from every TD error.

    Daley, White, Amato and Machado (2023), "Trajectory-aware eligibility traces for off-policy
    reinforcement learning". Behaviour and target are epsilon-greedy policies of the present
    table. The monitor evaluates the table exactly after each episode and sums the learning
    curve; it needs the problem's model, learning does not.

    Raises:
        ValueError: a field outside its range, or a behaviour that never takes actions of the
            target under a rule that weighs by their ratio.
    """

    rule: str = "rbis"  # name of the trace rule, one of `rlkit.traces.RULES`
    lambda_: float = 0.6  # decay of the traces, in [0, 1]
    alpha: float = 0.9  # step size, in (0, 1]
    gamma: float = 0.9  # discount factor, in [0, 1)
    behaviour_epsilon: float = 0.2  # exploration of the behaviour, in [0, 1]
    target_epsilon: float = 0.1  # softness of the target policy, in [0, 1]
    warmup_episodes: int = 5  # episodes of uniformly random behaviour, >= 0
    initial_std: float = 0.01  # standard deviation of the initial table, >= 0
    capacity: int | None = None  # traces kept, >= 1; None: all that weigh more than 1e-6
    monitor: bool = False  # whether to evaluate after each episode; needs the problem's model
    evaluation_epsilon: float = 0.05  # exploration of the evaluated policy, in [0, 1]
    evaluation_steps: int = 51  # rewards counted in an evaluation, >= 1
    evaluation_window: int = 100  # evaluations in the trailing mean of the curve, >= 1

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False  # the monitor evaluates only the episodes that ended

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        check_real("lambda_", self.lambda_, 0, 1)
        check_real("alpha", self.alpha, 0, 1, open_low=True)
        check_real("gamma", self.gamma, 0, 1, open_high=True)
        for name in ("behaviour_epsilon", "target_epsilon", "evaluation_epsilon"):
            check_real(name, getattr(self, name), 0, 1)
        check_integer("warmup_episodes", self.warmup_episodes, 0)
        check_real("initial_std", self.initial_std, 0)
        for name in ("evaluation_steps", "evaluation_window"):
            check_integer(name, getattr(self, name), 1)
        if self.capacity is not None:
            check_integer("capacity", self.capacity, 1)
        covered = self.behaviour_epsilon > 0 or self.target_epsilon == 0
        if not covered and self.rule not in WITHOUT_RATIOS:
            raise ValueError(
                f"behaviour_epsilon = 0 with target_epsilon = {self.target_epsilon}: rule "
                f"{self.rule!r} divides by the behaviour's probabilities; accepted: (0, 1]"
            )

    def initial(self, spec: Spec, rng: Rng) -> TraceControlState:
        """A table of small normal values, no traces.

        Raises:
            ValueError: observations or actions that are not Discrete, or a monitor of a problem
                that does not disclose its model.
        """
        states, actions = table_size(spec)
        if self.monitor and spec.known.model is None:
            raise ValueError("monitor = True needs spec.known.model, which this problem lacks")
        q = self.initial_std * rng.normal("q", states * actions)
        kept = self.capacity or capacity(self.rule, self.gamma, self.lambda_, spec.horizon)
        table = q.contiguous().reshape(-1, states, actions)
        pairs = states * actions if self.capacity is None else None  # merged traces forget nothing
        return TraceControlState(
            table,
            start_traces(rng, kept, self.rule, pairs),
            torch.zeros_like(rng.replica),
            start_curve(rng, self.evaluation_window) if self.monitor else (),
            torch.zeros_like(table, dtype=torch.bool) if self.monitor else (),
        )

    def rate(self, state: TraceControlState) -> Tensor:
        """Exploration rate of the behaviour `[N]`."""
        return warm_up(state.episodes, self.warmup_episodes, self.behaviour_epsilon)

    def act(
        self, spec: Spec, state: TraceControlState, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, TraceControlState]:
        """An action of the behaviour policy `[N]`."""
        policy = epsilon_greedy(choose(state.q, observation), self.rate(state)[:, None])
        return categorical(policy, rng, "action"), state

    def learn(
        self, spec: Spec, state: TraceControlState, batch: Transition, rng: Rng
    ) -> TraceControlState:
        """Decay the traces, add one for this pair, and give all of them the TD error."""
        row, following = choose(state.q, batch.observation), choose(state.q, batch.next_observation)
        # Behaviour and target share their greedy actions: the table is that of the act.
        share = choose(greedy_policy(row), batch.action)
        taken = epsilon_mixture(share, self.target_epsilon, row.shape[1])
        rho = taken / epsilon_mixture(share, self.rate(state), row.shape[1])
        value = epsilon_greedy_value(following, self.target_epsilon)
        error = batch.reward + self.gamma * batch.discount * value - choose(row, batch.action)
        rule, decay = self.rule, self.lambda_
        traces = step_traces(state.traces, rule, self.gamma, decay, rho, taken, share > 0)
        traces = add_trace(traces, batch.observation * row.shape[1] + batch.action)
        q = credit(state.q.reshape(row.shape[0], -1), traces, self.alpha * error)
        after = state._replace(
            q=q.reshape(state.q.shape),
            traces=clear(traces, batch.last),
            episodes=state.episodes + batch.last,
        )
        return self.evaluated(spec, after, batch.last) if self.monitor else after

    def evaluated(self, spec: Spec, state: TraceControlState, last: Tensor) -> TraceControlState:
        """Continue the learning curve, with a point where an episode ended, `last` `[N]`."""
        rows = last.nonzero().squeeze(1)
        if rows.shape[0] == 0:
            return state._replace(curve=next_step(state.curve))
        q = state.q[rows]
        greedy = q == q.amax(-1, keepdim=True)
        # The value depends on the greedy actions alone, which soon change rarely.
        new = (greedy != state.judged[rows]).flatten(1).any(1).nonzero().squeeze(1)
        values, judged = state.curve.latest[rows], state.judged
        if new.shape[0]:
            fresh = self.evaluation(spec.known.model, q[new], rows[new])
            values = values.index_copy(0, new, fresh)
            judged = judged.index_copy(0, rows[new], greedy[new])
        curve = next_step(add_evaluations(state.curve, rows, values))
        return state._replace(curve=curve, judged=judged)

    def evaluation(self, model: Model, q: Tensor, rows: Tensor) -> Tensor:
        """Exact return `[R]` of the policy evaluated, for tables `q` `[R, S, A]` of some `rows`."""
        if model.batched:
            model = Model(*(leaf[rows] for leaf in model))
        policy = epsilon_greedy(q, self.evaluation_epsilon)
        return expected_return(model, policy, self.gamma, self.evaluation_steps)

    def diagnostics(self, spec: Spec, state: TraceControlState) -> dict[str, Tensor]:
        """Episodes `[N]`; with the monitor the latest evaluation and the area under the curve."""
        episodes = {"episodes": state.episodes.double()}
        if not self.monitor:
            return episodes
        return episodes | {"evaluation": state.curve.latest, "auc": area(state.curve)}
