"""Problems as other libraries want them: single environments, vector environments, SB3.

`gymnasium.make("rlkit/...")` and `gymnasium.make_vec("rlkit/...")` come here by name.
"""

from typing import TYPE_CHECKING, Any

from rlkit import parameters
from rlkit.adapters.single import SingleEnv
from rlkit.adapters.third_party import ThirdPartyRollout, make_third_party
from rlkit.engine import BatchedEnv
from rlkit.protocol import Problem

if TYPE_CHECKING:
    from rlkit.adapters.residual import ResidualActions
    from rlkit.adapters.sb3 import SB3VecEnv

__all__ = [
    "ResidualActions",
    "SB3VecEnv",
    "SingleEnv",
    "ThirdPartyRollout",
    "build",
    "make_single",
    "make_third_party",
    "make_vector",
]


def build(problem: str | Problem, fields: dict[str, Any]) -> Problem:
    """The problem registered under a name, with these fields; a problem is handed through.

    Raises:
        ValueError: no such name, no such field, or a field outside its range.
    """
    if not isinstance(problem, str):
        if fields:
            raise ValueError(f"fields {sorted(fields)} given beside a finished problem {problem!r}")
        return problem
    built: Problem = parameters.build("problem", {"name": problem, **fields})
    return built


def make_single(
    *,
    problem: str | Problem,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    device: str = "cpu",
    first_replica: int = 0,
    flatten: bool = False,
    **fields: Any,
) -> SingleEnv:
    """A Gymnasium environment of one replica, numpy in and out.

    Args:
        problem: registered name, or a finished problem.
        render_mode: None, "ansi" or "rgb_array".
        max_episode_steps: time limit in place of the problem's own, >= 1.
        device: where the engine computes.
        first_replica: which replica it is; row `i` of a vector environment is replica `i`.
        flatten: give matrix observations as vectors, as stable-baselines3 wants them.
        **fields: of the problem's dataclass.

    Raises:
        ValueError: an unknown name or field (the message names the nearest), or a bad value.
    """
    return SingleEnv(
        build(problem, fields),
        render_mode=render_mode,
        max_episode_steps=max_episode_steps,
        device=device,
        first_replica=first_replica,
        flatten=flatten,
    )


def make_vector(
    *,
    problem: str | Problem,
    num_envs: int,
    max_episode_steps: int | None = None,
    device: str = "cpu",
    first_replica: int = 0,
    **fields: Any,
) -> BatchedEnv:
    """A Gymnasium vector environment on torch tensors.

    Args:
        problem: registered name, or a finished problem.
        num_envs: rows, >= 1.
        max_episode_steps: time limit in place of the problem's own, >= 1.
        device: of every tensor.
        first_replica: replica number of row 0.
        **fields: of the problem's dataclass.

    Raises:
        ValueError: an unknown name or field (the message names the nearest), or a bad value.
    """
    return BatchedEnv(
        build(problem, fields),
        num_envs,
        first_replica=first_replica,
        device=device,
        max_episode_steps=max_episode_steps,
    )


def __getattr__(name: str) -> Any:
    """Import adapters with heavy dependencies when they are first asked for."""
    if name == "ResidualActions":
        from rlkit.adapters.residual import ResidualActions

        return ResidualActions
    if name == "SB3VecEnv":
        from rlkit.adapters.sb3 import SB3VecEnv

        return SB3VecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
