"""Searches, best-of-n, coverage and divergence estimates against listed responses."""

import itertools
import math

import numpy as np
import pytest
import torch

from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.games import bradley_terry_game, versus
from rlkit.random import Rng
from rlkit.tokens import (
    beam_search,
    best_of_responses,
    by_prompt,
    every_response,
    first_error,
    greedy,
    kl_estimates,
    log_probability,
    mixed_coverage,
    occupancy,
    pass_at_k,
    response_coverage,
    returns,
    reward_law,
    sequence_kl,
    soft_optimum,
    state_coverage,
    state_values,
    win_rate,
)
from rlkit.tokens.laws import divergence
from rlkit.tokens.problem import sample

N = 4


def drawn(problem, n=N, seed=0):
    return problem.instance(Rng(seed, "instance", torch.arange(n))).replica.knowledge


def random_policy(automaton, seed=1):
    logits = np.random.default_rng(seed).normal(size=tuple(automaton.reference.shape))
    legal = automaton.reference > -torch.inf
    return torch.log_softmax(torch.where(legal, torch.tensor(logits), -torch.inf), -1)


TINY = [TokenTree(3, 3, 2), TokenBigram(4, 3, 2), TokenStyle(4, 2, 1, 1, 2, 1)]


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_an_exhaustive_beam_lists_the_responses_by_likelihood(problem):
    automaton = drawn(problem).automaton
    policy, every = random_policy(automaton), every_response(automaton)
    law = log_probability(policy, every).sum(-1).reshape(N, 2, -1)
    beams = beam_search(automaton, policy, law.shape[-1])
    torch.testing.assert_close(beams.score, law.sort(-1, descending=True).values)
    found = log_probability(policy, beams.responses).sum(-1)
    legal = beams.score.flatten(1) > -torch.inf
    torch.testing.assert_close(found[legal], beams.score.flatten(1)[legal])


def test_a_beam_keeps_what_a_plain_search_keeps():
    automaton = drawn(TokenBigram(5, 4, 2)).automaton
    policy, width = random_policy(automaton), 3
    beams = beam_search(automaton, policy, width)
    for row, prompt in itertools.product(range(N), range(2)):
        kept = [(0.0, [], int(automaton.origin[row, prompt]))]
        for time in range(5):
            grown = [
                (score + policy[row, time, state, a].item(), [*tokens, a],
                 int(automaton.successor[row, time, state, a]))
                for score, tokens, state in kept
                for a in range(4)
            ]  # fmt: skip
            kept = sorted(grown, key=lambda one: -one[0])[:width]
        assert beams.token[row, prompt].tolist() == [tokens for _, tokens, _ in kept]
        assert beams.score[row, prompt].tolist() == pytest.approx([one[0] for one in kept])


def test_greedy_takes_the_likeliest_token_in_turn():
    automaton = drawn(TokenBigram(5, 4, 2)).automaton
    policy = random_policy(automaton)
    found = greedy(automaton, policy)
    for time in range(5):
        row = torch.arange(N)[:, None]
        assert torch.equal(found.token[..., time],
                           policy[row, time, found.state[..., time]].argmax(-1))  # fmt: skip


def test_the_likeliest_response_of_the_optimum_balances_reward_and_reference():
    known, beta = drawn(TokenBigram(5, 3, 2)), 0.3
    best = soft_optimum(known.automaton, known.rewards, beta)
    every = every_response(known.automaton)
    law = log_probability(known.automaton.reference, every).sum(-1)
    balance = (returns(known.rewards, every) + beta * law).reshape(N, 2, -1)
    found = beam_search(known.automaton, best.policy, 3**5)
    score = beta * found.score[..., 0] + by_prompt(known.automaton, best.value)
    torch.testing.assert_close(score, balance.amax(-1))


def test_exact_values_guide_a_beam_of_one_to_success():
    known = drawn(TokenChain())
    value = state_values(known.automaton, known.rewards, known.automaton.reference)
    guided = beam_search(known.automaton, known.automaton.reference, 1, value)
    assert (returns(known.rewards, guided.best) == 1).all()
    assert (guided.score == 1).all()


