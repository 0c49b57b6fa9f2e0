"""Bad input is refused with the name of the argument, the state and the accepted range."""

import math

import pytest
import torch

from rlkit.models import Dense
from rlkit.planning import (
    backward_induction,
    check_policy,
    diameter,
    discounted_occupancy,
    finite_occupancy,
    finite_policy_value,
    gain_and_bias,
    hitting_times,
    is_communicating,
    policy_gain,
    policy_iteration,
    policy_value,
    soft_backward_induction,
    soft_value_iteration,
    stationary_law,
    successor_major,
    value_iteration,
)

PLANNERS = {
    "backward_induction": lambda m, p: backward_induction(m, 3),
    "finite_policy_value": lambda m, p: finite_policy_value(m, p, 3),
    "soft_backward_induction": lambda m, p: soft_backward_induction(m, 3, 1.0),
    "value_iteration": lambda m, p: value_iteration(m, 0.9),
    "policy_iteration": lambda m, p: policy_iteration(m, 0.9),
    "policy_value": lambda m, p: policy_value(m, p, 0.9),
    "soft_value_iteration": lambda m, p: soft_value_iteration(m, 0.9, 1.0),
    "gain_and_bias": lambda m, p: gain_and_bias(m),
    "policy_gain": lambda m, p: policy_gain(m, p),
    "diameter": lambda m, p: diameter(m),
    "is_communicating": lambda m, p: is_communicating(m),
    "finite_occupancy": lambda m, p: finite_occupancy(m, p, 3, p.new_tensor([1.0, 0, 0, 0])),
    "discounted_occupancy": lambda m, p: discounted_occupancy(
        m, p, 0.9, p.new_tensor([1.0, 0, 0, 0])
    ),
}


@pytest.fixture
def policy():
    return torch.full((4, 2), 0.5, dtype=torch.float64)


@pytest.fixture
def sound(garnet):
    return garnet(0, 4, 2, 4).dense()


@pytest.mark.parametrize("size", [0.9, 1.1, 1 + 1e-6])
@pytest.mark.parametrize("planner", PLANNERS)
def test_rows_that_do_not_sum_to_one_are_named(planner, size, sound, policy):
    kernel = sound.kernel.clone()
    kernel[2, 1] *= size
    with pytest.raises(ValueError, match=r"state 2, action 1 sums to (0\.9|1\.1|1\.000001)"):
        PLANNERS[planner](Dense(kernel, sound.reward), policy)


@pytest.mark.parametrize("planner", PLANNERS)
def test_negative_probabilities_and_the_replica_are_named(planner, garnet, policy):
    model = garnet(1, 4, 2, 4, replicas=5).dense()
    model.kernel[3, 1, 0] = torch.tensor([0.6, 0.6, -0.2, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="state 1, action 0, replica 3 holds -0.2"):
        PLANNERS[planner](model, policy)


@pytest.mark.parametrize("laid", [False, True])
@pytest.mark.parametrize("replica", [0, 7, 15, 16])
def test_bad_rows_are_found_in_whichever_block_they_lie(replica, laid, garnet, monkeypatch):
    monkeypatch.setattr("rlkit.planning.layout.CACHE", 4 * 8 * 4 * 4 * 2 * 3)  # blocks of three
    good = garnet(1, 4, 2, 4, replicas=17).dense()
    rows = {
        r"holds -1e-12": torch.tensor([0.5, 0.5, 1e-12, -1e-12], dtype=torch.float64),
        r"sums to 0\.9999": torch.tensor([0.5, 0.4999, 0.0, 0.0], dtype=torch.float64),
        r"": torch.tensor([0.5, 0.5, math.nan, 0.0], dtype=torch.float64),
    }
    for text, row in rows.items():
        kernel = good.kernel.clone()
        kernel[replica, 3, 1] = row
        kernel = successor_major(kernel) if laid else kernel
        with pytest.raises(ValueError, match=rf"state 3, action 1, replica {replica} .*{text}"):
            backward_induction(Dense(kernel, good.reward), 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("planner", PLANNERS)
def test_rewards_and_probabilities_that_are_no_numbers_are_named(planner, value, sound, policy):
    reward, kernel = sound.reward.clone(), sound.kernel.clone()
    reward[3, 0] = value
    with pytest.raises(ValueError, match=f"reward of state 3, action 0 is {value}"):
        PLANNERS[planner](Dense(kernel, reward), policy)
    kernel[0, 1, 2] = value
    with pytest.raises(ValueError, match="state 0, action 1"):
        PLANNERS[planner](Dense(kernel, sound.reward), policy)


@pytest.mark.parametrize("planner", PLANNERS)
def test_outcome_lists_that_do_not_sum_to_one_are_named(planner, garnet, policy):
    model = garnet(2, 4, 2, 2)
    model.probability[1, 1, 0] += 0.5
    with pytest.raises(ValueError, match="state 1, action 1 sums to 1.5"):
        PLANNERS[planner](model, policy)


@pytest.mark.parametrize(
    "planner", [p for p in PLANNERS if ("policy" in p and "iter" not in p) or "occ" in p]
)
def test_policies_that_are_none_are_named(planner, sound, policy):
    short = policy.clone()
    short[3, 0] = 0.4
    with pytest.raises(ValueError, match=r"policy of state 3 is \(0.4, 0.5\); accepted: rows >= 0"):
        PLANNERS[planner](sound, short)
    negative = policy.clone()
    negative[1] = torch.tensor([1.5, -0.5])
    with pytest.raises(ValueError, match=r"policy of state 1 is \(1.5, -0.5\)"):
        PLANNERS[planner](sound, negative)
    with pytest.raises(ValueError, match=r"policy \(4, 3\); accepted: \[..., 4, 2\]"):
        PLANNERS[planner](sound, torch.full((4, 3), 1 / 3, dtype=torch.float64))


def test_a_stage_and_replica_of_a_policy_are_named(policy):
    staged = policy.expand(3, 6, 4, 2).clone()
    staged[2, 5, 1, 0] = math.nan
    with pytest.raises(ValueError, match=r"policy of state 1, index \(2, 5\) is \(nan, 0.5\)"):
        check_policy(staged, (4, 2))


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True])
def test_horizons(horizon, sound, policy):
    for planner in (
        lambda: backward_induction(sound, horizon),
        lambda: finite_policy_value(sound, policy, horizon),
        lambda: soft_backward_induction(sound, horizon, 1.0),
        lambda: finite_occupancy(sound, policy, horizon, policy.new_tensor([1.0, 0, 0, 0])),
    ):
        with pytest.raises(ValueError, match=rf"horizon = {horizon}.*\[1, inf\)"):
            planner()


