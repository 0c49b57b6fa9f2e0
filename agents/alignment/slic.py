"""SLiC-HF: sequence likelihood calibration."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.losses import SLiC
from rlkit.alignment.offline import OfflineAgent
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent


@agent("slic")
@dataclass(frozen=True)
class SLiCAgent(OfflineAgent):
    """Ranks the preferred response above the other by a margin, and imitates it a little.

    Zhao et al. (2023), "SLiC-HF". No reference enters; `beta` only weighs what is measured.

    Raises:
        ValueError: a field outside its range.
    """

    delta: float = 1.0  # margin in nats, > 0
    lambda_: float = 0.1  # weight of imitation, >= 0
    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        SLiC(self.delta, self.lambda_)
        self.check()

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected comparisons."""
        return self.learn_from_pairs(spec, state, SLiC(self.delta, self.lambda_), rng)
