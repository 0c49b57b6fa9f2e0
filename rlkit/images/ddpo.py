"""DDPO: denoising steps are the actions of a policy, which PPO trains on the final reward.

Black et al. (2024), "Training diffusion models with reinforcement learning", algorithm DDPO_IS;
one update of one pass is its on-policy step, DDPO_SF.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.images.moments import State, started, stepped
from rlkit.images.task import Task
from rlkit.random import Rng
from rlkit.tuning.models import learned
from rlkit.validation import check_choice, check_integer, check_real

TINY = 1e-6  # added to the deviation of rewards


@dataclass(frozen=True)
class Ddpo:
    """PPO over the steps of DDIM, of the weights of the denoiser or of adapters.

    Raises:
        ValueError: a field outside its range.
    """

    eta: ClassVar[float] = 1.0  # of the sampler unless given

    batch: int = 16  # images in a step, prompts in turn, >= 2
    rate: float = 3e-4  # step size of Adam, > 0
    epsilon: float = 1e-4  # ratios are clipped to 1 -+ epsilon, in (0, 1)
    updates: int = 4  # of a pass over the steps of all images, >= 1
    inner: int = 1  # passes, >= 1
    bound: float = 5.0  # of advantages, > 0
    buffer: int = 32  # last rewards of a prompt, whose mean and deviation standardise, >= 2
    fewest: int = 16  # rewards of a prompt before they are used in place of the batch, >= 2
    beta: float = 0.0  # weight of the divergence of a step from the reference, >= 0
    norm: float = 1.0  # largest norm of a gradient, > 0
    reduction: str = "mean"  # over coordinates, of log-densities and divergences: "mean", "sum"
    floored: bool = False  # learn also from steps whose noise is only the sampler's floor

    def __post_init__(self) -> None:
        for name, low in (("batch", 2), ("updates", 1), ("inner", 1), ("buffer", 2), ("fewest", 2)):
            check_integer(name, getattr(self, name), low)
        check_integer("fewest", self.fewest, 2, self.buffer)
        for name in ("rate", "bound", "norm"):
            check_real(name, getattr(self, name), 0, open_low=True)
        check_real("epsilon", self.epsilon, 0, 1, open_low=True, open_high=True)
        check_real("beta", self.beta, 0)
        check_choice("reduction", self.reduction, ("mean", "sum"))
        check_choice("floored", self.floored, (False, True))

    def initial(self, task: Task, rng: Rng) -> State:
        """State before the first step: the weights of the reference.

        Raises:
            ValueError: a deterministic sampler, or more updates than steps of images.
        """
        if task.sampler.deterministic:
            raise ValueError("eta = 0: steps have no density; accepted by ddpo: (0, 1]")
        check_integer("updates", self.updates, 1, self.batch * self.learned_steps(task).numel())
        weights = {f"unet/{name}": leaf for name, leaf in learned(task.model.module).items()}
        shape = (task.count, self.buffer)
        window = torch.zeros(shape, dtype=torch.float64, device=rng.device)
        seen = torch.zeros(task.count, dtype=torch.int64, device=rng.device)
        return started(weights | {"window": window, "seen": seen}, list(weights))

    def learned_steps(self, task: Task) -> Tensor:
        """Steps that the policy learns from `[t]` int64.

        The last step onto level 1 has no noise but the floor's, so little that its gradient is
        many times that of the others and all chance; it is left out unless `floored`.

        Raises:
            ValueError: no step is left.
        """
        kept = ~task.sampler.floored | self.floored
        if not bool(kept.any()):
            raise ValueError(
                f"floor = {task.sampler.floor} is the noise of every step; accepted: smaller"
            )
        return kept.nonzero().squeeze(1)

    def weights(self, state: State) -> dict[str, Tensor]:
        """Learned weights by their names in the model, without the leading 1."""
        unet = "unet/"
        return {k.removeprefix(unet): v[0] for k, v in state.items() if k.startswith(unet)}

    def starts(self, task: Task, state: State, prompt: Tensor, rng: Rng) -> Tensor:
        """Standard normal x_T `[B, *shape]`."""
        return rng.normal("start", *task.model.shape).contiguous()

    def advance(self, task: Task, state: State, rng: Rng) -> tuple[State, dict[str, float]]:
        """One step: images, then passes over their denoising steps; and what to report of it.

        Args:
            task: with the prompts.
            state: before.
            rng: of the step; its replicas are the images.
        """
        turn = int(rng.step) * self.batch
        prompt = (turn + torch.arange(self.batch, device=rng.device)) % task.count
        start = self.starts(task, state, prompt, rng)
        points, stored = task.chains(self.weights(state), start, prompt, rng, self.reduction)
        stored = stored.reshape(-1)  # [T * B]
        reward = task.scores(points[-1], prompt)[1]
        state, advantage = self.standardised(state, reward, prompt)
        report: dict[str, float] = {}
        one = Rng(rng.seed, rng.stream, rng.replica[:1], rng.step)
        rows = torch.arange(self.batch, device=rng.device)
        pairs = (self.learned_steps(task)[:, None] * self.batch + rows).reshape(-1)
        for round_ in range(self.inner):
            order = one.permutation(f"pairs/{round_}", pairs.numel())[0]
            for part in pairs[order].tensor_split(self.updates):
                state, report = self.update(task, state, points, prompt, stored, advantage, part)
        return state, {"train_reward": float(reward.mean()), **report}

    def standardised(self, state: State, reward: Tensor, prompt: Tensor) -> tuple[State, Tensor]:
        """Advantages `[B]`: rewards less the mean of their prompt, over its deviation, bounded.

        Mean and deviation are those of the last rewards of the prompt, the present ones among
        them, or of the batch while these are few.

        Args:
            state: with the last rewards.
            reward: `[B]` float64.
            prompt: `[B]` int64.
        """
        window, seen = state["window"].clone(), state["seen"].clone()
        advantage = torch.empty_like(reward)
        for c in prompt.unique().tolist():
            own = reward[prompt == c]
            window[c] = torch.cat([own.flip(0), window[c]])[: self.buffer]
            seen[c] += own.numel()
            count = min(int(seen[c]), self.buffer)
            used = window[c, :count] if count >= self.fewest else reward
            advantage[prompt == c] = (own - used.mean()) / (used.std(correction=0) + TINY)
        after = {**state, "window": window, "seen": seen}
        return after, advantage.clamp(-self.bound, self.bound)

    def steps(
        self, task: Task, weights: dict[str, Tensor], points: Tensor, prompt: Tensor, pair: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-density of some steps, and their divergence from the reference in nats, `[b]`.

        Args:
            task: with the sampler.
            weights: of the model.
            points: `[T + 1, B, *shape]`.
            prompt: `[B]`.
            pair: numbers k B + image of the steps, `[b]` int64.
        """
        k, row = pair // prompt.shape[0], pair % prompt.shape[0]
        x, after, asked = points[k, row], points[k + 1, row], prompt[row]
        output = task.predict(weights, x, k, asked)
        mean, deviation = task.sampler.gaussian(x, output, k)
        density = task.sampler.log_density(after, mean, deviation, self.reduction)
        if self.beta == 0:
            return density, torch.zeros_like(density)
        with torch.no_grad():
            reference, _ = task.sampler.gaussian(x, task.predict({}, x, k, asked), k)
        apart = (0.5 * ((mean - reference) / deviation) ** 2).flatten(1)
        return density, apart.mean(1) if self.reduction == "mean" else apart.sum(1)

    def loss(self, density: Tensor, stored: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of steps `[b]`, and whether their ratios are clipped."""
        ratio = torch.exp(density - stored)
        bounded = ratio.clamp(1 - self.epsilon, 1 + self.epsilon)
        return -torch.minimum(ratio * advantage, bounded * advantage), ratio != bounded

    def update(
        self, task: Task, state: State, points: Tensor, prompt: Tensor, stored: Tensor,
        advantage: Tensor, pairs: Tensor,
    ) -> tuple[State, dict[str, float]]:  # fmt: skip
        """A step of Adam by the mean gradient over `pairs` `[b]`, a chunk at a time."""
        leaves = {k: v.clone().requires_grad_() for k, v in self.weights(state).items()}
        total = [torch.zeros_like(leaf) for leaf in leaves.values()]
        clipped = 0.0
        for each in pairs.split(task.chunk):
            density, apart = self.steps(task, leaves, points, prompt, each)
            gain = advantage[each % prompt.shape[0]].float()
            loss, outside = self.loss(density, stored[each], gain)
            mean = (loss + self.beta * apart).sum() / pairs.numel()
            found = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
            for index, gradient in enumerate(found):
                if gradient is not None:
                    total[index] += gradient
            clipped += float(outside.sum()) / pairs.numel()
        length = torch.sqrt(sum((each * each).sum() for each in total))  # type: ignore[arg-type]
        shrink = (self.norm / (length + TINY)).clamp(max=1)
        gradients = {
            f"unet/{name}": (each * shrink)[None] for name, each in zip(leaves, total, strict=True)
        }
        after = stepped(state, gradients, self.rate)
        return after, {"clipped": clipped, "gradient_norm": float(length)}

    def report(self, state: State) -> dict[str, float]:
        """Nothing beyond what `advance` reports."""
        return {}

    def images(self, task: Task) -> int:
        """Images that a step scores."""
        return self.batch

    def evaluations(self, task: Task) -> int:
        """Calls of the denoiser in a step, an image each; a backward pass counts as two."""
        learned = self.inner * (3 + (self.beta > 0)) * self.learned_steps(task).numel()
        return self.batch * task.passes * (task.sampler.steps + learned)
