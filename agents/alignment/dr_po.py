"""DR-PO: policy optimisation whose episodes start from states of the demonstrations."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.agents import Learner
from rlkit.alignment.knowledge import knowledge, places, rows
from rlkit.alignment.proximal import ProximalAgent
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.tokens.problem import prompts
from rlkit.validation import check_choice, check_real


@agent("dr_po")
@dataclass(frozen=True)
class DRPO(ProximalAgent):
    """PPO in which a share of the responses continues prefixes of demonstrations.

    Chang et al. (2024), "Dataset reset policy optimization for RLHF", Algorithm 1 with PPO as its
    policy optimiser. The length of a prefix is uniform on `0 .. T - 1`, with `T` the tokens of the
    demonstration up to its end, so that there is a token left to write. The released code never
    draws 0, so that with a share of 1 the first token is not trained at all: `official_lengths`.

    Raises:
        ValueError: a field outside its range.
    """

    share: float = 0.5  # of responses that start from a demonstration, in [0, 1]
    official_lengths: bool = False  # prefixes of 1 .. T - 1 tokens, as released; 1 where T is 1
    beta: float = 0.05  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, >= 2
    rate: float = 0.05  # step size of the policy, > 0
    value_rate: float = 0.05  # step size of the critic, > 0
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    epochs: int = 4  # passes over a batch, >= 1
    trace: float = 0.95  # lambda of the advantage estimates, in [0, 1]
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("share", self.share, 0, 1)
        check_choice("official_lengths", self.official_lengths, (True, False))
        self.check()

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference, and values of zero.

        Raises:
            ValueError: no demonstrations to start from, or one-token responses with
                `official_lengths`.
        """
        known = knowledge(spec)
        if self.share > 0 and known.data.outcome.shape[1] == 0:
            raise ValueError(
                f"share = {self.share} without demonstrations to reset to; accepted: 0"
            )
        if self.official_lengths and known.automaton.horizon < 2:
            raise ValueError("official_lengths = True; accepted: responses of two tokens or more")
        return super().initial(spec, rng)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses, some of them begun by a demonstration."""
        if self.share == 0:
            return super().act(spec, state, observation, rng)
        known = knowledge(spec)
        asked = prompts(known.automaton, self.batch, rng)
        shown = known.data.demonstration
        chosen = rows(shown, rng.integers("demonstration", shown.prompt.shape[1], self.batch))
        length = self.lengths(self.model.mask(spec, chosen).sum(-1).long(), rng)
        reset = rng.uniform("reset", self.batch) < self.share
        asked = torch.where(reset, chosen.prompt, asked)
        given = torch.where(reset, length, torch.zeros_like(length))
        parameters = state.policy.parameters
        with torch.no_grad():
            batch = self.model.write(spec, parameters, asked, rng, chosen.token, given)
        return batch, state

    def lengths(self, tokens: Tensor, rng: Rng) -> Tensor:
        """How much is given `[N, B]` of demonstrations of `tokens` `[N, B]`, less than all."""
        first = int(self.official_lengths)
        return first + places(tokens - first, rng)
