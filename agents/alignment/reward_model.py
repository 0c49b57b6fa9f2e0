"""Reward model: maximum likelihood on comparisons, the policy left alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.agents import Learner
from rlkit.alignment.offline import OfflineAgent
from rlkit.alignment.reward_models import (
    KINDS,
    Comparisons,
    believed,
    blank,
    comparisons,
    margin,
    quality,
)
from rlkit.alignment.training import improve, start_training
from rlkit.preferences import bradley_terry_nll
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.validation import check_choice, check_real


@agent("reward_model")
@dataclass(frozen=True)
class RewardModel(OfflineAgent):
    """Fits a table of rewards to comparisons by Bradley and Terry's model, a step at a time.

    Ouyang et al. (2022). Responses come from the reference; `proxy_reward` is the
    learned one's mean.

    Raises:
        ValueError: a field outside its range.
    """

    kind: str = "final"  # rewards of final states ("final") or of tokens ("token")
    slope: float = 1.0  # assumed inverse temperature of comparisons, per unit of reward, > 0
    ridge: float = 1.0  # on the sum of log-likelihoods, >= 0
    beta: float = 0.1  # weight of the divergence in the measured gap, > 0
    batch: int = 64  # comparisons a step, >= 1
    rate: float = 0.05  # step size of Adam, > 0
    responses: int = 16  # sampled each step to be looked at, >= 2
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_real("slope", self.slope, 0, open_low=True)
        check_real("ridge", self.ridge, 0)
        self.check()

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """Rewards of zero."""
        return start_training(blank(spec, self.kind))

    def learn(self, spec: Spec, state: Learner, batch: Transition, rng: Rng) -> Learner:
        """A step on comparisons drawn with replacement."""
        seen = comparisons(spec, self.kind)
        count = seen.preferred.shape[1]
        index = rng.integers("pair", count, self.batch)
        wide = index[..., None].expand(*index.shape, seen.first.shape[-1])
        drawn = Comparisons(
            seen.first.gather(1, wide), seen.second.gather(1, wide), seen.preferred.gather(1, index)
        )

        def loss(table: Tree) -> Tensor:
            flat: Tensor = table.flatten(1)
            nll = bradley_terry_nll(self.slope * margin(flat, drawn), drawn.preferred).mean(1)
            return nll + self.ridge / (2 * count) * (flat * flat).sum(1)

        return state._replace(memory=improve(state.memory, loss, self.rate))

    def told(self, spec: Spec, state: Learner) -> Spec:
        """The specification with the learned reward in the place of the observed one."""
        return believed(spec, state.memory.parameters)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Those of the reference, and how good the learned reward is."""
        learned = quality(spec, state.memory.parameters, self.slope)
        return {**super().diagnostics(spec, state), **learned}
