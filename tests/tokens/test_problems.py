import math

import pytest
import torch

from rlkit.engine import BatchedEnv
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.tokens import evaluate, every_response, returns, soft_optimum, walk
from rlkit.tokens.problem import sample

PROBLEMS = [
    TokenLock(),
    TokenLock(4, 4, key_every=2, decoy=None),
    TokenTree(),
    TokenTree(dense=True),
]


def drawn(problem, n=5, seed=0):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return instance, instance.replica.knowledge


def test_success_of_the_reference_is_a_power_of_its_competence():
    for problem, keys in ((TokenLock(decoy=None), 12), (TokenLock(18, 6, 3, 0.6, None), 6)):
        _, known = drawn(problem)
        got = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
        assert torch.allclose(got, torch.full_like(got, problem.competence**keys))


def test_the_noisy_lock_of_the_specification_pays_the_reference_0137():
    problem = TokenLock(18, 6, 3, 0.6, None, 0.9, 0.1, bernoulli=True)
    _, known = drawn(problem)
    got = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
    expected = 0.1 + 0.8 * 0.6**6
    assert torch.allclose(got, torch.full_like(got, expected))
    assert round(expected, 3) == 0.137


def test_the_decoy_pays_at_once_and_bars_the_lock():
    problem = TokenLock(3, 4)
    _, known = drawn(problem)
    token = torch.zeros(5, 1, 3, dtype=torch.long)
    assert torch.allclose(returns(known.rewards, walk(known.automaton, token[..., 0], token)),
                          torch.full((5, 1), 0.3).double())  # fmt: skip
    combination = problem.combination(Rng(0, "instance", torch.arange(5)))[:, None]
    right = walk(known.automaton, token[..., 0], combination)
    assert (returns(known.rewards, right) == 1).all()


def test_a_soft_optimum_with_little_regularisation_opens_the_lock():
    instance, known = drawn(TokenLock())
    best = soft_optimum(known.automaton, known.rewards, 0.01)
    got = evaluate(known.automaton, known.rewards, best.policy, 0.01)
    assert (got.reward > 0.999).all()
    assert torch.allclose(TokenLock().optimal_value(instance), torch.ones(5).double())


def test_demonstrations_have_the_asked_quality():
    problem = TokenLock(perfect=0.5, accuracy=0.8, demonstrations=4000, decoy=None)
    _, known = drawn(problem, n=2)
    shown = known.data.demonstration
    right = shown.token == problem.combination(Rng(0, "instance", torch.arange(2)))[:, None]
    whole = right.all(-1).double().mean(1)
    expected = 0.5 + 0.5 * 0.8**12
    assert ((whole - expected).abs() < 4 * math.sqrt(0.25 / 4000)).all()
    hits = right[~right.all(-1)].double().mean()
    assert abs(hits - (0.8 - 0.8**12) / (1 - 0.8**12)) < 0.01
    assert torch.equal(known.data.outcome, right.all(-1).double())


def test_perfect_demonstrations_are_the_references_at_free_steps():
    usual, perfect = (
        drawn(TokenLock(4, 4, key_every=2, decoy=None, perfect=share))[1].data.demonstration.token
        for share in (0.0, 1.0)
    )
    assert torch.equal(usual[..., 1::2], perfect[..., 1::2])
    assert (perfect[:, :, ::2] == perfect[:, :1, ::2]).all()


def test_a_response_is_optimal_if_it_is_the_best_to_its_own_prompt():
    instance, known = drawn(TokenTree(2, 3, prompts=4))
    every = every_response(known.automaton)
    told = TokenTree(2, 3, prompts=4).diagnostics(instance, None, every)
    assert torch.allclose(told["optimal"], torch.full((5,), 1 / 9))
    top = returns(known.rewards, every).reshape(5, 4, 9).argmax(-1)
    prompt = torch.arange(4).expand(5, -1)
    best = walk(known.automaton, prompt, every.token[0, :9][top])
    assert (TokenTree(2, 3, prompts=4).diagnostics(instance, None, best)["optimal"] == 1).all()


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_token_by_token_play_pays_what_the_whole_response_does(problem):
    env = BatchedEnv(problem, 64, seed=3)
    observation, _ = env.reset()
    known = env.instance.replica.knowledge
    prompt_state = observation % known.automaton.states
    prompt = (known.automaton.origin == prompt_state[:, None]).long().argmax(1, keepdim=True)
    responses = sample(known.automaton, known.automaton.reference, 1, Rng(1, "x", torch.arange(64)),
                       prompt)  # fmt: skip
    total = torch.zeros(64)
    regret = torch.zeros(64, dtype=torch.float64)
    for time in range(problem.horizon):
        assert torch.equal(observation, time * known.automaton.states + responses.state[:, 0, time])
        observation, reward, over, _, info = env.step(responses.token[:, 0, time])
        total += reward
        regret += info["regret"]
        assert bool(over.all()) == (time == problem.horizon - 1)
    gold = returns(known.rewards, responses)[:, 0]
    torch.testing.assert_close(total, gold.float())
    # With one prompt, the regrets of a deterministic tree telescope to the whole loss.
    torch.testing.assert_close(regret, problem.optimal_value(env.instance) - gold)


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_batches_are_scored_and_compared(problem):
    n, batch = 3, 4000
    instance, known = drawn(problem, n)
    rng = Rng(7, "env", torch.arange(n), 5)
    responses = sample(known.automaton, known.automaton.reference, batch, rng)
    state = problem.reset(instance, Rng(7, "reset", torch.arange(n)))
    step = problem.transition(instance, state, responses, rng)
    gold = returns(known.rewards, responses)
    torch.testing.assert_close(step.feedback.reward, gold)
    ahead = gold[:, ::2] - gold[:, 1::2]
    p = torch.sigmoid(problem.slope * ahead)
    z = (step.feedback.preferred - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(z) < 4
    told = problem.diagnostics(instance, state, responses)
    exact = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
    error = gold.std(1) / math.sqrt(batch)
    assert (
        (problem.optimal_value(instance) - told["regret"] - exact).abs() < 5 * error + 1e-12
    ).all()


def test_binary_outcomes_have_the_gold_reward_as_their_mean():
    problem = TokenLock(2, 3, 1, 0.6, None, 0.9, 0.1, bernoulli=True, demonstrations=20_000)
    _, known = drawn(problem, 2)
    seen, gold = known.data.outcome, returns(known.rewards, known.data.demonstration)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    z = (seen - gold).sum() / (gold * (1 - gold)).sum().sqrt()
    assert abs(z) < 4


def test_pairs_answer_one_prompt():
    problem = TokenTree(prompts=3, pairs=50)
    _, known = drawn(problem)
    assert torch.equal(known.data.first.prompt, known.data.second.prompt)
    assert known.data.first.prompt.unique().numel() == 3
    assert not torch.equal(known.data.first.token, known.data.second.token)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenLock(horizon=0), "horizon = 0"),
        (lambda: TokenLock(vocabulary=2), r"vocabulary = 2 outside \[3, inf\)"),
        (lambda: TokenLock(competence=1.0), "competence"),
        (lambda: TokenLock(bernoulli=True, success=2.0), "success"),
        (lambda: TokenTree(horizon=15, vocabulary=4), "more than 1048576 leaves"),
        (lambda: TokenTree(slope=0.0), "slope"),
    ],
)
def test_fields_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
