"""KTO: Kahneman-Tversky optimisation."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.losses import KTO
from rlkit.alignment.offline import OfflineAgent
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real


@agent("kto")
@dataclass(frozen=True)
class KTOAgent(OfflineAgent):
    """Learns from single responses that are desirable or not.

    Ethayarajh et al. (2024), "KTO: model alignment as prospect theoretic optimization".

    Raises:
        ValueError: a field outside its range.
    """

    source: str = "pairs"  # or "outcomes": demonstrations and their rewards
    least: float = 0.5  # observed reward of a desirable demonstration
    balanced: bool = False  # draw desirable and other demonstrations equally often
    beta: float = 0.1  # risk aversion, and weight of the divergence in the measured gap, > 0
    desirable_weight: float = 1.0  # of desirable responses, > 0
    undesirable_weight: float = 1.0  # of the others, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("source", self.source, ("pairs", "outcomes"))
        check_real("least", self.least)
        check_choice("balanced", self.balanced, (True, False))
        KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        self.check()

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected comparisons or demonstrations."""
        loss = KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        if self.source == "outcomes":
            return self.learn_from_outcomes(spec, state, loss, self.least, self.balanced, rng)
        return self.learn_from_verdicts(spec, state, loss, rng)
