import itertools
import math

import numpy as np
import pytest
import torch

from rlkit.preferences import (
    Teacher,
    bradley_terry,
    bradley_terry_nll,
    centred,
    has_finite_mle,
    plackett_luce_nll,
)
from rlkit.random import Rng


def rng(n=4):
    return Rng(1, "env", torch.arange(n))


def test_ranking_probabilities_sum_to_one_and_two_items_are_bradley_terry():
    score = torch.tensor([0.3, -1.2, 0.8, 0.1], dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    mass = torch.exp(-plackett_luce_nll(score.expand(len(orders), 4), orders)).sum()
    assert mass.item() == pytest.approx(1, abs=1e-12)
    pair = plackett_luce_nll(score[:2], torch.tensor([1, 0]))
    lost = bradley_terry_nll(score[1] - score[0], torch.tensor(1.0))
    assert pair.item() == pytest.approx(lost.item(), abs=1e-12)


def test_likelihood_of_a_comparison_is_its_log_probability():
    gap = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for label in (0.0, 0.5, 1.0, 0.2):
        p = bradley_terry(gap)
        expected = -(label * p.log() + (1 - label) * (1 - p).log())
        got = bradley_terry_nll(gap, torch.full_like(gap, label))
        torch.testing.assert_close(got, expected)
    with_margin = bradley_terry_nll(gap, torch.ones_like(gap), torch.full_like(gap, 0.7))
    torch.testing.assert_close(with_margin, -bradley_terry(gap - 0.7).log())


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_labels_outside_the_unit_interval_are_refused_with_their_row(bad):
    label = torch.tensor([[0.0, 1.0], [0.5, bad]])
    with pytest.raises(ValueError, match=r"label of row \[1, 1\]"):
        bradley_terry_nll(torch.zeros(2, 2), label)


def test_comparisons_have_a_finite_estimate_only_if_everybody_beats_everybody_in_a_chain():
    cycle = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert has_finite_mle(cycle)
    assert not has_finite_mle(torch.triu(torch.ones(3, 3), 1))


def test_reward_error_falls_like_the_root_of_the_number_of_comparisons():
    """Newton's method on independent data; slope -1/2 within 0.1."""
    random = np.random.default_rng(0)
    items, replicas = 6, 200
    truth = centred(torch.tensor(random.normal(size=(replicas, items))))
    errors, sizes = [], [200, 800, 3200]
    for size in sizes:
        first, second = torch.tensor(random.integers(items, size=(2, replicas, size)))
        gap = truth.gather(1, first) - truth.gather(1, second)
        label = (torch.tensor(random.random((replicas, size))) < bradley_terry(gap)).double()
        onehot = torch.nn.functional.one_hot
        x = (onehot(first, items) - onehot(second, items)).double()
        theta = torch.zeros(replicas, items, dtype=torch.float64)
        for _ in range(12):
            p = bradley_terry((x @ theta[..., None]).squeeze(-1))
            gradient = (x * (label - p)[..., None]).sum(1) - 1e-3 * theta
            weight = (p * (1 - p))[..., None]
            hessian = x.transpose(1, 2) @ (x * weight) + 1e-3 * torch.eye(items).double()
            theta = theta + torch.linalg.solve(hessian, gradient)
        nll = lambda t, x=x, label=label: bradley_terry_nll(  # noqa: E731
            (x @ t[..., None]).squeeze(-1), label
        ).sum(1)
        moved = theta + 0.01 * torch.tensor(random.normal(size=theta.shape))
        assert (nll(theta) <= nll(moved) + 1e-3).all()
        errors.append((centred(theta) - truth).pow(2).mean().sqrt().item())
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.1


def segments(batch=20_000, length=5, n=2):
    random = np.random.default_rng(2)
    return torch.tensor(random.normal(size=(2, n, batch, length)))


def test_a_perfect_teacher_prefers_the_larger_sum():
    first, second = segments()
    label, kept = Teacher().label(first, second, rng(2))
    assert torch.equal(label, (second.sum(-1) > first.sum(-1)).double())
    assert kept.all()


def test_a_noisy_teacher_follows_its_temperature_and_a_careless_one_its_rate():
    first, second = segments()
    gap = (second - first).sum(-1)
    label, _ = Teacher(rationality=0.5).label(first, second, rng(2))
    p = bradley_terry(gap, 0.5)
    z = (label - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(z) < 4
    label, _ = Teacher(mistake=0.1).label(first, second, rng(2))
    wrong = (label != (gap > 0).double()).double()
    assert abs(wrong.mean() - 0.1) < 4 * math.sqrt(0.09 / wrong.numel())


def test_a_myopic_teacher_weighs_the_last_step_one():
    first, second = segments(batch=500)
    weight = torch.tensor([0.9**4, 0.9**3, 0.9**2, 0.9, 1.0], dtype=torch.float64)
    label, _ = Teacher(discount=0.9).label(first, second, rng(2))
    assert torch.equal(label, (((second - first) * weight).sum(-1) > 0).double())


def test_skipping_and_ties_look_at_plain_sums():
    first, second = segments(batch=2000)
    label, kept = Teacher(skip=1.0, equal=0.5, discount=0.5).label(first, second, rng(2))
    a, b = first.sum(-1), second.sum(-1)
    assert torch.equal(kept, torch.maximum(a, b) >= 1.0)
    assert torch.equal(label == 0.5, (a - b).abs() < 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"rationality": -1.0}, {"discount": 0.0}, {"mistake": 1.1}, {"equal": -1.0}],
)
def test_teachers_refuse_fields_outside_their_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Teacher(**wrong)
