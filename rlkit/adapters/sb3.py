"""Problems as stable-baselines3 vector environments, without a Python loop over the rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.adapters.arrays import copy_arrays, flat_space, take_row, to_arrays, to_numpy
from rlkit.adapters.lookahead import Lookahead
from rlkit.engine import BatchedEnv
from rlkit.protocol import Box, Tree
from rlkit.spaces import is_bounded, shape_of
from rlkit.validation import nearest

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError(
        "SB3VecEnv needs stable-baselines3: install the extra 'rlkit-gym[sb3]'"
    ) from error

Indices = None | int | Iterable[int]


class SB3VecEnv(VecEnv):
    """A `BatchedEnv` for stable-baselines3: numpy, float32 rewards, one info dict a row.

    Matrix observations are flattened, empty ones become one zero, several at once are a dict of
    arrays, for `MultiInputPolicy`. `infos[i]` of an ended row holds `terminal_observation` and
    `TimeLimit.truncated` (False on a true termination). A seed serves all rows: they differ by
    their replica number, never by `seed + i`.

    Args:
        env: the rows.
        info_keys: diagnostics of the problem to put into every info, such as `("regret",)`; they
            cost time in every step.

    Raises:
        ValueError: an action space that stable-baselines3 does not know, or an unknown key.
    """

    def __init__(self, env: BatchedEnv, info_keys: tuple[str, ...] = ()) -> None:
        if not isinstance(
            env.single_action_space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete
        ):
            raise ValueError(f"stable-baselines3 cannot act in {env.single_action_space}")
        if not is_bounded(env.single_action_space):
            raise ValueError(
                f"stable-baselines3 cannot act in {env.single_action_space}, without bounds"
            )
        self.env, self.info_keys = env, info_keys
        self._actions: NDArray[Any] = np.zeros(0)
        self._seed: int | None = None
        self._ahead: Lookahead | None = None
        self._still: Any = np.zeros(0)
        action = env.spec_.action
        self._count = 0 if isinstance(action, Box) else action.n
        self._shape = (env.num_envs, *shape_of(action))
        flat = flat_space(env.single_observation_space)
        super().__init__(env.num_envs, flat, env.single_action_space)
        self._check_info_keys()

    def _check_info_keys(self) -> None:
        if not self.info_keys:
            return
        self.env.reset()
        action = torch.as_tensor(self.env.action_space.sample(), device=self.env.replica.device)
        known = self.env.problem.diagnostics(self.env.instance, self.env.state, action)
        for key in self.info_keys:
            if key not in known:
                raise ValueError(f"info_keys holds {key!r}{nearest(key, known)}")

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed of the next `reset`, the same for all rows; None goes on without one."""
        self._seed = None if seed is None else seed % 2**32
        return [self._seed] * self.num_envs

    def reset(self) -> Any:
        """Start episodes in all rows; observations `[N, ...]`, or a dict of such."""
        observation, _ = self.env.reset(seed=self._seed)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        if self._seed is not None or self._ahead is None:
            ahead = Lookahead(self.env)
            self._ahead = ahead if ahead.usable() and not self.info_keys else None
        if self._ahead is not None:
            self._ahead.elapsed = 0
        self._seed = None
        self._still = self._view(observation)
        return copy_arrays(self._still)

    def _view(self, observation: Tree) -> Any:
        return to_arrays(observation, self.observation_space, flatten=True)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the actions `[N, ...]`; `step_wait` takes them.

        Raises:
            ValueError: an action outside the action space.
        """
        if self._count:
            if np.asarray(actions).dtype.kind not in "iu":
                raise ValueError(f"actions {actions} are not integers")
            self._actions = np.array(actions, dtype=np.int64)
            # As unsigned numbers negative ones are large: one reduction checks both ends.
            if self._actions.view(np.uint64).max() >= self._count:
                raise ValueError(f"actions {actions} hold one outside 0 .. {self._count - 1}")
        else:
            self._actions = np.array(actions, dtype=np.float32)
            if not np.isfinite(self._actions).all():
                raise ValueError(f"actions {actions} hold a number that is not finite")
        if self._actions.shape != self._shape:
            space = self.env.single_action_space
            raise ValueError(
                f"actions {self._actions.shape}, not [{self.num_envs}, ...] of {space}"
            )

    def step_wait(self) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Observations, float32 rewards, ends of episodes and infos of the step."""
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if self._ahead is not None:
            seen = self._ahead.advance(self._actions)
            if seen is not None:
                return self._foreseen(*seen, infos)
            self._ahead = None
        env = self.env
        action = torch.from_numpy(self._actions)
        if env.replica.device.type != "cpu":
            action = action.to(env.replica.device)
        if self.info_keys:
            self._add_diagnostics(infos, action)
        done = env.advance(action)
        reward = done.reward.cpu().numpy().astype(np.float32)
        ends = to_numpy(done.ended)
        rows = np.flatnonzero(ends)
        if rows.size:
            final, cut = self._view(done.final), done.truncated.cpu().numpy()
            for row in rows.tolist():
                infos[row]["terminal_observation"] = take_row(final, row)
                infos[row]["TimeLimit.truncated"] = bool(cut[row])
        return self._view(done.observation), reward, ends, infos

    def _foreseen(
        self, reward: NDArray[Any], ended: bool, infos: list[dict[str, Any]]
    ) -> tuple[Any, NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """A step without state: the observation stands still, only the time limit ends."""
        if ended:
            for row, info in enumerate(infos):
                info["terminal_observation"] = copy_arrays(take_row(self._still, row))
                info["TimeLimit.truncated"] = True
        return copy_arrays(self._still), reward, np.full(self.num_envs, ended), infos

    def _add_diagnostics(self, infos: list[dict[str, Any]], action: torch.Tensor) -> None:
        gains = self.env.problem.diagnostics(self.env.instance, self.env.state, action)
        for key in self.info_keys:
            for info, value in zip(infos, gains[key].tolist(), strict=True):
                info[key] = value

    def close(self) -> None:
        """Release what the environment holds."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the batched environment or of its problem, once a row."""
        owner = self.env if hasattr(self.env, attr_name) else self.env.problem
        return [getattr(owner, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an existing attribute of the batched environment, for all rows at once.

        Raises:
            ValueError: some rows only, which share one environment.
            AttributeError: no such attribute.
        """
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError("indices choose some rows: they share one environment, give None")
        if not hasattr(self.env, attr_name):
            raise AttributeError(f"BatchedEnv has no attribute {attr_name!r}")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the batched environment once; its result, once a row."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """False for every row: there are no wrappers inside."""
        return [False] * len(list(self._get_indices(indices)))
