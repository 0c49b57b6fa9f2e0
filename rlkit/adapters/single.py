"""One replica of a problem as a Gymnasium environment on numpy."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rlkit.adapters import render
from rlkit.adapters.arrays import first_row, flat_space, take_row, to_arrays, to_numpy
from rlkit.engine import BatchedEnv
from rlkit.grids import Scene
from rlkit.legality import check_legal, legal_actions
from rlkit.protocol import Discrete, Instance, Problem, Tree
from rlkit.spaces import check_action
from rlkit.validation import check_choice


class SingleEnv(gymnasium.Env[Any, Any]):
    """Row `first_replica` of the vector environment, alone.

    Observations are Python integers, numpy arrays or dicts of such, rewards and flags Python
    numbers. At the end of an episode `step` returns the last observation of that episode; `reset`
    starts the next.

    Args:
        problem: what to simulate.
        render_mode: None, "ansi" or "rgb_array" (tasks with discrete actions, and problems with a
            method `render(instance, observation) -> Scene`, `observation` `[1, ...]`).
        max_episode_steps: time limit in place of the problem's own, >= 1.
        device: where the engine computes.
        first_replica: which replica this is, >= 0.
        flatten: give observations as vectors of at least one number, as policy networks want.
        check_legality: refuse illegal actions of the action space; else the problem replaces them.

    Raises:
        ValueError: an argument outside its range, or a picture of continuous actions asked for.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        device: str = "cpu",
        first_replica: int = 0,
        flatten: bool = False,
        check_legality: bool = True,
    ) -> None:
        self.problem, self.check_legality = problem, check_legality
        self.batch = BatchedEnv(
            problem,
            1,
            first_replica=first_replica,
            device=device,
            max_episode_steps=max_episode_steps,
            check_actions=False,
        )
        space = self.batch.single_observation_space
        self.observation_space = flat_space(space) if flatten else space
        self._flatten = flatten
        self.action_space = self.batch.single_action_space
        action = self.batch.spec_.action
        self._actions = action.n if isinstance(action, Discrete) else 0
        self._scene: Callable[[Instance, Tree], Scene] | None = getattr(problem, "render", None)
        drawn = ["ansi", "rgb_array"] if self._actions or self._scene else []
        self.metadata = {"render_modes": drawn, "render_fps": 4}
        if render_mode is not None:
            check_choice("render_mode", render_mode, drawn)
        self.render_mode = render_mode
        self._tally: render.Tally | None = None
        self._seen: Tree = None
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; a seed draws a new instance and starts its randomness afresh.

        Without a seed the instance stays and the randomness goes on. Never-seeded environments
        use seed 0. Token MDPs start in the middle of a response with `options={"prompt": i,
        "prefix": [...]}`, and have the legal tokens in `info["action_mask"]`.
        """
        super().reset(seed=seed)
        if seed is not None and seed >= 2**32:
            seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        observation, _ = self.batch.reset(seed=seed, options=options)
        pictured = self.render_mode is not None and self._scene is None
        if pictured and (seed is not None or self._tally is None):
            self._tally = render.Tally(self._actions)
        self._running = True
        return self._view(observation), self._masks(self.batch.state)

    def _masks(self, state: Tree) -> dict[str, Any]:
        """Legal actions in a state as Gymnasium's `Discrete.sample` takes them, int8.

        Of sequences one row an entry, `[length, A]`: `MultiDiscrete.sample` wants their tuple.
        """
        masks = legal_actions(self.problem, self.batch.instance, state)
        return {k: to_numpy(v[0]).astype(np.int8) for k, v in masks.items()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action; `info` holds the discount, the problem's diagnostics and its feedback.

        Raises:
            ValueError: an action outside the action space.
            RuntimeError: no episode is running.
        """
        if not self._running:
            raise RuntimeError("no episode is running: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action = {action!r} outside {self.action_space}")
        batch = self.batch
        row = torch.as_tensor(np.asarray(action)[None], device=batch.replica.device)
        check_action(batch.spec_.action, row, 1)
        if self.check_legality:
            check_legal(self.problem, batch.instance, batch.state, row, batch.elapsed)
        with torch.no_grad():
            gains = self.problem.diagnostics(batch.instance, batch.state, row)
            done = batch.advance(row)
        reward = float(done.reward)
        info = {"discount": float(done.discount), **{k: float(v) for k, v in gains.items()}}
        if self._tally is not None:
            self._tally.add(int(action), reward)
        if done.feedback is not None:
            info["feedback"] = first_row(done.feedback)
        info |= self._masks(done.successor)
        terminated, truncated = bool(done.terminated), bool(done.truncated)
        self._running = not (terminated or truncated)
        return self._view(done.final), reward, terminated, truncated, info

    def _view(self, observation: Tree) -> Any:
        self._seen = observation
        view = take_row(to_arrays(observation, self.observation_space, self._flatten), 0)
        if isinstance(self.observation_space, spaces.Discrete):
            return int(view)
        return view

    def render(self) -> Any:
        """The problem's scene, text or `[H, W, 3]`; None before the first reset.

        Problems that draw none show counts and mean rewards of the actions since the last seed.
        """
        textual = self.render_mode == "ansi"
        if self._tally is not None:
            return self._tally.text() if textual else self._tally.picture()
        if self.render_mode is None or self._scene is None or self._seen is None:
            return None
        scene = self._scene(self.batch.instance, self._seen)
        return render.text(scene) if textual else render.picture(scene)
