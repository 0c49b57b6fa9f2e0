"""What the figure `oreo` computes beside its runs: temperatures, searches, and its claims."""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlkit import parameters
from rlkit.alignment.policies import TableCritic, TablePolicy
from rlkit.alignment.search import marked_steps, value_beam
from rlkit.figures import Array, Cell, Claim, Data, above, weakest
from rlkit.protocol import Spec
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run
from rlkit.tokens import Responses, Rewards, evaluate, sequence_kl, soft_optimum
from rlkit.tokens.search import greedy

LOCK, DFA, CHAIN = "TokenLock-v0", "TokenDFA-v0", "TokenChain-v0"
WIDTHS, ROUND, REPEATS, SHARP = (1, 2, 4, 7), 100, 8, 0.03
ALPHAS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)


def build(config: Mapping[str, Any], kind: Literal["problem", "agent"]) -> Any:
    """Problem or agent of a flattened configuration."""
    prefix = {"problem": "env.", "agent": "agent."}[kind]
    fields = {k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}
    return parameters.build(kind, fields)


def rollout(cell: Cell, steps: int) -> Rollout:
    """The run of a cell once more, as far as `steps`."""
    config = cell.config
    problem, agent = build(config, "problem"), build(config, "agent")
    count = int(config["replicas"])
    loop = Rollout(Run(problem, agent, max(steps, 1), count, int(config["seed"]), group=count))
    loop.advance(steps)
    return loop


def temperature(cell: Cell) -> Array:
    """The `beta` of the soft optimum that is as far from the reference as the policy, `[N]`.

    Infinite where the policy is the reference; bisection on a logarithmic scale.
    """
    known = rollout(cell, 0).groups[0].spec.known.tokens
    wanted = torch.tensor(cell.final("kl"), dtype=torch.float64)
    low, high = torch.full_like(wanted, -7.0), torch.full_like(wanted, 5.0)
    for _ in range(40):
        middle = (low + high) / 2
        scale = torch.exp(-middle)
        scaled = Rewards(
            known.rewards.token * scale[:, None, None, None], known.rewards.final * scale[:, None]
        )
        best = soft_optimum(known.automaton, scaled, 1.0)  # at beta, rewards divided by it
        far = sequence_kl(known.automaton, best.policy, known.automaton.reference) > wanted
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    return np.exp(((low + high) / 2).numpy())


class Searches:
    """Success of searches on TokenChain with the exact and the learned value, `[N]` each."""

    def __init__(self, cell: Cell) -> None:
        loop = rollout(cell, int(cell.step[-1]))
        group = loop.groups[0]
        self.spec, state = group.spec, group.carry.agent
        self.replica = group.replica
        self.known = self.spec.known.tokens
        self.model, self.parameters = TablePolicy(), state.policy.parameters
        self.values = state.critic.parameters
        table = self.model.table(self.parameters)
        self.greedy = self.success(greedy(self.known.automaton, table), 1)
        self.sampled = evaluate(self.known.automaton, self.known.rewards, table, 1.0).reward.numpy()

    def success(self, found: Responses, width: int) -> Array:
        """Mean gold reward of the first of every `width` responses."""
        last = found.state[:, ::width, -1]
        return np.asarray(self.known.rewards.final.gather(1, last).mean(1).numpy())

    def exact(self, width: int) -> Array:
        """The reference proposes, the optimal value at a small `beta` decides."""
        best = soft_optimum(self.known.automaton, self.known.rewards, SHARP).value

        def value(responses: Responses) -> Tensor:
            return best.gather(2, responses.state.transpose(1, 2)).transpose(1, 2)

        return self.search(self.known.automaton.reference, value, width)

    def learned(self, width: int) -> Array:
        """Policy and value of OREO."""

        def value(responses: Responses) -> Tensor:
            return TableCritic().values(self.spec, self.values, responses)

        return self.search(self.parameters, value, width)

    def search(self, policy: Tensor, value: Any, width: int) -> Array:
        """Every prompt `REPEATS` times."""
        n, prompts = self.known.automaton.prompt.shape
        asked = torch.arange(prompts).repeat(REPEATS).expand(n, -1)
        rng = Rng(0, "beam", self.replica)
        spec: Spec = self.spec
        found = value_beam(
            spec, self.model, policy, value, asked, marked_steps(spec), width, SHARP, rng
        )
        return self.success(found.responses, width)


@cache
def searches(cell: Cell) -> Searches:
    """Once a figure."""
    return Searches(cell)


def chain(data: Data, **wanted: Any) -> Cell:
    """The step-level run on TokenChain without rounds, or another."""
    fields = {"agent_marked": True, "agent_refresh_every": None, "agent_roll": False}
    return data.cell("oreo", env=CHAIN, **{**fields, **wanted})


def rounds(cell: Cell) -> list[Array]:
    """Success before the first and at the end of every round, `[N]` each."""
    last = int(cell.step[-1])
    ends = [min(k * ROUND, last) for k in (1, 2, 3)]
    at = [0, *(int(np.searchsorted(cell.step, end, "right")) - 1 for end in ends)]
    return [np.asarray(cell.metric("gold_reward")[i]) for i in at]


