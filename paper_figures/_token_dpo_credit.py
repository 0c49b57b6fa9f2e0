"""What the figure `token_dpo_credit` computes beside its runs, and its claims."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlkit import parameters
from rlkit.alignment.credit import (
    credit_table,
    every_response,
    expected_dpo,
    implicit_reward,
    likeliest,
    optimal_advantage,
    preferred_policy,
    token_credit,
    unrolled,
)
from rlkit.alignment.knowledge import either
from rlkit.alignment.losses import DPO, Pairs
from rlkit.alignment.policies import TablePolicy
from rlkit.alignment.training import improve, start_training
from rlkit.figures import Array, Claim, Data, above, below, weakest
from rlkit.preferences import Teacher
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run
from rlkit.tokens import (
    Automaton,
    Responses,
    Rewards,
    log_probability,
    returns,
    sequence_kl,
    soft_optimum,
)
from rlkit.tokens.problem import TokenKnowledge
from rlkit.tokens.search import beam_search
from rlkit.tokens.sequences import sample

REPLICAS, BETA, RATE, PAIRS = 24, 0.1, 0.05, 4000
LOOKS = (*range(11), *range(15, 50, 5), *range(60, 401, 20))
WIDTHS = (1, 2, 3, 5, 8, 16)
LOCK = {
    "name": "TokenLock-v0", "horizon": 8, "vocabulary": 4, "key_every": 2, "competence": 0.6,
    "decoy": None, "demonstrations": 200, "pairs": 4000, "slope": 5.0,
}  # fmt: skip


def drawn(fields: dict[str, Any], count: int) -> tuple[Spec, TokenKnowledge]:
    """A problem's replicas."""
    problem = parameters.build("problem", fields)
    instance = problem.instance(Rng(0, "instance", torch.arange(count)))
    return problem.spec(instance), instance.replica.knowledge


@cache
def bigram() -> tuple[Automaton, Rewards]:
    """TokenBigram with 4096 responses, on the tree of prefixes."""
    _spec, known = drawn({"name": "TokenBigram-v0", "pairs": 1, "demonstrations": 1}, REPLICAS)
    return unrolled(known.automaton, known.rewards)


@cache
def tuned() -> Tensor:
    """The exact law of the preferred of two responses, as a policy."""
    return preferred_policy(*bigram(), 1.0)


class Comparisons(NamedTuple):
    """Preferred and other responses, `[N, P]` each."""

    chosen: Responses
    rejected: Responses


@cache
def comparisons() -> Comparisons:
    """Pairs of the reference's responses with Boltzmann labels."""
    automaton, rewards = bigram()
    rng = Rng(0, "pairs", torch.arange(REPLICAS))
    first = sample(automaton, automaton.reference, PAIRS, rng.child("first"))
    second = sample(automaton, automaton.reference, PAIRS, rng.child("second"), first.prompt)
    ours, theirs = (returns(rewards, batch)[..., None] for batch in (first, second))
    wins = Teacher(1.0).label(theirs, ours, rng)[0] > 0.5
    return Comparisons(either(wins, first, second), either(wins, second, first))


@dataclass(frozen=True)
class Descent:
    """DPO on all comparisons at once, read at `LOOKS`, `[R, N]` each."""

    exact: Array  # mean implicit reward of the law of preferred responses
    chosen: Array  # of the preferred responses that were seen
    rejected: Array  # of the others
    divergence: Array  # beta KL(law of preferred responses || policy)
    policy: Tensor  # [N, H, Z, V] at the end


def leaves(logits: Tree) -> Tensor:
    """Log-probability `[N, Y]` of every response; a leaf `[N, V**t, V]` of logits a time."""
    total = torch.zeros_like(logits[0][..., 0])
    for level in logits:
        total = (total[..., None] + torch.log_softmax(level, -1)).flatten(1)
    return total


def as_table(automaton: Automaton, logits: Tree) -> Tensor:
    """The same policy as a table `[N, H, Z, V]`."""
    table = automaton.reference.clone()
    for time, level in enumerate(logits):
        table[:, time, : level.shape[1]] = torch.log_softmax(level, -1)
    return table


