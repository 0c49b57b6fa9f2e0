"""What is recorded of a policy."""

import pytest
import torch

from rlkit.alignment.measures import estimate, measure
from rlkit.alignment.policies import TablePolicy
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.door import TokenDoor
from rlkit.envs.tokens.grammar import TokenGrammar
from rlkit.envs.tokens.lock import TokenLock
from rlkit.random import Rng


def setting(problem):
    return problem.spec(problem.instance(Rng(0, "instance", torch.arange(2))))


def test_a_door_that_is_never_tried_is_no_success():
    spec = setting(TokenDoor(doors=2))
    waiting = torch.full((2, 8, 10, 5), -torch.inf).double()
    waiting[..., 0] = 0.0  # in open and shut states too, which are never met
    got = measure(spec, waiting, 0.1)
    assert (got["gold_reward"] == 0).all() and (got["success"] == 0).all()


@pytest.mark.parametrize(
    "problem", [TokenDoor(failure=-0.5, success=2.0), TokenGrammar(), TokenLock(decoy=None)]
)
def test_success_is_the_share_of_responses_that_are_paid_for_it(problem):
    spec = setting(problem)
    got = measure(spec, spec.known.tokens.automaton.reference, 0.1)
    low, high = getattr(problem, "failure", 0.0), getattr(problem, "success", 1.0)
    torch.testing.assert_close(got["success"], (got["gold_reward"] - low) / (high - low))


def test_a_mistake_made_good_is_paid_but_no_success():
    spec = setting(TokenChain(2, 3))
    got = measure(spec, spec.known.tokens.automaton.reference, 0.1)
    assert (got["success"] < got["gold_reward"] - 0.01).all()


def test_estimates_are_close_to_the_exact_values():
    spec, policy = setting(TokenDoor(4, 4, 1)), TablePolicy()
    table = policy.start(spec, Rng(0, "initial", torch.arange(2)))
    table = table + torch.linspace(0, 1, 4).double()
    exact = measure(spec, policy.table(table), 0.1)
    found = estimate(spec, policy, table, torch.arange(2), 0.1)
    assert exact.keys() == found.keys()
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0.25)
