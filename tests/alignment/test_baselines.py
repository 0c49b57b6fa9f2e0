"""Online baselines, best-of-n, DR-PO's theory and learning from outcomes, against enumeration."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from rlkit import registry
from rlkit.agents.alignment.best_of_n import BestOfN
from rlkit.agents.alignment.dpo import DPOAgent
from rlkit.agents.alignment.dr_po_npg import DRPONPG, mean_q, npg_step
from rlkit.agents.alignment.grpo import GRPO
from rlkit.agents.alignment.kto import KTOAgent
from rlkit.agents.alignment.nca import NCAAgent
from rlkit.agents.alignment.ppo_rlhf import PPORLHF
from rlkit.agents.alignment.reinforce import Reinforce
from rlkit.agents.alignment.rloo import RLOO
from rlkit.alignment.agents import AlignmentAgent
from rlkit.alignment.offline import contrasts, draw_contrasts, draw_outcomes
from rlkit.alignment.selection import best_of, best_of_verdicts, by_level, kl_bound, listed
from rlkit.alignment.training import start_training
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.dfa import TokenDFA
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tokens import (
    Responses,
    best_of_law,
    evaluate,
    log_probability,
    occupancy,
    returns,
    reward_law,
    sequence_kl,
    soft_optimum,
    walk,
)
from rlkit.tokens.problem import Scores


def setting(problem, n=4, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def every_response(automaton, prompts=1):
    """All of them, `[N, X V^H]`, prompt by prompt."""
    n, horizon, size = len(automaton.prompt), automaton.horizon, automaton.vocabulary
    token = torch.tensor(list(product(range(size), repeat=horizon)))
    asked = torch.arange(prompts).repeat_interleave(len(token))
    return walk(automaton, asked.expand(n, -1), token.repeat(prompts, 1).expand(n, -1, -1))


def all_groups(automaton, group):
    """Every tuple of `group` responses once: exactly the law of groups of the uniform policy."""
    every = every_response(automaton)
    count = every.prompt.shape[1]
    index = torch.tensor(list(product(range(count), repeat=group))).flatten()
    return Responses(*(leaf[:, index] for leaf in every))


def expected_gradient(agent, spec, known, batch):
    """Of the agent's loss in the logits of the uniform policy: Adam's first mean holds a tenth."""
    rng = Rng(5, "learn", torch.arange(len(batch.prompt)))
    state = agent.initial(spec, rng)
    state = state._replace(policy=start_training(torch.zeros_like(known.automaton.reference)))
    scores = Scores(returns(known.proxy, batch), ())
    after = agent.learn(spec, state, Transition(None, batch, *[None] * 4, scores), rng)
    return after.policy.adam[0].mean / 0.1


def exact_gradient(known, beta):
    """Of minus the objective at the uniform policy."""
    logits = torch.zeros_like(known.automaton.reference).requires_grad_()
    table = torch.log_softmax(logits, -1)
    objective = evaluate(known.automaton, known.rewards, table, beta).objective
    return -torch.autograd.grad(objective.sum(), logits)[0]


@pytest.mark.parametrize(
    ("agent", "share"),
    [
        (RLOO(beta=0.5, group=2), 1.0),
        (Reinforce(beta=0.5, baseline="none"), 1.0),
        (Reinforce(beta=0.5), 1.0),  # the mean of all groups is the exact mean
        # Centred by a mean that holds the response itself: (K - 1) / K; a mean over H tokens.
        (GRPO(beta=0.5, group=2, scaled=False, penalty="reward"), 1 / 2 / 3),
        (GRPO(beta=0.5, group=2, scaled=False, penalty="reward", mean="tokens"), 1 / 2 / 3),
        (GRPO(beta=0.5, group=2, scaled=False, penalty="reward", mean="constant"), 1 / 2 / 3),
    ],
)
def test_expected_gradients_are_those_of_the_objective(agent, share):
    spec, known = setting(TokenTree(3, 2))
    got = expected_gradient(agent, spec, known, all_groups(known.automaton, 2))
    torch.testing.assert_close(got, share * exact_gradient(known, 0.5), atol=1e-12, rtol=0)


def test_published_grpo_follows_scaled_advantages_and_the_other_divergence():
    spec, known = setting(TokenTree(2, 2), n=2)
    beta, batch = 0.5, all_groups(known.automaton, 3)
    got = expected_gradient(GRPO(beta=beta, group=3, batch=3), spec, known, batch).numpy()
    reward = returns(known.rewards, batch).numpy()
    expected = np.zeros_like(got)
    count = reward.shape[1]
    for replica in range(2):
        for first in range(0, count, 3):
            group = reward[replica, first : first + 3]
            for row in range(first, first + 3):
                scaled = (reward[replica, row] - group.mean()) / (group.std(ddof=1) + 1e-4)
                for time in range(2):
                    state = int(batch.state[replica, row, time])
                    token = int(batch.token[replica, row, time])
                    score = np.eye(2)[token] - 0.5  # d log pi in the logits of the uniform policy
                    expected[replica, time, state] -= scaled * score / count / 2
    # Its penalty: KL(pi_ref || pi) at every state, weighed by how often pi is there.
    logits = torch.zeros_like(known.automaton.reference).requires_grad_()
    law, reference = torch.log_softmax(logits, -1), known.automaton.reference
    visits = occupancy(known.automaton, law.detach())[:, :-1]
    other = (visits[..., None] * reference.exp() * (reference - law)).sum() / 2
    expected += beta * torch.autograd.grad(other, logits)[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_equal_rewards_give_no_advantage(scaled):
    spec, known = setting(TokenTree(3, 2, reward_std=0.0, reference_std=0.0))
    agent = GRPO(beta=0.5, group=2, scaled=scaled)
    got = expected_gradient(agent, spec, known, all_groups(known.automaton, 2))
    assert got.abs().max() == 0


def test_token_losses_are_averaged_as_told():
    mask = torch.tensor([[[1.0, 1, 0], [1, 0, 0]]])
    by_hand = {
        "response": [[[1 / 4, 1 / 4, 0], [1 / 2, 0, 0]]],
        "tokens": [[[1 / 3, 1 / 3, 0], [1 / 3, 0, 0]]],
        "constant": [[[1 / 6, 1 / 6, 0], [1 / 6, 0, 0]]],
    }
    for mean, expected in by_hand.items():
        torch.testing.assert_close(GRPO(mean=mean).weights(mask), torch.tensor(expected))


def grpo_fixed_point(reward, reference, beta, advantage):
    """`pi = beta ref / (c - A(pi))` by damped iteration and bisection for `c`."""
    law = reference.copy()
    for _ in range(2000):
        gain = advantage(reward, law)
        low, high = gain.max(), gain.max() + 10 * beta + 10
        for _ in range(80):
            c = (low + high) / 2
            low, high = (c, high) if (beta * reference / (c - gain)).sum() > 1 else (low, c)
        law = 0.9 * law + 0.1 * beta * reference / (c - gain)
    return law


def beats(reward, law):
    """Expected scaled advantage in groups of two: win probability minus loss, over root two."""
    sign = np.sign(reward[:, None] - reward)
    return sign @ law / np.sqrt(2)


def centred(reward, law):
    """Expected unscaled advantage in groups of two."""
    return (reward - law @ reward) / 2


@pytest.mark.parametrize(("scaled", "advantage"), [(True, beats), (False, centred)])
def test_published_grpo_rests_where_its_documentation_says(scaled, advantage):
    agent = GRPO(beta=0.5, group=2, scaled=scaled, batch=2048, rate=0.02)
    loop = Rollout(Run(TokenTree(1, 4), agent, 200, 4, seed=3, group=4))
    loop.advance(200)
    state, known = loop.groups[0].carry.agent, loop.groups[0].spec.known.tokens
    law = agent.model.table(state.policy.parameters).exp()
    start, gap = [], []
    for replica in range(4):
        reward = known.rewards.final[replica].numpy()
        reference = known.automaton.reference[replica, 0, 0].exp().numpy()
        rest = grpo_fixed_point(reward, reference, 0.5, advantage)
        best = reference * np.exp(reward / 0.5)
        start.append(np.abs(rest - best / best.sum()).max())
        gap.append(np.abs(law[replica, 0, 0].numpy() - rest).max())
    assert max(gap) < 0.02 < 0.1 < max(start)


@pytest.mark.slow
def test_where_online_baselines_end_on_the_tree_of_the_specification():
    options = {"steps": 300, "replicas": 16, "group": 16}
    problem, common = TokenTree(4, 4), {"beta": 0.5, "batch": 256}
    gaps = {
        name: simulate(problem, agent, **options).diagnostics["gap"][-1]
        for name, agent in {
            "rloo": RLOO(**common),
            "ppo": PPORLHF(**common),
            "grpo": GRPO(**common),
            "same": GRPO(scaled=False, penalty="reward", **common),
        }.items()
    }
    assert gaps["rloo"].mean() < 0.02
    assert gaps["ppo"].mean() < 0.02
    assert gaps["grpo"].mean() > 0.05
    assert abs(gaps["same"] - gaps["rloo"]).mean() < 0.002


def kept_by_brute_force(law, score, count):
    """Probability of each response to be kept, over all tuples; ties shared alike."""
    total = np.zeros(len(law))
    for chosen in product(range(len(law)), repeat=count):
        best = score[list(chosen)].max()
        winners = [c for c in chosen if score[c] == best]
        for winner in winners:
            total[winner] += law[list(chosen)].prod() / len(winners)
    return total


def summary(spec, kept, every, replica):
    """Gold reward, divergence and entropy of a law over listed responses."""
    known = spec.known.tokens
    gold = returns(known.rewards, every)[replica].numpy()
    reference = log_probability(known.automaton.reference, every)[replica].sum(-1).numpy()
    gold, reference, kept = gold[kept > 0], reference[kept > 0], kept[kept > 0]
    log = np.log(kept)
    return {"gold_reward": kept @ gold, "kl": kept @ (log - reference), "entropy": -(kept @ log)}


@pytest.mark.parametrize(
    "problem",
    [
        TokenTree(2, 2),
        TokenTree(2, 2, dense=True),
        TokenTree(2, 2, reward_std=0.0),  # all tied
        TokenLock(2, 3, decoy=0.3),
        TokenStyle(horizon=2, content=2, topics=1, filler=0, flags=1, documents=1),
    ],
)
def test_the_law_of_the_best_of_three_is_that_of_all_triples(problem):
    spec, known = setting(problem, n=3)
    agent = BestOfN(group=3, batch=3)
    measured = agent.diagnostics(spec, agent.initial(spec, Rng(0, "initial", torch.arange(3))))
    every = every_response(known.automaton)
    score = returns(known.proxy, every).round(decimals=9).numpy()
    law = log_probability(known.automaton.reference, every).sum(-1).exp().numpy()
    for replica in range(3):
        kept = kept_by_brute_force(law[replica], score[replica], 3)
        for name, value in summary(spec, kept, every, replica).items():
            assert measured[name][replica].item() == pytest.approx(value, abs=1e-9), name
        assert measured["kl"][replica] <= kl_bound(3) + 1e-12
    assert (measured["gap"] >= -1e-12).all()


def test_verdicts_observed_as_zero_or_one_choose_less_sharply():
    problem = TokenDFA(horizon=2, vocabulary=2, states=3)
    spec, known = setting(problem, n=3)
    classes = listed(spec, known.proxy)
    got = (classes.mass * best_of_verdicts(classes, 2))[:, 0].numpy()
    mass, mean = classes.mass[:, 0].numpy(), classes.score[:, 0].numpy()
    for replica in range(3):
        law = np.concatenate([mass[replica] * mean[replica], mass[replica] * (1 - mean[replica])])
        count = mass.shape[1]
        score = np.repeat([1.0, 0.0], count)
        kept = kept_by_brute_force(law, score, 2).reshape(2, count).sum(0)
        np.testing.assert_allclose(got[replica], kept, atol=1e-12)
    # The agent notices the noise from what it observes.
    final = simulate(problem, BestOfN(group=2), 1, 3, group=3, seed=1).diagnostics["gold_reward"]
    exact = (classes.gold * best_of_verdicts(classes, 2)).sum((1, 2))
    sharp = (classes.gold * best_of(classes, 2)).sum((1, 2))
    torch.testing.assert_close(final[-1], exact)
    assert (sharp >= exact - 1e-12).all()
    assert (sharp > exact + 0.01).any()


@pytest.mark.parametrize("pay", [(0.02, 0.1), (0.25, 0.5)])  # in the second, topics tie with flags
def test_levels_and_lists_give_the_same_classes(pay):
    cost, bonus = pay
    problem = TokenStyle(
        horizon=4, content=3, filler=1, flags=1, documents=2, cost=cost, bonus=bonus
    )
    spec, known = setting(problem)
    for count in (1, 2, 16):
        answers = []
        for classes in (by_level(spec, known.proxy, (known.proxy.token / 0.01).round().long()),
                        listed(spec, known.proxy)):  # fmt: skip
            factors = best_of(classes, count)
            columns = (classes.mass, classes.gold, classes.log_law, classes.sound)
            answers.append(torch.stack([(column * factors).sum(-1) for column in columns]))
        torch.testing.assert_close(*answers, atol=1e-10, rtol=0)


def test_best_of_n_has_the_reward_law_of_the_best_level():
    problem = TokenLock(4, 4, decoy=0.3)
    spec, known = setting(problem)
    level, law = reward_law(known.automaton, known.rewards, known.automaton.reference, 0.1)
    for count in (1, 4, 64, 1024):
        kept = best_of_law(law, count)[:, 0]
        agent = BestOfN(group=count, batch=count)
        state = agent.initial(spec, Rng(0, "initial", torch.arange(4)))
        measured = agent.diagnostics(spec, state)
        torch.testing.assert_close(measured["gold_reward"], kept @ level.double())
        ratio = torch.where(kept > 0, kept * torch.log(kept / law[:, 0]), 0.0)
        torch.testing.assert_close(measured["kl"], ratio.sum(1), atol=1e-10, rtol=0)


def test_kept_samples_agree_with_their_law_and_stand_in_for_it_where_it_is_unknown():
    problem = TokenTree(3, 3, dense=True)
    spec, known = setting(problem, n=64)
    agent = BestOfN(group=4)
    state = agent.initial(spec, Rng(0, "initial", torch.arange(64)))
    measured = agent.diagnostics(spec, state)["gold_reward"]
    kept = returns(known.rewards, agent.samples(spec, state, 400)).mean(1)
    error = (kept - measured).std() / 8
    assert abs((kept - measured).mean()) < 4 * error < 0.05
    large = simulate(TokenBigram(vocabulary=6), BestOfN(), 1, 3, group=3).diagnostics
    assert torch.equal(large["kl"], large["kl_bound"])
    assert (large["gap"] > 0).all()


def test_the_closed_form_of_the_natural_gradient_is_its_maximum():
    random = np.random.default_rng(0)
    reference, law = (random.dirichlet(np.ones(4)) for _ in range(2))
    q, rate, beta = random.normal(size=4), 0.7, 0.4

    def loss(logits):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        return -(p @ q) + beta * p @ np.log(p / reference) + p @ np.log(p / law) / rate

    found = minimize(loss, np.zeros(4), tol=1e-14).x
    expected = np.exp(found - found.max())
    got = npg_step(
        *(torch.tensor(np.log(x)) for x in (reference, law)), torch.tensor(q), rate, beta
    )
    np.testing.assert_allclose(got.exp().numpy(), expected / expected.sum(), atol=1e-6)


def exact_q(known, table, beta):
    """Q without the token's own log-ratio; `beta` weighs the later ones, 0 for none."""
    automaton, value, q = known.automaton, known.rewards.final, []
    for time in reversed(range(automaton.horizon)):
        after = torch.stack([
            value[row][automaton.successor[row, time]] for row in range(len(value))
        ])  # fmt: skip
        q.append(known.rewards.token[:, time] + after)
        law = table[:, time]
        ratio = law - automaton.reference[:, time]
        value = (law.exp() * (q[-1] - beta * ratio)).sum(-1)
    return torch.stack(q[::-1], 1)