def test_few_proposals_leave_out_unlikely_tokens():
    known = drawn(TokenBigram(5, 4))
    policy = random_policy(known.automaton)
    value = torch.randn(N, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    one = beam_search(known.automaton, policy, 1, value, proposals=1)
    assert torch.equal(one.best.token, greedy(known.automaton, policy).token)
    free = beam_search(known.automaton, policy, 1, value)
    assert torch.equal(free.best.token[..., 0], value[:, 1].argmax(-1, keepdim=True))


def test_the_best_of_n_follows_its_law():
    reward = torch.tensor([[0.0, 1.0, 1.0, -2.0, 3.0]])
    law = torch.tensor([[0.1, 0.2, 0.25, 0.3, 0.15]]).double()
    for count in (1, 2, 3):
        brute = np.zeros(5)
        for drawn_ in itertools.product(range(5), repeat=count):
            chance = math.prod(law[0, list(drawn_)].tolist())
            top = max(reward[0, list(drawn_)].tolist())
            ties = [i for i in drawn_ if reward[0, i] == top]
            for i in ties:
                brute[i] += chance / len(ties)
        found = best_of_responses(reward, law, count)
        assert found[0].tolist() == pytest.approx(brute.tolist(), abs=1e-12)


def test_the_best_of_n_of_very_unlikely_responses_is_a_law():
    reward = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    for tiny in (1e-16, 1e-20, 1e-300):
        law = torch.tensor([0.5, tiny, 0.5], dtype=torch.float64)
        for count, expected in ((1, [0.5, tiny, 0.5]), (4, [0.0625, 0.5 * tiny, 0.9375])):
            found = best_of_responses(reward, law, count)
            assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_divergence_of_the_best_of_n_stays_below_its_bound():
    known = drawn(TokenTree(4, 3))
    every = every_response(known.automaton)
    law = log_probability(known.automaton.reference, every).sum(-1).exp()
    reward = returns(known.rewards, every)
    for count in (2, 4, 16):
        best = best_of_responses(reward, law, count)
        assert torch.allclose(best.sum(1), torch.ones(N).double())
        assert (divergence(best, law) <= math.log(count) - (count - 1) / count).all()
        assert (divergence(best, law) > 0.2 * (math.log(count) - (count - 1) / count)).all()
        wins = versus(bradley_terry_game(reward, 1e9), best, law)
        assert (wins - count / (count + 1)).abs().max() < 0.15  # equality in the continuum


def test_win_rates_by_laws_equal_those_by_pairs():
    known = drawn(TokenChain(2, 2, "short"))
    automaton = known.automaton
    every, policy = every_response(automaton), random_policy(automaton)
    reward = returns(known.rewards, every).reshape(N, 2, -1)
    level, mine = reward_law(automaton, known.rewards, policy, 1.0)
    _, theirs = reward_law(automaton, known.rewards, automaton.reference, 1.0)
    assert level.tolist() == [0, 1]
    got = win_rate(mine, theirs)
    for prompt in range(2):
        laws = [
            log_probability(p, every).sum(-1).exp().reshape(N, 2, -1)[:, prompt]
            for p in (policy, automaton.reference)
        ]
        judge = bradley_terry_game(reward[:, prompt], 1e9)
        torch.testing.assert_close(got[:, prompt], versus(judge, *laws))


def test_pass_at_k_is_the_chance_of_one_success():
    chance, prompt = torch.tensor([[0.2, 0.7, 0.0, 1.0]]).double(), torch.full((1, 4), 0.25)
    for count in (1, 3):
        expected = np.mean([1 - (1 - p) ** count for p in (0.2, 0.7, 0.0, 1.0)])
        assert pass_at_k(chance, prompt, count).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="count = 0"):
        pass_at_k(chance, prompt, 0)


def test_pass_at_k_bears_a_sure_success_that_rounds_above_one():
    chance = torch.tensor([[1 + 2.0**-52]], dtype=torch.float64)
    assert pass_at_k(chance, torch.ones(1, 1), 4).item() == 1


