"""Off-policy n-step expected SARSA; n = 1 is expected SARSA."""

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
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import categorical, choose
from rlkit.validation import check_integer, check_real


class NStepState(NamedTuple):
    """A table and the pairs whose returns are not complete, the youngest last."""

    q: Tensor  # [N, S, A] float32
    key: Tensor  # [N, n] int64 state * A + action
    reward: Tensor  # [N, n] received after each pair
    rho: Tensor  # [N, n] probability of the action under the target over that under the behaviour
    held: Tensor  # [N] int64 pairs of the present episode in the window
    episodes: Tensor  # [N] int64 finished so far


@agent("n_step_expected_sarsa")
@dataclass(frozen=True)
class NStepExpectedSarsa:
    """Learns each pair from n rewards and the target's expected value behind them.

    Sutton and Barto (2018), section 7.3 with the expected last step (7.7): the update of a pair is
    weighted by the ratios of the actions after it. At the end of an episode the waiting pairs
    learn from the rewards there are, the oldest first. Behaviour and target are epsilon-greedy.

    Raises:
        ValueError: a field outside its range, or a behaviour that never takes actions of the
            target where n > 1 weighs by their ratio.
    """

    n: int = 4  # rewards in a return, >= 1
    alpha: float = 0.5  # step size, in (0, 1]
    gamma: float = 0.9  # discount factor, in [0, 1)
    behaviour_epsilon: float = 0.2  # exploration of the behaviour, in [0, 1]
    target_epsilon: float = 0.1  # softness of the target policy, in [0, 1]
    warmup_episodes: int = 5  # episodes of uniformly random behaviour, >= 0
    initial_std: float = 0.01  # standard deviation of the initial table, >= 0

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)
        check_real("alpha", self.alpha, 0, 1, open_low=True)
        check_real("gamma", self.gamma, 0, 1, open_high=True)
        check_real("behaviour_epsilon", self.behaviour_epsilon, 0, 1)
        check_real("target_epsilon", self.target_epsilon, 0, 1)
        check_integer("warmup_episodes", self.warmup_episodes, 0)
        check_real("initial_std", self.initial_std, 0)
        if self.n > 1 and self.behaviour_epsilon == 0 and self.target_epsilon > 0:
            raise ValueError(
                f"behaviour_epsilon = 0 with target_epsilon = {self.target_epsilon}: n = {self.n} "
                "steps divide by the behaviour's probabilities; accepted: (0, 1]"
            )

    def initial(self, spec: Spec, rng: Rng) -> NStepState:
        """A table of small normal values, nothing waiting.

        Raises:
            ValueError: observations or actions that are not Discrete.
        """
        states, actions = table_size(spec)
        q = self.initial_std * rng.normal("q", states * actions)
        real = torch.zeros(rng.n, self.n, device=rng.device)
        zero = torch.zeros_like(rng.replica)
        table = q.contiguous().reshape(-1, states, actions)
        return NStepState(table, real.long(), real, real, zero, zero)

    def rate(self, state: NStepState) -> Tensor:
        """Exploration rate of the behaviour `[N]`."""
        return warm_up(state.episodes, self.warmup_episodes, self.behaviour_epsilon)

    def act(
        self, spec: Spec, state: NStepState, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, NStepState]:
        """An action of the behaviour policy `[N]`."""
        policy = epsilon_greedy(choose(state.q, observation), self.rate(state)[:, None])
        return categorical(policy, rng, "action"), state

    def learn(self, spec: Spec, state: NStepState, batch: Transition, rng: Rng) -> NStepState:
        """Complete the oldest return, or all of them where an episode ended."""
        row, following = choose(state.q, batch.observation), choose(state.q, batch.next_observation)
        # Behaviour and target share their greedy actions: the table is that of the act.
        share = choose(greedy_policy(row), batch.action)
        taken = epsilon_mixture(share, self.target_epsilon, row.shape[1])
        rho = taken / epsilon_mixture(share, self.rate(state), row.shape[1])
        value = epsilon_greedy_value(following, self.target_epsilon)
        pair = batch.observation * row.shape[1] + batch.action
        key = torch.cat([state.key[:, 1:], pair[:, None]], 1)
        reward = torch.cat([state.reward[:, 1:], batch.reward[:, None]], 1)
        ratio = torch.cat([state.rho[:, 1:], rho[:, None]], 1)
        held = (state.held + 1).clamp(max=self.n)
        returns, weight = self.returns(reward, ratio, batch.discount * value)
        flat = state.q.reshape(row.shape[0], -1)
        for age in range(self.n - 1, -1, -1):  # the oldest first
            place = self.n - 1 - age
            due = (held > age) & (batch.last | (age == self.n - 1))
            old = choose(flat, key[:, place])
            change = self.alpha * weight[age] * (returns[age] - old) * due
            flat = flat.scatter_add(1, key[:, place : place + 1], change[:, None])
        return NStepState(
            flat.reshape(state.q.shape),
            key,
            reward,
            ratio,
            held * ~batch.last,
            state.episodes + batch.last,
        )

    def returns(
        self, reward: Tensor, ratio: Tensor, bootstrap: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns and products of later ratios of the pairs of age 0, 1, ..., `[N]` each.

        Args:
            reward: `[N, n]`, the youngest last.
            ratio: `[N, n]`.
            bootstrap: value behind the youngest `[N]`, 0 where the episode terminated.
        """
        value, product = bootstrap, torch.ones_like(bootstrap)
        values, products = [], []
        for place in range(self.n - 1, -1, -1):
            value = reward[:, place] + self.gamma * value
            values.append(value)
            products.append(product)
            product = product * ratio[:, place]
        return values, products
