"""Trajectories under fixed random actions, and where two of them differ."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from rlkit.checker.report import Fault
from rlkit.engine import BatchedEnv
from rlkit.protocol import ActionSpace, Discrete, Instance, MultiDiscrete, Problem, Tree
from rlkit.random import Rng

SEED = 123
ROWS = 7  # replicas in most checks
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}  # relative, for sums and matrix products


def choose_actions(space: ActionSpace, replica: Tensor, step: int) -> Tensor:
    """Uniform actions `[N, ...]`, a function of replica and step alone."""
    rng = Rng(SEED, "check", replica, step)
    if isinstance(space, Discrete):
        return rng.integers("action", space.n)
    if isinstance(space, MultiDiscrete):
        return rng.integers("action", space.n, space.length)
    low, high = max(space.low, -1e3), min(space.high, 1e3)
    return low + (high - low) * rng.uniform("action", *space.shape)


@dataclass(frozen=True)
class Trace:
    """What `rows` replicas saw: `[T, N, ...]` by name, and the instance before and after."""

    values: dict[str, Tensor]
    before: Instance
    after: Instance


def copy_tree(tree: Tree) -> Tree:
    """The same tree with tensors of its own."""
    return tree_map(torch.clone, tree)


def named_leaves(tree: Tree, prefix: str) -> list[tuple[str, Any]]:
    """Every leaf with its path, such as `state.position`."""
    return [(f"{prefix}{keystr(path)}", leaf) for path, leaf in tree_flatten_with_path(tree)[0]]


def form(leaf: Tensor) -> str:
    """Data type and shape in words: `float32 [7, 2]`."""
    return f"{str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}"


def record(
    problem: Problem,
    rows: int,
    first: int = 0,
    steps: int = 1000,
    limit: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> Trace:
    """Step `rows` replicas from number `first` on.

    Args:
        problem: to be stepped.
        rows: number of replicas.
        first: global number of the first.
        steps: number of steps.
        limit: time limit in place of the problem's own.
        watch: called with the number of each step when it is done.

    Raises:
        Fault: a value changed its shape or data type on the way.
    """
    env = BatchedEnv(
        problem, rows, first_replica=first, max_episode_steps=limit, check_actions=False
    )
    env.reset(seed=SEED)
    before = copy_tree(env.instance)
    past: dict[str, list[Tensor]] = {}
    for step in range(steps):
        action = choose_actions(env.spec_.action, env.replica, step)
        for name, value in outcome(env, action).items():
            values = past.setdefault(name, [])
            if values and form(values[0]) != form(value):
                raise Fault(
                    f"{name} is {form(value)} at step {step} and {form(values[0])} at step 0: "
                    "shapes and data types must not change"
                )
            values.append(value.clone())
        if watch is not None:
            watch(step)
    return Trace({name: torch.stack(row) for name, row in past.items()}, before, env.instance)


def outcome(env: BatchedEnv, action: Tensor) -> dict[str, Tensor]:
    """Everything that one step returns, by name."""
    observation, reward, terminated, truncated, info = env.step(action)
    told = {name: info[name] for name in info if name != "_final_obs"}
    flags = {"terminated": terminated, "truncated": truncated}
    return leaves_by_name({"observation": observation, "reward": reward, **told, **flags})


def leaves_by_name(seen: dict[str, Tree]) -> dict[str, Any]:
    """Leaves of every entry, named such as `observation['x']` and `feedback.score`."""
    return {path: leaf for name in seen for path, leaf in named_leaves(seen[name], name)}


def close(a: Tensor, b: Tensor, exact: bool) -> Tensor:
    """Elementwise equality, NaN equal to NaN; up to rounding unless `exact`."""
    same = (a == b) | ((a != a) & (b != b))
    if exact or not a.dtype.is_floating_point:
        return same
    tolerance = max(TOLERANCE.get(a.dtype, 1e-2), TOLERANCE.get(b.dtype, 1e-2))
    return same | ((a - b).abs() <= tolerance * (1 + b.abs()))


def first_difference(
    a: dict[str, Tensor], b: dict[str, Tensor], exact: bool
) -> tuple[int, int, str] | None:
    """Step, row and description of the earliest difference between two traces `[T, N, ...]`."""
    found: list[tuple[int, int, str]] = []
    for name, left in a.items():
        right = b[name]
        differs = (
            ~close(left, right, exact).flatten(2).all(2)
            if left.dim() > 2
            else (~close(left, right, exact))
        )
        if bool(differs.any()):
            step, row = (int(index) for index in differs.nonzero()[0])
            pair = f"{brief(left[step, row])} against {brief(right[step, row])}"
            found.append((step, row, f"{name} ({pair})"))
    return min(found) if found else None


def brief(value: Tensor) -> str:
    """A number, or the first few of an array."""
    numbers = value.reshape(-1)[:3].tolist()
    text = ", ".join(f"{number:.6g}" for number in numbers)
    return text if value.dim() == 0 else f"[{text}{', ...' if value.numel() > 3 else ''}]"


def generator_states() -> dict[str, bytes]:
    """State of each global generator, by its owner."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is watched, not used
    return {
        "Python's random": repr(random.getstate()).encode(),
        "numpy.random": repr((kind, rest)).encode() + np.asarray(keys).tobytes(),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
