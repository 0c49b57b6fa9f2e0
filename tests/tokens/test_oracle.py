"""Identities of token MDPs, on random trees where every response can be listed."""

import itertools

import numpy as np
import pytest
import torch

from rlkit.random import Rng
from rlkit.tokens import (
    Automaton,
    Rewards,
    best_of_law,
    check_automaton,
    evaluate,
    generate,
    log_probability,
    occupancy,
    returns,
    reward_law,
    sequence_kl,
    soft_optimum,
    walk,
    win_rate,
)

N, V, H, X = 3, 3, 4, 2
BETA = 0.4
LEAVES = V**H


def tree(seed=0, grid=None):
    """Random trees: state = prompt and prefix as a number, `[N]` different ones."""
    random = np.random.default_rng(seed)
    states = X * LEAVES
    successor = np.zeros((H, states, V), dtype=np.int64)
    for time, prompt in itertools.product(range(H), range(X)):
        for prefix in range(V**time):
            successor[time, prompt * LEAVES + prefix] = prompt * LEAVES + prefix * V + np.arange(V)
    logits = random.normal(size=(N, H, states, V))
    reference = torch.log_softmax(torch.tensor(logits), -1)
    prompt = torch.tensor(random.dirichlet(np.ones(X), size=N))
    origin = torch.tensor([0, LEAVES]).expand(N, X)
    token, final = random.normal(size=(N, H, states, V)), random.normal(size=(N, states))
    if grid is not None:
        token, final = (np.round(x / grid) * grid for x in (token, final))
    automaton = Automaton(
        prompt, origin, torch.tensor(successor).expand(N, H, states, V), reference
    )
    return automaton, Rewards(torch.tensor(token), torch.tensor(final))


def listed(automaton, rewards, policy):
    """Log-probability and reward of every response to every prompt, `[N, X, leaves]`."""
    every = torch.tensor(list(itertools.product(range(V), repeat=H)))
    out = []
    for prompt in range(X):
        which = torch.full((N, LEAVES), prompt)
        read = walk(automaton, which, every.expand(N, LEAVES, H))
        out.append((log_probability(policy, read).sum(-1), returns(rewards, read)))
    return torch.stack([a for a, _ in out], 1), torch.stack([b for _, b in out], 1)


def random_policy(seed):
    logits = np.random.default_rng(seed).normal(size=(N, H, X * LEAVES, V))
    return torch.log_softmax(torch.tensor(logits), -1)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_soft_value_is_the_log_partition_function_of_whole_responses():
    automaton, rewards = tree()
    best = soft_optimum(automaton, rewards, BETA)
    log_ref, reward = listed(automaton, rewards, automaton.reference)
    log_z = torch.logsumexp(log_ref + reward / BETA, -1)
    close(best.value[:, 0].gather(1, automaton.origin), BETA * log_z)
    log_best, _ = listed(automaton, rewards, best.policy)
    close(log_best, log_ref + reward / BETA - log_z[..., None])


def test_log_ratio_of_the_optimum_is_reward_plus_value_difference():
    automaton, rewards = tree()
    best = soft_optimum(automaton, rewards, BETA)
    ratio = BETA * (best.policy - automaton.reference)
    close(ratio, best.q - best.value[:, :-1, :, None])
    close(best.policy.exp().sum(-1), torch.ones_like(best.value[:, :-1]))


@pytest.mark.parametrize("seed", [1, 2])
def test_evaluation_equals_the_sum_over_all_responses(seed):
    automaton, rewards = tree(seed)
    policy = random_policy(seed)
    log_p, reward = listed(automaton, rewards, policy)
    log_ref, _ = listed(automaton, rewards, automaton.reference)

    def mean(values):
        return (automaton.prompt * values.sum(-1)).sum(1)

    got = evaluate(automaton, rewards, policy, BETA)
    close(got.reward, mean(log_p.exp() * reward))
    close(got.kl, mean(log_p.exp() * (log_p - log_ref)))
    close(got.reverse_kl, mean(log_ref.exp() * (log_ref - log_p)))
    close(got.entropy, mean(-log_p.exp() * log_p))
    close(got.objective, got.reward - BETA * got.kl)


def test_gap_to_the_optimum_is_beta_times_the_divergence_from_it():
    automaton, rewards = tree()
    best = soft_optimum(automaton, rewards, BETA)
    top = evaluate(automaton, rewards, best.policy, BETA).objective
    value = (automaton.prompt * best.value[:, 0].gather(1, automaton.origin)).sum(1)
    close(top, value)
    for seed in range(3):
        policy = random_policy(seed)
        gap = top - evaluate(automaton, rewards, policy, BETA).objective
        close(gap, BETA * sequence_kl(automaton, policy, best.policy))


def test_potential_shaping_leaves_the_optimum_and_moves_its_value():
    automaton, rewards = tree()
    potential = torch.tensor(np.random.default_rng(5).normal(size=(N, H + 1, X * LEAVES)))
    potential[:, -1] = 0
    after = torch.stack(
        [
            potential[:, t + 1].gather(1, automaton.successor[:, t].flatten(1)).reshape(N, -1, V)
            for t in range(H)
        ],
        1,
    )
    shaped = Rewards(rewards.token + after - potential[:, :-1, :, None], rewards.final)
    plain, moved = (soft_optimum(automaton, r, BETA) for r in (rewards, shaped))
    close(plain.policy, moved.policy)
    close(moved.value, plain.value - potential)