def iterate(known, beta, inner, steps=400):
    """The closed form with exact Q."""
    table = known.automaton.reference
    for _ in range(steps):
        table = npg_step(known.automaton.reference, table, exact_q(known, table, inner), 2.0, beta)
    return table


def test_exact_natural_gradients_reach_the_optimum_with_regularised_q_only():
    beta = 0.5
    _spec, known = setting(TokenTree(3, 3))
    best = soft_optimum(known.automaton, known.rewards, beta).policy
    assert sequence_kl(known.automaton, iterate(known, beta, beta), best).max() < 1e-12
    paper = iterate(known, beta, 0.0)
    rest = torch.log_softmax(known.automaton.reference + exact_q(known, paper, 0.0) / beta, -1)
    torch.testing.assert_close(paper, rest)
    assert sequence_kl(known.automaton, paper, best).min() > 1e-3
    _spec, short = setting(TokenTree(1, 5))
    bandit = soft_optimum(short.automaton, short.rewards, beta).policy
    torch.testing.assert_close(iterate(short, beta, 0.0), bandit)


def test_the_divergence_of_each_state_grows_by_the_range_of_q_over_beta_at_most():
    problem, beta = TokenTree(3, 3, reward_std=3.0), 0.2
    agent = DRPONPG(q_target="paper", beta=beta, rate=50.0)
    loop = Rollout(Run(problem, agent, 8, 4, group=4))
    known = loop.groups[0].spec.known.tokens
    reach = known.rewards.final.amax(1) - known.rewards.final.amin(1)
    greatest = 0.0
    for step in range(1, 9):
        loop.advance(step)
        law = loop.groups[0].carry.agent.policy.parameters
        kl = (law.exp() * (law - known.automaton.reference)).sum(-1).amax((1, 2))
        assert (kl <= reach * step / beta).all()
        greatest = max(greatest, float((kl / (reach / beta)).max()))
    assert greatest > 0.05  # the bound is not idle


