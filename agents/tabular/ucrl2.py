"""UCRL2: the best policy of the best plausible model, kept until some count has doubled."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlkit import phases
from rlkit.optimism import Optimistic, kernel_radius, reward_bounds, reward_radius
from rlkit.phases import Phase
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer, check_real


@agent("ucrl2")
@dataclass(frozen=True)
class UCRL2:
    """Plays the best policy of the best model that the data leave plausible.

    Jaksch, Ortner and Auer (2010), "Near-optimal regret bounds for reinforcement learning",
    figure 1. A phase ends when the visits of some pair in it reach those before it. Average
    reward: extended value iteration to accuracy `1 / sqrt(t)` of the range of the rewards, begun
    at the values of the phase before. Problems with episodes: a phase ends with the episode, and
    the plan is backward induction over the same set of models, with the time left as a part of
    the state. Optimistic rewards do not exceed the largest one.

    Raises:
        ValueError: a field outside its range.
    """

    delta: float = 0.05  # probability that a confidence set ever fails, in (0, 1)
    scale: float = 1.0  # factor of both radii, >= 0; 1 is the theorem's
    known_reward: bool = False  # plan with the problem's mean rewards
    reward_low: float | None = None  # smallest reward; None: the problem's
    reward_high: float | None = None  # largest reward; None: the problem's
    sweeps: int = 10_000  # of value iteration in a plan at most, >= 1

    needs: ClassVar[tuple[str, ...]] = ()
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("delta", self.delta, 0, 1, open_low=True, open_high=True)
        check_real("scale", self.scale, 0)
        check_integer("sweeps", self.sweeps, 1)
        for name, bound in (("reward_low", self.reward_low), ("reward_high", self.reward_high)):
            if bound is not None:
                check_real(name, bound)

    def initial(self, spec: Spec, rng: Rng) -> Phase:
        """The first phase, without any count.

        Raises:
            ValueError: states and actions are not Discrete or too many, rewards without bounds,
                or a reward that is not disclosed.
        """
        nothing, everyone = phases.begin(spec, rng), torch.arange(rng.n, device=rng.device)
        return self.plan(spec, nothing, everyone, rng)

    def act(self, spec: Spec, state: Phase, observation: Tensor, rng: Rng) -> tuple[Tensor, Phase]:
        """The action of the phase's policy `[N]`."""
        return phases.follow(state, observation), state

    def learn(self, spec: Spec, state: Phase, batch: Transition, rng: Rng) -> Phase:
        """Count the transition; plan where the phase has ended."""
        return phases.advance(spec, state, batch, lambda s, rows: self.plan(spec, s, rows, rng))

    def plan(self, spec: Spec, state: Phase, rows: Tensor, rng: Rng) -> Phase:
        """The next phase of the replicas `rows`."""
        low, high = reward_bounds(self, spec, self.reward_low, self.reward_high)
        start = (state.time.index_select(0, rows) + 1).double()
        plan = phases.solve(
            self.plausible(spec, state, rows),
            spec.horizon,
            state.value.index_select(0, rows),
            (high - low if high > low else 1.0) / torch.sqrt(start),
            self.sweeps,
            phases.draws(rng, rows),
        )
        return phases.turn(state, rows, plan)

    def plausible(self, spec: Spec, state: Phase, rows: Tensor) -> Optimistic:
        """The confidence set of the replicas `rows`, as of now."""
        seen = phases.take(state.experience, rows)
        time = state.time.index_select(0, rows) + 1
        low, high = reward_bounds(self, spec, self.reward_low, self.reward_high)
        states, visits = seen.count.shape[1], seen.count
        kernel = torch.where(visits[..., None] > 0, seen.kernel, 1 / states)
        if self.known_reward:
            reward = phases.known_reward(spec, rows).expand_as(visits)
        else:
            width = self.scale * (high - low) * reward_radius(visits, time, self.delta)
            reward = torch.where(visits > 0, seen.mean_reward + width, high).clamp(max=high)
        radius = self.scale * kernel_radius(visits, time, self.delta)
        goes_on = None if spec.horizon is None else seen.goes_on
        return Optimistic(kernel, reward, radius, goes_on)

    def diagnostics(self, spec: Spec, state: Phase) -> dict[str, Tensor]:
        """Phases so far, and how many plans were cut short by `sweeps`, `[N]` each."""
        return {"phases": state.phases, "cut_plans": state.cut}
