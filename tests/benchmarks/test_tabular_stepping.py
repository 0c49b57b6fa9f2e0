"""Stepping a random MDP, without learning, against other environments; peak memory.

A Garnet MDP of 100 states, 4 actions and 5 successors, the same for all replicas, under uniform
actions with a time limit of 100 steps. Ours keeps total reward, regret and the share of optimal
actions; JAX's contestants keep the total reward alone.
"""

import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

from rlkit.agents.bandits.uniform import Uniform
from rlkit.alias import alias
from rlkit.envs.tabular.garnet import Garnet
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="tabular stepping", warmup=False),
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]

STEPS, LIMIT = 64, 100
PROBLEM = Garnet(states=100, actions=4, branching=5, shared=True, horizon=LIMIT)
MODEL = PROBLEM.model(Rng(3, "instance", torch.arange(1)))
STATES, ACTIONS, BRANCHING = MODEL.probability.shape


def long_run_reward() -> float:
    """Mean reward of a step under uniform actions over a whole episode."""
    kernel, reward = MODEL.kernel.mean(1).numpy(), MODEL.mean_reward.mean(1).numpy()
    law, total = MODEL.start.numpy(), 0.0
    for _ in range(LIMIT):
        total += law @ reward
        law = law @ kernel
    return total / LIMIT


REWARD = long_run_reward()


class Ours:
    """`chunks` compiled chunks of a run a call."""

    def __init__(self, replicas: int, chunks: int, tier: str = "compiled") -> None:
        run = Run(PROBLEM, Uniform(), 10**9, replicas, seed=3, group=replicas, tier=tier)
        self.loop, self.chunks = Rollout(run, chunk=STEPS), chunks
        self.loop.advance(3 * STEPS)  # eager head, compilation, comparison of the tiers
        assert self.loop.tier == tier

    def __call__(self) -> int:
        self.loop.advance(self.loop.step + self.chunks * STEPS)
        reward = self.loop.record()["reward"].mean().item() / self.loop.step
        assert abs(reward - REWARD) < 0.02
        return self.chunks * STEPS * self.loop.run.replicas


def jax_scan(replicas: int, chunks: int, keys: str) -> Callable[[], int]:
    """`chunks` chunks of `jit(scan)` a call, successors from alias tables, Threefry.

    Args:
        replicas: environments.
        chunks: of `STEPS` steps.
        keys: "replica": `vmap` of a step with a key of its own, as Gymnax's environments are
            driven; "block": one key draws the random words of all replicas.
    """
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jnp = jax.numpy
    table = alias(MODEL.probability)
    other = MODEL.successor.gather(-1, table.other)
    accept = jnp.asarray(table.accept.reshape(-1).numpy(), jnp.float32)
    first = jnp.asarray(MODEL.successor.reshape(-1).numpy(), jnp.int32)
    second = jnp.asarray(other.reshape(-1).numpy(), jnp.int32)
    pay = jnp.asarray(MODEL.mean_reward.reshape(-1).numpy(), jnp.float32)

    def follow(state: Any, clock: Any, words: Any) -> Any:
        """Successor, clock and reward; two words of 32 bits hold the whole luck of a step."""
        row = state * ACTIONS + (words[0] >> 30).astype(jnp.int32)
        place = (words[1] >> 8).astype(jnp.float32) * (BRANCHING / 2.0**24)
        column = place.astype(jnp.int32)
        spot = row * BRANCHING + column
        fraction = place - column.astype(jnp.float32)
        following = jnp.where(fraction < accept[spot], first[spot], second[spot])
        clock = clock + 1
        goes_on = (clock < LIMIT).astype(jnp.int32)
        return following * goes_on, clock * goes_on, pay[row]

    def block(carry: Any, _: None) -> Any:
        key, state, clock, total = carry
        key, now = jax.random.split(key)
        state, clock, reward = follow(state, clock, jax.random.bits(now, (2, replicas)))
        return (key, state, clock, total + reward), None

    def one(key: Any, state: Any, clock: Any) -> Any:
        return follow(state, clock, jax.random.bits(key, (2,)))

    def gymnax(carry: Any, _: None) -> Any:
        key, state, clock, total = carry
        key, now = jax.random.split(key)
        state, clock, reward = jax.vmap(one)(jax.random.split(now, replicas), state, clock)
        return (key, state, clock, total + reward), None

    body = {"block": block, "replica": gymnax}[keys]
    chunk = jax.jit(lambda carry: jax.lax.scan(body, carry, None, length=STEPS)[0])
    zero = jnp.zeros(replicas, jnp.int32)
    held = [jax.block_until_ready(chunk((jax.random.key(0), zero, zero, pay[zero] * 0)))]
    done = [STEPS]

    def play() -> int:
        for _ in range(chunks):
            held[0] = jax.block_until_ready(chunk(held[0]))
        done[0] += chunks * STEPS
        assert abs(float(held[0][3].mean()) / done[0] - REWARD) < 0.02
        return chunks * STEPS * replicas

    return play


