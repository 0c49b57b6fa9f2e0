"""Trace weights of recorded sequences."""

import math

import numpy as np
import pytest
import torch

from rlkit.traces import RULES, trace_weights

GOLDEN = {  # ratios .5, 2, 3, .4, 1.5 with lambda = .9
    "rbis": [1, 0.5, 0.81, 0.729, 0.2916, 0.4374],
    "recursive_retrace": [1, 0.45, 0.81, 0.9, 0.324, 0.4374],
    "retrace": [1, 0.45, 0.405, 0.3645, 0.13122, 0.118098],
    "truncated_importance_sampling": [1, 0.45, 0.81, 0.729, 0.6561, 0.59049],
    "moretrace": [1, 0.5, 0.81, 0.729, 0.6561, 0.59049],
    "importance_sampling": [1, 0.45, 0.81, 2.187, 0.78732, 1.062882],
}
RATIO_RULES = tuple(GOLDEN)


def draws(count: int, length: int, seed: int = 0):
    """Ratios over four decades with exact zeros, probabilities and greedy flags."""
    rng = np.random.default_rng(seed)
    rho = np.exp(rng.normal(0, 1.2, (count, length))) * (rng.random((count, length)) > 0.05)
    probability, greedy = rng.random((count, length)), rng.random((count, length)) < 0.6
    return rho, probability, greedy


def weigh(rule: str, rho, lambda_: float, probability=None, greedy=None) -> np.ndarray:
    tensors = [None if x is None else torch.as_tensor(x) for x in (rho, probability, greedy)]
    return trace_weights(rule, tensors[0], lambda_, *tensors[1:]).numpy()


@pytest.mark.parametrize("rule", RATIO_RULES)
def test_golden_vector(rule):
    beta = weigh(rule, np.array([0.5, 2, 3, 0.4, 1.5]), 0.9)
    assert beta == pytest.approx(GOLDEN[rule], abs=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_closed_forms_are_the_recursions_on_three_thousand_sequences(rule, definition):
    rho, probability, greedy = draws(3000, 9)
    for lambda_, part in zip((0.0, 0.37, 0.9, 1.0), np.split(np.arange(3000), 4), strict=True):
        given = (rho[part], lambda_, probability[part], greedy[part])
        expected = definition(rule, *given)
        assert weigh(rule, *given) == pytest.approx(expected, rel=1e-12, abs=0)


def test_recursive_retrace_and_rbis_have_the_published_minima():
    rho, lambda_ = draws(200, 6, seed=3)[0], 0.8
    for sequence in rho:
        for t in range(7):
            tails = [lambda_**j * np.prod(sequence[j:t]) for j in range(t + 1)]
            assert weigh("rbis", sequence, lambda_)[t] == pytest.approx(min(tails), rel=1e-12)
            if t:
                capped = [lambda_ ** (t - j + 1) * np.prod(sequence[j:t]) for j in range(1, t + 1)]
                limit = min(lambda_**t * np.prod(sequence[:t]), *capped)
                found = weigh("recursive_retrace", sequence, lambda_)[t]
                assert found == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("retrace", "recursive_retrace"),
        ("retrace", "rbis"),
        ("retrace", "truncated_importance_sampling"),
        ("truncated_importance_sampling", "moretrace"),
        ("rbis", "moretrace"),
    ],
)
def test_pathwise_order(smaller, larger):
    rho = draws(3000, 8)[0]
    for lambda_ in (0.3, 0.9, 1.0):
        small, large = weigh(smaller, rho, lambda_), weigh(larger, rho, lambda_)
        assert (small <= large * (1 + 1e-12)).all()
        assert lambda_ == 1 or (small < 0.99 * large).any()


@pytest.mark.parametrize("other", ["recursive_retrace", "truncated_importance_sampling"])
def test_rbis_is_not_ordered_with(other):
    rho = draws(3000, 8)[0]
    difference = weigh("rbis", rho, 0.9) - weigh(other, rho, 0.9)
    assert difference.max() > 0.01 and difference.min() < -0.01


@pytest.mark.parametrize("rule", RULES)
def test_lambda_zero_leaves_the_first_error_alone(rule):
    rho, probability, greedy = draws(50, 7)
    beta = weigh(rule, rho, 0.0, probability, greedy)
    assert (beta == np.eye(8)[0]).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_sequence_without_steps_weighs_its_start(rule):
    none = np.zeros((3, 0))
    assert (weigh(rule, none, 0.9, none, none) == np.ones((3, 1))).all()


