"""OREO against exact gradients, closed forms and loops, and the search that uses its value."""

import numpy as np
import pytest
import torch

from rlkit.agents.alignment.oreo import OREO, next_boundary
from rlkit.alignment.credit import credit_table, every_response, optimal_advantage
from rlkit.alignment.policies import TableCritic, TablePolicy, policy_class
from rlkit.alignment.search import best_of_actions, marked_steps, repeated, value_beam
from rlkit.alignment.training import gradient, start_training
from rlkit.envs.tokens.bigram import TokenBigram
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.dfa import TokenDFA
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.protocol import Discrete, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import simulate
from rlkit.tokens import (
    Automaton,
    Responses,
    Rewards,
    evaluate,
    log_probability,
    returns,
    sequence_kl,
    soft_optimum,
    walk,
)
from rlkit.tokens.data import Data
from rlkit.tokens.task import TokenTask, disclosed


def setting(problem, n=2, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def random_table(known, seed, std=1.0):
    noise = np.random.default_rng(seed).normal(0, std, known.automaton.reference.shape)
    return torch.log_softmax(known.automaton.reference + torch.tensor(noise), -1)


def random_value(known, seed):
    shape = known.automaton.reference.shape[:3]
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def learner(agent, spec, table, value):
    start = agent.initial(spec, Rng(0, "initial", torch.arange(len(table))))
    return start._replace(policy=start_training(table), critic=start_training(value))


def weighted_gradient(agent, spec, state, shown, reward, weight):
    """Of the policy's loss, each response weighted, in its logits."""
    _miss, loss = agent.errors(spec, state, shown, reward)
    return gradient(state.policy.parameters, lambda p: (weight * loss(p)).sum(1))[0]


def objective_gradient(known, table, beta):
    logits = table.clone().requires_grad_()
    got = evaluate(known.automaton, known.rewards, torch.log_softmax(logits, -1), beta)
    return torch.autograd.grad(got.objective.sum(), logits)[0]


@pytest.mark.parametrize("level", [{"step": 1}, {"step": 2}, {"step": None}])
def test_on_its_own_responses_it_follows_the_policy_gradient_whatever_the_value(level):
    spec, known = setting(TokenTree(4, 2))
    table, value = random_table(known, 0), random_value(known, 1)
    beta = 0.4
    agent = OREO(beta=beta, alpha=0.0, **level)
    every = every_response(known.automaton)
    weight = log_probability(table, every).sum(-1).exp()
    state = learner(agent, spec, table, value)
    mine = weighted_gradient(agent, spec, state, every, returns(known.rewards, every), weight)
    residuals = {1: 4, 2: 2, None: 1}[level["step"]]
    expected = -2 * beta / residuals * objective_gradient(known, table, beta)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_without_the_stop_gradient_it_does_not():
    spec, known = setting(TokenTree(4, 2))
    table, value = random_table(known, 0), random_value(known, 1)
    agent = OREO(beta=0.4, alpha=0.0, stop_gradient=False)
    every = every_response(known.automaton)
    weight = log_probability(table, every).sum(-1).exp()
    state = learner(agent, spec, table, value)
    mine = weighted_gradient(agent, spec, state, every, returns(known.rewards, every), weight)
    expected = -2 * 0.4 / 4 * objective_gradient(known, table, 0.4)
    assert (mine - expected).abs().max() > 0.1 * expected.abs().max()


def test_the_regulariser_adds_the_mean_divergence_at_the_states_of_the_data():
    spec, known = setting(TokenTree(3, 3))
    table, value = random_table(known, 2), random_value(known, 3)
    every = every_response(known.automaton)
    reward, weight = returns(known.rewards, every), torch.ones(2, 27).double() / 27
    with_it, without = (
        weighted_gradient(a, spec, learner(a, spec, table, value), every, reward, weight)
        for a in (OREO(alpha=0.7), OREO(alpha=0.0))
    )
    expected = np.zeros(table.shape)
    law, ref = table.exp().numpy(), known.automaton.reference.numpy()
    for n in range(2):
        for row in range(27):
            for time in range(3):
                state = int(every.state[n, row, time])
                p = law[n, time, state]
                ratio = np.log(p) - ref[n, time, state]
                # Gradient of the divergence in logits: p (ratio - mean ratio).
                expected[n, time, state] += 0.7 / 27 / 3 * p * (ratio - (p * ratio).sum())
    np.testing.assert_allclose((with_it - without).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [{"step": 1}, {"step": 2}, {"step": None}, {"marked": True}])
@pytest.mark.parametrize("stop", [True, False])
def test_all_residuals_vanish_at_the_optimum(level, stop):
    spec, known = setting(TokenChain(steps=2, form="short", fluency=0.9))
    best = soft_optimum(known.automaton, known.rewards, 0.3)
    agent = OREO(beta=0.3, alpha=0.0, stop_gradient=stop, **level)
    state = learner(agent, spec, best.policy, best.value[:, :-1].contiguous())
    for prompt in range(2):
        every = every_response(known.automaton, prompt)
        miss, loss = agent.errors(spec, state, every, returns(known.rewards, every))
        assert miss(state.critic.parameters).abs().max() < 1e-20
        assert loss(state.policy.parameters).abs().max() < 1e-20


def test_noisy_outcomes_pull_nowhere_on_average_at_the_optimum():
    spec, known = setting(TokenDFA(horizon=3, vocabulary=3))
    best = soft_optimum(known.automaton, known.rewards, 0.3)
    agent = OREO(beta=0.3, alpha=0.0)
    state = learner(agent, spec, best.policy, best.value[:, :-1].contiguous())
    every = every_response(known.automaton)
    mean = returns(known.rewards, every)
    weight = torch.tensor(np.random.default_rng(4).uniform(size=mean.shape))  # any data
    ones = torch.ones_like(mean)
    won = weighted_gradient(agent, spec, state, every, ones, weight * mean)
    lost = weighted_gradient(agent, spec, state, every, 0 * ones, weight * (1 - mean))
    assert won.abs().max() > 1e-3
    assert (won + lost).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("problem", "first", "second"),
    [
        (TokenLock(), {"marked": True}, {"step": 1}),  # unmarked: every token is a step
        (TokenChain(steps=4, form="bare"), {"marked": True}, {"step": 1}),
        (TokenChain(form="full"), {"marked": True}, {"step": 4}),
        (TokenChain(steps=1), {"marked": True}, {"step": None}),
    ],
)
def test_levels_that_cut_responses_alike_are_one(problem, first, second):
    options = {"steps": 8, "replicas": 3, "group": 3}
    a = simulate(problem, OREO(**first), **options).diagnostics
    b = simulate(problem, OREO(**second), **options).diagnostics
    other = simulate(problem, OREO(step=3), **options).diagnostics
    for name in a:
        assert torch.equal(a[name], b[name])
    assert not torch.equal(a["kl"], other["kl"])


