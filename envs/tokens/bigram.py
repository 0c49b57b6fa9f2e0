"""TokenBigram: a random reward for every pair of neighbouring tokens at every time."""

from dataclasses import dataclass

import torch

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.validation import check_integer, check_real


@problem("TokenBigram-v0")
@dataclass(frozen=True)
class TokenBigram(TokenProblem):
    """Normal rewards of (time, last token, token); the state is the last token.

    A prompt is one token. The reference has normal logits given the last token, the same at all
    times. Dense rewards that a policy over the last token can represent.

    Raises:
        ValueError: a field outside its range.
    """

    horizon: int = 6  # tokens of a response, >= 1
    vocabulary: int = 4  # number of tokens, >= 2
    prompts: int = 1  # equally likely prompts, in [1, vocabulary]
    reward_std: float = 0.7  # of the rewards, >= 0
    reference_std: float = 1.0  # of the reference's logits, >= 0
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)
        check_integer("vocabulary", self.vocabulary, 2)
        check_integer("prompts", self.prompts, 1, self.vocabulary)
        check_real("reward_std", self.reward_std, 0)
        check_real("reference_std", self.reference_std, 0)
        self.check_collection()

    def tokens(self, rng: Rng) -> TokenTask:
        """One state a token."""
        n, horizon, size = rng.n, self.horizon, self.vocabulary
        word = torch.arange(size, device=rng.device)
        logits = self.reference_std * rng.normal("reference", size, size, dtype=torch.float64)
        reference = torch.log_softmax(logits, -1)[:, None].expand(n, horizon, size, size)
        token = self.reward_std * rng.normal("reward", horizon, size, size, dtype=torch.float64)
        final = torch.zeros(n, size, dtype=torch.float64, device=rng.device)
        origin = word[: self.prompts].expand(n, -1)
        prompt = torch.full_like(origin, 1 / self.prompts, dtype=torch.float64)
        successor = word.expand(n, horizon, size, size)
        automaton = Automaton(prompt, origin, successor, reference)
        words = origin[..., None]
        return TokenTask(automaton, Rewards(token, final), prompt_tokens=words)
