"""PRIME: policy gradient on outcomes and on process rewards that outcomes train online."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rlkit.alignment.advantages import STD_FLOOR, clipped, group_normalised, leave_one_out
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.knowledge import choose_rows, collected, knowledge, rows
from rlkit.alignment.losses import CE, Labelled
from rlkit.alignment.process_rewards import (
    check_labelled_problem,
    check_outcomes,
    discounted,
    largest_return,
    leave_one_out_tokens,
    prompts_to_keep,
    released_leave_one_out,
    token_means,
)
from rlkit.alignment.proximal import at_the_end, mean_over, whiten
from rlkit.alignment.training import Trained, improve, start_training
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses, log_probability, soft_optimum
from rlkit.validation import check_choice, check_integer, check_real

PROCESSES = ("online", "frozen", "optimum", "none")
BASES = ("rloo", "grpo", "reinforce")


class Prime(NamedTuple):
    """What PRIME keeps beside its policy."""

    reward: Trained  # the policy whose log-ratio is the process reward
    kept: Tensor  # [N] share of prompts that the last step learned from
    empty: Tensor  # [N] steps that learned nothing, for no prompt was kept


@agent("prime")
@dataclass(frozen=True)
class PRIME(AlignmentAgent):
    """Group advantages of outcomes plus those of implicit process rewards; no divergence term.

    Cui et al. (2025), "Process reinforcement through implicit rewards", Algorithm 1. Prompts whose
    share of successes is outside `[low, high]` are left out. With `released`, advantages are those
    of the authors' code: process rewards without `beta`, scaled by their largest sum, a token in
    its own baseline, and the total whitened.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.05  # coefficient of the log-ratio in the reward, > 0
    batch: int = 64  # responses a step, a multiple of `group`
    group: int = 4  # responses to each prompt, >= 2
    rate: float = 0.05  # step size of the policy, > 0
    reward_rate: float = 0.05  # step size of the reward, > 0
    weight: float = 1.0  # of process rewards, >= 0
    process: str = "online"  # rewards: "online", "frozen", "optimum" (of the gold reward), "none"
    pretraining: int = 500  # steps on demonstrations of a frozen reward, >= 1
    basis: str = "rloo"  # advantages: "rloo", "grpo" or "reinforce"
    released: bool = False  # advantages as in the released code, for "rloo" alone
    after: bool = True  # score before the reward's step, not after it
    discount: float = 1.0  # of process rewards, in [0, 1]
    low: float = 0.2  # least share of successes of a prompt that is kept, in [0, 1]
    high: float = 0.8  # largest, in [low, 1]
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    epochs: int = 1  # passes over a batch, >= 1
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_group()
        check_real("reward_rate", self.reward_rate, 0, open_low=True)
        check_real("weight", self.weight, 0)
        check_choice("process", self.process, PROCESSES)
        check_integer("pretraining", self.pretraining, 1)
        check_choice("basis", self.basis, BASES)
        for name in ("released", "after"):
            check_choice(name, getattr(self, name), (True, False))
        if self.released and self.basis != "rloo":
            raise ValueError(f"released with basis = {self.basis!r}; accepted: basis = 'rloo'")
        check_real("discount", self.discount, 0, 1)
        check_real("low", self.low, 0, 1)
        check_real("high", self.high, self.low, 1)
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """Policy and reward at the reference, or a reward trained on demonstrations.

        Raises:
            ValueError: the problem's outcomes are not 0 or 1; a frozen reward without
                demonstrations.
        """
        check_labelled_problem(spec)
        return super().initial(spec, rng)

    def remember(self, spec: Spec, rng: Rng) -> Prime:
        """The reward, and no step yet."""
        reward = start_training(self.model.start(spec, rng.child("reward")))
        if self.process == "frozen":
            data = collected(spec, "demonstrations")
            size, shape = data.outcome.shape[1], (self.pretraining, self.batch)
            for index in rng.integers("demonstration", size, *shape).unbind(1):
                shown, label = rows(data.demonstration, index), choose_rows(data.outcome, index)
                reward = self.classify(spec, reward, shown, label, torch.ones_like(label))
        zero = torch.zeros_like(knowledge(spec).automaton.prompt[:, 0])
        return Prime(reward, zero, zero)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses, `group` in a row to each prompt."""
        return self.respond(spec, state, self.batch, rng, self.group), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step of the reward, `epochs` of the policy; nothing where no prompt is kept.

        Raises:
            ValueError: an outcome that is neither 0 nor 1.
        """
        written: Responses = batch.action
        outcome = batch.feedback.reward
        check_outcomes(outcome)
        kept = prompts_to_keep(outcome, self.group, self.low, self.high)
        memory: Prime = state.memory
        reward = memory.reward
        if self.process == "online":
            reward = self.classify(spec, reward, written, outcome, kept)
        scorer = memory.reward if self.after else reward
        process = self.process_reward(spec, scorer, written)
        mask = self.model.mask(spec, written) * kept[..., None]
        advantage = self.advantage(process, outcome, mask)
        policy = self.ascend(spec, state.policy, written, advantage, mask)
        some = kept.any(1)
        return state._replace(
            policy=where(some, policy, state.policy),
            memory=Prime(
                where(some, reward, memory.reward),
                kept.mean(1),
                memory.empty + (~some).to(memory.empty.dtype),
            ),
        )

    def classify(
        self, spec: Spec, reward: Trained, shown: Responses, label: Tensor, kept: Tensor
    ) -> Trained:
        """A step of cross-entropy of the reward on the responses that are kept."""
        known, loss = self.model.reference(spec, shown).sum(-1), CE(self.beta)
        count = kept.sum(1).clamp(min=1)

        def total(parameters: Tree) -> Tensor:
            score = self.score(spec, parameters, shown)
            return (kept * loss(Labelled(score, known, label, label))).sum(1) / count

        return improve(reward, total, self.reward_rate)

    def process_reward(self, spec: Spec, reward: Trained, written: Responses) -> Tensor:
        """`beta log(psi / pi_ref)` of each token, `[N, B, H]`."""
        if self.process == "none":
            return torch.zeros(
                written.token.shape, dtype=torch.float64, device=written.token.device
            )
        with torch.no_grad():
            if self.process != "optimum":
                return self.beta * self.log_ratio(spec, reward.parameters, written)
            known = knowledge(spec)
            best = soft_optimum(known.automaton, known.rewards, self.beta).policy
            return self.beta * (
                log_probability(best, written) - log_probability(known.automaton.reference, written)
            )

    def advantage(self, process: Tensor, outcome: Tensor, mask: Tensor) -> Tensor:
        """Advantages of tokens `[N, B, H]`.

        Args:
            process: `[N, B, H]` process rewards.
            outcome: `[N, B]` 0 or 1.
            mask: `[N, B, H]` 1 for tokens that count.
        """
        if self.released:
            return self.released_advantage(process, outcome, mask)
        process = self.weight * process * mask
        if self.basis == "rloo":
            tokens = leave_one_out_tokens(process, mask, self.group)
            whole = leave_one_out(outcome, self.group)
        elif self.basis == "grpo":
            mean = token_means(process, mask, self.group)
            centred = process.unflatten(1, (-1, self.group)) - mean.mean(2, keepdim=True)
            scale = mean.std(2, keepdim=True) + STD_FLOOR
            tokens, whole = (centred / scale).flatten(1, 2), group_normalised(outcome, self.group)
        else:
            tokens, whole = process, outcome
        return (discounted(tokens * mask, self.discount) + whole[..., None]) * mask

    def released_advantage(self, process: Tensor, outcome: Tensor, mask: Tensor) -> Tensor:
        """The same as in the authors' code, `[N, B, H]`; its scaling takes `beta` out."""
        scaled = self.weight * process * mask / largest_return(process, mask)
        tokens = released_leave_one_out(scaled, mask, self.group)
        end = (mask > 0).to(outcome.dtype)
        paid = at_the_end(end, leave_one_out(outcome, self.group))
        return whiten(discounted(tokens, self.discount) + discounted(paid, 1.0), mask) * mask

    def ascend(
        self, spec: Spec, policy: Trained, written: Responses, advantage: Tensor, mask: Tensor
    ) -> Trained:
        """`epochs` steps of the clipped surrogate."""
        with torch.no_grad():
            before = self.model.score(spec, policy.parameters, written)

        def surrogate(parameters: Tree) -> Tensor:
            ratio = self.model.score(spec, parameters, written) - before
            return mean_over(clipped(ratio, advantage, self.clip), mask)

        for _ in range(self.epochs):
            policy = improve(policy, surrogate, self.rate)
        return policy

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """The usual, and how much the filter keeps: of the last step, and steps with nothing."""
        memory: Prime = state.memory
        own = {"kept": memory.kept, "empty": memory.empty}
        return super().diagnostics(spec, state) | own


def where(condition: Tensor, after: Tree, before: Tree) -> Tree:
    """`after` in the replicas where `condition` `[N]` holds, else `before`, leaf by leaf."""

    def pick(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(condition.reshape(-1, *[1] * (new.dim() - 1)), new, old)

    return tree_map(pick, after, before)
