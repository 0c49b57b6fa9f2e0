"""Certainty equivalence: the best policy of the mean model, with random actions now and then."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit import phases
from rlkit.optimism import Optimistic
from rlkit.phases import Phase
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer, check_real


@agent("epsilon_greedy_model")
@dataclass(frozen=True)
class EpsilonGreedyModel:
    """Plays the best policy of the mean model, and a uniform action with probability epsilon.

    The baseline without optimism: phases as in UCRL2, no confidence set. The model is the mean
    of Dirichlet posteriors, so that it is communicating; a reward never seen counts as `unseen`.
    At step t epsilon is `epsilon / sqrt(1 + t / decay)`.

    Raises:
        ValueError: a field outside its range.
    """

    epsilon: float = 0.05  # probability of a uniform action in the beginning, in [0, 1]
    decay: float | None = 100.0  # steps over which it falls by sqrt(2), > 0; None: constant
    alpha: float | None = None  # Dirichlet parameter of every successor, > 0; None: 1 / S
    unseen: float = 0.0  # mean reward assumed where nothing was seen
    known_reward: bool = False  # plan with the problem's mean rewards
    tolerance: float = 1e-4  # of the gain of a plan, > 0
    sweeps: int = 1000  # of value iteration in a plan at most, >= 1

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("epsilon", self.epsilon, 0, 1)
        for name in ("decay", "alpha"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), 0, open_low=True)
        check_real("unseen", self.unseen)
        check_real("tolerance", self.tolerance, 0, open_low=True)
        check_integer("sweeps", self.sweeps, 1)

    def initial(self, spec: Spec, rng: Rng) -> Phase:
        """The first phase, of a uniform model.

        Raises:
            ValueError: states and actions are not Discrete or too many, or a reward that is not
                disclosed.
        """
        everyone = torch.arange(rng.n, device=rng.device)
        return self.plan(spec, phases.begin(spec, rng), everyone, rng)

    def act(self, spec: Spec, state: Phase, observation: Tensor, rng: Rng) -> tuple[Tensor, Phase]:
        """The action of the phase's policy, or a uniform one, `[N]`."""
        actions = state.before.shape[2]
        epsilon: Tensor | float = self.epsilon
        if self.decay is not None:
            epsilon = epsilon / torch.sqrt(1 + state.time.double() / self.decay)
        explore = rng.uniform("explore") < epsilon
        anything = rng.integers("anything", actions)
        return torch.where(explore, anything, phases.follow(state, observation)), state

    def learn(self, spec: Spec, state: Phase, batch: Transition, rng: Rng) -> Phase:
        """Count the transition; plan where the phase has ended."""
        return phases.advance(spec, state, batch, lambda s, rows: self.plan(spec, s, rows, rng))

    def plan(self, spec: Spec, state: Phase, rows: Tensor, rng: Rng) -> Phase:
        """The next phase of the replicas `rows`."""
        draws, begin = phases.draws(rng, rows), state.value.index_select(0, rows)
        accuracy = torch.full_like(begin[:, 0], self.tolerance)
        model = self.estimate(spec, state, rows)
        plan = phases.solve(model, spec.horizon, begin, accuracy, self.sweeps, draws)
        return phases.turn(state, rows, plan)

    def estimate(self, spec: Spec, state: Phase, rows: Tensor) -> Optimistic:
        """Mean model of the replicas `rows`, as of now."""
        seen = phases.take(state.experience, rows)
        states = seen.count.shape[1]
        prior = 1 / states if self.alpha is None else self.alpha
        kernel = (seen.visits + prior) / (seen.count + states * prior)[..., None]
        if self.known_reward:
            reward = phases.known_reward(spec, rows).expand_as(seen.count)
        else:
            reward = torch.where(seen.count > 0, seen.mean_reward, self.unseen)
        goes_on = None if spec.horizon is None else seen.goes_on
        return Optimistic(kernel, reward, goes_on=goes_on)

    def diagnostics(self, spec: Spec, state: Phase) -> dict[str, Tensor]:
        """Phases so far, and how many plans were cut short by `sweeps`, `[N]` each."""
        return {"phases": state.phases, "cut_plans": state.cut}
