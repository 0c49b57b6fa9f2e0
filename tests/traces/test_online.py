"""Traces kept while acting."""

import math

import numpy as np
import pytest
import torch

from rlkit.random import Rng
from rlkit.traces import (
    RULES,
    add_trace,
    capacity,
    clear,
    credit,
    multistep_targets,
    start_traces,
    step_traces,
    trace_weights,
    weights,
)

MARKOV = ("importance_sampling", "q_lambda", "watkins", "tree_backup", "retrace")


def streams(n: int) -> Rng:
    return Rng(0, "learn", torch.arange(n))


def experience(n: int, length: int, pairs: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    rho = np.exp(rng.normal(0, 1, (n, length))) * (rng.random((n, length)) > 0.05)
    return {
        "rho": torch.as_tensor(rho),
        "probability": torch.as_tensor(rng.random((n, length))),
        "greedy": torch.as_tensor(rng.random((n, length)) < 0.7),
        "key": torch.as_tensor(rng.integers(0, pairs, (n, length))),
        "error": torch.as_tensor(rng.normal(size=(n, length))),
        "last": torch.as_tensor(rng.random((n, length)) < 0.1),
    }


def stepped(traces, rule: str, seen: dict, t: int, gamma: float, lambda_: float):
    taken = (seen[x][:, t] for x in ("rho", "probability", "greedy"))
    return add_trace(step_traces(traces, rule, gamma, lambda_, *taken), seen["key"][:, t])


def learned(rule: str, seen: dict, pairs: int, kept: int, merge: bool = False, **decay: float):
    """Sum of all credits, from a table of zeros."""
    n, length = seen["rho"].shape
    traces = start_traces(streams(n), kept, rule, pairs if merge else None, torch.float64)
    q = torch.zeros(n, pairs, dtype=torch.float64)
    for t in range(length):
        traces = stepped(traces, rule, seen, t, **decay)
        q = credit(q, traces, seen["error"][:, t])
        traces = clear(traces, seen["last"][:, t])
    return q


def by_hand(rule: str, seen: dict, pairs: int, definition, gamma: float, lambda_: float):
    """The online algorithm with one list of start times per episode, replica by replica."""
    n, length = seen["rho"].shape
    q = np.zeros((n, pairs))
    for row in range(n):
        one = {name: column[row].numpy() for name, column in seen.items()}
        first = 0
        for t in range(length):
            for i in range(first, t + 1):
                path = slice(i + 1, t + 1)
                ways = (one["rho"][path], lambda_, one["probability"][path], one["greedy"][path])
                beta = definition(rule, *ways)[-1]
                q[row, one["key"][i]] += gamma ** (t - i) * beta * one["error"][t]
            first = t + 1 if one["last"][t] else first
    return q


@pytest.mark.parametrize("rule", RULES)
def test_online_weights_are_the_offline_ones(rule):
    seen = experience(40, 12, 5)
    for lambda_, gamma in ((0.6, 1.0), (1.0, 0.9), (0.0, 0.9)):
        traces = start_traces(streams(40), 13, rule, dtype=torch.float64)
        traces = add_trace(traces, seen["key"][:, 0])
        for t in range(1, 12):
            traces = stepped(traces, rule, seen, t, gamma, lambda_)
            path = [seen[x][:, 1 : t + 1] for x in ("rho", "probability", "greedy")]
            beta = trace_weights(rule, path[0], lambda_, *path[1:])[:, -1]
            assert weights(traces)[:, t].numpy() == pytest.approx(
                gamma**t * beta.numpy(), rel=1e-11, abs=1e-300
            )
        assert (weights(traces)[:, 12:] == 0).all()
        assert torch.equal(traces.key[:, :12], seen["key"][:, :12].flip(1))


@pytest.mark.parametrize("rule", RULES)
def test_credits_are_those_of_the_algorithm_by_hand(rule, definition):
    seen = experience(12, 25, 6, seed=1)
    decay = {"gamma": 0.9, "lambda_": 0.8}
    expected = by_hand(rule, seen, 6, definition, **decay)
    for merge in (False, True):
        q = learned(rule, seen, 6, 25, merge, **decay)
        assert q.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("rule", MARKOV)
def test_traces_of_markov_rules_can_be_merged_and_others_never_are(rule):
    assert start_traces(streams(2), 50, rule, pairs=12).weight.shape == (2, 12)
    assert start_traces(streams(2), 50, rule, pairs=5000).weight.shape == (2, 50)
    assert start_traces(streams(2), 50, "rbis", pairs=12).weight.shape == (2, 50)


@pytest.mark.parametrize("rule", RULES)
def test_credit_of_an_episode_with_a_frozen_table_is_the_offline_sample(rule):
    seen = experience(30, 14, 14, seed=2)
    seen["last"] = torch.zeros_like(seen["last"])
    seen["key"] = torch.arange(14).expand(30, 14)
    total = learned(rule, seen, 14, 14, gamma=0.9, lambda_=0.7)
    given = (seen["error"], seen["rho"], 0.9, 0.7, seen["probability"], seen["greedy"])
    targets = multistep_targets(rule, torch.zeros(30, 14, dtype=torch.float64), *given)
    assert total.numpy() == pytest.approx(targets.numpy(), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_what_falls_off_the_end_weighs_less_than_a_millionth(rule):
    seen = experience(20, 220, 4, seed=3)
    seen["rho"] = seen["rho"].clamp(max=1)  # importance sampling has no bound otherwise
    seen["last"] = torch.zeros_like(seen["last"])
    decay = {"gamma": 0.9, "lambda_": 0.7}
    kept = capacity(rule, 0.9, 0.7)
    exact = learned(rule, seen, 4, 220, **decay)
    cut = learned(rule, seen, 4, kept, **decay)
    bound = 1e-6 / (1 - 0.9) * seen["error"].abs().sum(1).max()
    assert (exact - cut).abs().max() < bound
    assert rule != "q_lambda" or not torch.equal(exact, cut)


def test_capacity_covers_what_weighs_and_no_more_than_an_episode():
    for rule, decay in (("rbis", 0.9 * 0.6), ("recursive_retrace", 0.9), ("q_lambda", 0.54)):
        kept = capacity(rule, 0.9, 0.6)
        assert decay**kept < 1e-6 <= decay ** (kept - 1)
    assert capacity("rbis", 0.9, 1.0) == math.ceil(math.log(1e-6) / math.log(0.9)) == 132
    assert capacity("rbis", 0.9, 1.0, horizon=20) == 20
    assert capacity("rbis", 0.0, 1.0) == capacity("recursive_retrace", 0.9, 0.0) == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_cleared_replica_starts_again_and_the_others_go_on(rule):
    seen = experience(2, 10, 5, seed=4)
    traces = start_traces(streams(2), 10, rule, dtype=torch.float64)
    for t in range(5):
        traces = stepped(traces, rule, seen, t, 0.9, 0.8)
    cleared = clear(traces, torch.tensor([True, False]))
    assert (weights(cleared)[0] == 0).all()
    assert torch.equal(weights(cleared)[1], weights(traces)[1])
    after, before = (stepped(x, rule, seen, 5, 0.9, 0.8) for x in (cleared, traces))
    assert weights(after)[0].tolist() == [1] + [0] * 9
    assert torch.equal(weights(after)[1], weights(before)[1])


def test_inputs_are_left_as_they_were():
    seen = experience(3, 4, 5)
    traces = start_traces(streams(3), 4, "moretrace")
    traces = stepped(traces, "moretrace", seen, 0, 0.9, 0.8)
    copies = [leaf.clone() for leaf in traces]
    q = torch.zeros(3, 5)
    stepped(traces, "moretrace", seen, 1, 0.9, 0.8)
    clear(traces, torch.ones(3, dtype=torch.bool))
    credit(q, traces, torch.ones(3))
    assert all(torch.equal(a, b) for a, b in zip(traces, copies, strict=True))
    assert (q == 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("merge", [False, True])
def test_a_replica_has_the_same_bits_in_any_batch(rule, merge):
    seen = experience(70, 30, 5, seed=5)
    full = learned(rule, seen, 5, 20, merge, gamma=0.9, lambda_=0.9)
    for rows in (slice(3, 4), slice(2, 9)):
        some = {name: column[rows] for name, column in seen.items()}
        assert torch.equal(full[rows], learned(rule, some, 5, 20, merge, gamma=0.9, lambda_=0.9))


def test_lambda_one_makes_rbis_and_recursive_retrace_the_same_bits():
    seen = experience(50, 60, 5, seed=6)
    a, b = (
        learned(rule, seen, 5, 30, gamma=0.9, lambda_=1.0) for rule in ("rbis", "recursive_retrace")
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_survives_ratios_whose_product_overflows(rule):
    seen = experience(2, 60, 3)
    seen["rho"] = torch.full((2, 60), 1e3)
    seen["rho"][:, 50] = 0.0
    traces = start_traces(streams(2), 60, rule)
    single = {k: v.float() if v.is_floating_point() else v for k, v in seen.items()}
    for t in range(60):
        traces = stepped(traces, rule, single, t, 0.9, 1.0)
        assert torch.isfinite(weights(traces)).all()
    if rule not in ("q_lambda", "tree_backup", "watkins"):
        assert (weights(traces)[:, 10:] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_compiled_code_gives_the_same_bits(rule):
    torch._dynamo.reset()
    seen = experience(8, 6, 5, seed=7)
    seen["error"] = seen["error"].float()

    def step(traces, now):
        after = stepped(traces, rule, now, 0, 0.9, 0.8)
        return credit(torch.zeros(8, 5), after, now["error"][:, 0]), after

    traces = start_traces(streams(8), 6, rule)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for t in range(4):
        now = {name: column[:, t : t + 1].clone() for name, column in seen.items()}
        (q, after), (other, _) = step(traces, now), compiled(traces, now)
        assert torch.equal(q, other)
        traces = after


def test_bad_arguments_are_named():
    traces = start_traces(streams(2), 3)
    with pytest.raises(ValueError, match="rule = 'peng' unknown.*retrace"):
        step_traces(traces, "peng", 0.9, 0.9, torch.ones(2))
    with pytest.raises(ValueError, match="target_probability"):
        step_traces(traces, "tree_backup", 0.9, 0.9, torch.ones(2))
    with pytest.raises(ValueError, match=r"gamma = 1 outside \[0, 1\)"):
        capacity("rbis", 1, 0.9)
    with pytest.raises(ValueError, match=r"lambda_ = 2 outside \[0, 1\]"):
        capacity("rbis", 0.9, 2)
    with pytest.raises(ValueError, match="rule"):
        start_traces(streams(2), 3, "rtrace")
