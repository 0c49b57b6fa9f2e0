"""Random factored MDPs and the factored taxi against brute force and Gymnasium."""

from itertools import product

import gymnasium
import numpy as np
import pytest
import torch

from rlkit.engine import Streams
from rlkit.envs.tabular.factored import RandomFactoredMDP
from rlkit.envs.tabular.factored_taxi import FactoredTaxi
from rlkit.factored.structure import decode, parent_sets
from rlkit.random import Rng
from rlkit.tabular import TabularState

STREAMS = Streams(0, torch.arange(40))


def drawn(problem, seed=0, n=40):
    return problem.instance(Streams(seed, torch.arange(n)).at("instance", 0))


def value_by_hand(kernel, reward, horizon):
    """Optimal value of state 0 by a numpy loop over stages."""
    value = np.zeros(kernel.shape[0])
    for _ in range(horizon):
        value = (reward + np.einsum("xay,y->xa", kernel, value)).max(1)
    return value[0]


@pytest.mark.parametrize(
    "fields", [{}, {"values": 3, "parents": 2}, {"parents": None, "known_parents": 1}]
)
def test_the_instance_is_what_its_fields_say(fields):
    problem = RandomFactoredMDP(3, 2, **{"sparseness": 3, **fields}, horizon=5)
    instance = drawn(problem)
    tables, spec = instance.replica, problem.spec(instance)
    prior = spec.known.prior
    count = tables.parents.sum(-1)
    if problem.parents is None:
        assert int(count.min()) < int(count.max()) <= 3
    else:
        assert (count == problem.parents).all()
    assert (tables.known.sum(-1) == problem.known_parents).all()
    assert (tables.known <= tables.parents).all()
    assert prior.state == (problem.values,) * 3 and prior.action == (problem.values,) * 2
    kernel = spec.known.model.kernel
    np.testing.assert_allclose(kernel.sum(-1), 1, rtol=1e-12)
    assert 0 <= spec.known.reward.amin() < spec.known.reward.amax() <= 1
    for n in (0, 7):
        want = value_by_hand(kernel[n].numpy(), spec.known.reward[n].numpy(), 5)
        assert problem.optimal_value(instance)[n].item() == pytest.approx(want, rel=1e-12)


def test_features_depend_on_their_parents_alone_and_not_on_each_other():
    problem = RandomFactoredMDP(3, 2, sparseness=3, known_parents=1)
    tables = drawn(problem).replica
    cube = tables.model.kernel.reshape(40, 32, 2, 2, 2)  # [N, x, y0, y1, y2]
    factor = [cube.sum([a for a in (2, 3, 4) if a != 2 + j]) for j in range(3)]
    product_ = torch.einsum("nxa,nxb,nxc->nxabc", *factor)
    torch.testing.assert_close(cube, product_, rtol=1e-12, atol=1e-14)
    x = decode(torch.arange(32), (2,) * 5)
    for n, j in product(range(40), range(3)):
        seen = {}
        for row, probability in zip(x[:, tables.parents[n, j]].tolist(), factor[j][n], strict=True):
            first = seen.setdefault(tuple(row), probability)
            torch.testing.assert_close(first, probability, rtol=1e-12, atol=1e-14)
        assert len({round(p[0].item(), 9) for p in seen.values()}) == 8


def test_knowing_more_changes_nothing_else():
    """The same replica has the same MDP whatever is disclosed, and disclosures are nested."""
    few, many = (drawn(RandomFactoredMDP(4, 2, sparseness=4, known_parents=k)) for k in (1, 3))
    assert torch.equal(few.replica.model.kernel, many.replica.model.kernel)
    assert (few.replica.known <= many.replica.known).all()


@pytest.mark.parametrize("concentration", [0.5, 2.0])
def test_rows_of_the_tables_are_dirichlet(concentration):
    """Mean 1/N and variance (N - 1) / (N^2 (N alpha + 1)), five standard errors."""
    problem = RandomFactoredMDP(2, 1, 3, 1, 1, 1, concentration, 2)
    tables = drawn(problem, n=4000).replica
    rows = tables.model.kernel.reshape(4000, 27, 3, 3).sum(-1)[:, 0]  # p_0(. | x = 0)
    want = 2 / 9 / (3 * concentration + 1)
    assert (rows.mean(0) - 1 / 3).abs().max() <= 5 * np.sqrt(want / 4000)
    square = (rows - 1 / 3) ** 2
    assert ((square.mean(0) - want).abs() <= 5 * square.std(0) / np.sqrt(4000)).all()


