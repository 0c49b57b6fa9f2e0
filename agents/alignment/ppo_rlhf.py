"""PPO with a penalty on the divergence from the reference."""

from dataclasses import dataclass
from typing import ClassVar

from rlkit.alignment.proximal import ProximalAgent
from rlkit.registry import agent


@agent("ppo_rlhf")
@dataclass(frozen=True)
class PPORLHF(ProximalAgent):
    """Proximal policy optimisation on token rewards `-beta log(pi / pi_ref)` and a final reward.

    Schulman et al. (2017) as used for language models by Ziegler et al. (2019) and Stiennon et al.
    (2020).

    Raises:
        ValueError: a field outside its range.
    """

    beta: float = 0.05  # weight of the divergence from the reference, > 0
    batch: int = 64  # responses a step, >= 2
    rate: float = 0.05  # step size of the policy, > 0
    value_rate: float = 0.05  # step size of the critic, > 0
    clip: float = 0.2  # of the probability ratio, in (0, 1)
    epochs: int = 4  # passes over a batch, >= 1
    trace: float = 0.95  # lambda of the advantage estimates, in [0, 1]
    reward: str = "observed"  # or fitted to the comparisons: "final_model", "token_model"
    policy: str = "table"  # "table", "ngram" or "transformer"
    network: tuple[int, ...] = (64, 2, 4)  # width, layers and heads of a transformer, >= 1

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()
