"""C-PSRL at the paper's size: memory of a thousand replicas, and a race with plain numpy.

The race is against one replica after another, each written with numpy arrays over the parent
sets; its weights are the witness of ours on the same episodes.
"""

import subprocess
import sys
import time
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkit.agents.tabular.c_psrl import CPSRL
from rlkit.envs.tabular.factored import RandomFactoredMDP
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.benchmark(timer=time.process_time, group="factored", warmup=False),
]

Array = NDArray[Any]
FACTOR = 2.5  # replicas of ours in the time of one of numpy's
EPISODES, REPLICAS = 30, 64
BITS, MOST, HORIZON = 9, 5, 20
X = np.array([[x >> (BITS - 1 - i) & 1 for i in range(BITS)] for x in range(2**BITS)])

MEMORY = """
import torch
torch.set_num_threads(1)
from rlkit.agents.tabular.c_psrl import CPSRL
from rlkit.envs.tabular.factored import RandomFactoredMDP
from rlkit.rollout import Rollout, Run
problem = RandomFactoredMDP(known_parents=KNOWN)
loop = Rollout(Run(problem, CPSRL(), 500 * problem.horizon, 1000, group=1000))
loop.advance(2 * problem.horizon)
loop.record()
loop.state()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("known", [2, 0])
def test_a_thousand_replicas_fit_in_four_gibibytes(known: int, note: Any) -> None:
    """Nine binary features, six of them the state's; nothing grows with the episodes."""
    script = MEMORY.replace("KNOWN", str(known))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak = int(run.stdout) / 2**20
    note(f"GiB of 1,000 replicas, {known} known parents", peak)
    assert peak < 4


class Numpy:
    """C-PSRL of one replica with alpha = 1."""

    def __init__(self, known: Array, reward: Array, rng: np.random.Generator) -> None:
        self.rng, self.reward = rng, reward
        listed = [z for size in range(MOST + 1) for z in combinations(range(BITS), size)]
        self.sets, self.code, self.first, self.count = [], [], [], []
        for row in known:
            fixed = set(np.flatnonzero(row))
            sets = [z for z in listed if fixed <= set(z)]
            code = [X[:, z] @ (1 << np.arange(len(z))[::-1]) for z in sets]
            size = [2 ** len(z) for z in sets]
            self.sets.append(sets)
            self.code.append(np.array(code, int))
            self.first.append(np.cumsum(size) - size)
            self.count.append(np.zeros((sum(size), 2)))
        self.weight = [np.zeros(len(sets)) for sets in self.sets]

    def update(self, x: int, y: int) -> None:
        """One transition."""
        for j, bit in enumerate((y >> 5 - np.arange(6)) & 1):
            row = self.first[j] + self.code[j][:, x]
            seen = self.count[j][row]
            self.weight[j] += np.log((1 + seen[:, bit]) / (2 + seen.sum(1)))
            self.count[j][row, bit] += 1

    def policy(self) -> Array:
        """Optimal policy `[H, S]` of a sampled model."""
        kernel = np.ones((512, 1))
        for j, weight in enumerate(self.weight):
            share = np.exp(weight - weight.max())
            z = self.rng.choice(share.size, p=share / share.sum())
            first, size = self.first[j][z], 2 ** len(self.sets[j][z])
            table = self.rng.standard_gamma(1 + self.count[j][first : first + size])
            table /= table.sum(1, keepdims=True)
            kernel = (kernel[:, :, None] * table[self.code[j][z]][:, None]).reshape(512, -1)
        value, policy = np.zeros(64), np.zeros((HORIZON, 64), int)
        for h in reversed(range(HORIZON)):
            q = self.reward + (kernel @ value).reshape(64, 8)
            policy[h], value = q.argmax(1), q.max(1)
        return policy


def numpy_run(spec: Any, replica: int, episodes: int) -> int:
    """One replica of the whole experiment; number of its episodes."""
    rng = np.random.default_rng(replica)
    known = spec.known
    agent = Numpy(known.prior.known[replica].numpy(), known.reward[replica].numpy(), rng)
    edges = known.model.kernel[replica].reshape(512, 64).numpy().cumsum(1)
    for _ in range(episodes):
        policy, state, seen = agent.policy(), 0, []
        for h in range(HORIZON):
            x = state * 8 + policy[h, state]
            state = min(63, int(np.searchsorted(edges[x], rng.random(), "right")))
            seen.append((x, state))
        for x, y in seen:
            agent.update(x, y)
    return episodes


def test_is_faster_than_plain_numpy_by_the_factor(race: Any) -> None:
    problem = RandomFactoredMDP()
    run = Run(problem, CPSRL(), EPISODES * HORIZON, REPLICAS, group=REPLICAS)
    spec = Rollout(run).groups[0].spec

    def ours() -> int:
        Rollout(run).advance(EPISODES * HORIZON)
        return EPISODES * REPLICAS

    def theirs() -> int:
        return numpy_run(spec, 0, EPISODES)

    assert race({"rlkit": ours, "numpy": theirs}, rounds=5).ratio("numpy") >= FACTOR


def test_has_the_weights_and_counts_of_plain_numpy() -> None:
    """On the transitions of a run of ours, replica by replica."""
    problem, n, episodes = RandomFactoredMDP(known_parents=1), 3, 12
    loop = Rollout(Run(problem, CPSRL(), episodes * HORIZON, n, group=n))
    spec = loop.groups[0].spec
    known = spec.known
    witness = [
        Numpy(known.prior.known[r].numpy(), known.reward[r].numpy(), np.random.default_rng(0))
        for r in range(n)
    ]
    for step in range(episodes * HORIZON):
        before = loop.groups[0].carry.state.state
        loop.advance(step + 1)
        carry = loop.groups[0].carry
        x = before * 8 + carry.action
        after = carry.agent.episode.successor[:, step % HORIZON]
        for r in range(n):
            witness[r].update(int(x[r]), int(after[r]))
    posterior = loop.groups[0].carry.agent.posterior
    for r in range(n):
        for j in range(6):
            size = len(witness[r].sets[j])
            np.testing.assert_allclose(
                posterior.log_weight[r, j, :size], witness[r].weight[j], rtol=0, atol=1e-9
            )
            rows = posterior.counts.shape[1] // 18
            mine = posterior.counts[r, 3 * j * rows :][: 3 * len(witness[r].count[j])]
            np.testing.assert_array_equal(mine.reshape(-1, 3)[:, :2], witness[r].count[j])
