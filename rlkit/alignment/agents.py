"""What all agents that write responses share."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.knowledge import knowledge
from rlkit.alignment.measures import estimate, look, measure
from rlkit.alignment.policies import Critic, Policy, check_policy, critic_class, policy_class
from rlkit.alignment.reward_models import SOURCES, believed, fitted, table_rewards
from rlkit.alignment.training import Trained, start_training
from rlkit.protocol import Spec, Transition, Tree
from rlkit.random import Rng
from rlkit.tokens import Responses, returns
from rlkit.tokens.problem import prompts
from rlkit.validation import check_choice, check_integer, check_real


class Learner(NamedTuple):
    """State of such an agent."""

    policy: Trained
    critic: Tree  # Trained, () where there is none
    memory: Tree  # what else an agent keeps, () for most
    replica: Tensor  # [N] int64 their numbers, for the draws of what is looked at


class AlignmentAgent:
    """Policy, critic and measurements; agents add fields, `learn` and mostly `act`.

    A step of the engine is an iteration: `act` writes a batch of responses, `learn` gets their
    scores.
    """

    # Set in every class, where the catalogue reads them: ("tokens",) and False.
    needs: ClassVar[tuple[str, ...]]
    compilable: ClassVar[bool]
    critical: ClassVar[bool] = False  # whether there is a critic

    # Fields of every such agent.
    beta: float
    batch: int
    rate: float
    policy: str
    network: tuple[int, ...]
    group: int  # of those that answer a prompt several times

    @property
    def reward(self) -> str:
        """Whose rewards train it; agents that leave the choice have a field of this name."""
        return "observed"

    @property
    def model(self) -> Policy:
        """The class of policies."""
        return policy_class(self.policy, self.network)

    @property
    def critic(self) -> Critic:
        """The class of critics."""
        return critic_class(self.policy, self.network)

    def check(self, least: int = 1) -> None:
        """Refuse shared fields outside their range; a batch holds `least` or more."""
        check_real("beta", self.beta, 0, open_low=True)
        check_integer("batch", self.batch, least)
        check_real("rate", self.rate, 0, open_low=True)
        check_policy(self.policy, self.network)
        check_choice("reward", self.reward, SOURCES)

    def check_group(self, least: int = 2) -> None:
        """`check`, and refuse groups below `least` and batches that are no multiple of them."""
        check_integer("group", self.group, least)
        self.check(self.group)
        if self.batch % self.group:
            raise ValueError(f"batch = {self.batch}; accepted: multiples of group = {self.group}")

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference, and values of zero.

        Raises:
            ValueError: the problem is no token MDP.
        """
        knowledge(spec)
        policy = start_training(self.model.start(spec, rng.child("policy")))
        critic: Tree = ()
        if self.critical:
            critic = start_training(self.critic.start(spec, rng.child("critic")))
        return Learner(policy, critic, self.remember(spec, rng), rng.replica)

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """What else the agent keeps: the fitted reward, if that is what it is trained on.

        Raises:
            ValueError: no comparisons to fit it to.
        """
        return () if self.reward == "observed" else fitted(spec, self.reward)

    def paid(self, spec: Spec, state: Learner, batch: Transition) -> Tensor:
        """Rewards of the responses just written `[N, B]`, observed or as fitted."""
        if self.reward == "observed":
            observed: Tensor = batch.feedback.reward
            return observed
        return returns(table_rewards(spec, state.memory), batch.action)

    def told(self, spec: Spec, state: Learner) -> Spec:
        """The specification, in which a fitted reward takes the place of the observed one."""
        return spec if self.reward == "observed" else believed(spec, state.memory)

    def act(
        self, spec: Spec, state: Learner, observation: Tree, rng: Rng
    ) -> tuple[Responses, Learner]:
        """A batch of responses."""
        return self.respond(spec, state, self.batch, rng), state

    def respond(
        self, spec: Spec, state: Learner, count: int, rng: Rng, group: int = 1
    ) -> Responses:
        """`count` responses; each prompt is answered `group` times in a row."""
        asked = prompts(knowledge(spec).automaton, count // group, rng)
        with torch.no_grad():
            return self.model.write(
                spec, state.policy.parameters, asked.repeat_interleave(group, 1), rng
            )

    def score(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """Log-probability of whole responses `[N, B]`."""
        return self.model.score(spec, parameters, responses).sum(-1)

    def log_ratio(self, spec: Spec, parameters: Tree, responses: Responses) -> Tensor:
        """`log pi / pi_ref` of each token, `[N, B, H]`."""
        model = self.model
        return model.score(spec, parameters, responses) - model.reference(spec, responses)

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Gold and proxy reward, divergence, entropy and gap `[N]`, exact for tables.

        The proxy reward is that which the agent is trained on.
        """
        model, parameters, spec = self.model, state.policy.parameters, self.told(spec, state)
        if model.exact:
            return measure(spec, model.table(parameters), self.beta)
        return estimate(spec, model, parameters, state.replica, self.beta)

    def samples(self, spec: Spec, state: Learner, count: int) -> Responses:
        """`count` responses of the present policy, to be read."""
        return look(spec, self.model, state.policy.parameters, state.replica, count)
