"""Preference games against enumeration, closed forms and their own best responses."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.games import (
    against,
    bradley_terry_game,
    check_preferences,
    cyclic_game,
    duality_gap,
    nash_policy,
    random_game,
    regularised_gap,
    regularised_nash,
    versus,
)
from rlkit.random import Rng
from rlkit.tokens import log_probability, policy_of_law
from rlkit.tokens.games import response_game

N = 5


def games(items, seed=0, n=N):
    return random_game(Rng(seed, "x", torch.arange(n)), items)


def references(items, seed=0, n=N):
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(items), size=n))


@pytest.mark.parametrize("win", [0.6, 0.9, 1.0])
def test_rock_paper_scissors_is_played_uniformly(win):
    found = nash_policy(cyclic_game(win))
    assert found.policy[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-9)
    soft = regularised_nash(cyclic_game(win), torch.full((1, 3), 1 / 3).double(), 0.01)
    assert soft.policy[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)


def by_supports(game):
    """An equilibrium of a symmetric 3 x 3 game: of all supports, the one nobody can exploit."""
    best = (np.inf, None)
    for size in (1, 2, 3):
        for support in map(list, itertools.combinations(range(3), size)):
            inner = game[np.ix_(support, support)] - 0.5
            system = np.concatenate([inner.T, np.ones((1, size))])
            weight = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
            if (weight < -1e-9).any():
                continue
            policy = np.zeros(3)
            policy[support] = weight.clip(0) / weight.clip(0).sum()
            best = min(best, ((game @ policy).max() - 0.5, tuple(policy)))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_small_games_are_solved_as_by_trying_all_supports(seed):
    preference = games(3, seed)
    found = nash_policy(preference)
    for row in range(N):
        gap, policy = by_supports(preference[row].numpy())
        assert gap == pytest.approx(0, abs=1e-9)
        assert found.policy[row].tolist() == pytest.approx(policy, abs=1e-7)


@pytest.mark.parametrize("items", [2, 5, 12])
def test_an_equilibrium_cannot_be_exploited(items):
    preference = games(items)
    found = nash_policy(preference)
    assert (found.gap < 1e-8).all()
    assert (against(preference, found.policy) <= 0.5 + 1e-8).all()
    every = torch.eye(items).double()
    for other in every:
        wins = versus(preference, found.policy, other.expand(N, -1))
        assert (wins >= 0.5 - 1e-8).all()


def test_with_rewards_behind_it_the_best_item_is_the_equilibrium():
    reward = torch.tensor(np.random.default_rng(1).normal(size=(N, 6)))
    found = nash_policy(bradley_terry_game(reward))
    assert torch.equal(found.policy.argmax(1), reward.argmax(1))
    assert (found.policy.amax(1) > 1 - 1e-7).all()


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
def test_the_regularised_equilibrium_is_its_own_best_response(beta):
    preference, reference = games(7), references(7)
    found = regularised_nash(preference, reference, beta, 1e-14)
    assert (found.gap <= 1e-13).all()
    answer = torch.softmax(reference.log() + against(preference, found.policy) / beta, 1)
    # Two policies of gap g lie at most sqrt(g / beta) apart in total variation.
    torch.testing.assert_close(found.policy, answer, rtol=0, atol=2 * (1e-13 / beta) ** 0.5)


def test_the_certificate_is_what_best_responses_gain():
    preference, reference, policy = games(4), references(4), references(4, 3)
    beta = 0.4

    def payoff(first, second):
        kl = [(p * (p / reference).log()).sum(1) for p in (first, second)]
        return versus(preference, first, second) - beta * kl[0] + beta * kl[1]

    best = torch.softmax(reference.log() + against(preference, policy) / beta, 1)
    gap = regularised_gap(preference, policy, reference, beta)
    # Symmetric game: both players gain the same.
    torch.testing.assert_close(gap, 2 * (payoff(best, policy) - 0.5))
    for seed in range(20):
        other = references(4, 10 + seed)
        assert (2 * (payoff(other, policy) - 0.5) <= gap + 1e-12).all()


def test_the_reference_and_the_equilibrium_are_the_ends_of_the_path():
    preference, reference = games(6), references(6)
    far = regularised_nash(preference, reference, 1e6)
    torch.testing.assert_close(far.policy, reference, rtol=1e-5, atol=1e-6)
    exact = nash_policy(preference)
    gaps = []
    for beta in (0.5, 0.1, 0.02, 0.001):
        near = regularised_nash(preference, reference, beta, 1e-9)
        assert (near.gap <= 1e-9).all()
        gaps.append(duality_gap(preference, near.policy))
        bound = -2 * beta * reference.amin(1).log()
        assert (gaps[-1] <= bound + 1e-9).all()
    torch.testing.assert_close(near.policy, exact.policy, rtol=0, atol=0.02)
    assert all((a >= b - 1e-9).all() for a, b in itertools.pairwise(gaps))


def test_a_replica_is_solved_alike_in_any_company():
    preference, reference = games(5), references(5)
    together = regularised_nash(preference, reference, 0.05).policy
    alone = regularised_nash(preference[2:3], reference[2:3], 0.05).policy
    assert torch.equal(together[2:3], alone)


def test_a_law_on_responses_becomes_a_policy_with_that_law():
    problem = TokenTree(3, 3)
    instance = problem.instance(Rng(0, "instance", torch.arange(N)))
    known = instance.replica.knowledge
    game = response_game(known.automaton, known.rewards)
    preference = games(27)
    law = regularised_nash(preference, game.reference, 0.2).policy
    policy = policy_of_law(known.automaton, game.responses, law)
    again = log_probability(policy, game.responses).sum(-1).exp()
    torch.testing.assert_close(again, law, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(policy.exp().sum(-1), torch.ones_like(policy[..., 0]))


def test_responses_that_are_never_written_lose_to_those_that_are():
    problem = TokenStyle(2, 1, 1, 0, 1, 1)
    known = problem.instance(Rng(0, "instance", torch.arange(N))).replica.knowledge
    game = response_game(known.automaton, known.rewards)
    legal = game.reference > 0
    assert 0 < legal[0].sum() < legal.shape[1]
    check_preferences(game.preference)
    against = game.preference[0][legal[0]][:, ~legal[0]]
    assert (against == 1).all()
    assert (nash_policy(game.preference).policy[~legal] < 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**31), st.floats(0.0, 5.0))
def test_any_game_has_value_one_half(items, seed, std):
    preference = random_game(Rng(seed, "x", torch.arange(2)), items, std)
    check_preferences(preference)
    found = nash_policy(preference)
    assert (found.gap.abs() < 1e-7).all()
    assert found.policy.sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nash_policy(torch.rand(3, 3)), r"shape \[3, 3\]; accepted: \[N, Y, Y\]"),
        (lambda: nash_policy(torch.full((1, 2, 2), 0.6)), r"replica 0: P\[0, 0\] = 0\.6"),
        (lambda: regularised_nash(games(3), references(3), 0.0), r"beta = 0\.0 outside \(0"),
        (lambda: cyclic_game(1.2), r"win = 1\.2 outside \[0, 1\]"),
        (lambda: cyclic_game(0.7, 2), r"items = 2 outside \[3, inf\)"),
    ],
)
def test_what_is_no_game_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
