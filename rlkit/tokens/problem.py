"""Token MDPs as problems: token by token, and as batches of whole responses.

One problem serves two kinds of agents. For one that acts with a token it is a finite MDP whose
states are (time, automaton state). For one that acts with `Responses`, a step is an iteration: the
problem scores the batch and says which of each two neighbours is preferred.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit.preferences import bradley_terry
from rlkit.protocol import Discrete, Instance, Known, Spec, Step
from rlkit.random import Rng
from rlkit.tokens.automaton import Automaton, Rewards, check_automaton
from rlkit.tokens.oracle import following
from rlkit.tokens.sequences import Responses, generate, returns

OPTIMAL = 1e-9  # gap up to which a token or a response counts as optimal


class Data(NamedTuple):
    """What was collected from the reference before the first step."""

    demonstration: Responses  # [N, M] responses
    outcome: Tensor  # [N, M] their observed rewards
    first: Responses  # [N, P] of each pair
    second: Responses  # [N, P], to the same prompts
    preferred: Tensor  # [N, P] 1 where the first is preferred, else 0


class TokenKnowledge(NamedTuple):
    """What a token MDP discloses. `rewards` are for measuring: no agent may learn from them."""

    automaton: Automaton
    rewards: Rewards
    data: Data


class Scores(NamedTuple):
    """Feedback on a batch of responses."""

    reward: Tensor  # [N, B] observed rewards
    preferred: Tensor  # [N, B // 2] 1 where response 2 i is preferred to response 2 i + 1, else 0


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
    reward minus their mean.
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
    def pairs(self) -> int:
        """Comparisons of such responses collected beforehand, >= 0."""
        return 0

    @property
    def slope(self) -> float:
        """Inverse temperature of comparisons, per unit of reward."""
        return 1.0

    @property
    def bernoulli(self) -> bool:
        """Whether the observed reward is 0 or 1, with the gold reward as its mean."""
        return False

    def tokens(self, rng: Rng) -> tuple[Automaton, Rewards]:
        """The tables; leaves lead with `N`, shared ones are expanded views."""
        raise NotImplementedError(f"{type(self).__name__} has no tables")

    def demonstrate(self, automaton: Automaton, rng: Rng) -> Responses:
        """Responses `[N, M]` collected beforehand, from the reference unless overridden."""
        return sample(automaton, automaton.reference, self.demonstrations, rng.child("shown"))

    def instance(self, rng: Rng) -> Instance:
        """Tables, their best continuation, and what was collected beforehand.

        Raises:
            ValueError: tables that are no token MDP; gold rewards outside [0, 1] that are
                observed as 0 or 1.
        """
        automaton, rewards = self.tokens(rng)
        check_automaton(automaton)
        if self.bernoulli:
            check_means(rewards)
        shown = self.demonstrate(automaton, rng)
        first = sample(automaton, automaton.reference, self.pairs, rng.child("first"))
        second = sample(
            automaton, automaton.reference, self.pairs, rng.child("second"), first.prompt
        )
        better = self.compare(rewards, first, second, rng.child("pairs"))
        outcome = self.observed(returns(rewards, shown), rng.child("shown"))
        data = Data(shown, outcome, first, second, better)
        gap, best = gaps(automaton, rewards)
        return Instance(replica=TokenTables(TokenKnowledge(automaton, rewards, data), gap, best))

    def observed(self, gold: Tensor, rng: Rng) -> Tensor:
        """Rewards as agents see them, `[N, B]`."""
        if not self.bernoulli:
            return gold
        u = rng.uniform("outcome", *gold.shape[1:], dtype=gold.dtype)
        return (u < gold).to(gold.dtype)

    def compare(self, rewards: Rewards, first: Responses, second: Responses, rng: Rng) -> Tensor:
        """Labels `[N, P]` of Bradley and Terry: 1 where the first is preferred, else 0."""
        ahead = returns(rewards, first) - returns(rewards, second)
        u = rng.uniform("comparison", *ahead.shape[1:], dtype=ahead.dtype)
        return (u < bradley_terry(ahead, self.slope)).to(ahead.dtype)

    def reset(self, instance: Instance, rng: Rng) -> TokenState:
        """A prompt and an empty response."""
        automaton = instance.replica.knowledge.automaton
        prompt = prompts(automaton, 1, rng)
        zero = torch.zeros_like(rng.replica)
        return TokenState(automaton.origin.gather(1, prompt).squeeze(1), zero)

    def transition(self, instance: Instance, state: TokenState, action: Any, rng: Rng) -> Step:
        """Write a token `[N]`, or score `Responses` `[N, B]`."""
        known = instance.replica.knowledge
        if isinstance(action, Responses):
            return self.scored(known, state, action, rng)
        automaton, rewards = known.automaton, known.rewards
        row = place_of(automaton, state) * automaton.vocabulary + action
        reward = pick(rewards.token, row)
        after = pick(automaton.successor, row)
        time = state.time + 1
        over = time >= automaton.horizon
        ending = self.observed(pick(rewards.final, after)[:, None], rng).squeeze(1)
        reward = reward + torch.where(over, ending, torch.zeros_like(ending))
        # The next observation of a response that is over is its last state once more.
        following = TokenState(after, time.clamp(max=automaton.horizon - 1))
        return Step(following, reward.float(), (~over).float())

    def scored(self, known: TokenKnowledge, state: TokenState, batch: Responses, rng: Rng) -> Step:
        """Feedback on responses; the reward is their mean."""
        seen = self.observed(returns(known.rewards, batch), rng)
        preferred = self.compare(known.rewards, every_other(batch, 0), every_other(batch, 1), rng)
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
            gold = returns(known.rewards, action)
            best = (gold >= tables.best[:, None] - OPTIMAL).float().mean(1)
            return {"regret": tables.best - gold.mean(1), "optimal": best}
        automaton = known.automaton
        gap = pick(tables.gap, place_of(automaton, state) * automaton.vocabulary + action)
        return {"regret": gap, "optimal": (gap <= OPTIMAL).float()}

    def optimal_value(self, instance: Instance) -> Tensor:
        """Best expected reward of a response `[N]`."""
        best: Tensor = instance.replica.best
        return best


def check_means(rewards: Rewards) -> None:
    """Refuse gold rewards that cannot be the mean of an observed 0 or 1."""
    low, high = float(rewards.final.min()), float(rewards.final.max())
    if low < 0 or high > 1 or bool((rewards.token != 0).any()):
        raise ValueError(
            f"bernoulli = True, but final rewards are {low} .. {high} and token rewards up to "
            f"{float(rewards.token.abs().max())}; accepted: final ones in [0, 1] alone"
        )


def prompts(automaton: Automaton, count: int, rng: Rng) -> Tensor:
    """Prompts `[N, count]` int64 from their law."""
    u = rng.uniform("prompt", count, dtype=torch.float64)
    cdf = torch.cumsum(automaton.prompt, 1).double()
    return (u[..., None] * cdf[:, None, -1:] >= cdf[:, None, :-1]).sum(-1)


def sample(
    automaton: Automaton, policy: Tensor, count: int, rng: Rng, prompt: Tensor | None = None
) -> Responses:
    """`count` responses of a policy, to fresh prompts unless given."""
    asked = prompts(automaton, count, rng) if prompt is None else prompt
    return generate(automaton, policy, asked, rng)


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


def gaps(automaton: Automaton, rewards: Rewards) -> tuple[Tensor, Tensor]:
    """Cost of every token against the best continuation `[N, H, Z, V]`, and the best value `[N]`.

    Tokens that the reference never writes are illegal and cost infinitely much.
    """
    value, table = rewards.final, []
    for time in reversed(range(automaton.horizon)):
        q = rewards.token[:, time] + following(automaton, value, time)
        q = torch.where(automaton.reference[:, time] > -torch.inf, q, -torch.inf)
        value = q.amax(-1)
        table.append(value[..., None] - q)
    return torch.stack(table[::-1], 1), (automaton.start * value).sum(1)