def test_mean_returns_of_tried_tokens_by_hand():
    _spec, known = setting(TokenTree(2, 3), n=1)
    token = torch.tensor([[[1, 0], [1, 2], [1, 2], [0, 0]]])
    written = walk(known.automaton, torch.zeros(1, 4, dtype=torch.int64), token)
    written = written._replace(given=torch.tensor([[2, 2, 2, 1]]))
    q = mean_q(known.automaton, written, torch.tensor([[6.0, 1, 3, 5]]).double())
    assert q[0, 1, 1].tolist() == [6, 10 / 3, 2]
    assert q[0, 0, 0].tolist() == [5, 5, 5]
    assert q[0, 1, 0].tolist() == [0, 0, 0]


def test_resets_try_a_token_after_a_uniform_part_of_a_demonstration():
    problem = TokenLock(5, 4, competence=0.9, demonstrations=40)
    spec, known = setting(problem)
    agent, rng = DRPONPG(batch=4000), Rng(7, "act", torch.arange(4))
    written, _ = agent.act(spec, agent.initial(spec, rng), None, rng)
    share = torch.stack([(written.given == length).double().mean(1) for length in range(1, 6)])
    assert (share - 0.2).abs().max() < 4 * (0.2 * 0.8 / 4000) ** 0.5
    shown = known.data.demonstration.token
    begun = torch.arange(5) < written.given[..., None] - 1
    for replica in range(4):
        same = (written.token[replica, :, None] == shown[replica]) | ~begun[replica, :, None]
        assert same.all(-1).any(-1).all()


