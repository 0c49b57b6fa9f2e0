"""SimPO: preference optimisation of mean log-probabilities."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.losses import SimPO
from rlkit.alignment.offline import OfflineAgent
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent


@agent("simpo")
@dataclass(frozen=True)
class SimPOAgent(OfflineAgent):
    """Prefers by log-probability per token, with a margin.

    Meng, Xia and Chen (2024), "SimPO". No reference enters; `beta` only weighs what is measured.

    Raises:
        ValueError: a field outside its range.
    """

    scale: float = 2.0  # of the mean log-probabilities (beta of the paper), > 0
    gamma: float = 1.0  # margin, >= 0
    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        SimPO(self.scale, self.gamma)
        self.check()

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected comparisons."""
        return self.learn_from_pairs(spec, state, SimPO(self.scale, self.gamma), rng)
