"""TSDE: posterior sampling for average reward, with phases of growing length."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit import phases
from rlkit.experience import Experience
from rlkit.model_posteriors import NormalGammaRewards, NormalRewards, sampled_kernel
from rlkit.optimism import Optimistic
from rlkit.phases import Phase
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_integer, check_real


class Sampled(NamedTuple):
    """What a replica remembers."""

    phase: Phase
    previous: Tensor  # [N] int64 length of the phase before


@agent("tsde")
@dataclass(frozen=True)
class TSDE:
    """Samples a model of the posterior and plays its gain-optimal policy for a phase.

    Ouyang, Gagrani, Nayyar and Jain (2017), "Learning unknown Markov decision processes: a
    Thompson sampling approach", algorithm 1. A phase ends when it has become longer than the one
    before or when the visits of some pair have more than doubled. Rows of the kernel have
    independent Dirichlet priors, mean rewards normal-gamma ones, as in PSRL.

    A sampled model is communicating with probability one, but may be left so rarely by some
    states that value iteration does not settle in `sweeps` sweeps; its policy is then that of a
    horizon of about as many steps.

    Raises:
        ValueError: a field outside its range.
    """

    alpha: float | None = None  # Dirichlet parameter of every successor, > 0; None: 1 / S
    reward_prior: str = "normal_gamma"  # "normal_gamma", or "normal": noise of known size
    prior_mean: float = 1.0  # of every mean reward
    prior_count: float = 1.0  # normal_gamma: pseudo-count, shape and rate, > 0
    prior_std: float = 1.0  # normal: standard deviation of the prior, > 0
    noise: float = 0.1  # normal: assumed standard deviation of the reward noise, > 0
    known_reward: bool = False  # plan with the problem's mean rewards
    tolerance: float = 1e-4  # of the gain of a plan, > 0
    sweeps: int = 1000  # of value iteration in a plan at most, >= 1

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("reward_prior", self.reward_prior, ("normal", "normal_gamma"))
        check_real("prior_mean", self.prior_mean)
        for name in ("alpha", "prior_count", "prior_std", "noise", "tolerance"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), 0, open_low=True)
        check_integer("sweeps", self.sweeps, 1)

    def initial(self, spec: Spec, rng: Rng) -> Sampled:
        """The first phase, with a model of the prior; the length before it counts as 1.

        Raises:
            ValueError: states and actions are not Discrete or too many, a problem with episodes,
                or a reward that is not disclosed.
        """
        phases.average_reward(self, spec)
        begun = phases.begin(spec, rng)
        everyone = torch.arange(rng.n, device=rng.device)
        return Sampled(self.resample(spec, begun, everyone, rng), torch.ones_like(everyone))

    def act(
        self, spec: Spec, state: Sampled, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Sampled]:
        """The action of the phase's policy `[N]`."""
        return phases.follow(state.phase, observation), state

    def learn(self, spec: Spec, state: Sampled, batch: Transition, rng: Rng) -> Sampled:
        """Count the transition; sample and plan where the phase has ended."""
        phase = phases.remember(spec, state.phase, batch)
        length, before = phase.time - phase.began, phases.at(phase.before, batch)
        long = length > state.previous
        due = long | (phases.at(phase.experience.count, batch) > 2 * before)
        if not bool(due.any()):
            return Sampled(phase, state.previous)
        previous = torch.where(due, length, state.previous)
        return Sampled(self.resample(spec, phase, due.nonzero().squeeze(1), rng), previous)

    def resample(self, spec: Spec, phase: Phase, rows: Tensor, rng: Rng) -> Phase:
        """The next phase of the replicas `rows`: sample a model and plan."""
        draws, begin = phases.draws(rng, rows), phase.value.index_select(0, rows)
        accuracy = torch.full_like(begin[:, 0], self.tolerance)
        model = self.sample(spec, phase, rows, draws)
        plan = phases.solve(model, None, begin, accuracy, self.sweeps, draws)
        return phases.turn(phase, rows, plan)

    def sample(self, spec: Spec, phase: Phase, rows: Tensor, draws: Rng) -> Optimistic:
        """A model of the posterior for each of the replicas `rows`."""
        seen = phases.take(phase.experience, rows)
        alpha = 1 / seen.ended.shape[1] if self.alpha is None else self.alpha
        return Optimistic(sampled_kernel(seen, alpha, draws), self.rewards(spec, seen, rows, draws))

    def rewards(self, spec: Spec, seen: Experience, rows: Tensor, draws: Rng) -> Tensor:
        """Mean rewards `[n, S, A]` of the replicas `rows`, known or from the posterior."""
        if self.known_reward:
            return phases.known_reward(spec, rows).expand_as(seen.count)
        if self.reward_prior == "normal":
            prior = NormalRewards(self.prior_mean, self.prior_std, self.noise)
            return prior.sample(seen, draws)
        return NormalGammaRewards(self.prior_mean, self.prior_count).sample(seen, draws)

    def diagnostics(self, spec: Spec, state: Sampled) -> dict[str, Tensor]:
        """Phases so far, and how many plans were cut short by `sweeps`, `[N]` each."""
        return {"phases": state.phase.phases, "cut_plans": state.phase.cut}
