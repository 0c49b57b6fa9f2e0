"""Every token task against what its words say, played out in plain Python."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.dfa import TokenDFA
from rlkit.envs.tokens.door import TokenDoor
from rlkit.envs.tokens.grammar import TokenGrammar
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.tokens import (
    best_policy,
    by_prompt,
    evaluate,
    every_response,
    first_error,
    generate,
    log_probability,
    occupancy,
    returns,
    sequence_kl,
    soft_optimum,
    state_coverage,
    state_values,
)
from rlkit.tokens.problem import sample

N = 3
TINY = [
    TokenBigram(3, 3, 2),
    TokenChain(2, 2, "short", programs=2),
    TokenChain(3, 1),
    TokenDFA(4, 3, 4),
    TokenDoor(4, 3, 2, 2),
    TokenDoor(4, 3, 2, 1, forgetful=True),
    TokenGrammar("dyck", 4, 4, 2),
    TokenGrammar("regular", 5, 2),
    TokenLock(4, 3),
    TokenStyle(4, 2, 1, 1, 2, 1),
    TokenStyle(3, 2, 1, 1, 1, 2, truncation=-0.5, sft=20),
    TokenTree(3, 2, 2),
]


def drawn(problem, n=N, seed=0):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return instance, instance.replica.knowledge


def random_policy(automaton, seed=1):
    """Random logits where the reference is positive."""
    logits = np.random.default_rng(seed).normal(size=tuple(automaton.reference.shape))
    legal = automaton.reference > -torch.inf
    return torch.log_softmax(torch.where(legal, torch.tensor(logits), -torch.inf), -1)


def listed(automaton, values):
    """`[N, X * L]` to `[N, X, L]`."""
    return values.reshape(len(values), automaton.prompt.shape[1], -1)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("problem", TINY, ids=repr)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_soft_optimum_equals_that_of_the_listed_responses(problem, beta):
    _, known = drawn(problem)
    automaton = known.automaton
    every = every_response(automaton)
    law = listed(automaton, log_probability(automaton.reference, every).sum(-1))
    reward = listed(automaton, returns(known.rewards, every))
    close(law.exp().sum(-1), torch.ones_like(law[..., 0]))
    best = soft_optimum(automaton, known.rewards, beta)
    log_z = torch.logsumexp(law + reward / beta, -1)
    close(by_prompt(automaton, best.value), beta * log_z)
    found = listed(automaton, log_probability(best.policy, every).sum(-1))
    close(found.exp(), (law + reward / beta - log_z[..., None]).exp())


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_the_gap_is_beta_times_the_divergence_from_the_optimum(problem):
    _, known = drawn(problem)
    automaton, beta = known.automaton, 0.3
    best = soft_optimum(automaton, known.rewards, beta)
    top = (automaton.prompt * by_prompt(automaton, best.value)).sum(1)
    policy = random_policy(automaton)
    got = evaluate(automaton, known.rewards, policy, beta)
    close(top - got.objective, beta * sequence_kl(automaton, policy, best.policy))


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_sums_over_states_equal_sums_over_responses(problem):
    _, known = drawn(problem)
    automaton = known.automaton
    policy = random_policy(automaton)
    every = every_response(automaton)
    law = listed(automaton, log_probability(policy, every).sum(-1))
    base = listed(automaton, log_probability(automaton.reference, every).sum(-1))
    reward = listed(automaton, returns(known.rewards, every))
    ratio = torch.where(law > -torch.inf, law - base, 0.0)
    got = evaluate(automaton, known.rewards, policy, 1.0)
    close(got.reward, (automaton.prompt * (law.exp() * reward).sum(-1)).sum(1))
    close(got.kl, (automaton.prompt * (law.exp() * ratio).sum(-1)).sum(1))
    value = state_values(automaton, known.rewards, policy)
    close(by_prompt(automaton, value), (law.exp() * reward).sum(-1))
    close(occupancy(automaton, policy).sum(-1), torch.ones_like(value[..., 0]))


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_the_best_policy_collects_the_best_expected_reward(problem):
    instance, known = drawn(problem)
    policy = best_policy(known.automaton, known.rewards)
    got = evaluate(known.automaton, known.rewards, policy, 1.0)
    close(got.reward, problem.optimal_value(instance))
    every = every_response(known.automaton)
    possible = log_probability(known.automaton.reference, every).sum(-1) > -torch.inf
    most = torch.where(possible, returns(known.rewards, every), -torch.inf)
    best = (known.automaton.prompt * listed(known.automaton, most).amax(-1)).sum(1)
    close(problem.optimal_value(instance), best)


def written(problem, seed=5, count=400):
    """Responses of a random policy, which sees more than the reference writes."""
    _, known = drawn(problem)
    automaton = known.automaton
    rng = Rng(seed, "act", torch.arange(N))
    return known, sample(automaton, random_policy(automaton), count, rng)


@pytest.mark.parametrize("form", ["full", "short", "bare"])
def test_a_chain_pays_what_the_arithmetic_says(form):
    problem = TokenChain(4, 3, form, programs=2, competence=0.5, fluency=0.9)
    _, known = drawn(problem)
    rng = Rng(5, "act", torch.arange(N))
    batch = sample(known.automaton, known.automaton.reference, 400, rng)
    m, length = 4, len(problem.slots)
    words, gold = known.prompt_tokens, returns(known.rewards, batch)
    error = first_error(known.sound, batch)
    paid = mended = 0
    for row, index in itertools.product(range(N), range(batch.prompt.shape[1])):
        start, *ops = words[row, batch.prompt[row, index]].tolist()
        token = batch.token[row, index].tolist()
        truth = value = start
        broken, wrong = False, None
        for step, (kind, operand) in enumerate(zip(ops[::2], ops[1::2], strict=True)):
            truth = truth * operand % m if kind == m + 1 else (truth + operand) % m
            right = value * operand % m if kind == m + 1 else (value + operand) % m
            expected = {"operation": kind, "operand": operand, "result": right, "end": m + 2}
            for offset, slot in enumerate(problem.slots):
                place = step * length + offset
                seen = token[place]
                if seen != expected[slot] and wrong is None:
                    wrong = place
                if slot == "result" and seen < m:
                    value = seen
                elif seen != expected[slot]:
                    broken = True
        success = float(not broken and value == truth)
        assert gold[row, index] == success
        assert error[row, index] == (problem.horizon if wrong is None else wrong)
        paid += success
        mended += success == 1 and wrong is not None
    assert 0 < mended < paid < N * 400  # times 2 modulo 4 forgives


def test_the_reference_of_a_chain_is_as_good_as_its_fields_say():
    _, known = drawn(TokenChain(5, 3, "full", competence=0.7, fluency=0.9))
    law = occupancy(known.automaton, known.automaton.reference)[:, -1]
    clean = (law * known.sound).sum(1)
    close(clean, torch.full_like(clean, 0.7**3 * 0.9 ** (3 * 4)))
    assert known.step_start[0].tolist() == [1, 0, 0, 0] * 3


def test_multiplication_by_two_modulo_four_forgives_mistakes():
    problem = TokenChain(4, 2, "bare")
    _, known = drawn(problem, 200)
    rng = Rng(0, "act", torch.arange(200))
    batch = generate(known.automaton, known.automaton.reference,
                     torch.zeros(200, 50, dtype=torch.long), rng)  # fmt: skip
    right, clean = returns(known.rewards, batch) == 1, first_error(known.sound, batch) == 2
    assert (right | ~clean).all()
    assert (right & ~clean).any()


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_door_opens_to_who_has_the_key(forgetful):
    problem = TokenDoor(7, 4, 2, 2, forgetful)
    known, batch = written(problem)
    gold, outcomes = returns(known.rewards, batch), set()
    for row, index in itertools.product(range(N), range(batch.prompt.shape[1])):
        key = known.prompt_tokens[row, batch.prompt[row, index]].tolist()
        fetched, opened = 0, False
        for token in batch.token[row, index].tolist():
            if token == 3:
                opened = fetched == len(key)
                break
            if fetched < len(key) and token == key[fetched]:
                fetched += 1
            elif forgetful:
                fetched = 0
        assert gold[row, index] == float(opened)
        outcomes.add(opened)
    assert outcomes == {True, False}


def test_dyck_words_are_those_that_balance():
    problem = TokenGrammar("dyck", 6, 4, 2)
    _, known = drawn(problem)
    every = every_response(known.automaton)
    count = 0
    for token, reward in zip(every.token[0].tolist(), returns(known.rewards, every)[0].tolist(),
                             strict=True):  # fmt: skip
        stack, fine = [], True
        for bracket in token:
            if bracket < 2 and len(stack) < 2:
                stack.append(bracket)
            elif bracket >= 2 and stack and stack[-1] == bracket - 2:
                stack.pop()
            else:
                fine = False
                break
        assert reward == float(fine and not stack)
        count += reward
    # Dyck paths of half-length 3 and height at most 2 number 4; each has 2**3 colourings.
    assert count == 4 * 2**3


def test_a_regular_language_has_a_word_the_reference_writes():
    _, known = drawn(TokenGrammar("regular", 7, 2), 100)
    got = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
    assert (got > 0).all()
    assert (got < 1 - 1e-9).double().mean() > 0.5


def style_paths(problem, known, row, prompt, policy):
    """Every response to a prompt as it is read: probability, log-ratio, gold, proxy, length."""
    automaton, end = known.automaton, problem.vocabulary - 1
    topics = set(known.prompt_tokens[row, prompt].tolist())
    flags = range(problem.content + problem.filler, end)
    out = []

    def extend(tokens, state, p, ratio):
        time = len(tokens)
        over = tokens[-1:] == [end]
        if over or time == problem.horizon:
            words = [t for t in tokens if t != end]
            gold = len(topics & set(words)) / problem.topics - problem.cost * len(words)
            gold += 0 if over else problem.truncation
            proxy = gold + problem.bonus * sum(t in flags for t in words)
            out.append((p, ratio, gold, proxy, time))
            return
        law = policy[row, time, state].exp().tolist()
        base = automaton.reference[row, time, state].tolist()
        for token in range(problem.vocabulary):
            after = int(automaton.successor[row, time, state, token])
            step = math.log(law[token]) - base[token]
            extend([*tokens, token], after, p * law[token], ratio + step)

    extend([], int(automaton.origin[row, prompt]), 1.0, 0.0)
    return np.array(out)


def test_the_model_leans_to_topics_by_its_attention_to_the_last_digit():
    known = drawn(TokenStyle(reference_std=0.0, attention=0.3))[1]
    law = known.automaton.reference[:, 0, 0, :-1].exp()
    assert (law.amax(-1) / law.amin(-1)).tolist() == pytest.approx([math.exp(0.3)] * N, rel=1e-14)


def test_padding_costs_nothing():
    problem = TokenStyle(4, 2, 1, 1, 2, 2, truncation=-0.3)
    _, known = drawn(problem)
    policy = random_policy(known.automaton)
    gold, proxy = (evaluate(known.automaton, r, policy, 1.0) for r in (known.rewards, known.proxy))
    for row in range(N):
        paths = [style_paths(problem, known, row, x, policy) for x in range(2)]
        p, ratio, g, b, length = (np.stack([path[:, i] for path in paths]) for i in range(5))
        assert p.sum(1) == pytest.approx([1, 1], abs=1e-12)
        assert len(set(length[0])) == 4
        assert gold.reward[row].item() == pytest.approx((p * g).sum() / 2, abs=1e-12)
        assert proxy.reward[row].item() == pytest.approx((p * b).sum() / 2, abs=1e-12)
        assert gold.kl[row].item() == pytest.approx((p * ratio).sum() / 2, abs=1e-12)


def test_optimising_the_proxy_first_helps_then_hurts():
    problem = TokenStyle(16, 20, 5, 6, 4, 3)
    _, known = drawn(problem, 8)
    betas = np.geomspace(2, 0.02, 12)
    gold = []
    for beta in betas:
        policy = soft_optimum(known.automaton, known.proxy, float(beta)).policy
        gold.append(evaluate(known.automaton, known.rewards, policy, 1.0).reward.mean().item())
    assert 2 < int(np.argmax(gold)) < len(gold) - 1
    assert gold[-1] < max(gold) - 0.1


def test_the_expert_covers_the_optimum_by_its_share():
    problem = TokenStyle(demonstrations=3000, expert=0.25)
    instance, known = drawn(problem)
    automaton = known.automaton
    best = best_policy(automaton, known.rewards)
    good = occupancy(automaton, best)
    mixed = 0.25 * good + 0.75 * occupancy(automaton, automaton.reference)
    assert (state_coverage(good, mixed) <= 4).all()
    shown = returns(known.rewards, known.data.demonstration)
    usual = evaluate(automaton, known.rewards, automaton.reference, 1.0).reward
    expected = 0.25 * problem.optimal_value(instance) + 0.75 * usual
    assert ((shown.mean(1) - expected).abs() < 5 * shown.std(1) / math.sqrt(3000)).all()


def test_a_counted_reference_approaches_its_expert():
    kl = []
    for count in (0, 200, 20_000):
        problem = TokenStyle(4, 3, 1, 1, 1, 2, sft=count)
        model = drawn(TokenStyle(4, 3, 1, 1, 1, 2))[1]
        _, known = drawn(problem)
        expert = soft_optimum(model.automaton, model.rewards, problem.sft_temperature).policy
        kl.append(sequence_kl(known.automaton, expert, known.automaton.reference))
    assert (kl[0] > kl[1]).all() and (kl[1] > kl[2]).all()
    assert (kl[2] < 0.02).all()


def test_the_random_automaton_has_the_moments_of_its_clipped_biases():
    _, known = drawn(TokenDFA(demonstrations=0, pairs=0), 2000)
    instance, _ = drawn(TokenDFA(demonstrations=0, pairs=0), 2000)
    law = stats.beta(0.6, 1.4)

    def below(x):
        return 0.0 if x < 0.02 else 1.0 if x >= 0.98 else law.cdf(x)

    mean = 1 - integrate.quad(below, 0, 1, points=[0.02, 0.98])[0]
    most = 1 - integrate.quad(lambda x: below(x) ** 10, 0, 1, points=[0.02, 0.98])[0]
    usual = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
    best = instance.replica.best
    assert abs(usual.mean() - mean) < 4 * usual.std() / math.sqrt(2000)
    # Some states are out of reach, which takes a little off the mean of the largest of ten.
    error = 4 * best.std() / math.sqrt(2000)
    assert most - 0.01 - error < best.mean() < most + error
    # The 24 automata of the published table: .819 and .320.
    assert abs(best.mean() - 0.819) < 3 * best.std() / math.sqrt(24)
    assert abs(usual.mean() - 0.320) < 3 * usual.std() / math.sqrt(24)


def test_the_last_token_is_the_state_of_a_bigram():
    problem = TokenBigram(5, 4, 3)
    _, batch = written(problem)
    assert torch.equal(batch.state[..., 1:], batch.token)
    assert torch.equal(batch.state[..., 0], batch.prompt)
    std = drawn(TokenBigram(), 500)[1].rewards.token.std()
    assert abs(std - 0.7) < 4 * 0.7 / math.sqrt(2 * 500 * 96)


def test_the_words_of_a_tree_tell_its_prompts_apart():
    words = drawn(TokenTree(2, 3, 10))[1].prompt_tokens[0]
    assert words.shape == (10, 3)
    assert len({tuple(row) for row in words.tolist()}) == 10
    assert words.max() < 3


@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_words_of_prompts_are_tokens(problem):
    known = drawn(problem)[1]
    assert known.prompt_tokens.shape[:2] == known.automaton.prompt.shape
    assert known.prompt_tokens.dtype == torch.int64
    if known.prompt_tokens.numel():
        assert 0 <= known.prompt_tokens.min() <= known.prompt_tokens.max()
        assert known.prompt_tokens.max() < known.automaton.vocabulary
    assert known.step_start.shape == known.automaton.reference.shape[:2]


FULL = [
    TokenChain(7, 8, programs=8),
    TokenStyle(16, 20, 6, 5, 8, 3),
    TokenBigram(32, 64),
    TokenGrammar("dyck", 12, 8, 5),
    TokenDoor(16, 16, 6, 64),
]


@pytest.mark.parametrize("problem", FULL, ids=repr)
def test_full_sizes_are_solved_exactly(problem):
    instance, known = drawn(problem, 2)
    assert known.automaton.states <= 4096
    best = soft_optimum(known.automaton, known.rewards, 0.05)
    got = evaluate(known.automaton, known.rewards, best.policy, 0.05)
    top = (known.automaton.prompt * by_prompt(known.automaton, best.value)).sum(1)
    close(top, got.objective)
    assert (got.reward <= problem.optimal_value(instance) + 1e-9).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenChain(modulus=1), r"modulus = 1 outside \[2, inf\)"),
        (lambda: TokenChain(modulus=46, programs=1), "make 4233 states; accepted: at most 4096"),
        (lambda: TokenChain(form="long"), "form = 'long' unknown"),
        (lambda: TokenChain(fluency=1.0), r"fluency = 1.0 outside \(0, 1\)"),
        (lambda: TokenDoor(horizon=3), r"horizon = 3 outside \[4, inf\)"),
        (lambda: TokenGrammar(vocabulary=3), "vocabulary = 3; accepted: even"),
        (lambda: TokenGrammar(horizon=5), "horizon = 5; accepted: even"),
        (lambda: TokenStyle(topics=6), r"content = 5 outside \[6, inf\)"),
        (lambda: TokenStyle(stop=0.0), r"stop = 0.0 outside \(0, 1\)"),
        (lambda: TokenBigram(prompts=5), r"prompts = 5 outside \[1, 4\]"),
        (lambda: TokenDFA(alpha=0), r"alpha = 0 outside \(0"),
        (lambda: TokenDoor(demonstrations=10, per_prompt=4), "multiples of per_prompt = 4"),
        (lambda: TokenDoor(expert=1.5), r"expert = 1.5 outside \[0, 1\]"),
        (lambda: TokenLock(mistake=-0.1), r"mistake = -0.1 outside \[0, 1\]"),
    ],
)
def test_fields_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
