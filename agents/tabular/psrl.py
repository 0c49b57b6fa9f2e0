"""Posterior sampling for reinforcement learning: one sampled model an episode."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit.episodic import Learner, act, learn, replicas_innermost, solution, start
from rlkit.experience import Experience, episode_length
from rlkit.model_error import model_error
from rlkit.model_posteriors import (
    NormalGammaRewards,
    NormalRewards,
    absorbing,
    given_survival,
    sampled_kernel,
)
from rlkit.models import Dense
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real


@agent("psrl")
@dataclass(frozen=True)
class PSRL:
    """Follows for an episode the optimal policy of a model drawn from the posterior.

    Osband, Russo and Van Roy (2013), "(More) efficient reinforcement learning via posterior
    sampling", Algorithm 1. Transitions do not depend on the stage; rows of the kernel have
    independent Dirichlet priors.

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
    known_termination: bool = False  # plan with the problem's probabilities of ending the episode
    track_error: bool = False  # record the error of the model, where the true one is disclosed

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False
    episodic: ClassVar[bool] = True  # plans where an episode ends, and only there

    def __post_init__(self) -> None:
        check_choice("reward_prior", self.reward_prior, ("normal", "normal_gamma"))
        check_real("prior_mean", self.prior_mean)
        for name in ("alpha", "prior_count", "prior_std", "noise"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), 0, open_low=True)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """A model drawn from the prior, solved.

        Raises:
            ValueError: as `rlkit.episodic.start`; the rewards are not disclosed.
        """
        if self.known_reward and spec.known.reward is None:
            raise ValueError("known_reward = True, but the problem does not disclose its rewards")
        if self.known_termination and spec.known.model is None:
            raise ValueError("known_termination = True, but the problem discloses no model")
        return start(spec, rng, self.plan)

    def act(
        self, spec: Spec, state: Learner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Learner]:
        """The sampled model's best action `[N]`."""
        return act(spec, state, observation, rng), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Bayes' rule and the next model where an episode ended."""
        return learn(spec, state, batch, rng, self.plan)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """With `track_error`, the `model_error` of the expected model, `[N]` in `[0, 2]`."""
        if not self.track_error or spec.known.model is None:
            return {}
        pseudo = state.experience.visits + self.prior_alpha(state.experience)
        return {"model_error": model_error(pseudo / pseudo.sum(-1, keepdim=True), spec.known.model)}

    def plan(self, spec: Spec, experience: Experience, rng: Rng) -> Tensor:
        """Action values `[N, H, S, A]` of a model from the posterior."""
        alpha = self.prior_alpha(experience)

        def sample(rng: Rng, visits: Tensor) -> Tensor:
            return sampled_kernel(experience._replace(visits=visits), alpha, rng)

        def paid(rng: Rng, *leaves: Tensor) -> Tensor:
            return self.rewards(spec, Experience(*leaves), rng)

        kernel = rng.fused("sample", sample, experience.visits)
        reward = rng.fused("paid", paid, *experience)

        def solve(rng: Rng, kernel: Tensor, reward: Tensor, ended: Tensor) -> Tensor:
            if self.known_termination:
                model = Dense(given_survival(kernel, spec.known.model), reward)
            else:
                model = absorbing(kernel, reward, ended)
            return solution(model, episode_length(spec))

        if rng.kernels is not None:  # compiled code reads the replicas one after another
            kernel, reward = replicas_innermost(kernel), replicas_innermost(reward)
        return rng.fused("solve", solve, kernel, reward, experience.ended)

    def rewards(self, spec: Spec, experience: Experience, rng: Rng) -> Tensor:
        """Mean rewards `[N, S, A]`, known or from the posterior."""
        if self.known_reward and spec.known.reward is not None:
            return spec.known.reward.to(torch.float64).expand_as(experience.count)
        if self.reward_prior == "normal":
            prior = NormalRewards(self.prior_mean, self.prior_std, self.noise)
            return prior.sample(experience, rng)
        return NormalGammaRewards(self.prior_mean, self.prior_count).sample(experience, rng)

    def prior_alpha(self, experience: Experience) -> float:
        """Dirichlet parameter of every successor."""
        return 1 / experience.ended.shape[1] if self.alpha is None else self.alpha
