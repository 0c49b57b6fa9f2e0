"""Reward models against optimisation by scipy, enumeration, and the rate of maximum likelihood."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from rlkit.agents.alignment.best_of_n import BestOfN
from rlkit.agents.alignment.dr_po_npg import DRPONPG
from rlkit.agents.alignment.ppo_rlhf import PPORLHF
from rlkit.agents.alignment.reward_model import RewardModel
from rlkit.agents.alignment.rloo import RLOO
from rlkit.alignment.reward_models import (
    believed,
    fit,
    quality,
    reward_moments,
    table_rewards,
)
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.preferences import centred
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.stats import log_log_slope
from rlkit.tokens import (
    Rewards,
    evaluate,
    log_probability,
    returns,
    sequence_kl,
    soft_optimum,
    walk,
)


def setting(problem, n=4, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def every_response(automaton, prompt=0):
    """All responses to a prompt, `[N, V^H]`."""
    horizon, size = automaton.horizon, automaton.vocabulary
    token = torch.tensor(list(product(range(size), repeat=horizon)))
    n = len(automaton.prompt)
    asked = torch.full((n, len(token)), prompt)
    return walk(automaton, asked, token.expand(n, -1, -1))


def design(known, kind, replica):
    """Features of each pair as a loop: first minus second, `[P, F]`."""
    automaton, data = known.automaton, known.data
    horizon, states, size = automaton.horizon, automaton.states, automaton.vocabulary
    pairs = data.preferred.shape[1]
    shape = (pairs, states) if kind == "final" else (pairs, horizon, states, size)
    features = np.zeros(shape)
    for sign, side in ((1, data.first), (-1, data.second)):
        for row in range(pairs):
            if kind == "final":
                features[row, side.state[replica, row, -1]] += sign
                continue
            for time in range(horizon):
                state, token = side.state[replica, row, time], side.token[replica, row, time]
                features[row, time, state, token] += sign
    return features.reshape(pairs, -1)


@pytest.mark.parametrize("kind", ["final", "token"])
@pytest.mark.parametrize("ridge", [1.0, 0.01])
def test_the_fit_minimises_the_penalised_likelihood(kind, ridge):
    spec, known = setting(TokenTree(2, 3, pairs=60, slope=3.0), n=2)
    got = fit(spec, kind, ridge)
    for replica in range(2):
        features, label = design(known, kind, replica), known.data.preferred[replica].numpy()

        def loss(table, x=features, y=label):
            gain = x @ table
            nll = y * np.logaddexp(0, -gain) + (1 - y) * np.logaddexp(0, gain)
            slope = x.T @ (1 / (1 + np.exp(-gain)) - y) + ridge * table
            return nll.sum() + ridge / 2 * table @ table, slope

        best = minimize(loss, np.zeros(features.shape[1]), jac=True, tol=1e-13, method="BFGS")
        np.testing.assert_allclose(got[replica].flatten().numpy(), best.x, atol=2e-5)


def test_steps_of_the_agent_end_at_the_fit():
    problem = TokenTree(2, 2, pairs=40)
    agent = RewardModel(batch=4000, rate=0.01)
    loop = Rollout(Run(problem, agent, 400, 3, group=3))
    loop.advance(400)
    spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
    got, expected = (centred(table) for table in (state.memory.parameters, fit(spec, "final")))
    assert (got - expected).abs().max() < 0.04 < expected.abs().max() / 10
    measured = loop.record()
    assert (measured["kl"] == 0).all()
    known = spec.known.tokens
    learned = table_rewards(spec, state.memory.parameters)
    mean = evaluate(known.automaton, learned, known.automaton.reference, 1.0).reward
    torch.testing.assert_close(measured["proxy_reward"], mean)


def test_an_assumed_slope_rescales_the_reward():
    problem = TokenTree(2, 2, reward_std=0.3, pairs=4000, slope=4.0)
    options = {"kind": "final", "ridge": 0.0, "batch": 4000, "rate": 0.02}
    runs = {
        slope: simulate(problem, RewardModel(slope=slope, **options), 300, 3, group=3)
        for slope in (1.0, 4.0)
    }
    errors = {slope: run.diagnostics["error"][-1] for slope, run in runs.items()}
    assert (errors[4.0] < 0.1).all()
    spec, known = setting(problem, n=3, seed=0)
    spread = quality(spec, torch.zeros_like(known.rewards.final))["error"]
    torch.testing.assert_close(errors[1.0], 3 * spread, rtol=0.2, atol=0)
    likelihoods = [run.diagnostics["nll"][-1] for run in runs.values()]
    torch.testing.assert_close(*likelihoods, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "problem",
    [TokenTree(3, 2, prompts=2), TokenBigram(horizon=3, vocabulary=3, prompts=2),
     TokenStyle(horizon=3, content=2, topics=1, filler=0, flags=1)],
)  # fmt: skip
def test_moments_of_the_reward_are_those_of_all_responses(problem):
    _spec, known = setting(problem, n=3)
    mean, variance = reward_moments(known.automaton, known.proxy, known.automaton.reference)
    for prompt in range(2):
        every = every_response(known.automaton, prompt)
        law = log_probability(known.automaton.reference, every).sum(-1).exp()
        paid = returns(known.proxy, every)
        first = (law * paid).sum(1)
        torch.testing.assert_close(mean[:, prompt], first)
        torch.testing.assert_close(variance[:, prompt], (law * paid**2).sum(1) - first**2)


def test_quality_ignores_a_constant_for_each_prompt():
    problem = TokenTree(2, 2, prompts=2)
    spec, known = setting(problem)
    gold = known.rewards.final
    shift = torch.tensor([1.0, -2.0]).repeat_interleave(4).double()
    same = quality(spec, gold + shift)
    assert (same["error"] < 1e-6).all()
    torch.testing.assert_close(same["correlation"], torch.ones(4).double())
    torch.testing.assert_close(quality(spec, -gold)["correlation"], -torch.ones(4).double())
    assert (quality(spec, torch.zeros_like(gold))["correlation"] == 0).all()
    assert (quality(spec, torch.zeros_like(gold))["accuracy"] == 0.5).all()
    law = known.automaton.reference
    spread = reward_moments(known.automaton, known.rewards, law)[1].mean(1)
    torch.testing.assert_close(quality(spec, 2 * gold)["error"], spread.sqrt())


def test_the_error_falls_with_the_square_root_of_the_comparisons():
    sizes = [250, 500, 1000, 2000, 4000]
    errors = []
    for size in sizes:
        spec, _known = setting(TokenTree(2, 3, reference_std=0.5, pairs=size), n=16)
        errors.append(quality(spec, fit(spec, "final", 0.01))["error"].mean().item())
    assert abs(log_log_slope(np.array(sizes), np.array(errors)).slope + 0.5) < 0.1


@pytest.mark.parametrize("reward", ["final_model", "token_model"])
def test_agents_on_a_fitted_reward_reach_its_optimum(reward):
    problem, beta = TokenTree(2, 3, pairs=100), 0.5
    agent = RLOO(beta=beta, reward=reward, batch=256)
    loop = Rollout(Run(problem, agent, 200, 4, group=4))
    loop.advance(200)
    spec, state = loop.groups[0].spec, loop.groups[0].carry.agent
    known, learned = spec.known.tokens, fit(spec, reward.removesuffix("_model"))
    best = soft_optimum(known.automaton, table_rewards(spec, learned), beta).policy
    law = agent.model.table(state.policy.parameters)
    assert sequence_kl(known.automaton, law, best).max() < 0.02
    assert sequence_kl(known.automaton, known.automaton.reference, best).min() > 0.1
    measured = loop.record()
    mean = evaluate(known.automaton, table_rewards(spec, learned), law, beta).reward
    torch.testing.assert_close(measured["proxy_reward"], mean)
    gold = evaluate(known.automaton, known.rewards, law, beta).reward
    torch.testing.assert_close(measured["gold_reward"], gold)


@pytest.mark.parametrize(
    "agent",
    [PPORLHF(reward="final_model"), BestOfN(reward="final_model", group=8),
     DRPONPG(reward="final_model", batch=512)],
    ids=lambda a: type(a).__name__,
)  # fmt: skip
def test_a_fitted_reward_is_what_every_agent_raises(agent):
    history = simulate(TokenTree(2, 3, pairs=100), agent, 30, 4, group=4).diagnostics
    spec, known = setting(TokenTree(2, 3, pairs=100), seed=0)
    model = table_rewards(spec, fit(spec, "final"))
    start = evaluate(known.automaton, model, known.automaton.reference, 1.0).reward
    assert (history["proxy_reward"][-1] > start + 0.2).all()


def test_the_proxy_alone_is_replaced():
    spec, known = setting(TokenStyle())
    table = torch.ones_like(known.rewards.final)
    seen = believed(spec, table).known.tokens
    assert torch.equal(seen.proxy.final, table)
    assert isinstance(seen.proxy, Rewards)
    assert seen.rewards is known.rewards


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardModel(kind="model"), "kind"),
        (lambda: RewardModel(slope=0.0), "slope"),
        (lambda: RewardModel(ridge=-1.0), "ridge"),
    ],
)
def test_fields_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_comparisons_no_model():
    with pytest.raises(ValueError, match="pairs = 0"):
        simulate(TokenTree(pairs=0), RewardModel(), 2, 2, group=2)
