"""NoisePrompt: choose the noise that a frozen sampler starts from, given a prompt."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.diffusion.checks import checking, trusted
from rlkit.diffusion.explicit_noise import given_noise
from rlkit.diffusion.kernels import Kernel
from rlkit.diffusion.mixtures import Mixture, gm1, lqg, ring
from rlkit.diffusion.noise_policies import refuse_lost_noise
from rlkit.diffusion.problem import ChainState, DiffusionProblem, ended, numbers
from rlkit.diffusion.prompts import PromptDiffusion, PromptModes, Sigmoid, embeddings
from rlkit.diffusion.rewards import Judge, Quadratic
from rlkit.diffusion.schedules import Schedule, linear_schedule, terminal_schedule
from rlkit.diffusion.task import Chains, Noise, Samples, run_reference
from rlkit.protocol import Box, Instance, Known, Spec, Step
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.validation import check_choice, check_integer, check_real

DATA = ("ring", "lqg", "gm1")
KINDS = ("ddim", "ddpm", "exact")
MODES = 5  # of "ring"
PAIR_RHO = {2: 0.5875, 16: 1.2047}  # widths at which a pair of rarity 0.012 has base reward 0.01


class PromptTables(NamedTuple):
    """What an instance drew."""

    log_weight: Tensor  # [N, C + P, K] of prompts, then of phrasings
    mean: Tensor  # [N, 1, K, d]
    spectrum: Tensor  # [N, 1, K, d]


class PromptScores(NamedTuple):
    """Feedback on one x_T."""

    reward: Tensor  # [N, 1]
    point: Tensor  # [N, 1, d] x_0
    log_data: Tensor | tuple[()]  # [N] float64 of x_0, see `DiffusionTask.log_data`
    parts: dict[str, Tensor]  # [N] or [N, k] whose numbers all sum to the reward


@problem("NoisePrompt-v0")
@dataclass(frozen=True)
class NoisePrompt(DiffusionProblem):
    """One-step MDP of initial noise: observe a prompt, act with x_T, be paid for x_0.

    The sampler is frozen. On RING(d) the first prompts ask for one mode, the others for two
    neighbours at once: their reward is a product of shares, and the data then have a rare component
    halfway between each two. Phrasings are further laws of samples, for agents that search for
    prompts.

    Raises:
        ValueError: a field outside its range, or a sampler under which the noise has no influence.
    """

    data: str = "ring"  # "ring", "lqg" (quadratic reward) or "gm1" (sigmoid of 4 x)
    dimension: int = 2  # of "ring": 2, or >= 6
    modes: int = 1  # prompts that ask for one mode, 0 .. 5
    pairs: int = 0  # compositional prompts, 0 .. 5
    rho: float = 0.5  # width of the reward of one mode, > 0
    pair_rho: float = 0.0  # of a pair, > 0; 0: base reward 0.01, where d is 2 or 16
    rarity: float = 0.012  # weight of the data between two neighbours, in (0, 0.2)
    focus: float = 0.0  # share of the data of a prompt that is at its own modes, in [0, 1)
    phrasings: int = 4  # further laws of samples, >= 0, with Dirichlet weights
    steps: int = 20  # denoising steps T, >= 1
    terminal_abar: float = 0.0  # level of x_T in (0, 0.95]; 0: what b0 = 0.1, b1 = 20 give
    kernel: str = "ddim"  # reverse steps: "ddim", "ddpm" or "exact"
    eta: float = 0.0  # noise of "ddim", in [0, 1]
    last_variance: float = 1e-4  # of the last step where it would be 0, > 0
    allow_uncontrollable: bool = False  # whether x_T may have no influence

    options: ClassVar[tuple[str, ...]] = ("c", "noise")
    example_agent: ClassVar[str] = "diffusion_best_of_n"

    def __post_init__(self) -> None:
        check_choice("data", self.data, DATA)
        check_choice("kernel", self.kernel, KINDS)
        check_integer("dimension", self.dimension, 2)
        check_integer("modes", self.modes, 0, MODES)
        check_integer("pairs", self.pairs, 0, MODES)
        check_integer("phrasings", self.phrasings, 0)
        check_integer("steps", self.steps, 1)
        check_real("rho", self.rho, 0, open_low=True)
        check_real("pair_rho", self.pair_rho, 0)
        check_real("rarity", self.rarity, 0, 0.2, open_low=True, open_high=True)
        check_real("focus", self.focus, 0, 1, open_high=True)
        check_real("terminal_abar", self.terminal_abar, 0, 0.95)
        check_real("eta", self.eta, 0, 1)
        check_real("last_variance", self.last_variance, 0, open_low=True)
        self.check_prompts()
        refuse_lost_noise(self.reverse, self.allow_uncontrollable)

    def check_prompts(self) -> None:
        """Refuse numbers of prompts that the data do not have.

        Raises:
            ValueError: naming the fields.
        """
        if self.data != "ring" and (self.modes != 1 or self.pairs or self.focus):
            raise ValueError(
                f"data = {self.data!r} has one prompt; accepted: modes = 1, pairs = 0, focus = 0"
            )
        if self.modes + self.pairs == 0:
            raise ValueError("modes = 0 and pairs = 0; accepted: at least one prompt")
        if self.pairs and self.pair_rho == 0 and self.dimension not in PAIR_RHO:
            raise ValueError(f"pair_rho = 0 with dimension = {self.dimension}; accepted: (0, inf)")

    @property
    def horizon(self) -> int:
        """One step: the noise."""
        return 1

    @cached_property
    def levels(self) -> Schedule:
        """Noise levels."""
        if self.terminal_abar > 0:
            return terminal_schedule(self.steps, self.terminal_abar)
        return linear_schedule(self.steps)

    @cached_property
    def reverse(self) -> Kernel:
        """Reverse steps."""
        return Kernel(self.levels, self.kernel, "small", self.eta, self.last_variance)

    @cached_property
    def targets(self) -> Tensor:
        """Modes of each prompt, `[C, 2]`, the same twice where it asks for one."""
        first = torch.cat([torch.arange(self.modes), torch.arange(self.pairs)])
        shift = torch.arange(self.modes + self.pairs) >= self.modes
        return torch.stack([first, (first + shift.long()) % MODES], 1)

    @cached_property
    def told(self) -> Tensor:
        """Embedding of each prompt, `[C, K]`: the shares of its modes, which sum to 1."""
        if self.data != "ring":
            return torch.ones(1, 1)
        return torch.nn.functional.one_hot(self.targets, MODES).float().mean(1)

    def instance(self, rng: Rng) -> Instance:
        """The preset with weights for each prompt; phrasings are drawn for each replica."""
        if self.data != "ring":
            made = {"lqg": lqg, "gm1": gm1}[self.data](rng.n)
        else:
            made = self.ring(rng.n)
        weight, size = made.weight, made.mean.shape[2]
        if self.data == "ring":
            own = torch.nn.functional.pad(self.told.double(), (0, size - MODES))
            weight = (1 - self.focus) * weight + self.focus * own
        weight = weight.to(rng.device)
        if self.phrasings:
            mild = MODES if self.data == "ring" else size
            like = mild * made.weight.to(rng.device).expand(-1, self.phrasings, -1)
            weight = torch.cat([weight, rng.dirichlet("phrasing", like.contiguous())], 1)
        at = (made.mean.to(rng.device), made.spectrum.to(rng.device))
        return Instance(replica=PromptTables(torch.log(weight).contiguous(), *at))

    def ring(self, n: int) -> Mixture:
        """RING(d), with rare components between neighbours where prompts ask for them."""
        made = ring(self.dimension, n)
        if not self.pairs:
            return made
        between = 0.5 * (made.mean + made.mean.roll(-1, 2))
        rare = torch.full_like(made.log_weight, self.rarity)
        weight = torch.cat([made.weight * (1 - MODES * self.rarity), rare], 2)
        mean, spectrum = torch.cat([made.mean, between], 2), torch.cat([made.spectrum] * 2, 2)
        return Mixture(torch.log(weight), mean, spectrum)

    def task(self, instance: Instance) -> PromptDiffusion:
        """The sampler with its reward."""
        mixture = Mixture(*instance.replica)
        return PromptDiffusion(
            mixture, self.reverse, self.judge(mixture), self.modes + self.pairs, self.told
        )

    def judge(self, mixture: Mixture) -> Judge:
        """The reward."""
        n, like = mixture.replicas, mixture.mean
        if self.data == "ring":
            pair = self.pair_rho or PAIR_RHO.get(self.dimension, 1.0)
            return PromptModes(mixture.mean[:, 0, :MODES], self.targets, self.rho, pair)
        if self.data == "lqg":
            return Quadratic(like.new_full((n, 1, 1), 1.5), like.new_full((n, 1, 1), -1.0))
        return Sigmoid(like.new_full((n, 1, 1), 4.0))

    def point_space(self, task: PromptDiffusion) -> Box:  # type: ignore[override]
        """Points of R^d."""
        return Box((task.dimension,))

    def reset(self, instance: Instance, rng: Rng) -> ChainState:
        """A prompt; room for the noise of the sampler where it is Gaussian."""
        state = super().reset(instance, rng)
        if self.reverse.deterministic or self.kernel == "exact":
            return state
        noise = state.point[:, None].expand(-1, self.steps, -1) * 0
        return state._replace(noise=noise, given=torch.zeros_like(state.prompt).bool())

    def reset_to(
        self, instance: Instance, options: dict[str, Any], usual: ChainState
    ) -> tuple[ChainState, Tensor]:
        """The prompt `options["c"]`, and `options["noise"]` for the steps of the sampler.

        Noise is standard normal, `[T, d]` or one a row, `[N, T, d]`; index t - 1 is of the step
        from x_t. Without it the sampler draws.

        Raises:
            ValueError: other options, a prompt that does not exist, noise of another shape or not
                finite, or for a sampler that uses none or more than that.
        """
        if "x_T" in options:
            raise ValueError("x_T is the action here; accepted options: 'c', 'noise'")
        if "noise" in options:
            usual = self.given(options["noise"], usual)
        rest = {key: value for key, value in options.items() if key != "noise"}
        return super().reset_to(instance, rest, usual)

    def given(self, noise: Any, usual: ChainState) -> ChainState:
        """`usual` with the noise of its sampler, `[T, d]` or `[N, T, d]`.

        Raises:
            ValueError: another shape, not finite, or a sampler that uses none or more than that.
        """
        if not isinstance(usual.noise, Tensor):
            raise ValueError(
                f"noise for kernel = {self.kernel!r} with eta = {self.eta}; accepted: 'ddpm', or "
                "'ddim' with eta > 0"
            )
        accepted = usual.noise.shape
        value = numbers("noise", noise, usual.noise.device).to(usual.noise.dtype)
        if value.shape not in (accepted, accepted[1:]):
            raise ValueError(f"noise has shape {tuple(value.shape)}; accepted: {tuple(accepted)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError("noise holds a number that is not finite; accepted: (-inf, inf)")
        return usual._replace(
            noise=value.expand(accepted), given=torch.ones_like(usual.prompt).bool()
        )

    def transition(self, instance: Instance, state: ChainState, action: Any, rng: Rng) -> Step:
        """Run the sampler on x_T = `action` `[N, d]`, or score a batch."""
        task = self.task(instance)
        if isinstance(action, (Chains, Samples, Noise)):
            if (
                isinstance(state.given, Tensor)
                and checking(state.given)
                and bool(state.given.any())
            ):
                raise ValueError("options['noise'] is for single x_T; accepted: no batch after it")
            return self.scored(task, state, action, rng)
        start = action.to(state.point.dtype)[:, None]
        prompt = state.prompt[:, None]
        if isinstance(state.noise, Tensor) and isinstance(state.given, Tensor):
            rng = given_noise(rng, self.steps, state.noise[:, :, None], rows=state.given)
        with trusted():
            point = run_reference(task, start, prompt, rng)
        reward = task.reward(point, prompt)
        after = state._replace(point=point[:, 0], time=0 * state.time)
        over, paid = torch.ones_like(state.prompt).bool(), reward[:, 0].float()
        end = ended(task, over, point[:, 0], state.prompt, paid)
        return Step(after, paid, (~over).float(), PromptScores(reward, point, *end))

    def observe(self, instance: Instance, state: ChainState) -> Tensor:  # type: ignore[override]
        """Embedding of the prompt, `[N, E]`."""
        return embeddings(self.task(instance))[state.prompt]

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the sampler and its reward."""
        task = self.task(instance)
        seen = Box((self.told.shape[1],), 0.0, 1.0)
        return Spec(seen, self.point_space(task), self.horizon, Known(diffusion=task))

    def diagnostics(self, instance: Instance, state: ChainState, action: Any) -> dict[str, Tensor]:
        """Number of rewards asked for, `[N]`: those of a batch, or 1."""
        count = action.prompt.shape[1] if isinstance(action, (Chains, Samples, Noise)) else 1
        return {"queries": torch.full_like(state.time, count).double()}
