"""Learning from what was collected beforehand: comparisons, verdicts and demonstrations."""

from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.losses import KTO, Labelled, PairLoss, Pairs
from rlkit.alignment.tables import (
    TablePolicy,
    improve,
    knowledge,
    measure,
    reference_policy,
    respond,
    rows,
)
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses, log_probability, walk
from rlkit.tokens.problem import Data
from rlkit.validation import check_integer, check_real


class OfflineAgent:
    """What agents that learn from collected data share; they add fields and `learn`."""

    source: ClassVar[str] = "pairs"  # what it learns from: "pairs" or "demonstrations"
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    # Fields of every such agent.
    beta: float
    batch: int
    rate: float
    responses: int

    def check(self) -> None:
        """Refuse shared fields outside their range."""
        check_real("beta", self.beta, 0, open_low=True)
        check_integer("batch", self.batch, 1)
        check_real("rate", self.rate, 0, open_low=True)
        check_integer("responses", self.responses, 2)

    def initial(self, spec: Spec, rng: Rng) -> TablePolicy:
        """The reference.

        Raises:
            ValueError: there is nothing to learn from.
        """
        collected(spec, self.source)
        return reference_policy(spec)

    def act(
        self, spec: Spec, state: TablePolicy, observation: Tree, rng: Rng
    ) -> tuple[Responses, TablePolicy]:
        """Responses of the present policy; learning does not use them."""
        return respond(spec, state.table, self.responses, rng), state

    def diagnostics(self, spec: Spec, state: TablePolicy) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.table, self.beta)


def collected(spec: Spec, what: str) -> Data:
    """The data of the problem.

    Args:
        spec: of a token MDP.
        what: "pairs" or "demonstrations", of which there must be one at least.

    Raises:
        ValueError: there are none.
    """
    data = knowledge(spec).data
    count = (data.preferred if what == "pairs" else data.outcome).shape[1]
    if count == 0:
        raise ValueError(f"{what} = 0: the agent learns from them; accepted: [1, inf)")
    return data


def score(table: Tensor, responses: Responses) -> Tensor:
    """Log-probability of whole responses `[N, B]`."""
    return log_probability(table, responses).sum(-1)


def choose_rows(values: Tensor, index: Tensor) -> Tensor:
    """`values` `[N, M]` at `index` `[N, B]`."""
    return values.gather(1, index)


def learn_from_pairs(
    spec: Spec, policy: TablePolicy, loss: PairLoss, batch: int, rate: float, rng: Rng
) -> TablePolicy:
    """A step on `batch` comparisons drawn with replacement."""
    data, reference = collected(spec, "pairs"), knowledge(spec).automaton.reference
    index = rng.integers("pair", data.preferred.shape[1], batch)
    first, second = rows(data.first, index), rows(data.second, index)
    wins = choose_rows(data.preferred, index) > 0.5
    length = torch.full_like(wins, first.token.shape[-1], dtype=reference.dtype)
    known = score(reference, first), score(reference, second)

    def total(table: Tensor) -> Tensor:
        a, b = score(table, first), score(table, second)
        pairs = Pairs(
            torch.where(wins, a, b),
            torch.where(wins, b, a),
            torch.where(wins, known[0], known[1]),
            torch.where(wins, known[1], known[0]),
            length,
            length,
        )
        return loss(pairs).mean(1)

    return improve(policy, total, rate)


def imitate(
    spec: Spec, policy: TablePolicy, batch: int, rate: float, rng: Rng, least: float | None = None
) -> TablePolicy:
    """A step of maximum likelihood on `batch` demonstrations drawn with replacement.

    Args:
        spec: of a token MDP.
        policy: to be improved.
        batch: demonstrations a step.
        rate: step size.
        rng: of the draw "demonstration".
        least: demonstrations whose observed reward is below this are left out; None: none is.
    """
    data = collected(spec, "demonstrations")
    index = rng.integers("demonstration", data.outcome.shape[1], batch)
    shown = rows(data.demonstration, index)
    weight = torch.ones_like(choose_rows(data.outcome, index))
    if least is not None:
        weight = (choose_rows(data.outcome, index) >= least).to(weight.dtype)
    count = weight.sum(1).clamp(min=1)

    def total(table: Tensor) -> Tensor:
        return -(weight * score(table, shown)).sum(1) / count

    return improve(policy, total, rate)


def learn_from_verdicts(
    spec: Spec, policy: TablePolicy, loss: KTO, batch: int, rate: float, rng: Rng
) -> TablePolicy:
    """A step on `batch` single responses of comparisons, the preferred ones desirable.

    The baseline estimates the divergence by the mean log-ratio of each response read as an answer
    to its neighbour's prompt, floored at zero.
    """
    data, reference = collected(spec, "pairs"), knowledge(spec).automaton.reference
    index = rng.integers("pair", data.preferred.shape[1], batch)
    side = rng.integers("side", 2, batch)
    first, second = rows(data.first, index), rows(data.second, index)
    good = choose_rows(data.preferred, index) > 0.5
    use_first = side == 0
    desirable = (good == use_first).to(reference.dtype)

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(use_first.reshape(*use_first.shape, *[1] * (a.dim() - 2)), a, b)

    shown = Responses(*(pick(a, b) for a, b in zip(first, second, strict=True)))
    crossed = walk(knowledge(spec).automaton, shown.prompt, shown.token.roll(1, 1))
    ratio = score(policy.table, crossed) - score(reference, crossed)
    baseline = ratio.mean(1, keepdim=True).clamp(min=0).expand_as(ratio)
    known = score(reference, shown)

    def total(table: Tensor) -> Tensor:
        return loss(Labelled(score(table, shown), known, desirable, baseline)).mean(1)

    return improve(policy, total, rate)
