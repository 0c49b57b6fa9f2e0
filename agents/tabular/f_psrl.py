"""F-PSRL: posterior sampling with the whole graph known."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.factored import Learner, learner
from rlkit.factored.structure import equals, told_prior
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real


@agent("f_psrl")
@dataclass(frozen=True)
class FPSRL:
    """Samples a factored model and its optimal policy every episode; the graph is given.

    Osband and Van Roy (2014), "Near-optimal reinforcement learning in factored MDPs". Rows of
    tables are Dirichlet(`concentration`, ...), cell by cell. `graph = "known"` takes the known
    edges for all of them: a misspecified model whose regret is linear. Rewards are known, and how
    often an action ends the episode; all else of the model enters the diagnostics alone.

    Raises:
        ValueError: a field outside its range.
    """

    concentration: float = 1.0  # alpha of every cell of a conditional table, > 0
    graph: str = "true"  # "true": all edges, or "known": only the known ones

    needs: ClassVar[tuple[str, ...]] = ("prior", "reward", "model")
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_real("concentration", self.concentration, 0, open_low=True)
        check_choice("graph", self.graph, ("true", "known"))

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The prior and a first model.

        Raises:
            ValueError: the problem is not factored, or keeps its graph secret.
        """
        prior = told_prior(spec)
        parents = prior.parents if self.graph == "true" else prior.known
        if parents is None:
            raise ValueError("the problem does not disclose its graph; 'known' edges can be used")
        sets = learner.sets_of(spec)
        limits = (1, int(sets.size.max()))
        return learner.begin(spec, sets, equals(sets, parents), limits, self.concentration, rng)

    def act(
        self, spec: Spec, state: Learner, observation: Tensor, rng: Rng
    ) -> tuple[Tensor, Learner]:
        """The action `[N]` of the episode's policy."""
        return learner.act(spec, state, observation), state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """Bayes' rule and a new model where an episode ends."""
        sets = learner.sets_of(spec)
        return learner.learn(spec, sets, state, batch, self.concentration, rng)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Mean L1 distance of the expected model's rows from the true ones, `[N]` in `[0, 2]`."""
        sets = learner.sets_of(spec)
        return {"model_error": learner.error(spec, sets, state, self.concentration)}
