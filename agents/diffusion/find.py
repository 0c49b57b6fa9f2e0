"""FIND: policy optimisation of the law of the initial noise."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import Trained, improve, start_training
from rlkit.diffusion.noise_agents import NoiseAgent, Seeker, fresh
from rlkit.diffusion.noise_policies import (
    REGULARISERS,
    NoiseLaw,
    clamped,
    distance,
    draw_noise,
    log_noise,
    measure_noise,
    start_noise,
)
from rlkit.diffusion.policies import gaussian_task
from rlkit.diffusion.prompts import embeddings
from rlkit.diffusion.task import Noise
from rlkit.networks.mlp import perceptron, start_perceptron
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


class Rollouts(NamedTuple):
    """The last rollouts, the newest first, and what calibrates rewards."""

    point: Tensor  # [N, S, C, B, d] x_T
    reward: Tensor  # [N, S, C, B]
    log_probability: Tensor  # [N, S, C, B] when drawn
    network: Tree  # Trained, of "network"; else ()
    level: Tensor  # [N, C] running mean of rewards


@agent("find")
@dataclass(frozen=True)
class FIND(NoiseAgent):
    """A Gaussian of x_T for each prompt, moved by clipped policy gradient of calibrated rewards.

    "FIND: fine-tuning initial noise distribution with policy optimization" (2024): a network
    predicts the reward of the present law from its mean, deviation and the prompt; what exceeds it
    is the advantage. The defaults correct the released code; its own formulas are the second value
    of `surrogate`, `ratio`, `buffer`, `regulariser` and `coordinates`.

    Raises:
        ValueError: a field outside its range, or a `history` longer than the buffer.
    """

    batch: int = 8  # starts for each prompt an iteration, >= 1
    rate: float = 0.05  # step size of Adam on mean and log deviation, > 0
    inner: int = 1  # steps on the rollouts of an iteration, >= 1
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    beta: float = 0.0  # weight of the distance from N(0, I), >= 0
    regulariser: str = "kl"  # that distance: "kl" or "squared"
    surrogate: str = "min"  # "min" (PPO) or "clamp": the ratio is cut whatever the advantage
    ratio: str = "stored"  # to the law that drew a sample, or to "initial", N(0, I)
    coordinates: str = "sum"  # log densities and distances: "sum" or "mean" over coordinates
    buffer: str = "recent"  # or "mismatched": rewards of the oldest rollout, newest noise
    history: int = 1  # rollouts used in an iteration, 1 .. capacity
    capacity: int = 4  # rollouts kept, >= 1
    baseline: str = "network"  # of rewards: "network", "ema" (running mean) or "none"
    baseline_rate: float = 0.01  # step size of the network, > 0
    baseline_steps: int = 5  # its steps an iteration, >= 1
    decay: float = 0.8  # weight of the past in "ema", in [0, 1)
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of the network, >= 1
    deviation: float = 1.0  # of x_T at the start, > 0
    allow_uncontrollable: bool = False  # whether to run where x_T has no influence

    needs: ClassVar[tuple[str, ...]] = ("diffusion",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
        check_real("rate", self.rate, 0, open_low=True)
        check_integer("inner", self.inner, 1)
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_real("beta", self.beta, 0)
        check_choice("regulariser", self.regulariser, REGULARISERS)
        check_choice("surrogate", self.surrogate, ("min", "clamp"))
        check_choice("ratio", self.ratio, ("stored", "initial"))
        check_choice("coordinates", self.coordinates, ("sum", "mean"))
        check_choice("buffer", self.buffer, ("recent", "mismatched"))
        check_choice("baseline", self.baseline, ("network", "ema", "none"))
        check_integer("capacity", self.capacity, 1)
        check_integer("history", self.history, 1, self.capacity)
        check_real("baseline_rate", self.baseline_rate, 0, open_low=True)
        check_integer("baseline_steps", self.baseline_steps, 1)
        check_real("decay", self.decay, 0, 1, open_high=True)
        check_real("deviation", self.deviation, 0, open_low=True)
        for size in self.hidden:
            check_integer("hidden", size, 1)

    def initial(self, spec: Spec, rng: Rng) -> Seeker:
        """Standard normal noise (or of the given deviation), and no rollouts.

        Raises:
            ValueError: no points in R^d, or x_T has no influence.
        """
        task = self.suited(spec)
        law = start_noise(task, rng.n, self.deviation)
        c, d = task.prompts, task.dimension
        empty = law.mean.new_zeros(rng.n, self.capacity, c, self.batch)
        network: Tree = ()
        if self.baseline == "network":
            sizes = (2 * d + embeddings(task).shape[1], *self.hidden, 1)
            network = start_training(start_perceptron(rng.child("baseline"), sizes))
        point = empty[..., None].expand(*empty.shape, d).contiguous()
        memory = Rollouts(point, empty, empty, network, empty[:, 0, :, 0])
        return Seeker(start_training(law), memory, fresh(rng), rng.replica)

    def act(self, spec: Spec, state: Seeker, observation: Tree, rng: Rng) -> tuple[Noise, Seeker]:
        """Starts drawn from the law of each prompt."""
        point = draw_noise(state.law.parameters, rng, "start", self.batch)
        return self.starts(spec, rng, point), state

    def learn(self, spec: Spec, state: Seeker, batch: Transition, rng: Rng) -> Seeker:
        """Store the rollout, calibrate, and take `inner` steps on the stored rollouts."""
        point, reward = self.scored(spec, batch)
        memory = self.stored(state, point, reward)
        used, paid = self.material(memory, state.iteration)
        memory = self.calibrated(spec, state, memory, paid[:, 0])
        level = self.expected(spec, memory, state.law.parameters)
        filled = torch.arange(paid.shape[1], device=paid.device) <= state.iteration[:, None]
        share = (filled / filled.sum(1, keepdim=True)).double()
        advantage = (paid - level[:, None, :, None]) * share[..., None, None]
        law = state.law
        for _ in range(self.inner):
            law = improve(law, lambda p: self.loss(p, used, advantage), self.rate)
            law = law._replace(parameters=clamped(law.parameters))
        return Seeker(law, memory, state.iteration + 1, state.replica)

    def stored(self, state: Seeker, point: Tensor, reward: Tensor) -> Rollouts:
        """The buffer with a new rollout in front."""
        law = state.law.parameters
        if self.ratio == "initial":
            law = NoiseLaw(torch.zeros_like(law.mean), torch.zeros_like(law.mean))
        log = log_noise(law, point[:, None], self.coordinates == "mean")
        memory: Rollouts = state.memory
        return memory._replace(
            point=torch.cat([point[:, None], memory.point[:, :-1]], 1),
            reward=torch.cat([reward[:, None], memory.reward[:, :-1]], 1),
            log_probability=torch.cat([log, memory.log_probability[:, :-1]], 1),
        )

    def material(self, memory: Rollouts, iteration: Tensor) -> tuple[Rollouts, Tensor]:
        """Rollouts to learn from `[N, H, C, B]`, and the rewards to pair them with."""
        used = memory._replace(
            point=memory.point[:, : self.history],
            log_probability=memory.log_probability[:, : self.history],
        )
        if self.buffer == "recent":
            return used, memory.reward[:, : self.history]
        oldest = iteration.clamp(max=self.capacity - 1)  # the slot of row 0 of a growing buffer
        index = oldest.reshape(-1, 1, 1, 1).expand(-1, self.history, *memory.reward.shape[2:])
        return used, memory.reward.gather(1, index)

    def calibrated(self, spec: Spec, state: Seeker, memory: Rollouts, reward: Tensor) -> Rollouts:
        """The baseline after learning from `reward` `[N, C, B]`."""
        if self.baseline == "none":
            return memory
        mean = reward.mean(2)
        first = (state.iteration == 0)[:, None]
        level = torch.where(first, mean, self.decay * memory.level + (1 - self.decay) * mean)
        memory = memory._replace(level=level)
        if self.baseline == "ema":
            return memory
        inputs, network = features(spec, state.law.parameters), memory.network

        def loss(parameters: Tree) -> Tensor:
            error = perceptron(parameters, inputs, torch.relu) - reward
            return (error * error).mean((1, 2))

        for _ in range(self.baseline_steps):
            network = improve(network, loss, self.baseline_rate)
        return memory._replace(network=network)

    def expected(self, spec: Spec, memory: Rollouts, law: NoiseLaw) -> Tensor:
        """The baseline: expected reward of the present law, `[N, C]`."""
        if self.baseline != "network":
            return memory.level
        trained: Trained = memory.network
        with torch.no_grad():
            return perceptron(trained.parameters, features(spec, law), torch.relu)[..., 0].double()

    def loss(self, law: NoiseLaw, used: Rollouts, advantage: Tensor) -> Tensor:
        """Negative surrogate plus `beta` times the distance, summed over prompts, `[N]`.

        Args:
            law: the parameters.
            used: rollouts `[N, H, C, B]`.
            advantage: `[N, H, C, B]`, with the weights of a mean over H.
        """
        now = log_noise(law, used.point, self.coordinates == "mean")
        ratio = torch.exp(now - used.log_probability)
        cut = ratio.clamp(1 - self.clip, 1 + self.clip) * advantage
        gain = cut if self.surrogate == "clamp" else torch.minimum(ratio * advantage, cut)
        each = distance(law, self.regulariser)
        far = each.mean(-1) if self.coordinates == "mean" else each.sum(-1)
        return self.beta * far.sum(1) - gain.mean(3).sum((1, 2))

    def diagnostics(self, spec: Spec, state: Seeker) -> dict[str, Tensor]:
        """Expected rewards, divergence of the noise, denoiser evaluations so far, `[N]`."""
        found = measure_noise(gaussian_task(spec), state.law.parameters, state.replica)
        return {**found, "evaluations": self.spent(spec, state.iteration)}


def features(spec: Spec, law: NoiseLaw) -> Tensor:
    """What the network sees: mean, deviation and prompt, `[N, C, 2 d + E]` float32."""
    told = embeddings(gaussian_task(spec)).expand(len(law.mean), -1, -1)
    return torch.cat([law.mean.float(), law.deviation.float(), told], -1)
