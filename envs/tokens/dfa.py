"""TokenDFA: a random automaton whose last state sets the probability of success."""

from dataclasses import dataclass

import torch

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.validation import check_choice, check_integer, check_real

LEAST, MOST = 0.02, 0.98  # probabilities of success are clipped to these


@problem("TokenDFA-v0")
@dataclass(frozen=True)
class TokenDFA(TokenProblem):
    """Uniformly random transitions; success is a coin whose bias depends on the last state.

    Biases are Beta(`alpha`, `beta`), clipped to [0.02, 0.98]. The reference has normal logits in
    each state. All drawn per replica, the same at all times.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 8  # tokens of a response, >= 1
    vocabulary: int = 6  # number of tokens, >= 2
    states: int = 10  # of the automaton, >= 2; responses begin in the first
    reference_std: float = 1.0  # of the reference's logits, >= 0
    alpha: float = 0.6  # of the law of the biases, > 0
    beta: float = 1.4  # of the law of the biases, > 0
    bernoulli: bool = True  # observe success; False: its probability
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)
        check_integer("vocabulary", self.vocabulary, 2)
        check_integer("states", self.states, 2)
        check_real("reference_std", self.reference_std, 0)
        check_real("alpha", self.alpha, 0, open_low=True)
        check_real("beta", self.beta, 0, open_low=True)
        check_choice("bernoulli", self.bernoulli, (True, False))
        self.check_collection()

    def tokens(self, rng: Rng) -> TokenTask:
        """The automaton's own states."""
        n, states, size = rng.n, self.states, self.vocabulary
        shape = (n, self.horizon, states, size)
        successor = rng.integers("successor", states, states, size)[:, None].expand(shape)
        logits = self.reference_std * rng.normal("reference", states, size, dtype=torch.float64)
        reference = torch.log_softmax(logits, -1)[:, None].expand(shape)
        like = torch.ones(n, states, dtype=torch.float64, device=rng.device)
        final = rng.beta("bias", self.alpha * like, self.beta * like).clamp(LEAST, MOST)
        prompt = like[:, :1]
        origin = torch.zeros(n, 1, dtype=torch.int64, device=rng.device)
        token = torch.zeros((), dtype=torch.float64, device=rng.device).expand(shape)
        return TokenTask(Automaton(prompt, origin, successor, reference), Rewards(token, final))
