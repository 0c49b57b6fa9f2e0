"""Implicit process rewards: a policy trained on outcomes rewards every token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.agents import Learner
from rlkit.alignment.knowledge import choose_rows, collected, knowledge, rows
from rlkit.alignment.losses import CE, DPO, KTO, NCA, Labelled, LossClass
from rlkit.alignment.offline import OfflineAgent, check_contrasts
from rlkit.alignment.process_rewards import (
    along,
    check_labelled_problem,
    elected,
    expected_outcome,
    first_mistake,
    found,
    least,
    outcome_head,
    pick_best,
    step_values,
)
from rlkit.alignment.training import Trained, improve, start_training
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses, generate, returns
from rlkit.tokens.sequences import prompts
from rlkit.validation import check_choice, check_integer

LOSSES: dict[str, LossClass] = {"ce": CE, "dpo": DPO, "kto": KTO, "nca": NCA}


@agent("implicit_prm")
@dataclass(frozen=True)
class ImplicitPRM(OfflineAgent):
    """Trains a log-ratio on outcomes of demonstrations, 0 or 1; its terms are process rewards.

    Yuan et al. (2024), "Free process rewards without process labels". Scores of responses choose
    the best of several that the reference writes, beside other scorers: an outcome model (a
    scalar for each last state), exact labels of Math-Shepherd, votes, and the best there is.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.05  # coefficient of the log-ratio, > 0
    loss: str = "ce"  # on outcomes "ce" or "kto", on pairs of success and failure "dpo" or "nca"
    bias: bool = False  # a free logit for each prompt beside the log-ratio, for "ce" alone
    batch: int = 64  # demonstrations a step, >= 1
    rate: float = 0.05  # step size of Adam, > 0
    best_of: int = 16  # responses of the reference of which the best is chosen, >= 2
    groups: int = 8  # such choices at each record, >= 1
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("bias", self.bias, (True, False))
        if self.bias and self.loss != "ce":
            raise ValueError(f"bias = True with loss = {self.loss!r}; accepted: loss = 'ce'")
        check_integer("best_of", self.best_of, 2)
        check_integer("groups", self.groups, 1)
        self.check()

    @property
    def source(self) -> str:
        """Outcomes of demonstrations."""
        return "outcomes"

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference, whose rewards are all 0.

        Raises:
            ValueError: there are no demonstrations, an outcome is neither 0 nor 1, or a loss of
                pairs has no success beside a failure.
        """
        check_labelled_problem(spec)
        state = super().initial(spec, rng)
        if LOSSES[self.loss].needs == "pairs":
            check_contrasts(collected(spec, "demonstrations"))
        return state

    def remember(self, spec: Spec, rng: Rng) -> Trained:
        """The bias of each prompt, 0."""
        return start_training(torch.zeros_like(knowledge(spec).automaton.prompt))

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on demonstrations and their outcomes, drawn with replacement."""
        loss = LOSSES[self.loss](self.beta)
        if loss.needs == "pairs":
            return self.learn_from_contrasts(spec, state, loss, rng)
        if self.loss == "kto":
            return self.learn_from_outcomes(spec, state, loss, 0.5, False, rng)
        data = collected(spec, "demonstrations")
        index = rng.integers("demonstration", data.outcome.shape[1], self.batch)
        shown, label = rows(data.demonstration, index), choose_rows(data.outcome, index)
        return self.classify(spec, state, loss, shown, label)

    def classify(
        self, spec: Spec, state: Learner, loss: CE, shown: Responses, label: Tensor
    ) -> Learner:
        """A step of cross-entropy on log-ratios, and of their bias if there is one."""
        known = self.model.reference(spec, shown).sum(-1)
        zero = torch.zeros_like(label)

        def total(parameters: Tree, bias: Tensor) -> Tensor:
            batch = Labelled(self.score(spec, parameters, shown), known, label, zero)
            return loss(batch, bias.gather(1, shown.prompt)).mean(1)

        fixed, bias = state.policy.parameters, state.memory.parameters
        memory = state.memory
        if self.bias:
            memory = improve(memory, lambda free: total(fixed, free), self.rate)
        policy = improve(state.policy, lambda free: total(free, bias), self.rate)
        return state._replace(policy=policy, memory=memory)

    def rewards(self, spec: Spec, state: Learner, responses: Responses) -> Tensor:
        """Process rewards `beta log(psi / pi_ref)` of tokens, `[N, B, H]`."""
        with torch.no_grad():
            return self.beta * self.log_ratio(spec, state.policy.parameters, responses)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Mean gold reward of what each scorer chooses, blame and confidence, all `[N]`.

        `best_*` are gold rewards of the best of `best_of`; `found` is the share of first mistakes
        with the least process reward, `found_unlikely` that of the least likely step; `sure_right`
        and `sure_wrong` are the mean predicted probability of success of sound responses and of
        the others.
        """
        known, model = knowledge(spec), self.model
        rng = Rng(1, "look", state.replica)
        asked = prompts(known.automaton, self.groups, rng).repeat_interleave(self.best_of, 1)
        written = generate(known.automaton, known.automaton.reference, asked, rng)
        mask, start = model.mask(spec, written), known.step_start
        value, there = step_values(self.rewards(spec, state, written), mask, start)
        logit = value.sum(-1) + state.memory.parameters.gather(1, asked)
        likely, _ = step_values(model.reference(spec, written), mask, start)
        place, made = first_mistake(known.sound, written)
        step = (start.to(torch.int64).cumsum(-1) - 1).clamp(min=0)
        place = step[:, None].expand(value.shape).gather(-1, place[..., None]).squeeze(-1)
        sure = 1 / (1 + torch.exp(-logit))
        return super().diagnostics(spec, state) | {
            **self.chosen(spec, written, value, there, sure),
            "found": found(value, there, place, made),
            "found_unlikely": found(likely, there, place, made),
            "sure_right": (sure * ~made).sum(1) / (~made).sum(1).clamp(min=1),
            "sure_wrong": (sure * made).sum(1) / made.sum(1).clamp(min=1),
        }

    def chosen(
        self, spec: Spec, written: Responses, value: Tensor, there: Tensor, sure: Tensor
    ) -> dict[str, Tensor]:
        """Mean gold reward `[N]` of the response that each scorer chooses."""
        known = knowledge(spec)
        gold, end = returns(known.rewards, written), written.state[..., -1]
        completions = along(expected_outcome(known.automaton, known.proxy), written)
        head = outcome_head(known.data, known.automaton.states)
        scores = {
            "sum": value.sum(-1),
            "min": least(value, there),
            "min_accumulated": least(value.cumsum(-1), there),
            "outcome_model": head.gather(1, end),
            "completions": completions.amin(-1),
            "possible": gold,
        }
        best = {f"best_{name}": pick_best(x, gold, self.best_of) for name, x in scores.items()}
        votes = {"vote": torch.ones_like(gold), "weighted_vote": sure}
        polls = {f"best_{n}": elected(end, w, gold, self.best_of) for n, w in votes.items()}
        return best | polls | {"best_random": gold.mean(1)}
