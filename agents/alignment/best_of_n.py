"""Best-of-n: several responses of the reference, of which the best is kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.knowledge import knowledge, rows
from rlkit.alignment.measures import LOOK, look, successes
from rlkit.alignment.selection import (
    best_of,
    best_of_verdicts,
    kl_bound,
    measure_best,
    response_classes,
)
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses, returns, soft_optimum

NOISE = 1e-9  # by how much a reward observed without noise may miss its mean


@agent("best_of_n")
@dataclass(frozen=True)
class BestOfN(AlignmentAgent):
    """Keeps the best of `group` responses by reward; nothing is trained.

    Stiennon et al. (2020). Measured is the law of what is kept: exactly where final states tell the
    score, where token rewards are multiples of 0.01 or responses are few; otherwise from samples,
    with `kl_bound`, `log n - (n - 1) / n`, for the divergence. All responses are scored, kept or
    not.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # responses a step, a multiple of `group`
    group: int = 4  # responses to each prompt, of which one is kept, >= 1
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    rate = 1.0  # nothing is trained

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check_group(1)

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """The fitted reward if there is one, and whether rewards are observed with noise.

        Raises:
            ValueError: no comparisons to fit it to.
        """
        return super().remember(spec, rng), torch.zeros_like(rng.replica, dtype=torch.bool)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses, `group` in a row to each prompt."""
        return self.respond(spec, state, self.batch, rng, self.group), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Note whether observed rewards are their means."""
        if self.reward != "observed":
            return state
        mean = returns(knowledge(spec).proxy, batch.action)
        noisy = ((batch.feedback.reward - mean).abs() > NOISE).any(1)
        return state._replace(memory=(state.memory[0], state.memory[1] | noisy))

    def told(self, spec: Spec, state: Learner) -> Spec:
        """The specification, in which a fitted reward takes the place of the observed one."""
        return super().told(spec, state._replace(memory=state.memory[0]))

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Gold and proxy reward, divergence, its bound, entropy and gap of what is kept, `[N]`."""
        spec = self.told(spec, state)
        known = knowledge(spec)
        bound = torch.full_like(known.rewards.final[:, 0], kl_bound(self.group))
        classes = response_classes(spec, known.proxy)
        if classes is None:
            return {**self.sampled(spec, state, bound), "kl_bound": bound}
        factors, noisy = best_of(classes, self.group), state.memory[1]
        if bool(noisy.any()):
            verdicts = best_of_verdicts(classes, self.group)
            factors = torch.where(noisy[:, None, None], verdicts, factors)
        return {**measure_best(spec, classes, factors, self.beta), "kl_bound": bound}

    def sampled(self, spec: Spec, state: Learner, bound: Tensor) -> dict[str, Tensor]:
        """The same from samples, with the bound `[N]` in place of divergence and gap."""
        known, kept = knowledge(spec), self.samples(spec, state, LOOK)
        gold = returns(known.rewards, kept).mean(1)
        value = soft_optimum(known.automaton, known.rewards, self.beta).value[:, 0]
        law = self.model.reference(spec, kept).sum(-1).mean(1)
        measured = {
            "gold_reward": gold,
            "proxy_reward": returns(known.proxy, kept).mean(1),
            "kl": bound,
            "entropy": -law - bound,
            "gap": (known.automaton.start * value).sum(1) - gold + self.beta * bound,
        }
        if not bool(known.sound.all()):
            end = successes(known).gather(1, kept.state[..., -1])
            measured["success"] = end.double().mean(1)
        return measured

    def samples(self, spec: Spec, state: Learner, count: int) -> Responses:
        """`count` kept responses, to be read; compared by mean reward."""
        spec = self.told(spec, state)
        group = self.group
        asked = look(spec, self.model, state.policy.parameters, state.replica, count).prompt
        rng = Rng(0, "best", state.replica)
        with torch.no_grad():
            written = self.model.write(
                spec, state.policy.parameters, asked.repeat_interleave(group, 1), rng
            )
        score = returns(knowledge(spec).proxy, written).unflatten(1, (-1, group))
        first = torch.arange(count, device=score.device) * group
        return rows(written, first + score.argmax(-1))
