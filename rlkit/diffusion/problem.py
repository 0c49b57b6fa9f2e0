"""Diffusion MDPs as problems: step by step, and as batches of chains.

One problem serves two kinds of agents. For one that acts with x_(t-1) it is an MDP of T steps whose
reward comes last. For one that acts with `Chains`, `Samples` or `Noise`, a step is an iteration:
the problem scores the batch, after running its frozen sampler on `Noise`.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking, trusted
from rlkit.diffusion.masked import LETTERS, check_tokens
from rlkit.diffusion.task import (
    Chains,
    DiffusionTask,
    Noise,
    Samples,
    Scores,
    StepScores,
    run_reference,
)
from rlkit.protocol import Box, Composite, Discrete, Instance, Known, MultiDiscrete, Spec, Step
from rlkit.random import Rng
from rlkit.spaces import WHOLE, shape_of


class ChainState(NamedTuple):
    """A chain under way; an agent that acts with batches leaves it as it is."""

    point: Tensor  # [N, ...] x_t
    time: Tensor  # [N] int64 t, T .. 0
    prompt: Tensor  # [N] int64
    noise: Tensor | tuple[()] = ()  # [N, T, d] of a sampler that the problem runs
    given: Tensor | tuple[()] = ()  # [N] bool: use `noise`, else draw


class DiffusionProblem:
    """Everything a diffusion MDP needs beside its task; inherit and add fields.

    Subclasses define `horizon` (the T steps of a chain), `instance`, and `task`.
    """

    options: ClassVar[tuple[str, ...]] = ("c", "x_T")  # of `reset_to`

    @property
    def horizon(self) -> int:
        """Denoising steps of a chain."""
        raise NotImplementedError(f"{type(self).__name__} has no horizon")

    def task(self, instance: Instance) -> DiffusionTask:
        """The sampler with its reward, from what `instance` drew."""
        raise NotImplementedError(f"{type(self).__name__} has no task")

    def point_space(self, task: DiffusionTask) -> Box | MultiDiscrete:
        """Where points lie."""
        raise NotImplementedError(f"{type(self).__name__} has no space of points")

    def legalise(self, state: ChainState, action: Tensor) -> Tensor:
        """`action` `[N, ...]`, or where it is no successor of the state, one that is."""
        return action

    def finished(self, over: Tensor, following: Tensor) -> Tensor:
        """`following` `[N, ...]` where chains are over, else some point that is finished."""
        return following

    def reset(self, instance: Instance, rng: Rng) -> ChainState:
        """A prompt and pure noise."""
        task = self.task(instance)
        prompt = rng.integers("prompt", task.prompts)
        time = torch.full_like(prompt, task.steps)
        return ChainState(task.start(rng, "start", 1)[:, 0], time, prompt)

    def reset_to(
        self, instance: Instance, options: dict[str, Any], usual: ChainState
    ) -> tuple[ChainState, Tensor]:
        """Chains that begin at `options["c"]`, `options["x_T"]`; and their steps so far, 0.

        Actions carry the noise of their steps, so that there is no option for it here.

        Raises:
            ValueError: other options, a prompt that does not exist, a start of another shape or
                outside the space of points.
        """
        if "noise" in options:
            raise ValueError(
                "noise is an option where the problem runs a sampler with noise; here the action "
                "is x_(t-1) itself and nothing is drawn; accepted: 'c', 'x_T'"
            )
        if set(options) - set(self.options):
            accepted = ", ".join(map(repr, self.options))
            raise ValueError(f"options hold {sorted(options)}; accepted: {accepted}")
        task, like = self.task(instance), usual.point
        prompt = numbers("c", options.get("c", usual.prompt), like.device)
        if prompt.dtype not in WHOLE or prompt.shape not in ((), usual.prompt.shape):
            raise ValueError(f"c = {prompt.tolist()}; accepted: an integer, or one a chain")
        prompt = prompt.long()
        if int(prompt.min()) < 0 or int(prompt.max()) >= task.prompts:
            raise ValueError(f"c = {prompt.tolist()}; accepted: 0 .. {task.prompts - 1}")
        start = numbers("x_T", options.get("x_T", like), like.device)
        if start.shape not in (like.shape, like.shape[1:]):
            raise ValueError(f"x_T has shape {tuple(start.shape)}; accepted: {tuple(like.shape)}")
        self.check_start(task, start.expand(like.shape))
        state = usual._replace(
            point=start.to(like.dtype).expand_as(like), prompt=prompt.expand_as(usual.prompt)
        )
        return state, torch.zeros_like(usual.time)

    def check_start(self, task: DiffusionTask, start: Tensor) -> None:
        """Refuse an x_T `[N, ...]` where no chain goes on.

        Raises:
            ValueError: not finite.
        """
        if not bool(torch.isfinite(start).all()):
            raise ValueError("x_T holds a number that is not finite; accepted: (-inf, inf)")

    def transition(self, instance: Instance, state: ChainState, action: Any, rng: Rng) -> Step:
        """Take the step to x_(t-1) = `action` `[N, ...]`, or score a batch."""
        task = self.task(instance)
        if isinstance(action, (Chains, Samples, Noise)):
            return self.scored(task, state, action, rng)
        following = self.legalise(state, action.to(state.point.dtype))
        time, prompt = state.time.clamp(min=1)[:, None], state.prompt[:, None]
        with trusted():
            law = task.log_probability(state.point[:, None], time, prompt, following[:, None])
        over = state.time == 1
        ending = task.reward(following[:, None], prompt)[:, 0].float()
        reward = torch.where(over, ending, torch.zeros_like(ending))
        after = ChainState(following, (state.time - 1).clamp(min=0), state.prompt)
        known, parts = ended(task, over, self.finished(over, following), state.prompt, reward)
        return Step(after, reward, (~over).float(), StepScores(law[:, 0].float(), known, parts))

    def scored(
        self, task: DiffusionTask, state: ChainState, batch: Chains | Samples | Noise, rng: Rng
    ) -> Step:
        """Feedback on samples; the reward is their mean.

        Raises:
            ValueError: samples or prompts of another shape, a prompt that does not exist, a sample
                that is not finite or holds masks, a reward of another shape or not finite.
        """
        point = batch.point
        self.check_batch(task, state, batch)
        if isinstance(batch, Noise):
            point = run_reference(task, point, batch.prompt, rng)
        check_finite("the action", point)
        if point.dtype == torch.int64:
            check_tokens("the action", point, point.shape[2], LETTERS - 1)
        with torch.no_grad():
            reward = task.reward(point, batch.prompt)
        if reward.shape != batch.prompt.shape:
            raise ValueError(
                f"reward has shape {tuple(reward.shape)}; accepted: {tuple(batch.prompt.shape)}"
            )
        check_finite("the reward", reward)
        mean = reward.mean(1).float()
        return Step(state, mean, torch.ones_like(mean), Scores(reward, point))

    def check_batch(
        self, task: DiffusionTask, state: ChainState, batch: Chains | Samples | Noise
    ) -> None:
        """Refuse batches that are no points with their prompts.

        Raises:
            ValueError: another shape, or a prompt that does not exist.
        """
        prompt, size = batch.prompt, tuple(batch.prompt.shape)
        if len(size) != 2 or size[0] != len(state.time):
            raise ValueError(f"prompt has shape {size}; accepted: [{len(state.time)}, B]")
        accepted = (*size, *shape_of(self.point_space(task)))
        if tuple(batch.point.shape) != accepted:
            raise ValueError(f"point has shape {tuple(batch.point.shape)}; accepted: {accepted}")
        if checking(prompt) and bool(((prompt < 0) | (prompt >= task.prompts)).any()):
            raise ValueError(f"prompt = {prompt.tolist()}; accepted: 0 .. {task.prompts - 1}")

    def observe(self, instance: Instance, state: ChainState) -> dict[str, Tensor]:
        """The point x_t, its level t and the prompt c."""
        return {"x": state.point, "t": state.time, "c": state.prompt}

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the sampler and its reward."""
        task = self.task(instance)
        space = self.point_space(task)
        parts = (("x", space), ("t", Discrete(task.steps + 1)), ("c", Discrete(task.prompts)))
        return Spec(Composite(parts), space, self.horizon, Known(diffusion=task))

    def diagnostics(self, instance: Instance, state: ChainState, action: Any) -> dict[str, Tensor]:
        """Number of rewards asked for, `[N]`: those of a batch, or 1 where a chain ends."""
        if isinstance(action, (Chains, Samples, Noise)):
            return {"queries": torch.full_like(state.time, action.prompt.shape[1]).double()}
        return {"queries": (state.time == 1).double()}


