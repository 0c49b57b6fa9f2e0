"""Log-ratios as advantages: identities on trees, exact DPO, search on the optimal policy."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.agents.alignment.dpo import DPOAgent
from rlkit.alignment.credit import (
    credit_table,
    every_response,
    expected_dpo,
    implicit_reward,
    likeliest,
    optimal_advantage,
    preferred_policy,
    reward_of,
    token_credit,
    unrolled,
)
from rlkit.alignment.losses import DPO, Pairs
from rlkit.alignment.policies import TablePolicy
from rlkit.alignment.training import improve, start_training
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run
from rlkit.tokens import (
    Rewards,
    evaluate,
    log_probability,
    returns,
    sequence_kl,
    soft_optimum,
)
from rlkit.tokens.search import beam_search


def setting(problem, n=3, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def normal(seed, shape):
    return torch.tensor(np.random.default_rng(seed).normal(size=tuple(shape)))


def test_rewards_and_optimal_q_functions_are_one_to_one():
    _spec, known = setting(TokenTree(3, 3, prompts=2))
    automaton, beta = known.automaton, 0.4
    rewards = Rewards(normal(0, automaton.reference.shape), normal(1, known.rewards.final.shape))
    best = soft_optimum(automaton, rewards, beta)
    back = reward_of(automaton, best.q, rewards.final, beta)
    torch.testing.assert_close(back, rewards.token, rtol=0, atol=1e-12)
    q = normal(2, automaton.reference.shape)
    paid = Rewards(reward_of(automaton, q, rewards.final, beta), rewards.final)
    torch.testing.assert_close(soft_optimum(automaton, paid, beta).q, q, rtol=0, atol=1e-12)


def test_a_shift_of_logits_leaves_the_policy_and_shapes_the_reward():
    _spec, known = setting(TokenTree(3, 3))
    automaton, beta = known.automaton, 0.4
    best = soft_optimum(automaton, known.rewards, beta)
    potential = normal(3, best.value[:, :-1].shape)
    q = best.q + potential[..., None]
    policy = torch.log_softmax(automaton.reference + q / beta, -1)
    torch.testing.assert_close(policy, best.policy, rtol=0, atol=1e-12)
    shaped = reward_of(automaton, q, known.rewards.final, beta)
    every = every_response(automaton)
    paid = returns(Rewards(shaped, known.rewards.final), every)
    # Potential-based shaping: every return moves by the potential of the empty response.
    moved = paid - returns(known.rewards, every)
    start = potential[:, 0].gather(1, automaton.origin)
    torch.testing.assert_close(moved, start.expand_as(moved), rtol=0, atol=1e-12)
    assert (q - best.q).abs().max() > 0.1


@pytest.mark.parametrize("problem", [TokenTree(3, 3, dense=True), TokenBigram(4, 3)])
def test_credit_of_the_optimal_policy_is_its_advantage_and_sums_to_the_excess_reward(problem):
    spec, known = setting(problem)
    best = soft_optimum(known.automaton, known.rewards, 0.3)
    advantage = optimal_advantage(best)
    table = credit_table(known.automaton, best.policy, 0.3)
    torch.testing.assert_close(table, advantage, rtol=0, atol=1e-12)
    for time in range(known.automaton.horizon):  # r + V(s') - V(s), entry by entry
        for n, z, a in itertools.product(range(3), range(3), range(3)):
            after = int(known.automaton.successor[n, time, z, a])
            r = known.rewards.token[n, time, z, a]
            expected = r + best.value[n, time + 1, after] - best.value[n, time, z]
            assert abs(expected - advantage[n, time, z, a]) < 1e-12
    every = every_response(known.automaton)
    total = token_credit(spec, TablePolicy(), best.policy, every, 0.3).sum(-1)
    excess = returns(known.rewards, every) - best.value[:, 0].gather(1, known.automaton.origin)
    torch.testing.assert_close(total, excess, rtol=0, atol=1e-12)


def test_illegal_tokens_have_no_credit():
    _spec, known = setting(TokenTree(2, 3))
    reference = known.automaton.reference.clone()
    reference[..., 0] = -torch.inf
    automaton = known.automaton._replace(reference=torch.log_softmax(reference, -1))
    best = soft_optimum(automaton, known.rewards, 0.3)
    credit = credit_table(automaton, best.policy, 0.3)
    assert torch.isfinite(credit).all()
    assert (credit[..., 0] == 0).all()


def test_every_response_is_listed_once_in_order():
    _spec, known = setting(TokenBigram(3, 2))
    every = every_response(known.automaton)
    assert every.token[0].tolist() == [list(t) for t in itertools.product(range(2), repeat=3)]
    total = log_probability(known.automaton.reference, every).sum(-1).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(3).double())
    with pytest.raises(ValueError, match="horizon"):
        every_response(setting(TokenLock(12, 6))[1].automaton)


@pytest.mark.parametrize("problem", [TokenBigram(4, 3, prompts=2), TokenChain(2, 2, form="bare")])
def test_the_unrolled_problem_is_the_same_on_prefixes(problem):
    _spec, known = setting(problem)
    tree, rewards = unrolled(known.automaton, known.rewards)
    for prompt in range(known.automaton.prompt.shape[1]):
        a, b = every_response(known.automaton, prompt), every_response(tree, prompt)
        torch.testing.assert_close(
            log_probability(known.automaton.reference, a), log_probability(tree.reference, b)
        )
        torch.testing.assert_close(returns(known.rewards, a), returns(rewards, b))
        # Each response ends in a state of its own.
        assert all(len(set(row.tolist())) == row.numel() for row in b.state[..., -1])
    value = [
        (auto.start * soft_optimum(auto, pay, 0.5).value[:, 0]).sum(1)
        for auto, pay in ((known.automaton, known.rewards), (tree, rewards))
    ]
    torch.testing.assert_close(*value)


def test_the_preferred_policy_is_the_law_of_the_preferred_response():
    _spec, known = setting(TokenTree(2, 3, prompts=2))
    policy = preferred_policy(known.automaton, known.rewards, 1.7)
    for prompt in range(2):
        every = every_response(known.automaton, prompt)
        p = log_probability(known.automaton.reference, every).sum(-1).exp().numpy()
        reward = returns(known.rewards, every).numpy()
        got = log_probability(policy, every).sum(-1).exp().numpy()
        for n in range(3):
            chosen = np.zeros(9)
            for i, j in itertools.product(range(9), repeat=2):
                wins = 1 / (1 + np.exp(-1.7 * (reward[n, i] - reward[n, j])))
                chosen[i] += p[n, i] * p[n, j] * wins
                chosen[j] += p[n, i] * p[n, j] * (1 - wins)
            np.testing.assert_allclose(got[n], chosen, rtol=0, atol=1e-12)


def test_expected_dpo_is_the_mean_over_labelled_pairs():
    ratio, reward = normal(5, (2, 4)), normal(6, (2, 4))
    weight = torch.softmax(normal(7, (2, 4)), -1)
    got = expected_dpo(ratio, weight, reward, 0.3, 2.0)
    for n in range(2):
        total = 0.0
        for i, j in itertools.product(range(4), repeat=2):
            wins = 1 / (1 + np.exp(-2 * float(reward[n, i] - reward[n, j])))
            h = 0.3 * float(ratio[n, i] - ratio[n, j])
            loss = -wins * np.log(1 / (1 + np.exp(-h))) - (1 - wins) * np.log(1 / (1 + np.exp(h)))
            total += float(weight[n, i] * weight[n, j]) * loss
        assert got[n].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("dense", [True, False])
def test_dpo_on_infinitely_many_pairs_finds_the_optimum_and_its_advantages(dense):
    _spec, known = setting(TokenTree(3, 3, dense=dense, reference_std=0.5), n=2)
    automaton, beta = known.automaton, 0.5
    every = every_response(automaton)
    reference = log_probability(automaton.reference, every).sum(-1)
    reward = returns(known.rewards, every)
    logits = automaton.reference.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=3000, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-11, tolerance_change=1e-18,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        ratio = log_probability(torch.log_softmax(logits, -1), every).sum(-1) - reference
        loss = expected_dpo(ratio, reference.exp(), reward, beta, 1.0).sum()
        loss.backward()
        return loss

    solver.step(closure)
    policy = torch.log_softmax(logits.detach(), -1)
    best = soft_optimum(automaton, known.rewards, beta)
    assert sequence_kl(automaton, automaton.reference, best.policy).min() > 0.01
    met = torch.zeros(policy.shape[:3], dtype=torch.bool)
    for time in range(3):
        met[:, time] = met[:, time].scatter(1, every.state[..., time], True)
    error = (credit_table(automaton, policy, beta) - optimal_advantage(best)).abs()
    assert error[met].max() < 1e-3


def scores(seed):
    random = np.random.default_rng(seed)
    return [-torch.tensor(random.gamma(3, 2, 9)) for _ in range(4)]


def test_dpo_ignores_what_depends_on_the_prompt_alone():
    chosen, rejected, ref_chosen, ref_rejected = scores(8)
    length, shift = torch.ones(9).double(), normal(9, (9,))
    before = DPO(0.3)(Pairs(chosen, rejected, ref_chosen, ref_rejected, length, length))
    moved = Pairs(chosen + shift, rejected + shift, ref_chosen, ref_rejected, length, length)
    torch.testing.assert_close(DPO(0.3)(moved), before)


def test_dpo_with_pair_and_label_swapped_is_the_same_and_beta_scales_the_margin():
    chosen, rejected, ref_chosen, ref_rejected = scores(10)
    length = torch.ones(9).double()
    pairs = Pairs(chosen, rejected, ref_chosen, ref_rejected, length, length)
    swapped = Pairs(rejected, chosen, ref_rejected, ref_chosen, length, length)
    # A label of 1/2 + 1/2: with smoothing s, swapping the pair is smoothing 1 - s.
    loss, other = DPO(0.3, 0.2), DPO(0.3, 0.0)
    expected = 0.8 * other(pairs) + 0.2 * other(swapped)
    torch.testing.assert_close(loss(pairs), expected)
    twice = Pairs(2 * chosen, 2 * rejected, 2 * ref_chosen, 2 * ref_rejected, length, length)
    torch.testing.assert_close(DPO(0.6)(pairs), DPO(0.3)(twice))


def test_the_implicit_reward_of_chosen_responses_is_minus_the_divergence_and_declines():
    _spec, known = setting(TokenTree(3, 3, dense=True, pairs=400))
    beta, data = 0.1, known.data
    law = preferred_policy(known.automaton, known.rewards, 1.0)
    tuned = known.automaton._replace(reference=law)
    wins = (data.preferred > 0.5)[..., None]
    better = torch.where(wins, data.first.token, data.second.token)
    worse = torch.where(wins, data.second.token, data.first.token)
    chosen, rejected = (TablePolicy().read(_with(_spec, tuned), data.first.prompt, t)
                        for t in (better, worse))  # fmt: skip
    known_score = [log_probability(law, batch).sum(-1) for batch in (chosen, rejected)]

    def loss(logits):
        table = torch.log_softmax(logits, -1)
        score = [log_probability(table, batch).sum(-1) for batch in (chosen, rejected)]
        length = torch.ones_like(score[0])
        return DPO(beta)(Pairs(*score, *known_score, length, length)).mean(1)

    trained = start_training(law.clone())
    for step in range(30):
        policy = torch.log_softmax(trained.parameters, -1)
        mean = implicit_reward(tuned, law, policy, beta)
        every = every_response(tuned)
        weight = log_probability(law, every).sum(-1).exp()
        listed = beta * (log_probability(policy, every) - log_probability(law, every)).sum(-1)
        torch.testing.assert_close(mean, (weight * listed).sum(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            mean, -beta * sequence_kl(tuned, law, policy), rtol=0, atol=1e-10
        )
        assert (mean < 0).all() if step else (mean.abs() < 1e-12).all()
        trained = improve(trained, loss, 0.05)


def _with(spec, automaton):
    tokens = spec.known.tokens._replace(automaton=automaton)
    return type(spec)(
        spec.observation, spec.action, spec.horizon, spec.known._replace(tokens=tokens)
    )


@pytest.mark.parametrize(
    "problem", [TokenTree(3, 3, prompts=2, dense=True), TokenBigram(5, 3), TokenLock(5, 3)]
)
def test_the_likeliest_response_of_the_optimum_maximises_reward_plus_log_reference(problem):
    _spec, known = setting(problem)
    automaton, beta = known.automaton, 0.4
    best = soft_optimum(automaton, known.rewards, beta)
    prompts = automaton.prompt.shape[1]
    found = likeliest(automaton, best.policy, torch.arange(prompts).expand(3, -1))
    wide = beam_search(automaton, best.policy, 3**automaton.horizon)
    for prompt in range(prompts):
        every = every_response(automaton, prompt)
        score = returns(known.rewards, every)
        score = score + beta * log_probability(automaton.reference, every).sum(-1)
        for n in range(3):
            top = every.token[n, score[n].argmax()]
            assert torch.equal(found.token[n, prompt], top)
            assert torch.equal(wide.token[n, prompt, 0], top)


def test_the_first_wrong_key_of_a_lock_gets_the_least_credit():
    spec, known = setting(TokenLock(9, 4, key_every=2, competence=0.5, decoy=None,
                                    demonstrations=400), n=8)  # fmt: skip
    best = soft_optimum(known.automaton, known.rewards, 0.1)
    shown = known.data.demonstration
    credit = token_credit(spec, TablePolicy(), best.policy, shown, 0.1)
    failed = known.data.outcome == 0
    assert failed.sum() > 2000
    alive = known.automaton.origin[0, 0]
    first = (shown.state[..., 1:] != alive).long().argmax(-1)
    assert torch.equal(credit.argmin(-1)[failed], first[failed])
    free = credit[..., 1::2]
    assert free.abs().max() < 1e-9  # of free tokens, none


def test_dpo_learns_where_a_response_goes_wrong():
    problem = TokenLock(6, 4, key_every=2, competence=0.6, decoy=None, pairs=4000,
                        demonstrations=300, success=4.0)  # fmt: skip
    agent = DPOAgent(beta=0.5, batch=512, rate=0.02)
    loop = Rollout(Run(problem, agent, 300, 3, group=3))
    loop.advance(300)
    spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
    known = spec.known.tokens
    shown = known.data.demonstration
    credit = token_credit(spec, agent.model, state.policy.parameters, shown, 0.5)
    failed = known.data.outcome == 0
    first = (shown.state[..., 1:] != 0).long().argmax(-1)
    assert (credit.argmin(-1) == first)[failed].double().mean() > 0.9
    got = evaluate(known.automaton, known.rewards, agent.model.table(state.policy.parameters), 0.5)
    assert (got.reward > 2).all()
