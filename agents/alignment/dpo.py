"""DPO: direct preference optimisation."""

from dataclasses import dataclass

from rlkit.alignment.losses import DPO
from rlkit.alignment.offline import OfflineAgent, learn_from_pairs
from rlkit.alignment.tables import TablePolicy
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent


@agent("dpo")
@dataclass(frozen=True)
class DPOAgent(OfflineAgent):
    """Fits the log-ratio to comparisons as the reward of a Bradley-Terry model.

    Rafailov et al. (2023), "Direct preference optimization".

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # weight of the divergence, > 0
    label_smoothing: float = 0.0  # assumed share of flipped labels, in [0, 0.5)
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2

    def __post_init__(self) -> None:
        DPO(self.beta, self.label_smoothing)
        self.check()

    def learn(self, spec: Spec, state: TablePolicy, batch: Transition, rng: Rng) -> TablePolicy:
        """A step on collected comparisons."""
        return learn_from_pairs(
            spec, state, DPO(self.beta, self.label_smoothing), self.batch, self.rate, rng
        )
