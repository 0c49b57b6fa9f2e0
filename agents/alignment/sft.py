"""Supervised fine-tuning: maximum likelihood on demonstrations."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.offline import OfflineAgent
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_real


@agent("sft")
@dataclass(frozen=True)
class SFT(OfflineAgent):
    """Imitates the demonstrations, all of them or those that were rewarded.

    With `least` it is rejection-sampling fine-tuning (RFT, STaR).

    Raises:
        ValueError: a field outside its range.
    """

    least: float | None = None  # imitate only observed rewards of at least this; None: all
    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False
    source: ClassVar[str] = "demonstrations"

    def __post_init__(self) -> None:
        if self.least is not None:
            check_real("least", self.least)
        self.check()

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected demonstrations."""
        return self.imitate(spec, state, rng, self.least)