def test_next_boundaries_by_hand():
    first = torch.tensor([[1.0, 0, 0, 1, 0, 1], [1.0, 1, 0, 0, 0, 0]])
    assert next_boundary(first).tolist() == [[3, 3, 3, 5, 5, 6], [1, 6, 6, 6, 6, 6]]


def test_a_heavy_divergence_brings_back_the_reference():
    spec, known = setting(TokenTree(3, 3, demonstrations=200))
    away = random_table(known, 5)
    agent = OREO(beta=100.0, alpha=0.0, rate=0.02, value_rate=0.5)
    state = learner(agent, spec, away, random_value(known, 6))
    before = sequence_kl(known.automaton, away, known.automaton.reference)
    for step in range(400):
        state = agent.learn(spec, state, None, Rng(0, f"learn {step}", torch.arange(2)))
    table = agent.model.table(state.policy.parameters)
    after = sequence_kl(known.automaton, table, known.automaton.reference)
    assert (before > 0.2).all()
    assert (after < 0.02).all()


def test_the_order_of_responses_changes_nothing():
    spec, known = setting(TokenDFA(demonstrations=50))
    table, value = random_table(known, 7), random_value(known, 8)
    agent = OREO()
    state = learner(agent, spec, table, value)
    shown, outcome = known.data.demonstration, known.data.outcome
    order = torch.tensor(np.random.default_rng(9).permutation(50))
    mixed = Responses(*(leaf[:, order] for leaf in shown))
    for trained, a, b in zip(
        (state.critic, state.policy),
        agent.errors(spec, state, shown, outcome),
        agent.errors(spec, state, mixed, outcome[:, order]),
        strict=True,
    ):
        torch.testing.assert_close(a(trained.parameters)[:, order], b(trained.parameters))


