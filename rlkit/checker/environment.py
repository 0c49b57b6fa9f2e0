"""Checks of a single Gymnasium environment, whoever wrote it."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence

from rlkit.adapters.single import SingleEnv
from rlkit.checker.report import Check, Fault, describe
from rlkit.checker.trace import SEED, generator_states
from rlkit.spaces import is_bounded

Make = Callable[[], gymnasium.Env[Any, Any]]
# An infinite bound is the truth of a Gaussian, a matrix that of an action set; an environment
# made by hand has no spec.
EXPECTED = ("infinity", "not having a spec", "unconventional shape", "symmetric and normalized")


class Environment:
    """Steps copies of one environment under fixed random actions."""

    def __init__(self, make: Make, make_flat: Make | None = None, steps: int = 1000) -> None:
        self.make, self.make_flat, self.steps = make, make_flat or make, steps

    def interface_checks(self) -> list[Check]:
        """Gymnasium's and stable-baselines3's own checkers."""
        return [("gymnasium", self.gymnasium), ("stable-baselines3", self.stable_baselines)]

    def checks(self) -> list[Check]:
        """All that can be said about an environment whose inside is unknown."""
        return [
            ("python numbers", self.python_numbers),
            ("finite", self.finite),
            ("observation", self.observation),
            ("global generators", self.global_generators),
            ("determinism", self.determinism),
            *self.interface_checks(),
        ]

    def gymnasium(self) -> None:
        """Gymnasium's `check_env`, its warnings counted as faults; pictures of ours only."""
        env = self.make()
        foreign = not isinstance(env, SingleEnv)
        refuse_warnings("Gymnasium", lambda: check_env(env, skip_render_check=foreign))

    def stable_baselines(self) -> str | None:
        """stable-baselines3's `check_env`, where it is installed and knows the actions."""
        try:
            from stable_baselines3.common.env_checker import check_env as check_sb3
        except ImportError:
            return "stable-baselines3 is not installed"
        env = self.make_flat()
        if not isinstance(env.action_space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete):
            return f"stable-baselines3 has no {type(env.action_space).__name__} actions"
        if not is_bounded(env.action_space):
            return "stable-baselines3 has no actions without bounds"
        refuse_warnings("stable-baselines3", lambda: check_sb3(env))
        return None

    def transitions(self, watch: Callable[[int], None] | None = None) -> list[tuple[Any, ...]]:
        """What `step` returned, step by step, reset at every end."""
        env = self.make()
        env.action_space.seed(SEED)
        env.reset(seed=SEED)
        rows = []
        for step in range(self.steps):
            row = env.step(env.action_space.sample())
            rows.append(row)
            if row[2] or row[3]:
                env.reset()
            if watch is not None:
                watch(step)
        env.close()
        return rows

    def python_numbers(self) -> None:
        """Rewards are numbers, flags are Python booleans."""
        for step, (_, reward, terminated, truncated, _) in enumerate(self.transitions()):
            for name, value in (("terminated", terminated), ("truncated", truncated)):
                if type(value) is not bool:
                    raise Fault(f"{name} is a {kind(value)} at step {step}: return bool({name})")
            if isinstance(reward, bool) or not isinstance(reward, int | float):
                raise Fault(f"reward is a {kind(reward)} at step {step}: return float(reward)")

    def finite(self) -> None:
        """No NaN, no infinity."""
        for step, (observation, reward, *_) in enumerate(self.transitions()):
            if not math.isfinite(reward):
                raise Fault(f"reward is {reward} at step {step}: every number must be finite")
            parts = observation.values() if isinstance(observation, dict) else [observation]
            if not all(np.isfinite(x).all() for x in parts if isinstance(x, np.ndarray)):
                raise Fault(f"observation is not finite at step {step}: mend the dynamics")

    def observation(self) -> None:
        """Every observation is in the observation space."""
        space = self.make().observation_space
        for step, (observation, *_) in enumerate(self.transitions()):
            if not space.contains(observation):
                raise Fault(f"observation {observation} at step {step} is not in {space}")

    def global_generators(self) -> None:
        """No global generator is read or seeded."""
        before = generator_states()

        def watch(step: int) -> None:
            for owner, state in generator_states().items():
                if state != before[owner]:
                    raise Fault(
                        f"the global generator of {owner} was used at step {step}: draw from "
                        "self.np_random"
                    )

        self.transitions(watch)

    def determinism(self) -> None:
        """Two copies with one seed return the same, early and late."""
        names = ("observation", "reward", "terminated", "truncated", "info")
        pairs = zip(self.transitions(), self.transitions(), strict=True)
        for step, (first, second) in enumerate(pairs):
            for name, a, b in zip(names, first, second, strict=True):
                if not data_equivalence(a, b, exact=True) and a == a:
                    raise Fault(
                        f"two copies with the same seed differ from step {step} on, in {name} "
                        f"({a} against {b}): all randomness must come from self.np_random"
                    )


def kind(value: object) -> str:
    """Name of a type with its library, for numpy has a `bool` too."""
    cls = type(value)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def refuse_warnings(owner: str, call: Callable[[], None]) -> None:
    """Run a checker; its refusal and any unexpected warning are faults."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except AssertionError as error:
            raise Fault(f"{owner}'s checker refuses: {describe(error)}") from error
    for warning in caught:
        text = str(warning.message).strip().splitlines()[0]
        if issubclass(warning.category, UserWarning) and not any(
            known in text for known in EXPECTED
        ):
            raise Fault(f"{owner}'s checker warns: {text}")
