"""KTO: Kahneman-Tversky optimisation."""

from dataclasses import dataclass

from rlkit.alignment.losses import KTO
from rlkit.alignment.offline import OfflineAgent, learn_from_verdicts
from rlkit.alignment.tables import TablePolicy
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent


@agent("kto")
@dataclass(frozen=True)
class KTOAgent(OfflineAgent):
    """Learns from single responses that are desirable or not.

    Ethayarajh et al. (2024), "KTO: model alignment as prospect theoretic optimization".

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # risk aversion, and weight of the divergence in the measured gap, > 0
    desirable_weight: float = 1.0  # of desirable responses, > 0
    undesirable_weight: float = 1.0  # of the others, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2

    def __post_init__(self) -> None:
        KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        self.check()

    def learn(self, spec: Spec, state: TablePolicy, batch: Transition, rng: Rng) -> TablePolicy:
        """A step on collected comparisons."""
        loss = KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        return learn_from_verdicts(spec, state, loss, self.batch, self.rate, rng)
