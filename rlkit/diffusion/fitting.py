"""Samplers that are tuned to a law instead of a reward: the distance as reward, measurements."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.diffusion.agents import DiffusionAgent, Learner
from rlkit.diffusion.distances import mmd2_to_mixture, quantiles, sliced_w2, w1_1d
from rlkit.diffusion.gaussian_task import GaussianDiffusion
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.rewards import AnyTilt
from rlkit.diffusion.task import Chains
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.validation import check_integer

PAIRED = 512  # points whose kernel matrix is summed
QUANTILES = 2048  # that stand for data on the line


@dataclass(frozen=True)
class Fit:
    """Minus the distance of a whole batch from the data, the same for all its points.

    Attributes:
        reference: the data, `[N, M, d]`: exact quantiles on the line, a sample above.
    """

    reference: Tensor

    def __call__(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Reward `[N, B]`: minus W1 on the line, minus sliced W2 above."""
        return -distance(x, self.reference)[:, None].expand(x.shape[:2])

    def solvable(self, data: Mixture) -> bool:
        """A law is no tilt of another."""
        return False

    def tilt(self, data: Mixture, alpha: float, c: int) -> AnyTilt:
        """None.

        Raises:
            ValueError: always.
        """
        raise ValueError("the reward is a distance of laws; accepted for a tilt: one of points")

    def bias(self, tilt: AnyTilt, abar: float) -> Tensor:
        """None.

        Raises:
            ValueError: always.
        """
        raise ValueError("the reward is a distance of laws; accepted for a tilt: one of points")

    def mean(self, tilt: AnyTilt, c: int) -> Tensor:
        """None.

        Raises:
            ValueError: always.
        """
        raise ValueError("the reward is a distance of laws; accepted for a tilt: one of points")


def distance(x: Tensor, y: Tensor) -> Tensor:
    """W1 of points `[N, B, 1]`, else sliced W2 of `[N, B, d]`, from `y` `[N, M, d]`, `[N]`."""
    if x.shape[-1] == 1:
        return w1_1d(x[..., 0], y[..., 0])
    return sliced_w2(x, y)


def reference_points(data: Mixture, count: int, rng: Rng) -> Tensor:
    """What stands for the data: `count` quantiles on the line, draws above, `[N, count, d]`."""
    if data.dimension == 1:
        return quantiles(data, count)[..., None]
    return data.sample(rng, "reference", count)


def fitted_task(spec: Spec) -> GaussianDiffusion:
    """The task, if it has one law of data.

    Raises:
        ValueError: masked sequences, or several prompts.
    """
    task = gaussian_task(spec)
    if task.prompts > 1:
        raise ValueError(f"prompts = {task.prompts}; accepted: 1, the agent fits a single law")
    return task


class FitAgent(DiffusionAgent):
    """An agent that draws a sampler towards the data; it does not look at rewards."""

    alpha = 0.0  # nothing ties it to the reference

    look: int  # field: points that measure it

    def check_fit(self) -> None:
        """Refuse shared fields outside their range."""
        self.check(least=2)
        check_integer("look", self.look, 2)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Distances from the data, `[N]` each, from the same `look` chains at every record.

        `held_out` is the distance of as many other chains from other data: it judges without
        favour a record that was chosen by `distance`.
        """
        task = fitted_task(spec)
        rng, other = Rng(0, "look", state.replica), Rng(0, "held out", state.replica)
        count = QUANTILES if task.dimension == 1 else self.look
        with torch.no_grad():
            point, path = self.sampled(spec, state.policy.parameters, rng)
            fresh, _ = self.sampled(spec, state.policy.parameters, other)
            nothing = torch.zeros(point.shape[:2], dtype=torch.int64, device=point.device)
            spent = state.iteration.double() * self.batch * self.evaluations(spec)
            gold = task.gold(point, nothing).double().mean(1)
            return {
                "distance": distance(point, reference_points(task.mixture, count, rng)),
                "held_out": distance(fresh, reference_points(task.mixture, count, other)),
                "mmd2": mmd2_to_mixture(point[:, :PAIRED], task.mixture),
                "gold_reward": gold,
                "proxy_reward": task.reward(point, nothing).double().mean(1),
                **path,
                "evaluations": spent,
            }

    def sampled(self, spec: Spec, parameters: Tree, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """Points `[N, look, d]`; and, where steps have densities, `path_kl` `[N]`."""
        prompt = rng.replica[:, None].expand(-1, self.look) * 0
        chains: Chains = self.model.write(spec, parameters, prompt, rng)
        if gaussian_task(spec).kernel.deterministic:
            return chains.point, {}
        few = Chains(chains.chain[:, :, :256], prompt[:, :256], chains.log_probability[..., :256])
        path = self.model.divergence(spec, parameters, few)
        return chains.point, {"path_kl": path.sum(1).mean(1).double()}
