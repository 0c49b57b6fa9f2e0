"""Denoising steps as bounded residuals on the reference, as stable-baselines3 wants actions."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.adapters.single import SingleEnv
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.problem import ChainState, DiffusionProblem
from rlkit.protocol import Composite
from rlkit.validation import check_real


class ResidualActions(
    gymnasium.Wrapper[Any, NDArray[Any], Any, NDArray[Any]], gymnasium.utils.RecordConstructorArgs
):
    """One chain of points with actions `a` `[d]` in units of the noise: x_(t-1) = mean + sigma a.

    Mean and sigma are those of the reference at x_t, so that zero denoises without noise and a
    standard normal `a` is the reference itself, but for the share beyond `bound`. The log-density
    of x_(t-1) is that of `a` less `d log sigma_t`: a Gaussian policy over `a` with its initial
    standard deviation of 1 is the sampler with a moved mean, and ratios of policies are those of
    samplers. Observations stay as they are, for `MultiInputPolicy`.

    Args:
        env: of a problem whose actions are points x_(t-1), such as
            `gymnasium.make("rlkit/GaussMixDiffusion-v0")`.
        bound: largest residual in every coordinate, > 0.

    Raises:
        ValueError: `bound` outside its range; tokens, one step, or no diffusion at all; reverse
            steps that are no Gaussians with a density.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], bound: float = 5.0) -> None:
        check_real("bound", bound, 0, open_low=True)
        gymnasium.utils.RecordConstructorArgs.__init__(self, bound=bound)
        task = gaussian_task(env)
        super().__init__(env)
        self.bound = float(bound)
        shape = (task.dimension,)
        self.action_space = spaces.Box(-self.bound, self.bound, shape, dtype=np.float32)

    def reference(self) -> tuple[NDArray[Any], float]:
        """Mean `[d]` and standard deviation of x_(t-1) under the reference at the present x_t.

        Raises:
            RuntimeError: no chain was begun.
        """
        task = gaussian_task(self.env)
        state: ChainState | None = self.env.unwrapped.batch.state  # type: ignore[attr-defined]
        if state is None:
            raise RuntimeError("no chain was begun: call reset() first")
        x, prompt, t = state.point[:, None], state.prompt[:, None], max(1, int(state.time[0]))
        mean, deviation = task.kernel.gaussian(x, task.expect(x, t, prompt), t)
        return vector(mean), float(deviation.reshape(-1)[0])

    def step(self, action: NDArray[Any]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the residual `action` `[d]`.

        Raises:
            ValueError: an action outside the action space.
        """
        action = np.asarray(action, np.float32)
        if not self.action_space.contains(action):
            raise ValueError(f"action = {action!r} outside {self.action_space}")
        mean, deviation = self.reference()
        return self.env.step((mean + deviation * action).astype(np.float32))


def vector(points: Tensor) -> NDArray[Any]:
    """The only point of `[1, 1, d]`, `[d]`."""
    array: NDArray[Any] = points[0, 0].cpu().numpy()
    return array


def gaussian_task(env: gymnasium.Env[Any, Any]) -> GaussianDiffusion:
    """The sampler of an environment whose actions are its next points.

    Raises:
        ValueError: tokens, one step, or no diffusion at all; reverse steps without a density or
            that are mixtures.
    """
    inner = env.unwrapped
    problem = inner.problem if isinstance(inner, SingleEnv) else inner
    task = None
    if isinstance(inner, SingleEnv) and isinstance(problem, DiffusionProblem):
        spec = inner.batch.spec_
        task = spec.known.diffusion if isinstance(spec.observation, Composite) else None
    if not isinstance(task, GaussianDiffusion):
        raise ValueError(
            f"env = {problem!r} has no actions that are points x_(t-1); accepted: problems such "
            "as GaussMixDiffusion-v0 or FewStepGauss-v0"
        )
    kernel = task.kernel
    if kernel.kind == "exact" or kernel.deterministic:
        raise ValueError(
            f"kernel = {kernel.kind!r} with eta = {kernel.eta} has no Gaussian steps; accepted: "
            "'ddpm', or 'ddim' with eta > 0"
        )
    return task
