"""Learning from what was collected beforehand: comparisons, verdicts and demonstrations."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.knowledge import choose_rows, collected, either, join, rows
from rlkit.alignment.losses import Labelled, LabelLoss, PairLoss, Pairs
from rlkit.alignment.training import improve
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses
from rlkit.tokens.problem import Data
from rlkit.validation import check_integer


class OfflineAgent(AlignmentAgent):
    """What agents that learn from collected data share; they add fields and `learn`."""

    # Field of every such agent: responses that are written each step, to be looked at.
    responses: int

    @property
    def source(self) -> str:
        """What it learns from: "pairs", "demonstrations" or their "outcomes"."""
        return "pairs"

    def check(self, least: int = 1) -> None:
        """Refuse shared fields outside their range."""
        super().check(least)
        check_integer("responses", self.responses, 2)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: there is nothing to learn from.
        """
        collected(spec, "pairs" if self.source == "pairs" else "demonstrations")
        return super().initial(spec, rng)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """Responses of the present policy; learning does not use them."""
        return self.respond(spec, state, self.responses, rng), state

    def learn_from_pairs(self, spec: Spec, state: Learner, loss: PairLoss, rng: Rng) -> Learner:
        """A step on comparisons drawn with replacement."""
        data = collected(spec, "pairs")
        index = rng.integers("pair", data.preferred.shape[1], self.batch)
        wins = self.verdicts(choose_rows(data.preferred, index), rng)
        first, second = rows(data.first, index), rows(data.second, index)
        return self.prefer(spec, state, loss, either(wins, first, second),
                           either(wins, second, first))  # fmt: skip

    def verdicts(self, label: Tensor, rng: Rng) -> Tensor:
        """Whether the first response wins, `[N, B]`; of a tie, label 1/2, either alike."""
        return rng.uniform("verdict", label.shape[1], dtype=label.dtype) < label

    def prefer(
        self, spec: Spec, state: Learner, loss: PairLoss, chosen: Responses, rejected: Responses
    ) -> Learner:
        """A step on pairs of a preferred and another response."""
        both, model = join(chosen, rejected), self.model
        known = model.reference(spec, both).sum(-1).chunk(2, 1)
        length = model.mask(spec, both).sum(-1).clamp(min=1).chunk(2, 1)

        def total(parameters: Tree) -> Tensor:
            score = self.score(spec, parameters, both).chunk(2, 1)
            return loss(Pairs(*score, *known, *length)).mean(1)

        return state._replace(policy=improve(state.policy, total, self.rate))

    def learn_from_contrasts(self, spec: Spec, state: Learner, loss: PairLoss, rng: Rng) -> Learner:
        """A step on demonstrations to one prompt of which the first was rewarded more.

        Raises:
            ValueError: a replica without such a pair.
        """
        data = collected(spec, "demonstrations")
        better, worse = draw_contrasts(contrasts(data), self.batch, rng)
        chosen, rejected = (rows(data.demonstration, index) for index in (better, worse))
        return self.prefer(spec, state, loss, chosen, rejected)

    def learn_from_verdicts(self, spec: Spec, state: Learner, loss: LabelLoss, rng: Rng) -> Learner:
        """A step on single responses of comparisons, the preferred ones desirable."""
        data = collected(spec, "pairs")
        index = rng.integers("pair", data.preferred.shape[1], self.batch)
        use_first = rng.integers("side", 2, self.batch) == 0
        shown = either(use_first, rows(data.first, index), rows(data.second, index))
        good = self.verdicts(choose_rows(data.preferred, index), rng)
        return self.judge(spec, state, loss, shown, good == use_first)

    def learn_from_outcomes(
        self, spec: Spec, state: Learner, loss: LabelLoss, least: float, balanced: bool, rng: Rng
    ) -> Learner:
        """A step on demonstrations, desirable if their observed reward is `least` or more.

        Args:
            spec: of a token MDP.
            state: to be improved.
            loss: of single responses.
            least: outcome of a desirable one.
            balanced: draw desirable and other ones equally often, where there are both.
            rng: of the draws "demonstration" and "side".
        """
        data = collected(spec, "demonstrations")
        good = data.outcome >= least
        index = draw_outcomes(good, self.batch, balanced, rng)
        shown = rows(data.demonstration, index)
        return self.judge(spec, state, loss, shown, good.gather(1, index))

    def judge(
        self, spec: Spec, state: Learner, loss: LabelLoss, shown: Responses, desirable: Tensor
    ) -> Learner:
        """A step on responses with a verdict `[N, B]`.

        The baseline estimates the divergence by the mean log-ratio of each response read as an
        answer to its neighbour's prompt, floored at zero.
        """
        model = self.model
        crossed = model.read(spec, shown.prompt, shown.token.roll(1, 1))
        with torch.no_grad():
            ratio = self.log_ratio(spec, state.policy.parameters, crossed).sum(-1)
        ratio = torch.where(torch.isfinite(ratio), ratio, 0.0)  # illegal after the other prompt
        baseline = ratio.mean(1, keepdim=True).clamp(min=0).expand_as(ratio)
        known = model.reference(spec, shown).sum(-1)

        def total(parameters: Tree) -> Tensor:
            score = self.score(spec, parameters, shown)
            return loss(Labelled(score, known, desirable.to(score.dtype), baseline)).mean(1)

        return state._replace(policy=improve(state.policy, total, self.rate))

    def imitate(self, spec: Spec, state: Learner, rng: Rng, least: float | None = None) -> Learner:
        """A step of maximum likelihood on demonstrations drawn with replacement.

        Args:
            spec: of a token MDP.
            state: to be improved.
            rng: of the draw "demonstration".
            least: demonstrations whose observed reward is below this are left out; None: none is.
        """
        data = collected(spec, "demonstrations")
        index = rng.integers("demonstration", data.outcome.shape[1], self.batch)
        shown, outcome = rows(data.demonstration, index), choose_rows(data.outcome, index)
        weight = torch.ones_like(outcome) if least is None else (outcome >= least).to(outcome)
        count = weight.sum(1).clamp(min=1)

        def total(parameters: Tree) -> Tensor:
            return -(weight * self.score(spec, parameters, shown)).sum(1) / count

        return state._replace(policy=improve(state.policy, total, self.rate))