def test_natural_gradients_with_estimated_q_come_near_the_optimum():
    problem = TokenTree(3, 2, reference_std=0.5, demonstrations=200)
    agent = DRPONPG("regularised", mixture=False, beta=0.5, batch=2000, rate=0.2)
    gap = simulate(problem, agent, 60, 4, group=4).diagnostics["gap"]
    assert gap[0].mean() > 0.1
    assert gap[-1].max() < 0.005


def test_the_measured_mixture_draws_a_policy_once_a_response():
    agent = DRPONPG(batch=32)
    loop = Rollout(Run(TokenTree(2, 3), agent, 4, 3, group=3))
    spec, laws = loop.groups[0].spec, []
    automaton = spec.known.tokens.automaton
    every = every_response(automaton)
    for step in range(1, 5):
        before = agent.model.table(loop.groups[0].carry.agent.policy.parameters)
        laws.append(log_probability(before, every).sum(-1).exp())
        loop.advance(step)
    mixed = agent.output(spec, loop.groups[0].carry.agent)
    got = log_probability(mixed, every).sum(-1).exp()
    torch.testing.assert_close(got, torch.stack(laws).mean(0))


def test_contrasts_are_all_pairs_with_different_outcomes_to_one_prompt():
    problem = TokenTree(1, 3, prompts=3, demonstrations=12)
    _spec, known = setting(problem, n=2)
    random = np.random.default_rng(6)
    outcome = torch.tensor(random.integers(0, 3, size=(2, 12))).double()
    data = known.data._replace(outcome=outcome)
    prompt = data.demonstration.prompt
    better, worse = draw_contrasts(contrasts(data), 60_000, Rng(1, "learn", torch.arange(2)))
    for replica in range(2):
        drawn = torch.stack([better[replica], worse[replica]], 1)
        seen, times = torch.unique(drawn, dim=0, return_counts=True)
        pairs = [
            [i, j]
            for i in range(12)
            for j in range(12)
            if prompt[replica, i] == prompt[replica, j]
            and outcome[replica, i] > outcome[replica, j]
        ]
        assert seen.tolist() == pairs
        rate = 60_000 / len(pairs)
        assert ((times - rate).abs() < 4.5 * rate**0.5).all()


