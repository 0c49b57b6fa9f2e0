"""What tests of several agents need."""

import pytest
import torch

from rlkit.protocol import Transition
from rlkit.random import Rng


@pytest.fixture(scope="session")
def train():
    """The function that runs an agent on a problem for some iterations."""

    def run(problem, agent, iterations=1, replicas=1):
        """Specification, state and diagnostics at the end."""
        replica = torch.arange(replicas)
        instance = problem.instance(Rng(0, "instance", replica))
        spec = problem.spec(instance)
        state = agent.initial(spec, Rng(0, "initial", replica))
        place = problem.reset(instance, Rng(0, "reset", replica))
        for k in range(iterations):
            action, state = agent.act(spec, state, None, Rng(0, "act", replica, k))
            step = problem.transition(instance, place, action, Rng(0, "env", replica, k))
            batch = Transition(
                None, action, step.reward, step.discount, None, step.discount == 0, step.feedback
            )
            state = agent.learn(spec, state, batch, Rng(0, "learn", replica, k))
        return spec, state, agent.diagnostics(spec, state)

    return run
