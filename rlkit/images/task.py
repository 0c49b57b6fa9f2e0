"""What is learned: images of a model for prompts, scored by a reward function of the user."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from rlkit.images.model import ImageModel
from rlkit.images.sampler import Sampler
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real

# Of images `[B, 3, H, W]` in [0, 1] and their prompts ("" without), numbers `[B]`.
Reward = Callable[[Tensor, Sequence[str]], Any]
PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
PROMPT_LIMIT = 10_000


@dataclass(eq=False)
class Task:
    """Prompts, a sampler and a reward.

    Attributes:
        model: that is tuned.
        sampler: of its images.
        prompts: non-empty for a model that takes them, else empty.
        reward: of images and their prompts.
        guidance: weight of the prompt against the empty one, >= 1; 1 leaves the empty one out.
        chunk: most images or steps that go through the model at once.

    Raises:
        ValueError: prompts for a model without them, none for one with them, an empty one, or a
            number outside its range.
    """

    model: ImageModel
    sampler: Sampler
    prompts: tuple[str, ...]
    reward: Reward
    guidance: float = 1.0
    chunk: int = 32

    def __post_init__(self) -> None:
        check_prompts(self.model, self.prompts)
        check_real("guidance", self.guidance, 1)
        check_integer("chunk", self.chunk, 1)
        if not self.model.conditional and self.guidance != 1:
            raise ValueError(f"guidance = {self.guidance}; accepted without prompts: 1")
        nothing = torch.zeros(0, device=self.model.device)
        conditional = self.model.conditional
        self.context = self.model.embed(self.prompts) if conditional else nothing  # [C, L, E]
        self.empty = self.model.embed([""]) if conditional else nothing  # [1, L, E]

    @property
    def count(self) -> int:
        """Number of prompts C; 1 for a model without."""
        return max(len(self.prompts), 1)

    @property
    def passes(self) -> int:
        """Calls of the denoiser for one step of one image."""
        return 1 if self.guidance == 1 else 2

    @property
    def embedding(self) -> Tensor | None:
        """Mean hidden state of each prompt `[C, E]`, None without prompts."""
        return self.context.mean(1) if self.model.conditional else None

    def names(self, prompt: Tensor) -> list[str]:
        """Prompts of images `[B]`, empty for a model without."""
        return [self.prompts[c] if self.prompts else "" for c in prompt.tolist()]

    def predict(self, weights: dict[str, Tensor], x: Tensor, k: Tensor, prompt: Tensor) -> Tensor:
        """Output of the denoiser `[B, *shape]`.

        Args:
            weights: in place of the model's own, `[...]` by name.
            x: points `[B, *shape]`.
            k: steps `[B]` int64.
            prompt: `[B]` int64.
        """
        time = self.sampler.timestep[k]
        if not self.model.conditional:
            return self._call(weights, x, time, {})
        shown = self.context[prompt]
        if self.guidance == 1:
            return self._call(weights, x, time, {"encoder_hidden_states": shown})
        both = torch.cat([self.empty.expand_as(shown), shown])
        twice = self._call(
            weights, torch.cat([x, x]), time.repeat(2), {"encoder_hidden_states": both}
        )
        plain, conditioned = twice.chunk(2)
        return plain + self.guidance * (conditioned - plain)

    def _call(
        self, weights: dict[str, Tensor], x: Tensor, time: Tensor, more: dict[str, Tensor]
    ) -> Tensor:
        given = {"sample": x, "timestep": time, "return_dict": False, **more}
        return functional_call(self.model.module, weights, (), given)[0]

    @torch.no_grad()
    def chains(
        self, weights: dict[str, Tensor], start: Tensor, prompt: Tensor, rng: Rng,
        reduction: str = "",
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Chains from noise to sample.

        Args:
            weights: in place of the model's own.
            start: x_T `[B, *shape]`.
            prompt: `[B]` int64.
            rng: whose replicas are the images; draws are named `noise/k`.
            reduction: of log-densities over coordinates, "mean" or "sum"; empty for the samples
                alone.

        Returns:
            Points `[T + 1, B, *shape]` and log-densities of the steps `[T, B]`, or the last points
            `[1, B, *shape]` and nothing `[0, B]`.
        """
        pieces = []
        for rows in torch.arange(start.shape[0], device=start.device).split(self.chunk):
            own = Rng(rng.seed, rng.stream, rng.replica[rows], rng.step)
            pieces.append(self._chain(weights, start[rows], prompt[rows], own, reduction))
        points, densities = zip(*pieces, strict=True)
        return torch.cat(points, 1), torch.cat(densities, 1)

    def _chain(
        self, weights: dict[str, Tensor], x: Tensor, prompt: Tensor, rng: Rng, reduction: str
    ) -> tuple[Tensor, Tensor]:
        points, densities = [x], []
        for k in range(self.sampler.steps):
            output = self.predict(weights, x, torch.full_like(prompt, k), prompt)
            mean, deviation = self.sampler.gaussian(x, output, k)
            x = mean
            if not self.sampler.deterministic:
                x = mean + deviation * rng.normal(f"noise/{k}", *self.model.shape)
            if reduction:
                densities.append(self.sampler.log_density(x, mean, deviation, reduction))
            points = [*points, x] if reduction else [x]
        nothing = x.new_zeros(0, x.shape[0])
        return torch.stack(points), torch.stack(densities) if densities else nothing

    def scores(self, sample: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[B, 3, H, W]` of denoised points and their rewards `[B]` float64.

        Raises:
            ValueError: points or rewards that are not finite, or rewards of another shape.
        """
        names = self.names(prompt)
        broken = ~torch.isfinite(sample).flatten(1).all(1)
        if bool(broken.any()):
            row = int(broken.int().argmax())
            raise ValueError(f"image {row} is not finite; try a smaller rate")
        pieces = [self.model.decode(piece) for piece in sample.split(self.chunk)]
        images = torch.cat(pieces)
        return images, checked_rewards(self.reward(images.clone(), names), names).to(images.device)


def check_prompts(model: ImageModel, prompts: Sequence[str]) -> None:
    """Accept prompts for a model that takes them, and none for one that does not.

    Raises:
        ValueError: otherwise, an empty prompt or one twice.
    """
    if not model.conditional and prompts:
        raise ValueError(f"{len(prompts)} prompts for a model without; accepted: none")
    if model.conditional and not prompts:
        raise ValueError("no prompts for a model that takes them; accepted: one or more")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt {number} is empty; accepted: text that is not blank")
        if prompt in prompts[:number]:
            raise ValueError(f"prompt {number} {json.dumps(prompt[:60])} occurs twice")


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts of a UTF-8 file, one a line; blank lines do not count.

    Raises:
        ValueError: the file cannot be read, is empty, or has too many lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start + 1}") from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not 0 < len(prompts) <= PROMPT_LIMIT:
        raise ValueError(f"{path}: {len(prompts)} prompts; accepted: 1 .. {PROMPT_LIMIT}")
    return prompts


def checked_rewards(given: Any, prompts: Sequence[str]) -> Tensor:
    """Rewards `[B]` float64.

    Raises:
        ValueError: what was given is no vector of B finite numbers; names the image.
    """
    try:
        value = torch.as_tensor(given).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"the reward is {type(given).__name__}; accepted: numbers") from None
    if value.shape != (len(prompts),):
        shape = list(value.shape)
        raise ValueError(f"the reward has shape {shape}; accepted: [{len(prompts)}]")
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise ValueError(
            f"reward of image {row} is {float(value[row])}, prompt "
            f"{json.dumps(prompts[row][:60])}; accepted: finite numbers"
        )
    return value


def load_reward(place: str) -> Reward:
    """The function `module:function`; modules of the present folder come first.

    Raises:
        ValueError: a place of another form, a module that is not found, or no function in it.
    """
    if not PLACE.fullmatch(place):
        raise ValueError(f"reward = {place!r}; accepted: module:function")
    module, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"reward = {place!r}: {error}") from None
    if not callable(found):
        raise ValueError(f"reward = {place!r}: {module} has no function {name}")
    reward: Reward = found
    return reward