def test_dpo_on_outcomes_reaches_the_tilt_by_the_odds_of_success():
    problem = TokenDFA(
        horizon=1, vocabulary=4, states=5, alpha=2.0, beta=2.0, demonstrations=20_000
    )
    agent = DPOAgent(source="outcomes", beta=0.5, batch=2000, rate=0.05)
    loop = Rollout(Run(problem, agent, 400, 4, seed=2, group=4))
    loop.advance(400)
    known = loop.groups[0].spec.known.tokens
    table = agent.model.table(loop.groups[0].carry.agent.policy.parameters)
    every = every_response(known.automaton)
    got = log_probability(table, every).sum(-1).exp()
    reference = log_probability(known.automaton.reference, every).sum(-1)
    mean = returns(known.rewards, every)
    shown, outcome = known.data.demonstration.token[..., 0], known.data.outcome
    seen = torch.stack([(outcome * (shown == y)).sum(1) / (shown == y).sum(1) for y in range(4)], 1)
    for rate, tolerance in ((seen, 0.02), (mean, 0.1)):  # as collected, as in the population
        expected = torch.softmax(reference + torch.log(rate / (1 - rate)) / 0.5, -1)
        assert (got - expected).abs().max() < tolerance
        assert (reference.exp() - expected).abs().max() > 0.2


