"""Optimistic Q-learning for average reward, by way of a long discounted horizon."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.arms import run_length
from rlkit.optimism import reward_bounds
from rlkit.phases import average_reward
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import argmax, choose, full, zeros
from rlkit.validation import check_real


class OptimisticValues(NamedTuple):
    """What a replica has learnt."""

    q: Tensor  # [N, S * A] float64 running estimate, discounted
    least: Tensor  # [N, S * A] smallest estimate so far, an upper bound
    visits: Tensor  # [N, S * A] float64


@agent("optimistic_q")
@dataclass(frozen=True)
class OptimisticQ:
    """Optimistic Q-learning on a discounted problem whose horizon grows with the run.

    Wei, Jafarnia-Jahromi, Luo, Sharma and Jain (2020), "Model-free reinforcement learning in
    infinite-horizon average-reward Markov decision processes", algorithm 1. Bonus
    `4 span sqrt(H ln(2 T / delta) / n)`, learning rate `(H + 1) / (H + n)`, discount `1 - 1 / H`,
    rewards mapped to [0, 1]. For continuing problems.

    Raises:
        ValueError: a field outside its range.
    """

    span: float | None = None  # max - min of the optimal bias, > 0; None: a guess, S reward ranges
    delta: float = 0.1  # probability of failure, in (0, 1)
    scale: float = 1.0  # factor of the bonus, >= 0; 1 is the theorem's
    horizon: float | None = None  # effective horizon H, >= 2; None: by the theorem
    reward_low: float | None = None  # smallest mean reward; None: the problem's
    reward_high: float | None = None  # largest mean reward; None: the problem's

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("scale", self.scale, 0)
        if self.span is not None:
            check_real("span", self.span, 0, open_low=True)
        if self.horizon is not None:
            check_real("horizon", self.horizon, 2)
        for name, bound in (("reward_low", self.reward_low), ("reward_high", self.reward_high)):
            if bound is not None:
                check_real(name, bound)

    def initial(self, spec: Spec, rng: Rng) -> OptimisticValues:
        """All values at H.

        Raises:
            ValueError: not states and actions, a problem with episodes, a run of unknown length,
                or rewards without bounds.
        """
        states, actions = average_reward(self, spec)
        reward_bounds(self, spec, self.reward_low, self.reward_high)
        top = full(rng, self.effective_horizon(spec), states * actions, dtype=torch.float64)
        return OptimisticValues(top, top, zeros(rng, states * actions, dtype=torch.float64))

    def effective_horizon(self, spec: Spec) -> float:
        """`H = max(2, min(sqrt(span T / (S A)), (T / (S A ln(4 T / delta)))^(1/3)))`."""
        if self.horizon is not None:
            return self.horizon
        states, actions = average_reward(self, spec)
        steps, pairs = run_length(self, spec), states * actions
        long = math.sqrt(self.unit_span(spec) * steps / pairs)
        safe = (steps / (pairs * math.log(4 * steps / self.delta))) ** (1 / 3)
        return max(2.0, min(long, safe))

    def unit_span(self, spec: Spec) -> float:
        """Bound on the span in units of the range of the rewards."""
        low, high = reward_bounds(self, spec, self.reward_low, self.reward_high)
        if self.span is None or high == low:
            return float(average_reward(self, spec)[0])
        return self.span / (high - low)

    def act(
        self, spec: Spec, state: OptimisticValues, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, OptimisticValues]:
        """The action of largest upper bound `[N]`."""
        _, actions = average_reward(self, spec)
        table = state.least.reshape(rng.n, -1, actions)
        return argmax(choose(table, observation), rng), state

    def learn(
        self, spec: Spec, state: OptimisticValues, batch: Transition, rng: Rng
    ) -> OptimisticValues:
        """One update of the visited pair; the end of an episode means nothing here."""
        _, actions = average_reward(self, spec)
        horizon = self.effective_horizon(spec)
        low, high = reward_bounds(self, spec, self.reward_low, self.reward_high)
        unit = (batch.reward.double() - low) / (high - low if high > low else 1.0)
        pair = batch.observation * actions + batch.action
        count = choose(state.visits, pair) + 1
        level = math.log(2 * run_length(self, spec) / self.delta)
        width = 4 * self.scale * self.unit_span(spec) * math.sqrt(horizon * level)
        table = state.least.reshape(rng.n, -1, actions)
        following = choose(table, batch.next_observation).amax(1)
        target = unit + (1 - 1 / horizon) * following + width / torch.sqrt(count)
        old = choose(state.q, pair)
        q = old + (horizon + 1) / (horizon + count) * (target - old)
        least = torch.minimum(choose(state.least, pair), q)
        at = pair[:, None]
        return OptimisticValues(
            state.q.scatter(1, at, q[:, None]),
            state.least.scatter(1, at, least[:, None]),
            state.visits.scatter(1, at, count[:, None]),
        )
