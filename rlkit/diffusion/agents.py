"""What agents that fine-tune samplers share."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rlkit.alignment.training import Trained, start_training
from rlkit.diffusion.measures import measure
from rlkit.diffusion.policies import Policy, check_policy, check_suits, policy_class
from rlkit.diffusion.task import Chains, asked, knowledge
from rlkit.protocol import Spec, Tree
from rlkit.random import Rng
from rlkit.validation import check_integer, check_real


class Learner(NamedTuple):
    """State of such an agent."""

    policy: Trained
    memory: Tree  # what else an agent keeps, () for most
    iteration: Tensor  # [N] int64 iterations so far
    replica: Tensor  # [N] int64 their numbers, for the draws of what is looked at


class DiffusionAgent:
    """A trained sampler and its measurements; agents add fields and `learn`.

    A step of the engine is an iteration: `act` writes chains, `learn` gets their scores.
    """

    # Set in every class, where the catalogue reads them: ("diffusion",) and False.
    needs: ClassVar[tuple[str, ...]]
    compilable: ClassVar[bool]

    # Fields of every such agent.
    alpha: float
    batch: int
    rate: float
    policy: str
    hidden: tuple[int, ...]

    @property
    def model(self) -> Policy:
        """The class of samplers."""
        return policy_class(self.policy, self.hidden)

    def check(self, least: int = 1) -> None:
        """Refuse shared fields outside their range; a batch holds `least` chains or more."""
        check_real("alpha", self.alpha, 0)
        check_integer("batch", self.batch, least)
        check_real("rate", self.rate, 0, open_low=True)
        check_policy(self.policy, self.hidden)

    def initial(self, spec: Spec, rng: Rng) -> Learner:
        """The reference.

        Raises:
            ValueError: the problem is no diffusion MDP, or does not suit the policy.
        """
        check_suits(self.policy, knowledge(spec))
        policy = start_training(self.model.start(spec, rng.child("policy")))
        zero = torch.zeros_like(rng.replica)
        return Learner(policy, self.remember(spec, rng), zero, rng.replica)

    def remember(self, spec: Spec, rng: Rng) -> Tree:
        """What else the agent keeps."""
        return ()

    def act(self, spec: Spec, state: Learner, observation: Tree, rng: Rng) -> tuple[Tree, Learner]:
        """A batch of chains."""
        prompt = asked(knowledge(spec), rng, self.batch)
        with torch.no_grad():
            chains: Chains = self.model.write(spec, state.policy.parameters, prompt, rng)
        return chains, state

    def evaluations(self, spec: Spec) -> float:
        """Evaluations of the denoiser a sample and iteration, a backward pass counted as two."""
        raise NotImplementedError(f"{type(self).__name__} does not count evaluations")

    def diagnostics(self, spec: Spec, state: Learner) -> dict[str, Tensor]:
        """Rewards, divergences and gap `[N]`; and evaluations of the denoiser so far."""
        alpha = self.alpha if self.alpha > 0 else 1.0
        found = measure(spec, self.model, state.policy.parameters, state.replica, alpha)
        if self.alpha == 0:  # no law is the best one
            for name in ("gap", "tv"):
                found.pop(name, None)
        spent = state.iteration.double() * self.batch * self.evaluations(spec)
        return {**found, "evaluations": spent}