class TightMDP(gymnasium.Env[Any, Any]):
    """As little Python as a Gymnasium environment of this MDP can be."""

    observation_space = gymnasium.spaces.Discrete(STATES)
    action_space = gymnasium.spaces.Discrete(ACTIONS)
    cumulative: ClassVar = MODEL.probability.cumsum(-1).tolist()
    successor: ClassVar = MODEL.successor.tolist()
    pay: ClassVar = MODEL.mean_reward.tolist()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed).random
        self.state = self.clock = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        state = self.state
        column = min(bisect(self.cumulative[state][action], self.random()), BRANCHING - 1)
        self.state = following = self.successor[state][action][column]
        self.clock += 1
        return following, self.pay[state][action], False, self.clock >= LIMIT, {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("replicas", "factor"), [(65_536, 3), (1_024, 2)])
def test_compiled_stepping_is_faster_than_gymnax_style_jax_with_alias_tables(
    replicas: int, factor: float, race: Any
) -> None:
    chunks = 8 if replicas > 10_000 else 256
    contestants = {
        "rlkit compiled": Ours(replicas, chunks),
        "JAX, a key a replica": jax_scan(replicas, max(1, chunks // 4), "replica"),
        "JAX, a key a step": jax_scan(replicas, max(1, chunks // 4), "block"),
    }
    result = race(contestants, rounds=5)
    assert result.ratio("JAX, a key a replica") >= factor
    # Not how Gymnax drives environments: rows then depend on their number. Shown beside it.
    assert result.ratio("JAX, a key a step") >= 1


@pytest.mark.timeout(900)
def test_compiled_stepping_is_a_hundred_times_sync_vector_env(race: Any) -> None:
    env = gymnasium.vector.SyncVectorEnv([TightMDP] * 1_024)
    env.reset(seed=0)
    actions = np.random.default_rng(1).integers(ACTIONS, size=(64, 1_024))

    def theirs() -> int:
        for step in range(200):
            env.step(actions[step % len(actions)])
        return 200 * 1_024

    contestants = {"rlkit compiled": Ours(1_024, chunks=256), "SyncVectorEnv": theirs}
    assert race(contestants, rounds=5).ratio("SyncVectorEnv") >= 100


MEMORY = """
import torch
torch.set_num_threads(1)
from rlkit.agents.bandits.uniform import Uniform
from rlkit.envs.tabular.garnet import Garnet
from rlkit.rollout import Rollout, Run
problem = Garnet(states=100, actions=4, branching=5, shared=True)
loop = Rollout(Run(problem, Uniform(), 10_000, 65_536, seed=3, group=65_536, tier="TIER"))
loop.advance(256)
loop.record()
assert loop.tier == "TIER"
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("tier", ["eager", "compiled"])
def test_peak_memory_of_65536_replicas_is_below_a_gibibyte(tier: str, note: Any) -> None:
    command = [sys.executable, "-c", MEMORY.replace("TIER", tier)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout) / 1000
    note(f"peak of the {tier} tier, MB", peak)
    assert peak < 1024
