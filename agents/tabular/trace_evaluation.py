"""Off-policy evaluation of a fixed policy with any eligibility trace."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.exploration import table_size
from rlkit.planning import policy_value
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import categorical, choose, one_hot, zeros
from rlkit.traces import (
    RULES,
    Traces,
    add_trace,
    capacity,
    clear,
    credit,
    importance_ratios,
    start_traces,
    step_traces,
)
from rlkit.validation import check_choice, check_real


class TraceEvaluationState(NamedTuple):
    """Estimate, traces, and what does not change: both policies and the truth."""

    q: Tensor  # [N, S * A] float32
    traces: Traces
    target: Tensor  # [N, S, A]
    behaviour: Tensor  # [N, S, A]
    truth: Tensor  # [N, S * A] float64, the target's action values


@agent("trace_evaluation")
@dataclass(frozen=True)
class TraceEvaluation:
    """Learns the action values of one policy from the actions of another, with traces.

    Daley, White, Amato and Machado (2023), "Trajectory-aware eligibility traces for off-policy
    reinforcement learning", with fixed policies. Each mixes the uniform policy with a base, both
    drawn per replica: one preferred action in every state, the same for both policies, or rows
    uniform on the simplex, different ones. Discounts by its own `gamma`; where the time limit
    ends an episode it bootstraps.

    Raises:
        ValueError: a field outside its range.
    """

    rule: str = "rbis"  # name of the trace rule, one of `rlkit.traces.RULES`
    lambda_: float = 0.8  # decay of the traces, in [0, 1]
    alpha: float = 0.1  # step size, in (0, 1]
    gamma: float = 0.9  # discount factor, in [0, 1)
    policies: str = "preferred"  # base of both policies: "preferred" or "random"
    target_epsilon: float = 0.1  # share of the uniform policy in the target, in [0, 1]
    behaviour_epsilon: float = 0.5  # share of the uniform policy in the behaviour, in [0, 1]

    needs: ClassVar[tuple[str, ...]] = ("model",)
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        check_real("lambda_", self.lambda_, 0, 1)
        check_real("alpha", self.alpha, 0, 1, open_low=True)
        check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_choice("policies", self.policies, ("preferred", "random"))
        check_real("target_epsilon", self.target_epsilon, 0, 1)
        check_real("behaviour_epsilon", self.behaviour_epsilon, 0, 1)

    def initial(self, spec: Spec, rng: Rng) -> TraceEvaluationState:
        """Draws the policies; estimates of zero.

        Raises:
            ValueError: observations or actions that are not Discrete, or a behaviour that never
                takes an action of the target under a rule that needs the ratio.
        """
        states, actions = table_size(spec)
        target, behaviour = self.both(rng, states, actions)
        importance_ratios(target, behaviour, self.rule)
        kept = capacity(self.rule, self.gamma, self.lambda_, spec.horizon)
        return TraceEvaluationState(
            zeros(rng, states * actions),
            start_traces(rng, kept, self.rule, pairs=states * actions),
            target.float(),
            behaviour.float(),
            policy_value(spec.known.model, target, self.gamma).q.flatten(1),
        )

    def both(self, rng: Rng, states: int, actions: int) -> tuple[Tensor, Tensor]:
        """Target and behaviour, `[N, S, A]` float64 each."""
        if self.policies == "preferred":
            best = rng.integers("preferred", actions, states)
            base = one_hot(best.reshape(-1), actions, torch.float64)
            bases = [base.reshape(rng.n, states, actions)] * 2
        else:
            names = ("target", "behaviour")
            parts = [rng.exponential(x, states, actions, dtype=torch.float64) for x in names]
            bases = [part / part.sum(-1, keepdim=True) for part in parts]
        mixtures = zip(bases, (self.target_epsilon, self.behaviour_epsilon), strict=True)
        target, behaviour = (share / actions + (1 - share) * base for base, share in mixtures)
        return target, behaviour

    def act(
        self, spec: Spec, state: TraceEvaluationState, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, TraceEvaluationState]:
        """An action of the behaviour policy `[N]`."""
        return categorical(choose(state.behaviour, observation), rng, "action"), state

    def learn(
        self, spec: Spec, state: TraceEvaluationState, batch: Transition, rng: Rng
    ) -> TraceEvaluationState:
        """Decay the traces, add one for this pair, and give all of them the error."""
        row, action = choose(state.target, batch.observation), batch.action
        taken = choose(row, action)
        rho = taken / choose(choose(state.behaviour, batch.observation), action)
        key = batch.observation * row.shape[1] + action
        following = choose(state.q.unflatten(1, state.target.shape[1:]), batch.next_observation)
        value = (choose(state.target, batch.next_observation) * following).sum(1)
        error = batch.reward + self.gamma * batch.discount * value - choose(state.q, key)
        greedy = taken == row.amax(1)
        traces = step_traces(state.traces, self.rule, self.gamma, self.lambda_, rho, taken, greedy)
        traces = add_trace(traces, key)
        q = credit(state.q, traces, self.alpha * error)
        return state._replace(q=q, traces=clear(traces, batch.last))

    def diagnostics(self, spec: Spec, state: TraceEvaluationState) -> dict[str, Tensor]:
        """Root of the mean squared error over all pairs, `[N]`."""
        return {"rmse": torch.sqrt(((state.q - state.truth) ** 2).mean(1))}
