"""TokenChain: a chain of arithmetic modulo m, written step by step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.tokens.task import either
from rlkit.validation import check_choice, check_integer, check_real

FORMS = {
    "full": ("operation", "operand", "result", "end"),
    "short": ("result", "end"),
    "bare": ("result",),
}
LARGEST = 4096  # states


class Program(NamedTuple):
    """The steps that prompts ask for, `[N, K, n]` each."""

    times: Tensor  # bool: multiply; else add
    operand: Tensor  # int64
    after: Tensor  # [N, K, n, m] int64 result of each value


@problem("TokenChain-v0")
@dataclass(frozen=True)
class TokenChain(TokenProblem):
    """A prompt gives a start value and operations; each step writes the next result.

    A result is right if it follows from the one written before; the response succeeds if the last
    result is the true one, so that a mistake before a multiplication that is not one-to-one may
    be made good. A token of the wrong kind or a miscopied operation breaks the response for good.
    Tokens are the values, then `+`, `*` and the end of a step. Operations are drawn per replica.

    Raises:
        ValueError: a field outside its range, or more than 4096 states.
    """

    modulus: int = 4  # values are 0 .. modulus - 1, >= 2
    steps: int = 3  # operations, >= 1
    form: str = "full"  # a step is "full": + 3 1 ; "short": 1 ; "bare": 1
    programs: int = 1  # lists of operations that prompts choose from, >= 1
    competence: float = 0.6  # reference probability of the right value among values, in (0, 1)
    fluency: float = 0.98  # reference probability of the right kind of token, in (0, 1)
    success: float = 1.0  # reward if the last result is true
    failure: float = 0.0  # reward if not
    bernoulli: bool = False  # observe 0 or 1 with these means
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    expert: float = 0.0  # share of demonstrations by the best policy of gold, in [0, 1]
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("modulus", self.modulus, 2)
        check_integer("steps", self.steps, 1)
        check_choice("form", self.form, FORMS)
        check_integer("programs", self.programs, 1)
        for name in ("competence", "fluency"):
            check_real(name, getattr(self, name), 0, 1, open_low=True, open_high=True)
        check_choice("bernoulli", self.bernoulli, (True, False))
        for name in ("success", "failure"):
            check_real(name, getattr(self, name), *((0, 1) if self.bernoulli else (None, None)))
        self.check_collection()
        if self.states > LARGEST:
            raise ValueError(
                f"modulus = {self.modulus}, programs = {self.programs} make {self.states} states; "
                f"accepted: at most {LARGEST}"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """Kinds of the tokens of a step."""
        return FORMS[self.form]

    @property
    def horizon(self) -> int:
        """Tokens of a response."""
        return self.steps * len(self.slots)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.modulus + 3

    @property
    def symbols(self) -> tuple[str, ...]:
        """Values, operations, and the end of a step."""
        return (*map(str, range(self.modulus)), "+", "*", ";")

    @property
    def states(self) -> int:
        """Program, true value, written value and whether all is right; and the broken state."""
        return 2 * self.programs * self.modulus**2 + 1

    def draw(self, rng: Rng) -> Program:
        """The operations; factors are not zero."""
        shape, m = (self.programs, self.steps), self.modulus
        times = rng.integers("operation", 2, *shape) == 1
        factor = 1 + rng.integers("factor", m - 1, *shape)
        operand = torch.where(times, factor, rng.integers("summand", m, *shape))
        value, by = torch.arange(m, device=rng.device), operand[..., None]
        after = torch.where(times[..., None], value * by, value + by) % m
        return Program(times, operand, after)

    def tokens(self, rng: Rng) -> TokenTask:
        """State `((program * m + true) * m + written) * 2 + clean`; the last one is broken."""
        n, m, device = rng.n, self.modulus, rng.device
        program = self.draw(rng)
        state = torch.arange(self.states - 1, device=device)
        clean, written, true = state % 2, state // 2 % m, state // (2 * m) % m
        which = state // (2 * m * m)
        after = program.after[:, which].transpose(1, 2)  # [N, n, Z - 1, m]
        truth, right = (column(after, value) for value in (true, written))
        kinds = {
            "operation": m + program.times.long()[:, which].transpose(1, 2),
            "operand": program.operand[:, which].transpose(1, 2),
            "result": right,
            "end": torch.full_like(right, m + 2),
        }
        block = (which * m + truth) * m
        slots = [self.slot(slot, kinds[slot], block, clean) for slot in self.slots]
        tables = zip(*slots, strict=True)
        successor, law = (torch.stack(leaves, 2).flatten(1, 2) for leaves in tables)
        start = torch.arange(m, device=device)
        first = torch.arange(self.programs, device=device)[:, None] * m + start
        origin = ((first * m + start) * 2 + 1).flatten().expand(n, -1)
        prompt = torch.full_like(origin, 1 / origin.shape[1], dtype=torch.float64)
        true_now = either(written == true, self.success, self.failure)
        final = torch.cat([true_now, true_now.new_full((1,), self.failure)]).expand(n, -1)
        token = torch.zeros((), dtype=torch.float64, device=device).expand(law.shape)
        sound = torch.cat([clean == 1, torch.zeros_like(clean[:1], dtype=torch.bool)])
        automaton = Automaton(prompt, origin, successor, law.log())
        return TokenTask(
            automaton,
            Rewards(token, final),
            prompt_tokens=self.words(program),
            step_start=self.starts(rng),
            sound=sound.expand(n, -1),
        )

    def slot(self, kind: str, right: Tensor, block: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Successors and probabilities `[N, n, Z, V]` of a kind of token.

        Args:
            kind: of the token.
            right: the right token `[N, n, Z - 1]`.
            block: program and true value after a result `[N, n, Z - 1]`, times `m`.
            clean: whether all was right before, `[Z - 1]`.
        """
        m, size = self.modulus, self.vocabulary
        token = torch.arange(size, device=right.device)
        hit, value = right[..., None] == token, token < m
        broken = self.states - 1
        if kind == "result":
            fresh = (block[..., None] + token) * 2 + (clean[:, None] * hit)
            after = torch.where(value, fresh, broken)
            other = self.fluency * (1 - self.competence) / (m - 1)
            law = either(value, other, (1 - self.fluency) / 3)
            right_law = torch.full_like(law, self.fluency * self.competence)
            law = torch.where(hit, right_law, law)
        else:
            state = torch.arange(broken, device=right.device)[:, None]
            after = torch.where(hit, state, broken)
            law = either(hit, self.fluency, (1 - self.fluency) / (size - 1))
        stuck = torch.full_like(after[:, :, :1], broken)
        even = torch.full_like(law[:, :, :1], 1 / size)
        return torch.cat([after, stuck], 2), torch.cat([law, even], 2)

    def words(self, program: Program) -> Tensor:
        """Start value, then operation and operand of every step, `[N, X, 1 + 2 n]`."""
        m, n = self.modulus, len(program.times)
        step = torch.stack([m + program.times.long(), program.operand], -1).flatten(2)
        start = torch.arange(m, device=step.device)[:, None].expand(n, self.programs, m, 1)
        asked = step[:, :, None].expand(-1, -1, m, -1)
        return torch.cat([start, asked], -1).flatten(1, 2)

    def starts(self, rng: Rng) -> Tensor:
        """1 where a step begins, `[N, H]`."""
        time = torch.arange(self.horizon, device=rng.device)
        return (time % len(self.slots) == 0).double().expand(rng.n, -1)


def column(after: Tensor, value: Tensor) -> Tensor:
    """`after` `[N, n, Z, m]` at a value of each state `[Z]`, `[N, n, Z]`."""
    index = value[:, None].expand(*after.shape[:2], -1, 1)
    return after.gather(-1, index).squeeze(-1)