def test_balanced_draws_show_both_kinds_alike_where_there_are_both():
    good = torch.tensor([[True] + [False] * 9, [True] * 10, [False] * 10, [True, False] * 5])
    rng = Rng(3, "learn", torch.arange(4))
    share = good.gather(1, draw_outcomes(good, 20_000, True, rng)).double().mean(1)
    assert (share - torch.tensor([0.5, 1, 0, 0.5])).abs().max() < 4 * 0.5 / 20_000**0.5
    plain = good.gather(1, draw_outcomes(good, 20_000, False, rng)).double().mean(1)
    assert abs(plain[0] - 0.1) < 0.01
    index = draw_outcomes(good, 20_000, True, rng)[3]
    times = torch.bincount(index, minlength=10)
    assert ((times - 2000).abs() < 4.5 * 2000**0.5).all()


@pytest.mark.parametrize("agent", [DPOAgent(source="outcomes"), KTOAgent(source="outcomes")])
def test_outcomes_teach(agent):
    problem = TokenLock(3, 3, competence=0.5, decoy=None, demonstrations=400, pairs=0)
    history = simulate(problem, replace(agent, rate=0.05), 40, 4, group=4)
    gold = history.diagnostics["gold_reward"]
    assert (gold[-1] > gold[0] + 0.2).all()


