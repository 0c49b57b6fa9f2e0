"""Diffusion on Gaussian mixtures as a task: reference sampler, rewards, closed-form optimum."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlkit.diffusion.kernels import Kernel
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.rewards import Judge, split_reward
from rlkit.diffusion.task import Optimum
from rlkit.random import Rng


@dataclass(frozen=True)
class GaussianDiffusion:
    """Chains on Gaussian mixtures; see `rlkit.diffusion.task.DiffusionTask`.

    Attributes:
        mixture: laws of x_0, one a prompt: log weights `[N, C or 1, K]`; means and spectra
            `[N, 1, K, d]` serve all prompts.
        kernel: noise levels and reverse steps.
        judge: the reward, observed and true.
        prompts: their number C.
    """

    mixture: Mixture
    kernel: Kernel
    judge: Judge
    prompts: int = 1

    @property
    def steps(self) -> int:
        """Denoising steps T."""
        return self.kernel.schedule.steps

    @property
    def dimension(self) -> int:
        """Dimension d of a point."""
        return self.mixture.dimension

    @property
    def exact(self) -> bool:
        """Whether the tilt is known in closed form or by quadrature."""
        return self.judge.solvable(self.mixture)

    @property
    def attained(self) -> bool:
        """Whether `value` and `optimum` are those of these very chains."""
        return self.exact and self.kernel.kind == "exact"

    @property
    def differentiable(self) -> bool:
        """All rewards of points are."""
        return True

    def law(self, prompt: Tensor) -> Mixture:
        """Law of x_0 for chains with `prompt` `[N, B]`, `[N, B or 1, K]` components."""
        weight = self.mixture.log_weight
        if weight.shape[1] == 1:
            return self.mixture
        index = prompt[..., None].expand(*prompt.shape, weight.shape[2])
        return replace(self.mixture, log_weight=weight.gather(1, index))

    def start(self, rng: Rng, name: str, count: int) -> Tensor:
        """Standard normal x_T, `[N, count, d]` float64."""
        return rng.normal(name, count, self.dimension, dtype=torch.float64).contiguous()

    def data(self, rng: Rng, name: str, prompt: Tensor) -> Tensor:
        """Samples of the data law given `prompt` `[N, B]`, `[N, B, d]`."""
        return self.law(prompt).sample(rng, name, prompt.shape[1])

    def step(self, x: Tensor, t: int, prompt: Tensor, rng: Rng, name: str) -> Tensor:
        """x_(t-1) of the reference given x_t, `[N, B, d]`."""
        law = self.law(prompt)
        if self.kernel.deterministic:
            return self.kernel.gaussian(x, law.denoise(x, self.kernel.schedule.at(t)), t)[0]
        return self.kernel.law(law, x, t).sample(rng, name, x.shape[1])

    def log_probability(
        self, x: Tensor, t: int | Tensor, prompt: Tensor, following: Tensor
    ) -> Tensor:
        """Log density of x_(t-1) = `following` given x_t, `[N, B]`; zeros without a density."""
        if self.kernel.deterministic:
            return torch.zeros_like(x[..., 0])
        return self.kernel.law(self.law(prompt), x, t).log_density(following)

    def log_data(self, point: Tensor, prompt: Tensor) -> Tensor:
        """Log density of x_0 under the mixture of `prompt`, `[N, B]`.

        Chains have that very law with the exact kernel, from x_T of the law p_T.
        """
        return self.law(prompt).log_density(point)

    def expect(self, x: Tensor, t: int, prompt: Tensor) -> Tensor:
        """Mean of x_0 given x_t, `[N, B, d]`; x itself at t = 0."""
        return x if t == 0 else self.law(prompt).denoise(x, self.kernel.schedule.at(t))

    def reward(self, point: Tensor, prompt: Tensor) -> Tensor:
        """Reward of x_0, `[N, B]`."""
        return self.judge(point, prompt)

    gold = reward

    def parts(self, point: Tensor, prompt: Tensor) -> dict[str, Tensor]:
        """Summands of the reward, where the judge tells them."""
        return split_reward(self.judge, point, prompt)

    def value(self, x: Tensor, t: int, prompt: Tensor, alpha: float) -> Tensor:
        """Soft value of the exact kernel, `[N, B]`; the reward at t = 0.

        Raises:
            ValueError: no closed form and too many dimensions for quadrature.
        """
        if t == 0:
            return self.gold(x, prompt)
        values = [
            self.judge.tilt(self.of_prompt(c), alpha, c).value(x, self.kernel.schedule.at(t))
            for c in range(self.prompts)
        ]
        return torch.stack(values, -1).gather(-1, prompt[..., None]).squeeze(-1)

    def of_prompt(self, c: int) -> Mixture:
        """Law of x_0 for prompt `c`, `[N, 1, K]` components."""
        weight = self.mixture.log_weight
        row = 0 if weight.shape[1] == 1 else c
        return replace(self.mixture, log_weight=weight[:, row : row + 1])

    def optimum(self, alpha: float) -> Optimum:
        """Best reward minus `alpha` times divergence of the exact kernel, mean over prompts.

        Chains of "ddpm" and "ddim" approach it as T grows; with few steps their own optimum lies
        to either side of it.

        Raises:
            ValueError: no closed form and too many dimensions for quadrature.
        """
        last = float(self.kernel.schedule.abar[-1])
        tilts = [self.judge.tilt(self.of_prompt(c), alpha, c) for c in range(self.prompts)]
        free = torch.stack([tilt.free_value() for tilt in tilts]).mean(0)
        bias = torch.stack([self.judge.bias(tilt, last) for tilt in tilts]).mean(0)
        return Optimum(free, free - bias, torch.stack([tilt.log_z for tilt in tilts]).mean(0))

    def front(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Divergence KL(p* || p_0) and expected reward of p*, `[N]` each, mean over prompts.

        Raises:
            ValueError: no closed form and too many dimensions for quadrature.
        """
        reward, free = [], []
        for c in range(self.prompts):
            tilt = self.judge.tilt(self.of_prompt(c), alpha, c)
            reward.append(self.judge.mean(tilt, c))
            free.append(tilt.free_value())
        gain = torch.stack(reward).mean(0)
        return (gain - torch.stack(free).mean(0)) / alpha, gain
