"""DPO: direct preference optimisation."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.agents import Learner
from rlkit.alignment.knowledge import knowledge
from rlkit.alignment.losses import DPO
from rlkit.alignment.offline import OfflineAgent, check_contrasts
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice


@agent("dpo")
@dataclass(frozen=True)
class DPOAgent(OfflineAgent):
    """Fits the log-ratio to comparisons as the reward of a Bradley-Terry model.

    Rafailov et al. (2023), "Direct preference optimization". From outcomes, all pairs of
    demonstrations to one prompt with different outcomes are comparisons; where a response succeeds
    with probability `p`, the policy tends to `pi_ref (p / (1 - p))^(1 / beta)`.

    Raises:
        ValueError: a field outside its range.
    """

    source: str = "pairs"  # or "outcomes": successes and failures among demonstrations
    beta: float = 0.1  # weight of the divergence, > 0
    label_smoothing: float = 0.0  # assumed share of flipped labels, in [0, 0.5)
    batch: int = 64  # examples a step, >= 1
    rate: float = 0.01  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("source", self.source, ("pairs", "outcomes"))
        DPO(self.beta, self.label_smoothing)
        self.check()

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: there is nothing to learn from.
        """
        state = super().initial(spec, rng)
        if self.source == "outcomes":
            check_contrasts(knowledge(spec).data)
        return state

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on collected comparisons."""
        loss = DPO(self.beta, self.label_smoothing)
        if self.source == "outcomes":
            return self.learn_from_contrasts(spec, state, loss, rng)
        return self.learn_from_pairs(spec, state, loss, rng)