def ended(
    task: DiffusionTask, over: Tensor, point: Tensor, prompt: Tensor, reward: Tensor
) -> tuple[Tensor | tuple[()], dict[str, Tensor]]:
    """Log-probability `[N]` of x_0 under the data law and the parts of the reward, both float64.

    Args:
        task: that tells both.
        over: which chains ended, `[N]`; for the others all is 0.
        point: their x_0, `[N, ...]`.
        prompt: `[N]`.
        reward: `[N]`, the only part where the task tells none.
    """

    def only(values: Tensor) -> Tensor:
        here = over.reshape(-1, *[1] * (values.dim() - 1))
        return torch.where(here, values, torch.zeros_like(values)).double()

    x, c = point[:, None], prompt[:, None]
    with trusted(), torch.no_grad():
        known = task.log_data(x, c)
        told = {name: only(part[:, 0]) for name, part in task.parts(x, c).items()}
    parts = told or {"reward": only(reward)}
    return (only(known[:, 0]) if isinstance(known, Tensor) else ()), parts


def numbers(name: str, value: Any, device: torch.device) -> Tensor:
    """An option as a tensor.

    Raises:
        ValueError: it is no array of real numbers.
    """
    try:
        found = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_complex():
        raise ValueError(f"{name} = {value!r:.80}; accepted: real numbers")
    return found


def check_finite(name: str, values: Tensor) -> None:
    """Refuse values `[N, B, ...]` that are not finite, naming the first chain.

    Raises:
        ValueError: NaN or infinite.
    """
    if not checking(values) or not values.dtype.is_floating_point:
        return
    if not bool(torch.isfinite(values).all()):
        row, chain = (~torch.isfinite(values)).nonzero()[0, :2].tolist()
        raise ValueError(f"{name} of chain {chain} of replica {row} is not finite")
