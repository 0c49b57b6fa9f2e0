"""What is measured of a policy: reward, divergence, entropy, and distance from the optimum."""

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge
from rlkit.alignment.policies import Policy, laws_at
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses, evaluate, expected_reward, occupancy, returns, soft_optimum
from rlkit.tokens.problem import TokenKnowledge, prompts

LOOK = 256  # responses that estimate what no table gives exactly


def measure(spec: Spec, table: Tensor, beta: float) -> dict[str, Tensor]:
    """Exact expectations of a policy `[N, H, Z, V]`, `[N]` each.

    `gap` is the distance of gold reward minus `beta` times divergence from the best there is,
    `success` the probability of what `successes` says, where the problem knows mistakes.
    """
    known = knowledge(spec)
    got = evaluate(known.automaton, known.rewards, table, beta)
    value = soft_optimum(known.automaton, known.rewards, beta).value[:, 0]
    best = (known.automaton.start * value).sum(1)
    law = occupancy(known.automaton, table)
    measured = {
        "gold_reward": got.reward,
        "proxy_reward": expected_reward(known.automaton, known.proxy, table, law),
        "kl": got.kl,
        "entropy": got.entropy,
        "gap": best - got.objective,
    }
    if not bool(known.sound.all()):
        measured["success"] = (law[:, -1] * successes(known)).sum(1)
    return measured


def successes(known: TokenKnowledge) -> Tensor:
    """Last states `[N, Z]` bool of successful responses: without mistake, and paid the most.

    Of responses without mistake some may be unfinished, such as those that never try a door.
    """
    paid = torch.where(known.sound, known.rewards.final, -torch.inf)
    return known.sound & (paid == paid.amax(1, keepdim=True))


def look(spec: Spec, policy: Policy, parameters: Tree, replica: Tensor, count: int) -> Responses:
    """Responses to be looked at: the same draws at every record and for every agent.

    Args:
        spec: of a token MDP.
        policy: that writes.
        parameters: of the policy.
        replica: `[N]` int64 numbers of the replicas.
        count: of responses.
    """
    rng = Rng(0, "look", replica)
    with torch.no_grad():
        asked = prompts(knowledge(spec).automaton, count, rng)
        return policy.write(spec, parameters, asked, rng)


def estimate(
    spec: Spec, policy: Policy, parameters: Tree, replica: Tensor, beta: float
) -> dict[str, Tensor]:
    """Unbiased estimates of the same, from responses of the policy.

    Divergence, entropy and gap are conditional expectations at every state that was met; the gap
    is `beta KL(policy || optimum)` of whole responses, which equals the distance in objective.
    """
    known = knowledge(spec)
    seen = look(spec, policy, parameters, replica, LOOK)
    with torch.no_grad():
        law, reference = policy.laws(spec, parameters, seen), policy.reference_laws(spec, seen)
    best = laws_at(soft_optimum(known.automaton, known.rewards, beta).policy, seen)

    def mean(score: Tensor) -> Tensor:
        weight = law.exp()
        inner = torch.where(weight > 0, weight * score, torch.zeros_like(weight))
        return inner.sum((2, 3)).mean(1).double()

    measured = {
        "gold_reward": returns(known.rewards, seen).mean(1),
        "proxy_reward": returns(known.proxy, seen).mean(1),
        "kl": mean(law - reference),
        "entropy": mean(-law),
        "gap": beta * mean(law - best),
    }
    if not bool(known.sound.all()):
        measured["success"] = successes(known).gather(1, seen.state[..., -1]).double().mean(1)
    return measured
