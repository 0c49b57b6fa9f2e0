"""TokenTree: random rewards and a random reference on the tree of all prefixes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.validation import check_choice, check_integer, check_real

LARGEST = 1 << 20  # leaves


@problem("TokenTree-v0")
@dataclass(frozen=True)
class TokenTree(TokenProblem):
    """Normal rewards on leaves or on tokens, a normal-logit reference, drawn per replica.

    Every prefix of every prompt is a state of its own, so that policies are unrestricted.

    Raises:
        ValueError: a field outside its range, or more than 2**20 leaves.
    """

    horizon: int = 3  # tokens of a response, >= 1
    vocabulary: int = 3  # number of tokens, >= 2
    prompts: int = 1  # equally likely prompts, >= 1
    dense: bool = False  # rewards on tokens; False: on whole responses
    reward_std: float = 1.0  # of the rewards, >= 0
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
        check_integer("prompts", self.prompts, 1)
        check_choice("dense", self.dense, (True, False))
        check_real("reward_std", self.reward_std, 0)
        check_real("reference_std", self.reference_std, 0)
        self.check_collection()
        if self.horizon > 20 or self.leaves > LARGEST:
            raise ValueError(
                f"vocabulary = {self.vocabulary}, horizon = {self.horizon}, prompts = "
                f"{self.prompts} make more than {LARGEST} leaves; accepted: a smaller tree"
            )

    @property
    def leaves(self) -> int:
        """Number of responses to all prompts."""
        return self.prompts * self.vocabulary**self.horizon

    def tokens(self, rng: Rng) -> TokenTask:
        """State `prompt * V**H + prefix`, prefixes of one length numbered as in base `V`."""
        n, horizon, size = rng.n, self.horizon, self.vocabulary
        device, width = rng.device, self.vocabulary**self.horizon
        state = torch.arange(self.leaves, device=device)[:, None]
        prefix = state % width
        following = prefix * size + torch.arange(size, device=device)
        # Prefixes longer than the time are never met.
        following = torch.where(following < width, following, prefix)
        successor = (state - prefix + following).expand(n, horizon, self.leaves, size)
        shape = (horizon, self.leaves, size)
        logits = self.reference_std * rng.normal("reference", *shape, dtype=torch.float64)
        reference = torch.log_softmax(logits, -1)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        token, final = zero.expand(n, *shape), zero.expand(n, self.leaves)
        if self.dense:
            token = self.reward_std * rng.normal("reward", *shape, dtype=torch.float64)
        else:
            final = self.reward_std * rng.normal("reward", self.leaves, dtype=torch.float64)
        prompt = torch.full((n, self.prompts), 1 / self.prompts, dtype=torch.float64, device=device)
        origin = (torch.arange(self.prompts, device=device) * width).expand(n, -1)
        automaton = Automaton(prompt, origin, successor, reference)
        return TokenTask(automaton, Rewards(token, final), prompt_tokens=self.words(rng))

    def words(self, rng: Rng) -> Tensor:
        """Number of the prompt in base `V`, `[N, X, P]`, as few digits as tell prompts apart."""
        digits = 0
        while self.vocabulary**digits < self.prompts:
            digits += 1
        place = self.vocabulary ** torch.arange(digits - 1, -1, -1, device=rng.device)
        number = torch.arange(self.prompts, device=rng.device)[:, None]
        return (number // place % self.vocabulary).expand(rng.n, -1, -1)
