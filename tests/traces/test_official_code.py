"""Trace weights beside those of the authors' code, element by element.

Needs a clone of github.com/brett-daley/trajectory-aware-etraces (MIT); its folder is named by the
environment variable RLKIT_TRACE_CODE. Its environments need gym 0.19; a stand-in serves here.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rlkit.random import Rng
from rlkit.traces import (
    add_trace,
    clear,
    multistep_targets,
    start_traces,
    step_traces,
    trace_weights,
    weights,
)

FOLDER = os.environ.get("RLKIT_TRACE_CODE", "")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not FOLDER, reason="RLKIT_TRACE_CODE names no clone of the authors' code"),
]
PUBLISHED = {
    "retrace": "Retrace",
    "truncated_importance_sampling": "TruncatedIS",
    "recursive_retrace": "RecursiveRetrace",
    "rbis": "RBIS",
}
EARLIER = {
    "importance_sampling": "IS",
    "q_lambda": "Qlambda",
    "tree_backup": "TB",
    "retrace": "Retrace",
    "truncated_importance_sampling": "TruncatedIS",
    "recursive_retrace": "RecursiveRetrace",
    "moretrace": "Moretrace",
    "rbis": "Moretrace2",
}
COMMIT = "5242119~1"  # the last one in which all rules of the table above exist
AGREE = 1e-12  # relative; both sides multiply in double precision


class Corridor:
    """Stand-in for a gym environment: the first bifurcation grid, `G` pays 1 and ends."""

    rows = ("XX...", "XX.X.", "XX.XG", "XX.X.", "S....")

    def __init__(self) -> None:
        self.cells = [(r, c) for r in range(5) for c in range(5) if self.rows[r][c] != "X"]
        self.observation_space = SimpleNamespace(n=len(self.cells))
        self.action_space = SimpleNamespace(n=4, seed=lambda seed: None)

    def seed(self, seed: int) -> None:
        """Deterministic."""

    def reset(self) -> int:
        self.at = (4, 0)
        return self.cells.index(self.at)

    def step(self, action: int) -> tuple[int, float, bool, dict[str, object]]:
        done = self.rows[self.at[0]][self.at[1]] == "G"
        down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[action]
        to = (self.at[0] + down, self.at[1] + right)
        self.at = to if to in self.cells else self.at
        return self.cells.index(self.at), float(done), done, {}


@pytest.fixture
def official(monkeypatch) -> SimpleNamespace:
    """Modules `algorithms` and `training` of the authors' code, on a stand-in for gym."""
    gym = ModuleType("gym")
    gym.make = lambda name: Corridor()
    monkeypatch.setitem(sys.modules, "gym", gym)
    monkeypatch.syspath_prepend(FOLDER)
    for name in [name for name in sys.modules if name.startswith("trajectory_aware_etraces")]:
        monkeypatch.delitem(sys.modules, name)
    base = "trajectory_aware_etraces"
    return SimpleNamespace(
        algorithms=importlib.import_module(f"{base}.algorithms.algorithms"),
        training=importlib.import_module(f"{base}.experiments.training"),
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> ModuleType:
    """The offline traces of an earlier version, from the clone's history."""
    path = "moretrace/eligibility_traces/offline.py"
    command = ["git", "-C", FOLDER, "show", f"{COMMIT}:{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip("the clone has no history")
    file = Path(tmp_path_factory.mktemp("earlier")) / "earlier_traces.py"
    file.write_text(shown.stdout)
    spec = importlib.util.spec_from_file_location("earlier_traces", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policies(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the actions taken, of behaviour and target; some targets are 0."""
    rng = np.random.default_rng(seed)
    behaviour, target = rng.uniform(0.05, 1, steps), rng.uniform(0, 1, steps)
    return behaviour, target * (rng.random(steps) > 0.03)


def largest_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest relative difference; entries of 0 must be 0 on both sides."""
    scale = np.where(theirs == 0, 1, np.abs(theirs))
    return float((np.abs(ours - theirs) / scale).max())


@pytest.mark.parametrize("rule", PUBLISHED)
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 0.9, 1.0])
def test_weights_are_those_of_the_published_classes(rule, lambda_, official):
    for seed in range(50):
        behaviour, target = policies(seed, 40)
        traces = getattr(official.algorithms, PUBLISHED[rule])(0.9, lambda_)
        for t in range(40):
            traces.step(1.0, behaviour[t], target[t], False)
        theirs = traces.betas.numpy()[::-1]  # newest first
        ours = [
            trace_weights(rule, torch.as_tensor(target / behaviour)[40 - age :], lambda_)[-1]
            for age in range(40)
        ]
        assert largest_gap(np.array(ours), theirs) < AGREE


def online(rule: str, lambda_: float, gamma: float, steps: list[tuple[float, float, bool]]):
    """Our discounted weights after each step, oldest first."""
    rng = Rng(0, "learn", torch.arange(1))
    traces = start_traces(rng, 120, rule, dtype=torch.float64)
    live, result = 0, []
    for behaviour, target, done in steps:
        rho = torch.tensor([target / behaviour], dtype=torch.float64)
        traces = add_trace(step_traces(traces, rule, gamma, lambda_, rho), torch.tensor([0]))
        live += 1
        result.append(weights(traces)[0, :live].flip(0).numpy())
        if done:
            traces, live = clear(traces, torch.tensor([True])), 0
    return result


@pytest.mark.parametrize("rule", PUBLISHED)
@pytest.mark.parametrize("lambda_", [0.6, 1.0])
def test_a_control_trial_of_the_authors_meets_the_same_weights(rule, lambda_, official):
    official.training.CONFIG = {
        "max_episode_len": 50, "eval_eps": 0.05, "explore_episodes": 5, "vf_noise_std": 0.01,
    }  # fmt: skip
    traces = getattr(official.algorithms, PUBLISHED[rule])(0.9, lambda_)
    steps, theirs, step = [], [], traces.step

    def watched(error, behaviour, target, done):
        updates = step(error, behaviour, target, done)
        steps.append((behaviour, target, done))
        theirs.append(updates / error if error else None)
        return updates

    traces.step = watched
    official.training.run_control_trial("grid", 0.2, 0.1, traces, 0.9, 3000, seed=0)
    assert len(steps) > 3000 and sum(done for *_, done in steps) > 50
    gaps = [
        largest_gap(mine, other)
        for mine, other in zip(online(rule, lambda_, 0.9, steps), theirs, strict=True)
        if other is not None and len(other) <= 120
    ]
    assert len(gaps) > 2000 and max(gaps) < AGREE


@pytest.mark.parametrize("rule", EARLIER)
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_updates_are_those_of_the_earlier_offline_classes(rule, lambda_, earlier):
    for seed in range(30):
        behaviour, target = policies(seed, 30)
        error = np.random.default_rng(seed + 1).normal(size=30)
        made = getattr(earlier, EARLIER[rule])(0.9, lambda_)
        theirs = made(error, behaviour, target, np.zeros(30, dtype=bool))
        given = [torch.as_tensor(x) for x in (error, target / behaviour)]
        zero = torch.zeros(30, dtype=torch.float64)
        probability = torch.as_tensor(target)
        ours = multistep_targets(rule, zero, *given, 0.9, lambda_, probability).numpy()
        assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-12)
