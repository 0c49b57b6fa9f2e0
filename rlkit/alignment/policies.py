"""Policies that write responses, and critics that value them, behind one interface.

An algorithm sees log-probabilities of tokens and values before them. Whether they come from a
table, a network or a language model is the business of the classes here.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses, generate, log_probability, walk
from rlkit.tokens.sequences import look_up
from rlkit.validation import check_choice, check_integer

KINDS = ("table", "ngram", "transformer", "lm")


class Policy(Protocol):
    """A parametrised law of responses; parameters are trees of tensors `[N, ...]`."""

    exact: ClassVar[bool]  # whether `table` exists, so that everything is measured exactly

    def start(self, spec: Spec, rng: Rng) -> Tree:
        """Parameters at which the policy is the reference."""

    def score(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probability of each token `[N, B, H]`, 0 after the end; differentiable."""

    def laws(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens where each is written `[N, B, H, V]`; differentiable."""

    def reference(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probability of each token under the reference `[N, B, H]`, 0 after the end."""

    def reference_laws(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens under the reference `[N, B, H, V]`."""

    def mask(self, spec: Spec, responses: Responses) -> Tensor:
        """1 for tokens of a response, 0 for padding after its end, `[N, B, H]`."""

    def write(
        self,
        spec: Spec,
        parameters: Tree,
        prompt: Tensor,
        rng: Rng,
        prefix: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Responses:
        """Responses to `prompt` `[N, B]`; arguments as `rlkit.tokens.generate`."""

    def read(self, spec: Spec, prompt: Tensor, token: Tensor) -> Responses:
        """The given responses `token` `[N, B, H]` to `prompt` `[N, B]`."""

    def table(self, parameters: Tree) -> Tensor:
        """Log-probabilities `[N, H, Z, V]` of a policy with `exact`."""


class Critic(Protocol):
    """A parametrised value of unfinished responses."""

    def start(self, spec: Spec, rng: Rng) -> Tree:
        """Parameters at which every value is 0."""

    def values(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Value before each token `[N, B, H]`, 0 after the end; differentiable."""


class AutomatonReference:
    """The reference of a token MDP with tables, which policies on such MDPs share."""

    def reference(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probability of each token under the reference `[N, B, H]`, 0 after the end."""
        return log_probability(knowledge(spec).automaton.reference, responses)

    def reference_laws(self, spec: Spec, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens under the reference `[N, B, H, V]`."""
        return laws_at(knowledge(spec).automaton.reference, responses)

    def mask(self, spec: Spec, responses: Responses) -> Tensor:
        """1 for tokens of a response, 0 for padding after its end, `[N, B, H]`."""
        return written(spec, responses)

    def read(self, spec: Spec, prompt: Tensor, token: Tensor) -> Responses:
        """The given responses `token` `[N, B, H]` to `prompt` `[N, B]`."""
        return walk(knowledge(spec).automaton, prompt, token)


def laws_at(table: Tensor, responses: Responses) -> Tensor:
    """Rows of a table `[N, H, Z, V]` at the states of responses, `[N, B, H, V]`."""
    state = responses.state[..., :-1]
    times = range(state.shape[-1])
    return torch.stack([look_up(table[:, time], state[..., time]) for time in times], 2)


def written(spec: Spec, responses: Responses) -> Tensor:
    """1 for tokens of a response, 0 for padding after its end, `[N, B, H]` float64."""
    state = responses.state[..., :-1]
    done = knowledge(spec).over.gather(1, state.flatten(1)).reshape(state.shape)
    return (~done).to(torch.float64)


@dataclass(frozen=True)
class TablePolicy(AutomatonReference):
    """Free logits `[N, H, Z, V]` for every time and automaton state."""

    exact: ClassVar[bool] = True

    def start(self, spec: Spec, rng: Rng) -> Tensor:
        """The reference's log-probabilities."""
        reference = knowledge(spec).automaton.reference
        return reference.clone(memory_format=torch.contiguous_format)

    def score(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probability of each token `[N, B, H]`."""
        return log_probability(self.table(parameters), responses)

    def laws(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probabilities of all tokens where each is written `[N, B, H, V]`."""
        return laws_at(self.table(parameters), responses)

    def write(
        self,
        spec: Spec,
        parameters: Tree,
        prompt: Tensor,
        rng: Rng,
        prefix: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Responses:
        """Responses to `prompt` `[N, B]`."""
        automaton = knowledge(spec).automaton
        return generate(automaton, self.table(parameters), prompt, rng, prefix, given)

    def table(self, parameters: Tree) -> Tensor:
        """Log-probabilities `[N, H, Z, V]`."""
        return torch.log_softmax(parameters, -1)


@dataclass(frozen=True)
class TableCritic:
    """A value `[N, H, Z]` for every time and automaton state."""

    def start(self, spec: Spec, rng: Rng) -> Tensor:
        """Zeros."""
        return torch.zeros_like(knowledge(spec).automaton.reference[..., 0])

    def values(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Value before each token `[N, B, H]`, 0 after the end."""
        state = responses.state[..., :-1].transpose(1, 2)
        table: Tensor = parameters
        return table.gather(2, state).transpose(1, 2) * written(spec, responses)


def check_policy(kind: str, network: tuple[int, ...]) -> None:
    """Refuse unknown policies and networks without three sizes.

    Raises:
        ValueError: naming the argument.
    """
    check_choice("policy", kind, KINDS)
    if len(network) != 3:
        raise ValueError(f"network = {network}; accepted: (width, layers, heads)")
    for name, size in zip(("width", "layers", "heads"), network, strict=True):
        check_integer(f"{name} of network", size, 1)
    if network[0] % network[2]:
        raise ValueError(f"network = {network}; accepted: a width that is a multiple of the heads")


def policy_class(kind: str, network: tuple[int, ...]) -> Policy:
    """The policy of an agent's fields `policy` and `network`."""
    if kind == "table":
        return TablePolicy()
    if kind == "lm":
        from rlkit.lm.policy import LanguagePolicy

        return LanguagePolicy()
    from rlkit.alignment.neural import NGramPolicy, TransformerPolicy

    return NGramPolicy(1) if kind == "ngram" else TransformerPolicy(*network)


def critic_class(kind: str, network: tuple[int, ...]) -> Critic:
    """The critic that goes with a policy: tables with tables and n-grams."""
    if kind in ("table", "ngram"):
        return TableCritic()
    if kind == "lm":
        from rlkit.lm.policy import LanguageCritic

        return LanguageCritic()
    from rlkit.alignment.neural import TransformerCritic

    return TransformerCritic(*network)
