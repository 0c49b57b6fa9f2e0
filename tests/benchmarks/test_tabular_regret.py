"""Tabular regret experiments against rlberry: episodes per second.

RiverSwim, S = 6, H = 20, 1,000 episodes, 1,000 replicas here; the peers play one replica a round.
An episode is the same work everywhere: 20 steps, the update of the model, one backward induction
over all stages, and for PSRL one draw of the posterior. What differs is cheap: rlberry's PSRL has
Beta laws on rewards made binary, ours normal-gamma laws; its UCBVI has the bonus
`sqrt(1 / n) + H / n`, ours `(H - h + 1) sqrt(L / n)`.
"""

import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkit.agents.tabular.psrl import PSRL
from rlkit.agents.tabular.ucbvi import UCBVI
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="tabular regret", warmup=False),
    pytest.mark.filterwarnings("default"),  # the peers are not ours to mend
]

EPISODES, REPLICAS, HORIZON = 1_000, 1_000, 20
AGENTS = {"psrl": PSRL(), "ucbvi": UCBVI("stage", scale=0.1)}
FACTORS = {"psrl": 45, "ucbvi": 250}
RLBERRY = "RLKIT_RLBERRY_RESEARCH"


class Experiment:
    """All episodes of all replicas, rewound before each round."""

    def __init__(self, name: str) -> None:
        run = Run(RiverSwim(), AGENTS[name], EPISODES * HORIZON, REPLICAS, seed=1, tier="compiled",
                  group=REPLICAS)  # fmt: skip
        self.loop = Rollout(run)
        self.start = self.loop.state()
        self.loop.advance(3 * HORIZON)  # compiles the draws

    def __call__(self) -> int:
        self.loop.restore(self.start, 0)
        self.loop.advance(EPISODES * HORIZON)
        self.regret = self.loop.record()["regret"].numpy()
        return EPISODES * REPLICAS


def bare_packages(root: Path) -> None:
    """The packages above its agents, without their `__init__`, which import all of the library."""
    for name in ("rlberry_research", "rlberry_research.agents"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, package)
    sys.path.append(str(root))


def peer(name: str) -> Callable[[int], Any]:
    root = Path(os.environ.get(RLBERRY, ""))
    if not os.environ.get(RLBERRY) or not (root / "rlberry_research").is_dir():
        pytest.skip(f"{RLBERRY} does not name a source tree of rlberry-research")
    gymnasium = pytest.importorskip("gymnasium")
    if not hasattr(gymnasium.logger, "set_level"):  # gone from Gymnasium, called at import
        gymnasium.logger.set_level = lambda level: None
    pytest.importorskip("rlberry", reason="rlberry is not installed")
    from rlberry.envs.finite_mdp import FiniteMDP

    if name == "psrl":
        bare_packages(root)
        from rlberry_research.agents.psrl import PSRLAgent as Agent
    else:
        pytest.importorskip("rlberry_scool", reason="rlberry-scool is not installed")
        from rlberry_scool.agents.ucbvi import UCBVIAgent as Agent

    def make(seed: int) -> Any:
        kernel, reward = tables()
        return Agent(FiniteMDP(reward, kernel), gamma=1.0, horizon=HORIZON, seeder=seed)

    return make


def tables() -> tuple[Any, Any]:
    """RiverSwim, written from its description."""
    kernel, reward = np.zeros((6, 2, 6)), np.zeros((6, 2))
    for state in range(6):
        kernel[state, 0, max(0, state - 1)] = 1
        if 0 < state < 5:
            kernel[state, 1, state - 1 : state + 2] = 0.05, 0.6, 0.35
    kernel[0, 1, :2] = kernel[5, 1, 4:] = 0.4, 0.6
    reward[0, 0], reward[5, 1] = 0.005, 1
    return kernel, reward


class Peer:
    """One replica a call."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make, self.seed = make, 0
        make(0).fit(3)  # compiles

    def __call__(self) -> int:
        self.seed += 1
        self.make(self.seed).fit(EPISODES)
        return EPISODES


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FACTORS)
def test_an_episode_is_cheaper_by_the_factor(name: str, race: Any, note: Any) -> None:
    ours = Experiment(name)
    theirs = Peer(peer(name))
    result = race({"rlkit": ours, "rlberry": theirs}, rounds=3)
    note("mean regret, rlkit", float(ours.regret.mean()))
    assert result.ratio("rlberry") >= FACTORS[name]
