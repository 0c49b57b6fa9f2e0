"""TokenDoor: a key has to be fetched, token by token, before the door opens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.tokens.task import either
from rlkit.validation import check_choice, check_integer, check_real

LARGEST = 4096  # states


@problem("TokenDoor-v0")
@dataclass(frozen=True)
class TokenDoor(TokenProblem):
    """The last token tries the door: it opens if the tokens of its key were written before.

    Key tokens come in an order drawn per replica and door, and other tokens may stand between
    them. Trying the door too soon ends the response, as success does. The prompt names a door by
    the tokens of its key.

    Raises:
        ValueError: a field outside its range, or more than 4096 states.
    """

    horizon: int = 8  # tokens of a response, > keys
    vocabulary: int = 5  # number of tokens, the last tries the door, >= 2
    keys: int = 3  # tokens of a key, >= 1
    doors: int = 1  # equally likely prompts, >= 1
    forgetful: bool = False  # a token out of order loses what was fetched
    competence: float = 0.35  # reference probability of the next right token, in (0, 1)
    success: float = 1.0  # reward of an open door
    failure: float = 0.0  # reward of a shut one
    bernoulli: bool = False  # observe 0 or 1 with these means
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    expert: float = 0.0  # share of demonstrations by the best policy of gold, in [0, 1]
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("vocabulary", self.vocabulary, 2)
        check_integer("keys", self.keys, 1)
        check_integer("horizon", self.horizon, self.keys + 1)
        check_integer("doors", self.doors, 1)
        check_choice("forgetful", self.forgetful, (True, False))
        check_real("competence", self.competence, 0, 1, open_low=True, open_high=True)
        check_choice("bernoulli", self.bernoulli, (True, False))
        for name in ("success", "failure"):
            check_real(name, getattr(self, name), *((0, 1) if self.bernoulli else (None, None)))
        self.check_collection()
        if self.states > LARGEST:
            raise ValueError(
                f"doors = {self.doors}, keys = {self.keys} make {self.states} states; accepted: "
                f"at most {LARGEST}"
            )

    @property
    def states(self) -> int:
        """Tokens fetched for each door; then open, then shut for good."""
        return self.doors * (self.keys + 1) + 2

    def tokens(self, rng: Rng) -> TokenTask:
        """State `door * (keys + 1) + fetched`."""
        n, size, device = rng.n, self.vocabulary, rng.device
        shape = (n, self.horizon, self.states, size)
        words = rng.integers("key", size - 1, self.doors, self.keys)
        door = torch.full((n, self.doors, 1), size - 1, device=device)
        right = torch.cat([words, door], -1).flatten(1)
        successor, law = self.tables(right)
        origin = (torch.arange(self.doors, device=device) * (self.keys + 1)).expand(n, -1)
        prompt = torch.full_like(origin, 1 / self.doors, dtype=torch.float64)
        final = torch.full((n, self.states), self.failure, dtype=torch.float64, device=device)
        final[:, -2] = self.success
        token = torch.zeros((), dtype=torch.float64, device=device).expand(shape)
        automaton = Automaton(
            prompt, origin, successor[:, None].expand(shape), law.log()[:, None].expand(shape)
        )
        sound = (torch.arange(self.states, device=device) < self.states - 1).expand(n, -1)
        return TokenTask(automaton, Rewards(token, final), prompt_tokens=words, sound=sound)

    def tables(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """Successors and reference probabilities `[N, Z, V]` by the right tokens `[N, Z - 2]`."""
        n, inner = right.shape
        size, device = self.vocabulary, right.device
        state = torch.arange(inner, device=device)[:, None]
        token = torch.arange(size, device=device)
        fetched = state % (self.keys + 1)
        other = state - fetched if self.forgetful else state
        hit = right[..., None] == token
        after = torch.where(hit, state + 1, other.expand(inner, size))
        opens = torch.where(fetched == self.keys, inner, inner + 1)
        after = torch.where(token == size - 1, opens, after)
        ended = torch.arange(inner, inner + 2, device=device)[:, None].expand(n, 2, size)
        wrong = (1 - self.competence) / (size - 1)
        law = either(hit, self.competence, wrong)
        pad = (token == size - 1).double().expand(n, 2, size)
        return torch.cat([after, ended], 1), torch.cat([law, pad], 1)
