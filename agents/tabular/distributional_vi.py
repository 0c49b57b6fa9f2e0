"""Distributional dynamic programming as an agent: plans for its stock, then keeps track of it."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit import stocks
from rlkit.protocol import Discrete, Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.sampling import choose
from rlkit.stocks.functionals import UTILITIES, utility
from rlkit.stocks.lattice import LARGEST, Lattice, on_lattice
from rlkit.stocks.utilities import shifted
from rlkit.validation import check_choice, check_integer, check_real

OBJECTIVES = ("mean", "target", "lower_cvar", "upper_cvar", "mean_variance", "utility")


class StockState(NamedTuple):
    """The plan, and where an episode stands."""

    action: Tensor  # [N, P, H, S, C] uint8; the same memory for all replicas
    weight: Tensor  # [N, P] float64 probability of each policy, cumulative
    origin: Tensor  # [N] int64 flat position of the return 0
    stride: Tensor  # [N, m] int64 flat distance of neighbouring stocks
    which: Tensor  # [N] int64 policy of this episode
    stage: Tensor  # [N] int64 steps since the start
    stock: Tensor  # [N] int64 flat position of the return so far


@agent("distributional_vi")
@dataclass(frozen=True)
class DistributionalVI:
    """Plays the exact optimum of a functional of the return's law, with the model known.

    Avila Pires et al. (2025): dynamic programming on state and stock, with a search over the
    initial stock. The return is the undiscounted sum over an episode, whatever the problem's own
    objective. Rewards must be multiples of `unit`. The best upper tail may need a policy drawn
    at the start of each episode. Problems with several rewards take the objective "utility".

    Raises:
        ValueError: a field outside its range.
    """

    objective: str = "lower_cvar"  # mean, target, lower_cvar, upper_cvar, mean_variance, utility
    target: float = 0.0  # return that "target" aims at
    power: float = 1.0  # exponent of the distance to the target, or of a utility, > 0
    tau: float = 0.25  # mass of the tail, in (0, 1]
    weight: float = 0.1  # of the variance, or of a utility's penalty, >= 0
    utility: str = "shortfall"  # for "utility": a name of rlkit.stocks.functionals
    stock: tuple[float, ...] = (0.0,)  # for "utility": initial stock, one number a reward
    randomise: bool = True  # whether "upper_cvar" may draw its policy, else the best single one
    unit: float = 1.0  # rewards are integer multiples of it, > 0
    largest: int = 50_000_000  # table entries that planning may visit, >= 1

    needs: ClassVar[tuple[str, ...]] = ("model",)
    compilable: ClassVar[bool] = False  # a scan would copy the plan, one table, per replica

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_real("target", self.target)
        check_real("power", self.power, 0, open_low=True)
        check_real("tau", self.tau, 0, 1, open_low=True)
        check_real("weight", self.weight, 0)
        check_choice("utility", self.utility, UTILITIES)
        for value in self.stock:
            check_real("stock", value)
        check_real("unit", self.unit, 0, open_low=True)
        check_integer("largest", self.largest, 1)

    def initial(self, spec: Spec, rng: Rng) -> StockState:
        """Plan, then start the first episode.

        Raises:
            ValueError: a problem without time limit, with noisy or batched rewards, with rewards
                off the lattice, with a lattice that is too large, or with several rewards where
                the objective is about one.
        """
        lattice = self.lattice(spec)
        policies, weight = self.plan(lattice)
        count, stages = len(weight), lattice.model.steps
        states, _actions, points = lattice.size
        table = torch.stack(policies).to(torch.uint8).to(rng.device)
        stride = [1]
        for size in lattice.count[:0:-1]:
            stride.insert(0, stride[0] * size)
        cumulative = torch.tensor(weight, dtype=torch.float64, device=rng.device).cumsum(0)
        zero = torch.zeros_like(rng.replica)
        state = StockState(
            table.expand(rng.n, count, stages, states, points),
            cumulative.expand(rng.n, count),
            zero + lattice.place(),
            zero[:, None] + torch.tensor(stride, device=rng.device),
            zero,
            zero,
            zero + lattice.place(),
        )
        return state._replace(which=self.draw(state, rng))

    def lattice(self, spec: Spec) -> Lattice:
        """The lattice of a problem, with the errors of `initial`."""
        if not isinstance(spec.observation, Discrete) or not isinstance(spec.action, Discrete):
            raise ValueError("distributional_vi needs Discrete states and actions")
        if spec.horizon is None:
            raise ValueError("distributional_vi needs one time limit for all replicas: a horizon")
        if spec.action.n > 256:
            raise ValueError(f"distributional_vi takes up to 256 actions, not {spec.action.n}")
        if not all(map(torch.isfinite, torch.tensor(spec.reward_range))):
            raise ValueError("distributional_vi needs a finite reward_range: rewards have no noise")
        model = stocks.augment(spec.known.model, 1.0, spec.horizon, spec.known.rewards)
        lattice = on_lattice(model, unit=self.unit, largest=min(LARGEST, self.largest))
        searched = self.objective in ("lower_cvar", "upper_cvar")
        visits = lattice.index.numel() * spec.horizon * (lattice.size[2] if searched else 1)
        if visits > self.largest:
            raise ValueError(
                f"planning for {lattice.size[2]} stocks visits {visits} table entries; accepted: "
                f"up to largest = {self.largest}"
            )
        return lattice

    def plan(self, lattice: Lattice) -> tuple[list[Tensor], list[float]]:
        """Policies `[H, S, C]` and their probabilities."""
        if self.objective == "lower_cvar":
            return [stocks.best_lower_cvar(lattice, self.tau).action], [1.0]
        if self.objective == "mean_variance":
            return [stocks.best_mean_variance(lattice, self.weight).action], [1.0]
        if self.objective == "upper_cvar":
            found = stocks.best_upper_cvar(lattice, self.tau)
            if self.randomise:
                return list(found.action), list(found.weight)
            return [found.deterministic.action], [1.0]
        name, stock = self.utility, self.stock
        if self.objective != "utility":
            name = {"mean": "mean", "target": "distance"}[self.objective]
            stock = (-self.target,)
        functional = utility(name, {"power": self.power, "weight": self.weight})
        final = shifted(lattice, functional, torch.tensor([stock], dtype=torch.float64))
        return [lattice.maximise(final[0]).action], [1.0]

    def draw(self, state: StockState, rng: Rng) -> Tensor:
        """Policy of an episode `[N]`."""
        if state.weight.shape[1] == 1:
            return torch.zeros_like(rng.replica)
        chance = rng.uniform("policy", dtype=torch.float64)
        return (chance[:, None] >= state.weight[:, :-1]).sum(1)

    def act(
        self, spec: Spec, state: StockState, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, StockState]:
        """The planned action for stage, state and stock `[N]`."""
        _, _, stages, states, points = state.action.shape
        stage = state.stage.clamp(max=stages - 1)
        row = ((state.which * stages + stage) * states + observation) * points + state.stock
        return choose(state.action.flatten(1), row).long(), state

    def learn(self, spec: Spec, state: StockState, batch: Transition, rng: Rng) -> StockState:
        """Add the rewards to the stock; at the end of an episode start anew."""
        rewards = batch.reward[:, None] if spec.known.rewards is None else batch.feedback
        steps = torch.round(rewards / self.unit).long()
        stock = state.stock + (steps * state.stride).sum(1)
        return state._replace(
            which=torch.where(batch.last, self.draw(state, rng), state.which),
            stage=torch.where(batch.last, 0, state.stage + 1),
            stock=torch.where(batch.last, state.origin, stock),
        )