def test_divergence_estimates_have_their_means_and_gradients():
    known = drawn(TokenBigram(3, 3), 1)
    automaton = known.automaton
    table = random_policy(automaton).requires_grad_()
    policy = torch.log_softmax(table, -1)
    every = every_response(automaton)
    log_p = log_probability(policy, every).sum(-1)
    ratio = log_p - log_probability(automaton.reference, every).sum(-1)
    law = log_p.exp().detach()
    kl = sequence_kl(automaton, policy, automaton.reference)
    back = sequence_kl(automaton, automaton.reference, policy)
    k1, k2, k3 = kl_estimates(ratio)
    torch.testing.assert_close((law * k1).sum(1), kl)
    torch.testing.assert_close((law * k3).sum(1), kl)
    assert (k3 >= 0).all()
    assert abs((law * k2).sum() - kl.sum()) > 0.05
    expected = {"k1": 0 * kl, "k2": kl, "k3": back}
    for name, estimate in zip(("k1", "k2", "k3"), (k1, k2, k3), strict=True):
        (got,) = torch.autograd.grad((law * estimate).sum(), table, retain_graph=True)
        (want,) = torch.autograd.grad(expected[name].sum(), table, retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_coverage_is_the_largest_ratio():
    known = drawn(TokenTree(3, 3, 2))
    automaton = known.automaton
    target = soft_optimum(automaton, known.rewards, 0.3).policy
    every = every_response(automaton)
    ratio = [log_probability(p, every).sum(-1) for p in (target, automaton.reference)]
    found = response_coverage(automaton, target, automaton.reference)
    torch.testing.assert_close(found, (ratio[0] - ratio[1]).amax(1).exp())
    here, there = occupancy(automaton, target), occupancy(automaton, automaton.reference)
    by_state = state_coverage(here, there)
    # On a tree a whole response is a state.
    torch.testing.assert_close(by_state, found)
    mixed = 0.2 * here + 0.8 * there
    torch.testing.assert_close(state_coverage(here, mixed), mixed_coverage(by_state, 0.2))
    assert (state_coverage(there, there) == 1).all()


def test_uncovered_targets_have_infinite_coverage():
    known = drawn(TokenBigram(3, 3))
    automaton = known.automaton
    banned = automaton.reference.clone()
    banned[:, :, :, 0] = -torch.inf
    data = torch.log_softmax(banned, -1)
    assert response_coverage(automaton, automaton.reference, data).isinf().all()
    here, there = occupancy(automaton, automaton.reference), occupancy(automaton, data)
    assert state_coverage(here, there).isinf().all()


def test_the_first_wrong_key_is_the_first_error():
    problem = TokenLock(8, 4, key_every=2, decoy=None)
    known = drawn(problem)
    combination = problem.combination(Rng(0, "instance", torch.arange(N)))
    batch = sample(known.automaton, known.automaton.reference, 300, Rng(1, "a", torch.arange(N)))
    wrong = (batch.token != combination[:, None]) & problem.keys()
    expected = torch.where(wrong.any(-1), wrong.long().argmax(-1), 8)
    assert torch.equal(first_error(known.sound, batch), expected)


def test_the_smallest_credit_of_the_optimum_marks_the_first_wrong_key():
    known = drawn(TokenLock(8, 4, decoy=None))
    best = soft_optimum(known.automaton, known.rewards, 0.05)
    batch = sample(known.automaton, known.automaton.reference, 300, Rng(1, "a", torch.arange(N)))
    credit = log_probability(best.policy - known.automaton.reference, batch)
    error = first_error(known.sound, batch)
    failed = error < 8
    assert failed.any()
    assert torch.equal(credit.argmin(-1)[failed], error[failed])


def test_what_follows_the_first_error_does_not_count():
    known = drawn(TokenBigram(4, 3), 1)
    sound = torch.tensor([[True, False, True]])
    batch = sample(known.automaton, known.automaton.reference, 50, Rng(1, "a", torch.arange(1)))
    expected = [([*row, 1]).index(1) for row in batch.token[0].tolist()]
    assert any(1 in row[:-1] and row[-1] != 1 for row in batch.token[0].tolist())
    assert first_error(sound, batch)[0].tolist() == expected