def padded(known, extra):
    """The same responses followed by `extra` tokens of padding in a state of their own."""
    automaton = known.automaton
    n, horizon, states, size = automaton.reference.shape
    successor = torch.full((n, horizon + extra, states + 1, size), states)
    successor[:, : horizon - 1, :states] = automaton.successor[:, :-1]
    reference = torch.full(successor.shape, -torch.inf, dtype=torch.float64)
    reference[..., 0] = 0.0
    reference[:, :horizon, :states] = automaton.reference
    longer = Automaton(automaton.prompt, automaton.origin, successor, reference)
    rewards = Rewards(torch.zeros(successor.shape).double(), torch.zeros(n, states + 1).double())
    token = torch.nn.functional.pad(known.data.demonstration.token, (0, extra))
    shown = walk(longer, known.data.demonstration.prompt, token)
    none = Responses(*(leaf[:, :0] for leaf in shown))
    data = Data(shown, known.data.outcome, none, none, known.data.outcome[:, :0])
    task = TokenTask(longer, rewards)
    return Spec(Discrete(1), Discrete(size), horizon + extra, Known(tokens=disclosed(task, data)))


@pytest.mark.parametrize("level", [{"step": 1}, {"step": 3}, {"step": None}])
def test_padding_changes_nothing(level):
    spec, known = setting(TokenDFA(horizon=5, demonstrations=40))
    table, value = random_table(known, 10), random_value(known, 11)
    agent = OREO(alpha=0.2, **level)
    after = agent.learn(
        spec, learner(agent, spec, table, value), None, Rng(0, "learn", torch.arange(2))
    )
    wide = padded(known, 4)
    start = agent.initial(wide, Rng(0, "initial", torch.arange(2)))
    logits = start.policy.parameters.clone()
    logits[:, :5, :-1] = table
    values = torch.full_like(start.critic.parameters, 3.0)
    values[:, :5, :-1] = value
    state = start._replace(policy=start_training(logits), critic=start_training(values))
    other = agent.learn(wide, state, None, Rng(0, "learn", torch.arange(2)))
    torch.testing.assert_close(other.policy.adam[0].mean[:, :5, :-1], after.policy.adam[0].mean)
    torch.testing.assert_close(other.critic.adam[0].mean[:, :5, :-1], after.critic.adam[0].mean)
    assert (other.critic.adam[0].mean[:, 5:] == 0).all()
    assert (other.policy.adam[0].mean[:, 5:] == 0).all()


