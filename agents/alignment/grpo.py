"""GRPO: group-relative policy optimisation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.advantages import clipped, group_normalised
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.training import improve
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_choice, check_integer, check_real


@agent("grpo")
@dataclass(frozen=True)
class GRPO(AlignmentAgent):
    """Clipped policy gradient on rewards centred and scaled within the group of each prompt.

    Shao et al. (2024), "DeepSeekMath". As published (`scaled`, "loss") it does
    not maximise reward minus `beta` times divergence: the gradient of its penalty is that of
    `KL(pi_ref || pi)`, and it comes to rest where `pi = beta pi_ref / (c - A)` at every state, with
    `A` the expected advantage of a token and `c` what makes it sum to 1 (Vojnovic and Yun, 2025).
    Unscaled and with the divergence in the "reward" it follows the gradient of RLOO, where
    responses are of one length or `mean` is not "response".

    Raises:
        ValueError: a field outside its range.
    """

    scaled: bool = True  # divide advantages by the standard deviation of their group
    penalty: str = "loss"  # "loss": beta times the k3 estimate; "reward": log-ratio off the reward
    mean: str = "response"  # of token losses: "response" by response, all "tokens", or "constant"
    beta: float = 0.1  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, a multiple of `group`
    group: int = 4  # responses to each prompt, >= 2
    rate: float = 0.05  # step size of Adam, > 0
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    epochs: int = 1  # passes over a batch, >= 1
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("scaled", self.scaled, (True, False))
        check_choice("penalty", self.penalty, ("loss", "reward"))
        check_choice("mean", self.mean, ("response", "tokens", "constant"))
        self.check_group()
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses, `group` in a row to each prompt."""
        return self.respond(spec, state, self.batch, rng, self.group), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """`epochs` steps on the batch."""
        written: Responses = batch.action
        model, known = self.model, self.model.reference(spec, written)
        mask = model.mask(spec, written)
        weight = self.weights(mask)
        with torch.no_grad():
            before = model.score(spec, state.policy.parameters, written)
        reward = self.paid(spec, state, batch)
        if self.penalty == "reward":
            reward = reward - self.beta * (before - known).sum(-1)
        advantage = group_normalised(reward, self.group, self.scaled)[..., None]

        def loss(parameters: Tree) -> Tensor:
            score = model.score(spec, parameters, written)
            each = clipped(score - before, advantage, self.clip)
            if self.penalty == "loss":
                ratio = score - known
                each = each + self.beta * (torch.exp(-ratio) - 1 + ratio)
            return (weight * each).sum((1, 2))

        for _ in range(self.epochs):
            state = state._replace(policy=improve(state.policy, loss, self.rate))
        return state

    def weights(self, mask: Tensor) -> Tensor:
        """Weight of each token's loss `[N, B, H]`: 0 after the end."""
        if self.mean == "response":
            return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * mask.shape[1])
        if self.mean == "tokens":
            return mask / mask.sum((1, 2), keepdim=True).clamp(min=1)
        return mask / (mask.shape[1] * mask.shape[2])
