"""`rlkit check`: what Gymnasium's and stable-baselines3's checkers see, and what they miss.

NaN after hundreds of steps, late or foreign randomness, replicas that influence each other,
regret that is negative or positive for the optimal policy, a problem that cannot be pickled or
differs in a fresh process: each has a check with a sentence of its own.
"""

from typing import Any

import gymnasium

from rlkit import parameters
from rlkit.adapters.single import SingleEnv
from rlkit.checker.behaviour import STEPS, Behaviour
from rlkit.checker.environment import Environment, Make
from rlkit.checker.process import Processes
from rlkit.checker.report import Fault, Finding, Report, run
from rlkit.checker.structure import VITAL, Structure
from rlkit.protocol import Problem
from rlkit.registry import entries
from rlkit.validation import nearest

__all__ = ["Fault", "Finding", "Report", "check", "check_environment", "check_problem"]

PREFIX = "rlkit/"


def check(env_id: str, **fields: Any) -> Report:
    """Check a registered problem, or any environment registered with Gymnasium.

    Args:
        env_id: such as `BernoulliBandit-v0`, `rlkit/BernoulliBandit-v0` or `CartPole-v1`.
        **fields: parameters of the problem or environment.

    Raises:
        ValueError: an unknown name, an unknown field, or a value out of range.
    """
    name = env_id.removeprefix(PREFIX)
    known = entries("problem")
    if name in known:
        problem = parameters.build("problem", {"name": name, **fields})
        return check_problem(problem, name=name)
    foreign = [other for other in gymnasium.registry if not other.startswith(PREFIX)]
    if ":" in env_id or env_id not in foreign:
        raise ValueError(f"environment {env_id!r} unknown{nearest(name, [*known, *foreign])}")
    return check_environment(lambda: gymnasium.make(env_id, **fields).unwrapped, env_id)


def check_problem(
    problem: Problem, *, name: str | None = None, steps: int = STEPS, spawn: bool = True
) -> Report:
    """Check a problem. The many-step checks run only if single calls pass.

    Args:
        problem: to be checked.
        name: it is registered under, for the round trip through names; None leaves that out.
        steps: length of the long trajectories, >= 1.
        spawn: whether to start a process, which takes seconds.
    """
    findings = run(Structure(problem).checks(), vital=VITAL)
    if all(finding.passed for finding in findings):
        findings += run(Behaviour(problem, steps).checks(), vital=("stable shapes",))
        environment = Environment(
            lambda: _single(problem, name, flatten=False),
            lambda: SingleEnv(problem, flatten=True, check_legality=False),
        )
        findings += run(environment.interface_checks())
    findings += run(Processes(problem, name, spawn).checks())
    return Report(name or type(problem).__name__, tuple(findings))


def _single(problem: Problem, name: str | None, flatten: bool) -> gymnasium.Env[Any, Any]:
    if name is None:
        return SingleEnv(problem, flatten=flatten, check_legality=False)
    fields = parameters.describe(name, problem)
    fields.pop("name")
    made = gymnasium.make(f"{PREFIX}{name}", **fields).unwrapped
    made.check_legality = False  # type: ignore[attr-defined]  # the checkers know no masks
    return made


def check_environment(make: Make, subject: str = "environment", steps: int = STEPS) -> Report:
    """Check a Gymnasium environment whose inside is unknown.

    Args:
        make: makes a fresh copy of it, without wrappers.
        subject: its name in the report.
        steps: length of the trajectories, >= 1.
    """
    return Report(subject, tuple(run(Environment(make, steps=steps).checks())))
