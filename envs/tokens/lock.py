"""TokenLock: only one token at each key step keeps the response alive."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.tokens.sequences import Responses, sample, walk
from rlkit.tokens.task import either
from rlkit.validation import check_integer, check_real

ALIVE, DEAD, DECOY = 0, 1, 2


@problem("TokenLock-v0")
@dataclass(frozen=True)
class TokenLock(TokenProblem):
    """A combination lock: a response pays if every key token is right, which is seen at the end.

    The combination is drawn per replica. The reference writes the right token with probability
    `competence`, each other one alike. With a decoy, first token 0 leads to a small sure reward.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 12  # tokens of a response, >= 1
    vocabulary: int = 6  # number of tokens, >= 2 (3 with a decoy)
    key_every: int = 1  # every such position is a key step, the others are free, >= 1
    competence: float = 0.35  # reference probability of the right token, in (0, 1)
    decoy: float | None = 0.3  # reward after first token 0; None: no decoy
    success: float = 1.0  # reward of a response alive at its end
    failure: float = 0.0  # reward of a dead one
    bernoulli: bool = False  # observe 0 or 1 with these means
    demonstrations: int = 64  # responses collected beforehand, >= 0
    perfect: float = 0.0  # share of demonstrations with every key right, in [0, 1]
    accuracy: float | None = None  # key accuracy of the others, in (0, 1]; None: the reference's
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)
        check_integer("vocabulary", self.vocabulary, 2 if self.decoy is None else 3)
        check_integer("key_every", self.key_every, 1)
        check_real("competence", self.competence, 0, 1, open_low=True, open_high=True)
        bounds = (0, 1) if self.bernoulli else (None, None)
        for name in ("decoy", "success", "failure"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), *bounds)
        check_real("perfect", self.perfect, 0, 1)
        if self.accuracy is not None:
            check_real("accuracy", self.accuracy, 0, 1, open_low=True)
        self.check_collection()

    def combination(self, rng: Rng) -> Tensor:
        """The right token at every position, `[N, H]`; never 0 where there is a decoy."""
        first = 0 if self.decoy is None else 1
        return first + rng.integers("combination", self.vocabulary - first, self.horizon)

    def keys(self) -> Tensor:
        """Which positions are key steps, `[H]` bool."""
        return torch.arange(self.horizon) % self.key_every == 0

    def tokens(self, rng: Rng) -> TokenTask:
        """Three states: alive, dead, and lured away."""
        n, horizon, size, device = rng.n, self.horizon, self.vocabulary, rng.device
        right = self.combination(rng)[..., None] == torch.arange(size, device=device)
        key = self.keys().to(device)[:, None]
        successor = torch.arange(3, device=device)[:, None].repeat(n, horizon, 1, size)
        successor[:, :, ALIVE] = torch.where(right | ~key, ALIVE, DEAD)
        if self.decoy is not None:
            successor[:, 0, ALIVE, 0] = DECOY
        wrong = (1 - self.competence) / (size - 1)
        law = either(right, self.competence, wrong)
        law = torch.where(key, law, torch.full_like(law, 1 / size))
        reference = law.log()[:, :, None].expand(n, horizon, 3, size)
        one = torch.ones(n, 1, dtype=torch.float64, device=device)
        pay = [self.success, self.failure, self.decoy or 0.0]
        final = torch.tensor(pay, dtype=torch.float64, device=device).expand(n, 3)
        origin = torch.zeros(n, 1, dtype=torch.int64, device=device)
        token = torch.zeros((), dtype=torch.float64, device=device).expand(reference.shape)
        sound = (torch.arange(3, device=device) == ALIVE).expand(n, 3)
        automaton = Automaton(one, origin, successor, reference)
        return TokenTask(automaton, Rewards(token, final), sound=sound)

    def demonstrate(self, task: TokenTask, rng: Rng) -> Responses:
        """Responses of the reference, of which some have their keys set right; the rest stays."""
        automaton = task.automaton
        written = sample(automaton, automaton.reference, self.demonstrations, rng.child("shown"))
        keeps = automaton.successor[:, :, ALIVE] == ALIVE
        right = keeps.long().argmax(-1)[:, None].expand(written.token.shape)
        shape = written.token.shape[1:]
        token, key = written.token, self.keys().to(rng.device)
        if self.accuracy is not None:
            hit = rng.uniform("hit", *shape) < self.accuracy
            # A miss is any of the other tokens.
            miss = rng.integers("miss", self.vocabulary - 1, *shape)
            miss = miss + (miss >= right).long()
            token = torch.where(key, torch.where(hit, right, miss), token)
        chosen = rng.uniform("perfect", self.demonstrations) < self.perfect
        token = torch.where(chosen[..., None] & key, right, token)
        return walk(automaton, written.prompt, token)
