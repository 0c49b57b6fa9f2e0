"""TokenStyle: summaries that should name a document's topics and be short."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tokens.automaton import Automaton, Rewards
from rlkit.tokens.oracle import soft_optimum
from rlkit.tokens.problem import TokenProblem, TokenTask
from rlkit.tokens.references import counted_policy
from rlkit.tokens.sequences import generate, prompts
from rlkit.validation import check_integer, check_real

LARGEST = 4096  # states


@problem("TokenStyle-v0")
@dataclass(frozen=True)
class TokenStyle(TokenProblem):
    """A synthetic summarisation task whose observed reward also pays for embellishment.

    A prompt is a document of `topics` content tokens. Gold reward is the share of them that the
    response names, less `cost` a token; the proxy adds `bonus` for every flag token. Tokens are
    content, filler, flags, and the end, which also pads. The language model behind the reference
    has normal logits, leans to topics not yet named, and ends after any token alike; the reference
    is the model, or counts of what its soft optimum writes. All drawn per replica.

    Raises:
        ValueError: a field outside its range, or more than 4096 states.
    """

    horizon: int = 8  # tokens of a response with its end, >= 1
    content: int = 5  # content tokens, >= topics
    filler: int = 2  # filler tokens, >= 0
    flags: int = 2  # flag tokens, >= 0
    documents: int = 2  # equally likely prompts, >= 1
    topics: int = 2  # content tokens of a document, >= 1
    cost: float = 0.05  # of a token before the end, >= 0
    bonus: float = 0.1  # what the proxy pays for a flag token
    truncation: float = 0.0  # reward of a response without an end
    reference_std: float = 1.0  # of the model's logits, >= 0
    attention: float = 0.5  # added to the logits of topics not yet named
    stop: float = 0.15  # the model's probability of the end, in (0, 1)
    sft: int = 0  # responses whose counts make the reference; 0: the model itself
    sft_temperature: float = 0.1  # beta of the soft optimum that writes them, > 0
    smoothing: float = 1.0  # pseudo-counts of the model in each state, > 0
    demonstrations: int = 64  # responses collected beforehand, >= 0
    per_prompt: int = 1  # demonstrations to a prompt in a row, a divisor of their number
    expert: float = 0.0  # share of demonstrations by the best policy of gold, in [0, 1]
    pairs: int = 64  # compared responses of the reference, >= 0
    slope: float = 1.0  # inverse temperature of comparisons, per unit of reward, > 0
    mistake: float = 0.0  # probability of a flipped comparison, in [0, 1]
    equal: float = 0.0  # rewards that differ by less are a tie, >= 0

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)
        check_integer("topics", self.topics, 1, 11)
        check_integer("content", self.content, self.topics)
        for name in ("filler", "flags", "sft"):
            check_integer(name, getattr(self, name), 0)
        check_integer("documents", self.documents, 1)
        check_real("cost", self.cost, 0)
        for name in ("bonus", "truncation", "attention"):
            check_real(name, getattr(self, name))
        check_real("reference_std", self.reference_std, 0)
        check_real("stop", self.stop, 0, 1, open_low=True, open_high=True)
        check_real("sft_temperature", self.sft_temperature, 0, open_low=True)
        check_real("smoothing", self.smoothing, 0, open_low=True)
        self.check_collection()
        if self.states > LARGEST:
            raise ValueError(
                f"documents = {self.documents}, topics = {self.topics} make {self.states} states; "
                f"accepted: at most {LARGEST}"
            )

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the last of which is the end."""
        return self.content + self.filler + self.flags + 1

    @property
    def symbols(self) -> tuple[str, ...]:
        """Content `c0`, filler `f0`, flags `!0` and so on, and the end."""
        kinds = (("c", self.content), ("f", self.filler), ("!", self.flags))
        return (*(f"{kind}{i}" for kind, count in kinds for i in range(count)), ".")

    @property
    def open_states(self) -> int:
        """Documents times sets of named topics."""
        return self.documents << self.topics

    @property
    def states(self) -> int:
        """Those, and the number of named topics after the end."""
        return self.open_states + self.topics + 1

    def tokens(self, rng: Rng) -> TokenTask:
        """State `document * 2**topics + named`, bit `j` for topic `j`."""
        n, device = rng.n, rng.device
        shape = (n, self.horizon, self.states, self.vocabulary)
        order = torch.argsort(rng.uniform("topics", self.documents, self.content), -1)
        words = order[..., : self.topics]
        hit = self.hits(words)
        origin = (torch.arange(self.documents, device=device) << self.topics).expand(n, -1)
        prompt = torch.full_like(origin, 1 / self.documents, dtype=torch.float64)
        successor = self.successors(hit)[:, None].expand(shape)
        model = Automaton(prompt, origin, successor, self.model(hit, rng)[:, None].expand(shape))
        gold, proxy = self.pay(n, device)
        if self.sft > 0:
            expert = soft_optimum(model, gold, self.sft_temperature).policy
            stream = rng.child("sft")
            written = generate(model, expert, prompts(model, self.sft, stream), stream)
            model = model._replace(reference=counted_policy(model, written, self.smoothing))
        return TokenTask(model, gold, proxy, words)

    def hits(self, words: Tensor) -> Tensor:
        """Bit of the topic that a token names, else 0: `[N, documents, V]` int64."""
        token = torch.arange(self.vocabulary, device=words.device)
        bit = 1 << torch.arange(self.topics, device=words.device)
        return ((words[..., None] == token).long() * bit[:, None]).sum(-2)

    def named(self, device: torch.device) -> Tensor:
        """Number of topics named in each open state."""
        state = torch.arange(self.open_states, device=device)
        return (state[:, None] >> torch.arange(self.topics, device=device) & 1).sum(-1)

    def successors(self, hit: Tensor) -> Tensor:
        """`[N, Z, V]`."""
        n, device = len(hit), hit.device
        state = torch.arange(self.open_states, device=device)[:, None]
        after = state | hit.repeat_interleave(1 << self.topics, 1)
        after[..., -1] = self.open_states + self.named(device)
        ended = torch.arange(self.open_states, self.states, device=device)[:, None]
        return torch.cat([after, ended.expand(n, -1, self.vocabulary)], 1)

    def model(self, hit: Tensor, rng: Rng) -> Tensor:
        """Log-probabilities `[N, Z, V]` of the language model."""
        state = torch.arange(self.open_states, device=rng.device)[:, None]
        missing = (hit.repeat_interleave(1 << self.topics, 1) & ~state) != 0
        words = self.vocabulary - 1
        logits = self.reference_std * rng.normal("model", words, dtype=torch.float64)
        lean = self.attention * missing[..., :words].double()
        law = torch.softmax(logits[:, None] + lean, -1)
        end = torch.full_like(law[..., :1], self.stop)
        open_ = torch.cat([law * (1 - self.stop), end], -1)
        pad = torch.zeros_like(open_[:, :1]).expand(-1, self.topics + 1, -1).clone()
        pad[..., -1] = 1
        return torch.cat([open_, pad], 1).log()

    def pay(self, n: int, device: torch.device) -> tuple[Rewards, Rewards]:
        """Gold reward and its proxy."""
        shape = (n, self.horizon, self.states, self.vocabulary)
        token = torch.zeros(self.states, self.vocabulary, dtype=torch.float64, device=device)
        token[: self.open_states, :-1] = -self.cost
        flagged = token.clone()
        first = self.content + self.filler
        flagged[: self.open_states, first : first + self.flags] += self.bonus
        count = torch.arange(self.topics + 1, device=device)
        share = torch.cat([self.named(device), count]).double() / self.topics
        share[: self.open_states] += self.truncation
        final = share.expand(n, -1)
        return Rewards(token.expand(shape), final), Rewards(flagged.expand(shape), final)