def test_noise_contrast_keeps_preferred_responses_likelier_than_dpo_does():
    problem, mean = TokenTree(2, 4, pairs=200), []
    for agent in (NCAAgent(beta=0.5, rate=0.05), DPOAgent(beta=0.5, rate=0.05)):
        loop = Rollout(Run(problem, agent, 150, 4, group=4))
        loop.advance(150)
        spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
        data = spec.known.tokens.data
        first = agent.log_ratio(spec, state.policy.parameters, data.first).sum(-1)
        second = agent.log_ratio(spec, state.policy.parameters, data.second).sum(-1)
        mean.append(torch.where(data.preferred > 0.5, first, second).mean(1))
    assert (mean[0] > mean[1]).all()


def alignment_agents():
    """Names of all registered agents that write responses."""
    names = registry.entries("agent")
    return [n for n in names if issubclass(registry.load("agent", n), AlignmentAgent)]


@pytest.mark.parametrize("name", alignment_agents())
def test_no_agent_is_above_the_exact_front(name):
    problems = [
        TokenTree(3, 3, prompts=2),
        TokenTree(2, 3, dense=True, reward_std=3.0, demonstrations=16, pairs=16),
        TokenLock(5, 4),
        TokenLock(3, 3, decoy=None),
        TokenStyle(),
        TokenDFA(),
    ]
    agent, played = registry.load("agent", name)(), 0
    for problem in problems:
        try:
            loop = Rollout(Run(problem, agent, 8, 3, seed=4, group=3))
        except ValueError:  # some want outcomes of 0 and 1
            continue
        played += 1
        known = loop.groups[0].spec.known.tokens
        loop.advance(8)
        measured = loop.record()
        for beta in (0.01, 0.1, 1.0, 10.0):
            value = soft_optimum(known.automaton, known.rewards, beta).value[:, 0]
            best = (known.automaton.start * value).sum(1)
            point = measured["gold_reward"] - beta * measured["kl"]
            assert (point <= best + 1e-9).all(), (problem, beta)
    assert played >= 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRPO(batch=6), "multiples of group = 4"),
        (lambda: GRPO(group=1), "group"),
        (lambda: GRPO(penalty="k3"), "penalty"),
        (lambda: GRPO(mean="token"), "mean"),
        (lambda: GRPO(scaled=2), "scaled"),
        (lambda: GRPO(reward="model"), "reward"),
        (lambda: Reinforce(baseline="mean"), "baseline"),
        (lambda: BestOfN(group=0), "group"),
        (lambda: BestOfN(batch=6), "multiples of group = 4"),
        (lambda: DRPONPG(q_target="soft"), "q_target"),
        (lambda: DRPONPG(rate=0.0), "rate"),
        (lambda: DPOAgent(source="demonstrations"), "source"),
        (lambda: KTOAgent(balanced=2), "balanced"),
    ],
)
def test_fields_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("agent", "problem", "message"),
    [
        (DRPONPG(), TokenTree(demonstrations=0), "demonstrations = 0"),
        (DPOAgent(source="outcomes"), TokenTree(demonstrations=0), "demonstrations = 0"),
        (KTOAgent(source="outcomes"), TokenTree(demonstrations=0), "demonstrations = 0"),
        (DPOAgent(source="outcomes"), TokenTree(reward_std=0.0), "replica 0.*differ in outcome"),
        (NCAAgent(), TokenTree(pairs=0), "pairs = 0"),
        (RLOO(reward="final_model"), TokenTree(pairs=0), "pairs = 0"),
    ],
)
def test_agents_without_their_data_are_refused(agent, problem, message):
    with pytest.raises(ValueError, match=message):
        simulate(problem, agent, 2, 2, group=2)
