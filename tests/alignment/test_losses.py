"""Losses against values by hand, gradients, and the exact minimisers of their population form."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from rlkit.alignment.losses import (
    CE,
    DPO,
    IPO,
    KTO,
    LOSSES,
    NCA,
    Labelled,
    Pairs,
    SimPO,
    SLiC,
    check_labelled,
    check_pairs,
    loss_class,
)

PAIR_LOSSES = [DPO(), DPO(0.3, 0.1), IPO(), SLiC(0.7, 0.2), SimPO(), SimPO(1.5, 0.3), NCA(0.4)]


def batch(size=7, seed=0, grad=False):
    random = np.random.default_rng(seed)
    scores = [-torch.tensor(random.gamma(3, 2, size)) for _ in range(4)]
    lengths = [torch.tensor(random.integers(1, 9, size)).double() for _ in range(2)]
    for score in scores[:2]:
        score.requires_grad_(grad)
    return Pairs(*scores, *lengths)


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_values_by_hand():
    pair = Pairs(one(-2.0), one(-5.0), one(-3.0), one(-4.0), one(2.0), one(4.0))
    h = (-2 + 3) - (-5 + 4)
    assert pair.margin.item() == h == 2
    assert DPO(0.5)(pair).item() == pytest.approx(math.log(1 + math.exp(-1)))
    smooth = 0.9 * math.log(1 + math.exp(-1)) + 0.1 * math.log(1 + math.exp(1))
    assert DPO(0.5, 0.1)(pair).item() == pytest.approx(smooth)
    assert IPO(0.1)(pair).item() == pytest.approx((2 - 5) ** 2)
    assert SLiC(4.0, 0.5)(pair).item() == pytest.approx(1 + 0.5 * 2)
    mean = -1.0 - (-1.25)
    assert SimPO(2.0, 1.0)(pair).item() == pytest.approx(math.log(1 + math.exp(1 - 2 * mean)))
    good = Labelled(one(-2.0), one(-3.0), one(1.0), one(0.4))
    sigma = 1 / (1 + math.exp(-0.5 * 0.6))
    assert KTO(0.5)(good).item() == pytest.approx(1 - sigma)
    bad = good._replace(desirable=one(0.0))
    assert KTO(0.5, 1.0, 3.0)(bad).item() == pytest.approx(3 * sigma)
    up, down = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))  # rho_w = 1, rho_l = -1
    contrast = -math.log(up) - 0.5 * math.log(down) - 0.5 * math.log(up)
    assert NCA(0.5)(pair).item() == pytest.approx(contrast)
    assert CE(0.5)(good).item() == pytest.approx(-math.log(up))
    assert CE(0.5)(bad).item() == pytest.approx(-math.log(down))
    assert CE(0.5)(bad, one(-0.5)).item() == pytest.approx(math.log(2))


def test_values_at_the_reference():
    pair = batch()
    same = pair._replace(chosen=pair.chosen_reference, rejected=pair.rejected_reference)
    assert torch.allclose(DPO()(same), torch.tensor(math.log(2)).double())
    assert torch.allclose(IPO(0.2)(same), torch.tensor(1 / (4 * 0.04)).double())
    assert torch.allclose(NCA()(same), torch.tensor(2 * math.log(2)).double())
    at = Labelled(pair.chosen, pair.chosen, torch.ones(7), torch.zeros(7))
    assert torch.allclose(CE()(at), torch.tensor(math.log(2)).double())
    assert torch.allclose(KTO(desirable_weight=2.0)(at), torch.ones(7).double())


@pytest.mark.parametrize("loss", PAIR_LOSSES, ids=repr)
def test_gradients_of_pair_losses(loss):
    pair = batch(grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(pair._replace(chosen=a, rejected=b)), (pair.chosen, pair.rejected)
    )


@pytest.mark.parametrize("loss", [KTO(0.7, 1.3, 0.6), CE(0.7)], ids=repr)
def test_gradients_of_losses_of_verdicts(loss):
    pair = batch(grad=True)
    verdict = (torch.arange(7) % 2).double()
    data = Labelled(pair.chosen, pair.chosen_reference, verdict, torch.full((7,), 0.3).double())
    assert torch.autograd.gradcheck(lambda s: loss(data._replace(score=s)), (pair.chosen,))


def test_the_bias_of_ce_has_a_gradient():
    data = Labelled(*batch()[:2], (torch.arange(7) % 2).double(), torch.zeros(7).double())
    bias = torch.linspace(-1, 1, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: CE(0.7)(data, b), (bias,))


@pytest.mark.parametrize("loss", [DPO(), IPO()], ids=repr)
def test_margin_losses_see_differences_only(loss):
    pair = batch()
    both = pair._replace(chosen=pair.chosen - 3, rejected=pair.rejected - 3)
    torch.testing.assert_close(loss(pair), loss(both))


def test_gradient_of_kto_saturates_and_leaves_the_baseline_alone():
    score = torch.linspace(-40, 0, 9, dtype=torch.float64, requires_grad=True)
    baseline = torch.full((9,), 0.5, dtype=torch.float64, requires_grad=True)
    kto = KTO(1.0)
    data = Labelled(score, torch.full((9,), -20.0), torch.ones(9), baseline)
    kto(data).sum().backward()
    sigma = torch.sigmoid(score.detach() + 20 - 0.5)
    torch.testing.assert_close(score.grad, -sigma * (1 - sigma))
    assert baseline.grad is None


# Population minimisers on a table of K responses with full support.

K = 5


def population(seed=3):
    random = np.random.default_rng(seed)
    reference = log_softmax(torch.tensor(random.normal(size=K)), -1)
    reward = torch.tensor(random.normal(size=K))
    weight = torch.tensor(random.dirichlet(np.ones(K * K)).reshape(K, K))
    weight = weight + weight.T
    return reference, reward, weight / weight.sum()


def minimise(objective):
    logits = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logits], 1.0, 500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        value = objective(log_softmax(logits, -1))
        value.backward()
        return value

    for _ in range(20):
        solver.step(closure)
    return log_softmax(logits, -1).detach()


def expected(loss, policy, reference, wins, weight, lengths):
    shape = (K, K)
    pair = Pairs(
        policy[:, None].expand(shape), policy[None].expand(shape),
        reference[:, None].expand(shape), reference[None].expand(shape),
        lengths[:, None].expand(shape), lengths[None].expand(shape),
    )  # fmt: skip
    return (weight * wins * loss(pair)).sum()


def test_dpo_finds_the_tilted_reference_whatever_the_pairs():
    reference, reward, weight = population()
    wins = torch.sigmoid(reward[:, None] - reward[None])
    for beta in (0.3, 1.0):
        got = minimise(
            lambda p, b=beta: expected(DPO(b), p, reference, wins, weight, torch.ones(K))
        )
        torch.testing.assert_close(
            got, log_softmax(reference + reward / beta, -1), rtol=1e-5, atol=1e-5
        )


def test_ipo_tilts_by_mean_win_rates_for_any_preference():
    reference, _, _ = population()
    random = np.random.default_rng(8)
    upper = torch.tensor(np.triu(random.random((K, K)), 1))
    wins = upper + torch.tril(1 - upper.T, -1) + 0.5 * torch.eye(K)  # cyclic in general
    mu = torch.tensor(random.dirichlet(np.ones(K)))
    tau = 0.7
    got = minimise(
        lambda p: expected(IPO(tau), p, reference, wins, mu[:, None] * mu[None], torch.ones(K))
    )
    target = log_softmax(reference + (wins @ mu) / tau, -1)
    torch.testing.assert_close(got, target, rtol=1e-6, atol=1e-6)


def test_simpo_without_margin_scales_by_length():
    reference, reward, weight = population()
    wins = torch.sigmoid(reward[:, None] - reward[None])
    lengths = torch.tensor([1.0, 2.0, 1.0, 3.0, 2.0], dtype=torch.float64)
    beta = 1.3
    got = minimise(lambda p: expected(SimPO(beta, 0.0), p, reference, wins, weight, lengths))
    mean = got / lengths - reward / beta
    torch.testing.assert_close(mean, mean[0].expand(K), rtol=1e-5, atol=1e-5)


def test_nca_fits_every_log_ratio_where_a_policy_can():
    # Unnormalised optimum exp(beta rho) = 2 p: a policy where the 2 p pi_ref sum to 1, beta = 1.
    reference = torch.full((K,), 1 / K, dtype=torch.float64).log()
    wins = torch.tensor([[0.5, 0.6, 0.7, 0.8, 0.9]]).double()
    wins = 0.5 + (wins - wins.T)
    mean = wins.mean(1)  # under uniform opponents; its mean is 1 / 2
    weight = torch.full((K, K), 1 / K**2, dtype=torch.float64)
    got = minimise(lambda p: expected(NCA(1.0), p, reference, wins, weight, torch.ones(K)))
    torch.testing.assert_close(got, (2 * mean / K).log(), rtol=1e-6, atol=1e-6)


def test_ce_with_a_bias_is_calibrated_and_without_it_only_if_the_odds_allow():
    reference, _, _ = population()
    random = np.random.default_rng(9)
    success = torch.tensor(random.uniform(0.2, 0.9, K))
    beta = 0.5

    def objective(policy, bias):
        good = Labelled(policy, reference, torch.ones(K), torch.zeros(K))
        bad = good._replace(desirable=torch.zeros(K))
        fit = success * CE(beta)(good, bias) + (1 - success) * CE(beta)(bad, bias)
        return (reference.exp() * fit).sum()

    odds = success / (1 - success)
    # E_ref exp(rho) = 1 fixes the bias: E_ref odds^(1 / beta) exp(-bias / beta) = 1.
    bias = beta * (reference.exp() * odds ** (1 / beta)).sum().log()
    got = minimise(lambda p: objective(p, bias))
    rho = got - reference
    torch.testing.assert_close(beta * rho + bias, odds.log(), rtol=1e-5, atol=1e-5)
    plain = minimise(lambda p: objective(p, 0.0))
    assert (beta * (plain - reference) - odds.log()).abs().max() > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": 0.5}, r"chosen of row \[2\] is 0.5"),
        ({"rejected": float("nan")}, r"rejected of row \[2\]"),
        ({"chosen_reference": float("-inf")}, r"chosen_reference of row \[2\] is -inf"),
        ({"rejected_length": 0.0}, r"rejected_length of row \[2\]"),
    ],
)
def test_impossible_scores_are_refused_with_their_row(change, message):
    pair = batch()
    name, value = next(iter(change.items()))
    wrong = getattr(pair, name).clone()
    wrong[2] = value
    check_pairs(pair)
    with pytest.raises(ValueError, match=message):
        check_pairs(pair._replace(**{name: wrong}))


def test_verdicts_are_zero_or_one():
    good = Labelled(-torch.ones(3), -torch.ones(3), torch.ones(3), torch.zeros(3))
    check_labelled(good)
    with pytest.raises(ValueError, match=r"desirable of row \[0\] is 0.5"):
        check_labelled(good._replace(desirable=torch.full((3,), 0.5)))


@pytest.mark.parametrize("name", LOSSES)
def test_coefficients_are_checked(name):
    made = loss_class(name)
    first = next(iter(made.__dataclass_fields__))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=first):
            made(**{first: wrong})


def test_an_unknown_loss_is_answered_with_the_list():
    with pytest.raises(ValueError, match="did you mean 'dpo'"):
        loss_class("ddpo")


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_which_scores_it_needs(name):
    made = loss_class(name)
    pair = batch()
    labels = Labelled(pair.chosen, pair.chosen_reference, torch.ones(7), torch.zeros(7))
    values = made()({"pairs": pair, "labels": labels}[made.needs])
    assert values.shape == (7,) and values.isfinite().all()
