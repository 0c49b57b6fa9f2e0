"""A replica's numbers are the same bits in any company."""

import numpy as np
import pytest
import torch

from rlkit.models import Dense
from rlkit.planning import (
    average_occupancy,
    backward_induction,
    chain,
    diameter,
    discounted_occupancy,
    finite_occupancy,
    finite_policy_value,
    gain_and_bias,
    hitting_times,
    policy_gain,
    policy_iteration,
    policy_value,
    soft_backward_induction,
    soft_policy_value,
    soft_value_iteration,
    stationary_law,
    successor_major,
    value_iteration,
)

REPLICAS = 70
SLICES = [(0, 1), (5, 6), (69, 70), (1, 8), (3, 67), (6, 70)]
# Odd and even sizes; widths around whole cache lines; sizes at which libraries change their method.
SIZES = [(2, 1), (3, 2), (6, 2), (7, 3), (16, 4), (17, 5), (33, 5), (50, 4), (64, 3)]


def uniform(model):
    return torch.full(model.size, 1 / model.size[1], dtype=torch.float64)


def start(model):
    return torch.full(model.size[:1], 1 / model.size[0], dtype=torch.float64)


QUICK = {
    "backward_induction": lambda m: backward_induction(m, 5),
    "backward_induction, cap": lambda m: backward_induction(m, 4, cap=0.1),
    "finite_policy_value": lambda m: finite_policy_value(m, uniform(m), 4),
    "soft_backward_induction": lambda m: soft_backward_induction(m, 4, 0.3),
    "soft_backward_induction, KL": lambda m: soft_backward_induction(m, 4, 0.3, uniform(m)),
    "value_iteration": lambda m: value_iteration(m, 0.9, 1e-3),
    "policy_iteration": lambda m: policy_iteration(m, 0.9),
    "policy_value": lambda m: policy_value(m, uniform(m), 0.9),
    "soft_value_iteration": lambda m: soft_value_iteration(m, 0.8, 0.3, tolerance=1e-3),
    "soft_policy_value": lambda m: soft_policy_value(m, uniform(m), 0.9, 0.3),
    "policy_gain": lambda m: policy_gain(m, uniform(m)),
    "chain": lambda m: chain(m, uniform(m)),
    "finite_occupancy": lambda m: (finite_occupancy(m, uniform(m), 4, start(m)),),
    "discounted_occupancy": lambda m: (discounted_occupancy(m, uniform(m), 0.9, start(m)),),
    "average_occupancy": lambda m: (average_occupancy(m, uniform(m)),),
    "stationary_law": lambda m: (stationary_law(chain(m, uniform(m)).kernel),),
}
LONG = {
    "gain_and_bias": lambda m: gain_and_bias(m, 1e-6),
    "hitting_times": lambda m: (hitting_times(m, 1e-3),),
    "diameter": lambda m: (diameter(m, 1e-3),),
}


def taken(model, first, last):
    """Those replicas in memory of their own, at whatever address."""
    parts = type(model)(*(leaf[first:last].clone() for leaf in model))
    return parts


def alone(model, replica):
    return type(model)(*(leaf[replica] for leaf in model))


@pytest.mark.parametrize("form", ["lists", "short lists", "dense", "successor_major"])
@pytest.mark.parametrize("name", [*QUICK, *LONG])
def test_planners_do_not_see_the_company(name, form, garnet):
    planner = {**QUICK, **LONG}[name]
    sizes = SIZES[:6] if name in LONG else SIZES
    for seed, (states, actions) in enumerate(sizes):
        branching = max(1, states // 9) if form == "short lists" and name not in LONG else states
        model = garnet(seed, states, actions, branching, replicas=REPLICAS)
        model = connected(model) if form == "short lists" else model
        model = model if "lists" in form else model.dense()
        if form == "successor_major":
            model = Dense(successor_major(model.kernel), model.reward)
        whole = planner(model)
        for first, last in SLICES:
            same(planner(taken(model, first, last)), whole, slice(first, last), (name, states))
            same(planner(viewed(model, first, last)), whole, slice(first, last), (name, states))
        same(planner(alone(model, 41)), whole, 41, (name, states))


def connected(model):
    """The same lists, but the first outcome of every row leads to state 0: one closed class."""
    successor = model.successor.clone()
    if model.probability.shape[-1] == 1:
        probability = torch.full_like(model.probability, 0.5).repeat(1, 1, 1, 2)
        zero = torch.zeros_like(successor)
        return model._replace(
            successor=torch.cat([zero, successor], -1),
            probability=probability,
            reward=model.reward.repeat(1, 1, 1, 2),
        )
    successor[..., 0] = 0
    return model._replace(successor=successor)


def viewed(model, first, last):
    """Those replicas where they lie."""
    return type(model)(*(leaf[first:last] for leaf in model))


def same(answer, whole, rows, what):
    for ours, theirs in zip(answer, whole, strict=True):
        assert torch.equal(ours, theirs[rows]), what


@pytest.mark.parametrize("form", ["lists", "dense"])
def test_policies_of_a_shared_model_do_not_see_each_other(form, garnet):
    for seed, (states, actions) in enumerate(SIZES):
        model = garnet(seed, states, actions, replicas=None)
        model = model if form == "lists" else model.dense()
        rng = np.random.default_rng(seed)
        policies = torch.tensor(rng.dirichlet(np.ones(actions), (REPLICAS, states)))
        ways = (
            lambda p, m=model: policy_value(m, p, 0.9),
            lambda p, m=model: finite_policy_value(m, p.unsqueeze(-3), 3),
            lambda p, m=model: policy_gain(m, p),
            lambda p, m=model: (finite_occupancy(m, p.unsqueeze(-3), 3, start(m)),),
            lambda p, m=model: soft_backward_induction(m, 3, 0.2, p),
        )
        for way in ways:
            whole = way(policies)
            for first, last in SLICES:
                same(way(policies[first:last].clone()), whole, slice(first, last), states)
            same(way(policies[41]), whole, 41, states)


def test_blocks_do_not_show(garnet, monkeypatch):
    model = garnet(3, 17, 3, 17, replicas=REPLICAS).dense()
    whole = backward_induction(model, 5)
    for replicas in (1, 2, 33):
        monkeypatch.setattr("rlkit.planning.layout.CACHE", 8 * 17 * 17 * 3 * replicas)
        same(backward_induction(model, 5), whole, slice(None), replicas)
