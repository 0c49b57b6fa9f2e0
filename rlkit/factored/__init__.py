"""Factored Markov decision processes with a partly known graph, and posteriors over them."""

from rlkit.factored.learner import Learner as Learner
from rlkit.factored.posterior import Posterior as Posterior
from rlkit.factored.posterior import Sampled as Sampled
from rlkit.factored.posterior import Trajectory as Trajectory
from rlkit.factored.structure import CausalPrior as CausalPrior
from rlkit.factored.structure import ParentSets as ParentSets
from rlkit.factored.structure import causal_prior as causal_prior
from rlkit.factored.structure import edges as edges
from rlkit.factored.structure import parent_sets as parent_sets