def oreo(data: Data, env: str, **wanted: Any) -> Cell:
    """A run at token level with the published coefficients, or another."""
    fields = {"agent_step": 1, "agent_alpha": 0.01, "agent_beta": 0.03, "bernoulli": True}
    fields["agent_stop_gradient"] = True
    return data.cell("oreo", env=env, **{**fields, **wanted})


def final(cell: Cell) -> Array:
    """Exact success of a sampled response at the end of a run, `[N]`."""
    return cell.final("gold_reward")


def claims(data: Data) -> list[Claim]:
    """O1 to O5."""
    return [*consistency(), *lock_claims(data), *dfa_claims(data), *beam_claims(data),
            *round_claims(data)]  # fmt: skip


def consistency() -> list[Claim]:
    """O1: policy and value of the soft optimum on full-support data with a certain reward."""
    problem = parameters.build(
        "problem",
        {"name": "TokenTree-v0", "horizon": 3, "vocabulary": 2, "reference_std": 0.5,
         "demonstrations": 400},
    )  # fmt: skip
    agent = parameters.build(
        "agent",
        {"name": "oreo", "beta": 0.5, "alpha": 0.0, "batch": 200, "rate": 0.03, "value_rate": 0.03},
    )
    loop = Rollout(Run(problem, agent, 600, 12, seed=0, group=12))
    loop.advance(600)
    spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
    known = spec.known.tokens
    best = soft_optimum(known.automaton, known.rewards, 0.5)
    table = agent.model.table(state.policy.parameters)
    kl = sequence_kl(known.automaton, table, best.policy).numpy()
    miss = (state.critic.parameters - best.value[:, :-1]).abs()
    met = torch.arange(miss.shape[2]) < 2 ** torch.arange(3)[:, None]  # prefixes of each length
    value = (miss * met).flatten(1).amax(1).numpy()
    return [
        highest("O1 policy", "KL(policy || optimum) < 1e-3 without alpha, nats", kl, 1e-3),
        highest("O1 value", "max |V - V*| < 1e-2 without alpha", value, 1e-2),
    ]


def highest(name: str, statement: str, values: Array, bound: float) -> Claim:
    """Every replica is below a bound; effect and interval are those of the largest."""
    worst = float(values.max())
    return Claim(name, f"{statement} (largest)", worst < bound, worst, (worst, worst), values.size)


def lock_claims(data: Data) -> list[Claim]:
    """O2 on TokenLock with a noisy outcome."""
    best = final(oreo(data, LOCK))
    rft, kto = (final(data.cell(name, env=LOCK)) for name in ("sft", "kto"))
    dpo = [final(data.cell("dpo", env=LOCK, agent_rate=rate)) for rate in (0.01, 0.05)]
    return [
        above("O2", "TokenLock: success of OREO >= 0.85", best, 0.85),
        above("O2 RFT", "TokenLock: OREO exceeds RFT by >= 0.2", best - rft, 0.2),
        weakest("O2 DPO", "TokenLock: OREO exceeds DPO at both rates by >= 0.2",
                [above("", "", best - other, 0.2) for other in dpo]),
        above("O2 KTO", "TokenLock: OREO exceeds KTO", best - kto, 0.0),
    ]  # fmt: skip


def dfa_claims(data: Data) -> list[Claim]:
    """O3 on TokenDFA."""
    best = final(oreo(data, DFA, demonstrations=1000))
    response = final(oreo(data, DFA, demonstrations=1000, agent_step=None, agent_alpha=0.3))
    rft = final(data.cell("sft", env=DFA))
    return [
        above("O3 response", "TokenDFA: token level exceeds response level, each at its published "
              "alpha (0.01, 0.3), by >= 0.15", best - response, 0.15),
        above("O3 RFT", "TokenDFA: OREO exceeds RFT by >= 0.1", best - rft, 0.1),
    ]  # fmt: skip


def beam_claims(data: Data) -> list[Claim]:
    """O4: search on TokenChain."""
    found = searches(chain(data))
    wins = [found.exact(width) for width in WIDTHS]
    steps = [above("", "", b - a) for a, b in pairwise(wins)]
    least = min(steps, key=lambda claim: claim.effect)
    gain = found.learned(WIDTHS[-1]) - found.greedy
    return [
        Claim("O4 exact", "TokenChain: success of the beam with exact V* does not fall in B",
              least.effect >= 0, least.effect, least.interval, least.replicas),
        above("O4 learned", "TokenChain: learned value, B = 7 exceeds greedy by >= 0.03",
              gain, 0.03),
    ]  # fmt: skip


def round_claims(data: Data) -> list[Claim]:
    """O5: rounds on TokenChain."""
    out = []
    for roll, name in ((False, "kept"), (True, "rolled")):
        wins = rounds(chain(data, agent_refresh_every=ROUND, agent_roll=roll))
        parts = [above("", "", b - a) for a, b in pairwise(wins)]
        text = f"TokenChain: each of three rounds raises success, reference {name}"
        out.append(weakest(f"O5 {name}", text, parts))
    return out
