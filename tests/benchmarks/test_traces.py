"""Control with eligibility traces against the code published with the paper: trials per second.

A trial is 3000 steps on the first bifurcation grid with an evaluation after every episode: exact
here, one rollout there. `RLKIT_TRACE_CODE` names a clone of brett-daley/trajectory-aware-etraces;
a few lines stand in for the old Gym that it runs on.
"""

import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkit.agents.tabular.trace_control import TraceControl
from rlkit.envs.tabular.bifurcation import LAYOUTS, Bifurcation
from rlkit.rollout import Rollout, Run

pytestmark = [
    pytest.mark.peers,
    pytest.mark.benchmark(timer=time.process_time, group="traces", warmup=False),
    pytest.mark.filterwarnings("default"),  # the peer is not ours to mend
]

CODE = "RLKIT_TRACE_CODE"
STEPS, REPLICAS, FACTOR = 3000, 1000, 25
NAMES = {"rbis": "RBIS", "truncated_importance_sampling": "TruncatedIS", "retrace": "Retrace"}


class Maze:
    """The first grid with the four methods of Gym that the published code calls."""

    def __init__(self) -> None:
        rows = LAYOUTS[0].split("|")
        marks = {(i, j): mark for i, row in enumerate(rows) for j, mark in enumerate(row)}
        free = {place: state for state, place in enumerate(p for p in marks if marks[p] != "X")}
        moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
        self.following = [
            [free.get((i + di, j + dj), state) for di, dj in moves]
            for (i, j), state in free.items()
        ]
        self.start, self.goal = (free[p] for mark in "SG" for p in marks if marks[p] == mark)
        self.observation_space, self.action_space = Space(len(free)), Space(4)

    def seed(self, seed: int) -> None:
        """Nothing here is random."""

    def reset(self) -> int:
        self.state = self.start
        return self.state

    def step(self, action: int) -> tuple[int, float, bool, dict[str, Any]]:
        if self.state == self.goal:
            return self.state, 1.0, True, {}
        self.state = self.following[self.state][action]
        return self.state, 0.0, False, {}


class Space:
    """A discrete space."""

    def __init__(self, n: int) -> None:
        self.n = n

    def seed(self, seed: int) -> None:
        """Not sampled from."""


class Published:
    """One trial a call of the published code."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        root = Path(os.environ.get(CODE, ""))
        if not os.environ.get(CODE) or not (root / "trajectory_aware_etraces").is_dir():
            pytest.skip(f"{CODE} does not name a clone of trajectory-aware-etraces")
        pytest.importorskip("yaml")
        gym = types.ModuleType("gym")
        gym.make = lambda name: Maze()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "gym", gym)
        monkeypatch.syspath_prepend(str(root))
        from trajectory_aware_etraces import algorithms
        from trajectory_aware_etraces.experiments import training

        training.CONFIG = {
            "max_episode_len": 50,
            "eval_eps": 0.05,
            "explore_episodes": 5,
            "vf_noise_std": 0.01,
        }
        self.trial = training.run_control_trial
        self.rule = getattr(algorithms, NAMES[name])
        self.areas: list[float] = []

    def __call__(self) -> int:
        traces, seed = self.rule(0.9, 0.6), len(self.areas)
        curve = self.trial("maze", 0.2, 0.1, traces, 0.9, STEPS, seed)
        self.areas.append(float(curve.sum()))
        return 1


class Ours:
    """All replicas a call."""

    def __init__(self, name: str) -> None:
        agent = TraceControl(rule=name, lambda_=0.6, alpha=0.9, monitor=True)
        problem = Bifurcation(grid=1, horizon=10**6)
        self.loop = Rollout(Run(problem, agent, STEPS, REPLICAS, seed=1, group=REPLICAS))
        self.start = self.loop.state()

    def __call__(self) -> int:
        self.loop.restore(self.start, 0)
        self.loop.advance(STEPS)
        self.areas = self.loop.record()["auc"].numpy()
        return REPLICAS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_trials_are_faster_by_the_factor_and_learn_as_well(
    name: str, race: Any, note: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = Published(name, monkeypatch), Ours(name)
    result = race({"rlkit": ours, "published code": theirs}, rounds=3)
    for _ in range(57):
        theirs()
    note("area, rlkit", ours.areas.mean())
    note("area, published code", float(np.mean(theirs.areas)))
    assert result.ratio("published code") >= FACTOR
    # Sixty trials of theirs: five standard errors, with the spread of ours.
    error = ours.areas.std() * np.sqrt(1 / len(theirs.areas) + 1 / REPLICAS)
    assert abs(np.mean(theirs.areas) - ours.areas.mean()) <= 5 * error
