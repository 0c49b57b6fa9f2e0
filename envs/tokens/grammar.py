"""TokenGrammar: responses that belong to a language, and those that do not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.tokens.sequences import generate
from rlkit.validation import check_choice, check_integer, check_real

LARGEST = 4096  # states


@problem("TokenGrammar-v0")
@dataclass(frozen=True)
class TokenGrammar(TokenProblem):
    """Reward 1 for a word of the language, which is seen at its end.

    "dyck": balanced brackets of `vocabulary / 2` kinds, nested at most `depth` deep; tokens
    `0 .. V / 2 - 1` open and the others close, in the same order. "regular": the language of a
    uniformly random automaton in which half the states accept. The reference has normal logits in
    each state and writes some word of the language with positive probability.

    Raises:
        ValueError: a field outside its range, a language without words of this length, or more
            than 4096 states.
    """

    language: str = "dyck"  # "dyck" or "regular"
    horizon: int = 6  # tokens of a response, >= 1; even for "dyck"
    vocabulary: int = 4  # number of tokens, >= 2; even for "dyck"
    depth: int = 2  # of nested brackets, >= 1 ("dyck")
    automaton_states: int = 4  # >= 2 ("regular")
    reference_std: float = 1.0  # of the reference's logits, >= 0
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    expert: float = 0.0  # share of demonstrations by the best policy of gold, in [0, 1]
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_choice("language", self.language, ("dyck", "regular"))
        check_integer("horizon", self.horizon, 1)
        check_integer("vocabulary", self.vocabulary, 2)
        check_integer("depth", self.depth, 1, 12)
        check_integer("automaton_states", self.automaton_states, 2)
        check_real("reference_std", self.reference_std, 0)
        self.check_collection()
        for name in ("horizon", "vocabulary"):
            if self.language == "dyck" and getattr(self, name) % 2:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted: even for 'dyck'")
        if self.states > LARGEST:
            raise ValueError(
                f"language = {self.language!r} makes {self.states} states; accepted: at most "
                f"{LARGEST}"
            )

    @property
    def states(self) -> int:
        """Of the automaton; for brackets, every stack and the broken state."""
        if self.language == "regular":
            return self.automaton_states
        kinds = self.vocabulary // 2
        return sum(kinds**length for length in range(self.depth + 1)) + 1

    def tokens(self, rng: Rng) -> TokenTask:
        """The language's own states; for brackets state 0 is the empty stack."""
        n, states, size, device = rng.n, self.states, self.vocabulary, rng.device
        shape = (n, self.horizon, states, size)
        dyck = self.language == "dyck"
        if dyck:
            table = torch.tensor(self.stacks(), device=device).expand(n, states, size)
        else:
            table = rng.integers("successor", states, states, size)
        logits = self.reference_std * rng.normal("reference", states, size, dtype=torch.float64)
        reference = torch.log_softmax(logits, -1)[:, None].expand(shape)
        one = torch.ones(n, 1, dtype=torch.float64, device=device)
        origin = torch.zeros(n, 1, dtype=torch.int64, device=device)
        automaton = Automaton(one, origin, table[:, None].expand(shape), reference)
        state = torch.arange(states, device=device)
        accepts = (state == 0).expand(n, -1) if dyck else self.accepting(automaton, rng)
        token = torch.zeros((), dtype=torch.float64, device=device).expand(shape)
        sound = (state < states - 1).expand(n, -1) if dyck else None
        return TokenTask(automaton, Rewards(token, accepts.double()), sound=sound)

    def accepting(self, automaton: Automaton, rng: Rng) -> Tensor:
        """Half the states at random, and where a response of the reference ends; `[N, Z]` bool."""
        word = generate(automaton, automaton.reference, automaton.origin, rng, name="word")
        state = torch.arange(self.states, device=rng.device)
        return (rng.uniform("accepts", self.states) < 0.5) | (state == word.state[:, 0, -1:])

    def stacks(self) -> list[list[int]]:
        """Successors of every stack, the shorter ones first, and of the broken state."""
        kinds = self.vocabulary // 2
        stacks: list[tuple[int, ...]] = [()]
        for stack in stacks:
            if len(stack) < self.depth:
                stacks += [(*stack, kind) for kind in range(kinds)]
        number = {stack: index for index, stack in enumerate(stacks)}
        broken = len(stacks)
        table = []
        for stack in stacks:
            opened = [number.get((*stack, kind), broken) for kind in range(kinds)]
            closed = [
                number[stack[:-1]] if stack and stack[-1] == kind else broken
                for kind in range(kinds)
            ]
            table.append(opened + closed)
        return [*table, [broken] * self.vocabulary]
