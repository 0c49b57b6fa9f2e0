"""FIND: the Gaussian of the initial noise is learned, a prompt at a time; the model is frozen.

Chen et al. (2024), "Find: Fine-tuning initial noise distribution with policy optimization".
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.images.calibration import learn, start_network
from rlkit.images.moments import State, started, stepped
from rlkit.images.sampler import Sampler
from rlkit.images.task import Task
from rlkit.random import Rng
from rlkit.validation import check_choice, check_integer, check_real

LEAST_ABAR = 0.01  # terminal level below which, with noise in the steps, the start has no influence
DECAY = 0.01  # of AdamW


@dataclass(frozen=True)
class Find:
    """One-step PPO on mean and deviation of x_T, the reward less its prediction as advantage.

    Raises:
        ValueError: a field outside its range.
    """

    eta: ClassVar[float] = 0.0  # of the sampler unless given

    batch: int = 8  # images of each prompt in a step, >= 1
    rate: float = 0.05  # step size of Adam, > 0
    epsilon: float = 0.2  # ratios are clipped to 1 -+ epsilon, in (0, 1)
    weight: float = 10.0  # of the reward, > 0
    beta: float = 0.01  # weight of the regulariser, >= 0
    regulariser: str = "kl"  # from the standard normal: "kl" or "square"
    reduction: str = "mean"  # over coordinates, of log-densities and regulariser: "mean" or "sum"
    history: int = 1  # steps whose images are used again, >= 1
    inner: int = 1  # updates by the images of each of these steps, >= 1
    baseline: str = "average"  # prediction of the reward: "average" of the past, or "network"
    momentum: float = 0.9  # of the average, in [0, 1)
    baseline_rate: float = 1e-4  # step size of the network, > 0
    baseline_updates: int = 5  # of the network in a step, >= 1
    floor: float = 1e-4  # least deviation, > 0
    released: bool = False  # the published loss; see `loss`
    allow_uncontrollable: bool = False  # run where x_T has no influence

    def __post_init__(self) -> None:
        for name in ("batch", "history", "inner", "baseline_updates"):
            check_integer(name, getattr(self, name), 1)
        for name in ("rate", "weight", "baseline_rate", "floor"):
            check_real(name, getattr(self, name), 0, open_low=True)
        check_real("epsilon", self.epsilon, 0, 1, open_low=True, open_high=True)
        check_real("beta", self.beta, 0)
        check_real("momentum", self.momentum, 0, 1, open_high=True)
        check_choice("regulariser", self.regulariser, ("kl", "square"))
        check_choice("reduction", self.reduction, ("mean", "sum"))
        check_choice("baseline", self.baseline, ("average", "network"))
        for name in ("released", "allow_uncontrollable"):
            check_choice(name, getattr(self, name), (False, True))

    def initial(self, task: Task, rng: Rng) -> State:
        """State before the first step: a standard normal for each prompt.

        Raises:
            ValueError: noise in the steps leaves x_T without influence.
        """
        self.refuse_uncontrollable(task.sampler)
        prompts, size = task.count, math.prod(task.model.shape)
        like = torch.zeros(prompts, size, device=task.model.device)
        past = (self.history, prompts, self.batch)
        state: State = {
            "mean": like,
            "scale": torch.ones_like(like) if self.released else torch.zeros_like(like),
            "average": torch.zeros(prompts, dtype=torch.float64, device=like.device),
            "steps": torch.zeros(1, dtype=torch.int64, device=like.device),
            "past/x": like.new_zeros(*past, size),
            "past/reward": torch.zeros(*past, dtype=torch.float64, device=like.device),
            "past/log_density": like.new_zeros(past),
        }
        network: State = {}
        if self.baseline == "network":
            network = start_network(self.features(task, state).shape[1], rng)
        return started(state | network, ["mean", "scale", *network])

    def features(self, task: Task, state: State) -> Tensor:
        """What the network reads: mean, deviation and embedding of each prompt, `[C, i]`."""
        known = [state["mean"], self.deviation(state)]
        return torch.cat(known if task.embedding is None else [*known, task.embedding], 1)

    def refuse_uncontrollable(self, sampler: Sampler) -> None:
        """Raise where x_T is forgotten on the way.

        Raises:
            ValueError: eta > 0 with a first level below 0.01, unless allowed.
        """
        first = float(sampler.now[0])
        if sampler.eta > 0 and first < LEAST_ABAR and not self.allow_uncontrollable:
            raise ValueError(
                f"eta = {sampler.eta} with terminal abar = {first:.2g}: initial noise has no "
                "influence; accepted: eta = 0, or allow_uncontrollable=true"
            )

    def deviation(self, state: State) -> Tensor:
        """Standard deviations `[C, D]`."""
        return state["scale"] if self.released else torch.exp(state["scale"])

    def starts(self, task: Task, state: State, prompt: Tensor, rng: Rng) -> Tensor:
        """Draws of x_T for prompts `[B]`, `[B, *shape]`."""
        size = math.prod(task.model.shape)
        noise = rng.normal("start", size)
        x = state["mean"][prompt] + self.deviation(state)[prompt] * noise
        return x.reshape(-1, *task.model.shape)

    def weights(self, state: State) -> dict[str, Tensor]:
        """None of the model's are replaced, so that the dictionary is empty."""
        return {}

    def advance(self, task: Task, state: State, rng: Rng) -> tuple[State, dict[str, float]]:
        """One step: images of every prompt, then updates; and what to report of it.

        Args:
            task: with the prompts.
            state: before.
            rng: of the step; its replicas are the images, prompt by prompt.
        """
        prompt = torch.arange(task.count, device=rng.device).repeat_interleave(self.batch)
        x = self.starts(task, state, prompt, rng)
        points, _ = task.chains({}, x, prompt, rng)
        reward = task.scores(points[-1], prompt)[1].reshape(task.count, self.batch)
        flat = x.reshape(task.count, self.batch, -1)
        state = self.remember(state, flat, reward)
        state, expected = self.calibrate(task, state, reward)
        used = min(int(state["steps"]), self.history)
        report: dict[str, float] = {}
        for index in range(used):
            advantage = (state["past/reward"][index] - expected[:, None]).float()
            for _ in range(self.inner):
                state, clipped = self.update(state, index, advantage)
                report["clipped"] = clipped
        return state, {"train_reward": float(reward.mean()), **report}

    def remember(self, state: State, x: Tensor, reward: Tensor) -> State:
        """Put images `x` `[C, B, D]` in front of those of earlier steps, with log-densities."""
        if self.released:
            mean, deviation = torch.zeros_like(state["mean"]), torch.ones_like(state["mean"])
        else:
            mean, deviation = state["mean"], self.deviation(state)
        density = self.log_density(x, mean, deviation)
        fresh = {"past/x": x, "past/reward": reward, "past/log_density": density}
        moved = {name: torch.cat([new[None], state[name][:-1]]) for name, new in fresh.items()}
        return {**state, **moved, "steps": state["steps"] + 1}

    def calibrate(self, task: Task, state: State, reward: Tensor) -> tuple[State, Tensor]:
        """Predicted rewards of the present distributions `[C]` float64, learned from the newest.

        The network predicts from the distribution, not from the sample.
        """
        mean, first = reward.mean(1), state["steps"] == 1
        kept = 1.0 if self.baseline == "network" else self.momentum
        average = kept * state["average"] + (1 - kept) * mean
        state = {**state, "average": torch.where(first, mean, average)}
        if self.baseline == "average":
            return state, state["average"]
        # The network adds to the first mean: far rewards would take it thousands of steps.
        features, start = self.features(task, state), state["average"]
        left = reward - start[:, None]
        state, found = learn(state, features, left, self.baseline_updates, self.baseline_rate)
        return state, start + found

    def log_density(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Of draws `x` `[C, B, D]`, mean or sum over coordinates, `[C, B]`."""
        z = (x - mean[:, None]) / deviation[:, None]
        each = -0.5 * z * z - torch.log(deviation)[:, None] - 0.5 * math.log(2 * math.pi)
        return each.mean(-1) if self.mean_reduction else each.sum(-1)

    @property
    def mean_reduction(self) -> bool:
        """Whether log-densities are means over coordinates."""
        return self.released or self.reduction == "mean"

    def regularised(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Distance from the standard normal `[C]`, mean or sum over coordinates."""
        if self.released or self.regulariser == "square":
            each = mean * mean + (deviation - 1) * (deviation - 1)
        else:
            each = 0.5 * (mean * mean + deviation * deviation - 1) - torch.log(deviation)
        return each.mean(-1) if self.mean_reduction else each.sum(-1)

    def loss(
        self, x: Tensor, stored: Tensor, advantage: Tensor, mean: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum over prompts of the loss, and the share of clipped ratios.

        The published loss multiplies by the clamped ratio, so that a sample outside the range
        has no gradient, and the ratio is that to the initial N(0, I).

        Args:
            x: draws `[C, B, D]`.
            stored: log-densities when they were drawn, `[C, B]`.
            advantage: `[C, B]`.
            mean: `[C, D]`.
            scale: log deviation, or in the published loss the deviation, `[C, D]`.
        """
        deviation = scale if self.released else torch.exp(scale)
        ratio = torch.exp(self.log_density(x, mean, deviation) - stored)
        bounded = ratio.clamp(1 - self.epsilon, 1 + self.epsilon)
        gain = bounded * advantage
        if not self.released:
            gain = torch.minimum(ratio * advantage, gain)
        total = self.beta * self.regularised(mean, deviation) - self.weight * gain.mean(-1)
        return total.sum(), (ratio != bounded).float().mean()

    def update(self, state: State, index: int, advantage: Tensor) -> tuple[State, float]:
        """One step of Adam, or of AdamW for the published loss; and the share of clipped ratios."""
        leaves = [state[name].clone().requires_grad_() for name in ("mean", "scale")]
        total, clipped = self.loss(
            state["past/x"][index], state["past/log_density"][index], advantage, *leaves
        )
        found = torch.autograd.grad(total, leaves)
        gradients = dict(zip(("mean", "scale"), found, strict=True))
        after = stepped(state, gradients, self.rate, DECAY if self.released else 0.0)
        least = self.floor if self.released else math.log(self.floor)
        return {**after, "scale": after["scale"].clamp(min=least)}, float(clipped)

    def report(self, state: State) -> dict[str, float]:
        """Divergence from the standard normal in nats and norm of the mean, of one prompt."""
        mean, deviation = state["mean"].double(), self.deviation(state).double()
        each = 0.5 * (mean * mean + deviation * deviation - 1) - torch.log(deviation)
        return {"kl": float(each.sum(-1).mean()), "shift": float(mean.norm(dim=-1).mean())}

    def images(self, task: Task) -> int:
        """Images that a step scores."""
        return self.batch * task.count

    def evaluations(self, task: Task) -> int:
        """Calls of the denoiser in a step, an image each; there is no backward pass."""
        return self.images(task) * task.sampler.steps * task.passes