def test_lambda_one_makes_rbis_recursive_retrace():
    rho = draws(3000, 8)[0]
    a, b = weigh("rbis", rho, 1.0), weigh("recursive_retrace", rho, 1.0)
    assert a == pytest.approx(b, rel=1e-13, abs=0)
    assert (a < 1).any()


@pytest.mark.parametrize("rule", [*RATIO_RULES, "q_lambda"])
def test_on_policy_every_ratio_rule_is_a_power_of_lambda(rule):
    for lambda_ in (0.5, 0.9, 1.0):
        beta = weigh(rule, np.ones((2, 30)), lambda_)
        assert beta == pytest.approx(np.tile(lambda_ ** np.arange(31.0), (2, 1)), rel=1e-13)


def ratios_of_random_policies(count: int, simplex) -> tuple[np.ndarray, np.ndarray]:
    """Six steps with two actions: ratios and target probabilities of the actions taken."""
    rng = np.random.default_rng(2)
    target, behaviour = simplex(rng, count, 6, 2), simplex(rng, count, 6, 2)
    action = (rng.random((count, 6, 1)) > behaviour[..., :1]).astype(int)
    taken = [np.take_along_axis(x, action, -1)[..., 0] for x in (target, behaviour)]
    return taken[0] / taken[1], taken[0]


@pytest.mark.parametrize("rule", ["truncated_importance_sampling", "moretrace"])
def test_these_rules_break_the_condition_on_many_histories(rule, simplex):
    rho, _ = ratios_of_random_policies(20000, simplex)
    beta = weigh(rule, rho, 0.9)
    assert (beta[:, 1:] > rho * beta[:, :-1] * (1 + 1e-9)).any(1).mean() > 0.25


@pytest.mark.parametrize(
    "rule", ["importance_sampling", "tree_backup", "retrace", "recursive_retrace", "rbis"]
)
def test_these_rules_meet_the_condition_on_every_history(rule, simplex):
    rho, probability = ratios_of_random_policies(20000, simplex)
    for lambda_ in (0.5, 0.9, 1.0):
        beta = weigh(rule, rho, lambda_, probability)
        assert (beta[:, 1:] <= rho * beta[:, :-1] * (1 + 1e-12)).all()


@pytest.mark.parametrize("rule", RATIO_RULES)
def test_a_ratio_of_zero_ends_the_trace_exactly(rule):
    beta = weigh(rule, np.array([2.0, 0.0, 5.0, 1e6]), 0.9)
    assert (beta[:2] > 0).all() and (beta[2:] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_thousands_of_steps_neither_overflow_nor_turn_into_nan(rule):
    # The product of ratios passes 1e300 and comes back: its logarithm forgets nothing.
    rho = np.concatenate([np.full(500, 8.0), np.full(1000, 1 / 8)])
    beta = weigh(rule, rho, 1.0, np.full(1500, 0.9), np.ones(1500))
    assert not np.isnan(beta).any()
    if rule in ("truncated_importance_sampling", "moretrace"):
        assert beta[1000] == pytest.approx(1, abs=1e-9) and beta[1001] == pytest.approx(1 / 8)


def test_replicas_do_not_see_each_other():
    rho, probability, greedy = draws(64, 9)
    for rule in RULES:
        everything = weigh(rule, rho, 0.9, probability, greedy)
        alone = weigh(rule, rho[5:6], 0.9, probability[5:6], greedy[5:6])
        assert everything[5:6] == pytest.approx(alone, rel=1e-14)


def test_single_precision_stays_single():
    rho = torch.rand(3, 5)
    assert trace_weights("rbis", rho, 0.9).dtype == torch.float32


def test_bad_arguments_are_named():
    rho = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"rule = 'rbi' unknown.*rbis.*retrace.*tree_backup"):
        trace_weights("rbi", rho, 0.9)
    for lambda_ in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"lambda_ .*\[0, 1\]"):
            trace_weights("rbis", rho, lambda_)
    for ratio in (math.inf, math.nan, -1.0):
        wrong = rho.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(ratio))
        with pytest.raises(ValueError, match=rf"rho of index \(2, 1\) is {ratio:.3g}; .* >= 0"):
            trace_weights("rbis", wrong, 0.9)
        assert not trace_weights("q_lambda", wrong, 0.9).isnan().any()
    with pytest.raises(ValueError, match="target_probability"):
        trace_weights("tree_backup", rho, 0.9)
    with pytest.raises(ValueError, match="greedy"):
        trace_weights("watkins", rho, 0.9)
