"""Proximal policy optimisation on batches of responses, with a table of state values as critic."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.advantages import clipped, generalised_advantage
from rlkit.alignment.tables import (
    TablePolicy,
    improve,
    knowledge,
    log_ratio,
    measure,
    reference_policy,
)
from rlkit.optimizers import Adam, descend, start_adam
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.tokens import Responses, log_probability
from rlkit.tokens.sequences import look_up
from rlkit.validation import check_integer, check_real


class ActorCritic(NamedTuple):
    """Policy and critic."""

    policy: TablePolicy
    value: Tensor  # [N, H, Z]
    adam: Adam


class Proximal(NamedTuple):
    """Coefficients of an update."""

    beta: float  # weight of the divergence in the token rewards
    rate: float  # step size of the policy
    value_rate: float  # step size of the critic
    clip: float  # of the probability ratio
    epochs: int  # passes over the batch
    trace: float  # lambda of the advantage estimates


def start_actor_critic(spec: Spec) -> ActorCritic:
    """The reference, and values of zero."""
    policy = reference_policy(spec)
    value = torch.zeros_like(policy.logits[..., 0])
    return ActorCritic(policy, value, start_adam(value))


def values_at(value: Tensor, responses: Responses) -> Tensor:
    """Values `[N, H, Z]` at the states before each token, `[N, B, H]`."""
    state = responses.state[..., :-1]
    return torch.stack([look_up(value[:, t], state[..., t]) for t in range(state.shape[-1])], -1)


def own_tokens(responses: Responses) -> Tensor:
    """1 for tokens that the policy wrote, 0 for those that were given, `[N, B, H]`."""
    time = torch.arange(responses.token.shape[-1], device=responses.token.device)
    return (time >= responses.given[..., None]).to(torch.float64)


def update(
    spec: Spec, state: ActorCritic, responses: Responses, reward: Tensor, by: Proximal
) -> ActorCritic:
    """One iteration: `epochs` steps of policy and critic on the same batch.

    Token rewards are `-beta log(pi / pi_ref)` under the policy that wrote, and `reward` `[N, B]` at
    the last token. Tokens that were given train neither policy nor critic.
    """
    own = own_tokens(responses)
    count = own.sum((1, 2)).clamp(min=1)
    written = log_probability(state.policy.table, responses)
    paid = -by.beta * log_ratio(state.policy.table, spec, responses)
    paid = torch.cat([paid[..., :-1], paid[..., -1:] + reward[..., None]], -1)
    value = values_at(state.value, responses)
    advantage = generalised_advantage(paid, value, 1.0, by.trace)
    target = advantage + value
    centre = (advantage * own).sum((1, 2)) / count
    spread = (((advantage - centre[:, None, None]) * own) ** 2).sum((1, 2)) / count
    whitened = (advantage - centre[:, None, None]) * torch.rsqrt(spread + 1e-8)[:, None, None]

    def loss(table: Tensor) -> Tensor:
        surrogate = clipped(log_probability(table, responses) - written, whitened, by.clip)
        return (surrogate * own).sum((1, 2)) / count

    for _ in range(by.epochs):
        policy = improve(state.policy, loss, by.rate)
        miss = (values_at(state.value, responses) - target) * own / count[:, None, None]
        gradient = spread_over(state.value, responses, miss)
        critic, adam = descend(state.value, gradient, state.adam, by.value_rate)
        state = ActorCritic(policy, critic, adam)
    return state


def spread_over(value: Tensor, responses: Responses, amount: Tensor) -> Tensor:
    """Gradient `[N, H, Z]` of a sum over tokens, `amount` `[N, B, H]` each."""
    state = responses.state[..., :-1].transpose(1, 2)
    return torch.zeros_like(value).scatter_add(2, state, amount.transpose(1, 2).to(value.dtype))


class ProximalAgent:
    """What agents with this optimiser share; they add fields and `act`."""

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    # Fields of every such agent.
    beta: float
    batch: int
    rate: float
    value_rate: float
    clip: float
    epochs: int
    trace: float

    def check(self) -> None:
        """Refuse shared fields outside their range."""
        for name in ("beta", "rate", "value_rate"):
            check_real(name, getattr(self, name), 0, open_low=True)
        check_integer("batch", self.batch, 2)
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)
        check_real("trace", self.trace, 0, 1)

    def initial(self, spec: Spec, rng: Rng) -> ActorCritic:
        """The reference, and values of zero."""
        knowledge(spec)
        return start_actor_critic(spec)

    def learn(self, spec: Spec, state: ActorCritic, batch: Transition, rng: Rng) -> ActorCritic:
        """An update on the tokens that the policy wrote."""
        by = Proximal(self.beta, self.rate, self.value_rate, self.clip, self.epochs, self.trace)
        return update(spec, state, batch.action, batch.feedback.reward, by)

    def diagnostics(self, spec: Spec, state: ActorCritic) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.policy.table, self.beta)
