"""OREO: offline policy and value from one soft Bellman equation."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.advantages import suffix_sum
from rlkit.alignment.agents import Learner
from rlkit.alignment.knowledge import choose_rows, collected, knowledge, rows
from rlkit.alignment.offline import OfflineAgent
from rlkit.alignment.training import Loss, improve
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_choice, check_integer, check_real


class Rounds(NamedTuple):
    """Demonstrations that are written anew."""

    step: Tensor  # [N] int64 steps of learning so far
    reference: Tree  # parameters of the reference; () where it stays the problem's
    shown: Responses  # [N, M]
    outcome: Tensor  # [N, M] their observed rewards


@agent("oreo")
@dataclass(frozen=True)
class OREO(OfflineAgent):
    """Path consistency on demonstrations with a sparse outcome: `V = R - beta sum log(pi / ref)`.

    Wang et al. (2024), "Offline reinforcement learning for LLM multi-step reasoning", equations 8
    and 9. Each step of a response has one residual: tokens (their token level), steps of reasoning
    as the problem marks them (step level) or the response (response level). Rewards count as paid
    at the end. Near the data, `alpha` acts as a further temperature of about `alpha / (2 beta)`.

    Iterated, every `refresh_every` steps the policy stands still until it has written as many
    responses, `responses` a step, as there were demonstrations; these take their place.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.03  # weight of the divergence, > 0
    alpha: float = 0.01  # weight of the divergence at the states of the data, >= 0
    step: int | None = 1  # tokens of a step, >= 1; None: the whole response
    marked: bool = False  # steps begin where the problem says, whatever `step`
    stop_gradient: bool = True  # later log-ratios of a residual are constants
    refresh_every: int | None = None  # steps of a round of demonstrations, >= 1; None: one round
    roll: bool = False  # the reference of a later round is the policy that wrote for it
    batch: int = 128  # demonstrations a step, >= 1
    rate: float = 0.05  # step size of the policy, > 0
    value_rate: float = 0.05  # step size of the value, > 0
    responses: int = 16  # sampled each step, to be looked at or learned from, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False
    source: ClassVar[str] = "demonstrations"
    critical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check()
        check_real("value_rate", self.value_rate, 0, open_low=True)
        check_real("alpha", self.alpha, 0)
        if self.step is not None:
            check_integer("step", self.step, 1)
        if self.refresh_every is not None:
            check_integer("refresh_every", self.refresh_every, 1)
        for name in ("marked", "stop_gradient", "roll"):
            check_choice(name, getattr(self, name), (True, False))

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference, and values of zero.

        Raises:
            ValueError: no demonstrations; more than a round can write anew; marked steps of which
                none begins with the response.
        """
        start = super().initial(spec, rng)
        if self.marked and bool((knowledge(spec).step_start[:, 0] == 0).any()):
            raise ValueError("step_start[:, 0] = 0; accepted: a first step that begins at token 0")
        return start

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """The collected demonstrations, to be replaced later."""
        if self.refresh_every is None:
            return ()
        data = collected(spec, "demonstrations")
        least = self.writing(data.outcome.shape[1])
        if self.refresh_every < least:
            raise ValueError(
                f"refresh_every = {self.refresh_every}; accepted: [{least}, inf), as "
                f"{data.outcome.shape[1]} demonstrations are written {self.responses} a step"
            )
        reference = self.model.start(spec, rng.child("policy")) if self.roll else ()
        return Rounds(torch.zeros_like(rng.replica), reference, data.demonstration, data.outcome)

    def writing(self, count: int) -> int:
        """Steps in which `count` demonstrations are written."""
        return -(-count // self.responses)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on demonstrations, once those of this round are written."""
        if self.refresh_every is None:
            data = collected(spec, "demonstrations")
            return self.fit(spec, state, data.demonstration, data.outcome, rng)
        memory: Rounds = state.memory
        number, place = divmod(int(memory.step[0]), self.refresh_every)  # all replicas agree
        last = self.writing(memory.outcome.shape[1]) - 1
        if number > 0 and place <= last:
            if self.roll and place == 0:
                memory = memory._replace(reference=state.policy.parameters)
            memory = replaced(memory, place * self.responses, batch.action, batch.feedback.reward)
        state = state._replace(memory=memory._replace(step=memory.step + 1))
        if number > 0 and place < last:
            return state
        return self.fit(spec, state, memory.shown, memory.outcome, rng)

    def fit(
        self, spec: Spec, state: Learner, every: Responses, outcome: Tensor, rng: Rng
    ) -> Learner:
        """A step of the value, then one of the policy against the value before it."""
        index = rng.integers("demonstration", outcome.shape[1], self.batch)
        shown, reward = rows(every, index), choose_rows(outcome, index)
        miss, loss = self.errors(spec, state, shown, reward)
        return state._replace(
            critic=improve(state.critic, lambda p: miss(p).mean(1), self.value_rate),
            policy=improve(state.policy, lambda p: loss(p).mean(1), self.rate),
        )

    def errors(
        self, spec: Spec, state: Learner, shown: Responses, reward: Tensor
    ) -> tuple[Loss, Loss]:
        """Losses of value and policy, functions of their parameters, `[N, B]` each.

        Args:
            spec: of a token MDP.
            state: the policy in the target of the value, and the value in that of the policy.
            shown: responses.
            reward: `[N, B]` their outcomes.
        """
        model, critic, reward = self.model, self.critic, reward[..., None]
        first = self.boundaries(spec, shown)
        starts = model.mask(spec, shown) * first[:, None]
        with torch.no_grad():
            known = self.known(spec, state, shown)
            value = critic.values(spec, state.critic.parameters, shown)
            before = model.score(spec, state.policy.parameters, shown) - known
        target = reward - self.beta * suffix_sum(before)

        def miss(parameters: Tree) -> Tensor:
            error = critic.values(spec, parameters, shown) - target
            return per_response(error * error, starts)

        def loss(parameters: Tree) -> Tensor:
            ratio = self.beta * (model.score(spec, parameters, shown) - known)
            residual = value - reward + self.consistency(ratio, first)
            square = per_response(residual * residual, starts)
            return square + self.alpha * self.divergence(spec, state, parameters, shown)

        return miss, loss

    @property
    def rolls(self) -> bool:
        """Whether the reference is another than the problem's."""
        return self.roll and self.refresh_every is not None

    def known(self, spec: Spec, state: Learner, shown: Responses) -> Tensor:
        """Log-probability of each token under the reference, `[N, B, H]`."""
        if self.rolls:
            return self.model.score(spec, state.memory.reference, shown)
        return self.model.reference(spec, shown)

    def boundaries(self, spec: Spec, shown: Responses) -> Tensor:
        """1 where a step begins, `[N, H]`."""
        if self.marked:
            return knowledge(spec).step_start
        n, _, horizon = shown.token.shape
        time = torch.arange(horizon, device=shown.token.device)
        length = horizon if self.step is None else self.step
        return (time % length == 0).to(torch.float64).expand(n, -1)

    def consistency(self, ratio: Tensor, first: Tensor) -> Tensor:
        """Log-ratios of this and all later tokens `[N, B, H]`; those after the step are constants.

        Args:
            ratio: `[N, B, H]`.
            first: `[N, H]` 1 where a step begins; the result is of use there alone.
        """
        total = suffix_sum(ratio)
        if not self.stop_gradient:
            return total
        index = next_boundary(first)[:, None].expand(ratio.shape)
        later = torch.cat([total, torch.zeros_like(total[..., :1])], -1).gather(2, index)
        return total - later + later.detach()

    def divergence(self, spec: Spec, state: Learner, parameters: Tree, shown: Responses) -> Tensor:
        """Mean over tokens of `KL(pi || pi_ref)` at the states of responses, `[N, B]`."""
        mask = self.model.mask(spec, shown)
        if self.alpha == 0:
            return torch.zeros_like(mask[..., 0])
        law = self.model.laws(spec, parameters, shown)
        reference = self.model.reference_laws(spec, shown)
        if self.rolls:
            reference = self.model.laws(spec, state.memory.reference, shown)
        legal = reference > -torch.inf
        # Illegal tokens are taken out before the product: 0 times infinity has no gradient.
        ratio = torch.where(legal, law, 0.0) - torch.where(legal, reference, 0.0)
        return per_response((law.exp() * ratio).sum(-1), mask)


def replaced(memory: Rounds, start: int, written: Responses, reward: Tensor) -> Rounds:
    """The memory with fresh responses from row `start` on, as far as there is room."""
    end = min(start + reward.shape[1], memory.outcome.shape[1])

    def place(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([old[:, :start], new[:, : end - start].to(old.dtype), old[:, end:]], 1)

    shown = Responses(*(place(a, b) for a, b in zip(memory.shown, written, strict=True)))
    return memory._replace(shown=shown, outcome=place(memory.outcome, reward))


def next_boundary(first: Tensor) -> Tensor:
    """The next time after each at which a step begins, `H` where none does; `[N, H]` int64."""
    n, horizon = first.shape
    time = torch.arange(1, horizon, device=first.device)
    end = torch.full((n, 1), horizon, device=first.device)
    begins = torch.cat([torch.where(first[:, 1:] > 0, time, horizon), end], 1)
    return begins.flip(1).cummin(1).values.flip(1)


def per_response(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `[N, B, H]` over what `mask` counts of each response, `[N, B]`."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
