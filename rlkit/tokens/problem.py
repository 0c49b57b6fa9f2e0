"""Token MDPs as problems: token by token, and as batches of whole responses.

One problem serves two kinds of agents. For one that acts with a token it is a finite MDP whose
states are (time, automaton state). For one that acts with `Responses`, a step is an iteration: the
problem scores the batch and says which of each two neighbours is preferred.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit.preferences import Teacher
from rlkit.protocol import Discrete, Instance, Known, Spec, Step
from rlkit.random import Rng
from rlkit.tokens.automaton import Automaton, Rewards, check_automaton, check_rewards
from rlkit.tokens.data import Data as Data
from rlkit.tokens.data import check_data, check_responses
from rlkit.tokens.facade import state_after
from rlkit.tokens.oracle import gaps
from rlkit.tokens.references import best_policy
from rlkit.tokens.sequences import Responses, at_tokens, generate, returns, walk
from rlkit.tokens.sequences import prompts as prompts
from rlkit.tokens.sequences import sample as sample
from rlkit.tokens.task import TokenKnowledge as TokenKnowledge
from rlkit.tokens.task import TokenTask as TokenTask
from rlkit.tokens.task import disclosed
from rlkit.tokens.transcripts import transcripts
from rlkit.validation import check_integer, check_real

TIE = 1e-9  # rewards that differ by less are equal
OPTIMAL = 1e-9  # gap up to which a token or a response counts as optimal


class Scores(NamedTuple):
    """Feedback on a batch of responses."""

    reward: Tensor  # [N, B] observed rewards, from the proxy
    preferred: Tensor  # [N, B // 2] 1 where response 2 i is preferred to 2 i + 1, 0, 1/2 for a tie


class TokenTables(NamedTuple):
    """A drawn token MDP."""

    knowledge: TokenKnowledge
    gap: Tensor  # [N, H, Z, V] best expected reward minus that after the token
    best: Tensor  # [N] best expected reward of a response


class TokenState(NamedTuple):
    """How far a response has come; an agent that acts with responses leaves it as it is."""

    state: Tensor  # [N] int64
    time: Tensor  # [N] int64


class TokenProblem:
    """Everything a token MDP needs beside its tables; inherit and add fields.

    Subclasses set `horizon`, the tokens of a response, and define `tokens`. Regret of a token is
    what it costs against the best continuation; that of a batch of responses is the best expected
    reward minus their mean. Both are of the gold reward. What agents observe, what is compared and
    what came of the demonstrations follows the proxy, which is gold unless a problem says
    otherwise.
    """

    @property
    def horizon(self) -> int:
        """Tokens of a response."""
        raise NotImplementedError(f"{type(self).__name__} has no horizon")

    @property
    def demonstrations(self) -> int:
        """Responses of the reference collected beforehand, >= 0."""
        return 0

    @property
    def expert(self) -> float:
        """Share of demonstrations written by the best policy of the gold reward, in [0, 1]."""
        return 0.0

    @property
    def pairs(self) -> int:
        """Comparisons of such responses collected beforehand, >= 0."""
        return 0

    @property
    def per_prompt(self) -> int:
        """Demonstrations in a row to each prompt, >= 1."""
        return 1

    @property
    def slope(self) -> float:
        """Inverse temperature of comparisons, per unit of reward, > 0; infinite: no errors."""
        return 1.0

    @property
    def mistake(self) -> float:
        """Probability of a flipped label, in [0, 1]."""
        return 0.0

    @property
    def equal(self) -> float:
        """Rewards that differ by less are a tie, label 1/2; >= 0."""
        return 0.0

    @property
    def bernoulli(self) -> bool:
        """Whether the observed reward is 0 or 1, with the gold reward as its mean."""
        return False

    def check_collection(self) -> None:
        """Refuse fields of data and comparisons outside their range."""
        check_integer("demonstrations", self.demonstrations, 0)
        check_integer("per_prompt", self.per_prompt, 1)
        if self.demonstrations % self.per_prompt:
            raise ValueError(
                f"demonstrations = {self.demonstrations}; accepted: multiples of per_prompt = "
                f"{self.per_prompt}"
            )
        check_real("expert", self.expert, 0, 1)
        check_integer("pairs", self.pairs, 0)
        check_real("slope", self.slope, 0, open_low=True, infinite=True)
        check_real("mistake", self.mistake, 0, 1)
        check_real("equal", self.equal, 0)

    def tokens(self, rng: Rng) -> TokenTask:
        """The tables; leaves lead with `N`, shared ones are expanded views."""
        raise NotImplementedError(f"{type(self).__name__} has no tables")

    def asked(self, automaton: Automaton, rng: Rng) -> Tensor:
        """Prompts of the demonstrations `[N, M]`."""
        count = self.demonstrations // self.per_prompt
        return prompts(automaton, count, rng).repeat_interleave(self.per_prompt, 1)

    def demonstrate(self, task: TokenTask, rng: Rng) -> Responses:
        """Responses `[N, M]` collected beforehand, from the reference and the expert."""
        shown, automaton = rng.child("shown"), task.automaton
        asked = self.asked(automaton, shown)
        usual = generate(automaton, automaton.reference, asked, shown)
        if self.expert == 0:
            return usual
        best = best_policy(automaton, task.rewards)
        good = generate(automaton, best, asked, shown, name="expert")
        chosen = rng.uniform("expert", self.demonstrations) < self.expert
        token = torch.where(chosen[..., None], good.token, usual.token)
        return walk(automaton, asked, token)

    def instance(self, rng: Rng) -> Instance:
        """Tables, their best continuation, and what was collected beforehand.

        Raises:
            ValueError: tables that are no token MDP; rewards that are not finite, or outside
                [0, 1] though observed as 0 or 1; demonstrations the reference never writes.
        """
        task = self.tokens(rng)
        automaton, proxy = task.automaton, task.observed
        check_automaton(automaton)
        check_rewards(automaton, task.rewards, "gold")
        check_rewards(automaton, proxy, "proxy")
        if self.bernoulli:
            check_means(proxy)
        known = disclosed(task, self.collect(task, proxy, rng))
        check_data(automaton, known.data)
        gap, best = gaps(automaton, task.rewards)
        return Instance(replica=TokenTables(known, gap, best))

    def collect(self, task: TokenTask, proxy: Rewards, rng: Rng) -> Data:
        """Demonstrations with their outcomes, and pairs of the reference's responses."""
        automaton = task.automaton
        shown = self.demonstrate(task, rng)
        check_responses(automaton, shown, "demonstrations")
        first = sample(automaton, automaton.reference, self.pairs, rng.child("first"))
        second = sample(
            automaton, automaton.reference, self.pairs, rng.child("second"), first.prompt
        )
        better = self.compare(proxy, first, second, rng.child("pairs"))
        outcome = self.observed(returns(proxy, shown), rng.child("shown"))
        return Data(shown, outcome, first, second, better)

    def observed(self, mean: Tensor, rng: Rng) -> Tensor:
        """Rewards as agents see them, `[N, B]`."""
        if not self.bernoulli:
            return mean
        u = rng.uniform("outcome", *mean.shape[1:], dtype=mean.dtype)
        return (u < mean).to(mean.dtype)

    def compare(self, rewards: Rewards, first: Responses, second: Responses, rng: Rng) -> Tensor:
        """Labels `[N, P]` of a Boltzmann teacher: 1 where the first is preferred, 0, 1/2."""
        teacher = Teacher(self.slope, mistake=self.mistake, equal=self.equal)
        ours, theirs = (returns(rewards, batch)[..., None] for batch in (first, second))
        label = teacher.label(theirs, ours, rng)[0]
        if math.isinf(self.slope):  # the limit of large slopes
            tied = (ours - theirs).abs().squeeze(-1) <= TIE
            label = torch.where(tied, torch.full_like(label, 0.5), label)
        return label

    def reset(self, instance: Instance, rng: Rng) -> TokenState:
        """A prompt and an empty response."""
        automaton = instance.replica.knowledge.automaton
        prompt = prompts(automaton, 1, rng)
        zero = torch.zeros_like(rng.replica)
        return TokenState(automaton.origin.gather(1, prompt).squeeze(1), zero)

    def reset_to(
        self, instance: Instance, options: dict[str, Any], usual: TokenState
    ) -> tuple[TokenState, Tensor]:
        """A response begun by `options["prefix"]`, to `options["prompt"]`; and its length `[N]`.

        Raises:
            ValueError: a prompt or prefix from which no response goes on.
        """
        tables: TokenTables = instance.replica
        state, time = state_after(tables.knowledge, options)
        return TokenState(state, time), time

    def action_mask(self, instance: Instance, state: TokenState) -> Tensor:
        """The legal tokens `[N, V]` bool."""
        return legal_tokens(instance.replica.knowledge.automaton, state)

    def transition(self, instance: Instance, state: TokenState, action: Any, rng: Rng) -> Step:
        """Write a token `[N]`, or score `Responses` `[N, B]`.

        An episode ends where only padding could follow. In place of an illegal token the first
        legal one is written.
        """
        known = instance.replica.knowledge
        if isinstance(action, Responses):
            return self.scored(known, state, action, rng)
        automaton, rewards = known.automaton, known.proxy
        token = legal_token(automaton, state, action)
        row, place = torch.arange(len(token), device=token.device), (state.time, state.state, token)
        reward = rewards.token[row, *place]
        after = automaton.successor[row, *place]
        time = state.time + 1
        over = (time >= automaton.horizon) | known.over[row, after]
        ending = self.observed(pick(rewards.final, after)[:, None], rng).squeeze(1)
        reward = reward + torch.where(over, ending, torch.zeros_like(ending))
        # The next observation of a response that is over is its last state once more.
        following = TokenState(after, time.clamp(max=automaton.horizon - 1))
        return Step(following, reward.float(), (~over).float())

    def scored(self, known: TokenKnowledge, state: TokenState, batch: Responses, rng: Rng) -> Step:
        """Feedback on responses; the reward is their mean."""
        seen = self.observed(returns(known.proxy, batch), rng)
        preferred = self.compare(known.proxy, every_other(batch, 0), every_other(batch, 1), rng)
        mean = seen.mean(1).float()
        return Step(state, mean, torch.ones_like(mean), Scores(seen, preferred))

    def observe(self, instance: Instance, state: TokenState) -> Tensor:
        """Time and automaton state as one number `[N]`, `time * Z + state`."""
        return place_of(instance.replica.knowledge.automaton, state)

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses automaton, reference and data."""
        known: TokenKnowledge = instance.replica.knowledge
        size = known.automaton.horizon * known.automaton.states
        return Spec(
            Discrete(size),
            Discrete(known.automaton.vocabulary),
            self.horizon,
            Known(tokens=known),
        )

    def diagnostics(self, instance: Instance, state: TokenState, action: Any) -> dict[str, Tensor]:
        """Regret `[N]`, and the share of optimal tokens or responses."""
        tables: TokenTables = instance.replica
        known = tables.knowledge
        if isinstance(action, Responses):
            lost = at_tokens(tables.gap, action).sum(-1)
            gold = returns(known.rewards, action).mean(1)
            return {"regret": tables.best - gold, "optimal": (lost <= OPTIMAL).float().mean(1)}
        token = legal_token(known.automaton, state, action)
        row = torch.arange(len(token), device=token.device)
        gap = tables.gap[row, state.time, state.state, token]
        return {"regret": gap, "optimal": (gap <= OPTIMAL).float()}

    @property
    def symbols(self) -> tuple[str, ...]:
        """How tokens are written, one string for each; empty: as numbers."""
        return ()

    def transcripts(self, instance: Instance, responses: Responses) -> list[str]:
        """Responses of the first replica as lines `prompt | response | gold reward`."""
        known: TokenKnowledge = instance.replica.knowledge
        numbers = [str(token) for token in range(known.automaton.vocabulary)]
        return transcripts(known, responses, self.symbols or numbers)

    def optimal_value(self, instance: Instance) -> Tensor:
        """Best expected reward of a response `[N]`."""
        best: Tensor = instance.replica.best
        return best


def check_means(rewards: Rewards) -> None:
    """Refuse rewards that cannot be the mean of an observed 0 or 1."""
    low, high = float(rewards.final.min()), float(rewards.final.max())
    if low < 0 or high > 1 or bool((rewards.token != 0).any()):
        raise ValueError(
            f"bernoulli = True, but final rewards are {low} .. {high} and token rewards up to "
            f"{float(rewards.token.abs().max())}; accepted: final ones in [0, 1] alone"
        )


def legal_tokens(automaton: Automaton, state: TokenState) -> Tensor:
    """Tokens that the reference may write, `[N, V]` bool."""
    row = torch.arange(len(state.time), device=state.time.device)
    return automaton.reference[row, state.time, state.state] > -torch.inf


def legal_token(automaton: Automaton, state: TokenState, token: Tensor) -> Tensor:
    """`token` `[N]`, or the first legal one where it is illegal."""
    law = legal_tokens(automaton, state)
    legal = law.gather(1, token[:, None]).squeeze(1)
    return torch.where(legal, token, law.to(torch.int8).argmax(1))


def every_other(batch: Responses, first: int) -> Responses:
    """Responses `first`, `first + 2`, ... of as many pairs as there are."""
    end = batch.prompt.shape[1] // 2 * 2
    return Responses(*(leaf[:, first:end:2] for leaf in batch))


def place_of(automaton: Automaton, state: TokenState) -> Tensor:
    """`time * Z + state`, `[N]`."""
    return state.time * automaton.states + state.state


def pick(table: Tensor, index: Tensor) -> Tensor:
    """`table` `[N, ...]`, its rest flattened, at `index` `[N]`."""
    return table.flatten(1).gather(1, index[:, None]).squeeze(1)