class Contrasts(NamedTuple):
    """Demonstrations in the order of prompt and outcome, and which of them beat which."""

    order: Tensor  # [N, M] int64 demonstrations, by prompt and then by outcome
    start: Tensor  # [N, M] int64 where in the order those begin that each one beats
    beaten: Tensor  # [N, M] int64 how many those are, in a row


def contrasts(data: Data) -> Contrasts:
    """Pairs of demonstrations to one prompt with different outcomes, success against failure."""
    rank = torch.argsort(data.outcome, dim=1, stable=True)
    prompt = data.demonstration.prompt
    order = rank.gather(1, torch.argsort(prompt.gather(1, rank), dim=1, stable=True))
    asked, paid = prompt.gather(1, order), data.outcome.gather(1, order)
    begins = torch.ones_like(asked, dtype=torch.bool)
    new = asked[:, 1:] != asked[:, :-1]
    start = first_of_run(torch.cat([begins[:, :1], new], 1))
    tied = torch.cat([begins[:, :1], new | (paid[:, 1:] != paid[:, :-1])], 1)
    return Contrasts(order, start, first_of_run(tied) - start)


def check_contrasts(data: Data) -> None:
    """Refuse demonstrations of which no two to one prompt differ in outcome.

    Raises:
        ValueError: names the replica.
    """
    empty = (contrasts(data).beaten.sum(1) == 0).nonzero()
    if len(empty):
        raise ValueError(
            f"replica {int(empty[0])}: no two demonstrations to one prompt differ in outcome; "
            f"accepted: one such pair at least"
        )


def first_of_run(begins: Tensor) -> Tensor:
    """Where the run of each place began, `[N, M]` int64; `begins` `[N, M]` marks beginnings."""
    place = torch.arange(begins.shape[1], device=begins.device).expand(begins.shape)
    return torch.where(begins, place, torch.zeros_like(place)).cummax(1).values


def draw_contrasts(pairs: Contrasts, count: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """The better and the worse demonstration of `count` pairs, `[N, count]`, all equally likely."""
    total = pairs.beaten.cumsum(1)
    u = rng.uniform("contrast", count, dtype=torch.float64)
    drawn = (u * total[:, -1:]).long().contiguous()
    better = torch.searchsorted(total, drawn, right=True)
    within = drawn - (total - pairs.beaten).gather(1, better)
    worse = pairs.start.gather(1, better) + within
    return pairs.order.gather(1, better), pairs.order.gather(1, worse)


def draw_outcomes(good: Tensor, count: int, balanced: bool, rng: Rng) -> Tensor:
    """Demonstrations `[N, count]` int64, half of them from `good` `[N, M]` if `balanced`."""
    size = good.shape[1]
    if not balanced:
        return rng.integers("demonstration", size, count)
    wanted = rng.integers("side", 2, count) == 1
    order = torch.argsort(good.long(), dim=1, stable=True)  # the others first
    bad = (~good).sum(1, keepdim=True)
    wanted = torch.where((bad > 0) & (bad < size), wanted, bad == 0)
    low, high = torch.where(wanted, bad, 0), torch.where(wanted, size, bad)
    u = rng.uniform("demonstration", count, dtype=torch.float64)
    return order.gather(1, low + (u * (high - low)).long())