@cache
def descent(imitates: bool) -> Descent:
    """With the law of preferred responses as reference and start, or with the first reference."""
    automaton, _rewards = bigram()
    size, law = automaton.vocabulary, tuned()
    reference = law if imitates else automaton.reference
    based = automaton._replace(reference=reference)
    start = tuple(reference[:, t, : size**t].contiguous() for t in range(automaton.horizon))
    index = [batch.state[..., -1] for batch in comparisons()]
    base = leaves(start)
    good, bad = (base.gather(1, i) for i in index)
    length, loss = torch.ones_like(good), DPO(BETA)

    def total(logits: Tree) -> Tensor:
        won, lost = (leaves(logits).gather(1, i) for i in index)
        return loss(Pairs(won, lost, good, bad, length, length)).mean(1)

    trained, rows = start_training(start), []
    for step in range(LOOKS[-1] + 1):
        if step:
            trained = improve(trained, total, RATE)
        if step in LOOKS:
            policy, ratio = (
                as_table(automaton, trained.parameters),
                leaves(trained.parameters) - base,
            )
            seen = [BETA * ratio.gather(1, i).mean(1) for i in index]
            exact = implicit_reward(based, law, policy, BETA)
            rows.append((exact, *seen, BETA * sequence_kl(based, law, policy)))
    mean, chosen, rejected, divergence = (
        torch.stack(column).numpy() for column in zip(*rows, strict=True)
    )
    return Descent(mean, chosen, rejected, divergence, policy)


class Sweep(NamedTuple):
    """Beams of each width, `[W, N]` each."""

    score: Array  # log-probability of what was found
    best: Array  # of the likeliest response, `[N]`
    reward: Array  # gold reward of what was found


def sweep(policy: Tensor) -> Sweep:
    """Beam search on a policy for the unrolled TokenBigram."""
    automaton, rewards = bigram()
    first = torch.zeros(REPLICAS, 1, dtype=torch.int64)
    best = log_probability(policy, likeliest(automaton, policy, first)).sum(-1).squeeze(1)
    found = [beam_search(automaton, policy, width).best for width in WIDTHS]
    score = [log_probability(policy, f).sum(-1).squeeze(1).numpy() for f in found]
    reward = [returns(rewards, f).squeeze(1).numpy() for f in found]
    return Sweep(np.array(score), best.numpy(), np.array(reward))


@cache
def sweeps() -> dict[str, Sweep]:
    """Of the exact optimum, and of DPO after imitation."""
    best = soft_optimum(*bigram(), BETA).policy
    return {"optimum": sweep(best), "DPO": sweep(descent(True).policy)}


@cache
def infinite_data() -> Array:
    """Largest error `[N]` of credit under DPO on the expected loss, by L-BFGS."""
    fields = {
        "name": "TokenTree-v0", "horizon": 3, "vocabulary": 3, "dense": True,
        "reference_std": 0.5, "pairs": 1, "demonstrations": 1,
    }  # fmt: skip
    _spec, known = drawn(fields, 4)
    automaton, beta = known.automaton, 0.5
    every = every_response(automaton)
    base, reward = (
        log_probability(automaton.reference, every).sum(-1),
        returns(known.rewards, every),
    )
    logits = automaton.reference.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=4000, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-11, tolerance_change=1e-18,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        ratio = log_probability(torch.log_softmax(logits, -1), every).sum(-1) - base
        loss = expected_dpo(ratio, base.exp(), reward, beta, 1.0).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    policy = torch.log_softmax(logits.detach(), -1)
    best = soft_optimum(automaton, known.rewards, beta)
    error = (credit_table(automaton, policy, beta) - optimal_advantage(best)).abs()
    met = torch.arange(error.shape[2]) < 3 ** torch.arange(3)[:, None]  # prefixes of each length
    return np.asarray((error.amax(-1) * met).flatten(1).amax(1).numpy())


class Credit(NamedTuple):
    """Credit of the tokens of demonstrations on TokenLock."""

    exact: Array  # [N, M, H] under the optimum
    learned: Array  # [N, M, H] under DPO
    failed: Array  # [N, M] bool
    first: Array  # [N, M] first wrong key, of no meaning otherwise


