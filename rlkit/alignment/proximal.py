"""Proximal policy optimisation on batches of responses."""

from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.advantages import clipped, generalised_advantage
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.training import improve
from rlkit.protocol import Spec, Transition, Tree
from rlkit.tokens import Responses
from rlkit.validation import check_integer, check_real


def own_tokens(responses: Responses) -> Tensor:
    """1 for tokens that the policy wrote, 0 for those that were given, `[N, B, H]`."""
    time = torch.arange(responses.token.shape[-1], device=responses.token.device)
    return (time >= responses.given[..., None]).to(torch.float64)


def at_the_end(mask: Tensor, reward: Tensor) -> Tensor:
    """`reward` `[N, B]` at the last token that `mask` `[N, B, H]` counts, else 0."""
    after = torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)
    return reward[..., None] * (mask - after)


class ProximalAgent(AlignmentAgent):
    """What agents with this optimiser share; they add fields.

    Token rewards are `-beta log(pi / pi_ref)` under the policy that wrote, and the reward of the
    response at its last token. Tokens that were given train neither policy nor critic.
    """

    critical: ClassVar[bool] = True

    # Fields of every such agent.
    value_rate: float
    clip: float
    epochs: int
    trace: float

    def check(self, least: int = 2) -> None:
        """Refuse shared fields outside their range."""
        super().check(least)
        check_real("value_rate", self.value_rate, 0, open_low=True)
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)
        check_real("trace", self.trace, 0, 1)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: object) -> Learner:
        """`epochs` steps of policy and critic on the batch."""
        responses: Responses = batch.action
        model, critic = self.model, self.critic
        mask = model.mask(spec, responses)
        own = own_tokens(responses) * mask
        with torch.no_grad():
            written = model.score(spec, state.policy.parameters, responses)
            value = critic.values(spec, state.critic.parameters, responses)
            ratio = written - model.reference(spec, responses)
        paid = at_the_end(mask, self.paid(spec, state, batch)) - self.beta * ratio
        advantage = generalised_advantage(paid, value, 1.0, self.trace)
        target, advantage = advantage + value, whiten(advantage, own)

        def surrogate(parameters: Tree) -> Tensor:
            score = model.score(spec, parameters, responses)
            return mean_over(clipped(score - written, advantage, self.clip), own)

        def miss(parameters: Tree) -> Tensor:
            error = critic.values(spec, parameters, responses) - target
            return mean_over(error * error, own) / 2

        for _ in range(self.epochs):
            state = state._replace(
                policy=improve(state.policy, surrogate, self.rate),
                critic=improve(state.critic, miss, self.value_rate),
            )
        return state


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `[N, B, H]` over what `mask` counts, `[N]`."""
    return (values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`[N, B, H]` with mean 0 and variance 1 over what `mask` counts."""
    centred = values - mean_over(values, mask)[:, None, None]
    spread = mean_over(centred * centred, mask)
    return centred * torch.rsqrt(spread + 1e-8)[:, None, None]
