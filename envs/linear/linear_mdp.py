"""Linear MDPs: mixtures of a few unknown laws and pays, the weights of the mixture being known."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

from rlkit import planning
from rlkit.linear_mdps import LinearMDPs, layered, layered_features, make_linear_mdp
from rlkit.models import Model
from rlkit.protocol import Instance, Spec
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import Stepping, TabularProblem, gaps, lead, stepping
from rlkit.validation import check_integer, check_real

LARGEST = 1 << 20  # numbers in one replica's features, and in its table of transitions


class LinearTables(NamedTuple):
    """As `rlkit.tabular.Tables`, with what the model was made of."""

    model: Model
    stepping: Stepping
    optimum: Tensor  # [N] value of the start under the optimal policy
    linear: LinearMDPs


@problem("LinearMDP-v0")
@dataclass(frozen=True)
class LinearMDP(TabularProblem):
    """Rewards and transitions are linear in disclosed features, and differ from stage to stage.

    Jin, Yang, Wang and Jordan (2020), assumption A, drawn for each replica: features
    `phi_h(s, a)` Dirichlet in the simplex of `R^d`, `d` Dirichlet laws `mu_h` over the states and
    uniform `theta_h`; `P_h(s' | s, a) = phi' mu_h(s')`, `r_h = phi' theta_h` in [0, 1], paid
    without noise. The state is `h * states + s`, so that the features know the stage; the last
    state is the end. Start: `s = 0`.

    Raises:
        ValueError: a field outside its range, or tables too large.
    """

    states: int = 10  # states S of a stage, >= 1
    actions: int = 5  # >= 1
    dimension: int = 5  # features d, >= 1
    horizon: int = 5  # steps of an episode H, >= 1
    feature_concentration: float = 0.5  # Dirichlet parameter of the features, > 0
    measure_concentration: float = 0.5  # Dirichlet parameter of the next states, > 0

    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("states", "actions", "dimension", "horizon"):
            check_integer(name, getattr(self, name), 1)
        for name in ("feature_concentration", "measure_concentration"):
            check_real(name, getattr(self, name), 0, open_low=True)
        numbers = self.horizon * self.states * self.actions * max(self.states, self.dimension)
        if numbers > LARGEST:
            raise ValueError(
                f"horizon * states * actions * max(states, dimension) = {numbers} numbers a "
                f"replica; accepted: up to {LARGEST}"
            )

    @property
    def staged(self) -> bool:
        """The state tells the steps left."""
        return False

    def draw(self, rng: Rng) -> LinearMDPs:
        """Features, measures and weights of each replica."""
        return make_linear_mdp(
            self.states,
            self.actions,
            self.dimension,
            self.horizon,
            self.feature_concentration,
            self.measure_concentration,
            rng,
        )

    def model(self, rng: Rng) -> Model:
        """The layered model of each replica."""
        return layered(self.draw(rng))

    def instance(self, rng: Rng) -> Instance:
        """Tables of the model, its optimum and its linear parts."""
        linear = self.draw(rng)
        model = layered(linear)
        gap, optimum = self.solve(model)
        alike = {name: lead(getattr(model, name), rng.n) for name in ("start", "terminal")}
        read = stepping(model, gap)
        return Instance(replica=LinearTables(model._replace(**alike), read, optimum, linear))

    def solve(self, model: Model) -> tuple[Tensor, Tensor]:
        """Gaps `[N, H * S + 1, A]` and the optimal value of the start `[N]`, undiscounted."""
        plan = planning.backward_induction(model, self.horizon)
        return gaps(plan.q[..., 0, :, :]), plan.value[..., 0, 0]

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the features, and the model to agents that say they need it."""
        spec = super().spec(instance)
        features = layered_features(instance.replica.linear)
        return replace(spec, known=spec.known._replace(features=features))