@pytest.mark.parametrize(("step", "starts"), [(1, (0, 1, 2, 3)), (2, (0, 2)), (None, (0,))])
def test_the_best_value_is_the_mean_of_return_minus_log_ratios(step, starts):
    spec, known = setting(TokenBigram(4, 3, demonstrations=60))
    table, beta = random_table(known, 12), 0.3
    shown, outcome = known.data.demonstration, known.data.outcome
    ref = known.automaton.reference
    value = np.zeros(table.shape[:3])
    for n in range(2):
        seen = {}
        for row in range(60):
            states = [int(z) for z in shown.state[n, row]]
            tokens = [int(a) for a in shown.token[n, row]]
            ratio = [
                float(table[n, t, states[t], tokens[t]] - ref[n, t, states[t], tokens[t]])
                for t in range(4)
            ]
            for t in starts:
                rest = float(outcome[n, row]) - beta * sum(ratio[t:])
                seen.setdefault((t, states[t]), []).append(rest)
        for place, rest in seen.items():
            value[n][place] = np.mean(rest)
    agent = OREO(beta=beta, step=step)
    state = learner(agent, spec, table, torch.tensor(value))
    miss, _loss = agent.errors(spec, state, shown, outcome)
    slope = gradient(state.critic.parameters, lambda p: miss(p).mean(1))[0]
    assert slope.abs().max() < 1e-14
    off = gradient(torch.tensor(value + 0.1), lambda p: miss(p).mean(1))[0]
    assert (off >= 0).all()
    assert (off[:, starts[-1]].sum(1) > 0.01).all()


def played(problem, agent, steps, n=3):
    """States of the agent after each step, and what it wrote and was paid."""
    instance = problem.instance(Rng(1, "instance", torch.arange(n)))
    spec = problem.spec(instance)
    state = agent.initial(spec, Rng(2, "initial", torch.arange(n)))
    history = []
    for step in range(steps):
        rng = Rng(3, f"step {step}", torch.arange(n))
        written, state = agent.act(spec, state, None, rng.child("act"))
        feedback = problem.transition(instance, None, written, rng.child("env")).feedback
        batch = Transition(None, written, None, None, None, None, feedback)
        after = agent.learn(spec, state, batch, rng.child("learn"))
        history.append((state, written, feedback.reward, after))
        state = after
    return spec, history


def same(first, second):
    return torch.equal(first.policy.parameters, second.policy.parameters)


def test_rounds_stand_still_to_write_and_then_learn_from_what_they_wrote():
    problem = TokenDFA(demonstrations=20)
    agent = OREO(refresh_every=5, responses=8)  # three steps of writing
    spec, history = played(problem, agent, 12)
    original = spec.known.tokens.data
    for step, (before, _written, _reward, after) in enumerate(history):
        assert same(before, after) == (step in (5, 6, 10, 11))
    for step in range(5):
        assert torch.equal(history[step][3].memory.shown.token, original.demonstration.token)
    written = torch.cat([history[step][1].token for step in (5, 6, 7)], 1)[:, :20]
    reward = torch.cat([history[step][2] for step in (5, 6, 7)], 1)[:, :20]
    for step in (7, 8, 9):
        assert torch.equal(history[step][3].memory.shown.token, written)
        assert torch.equal(history[step][3].memory.outcome, reward)


def test_a_rolled_reference_is_the_policy_that_wrote():
    problem = TokenDFA(demonstrations=16)
    agent = OREO(refresh_every=3, responses=16, roll=True)
    spec, history = played(problem, agent, 5)
    start = history[0][0]
    assert torch.equal(start.memory.reference, start.policy.parameters)
    before, written, reward, after = history[3]
    assert torch.equal(after.memory.reference, before.policy.parameters)
    now = before._replace(memory=after.memory)
    # No log-ratio and no divergence yet: the loss is the value's own.
    miss, loss = agent.errors(spec, now, written, reward)
    torch.testing.assert_close(miss(now.critic.parameters), loss(now.policy.parameters))
    kept = OREO(refresh_every=3, responses=16)
    _spec, other = played(problem, kept, 5)
    assert other[3][3].memory.reference == ()
    assert not same(other[3][3], after)
    first, second = (h[2][3].policy.parameters for h in (other, history))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-3)  # rounding, through Adam


