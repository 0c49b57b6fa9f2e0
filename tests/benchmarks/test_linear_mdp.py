"""Least-squares value iteration with features against rlberry-scool: replica-episodes per second.

One linear MDP, H = 3, five states a stage, two actions, three features; 1,000 replicas here, the
peer plays one a round. Both regress at the end of every episode on all data so far: rlberry from
stored transitions, all stages sharing one design matrix and all data, with the bonus
`c |phi| + v_max |phi|^2`; ours with a regression a stage, fed from sums. The work of the peer grows
with the number of episodes, ours does not: the ratio is that of the first `EPISODES`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from rlkit.agents.linear.lsvi_ucb import LSVIUCB
from rlkit.envs.linear.linear_mdp import LinearMDP
from rlkit.linear_mdps import LinearMDPs
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="linear MDP", warmup=False),
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]

EPISODES, REPLICAS, HORIZON = 200, 1_000, 3
FACTOR = 600


@dataclass(frozen=True)
class Shared(LinearMDP):
    """Replica 0's problem in every replica, so that the peer can play it too."""

    def draw(self, rng: Rng) -> LinearMDPs:
        """The tables of replica 0 for all."""
        one = super().draw(Rng(rng.seed, rng.stream, torch.zeros_like(rng.replica[:1])))
        return LinearMDPs(*(leaf.repeat(rng.n, *[1] * (leaf.dim() - 1)) for leaf in one))


PROBLEM = Shared(5, 2, 3, HORIZON)


class Experiment:
    """All episodes of all replicas, rewound before each round."""

    def __init__(self) -> None:
        run = Run(PROBLEM, LSVIUCB(), EPISODES * HORIZON, REPLICAS, seed=1, group=REPLICAS)
        self.loop = Rollout(run)
        self.start = self.loop.state()

    def __call__(self) -> int:
        self.loop.restore(self.start, 0)
        self.loop.advance(EPISODES * HORIZON)
        return EPISODES * REPLICAS


def peer(tables: Any) -> Callable[[int], Any]:
    gymnasium = pytest.importorskip("gymnasium")
    if not hasattr(gymnasium.logger, "set_level"):  # gone from Gymnasium, called at import
        gymnasium.logger.set_level = lambda level: None
    pytest.importorskip("rlberry", reason="rlberry is not installed")
    pytest.importorskip("rlberry_scool", reason="rlberry-scool is not installed")
    from rlberry.envs.finite_mdp import FiniteMDP
    from rlberry_scool.agents.features import FeatureMap
    from rlberry_scool.agents.linear.lsvi_ucb import LSVIUCBAgent

    kernel = tables.model.dense().kernel[0].numpy()
    reward = tables.model.mean_reward[0].numpy()
    flat = tables.linear.features[0].flatten(0, 1).numpy()
    phi = np.concatenate([flat, np.zeros_like(flat[:1])])

    class Table(FeatureMap):
        def __init__(self) -> None:
            super().__init__()
            self.shape = phi.shape[-1:]

        def reset(self) -> None:
            pass

        def map(self, observation: int, action: int) -> Any:
            return phi[observation, action]

    def make(seed: int) -> Any:
        env = FiniteMDP(reward, kernel, initial_state_distribution=0)
        return LSVIUCBAgent(env, HORIZON, lambda env: Table(), gamma=1.0, seeder=seed)

    return make


class Peer:
    """One replica a call."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make, self.seed = make, 0
        make(0).fit(3)

    def __call__(self) -> int:
        self.seed += 1
        self.make(self.seed).fit(EPISODES)
        return EPISODES


@pytest.mark.timeout(1800)
def test_an_episode_of_lsvi_ucb_is_cheaper_by_the_factor(race: Any, note: Any) -> None:
    ours = Experiment()
    theirs = Peer(peer(ours.loop.groups[0].instance.replica))
    result = race({"rlkit": ours, "rlberry": theirs}, rounds=3)
    note("mean regret, rlkit", float(ours.loop.record()["regret"].numpy().mean()))
    assert result.ratio("rlberry") >= FACTOR
