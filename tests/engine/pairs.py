"""Every problem with every agent that can act on it."""

import hashlib
import json
import sys
import warnings
from functools import cache
from typing import Any

import torch

from rlkit import registry
from rlkit.rollout import Rollout, Run

STEPS = 24
SMALL: dict[str, dict[str, Any]] = {
    "FiniteHypothesisBandit-v0": {"hypotheses": 50},
    "FactoredTaxi-v0": {"size": 2},
    "RandomFactoredMDP-v0": {"state_features": 3, "action_features": 2},
    "ids_linear": {"samples": 16},
    # Short episodes: planners take less, and the run sees their ends.
    "Bifurcation-v0": {"horizon": 9},
    "DeepSea-v0": {"size": 5},
    "FrozenLake-v0": {"horizon": 9},
    "Garnet-v0": {"states": 8, "horizon": 9},
    "GridWorld-v0": {"horizon": 9},
    "RandomMDP-v0": {"states": 5, "horizon": 9},
    "Taxi-v0": {"horizon": 5},
    # Chains of few steps, networks of few weights.
    "GaussMixDiffusion-v0": {"steps": 3},
    "MaskedSeq-v0": {"length": 3, "steps": 3},
    "MotifDNA-v0": {"length": 12, "steps": 3, "training_steps": 4, "width": 8},
    "NoisePrompt-v0": {"steps": 3},
    "FewStepGauss-v0": {"steps": 2},
    "classifier_guidance": {"batch": 4, "pretrain": 16, "updates": 2},
    "ddpo": {"batch": 4, "hidden": (8,)},
    "diffusion_best_of_n": {"batch": 4, "candidates": 3},
    "diffusion_smc": {"batch": 3, "particles": 3},
    "dpok": {"batch": 4, "hidden": (8,), "replay": 8, "value_batch": 8},
    "dps": {"batch": 4},
    "drakes": {"batch": 4, "truncation": 2, "hidden": (8,)},
    "mmd_ddm": {"batch": 8, "hidden": (8,)},
    "refl": {"batch": 4, "hidden": (8,)},
    "sft_pg": {"batch": 8, "hidden": (8,)},
    "svdd": {"batch": 4, "candidates": 3},
    "tds": {"batch": 3, "particles": 3},
    "TokenChain-v0": {"modulus": 2, "steps": 2, "form": "short"},
    "TokenStyle-v0": {"horizon": 4},
}


def component(kind: str, name: str) -> Any:
    """A problem or agent with its default fields, small where the default is large."""
    return registry.load(kind, name)(**SMALL.get(name, {}))


def names(kind: str) -> list[str]:
    """Registered names of the shipped problems or agents."""
    return list(registry.entries(kind))


@cache
def pairs() -> list[tuple[str, str]]:
    """All (problem, agent) that do not refuse each other."""
    found = []
    for problem in names("problem"):
        for agent in names("agent"):
            try:
                rollout(problem, agent, replicas=2, group=2)
            except ValueError:
                continue
            found.append((problem, agent))
    return found


def rollout(problem: str, agent: str, chunk: int | None = None, **options: Any) -> Rollout:
    """A run of the pair, not started."""
    options = {"replicas": 10, "group": 64, "seed": 5} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run = Run(component("problem", problem), component("agent", agent), STEPS, **options)
        return Rollout(run, chunk)


def finished(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The final carry of a pair's run."""
    loop = rollout(*arguments, **options)
    loop.advance(STEPS)
    return loop.state()


def digest(state: dict[str, torch.Tensor], rows: int) -> str:
    """Hash of the first rows of every leaf."""
    total = hashlib.sha256()
    for name, leaf in sorted(state.items()):
        total.update(name.encode() + leaf[:rows].contiguous().numpy().tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({" ".join(p): digest(finished(*p), 10) for p in pairs()}, sys.stdout)
