"""ReFL: gradients of the reward through the prediction of x_0 at a late denoising step."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.alignment.training import improve
from rlkit.diffusion.agents import DiffusionAgent, Learner
from rlkit.diffusion.policies import ResidualPolicy, gaussian_task
from rlkit.diffusion.task import Chains, knowledge
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real


@agent("refl")
@dataclass(frozen=True)
class ReFL(DiffusionAgent):
    """Reward feedback learning: ascend r(x_0 predicted from x_t) at a random late t.

    Xu et al. (2023), "ImageReward", algorithm 1: the chain down to x_t has no gradient. With
    `alpha` > 0 the divergence of all steps of the chain is charged as well.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float = 0.0  # weight of the divergence from the reference, >= 0
    batch: int = 32  # chains an iteration, >= 1
    rate: float = 0.003  # step size of Adam, > 0
    policy: str = "residual"  # the only one that predicts x_0
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of the network, >= 1
    late: float = 0.5  # share of the steps, the last ones, of which t is one, in (0, 1]

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_choice("policy", self.policy, ("residual",))
        check_real("late", self.late, 0, 1, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: no points in R^d, or a reward without gradient.
        """
        if not knowledge(spec).differentiable:
            raise ValueError("the reward has no gradient; ReFL needs one")
        task = gaussian_task(spec)
        if self.alpha > 0 and task.kernel.deterministic:
            raise ValueError("eta = 0 has no divergence; accepted with alpha > 0: (0, 1]")
        return super().initial(spec, rng)

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """One step of gradient ascent, at one step of each chain."""
        task, chains = gaussian_task(spec), batch.action
        last = max(1, round(self.late * task.steps))
        t = rng.integers("t", last, chains.prompt.shape[1]).contiguous() + 1
        index = t[:, None, :, None].expand(-1, 1, -1, task.dimension)
        x = chains.chain.gather(1, index)[:, 0]

        def loss(parameters: Tree) -> Tensor:
            guess = task.law(chains.prompt).denoise(x, task.kernel.schedule.at(t))
            model: ResidualPolicy = self.model  # type: ignore[assignment]
            told = (task, parameters, x, guess, t, chains.prompt)
            denoised = guess + model.residual(*told)[..., : task.dimension]
            gain = task.reward(denoised, chains.prompt).mean(1)
            return self.charge(spec, parameters, chains) - gain

        policy = improve(state.policy, loss, self.rate)
        return state._replace(policy=policy, iteration=state.iteration + 1)

    def charge(self, spec: Spec, parameters: Tree, chains: Chains) -> Tensor:
        """`alpha` times the divergence of the chains, `[N]`."""
        if self.alpha == 0:
            return torch.zeros((), device=chains.prompt.device)
        each = self.model.divergence(spec, parameters, chains)
        return self.alpha * each.sum(1).mean(1)

    def evaluations(self, spec: Spec) -> float:
        """T for the chain, 3 for the step with gradient; 3 T more where divergence is charged."""
        steps = knowledge(spec).steps
        return steps + 3 + (3 * steps if self.alpha > 0 else 0)
