"""Random factored MDPs: every bit of the successor depends on a few bits of state and action."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.factored.structure import (
    CausalPrior,
    causal_prior,
    check_joint,
    encode,
    joint_kernel,
    parent_sets,
    supersets,
)
from rlkit.models import Dense, Model
from rlkit.planning import backward_induction
from rlkit.protocol import Discrete, Instance, Known, Spec, Step
from rlkit.random import Rng
from rlkit.registry import problem
from rlkit.tabular import Stepping, TabularProblem, TabularState, gaps, held, rows, starts
from rlkit.validation import check_integer, check_real


class FactoredTables(NamedTuple):
    """A drawn instance."""

    model: Model
    stepping: Stepping
    optimum: Tensor  # [N]
    edge: Tensor  # [N, X, dY * (values - 1)] float32, cumulative probabilities of each factor
    parents: Tensor  # [N, dY, dX] bool
    known: Tensor  # [N, dY, dX] bool


@problem("RandomFactoredMDP-v0")
@dataclass(frozen=True)
class RandomFactoredMDP(TabularProblem):
    """A graph, conditional tables and rewards drawn per replica; some edges are disclosed.

    The random factored MDPs of Mutti et al. (2024): nine binary features, six of the state and
    three of the action, two known parents a successor feature. Their other constants are not
    published: here parents are uniform, rows Dirichlet(`concentration`), rewards of states
    uniform on [0, 1] and known. Start: state 0.

    Raises:
        ValueError: a field outside its range, or a joint table too large to be held.
    """

    state_features: int = 6  # number of state features, >= 1
    action_features: int = 3  # number of action features, >= 1
    values: int = 2  # values of every feature, >= 2
    parents: int | None = 3  # parents of a feature; None: any set of at most sparseness
    sparseness: int = 5  # disclosed bound on the number of parents, >= parents
    known_parents: int = 2  # disclosed parents of every feature, <= parents
    concentration: float = 0.5  # Dirichlet parameter of every cell of the true tables, > 0
    horizon: int = 20  # steps of an episode, >= 1
    graph: bool = True  # whether the whole graph is disclosed, for agents that ask for it

    reward_bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("state_features", "action_features", "horizon"):
            check_integer(name, getattr(self, name), 1)
        check_integer("values", self.values, 2)
        check_integer("sparseness", self.sparseness, 0, self.state_features + self.action_features)
        if self.parents is not None:
            check_integer("parents", self.parents, 0, self.sparseness)
        most = self.sparseness if self.parents is None else self.parents
        check_integer("known_parents", self.known_parents, 0, most)
        check_real("concentration", self.concentration, 0, open_low=True)
        check_joint(self.values**self.state_features, self.values**self.action_features)

    @property
    def features(self) -> tuple[int, ...]:
        """Numbers of values of state and action features."""
        return (self.values,) * (self.state_features + self.action_features)

    def edges(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """True and known parents, `[N, dY, dX]` bool: nested over `known_parents`.

        Draws: "parents" and, where sizes differ, "set".
        """
        wide = len(self.features)
        key = rng.uniform("parents", self.state_features, wide, dtype=torch.float64)
        rank = key.argsort(-1).argsort(-1)
        known = rank < self.known_parents
        if self.parents is not None:
            return rank < self.parents, known
        sets = parent_sets(self.features, self.sparseness, rng.device)
        key = rng.uniform("set", self.state_features, sets.size.shape[0], dtype=torch.float64)
        return sets.member[key.masked_fill(~supersets(sets, known), -1).argmax(-1)], known

    def factors(self, parents: Tensor, rng: Rng) -> Tensor:
        """Factors at every joint index, `[N, dY, X, values]`. Draw: "table"."""
        most = self.sparseness if self.parents is None else self.parents
        shape = (rng.n, self.state_features, self.values**most, self.values)
        alpha = torch.full(shape, self.concentration, dtype=torch.float64, device=rng.device)
        table = rng.dirichlet("table", alpha)
        sets = parent_sets(self.features, most, rng.device)
        same = (parents[:, :, None] == sets.member).all(-1)
        code = sets.code[same.long().argmax(-1)][..., None]
        return table.gather(2, code.expand(*code.shape[:3], self.values))

    def model(self, rng: Rng) -> Model:
        """The tables of every replica, all states listed as successors."""
        return self.tables(self.factors(self.edges(rng)[0], rng), rng)

    def tables(self, factor: Tensor, rng: Rng) -> Model:
        """The model of factors `[N, dY, X, values]`. Draw: "reward"."""
        states = self.values**self.state_features
        joint = joint_kernel(factor.mT.unbind(1)).unflatten(2, (states, -1)).movedim(1, -1)
        reward = rng.uniform("reward", states, dtype=torch.float64)[..., None, None]
        following = torch.arange(states, device=rng.device).expand(joint.shape)
        start = torch.zeros(states, dtype=torch.float64, device=rng.device)
        start[0] = 1.0
        everywhere = start.expand(rng.n, -1)
        paid = reward.expand(*joint.shape[:3], 1)
        return Model(following, joint, paid, everywhere, everywhere > 1)

    def instance(self, rng: Rng) -> Instance:
        """Graph, tables, optimum and gaps of every replica."""
        parents, known = self.edges(rng)
        factor = self.factors(parents, rng)
        model = self.tables(factor, rng)
        reward = model.reward[..., 0]
        plan = backward_induction(Dense(model.probability, reward), self.horizon)
        edge = factor.cumsum(-1)[..., :-1].movedim(1, 2).flatten(2).float().contiguous()
        stepping = Stepping(
            edge.new_zeros(rng.n, 0, dtype=torch.int64),  # features are drawn one by one
            reward.float().flatten(1),
            (),
            (),
            starts(model.start[0]).expand(rng.n, -1),
            gaps(plan.q).flatten(1),
        )
        optimum = plan.value[:, 0, 0]
        return Instance(
            replica=FactoredTables(model, stepping, optimum, edge, parents, known),
        )

    def transition(self, instance: Instance, state: TabularState, action: Tensor, rng: Rng) -> Step:
        """Draw every feature of the successor and pay the reward of the state."""
        tables = held(instance)
        row = rows(tables.model, state.state, action)
        reward = tables.stepping.reward.reshape(-1).index_select(0, row)
        edge = instance.replica.edge.flatten(0, 1).index_select(0, row)
        edge = edge.unflatten(1, (self.state_features, self.values - 1))
        u = rng.uniform("successor", self.state_features)
        feature = (u[..., None] >= edge).sum(-1)
        following = encode(feature, self.features[: self.state_features])
        return Step(
            TabularState(following, self.after(state.stage)), reward, torch.ones_like(reward)
        )

    def prior(self, instance: Instance) -> CausalPrior:
        """What is disclosed of the graph."""
        tables: FactoredTables = instance.replica
        return causal_prior(
            self.features[: self.state_features],
            self.features[self.state_features :],
            tables.known,
            self.sparseness,
            self.known_parents,
            tables.parents if self.graph else None,
        )

    def spec(self, instance: Instance) -> Spec:
        """Spaces; discloses the prior over graphs, and the model to agents that need it."""
        model = held(instance).model
        states, actions = model.size
        known = Known(reward=model.reward[..., 0], model=model, prior=self.prior(instance))
        return Spec(
            Discrete(states),
            Discrete(actions),
            self.horizon,
            known,
            reward_range=self.reward_bounds,
        )