def test_a_round_too_short_to_be_written_is_refused():
    problem = TokenDFA(demonstrations=20)
    with pytest.raises(ValueError, match=r"refresh_every = 2; accepted: \[3, inf\)"):
        simulate(problem, OREO(refresh_every=2, responses=8), 2, 2, group=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OREO(beta=0.0), "beta"),
        (lambda: OREO(alpha=-1.0), "alpha"),
        (lambda: OREO(step=0), "step"),
        (lambda: OREO(refresh_every=0), "refresh_every"),
        (lambda: OREO(roll=2), "roll"),
        (lambda: OREO(value_rate=0.0), "value_rate"),
    ],
)
def test_fields_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_that_do_not_cover_the_response_are_refused():
    spec, known = setting(TokenChain())
    late = known._replace(step_start=known.step_start.roll(1, 1))
    spec = Spec(spec.observation, spec.action, spec.horizon, Known(tokens=late))
    with pytest.raises(ValueError, match="step_start"):
        OREO(marked=True).initial(spec, Rng(0, "initial", torch.arange(2)))
    with pytest.raises(ValueError, match="step_start"):
        marked_steps(spec)


def value_of(spec, table):
    return lambda responses: TableCritic().values(spec, table, responses)


def value_with_end(table):
    """Of a table `[N, H + 1, Z]` at all states."""
    return lambda responses: table.gather(2, responses.state.transpose(1, 2)).transpose(1, 2)


def asked(known, count):
    n, prompts = known.automaton.prompt.shape
    return (torch.arange(count) % prompts).expand(n, -1)


@pytest.mark.parametrize("width", [1, 3])
def test_a_beam_with_optimal_value_and_policy_knows_the_reward_of_what_it_kept(width):
    spec, known = setting(TokenChain(form="short"))
    best = soft_optimum(known.automaton, known.rewards, 0.3)
    found = value_beam(
        spec, TablePolicy(), best.policy, value_of(spec, best.value[:, :-1]),
        asked(known, 6), marked_steps(spec), width, 0.3, Rng(0, "beam", torch.arange(2)),
    )  # fmt: skip
    assert found.responses.token.shape == (2, 6 * width, 6)
    kept = returns(known.rewards, found.responses).unflatten(1, (6, width))
    seen = torch.isfinite(found.score)
    assert seen[:, :, 0].all()
    torch.testing.assert_close(found.score[seen], kept[seen], rtol=0, atol=1e-9)
    assert (found.score.diff(dim=-1)[seen[..., 1:]] <= 0).all()
    walked = walk(known.automaton, found.responses.prompt, found.responses.token)
    assert torch.equal(walked.state, found.responses.state)


def test_a_beam_keeps_responses_apart():
    spec, known = setting(TokenTree(3, 3))
    zero = torch.zeros(known.automaton.reference.shape[:3]).double()
    found = value_beam(
        spec, TablePolicy(), known.automaton.reference, value_of(spec, zero),
        asked(known, 4), (0, 1, 2), 3, 1.0, Rng(0, "beam", torch.arange(2)),
    )  # fmt: skip
    token = found.responses.token.unflatten(1, (4, 3))
    for n in range(2):
        for prompt in range(4):
            rows = [tuple(token[n, prompt, k].tolist()) for k in range(3)]
            fresh = [bool(x) for x in torch.isfinite(found.score[n, prompt])]
            assert len({r for r, f in zip(rows, fresh, strict=True) if f}) == sum(fresh)
    given = torch.tensor([[[1, 2], [1, 3], [1, 2], [1, 2]]])
    assert repeated(given, 1).tolist() == [[[False, False, True, True]]]
    assert repeated(given, 2).tolist() == [[[False, False], [False, True]]]