@pytest.mark.parametrize("gamma", [-0.1, 1.0, 1, 1.5, math.nan, True])
def test_discounts(gamma, sound, policy):
    for planner in (
        lambda: value_iteration(sound, gamma),
        lambda: policy_iteration(sound, gamma),
        lambda: policy_value(sound, policy, gamma),
        lambda: soft_value_iteration(sound, gamma, 1.0),
        lambda: discounted_occupancy(sound, policy, gamma, policy.new_tensor([1.0, 0, 0, 0])),
    ):
        with pytest.raises(ValueError, match=r"gamma = .*\[0, 1\)"):
            planner()


def test_tolerances_and_caps(sound):
    for planner in (value_iteration, lambda m, g, t: gain_and_bias(m, t)):
        for tolerance in (0, -1, math.nan):
            with pytest.raises(ValueError, match=r"tolerance = .*\(0, inf\)"):
                planner(sound, 0.9, tolerance)
    with pytest.raises(ValueError, match=r"tolerance = 1 outside \(0, 1\)"):
        hitting_times(sound, 1)
    with pytest.raises(ValueError, match="cap = nan"):
        backward_induction(sound, 3, cap=math.nan)


def test_shapes_that_do_not_fit(sound, policy, garnet):
    with pytest.raises(ValueError, match=r"kernel \(4, 2, 4\), reward \(4, 3\); accepted: the sha"):
        backward_induction(Dense(sound.kernel, torch.zeros(4, 3, dtype=torch.float64)), 3)
    lists = garnet(3, 4, 2, 2)
    with pytest.raises(ValueError, match=r"successor \(4, 2, 1\), probability \(4, 2, 2\)"):
        policy_iteration(lists._replace(successor=lists.successor[..., :1]), 0.9)
    with pytest.raises(ValueError, match=r"policy \(5, 4, 2\); accepted: \[..., 3, S, A\]"):
        finite_policy_value(sound, policy.expand(5, 4, 2), 3)
    many = garnet(4, 4, 2, 2, replicas=3)
    with pytest.raises(ValueError, match=r"\[2, 3\] replicas; accepted: as many everywhere"):
        policy_value(many, policy.expand(2, 4, 2), 0.9)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 4, 2\); accepted: 2 dimensions"):
        policy_value(many, policy.expand(2, 2, 4, 2), 0.9)


def test_numbers_of_little_precision_are_refused(sound):
    with pytest.raises(ValueError, match="torch.float32.*accepted: torch.float64"):
        policy_iteration(sound._replace(kernel=sound.kernel.float()), 0.9)
    with pytest.raises(ValueError, match="torch.int64; accepted: torch.float64"):
        backward_induction(sound._replace(reward=sound.reward.long()), 3)


def test_rows_of_a_chain_are_named():
    kernel = torch.eye(3, dtype=torch.float64)
    kernel[1, 2] = 0.25
    with pytest.raises(ValueError, match=r"kernel of state 1 is \(0, 1, 0.25\)"):
        stationary_law(kernel)
