"""What a diffusion problem discloses, and the batches that agents hand it.

A task is a frozen reference sampler with a reward, of `N` replicas. Points are `[N, B, d]` in the
continuous case; in the discrete one they are tokens `[N, B, L]` int64, and where something must be
differentiable, relaxed letters `[N, B, L, 5]`, the last of which is the mask.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from rlkit.protocol import Spec
from rlkit.random import Rng


class Samples(NamedTuple):
    """Finished samples, however made."""

    point: Tensor  # [N, B, ...] x_0
    prompt: Tensor  # [N, B] int64


class Noise(NamedTuple):
    """Starts of chains, which the problem runs through its own frozen sampler."""

    point: Tensor  # [N, B, ...] x_T
    prompt: Tensor  # [N, B] int64


class Chains(NamedTuple):
    """Whole reverse chains; index 1 after the replica is the noise level t."""

    chain: Tensor  # [N, T + 1, B, ...] x_0, ..., x_T
    prompt: Tensor  # [N, B] int64
    log_probability: Tensor  # [N, T, B] of x_(t-1) given x_t at t - 1, under who wrote them

    @property
    def point(self) -> Tensor:
        """The samples x_0, `[N, B, ...]`."""
        return self.chain[:, 0]


class Scores(NamedTuple):
    """Feedback on a batch."""

    reward: Tensor  # [N, B] observed rewards
    point: Tensor  # [N, B, ...] x_0 that was scored


class StepScores(NamedTuple):
    """Feedback on one denoising step; what tells of x_0 is 0 before the last one."""

    log_reference: Tensor  # [N] float32 log-probability of the action under the reference sampler
    log_data: Tensor | tuple[()]  # [N] float64 of x_0, see `DiffusionTask.log_data`
    parts: dict[str, Tensor]  # [N] or [N, k] whose numbers all sum to the reward


class Optimum(NamedTuple):
    """Best reward minus `alpha` times path divergence, averaged over prompts, `[N]` each."""

    free: Tensor  # the law of x_T may change too, from p_T: alpha log Z
    fixed: Tensor  # x_T keeps the law of `start`; equal to `free` for masked sequences
    log_z: Tensor


class DiffusionTask(Protocol):
    """The reference sampler p_pre, its reward and, where there is one, its exact optimum."""

    @property
    def steps(self) -> int:
        """Denoising steps T of a chain."""

    @property
    def prompts(self) -> int:
        """Number of prompts C."""

    @property
    def exact(self) -> bool:
        """Whether `value` and `optimum` are available."""

    @property
    def differentiable(self) -> bool:
        """Whether `reward` has a gradient in points or relaxed letters."""

    def start(self, rng: Rng, name: str, count: int) -> Tensor:
        """Starts x_T, `[N, count, ...]`."""

    def data(self, rng: Rng, name: str, prompt: Tensor) -> Tensor:
        """Samples of the data law given `prompt` `[N, B]`, `[N, B, ...]`."""

    def step(self, x: Tensor, t: int, prompt: Tensor, rng: Rng, name: str) -> Tensor:
        """x_(t-1) of the reference given x_t, `[N, B, ...]`."""

    def log_probability(
        self, x: Tensor, t: int | Tensor, prompt: Tensor, following: Tensor
    ) -> Tensor:
        """Log-probability of x_(t-1) = `following` under the reference, `[N, B]`.

        Args:
            x: x_t, `[N, B, ...]`.
            t: in `1 .. T`, an integer or `[N, B]`.
            prompt: `[N, B]`.
            following: `[N, B, ...]`.
        """

    def log_data(self, point: Tensor, prompt: Tensor) -> Tensor | tuple[()]:
        """Exact log-probability of x_0 under the data law given `prompt`, `[N, B]`, or `()`.

        The data law is what the reference samples as T grows and abar_T goes to 0; the law of its
        own few steps differs and has no closed form. `()` where the data law is not known.
        """

    def expect(self, x: Tensor, t: int, prompt: Tensor) -> Tensor:
        """Mean of x_0 given x_t: points `[N, B, d]` or letters `[N, B, L, 4]`."""

    def reward(self, point: Tensor, prompt: Tensor) -> Tensor:
        """Observed reward of x_0: points, tokens, or relaxed letters `[N, B, L, 4 or 5]`."""

    def parts(self, point: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        """Summands of the observed reward, `[N, B]` or `[N, B, k]`; empty where it is one piece."""

    def gold(self, point: Tensor, prompt: Tensor) -> Tensor:
        """True reward; the observed one unless the problem has a proxy, `[N, B]`."""

    def value(self, x: Tensor, t: int, prompt: Tensor, alpha: float) -> Tensor:
        """Exact soft value `alpha log E[exp(gold / alpha) | x_t = x]`, `[N, B]`.

        Raises:
            ValueError: the task has none.
        """

    def optimum(self, alpha: float) -> Optimum:
        """Best objective for the true reward.

        Raises:
            ValueError: the task has none.
        """

    def front(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Divergence of x_0 and expected true reward of p*, `[N]` each.

        Raises:
            ValueError: the task has none.
        """


def knowledge(spec: Spec) -> DiffusionTask:
    """The task.

    Raises:
        ValueError: the problem is no diffusion MDP.
    """
    known: DiffusionTask | None = spec.known.diffusion
    if known is None:
        raise ValueError("the problem discloses no sampler; the agent needs known.diffusion")
    return known


def asked(task: DiffusionTask, rng: Rng, count: int, group: int = 1) -> Tensor:
    """Uniform prompts `[N, count]`, each `group` times in a row."""
    if task.prompts == 1:
        return rng.replica[:, None].expand(-1, count) * 0
    return rng.integers("prompt", task.prompts, count // group).repeat_interleave(group, 1)


def run_reference(
    task: DiffusionTask, start: Tensor, prompt: Tensor, rng: Rng, name: str = "chain"
) -> Tensor:
    """Samples x_0 of the reference from x_T = `start`, `[N, B, ...]`."""
    x = start
    for t in range(task.steps, 0, -1):
        x = task.step(x, t, prompt, rng, f"{name}/{t}")
    return x
