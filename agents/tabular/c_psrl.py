"""C-PSRL: posterior sampling with a prior over causal graphs."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.factored import Learner, ParentSets, learner
from rlkit.factored.posterior import capacity
from rlkit.factored.structure import equals, supersets, told_prior
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_integer, check_real


@agent("c_psrl")
@dataclass(frozen=True)
class CPSRL:
    """Samples a graph, a model and its optimal policy every episode, from a partly known graph.

    Mutti, De Santi, Restelli, Marx and Ramponi (2024), "Exploiting causal graph priors with
    posterior sampling for reinforcement learning", Algorithm 1. The paper leaves the laws open:
    here parents are uniform over the sets with the known ones and at most `sparseness` members,
    rows of tables Dirichlet(`concentration`, ...), cell by cell. Rewards are known, and how often
    an action ends the episode; of the model and graph all else enters the diagnostics alone.

    Raises:
        ValueError: a field outside its range.
    """

    concentration: float = 1.0  # alpha of every cell of a conditional table, > 0
    sparseness: int | None = None  # largest number of parents, >= 0; None: the problem's
    exact_size: bool = False  # whether all sets have `sparseness` members instead of at most

    needs: ClassVar[tuple[str, ...]] = ("prior", "reward", "model")
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("concentration", self.concentration, 0, open_low=True)
        if self.sparseness is not None:
            check_integer("sparseness", self.sparseness, 0)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The prior and a first model.

        Raises:
            ValueError: the problem is not factored, or a feature has no admissible parents.
        """
        prior = told_prior(spec)
        sets = self._sets(spec)
        largest = int(sets.member.sum(1).max())
        most = int(prior.known.sum(-1).max())
        if most > largest:
            raise ValueError(f"sparseness = {largest}, but a feature has {most} known parents")
        size = largest if self.exact_size else None
        allowed, limits = supersets(sets, prior.known, size), capacity(sets, prior.degree, size)
        return learner.begin(spec, sets, allowed, limits, self.concentration, rng)

    def act(
        self, spec: Spec, state: Learner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Learner]:
        """The action `[N]` of the episode's policy."""
        return learner.act(spec, state, observation), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Bayes' rule and a new model where an episode ends."""
        return learner.learn(spec, self._sets(spec), state, batch, self.concentration, rng)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Error of the model and, where the graph is disclosed, what is believed of it.

        `model_error` `[N]` in `[0, 2]`, mean L1 distance of the rows expected under the sampled
        graph from the true ones;
        `graph` and `super_graph` `[N]`, posterior probability of a feature's true parents, and
        of a set with all of them, mean over the features.
        """
        sets, prior = self._sets(spec), spec.known.prior
        values = {"model_error": learner.error(spec, sets, state, self.concentration)}
        if prior.parents is not None:
            for name, rule in (("graph", equals), ("super_graph", supersets)):
                values[name] = learner.graph_probability(state, rule(sets, prior.parents))
        return values

    def _sets(self, spec: Spec) -> ParentSets:
        return learner.sets_of(spec, self.sparseness)