def test_parents_are_uniform():
    """Each of 5 features is one of 2 parents with probability 2/5: five standard errors."""
    tables = drawn(RandomFactoredMDP(3, 2, parents=2, sparseness=2, known_parents=1), n=3000)
    for mask, share in ((tables.replica.parents, 0.4), (tables.replica.known, 0.2)):
        error = np.sqrt(share * (1 - share) / 3000)
        assert (mask.double().mean(0) - share).abs().max() <= 5 * error
    loose = drawn(RandomFactoredMDP(2, 2, parents=None, sparseness=2, known_parents=1), n=6000)
    parents, known = loose.replica.parents[:, 0], loose.replica.known[:, 0]
    sets = parent_sets((2,) * 4, 2)
    for member in sets.member[sets.member[:, 0] & (sets.member.sum(1) > 0)]:
        chosen = known[:, 0]  # where feature 0 is the known parent: four supersets
        found = (parents[chosen] == member).all(1).double().mean().item()
        assert abs(found - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / int(chosen.sum()))


def test_steps_follow_the_kernel():
    """Joint frequencies of successors of one state and action, five standard errors."""
    n = 20_000
    problem = RandomFactoredMDP(2, 1, values=3, parents=2, sparseness=2)
    streams = Streams(1, torch.zeros(n, dtype=torch.int64))  # one MDP n times
    instance = problem.instance(streams.at("instance", 0))
    state = TabularState(torch.full((n,), 5), torch.zeros(n, dtype=torch.int64))
    action = torch.full((n,), 2)
    step = problem.transition(instance, state, action, Rng(2, "env", torch.arange(n)))
    law = instance.replica.model.kernel[0, 5, 2]
    found = torch.bincount(step.state.state, minlength=9) / n
    assert ((found - law).abs() <= 5 * torch.sqrt(law * (1 - law) / n) + 1e-6).all()
    assert torch.equal(
        step.reward.double(), instance.replica.model.reward[:, 5, 2, 0].float().double()
    )
    assert (step.discount == 1).all() and (step.state.stage == 1).all()


def test_the_taxi_is_that_of_gymnasium():
    """All 3000 rows of the tables: successor, reward and end."""
    taxi = FactoredTaxi(size=5)
    successor, reward = taxi.outcomes()
    terminal = taxi.model(STREAMS.at("instance", 0)).terminal
    table = gymnasium.make("Taxi-v4").unwrapped.P
    for state, action in product(range(500), range(6)):
        ((probability, following, paid, ended),) = table[state][action]
        assert probability == 1.0
        assert (following, paid) == (successor[state, action], reward[state, action])
        passenger, destination = state // 4 % 5, state % 4
        if passenger != destination:
            assert ended == bool(terminal[following])


def test_the_value_of_the_small_taxi_is_the_known_one():
    taxi = FactoredTaxi()
    instance = taxi.instance(STREAMS.at("instance", 0))
    assert taxi.model(STREAMS.at("instance", 0)).size == (180, 6)
    assert taxi.optimal_value(instance).item() == pytest.approx(14.333, abs=5e-4)


@pytest.mark.parametrize("size", [3, 5])
def test_the_parents_of_the_taxi_are_minimal(size):
    """Exactly the features that change the successor's for some values of the others."""
    taxi = FactoredTaxi(size=size)
    successor, _ = taxi.outcomes()
    values = (*taxi.features, 6)
    after = decode(successor, taxi.features).reshape(*values, 4).numpy()
    for j in range(4):
        moved = {i for i in range(5) if (after[..., j] != after[..., j].take([0], axis=i)).any()}
        assert moved == set(taxi.parents[j])


def test_the_taxi_ends_with_the_delivery_and_not_before():
    taxi = FactoredTaxi()
    model = taxi.model(STREAMS.at("instance", 0))
    _, reward = taxi.outcomes()
    alive = ~model.terminal
    ends = model.terminal[model.successor[..., 0]] & alive[:, None]
    assert torch.equal(ends, (reward == 20) & alive[:, None])
    assert int(ends.sum()) == 4  # riding to each destination, at its stop
    start = model.start.reshape(3, 3, 5, 4)
    assert (start[:, :, 4] == 0).all() and (start > 0).sum() == 9 * 4 * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 0}, "horizon = 0"),
        ({"values": 1}, "values = 1"),
        ({"known_parents": 4}, "known_parents = 4"),
        ({"parents": 6}, "parents = 6"),
        ({"sparseness": 10}, "sparseness = 10"),
        ({"concentration": 0.0}, "concentration"),
        ({"state_features": 12, "action_features": 6, "sparseness": 3}, "bytes a replica"),
    ],
)
def test_random_factored_mdps_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RandomFactoredMDP(**fields)


@pytest.mark.parametrize(
    "fields", [{"size": 1}, {"size": 6}, {"horizon": 0}, {"known_parents": 5}, {"sparseness": 3}]
)
def test_taxis_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} = "):
        FactoredTaxi(**fields)
