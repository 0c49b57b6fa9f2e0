"""PPO with a penalty on the divergence from the reference."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlkit.alignment.proximal import ActorCritic, Proximal, start_actor_critic, update
from rlkit.alignment.tables import knowledge, measure, respond
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.registry import agent
from rlkit.tokens import Responses
from rlkit.validation import check_integer, check_real


@agent("ppo_rlhf")
@dataclass(frozen=True)
class PPORLHF:
    """Proximal policy optimisation on token rewards `-beta log(pi / pi_ref)` and a final reward.

    Schulman et al. (2017) as used for language models by Ziegler et al. (2019) and Stiennon et al.
    (2020), with a tabular critic.

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

    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("beta", "rate", "value_rate"):
            check_real(name, getattr(self, name), 0, open_low=True)
        check_integer("batch", self.batch, 2)
        check_real("clip", self.clip, 0, 1, open_low=True, open_high=True)
        check_integer("epochs", self.epochs, 1)
        check_real("trace", self.trace, 0, 1)

    @property
    def proximal(self) -> Proximal:
        """Coefficients of an update."""
        return Proximal(self.beta, self.rate, self.value_rate, self.clip, self.epochs, self.trace)

    def initial(self, spec: Spec, rng: Rng) -> ActorCritic:
        """The reference, and values of zero."""
        knowledge(spec)
        return start_actor_critic(spec)

    def act(
        self, spec: Spec, state: ActorCritic, observation: Tree, rng: Rng
    ) -> tuple[Responses, ActorCritic]:
        """A batch of responses."""
        return respond(spec, state.policy.table, self.batch, rng), state

    def learn(self, spec: Spec, state: ActorCritic, batch: Transition, rng: Rng) -> ActorCritic:
        """An update on the batch."""
        return update(spec, state, batch.action, batch.feedback.reward, self.proximal)

    def diagnostics(self, spec: Spec, state: ActorCritic) -> dict[str, Tensor]:
        """Exact gold reward, divergence, entropy and gap `[N]`."""
        return measure(spec, state.policy.table, self.beta)
