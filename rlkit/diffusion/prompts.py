"""Prompts: what they ask for, how they are embedded, and how they change the law of samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.quadrature import GridTilt, grid_tilt
from rlkit.diffusion.rewards import AnyTilt, Modes, grid_of


@dataclass(frozen=True)
class PromptDiffusion(GaussianDiffusion):
    """Chains that know how prompts are embedded.

    `mixture.log_weight` may have more rows than there are prompts: the others are phrasings, which
    change the law of samples and are asked for by nobody.

    Attributes:
        embedding: of each prompt, `[C, E]`; None for unit vectors.
    """

    embedding: Tensor | None = None

    @property
    def phrasings(self) -> int:
        """Laws of samples to choose from, those of the prompts first."""
        return self.mixture.log_weight.shape[1]


def embeddings(task: GaussianDiffusion) -> Tensor:
    """Embedding of each prompt, `[C, E]` float32."""
    known = task.embedding if isinstance(task, PromptDiffusion) else None
    if known is None:
        return torch.eye(task.prompts, device=task.mixture.mean.device)
    return known.to(task.mixture.mean.device).float()


@dataclass(frozen=True)
class PromptModes(Modes):
    """Shares of one mode, or products of those of two, each kind with a width of its own.

    Attributes:
        pair_rho: width of `softmax(-|x - centre_k|^2 / (2 width^2))` for two modes, > 0. Prompts
            for one mode name it twice in `target` and have width `rho`.
    """

    pair_rho: float = 1.0

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward in (0, 1), `[N, B]`."""
        offset = x[:, :, None] - self.centre[:, None]
        square = -0.5 * (offset * offset).sum(-1)
        target = self.target.to(prompt.device)[prompt]
        one = torch.softmax(square / (self.rho * self.rho), -1).gather(-1, target[..., :1])
        two = torch.softmax(square / (self.pair_rho * self.pair_rho), -1).gather(-1, target)
        pair = target[..., 0] != target[..., 1]
        return torch.where(pair, 4 * two[..., 0] * two[..., 1], one[..., 0])


@dataclass(frozen=True)
class Sigmoid:
    """`1 / (1 + exp(-slope . x))` for slopes `[N, C, d]`, one a prompt."""

    slope: Tensor

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward in (0, 1), `[N, B]`."""
        slope = self.slope.gather(1, prompt[..., None].expand(*prompt.shape, x.shape[-1]))
        return 1 / (1 + torch.exp(-(x * slope).sum(-1)))

    def solvable(self, data: Mixture) -> bool:
        """By quadrature in one or two dimensions."""
        return data.dimension <= 2

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """By quadrature."""
        n = len(self.slope)

        def reward(points: Tensor) -> Tensor:
            prompt = torch.full((n, points.shape[1]), c, device=points.device)
            return self(points.expand(n, -1, -1), prompt)

        return grid_tilt(data, reward, alpha, grid_of(data))

    def bias(self, tilt: AnyTilt, abar: float) -> Tensor:
        """By quadrature, `[N]`."""
        assert isinstance(tilt, GridTilt)
        return tilt.start_bias(abar)

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """By quadrature, `[N]`."""
        assert isinstance(tilt, GridTilt)
        return tilt.expectation(tilt.reward)[1]