def test_a_beam_with_padding_carries_the_score_of_what_is_over():
    _spec, known = setting(TokenTree(2, 3, demonstrations=1))
    spec = padded(known, 2)
    automaton = spec.known.tokens.automaton
    pay = torch.zeros(automaton.reference.shape).double()
    pay[:, 1] = torch.tensor(np.random.default_rng(0).normal(size=pay[:, 1].shape))
    best = soft_optimum(automaton, Rewards(pay, torch.zeros(2, automaton.states).double()), 0.5)
    found = value_beam(
        spec, TablePolicy(), best.policy, value_of(spec, best.value[:, :-1]),
        asked(known, 3), (0, 1, 2, 3), 2, 0.5, Rng(0, "beam", torch.arange(2)),
    )  # fmt: skip
    paid = returns(Rewards(pay, torch.zeros(2, automaton.states).double()), found.responses)
    paid = paid.unflatten(1, (3, 2))
    seen = torch.isfinite(found.score)
    torch.testing.assert_close(found.score[seen], paid[seen], rtol=0, atol=1e-9)


def test_wider_beams_find_more_with_the_optimal_value():
    spec, known = setting(TokenChain(modulus=7, steps=4, competence=0.5), n=8)
    best = soft_optimum(known.automaton, known.rewards, 0.1)
    success = []
    for width in (1, 2, 4):
        found = value_beam(
            spec, TablePolicy(), known.automaton.reference, value_with_end(best.value),
            asked(known, 42), marked_steps(spec), width, 0.1, Rng(0, "beam", torch.arange(8)),
        )  # fmt: skip
        first = found.responses.state.unflatten(1, (42, width))[:, :, 0, -1]
        success.append(known.rewards.final.gather(1, first).mean(1))
    chance = evaluate(known.automaton, known.rewards, known.automaton.reference, 1.0).reward
    # Of 42 answers a replica; a beam of one is a sample.
    assert ((success[0] - chance).abs() < 4 * (chance * (1 - chance) / 42) ** 0.5).all()
    assert success[1].mean() > success[0].mean() + 0.1
    assert success[2].mean() > success[1].mean() + 0.1


def test_a_transformer_at_the_reference_is_searched_as_its_table():
    spec, known = setting(TokenChain(steps=2, form="short"))
    neural = policy_class("transformer", (8, 1, 2))
    start = neural.start(spec, Rng(0, "start", torch.arange(2)))
    best = soft_optimum(known.automaton, known.rewards, 0.1)
    tokens = [
        value_beam(
            spec, policy, parameters, value_with_end(best.value),
            asked(known, 4), marked_steps(spec), 2, 0.1, Rng(0, "beam", torch.arange(2)),
        ).responses.token
        for policy, parameters in (
            (neural, start), (TablePolicy(), known.automaton.reference)
        )
    ]  # fmt: skip
    assert torch.equal(*tokens)


def test_the_best_of_many_actions_has_the_largest_advantage():
    spec, known = setting(TokenTree(3, 3))
    best = soft_optimum(known.automaton, known.rewards, 0.7)
    table = credit_table(known.automaton, best.policy, 0.7)
    torch.testing.assert_close(table, optimal_advantage(best))
    chosen = best_of_actions(
        spec, TablePolicy(), best.policy, asked(known, 1), (0, 1, 2), 2000,
        Rng(0, "best", torch.arange(2)),
    )  # fmt: skip
    for n in range(2):
        state = int(known.automaton.origin[n, 0])
        for time in range(3):
            token = int(table[n, time, state].argmax())
            assert token == int(chosen.token[n, 0, time])
            state = int(known.automaton.successor[n, time, state, token])


@pytest.mark.parametrize("steps", [(), (1, 2), (0, 2, 2), (0, 3)])
def test_steps_of_a_search_rise_from_zero(steps):
    spec, known = setting(TokenTree(3, 3))
    rng = Rng(0, "best", torch.arange(2))
    with pytest.raises(ValueError, match="steps"):
        best_of_actions(
            spec, TablePolicy(), known.automaton.reference, asked(known, 1), steps, 2, rng
        )
