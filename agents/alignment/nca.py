"""NCA: noise contrastive alignment."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.losses import NCA
from rlkit.alignment.offline import OfflineAgent
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent


@agent("nca")
@dataclass(frozen=True)
class NCAAgent(OfflineAgent):
    """Fits each log-ratio, not only their difference, so that preferred responses stay likely.

    Chen et al. (2024), "Noise contrastive alignment of language models with explicit rewards", for
    comparisons.

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.1  # weight of the divergence, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected comparisons."""
        return self.learn_from_pairs(spec, state, NCA(self.beta), rng)