def test_occupancy_is_a_law_at_every_time():
    automaton, _ = tree()
    law = occupancy(automaton, random_policy(0))
    close(law.sum(-1), torch.ones(N, H + 1, dtype=torch.float64))


def test_reward_law_lists_the_responses():
    automaton, rewards = tree(grid=0.5)
    policy = random_policy(4)
    level, law = reward_law(automaton, rewards, policy, 0.5)
    log_p, reward = listed(automaton, rewards, policy)
    expected = torch.zeros_like(law)
    index = torch.round((reward - level[0]) / 0.5).long()
    close(law, expected.scatter_add(2, index, log_p.exp()))
    close((law * level).sum(-1), (log_p.exp() * reward).sum(-1))


def test_win_rate_and_best_of_n_follow_their_laws():
    automaton, rewards = tree()
    _, reward = listed(automaton, rewards, automaton.reference)
    log_ref, _ = listed(automaton, rewards, automaton.reference)
    order = reward[0, 0].argsort()
    law = log_ref[0, 0].exp()[order]
    assert win_rate(law, law).item() == pytest.approx(0.5, abs=1e-12)
    for count in (2, 4, 16):
        best = best_of_law(law, count)
        assert best.sum().item() == pytest.approx(1, abs=1e-12)
        kl = (best * (best / law).log()).sum().item()
        assert 0 < kl <= np.log(count) - (count - 1) / count  # equality in the continuum
    brute = np.zeros(len(law))
    for a, b in itertools.product(range(len(law)), repeat=2):
        brute[max(a, b)] += (law[a] * law[b]).item()
    close(best_of_law(law, 2), torch.tensor(brute))


def test_written_responses_follow_the_policy():
    automaton, rewards = tree()
    policy, batch = random_policy(7), 40_000
    rng = Rng(3, "act", torch.arange(N))
    prompt = torch.zeros(N, batch, dtype=torch.long)
    written = generate(automaton, policy, prompt, rng)
    log_p, reward = listed(automaton, rewards, policy)
    code = (written.token * V ** torch.arange(H - 1, -1, -1)).sum(-1)
    for replica in range(N):
        count = torch.bincount(code[replica], minlength=LEAVES).double()
        expected = batch * log_p[replica, 0].exp()
        chi = ((count - expected) ** 2 / expected).sum().item()
        assert chi < LEAVES - 1 + 5 * np.sqrt(2 * (LEAVES - 1))
        mean = returns(rewards, written)[replica].mean().item()
        exact = (log_p[replica, 0].exp() * reward[replica, 0]).sum().item()
        assert abs(mean - exact) < 5 * reward[replica, 0].std().item() / np.sqrt(batch)


def test_given_tokens_are_kept_and_the_rest_is_written_as_before():
    automaton, _ = tree()
    policy, batch = random_policy(8), 50
    rng = Rng(3, "act", torch.arange(N))
    prompt = torch.ones(N, batch, dtype=torch.long)
    free = generate(automaton, policy, prompt, rng)
    given = torch.arange(batch).remainder(H + 1).expand(N, batch)
    again = generate(automaton, policy, prompt, rng, free.token, given)
    assert torch.equal(free.token, again.token)
    assert torch.equal(free.state, again.state)
    other = (free.token + 1) % V
    forced = generate(automaton, policy, prompt, rng, other, given)
    kept = torch.arange(H) < given[..., None]
    assert torch.equal(forced.token[kept], other[kept])
    assert torch.equal(walk(automaton, prompt, forced.token).state, forced.state)


def test_illegal_tokens_are_never_written_and_cost_nothing():
    automaton, rewards = tree()
    reference = automaton.reference.clone()
    reference[..., 1] = -torch.inf
    automaton = automaton._replace(reference=torch.log_softmax(reference, -1))
    best = soft_optimum(automaton, rewards, BETA)
    assert torch.isfinite(best.value).all()
    got = evaluate(automaton, rewards, best.policy, BETA)
    assert torch.isfinite(torch.stack(got)).all()
    rng = Rng(0, "act", torch.arange(N))
    written = generate(automaton, best.policy, torch.zeros(N, 500, dtype=torch.long), rng)
    assert not (written.token == 1).any()
    assert sequence_kl(automaton, random_policy(0), best.policy).isinf().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "halved"}, "reference at time 0, state 0, replica 0 sums to"),
        ({"successor": "beyond"}, r"successor = 0 \.\. 162; accepted: 0 \.\. 161"),
        ({"prompt": "halved"}, "prompt is no distribution"),
    ],
)
def test_tables_that_are_no_token_mdp_are_refused(change, message):
    automaton, _ = tree()
    wrong = {
        "reference": automaton.reference - 0.7,
        "successor": automaton.successor.clone().clamp(max=160) + 0,
        "prompt": automaton.prompt / 2,
    }
    wrong["successor"][0, 0, 0, 0] = X * LEAVES
    name = next(iter(change))
    with pytest.raises(ValueError, match=message):
        check_automaton(automaton._replace(**{name: wrong[name]}))


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        soft_optimum(*tree(), beta)