@cache
def lock() -> Credit:
    """Exact and learned credit."""
    problem = parameters.build("problem", LOCK)
    agent = parameters.build("agent", {"name": "dpo", "beta": BETA, "batch": 512, "rate": 0.01})
    loop = Rollout(Run(problem, agent, 200, 12, seed=0, group=12))
    loop.advance(200)
    spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
    known = spec.known.tokens
    shown = known.data.demonstration
    best = soft_optimum(known.automaton, known.rewards, BETA).policy
    exact, learned = (
        token_credit(spec, TablePolicy(), table, shown, BETA).detach().numpy()
        for table in (best, state.policy.parameters)
    )
    first = (shown.state[..., 1:] != 0).long().argmax(-1)
    return Credit(exact, learned, (known.data.outcome == 0).numpy(), first.numpy())


def localised(credit: Array, found: Credit) -> Array:
    """Share of failures whose first wrong key has the least credit, `[N]`."""
    hit = (credit.argmin(-1) == found.first) & found.failed
    return np.asarray(hit.sum(1) / found.failed.sum(1))


@cache
def exhaustive() -> Array:
    """By how much search on the optimum misses the best of `R + beta log pi_ref`, `[N]`."""
    automaton, rewards = bigram()
    every = every_response(automaton)
    value = returns(rewards, every) + BETA * log_probability(automaton.reference, every).sum(-1)
    first = torch.zeros(REPLICAS, 1, dtype=torch.int64)
    found = likeliest(automaton, soft_optimum(automaton, rewards, BETA).policy, first)
    got = returns(rewards, found) + BETA * log_probability(automaton.reference, found).sum(-1)
    return np.asarray((value.amax(1) - got.squeeze(1)).numpy())


def highest(name: str, statement: str, values: Array, bound: float) -> Claim:
    """Every value is below a bound; effect and interval are those of the largest."""
    worst = float(values.max())
    count = values.shape[-1]
    return Claim(name, f"{statement} (largest)", worst < bound, worst, (worst, worst), count)


def claims(data: Data) -> list[Claim]:
    """R1 to R4, and what beams do to reward, whatever its sign."""
    with_it, without = descent(True), descent(False)
    gaps = [cell.final("gap") for cell in by_pairs(data)]
    falls = [above("", "", a - b) for a, b in pairwise(gaps)]
    scores, tenth = sweeps(), LOOKS.index(10)
    return [
        highest("R1", "infinite data: |beta log-ratio - advantage| < 1e-3", infinite_data(), 1e-3),
        weakest("R1 pairs", "more comparisons leave a smaller gap (smallest difference)", falls),
        highest("R2 identity", "chosen implicit reward + beta KL(chosen || policy) = 0 to 1e-10 at "
                "all looks", np.abs(with_it.exact + with_it.divergence), 1e-10),
        below("R2 decline", "after imitation: implicit reward of the law of preferred responses is "
              "< 0 from step 1 on (its largest)", with_it.exact[1:].max(0), 0.0),
        below("R2 data", "after imitation: implicit reward of the preferred responses in the data "
              "is < 0 at step 10", with_it.chosen[tenth], 0.0),
        above("R2 without", "without imitation: implicit reward of the preferred responses in the "
              "data is > 0 at step 10", without.chosen[tenth], 0.0),
        above("R2 without, law", "without imitation: implicit reward of the law of preferred "
              "responses is > 0 at step 10", without.exact[tenth], 0.0),
        highest("R3", "search on the optimum finds max R + beta log pi_ref", exhaustive(), 1e-9),
        beam_scores(scores["DPO"]),
        lowest("R4", "TokenLock: the first wrong key has the least credit in all failures",
               localised(lock().exact, lock())),
    ]  # fmt: skip


def by_pairs(data: Data) -> list[Any]:
    """Runs in the order of their number of comparisons."""
    return sorted(data.cells, key=lambda cell: int(cell.config["env.pairs"]))


def beam_scores(found: Sweep) -> Claim:
    """Scores do not fall with the width, on average."""
    rises = [above("", "", b - a) for a, b in pairwise(found.score)]
    least = min(rises, key=lambda claim: claim.effect)
    text = "mean score of the beam does not fall in B (smallest rise)"
    return Claim("R3 beam", text, least.effect >= 0, least.effect, least.interval, least.replicas)


def lowest(name: str, statement: str, share: Array) -> Claim:
    """Every replica has a share of one."""
    worst = float(share.min())
    return Claim(name, f"{statement} (smallest share)", worst == 1.0, worst, (worst, worst),
                 share.size)  # fmt: skip
