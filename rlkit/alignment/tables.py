"""Tabular policies on token MDPs: parameters, gradients, and what is measured of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.optimizers import Adam, descend, start_adam
from rlkit.protocol import Spec
from rlkit.random import Rng
from rlkit.tokens import Responses, evaluate, generate, log_probability, soft_optimum
from rlkit.tokens.problem import TokenKnowledge, prompts

Loss = Callable[[Tensor], Tensor]  # of log-probabilities [N, H, Z, V], one value a replica [N]


class TablePolicy(NamedTuple):
    """Logits of a policy and the moments of its optimiser."""

    logits: Tensor  # [N, H, Z, V]
    adam: Adam

    @property
    def table(self) -> Tensor:
        """Log-probabilities `[N, H, Z, V]`."""
        return torch.log_softmax(self.logits, -1)


def knowledge(spec: Spec) -> TokenKnowledge:
    """The token MDP.

    Raises:
        ValueError: the problem is none.
    """
    known: TokenKnowledge | None = spec.known.tokens
    if known is None:
        raise ValueError("the problem discloses no token MDP; the agent needs known.tokens")
    return known


def reference_policy(spec: Spec) -> TablePolicy:
    """A policy that starts as the reference."""
    logits = knowledge(spec).automaton.reference.clone(memory_format=torch.contiguous_format)
    return TablePolicy(logits, start_adam(logits))


def improve(policy: TablePolicy, loss: Loss, rate: float) -> TablePolicy:
    """One step of Adam down the gradient of `loss`; replicas do not touch each other."""
    with torch.enable_grad():
        logits = policy.logits.detach().requires_grad_()
        total = loss(torch.log_softmax(logits, -1)).sum()
        (gradient,) = torch.autograd.grad(total, logits)
    # Illegal tokens stay illegal: their logits are -inf.
    gradient = torch.where(torch.isfinite(policy.logits), gradient, torch.zeros_like(gradient))
    logits, adam = descend(policy.logits, gradient, policy.adam, rate)
    return TablePolicy(logits, adam)


def respond(spec: Spec, table: Tensor, batch: int, rng: Rng, group: int = 1) -> Responses:
    """`batch` responses of a policy; each prompt is answered `group` times in a row."""
    automaton = knowledge(spec).automaton
    asked = prompts(automaton, batch // group, rng).repeat_interleave(group, 1)
    return generate(automaton, table, asked, rng)


def log_ratio(table: Tensor, spec: Spec, responses: Responses) -> Tensor:
    """`log pi / pi_ref` of each token, `[N, B, H]`."""
    reference = log_probability(knowledge(spec).automaton.reference, responses)
    return log_probability(table, responses) - reference


def rows(batch: Responses, index: Tensor) -> Responses:
    """The responses `index` `[N, M]` of a batch."""

    def pick(leaf: Tensor) -> Tensor:
        tail = leaf.shape[2:]
        wide = index.reshape(*index.shape, *[1] * len(tail)).expand(*index.shape, *tail)
        return leaf.gather(1, wide)

    return Responses(*(pick(leaf) for leaf in batch))


def measure(spec: Spec, table: Tensor, beta: float) -> dict[str, Tensor]:
    """Exact expectations of a policy, `[N]` each.

    `gap` is the distance of reward minus `beta` times divergence from the best there is.
    """
    known = knowledge(spec)
    got = evaluate(known.automaton, known.rewards, table, beta)
    value = soft_optimum(known.automaton, known.rewards, beta).value[:, 0]
    best = (known.automaton.start * value).sum(1)
    return {
        "gold_reward": got.reward,
        "kl": got.kl,
        "entropy": got.entropy,
        "gap": best - got.objective,
    }
