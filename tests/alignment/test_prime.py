"""PRIME against RLOO, formulas written as loops, and the ideal process reward."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from rlkit.agents.alignment.prime import PRIME
from rlkit.agents.alignment.rloo import RLOO
from rlkit.alignment.advantages import leave_one_out
from rlkit.alignment.process_rewards import leave_one_out_tokens, released_leave_one_out
from rlkit.alignment.training import start_training
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.protocol import Transition
from rlkit.random import Rng
from rlkit.rollout import simulate
from rlkit.tokens import soft_optimum
from rlkit.tokens.problem import Scores

LOCK = TokenLock(6, 4, 2, 0.6, decoy=None, demonstrations=200)


def setting(problem, agent, n=3, seed=1):
    """Specification, a state, a batch that it wrote, with real outcomes."""
    replica = torch.arange(n)
    instance = problem.instance(Rng(seed, "instance", replica))
    spec = problem.spec(instance)
    state = agent.initial(spec, Rng(seed, "initial", replica))
    written, _ = agent.act(spec, state, None, Rng(seed, "act", replica))
    scored = problem.transition(instance, None, written, Rng(seed, "env", replica))
    return spec, state, Transition(None, written, None, None, None, None, scored.feedback)


def randomised(spec, state, seed):
    """The same state with a random process reward."""
    reference = spec.known.tokens.automaton.reference
    logits = reference + torch.tensor(np.random.default_rng(seed).normal(size=reference.shape))
    return state._replace(memory=state.memory._replace(reward=start_training(logits)))


def learn(agent, spec, state, batch):
    return agent.learn(spec, state, batch, Rng(1, "learn", state.replica))


def with_outcomes(batch, outcome):
    return batch._replace(feedback=Scores(outcome, ()))


def test_a_process_reward_at_the_reference_leaves_the_advantages_of_rloo():
    agent = PRIME()
    spec, state, batch = setting(LOCK, agent)
    outcome, mask = batch.feedback.reward, torch.ones(3, 64, 6, dtype=torch.float64)
    process = agent.process_reward(spec, state.memory.reward, batch.action)
    assert process.abs().max() < 1e-15
    advantage = agent.advantage(torch.zeros_like(process), outcome, mask)
    assert torch.equal(advantage, leave_one_out(outcome, 4)[..., None].expand(3, 64, 6))


def test_outcomes_alone_give_the_gradient_of_rloo():
    agent, rloo = PRIME(process="none", low=0.0, high=1.0), RLOO(beta=1e-12)
    spec, state, batch = setting(LOCK, agent)
    mine = learn(agent, spec, state, batch).policy.adam[0].mean
    start = rloo.initial(spec, Rng(1, "initial", torch.arange(3)))
    theirs = rloo.learn(spec, start, batch, None).policy.adam[0].mean
    # Means over tokens and over responses: 6 tokens each.
    torch.testing.assert_close(6 * mine, theirs, rtol=1e-9, atol=1e-11)
    assert theirs.abs().max() > 1e-3


def test_groups_of_equal_outcomes_do_not_change_what_outcomes_alone_teach():
    agents = PRIME(process="none"), PRIME(process="none", low=0.0, high=1.0)
    spec, state, batch = setting(LOCK, agents[0])
    outcome = batch.feedback.reward.clone()
    outcome[:, :24] = 1
    batch = with_outcomes(batch, outcome)
    kept, every = (learn(a, spec, state, batch).policy.adam[0].mean for a in agents)
    share = learn(agents[0], spec, state, batch).memory.kept
    torch.testing.assert_close(kept * share[:, None, None, None], every)
    assert (share < 0.7).all()


def test_the_first_step_has_no_process_reward_and_weight_zero_never_has():
    options = {"steps": 6, "replicas": 3, "group": 3}
    none, online, zero = (
        simulate(LOCK, PRIME(**fields), **options).diagnostics["gold_reward"]
        for fields in ({"process": "none"}, {}, {"weight": 0.0})
    )
    assert torch.equal(none, zero)
    assert torch.allclose(none[0], online[0], atol=1e-12)
    assert not torch.allclose(none[-1], online[-1], atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"released": True}, {"basis": "grpo"}, {"epochs": 3}])
def test_a_batch_without_a_mixed_prompt_changes_nothing_but_a_counter(fields):
    agent = PRIME(**fields)
    spec, state, batch = setting(LOCK, agent)
    state = learn(agent, spec, state, batch)  # moments of Adam that would move it on
    outcome = batch.feedback.reward.clone()
    outcome[1] = torch.tensor([0.0, 1]).repeat_interleave(4).repeat(8)
    after = learn(agent, spec, state, with_outcomes(batch, outcome))
    assert after.memory.empty.tolist() == [0, 1, 0]
    assert after.memory.kept[1] == 0 < after.memory.kept[0]
    before = tree_leaves((state.policy, state.memory.reward))
    for old, new in zip(before, tree_leaves((after.policy, after.memory.reward)), strict=True):
        assert torch.equal(old[1], new[1])
        assert not torch.equal(old[0], new[0])


def test_the_reward_scores_before_its_step_unless_told_otherwise():
    spec, state, batch = setting(LOCK, PRIME())
    early, late = (learn(PRIME(after=after), spec, state, batch) for after in (True, False))
    assert torch.equal(early.memory.reward.parameters, late.memory.reward.parameters)
    none = learn(PRIME(process="none"), spec, state, batch)
    torch.testing.assert_close(early.policy.adam[0].mean, none.policy.adam[0].mean)
    assert (late.policy.adam[0].mean - none.policy.adam[0].mean).abs().max() > 1e-6


def test_the_reward_learns_from_outcomes_and_a_frozen_one_from_demonstrations():
    agent = PRIME()
    spec, state, batch = setting(LOCK, agent)
    for _ in range(50):
        state = learn(agent, spec, state, batch)
    score = agent.process_reward(spec, state.memory.reward, batch.action).sum(-1)
    won = batch.feedback.reward > 0
    assert (score * won).sum() / won.sum() > (score * ~won).sum() / (~won).sum() + 0.1
    frozen = PRIME(process="frozen", pretraining=50)
    spec, state, batch = setting(LOCK, frozen)
    fixed = state.memory.reward.parameters
    assert (fixed - spec.known.tokens.automaton.reference).abs().max() > 0.5
    after = learn(frozen, spec, state, batch)
    assert torch.equal(after.memory.reward.parameters, fixed)


def test_process_rewards_of_the_optimum_telescope_to_reward_minus_optimal_value():
    agent = PRIME(process="optimum", beta=0.3)
    spec, state, batch = setting(LOCK, agent)
    known = spec.known.tokens
    value = soft_optimum(known.automaton, known.rewards, 0.3).value
    total = agent.process_reward(spec, state.memory.reward, batch.action).sum(-1)
    expected = batch.feedback.reward - value[:, 0, :1]  # responses begin in state 0
    torch.testing.assert_close(total, expected)


def numpy_advantage(agent, ratio, outcome, mask):
    """Advantages `[B, H]` of one replica by the formulas of paper and released code."""
    size, horizon = ratio.shape
    group = agent.group
    reward = agent.weight * agent.beta * ratio * mask
    if agent.released:
        reward = agent.weight * ratio * mask
        sums = np.array([[reward[i, t:].sum() * mask[i, t] for t in range(horizon)]
                         for i in range(size)])  # fmt: skip
        reward = reward / np.abs(sums).max()
    advantage = np.zeros((size, horizon))
    for i in range(size):
        if not mask[i].any():
            continue
        members = range(i // group * group, i // group * group + group)
        others = [j for j in members if j != i]
        mean = {j: reward[j][mask[j] > 0].mean() for j in members}
        wins = np.array([outcome[j] for j in members])
        if agent.basis == "rloo" and not agent.released:
            own = reward[i] - np.mean([mean[j] for j in others])
            whole = outcome[i] - np.mean([outcome[j] for j in others])
        elif agent.released:
            own = reward[i] * group / (group - 1) - sum(mean.values()) / (group - 1)
            whole = outcome[i] * group / (group - 1) - wins.sum() / (group - 1)
        elif agent.basis == "grpo":
            means = np.array(list(mean.values()))
            own = (reward[i] - means.mean()) / (means.std(ddof=1) + 1e-4)
            whole = (outcome[i] - wins.mean()) / (wins.std(ddof=1) + 1e-4)
        else:
            own, whole = reward[i], outcome[i]
        own = own * mask[i]
        end = int(mask[i].sum()) - 1
        for t in range(end + 1):
            later = sum(agent.discount ** (s - t) * own[s] for s in range(t, horizon))
            advantage[i, t] = later + whole
    if agent.released:
        kept = advantage[mask > 0]
        advantage = (advantage - kept.mean()) / np.sqrt(kept.var() + 1e-8) * mask
    return advantage


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize(
    "fields", [{}, {"released": True}, {"basis": "grpo"}, {"basis": "reinforce", "weight": 2.5}]
)
def test_advantages_by_their_formulas(fields, discount):
    agent = PRIME(batch=16, discount=discount, **fields)
    random = np.random.default_rng(8)
    ratio = random.normal(size=(2, 16, 6))
    outcome = random.integers(0, 2, size=(2, 16)).astype(float)
    outcome[:, :4], outcome[:, 4] = 1, 1 - outcome[:, 5]
    kept = outcome.reshape(2, 4, 4).mean(-1)
    kept = np.repeat((kept > 0) & (kept < 1), 4, axis=1)
    length = random.integers(1, 7, size=(2, 16))
    mask = ((np.arange(6) < length[..., None]) & kept[..., None]).astype(float)
    process, label, counted = (torch.tensor(x) for x in (agent.beta * ratio, outcome, mask))
    ours = agent.advantage(process, label, counted)
    for n in range(2):
        expected = numpy_advantage(agent, ratio[n], outcome[n], mask[n])
        assert ours[n].numpy() == pytest.approx(expected, abs=1e-9)


def test_paper_and_released_code_differ_before_scaling_by_a_share_of_the_centred_token():
    agent = PRIME(process="online")
    spec, state, batch = setting(LOCK, agent)
    state = randomised(spec, state, 9)
    process = agent.process_reward(spec, state.memory.reward, batch.action)
    mask = torch.ones_like(process)
    difference = released_leave_one_out(process, mask, 4) - leave_one_out_tokens(process, mask, 4)
    torch.testing.assert_close(difference, (process - process.mean(-1, keepdim=True)) / 3)


@pytest.mark.parametrize("fields", [{}, {"released": True}, {"basis": "grpo"}, {"process": "none"},
                                    {"process": "optimum"}])  # fmt: skip
def test_every_form_learns_the_lock(fields):
    history = simulate(LOCK, PRIME(**fields), 60, 3, group=3)
    gold = history.diagnostics["gold_reward"]
    assert gold[0].max() < 0.4
    assert gold[-1].min() > 0.9


def test_prime_learns_chains_with_several_prompts():
    history = simulate(TokenChain(), PRIME(batch=128), 100, 3, group=3)
    gold = history.diagnostics["gold_reward"]
    assert gold[-1].min() > 0.85 > 0.6 > gold[0].max()


def test_fewer_than_two_responses_to_a_prompt_are_refused():
    with pytest.raises(ValueError, match="group"):
        PRIME(group=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 6}, "multiples of group = 4"),
        ({"weight": -1.0}, "weight"),
        ({"low": 0.9}, "high"),
        ({"process": "offline"}, "process"),
        ({"basis": "ppo"}, "basis"),
        ({"basis": "grpo", "released": True}, "released"),
        ({"clip": 1.0}, "clip"),
        ({"reward_rate": 0.0}, "reward_rate"),
    ],
)
def test_fields_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PRIME(**fields)


def test_outcomes_other_than_0_and_1_are_refused():
    agent = PRIME()
    spec, state, batch = setting(LOCK, agent)
    outcome = batch.feedback.reward.clone()
    outcome[2, 5] = 0.5
    with pytest.raises(ValueError, match="outcome of row 5, replica 2 is 0.5"):
        learn(agent, spec, state, with_outcomes(batch, outcome))


@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        (TokenTree(), {}, "outcomes 0 or 1 alone"),
        (TokenLock(), {}, "accepted: 0 or 1"),
        (TokenLock(decoy=None, demonstrations=0), {"process": "frozen"}, "demonstrations = 0"),
    ],
)
def test_problems_without_outcomes_are_refused(problem, fields, message):
    with pytest.raises(ValueError, match=message):
        simulate(problem, PRIME(**fields), 2, 2, group=2)


def test_a_clipped_second_pass_moves_less_than_an_unclipped_one():
    spec, state, batch = setting(LOCK, PRIME())
    moved = []
    for clip in (0.01, 0.99):
        agent = PRIME(process="none", clip=clip, epochs=8, rate=0.1)
        after = learn(agent, spec, state, batch).policy.parameters
        moved.append((after - state.policy.parameters).abs().sum())
    assert moved[0] < 0.9 * moved[1]


def test_replicas_do_not_touch_each_other():
    agent = PRIME()
    spec, state, batch = setting(LOCK, agent)
    state = randomised(spec, state, 3)
    whole = learn(agent, spec, state, batch)
    outcome = batch.feedback.reward.clone()
    outcome[1:] = 1 - outcome[1:]
    other = learn(agent, spec, state, with_outcomes(batch, outcome))
    for a, b in zip(tree_leaves(whole), tree_leaves(other), strict=True):
        assert torch.equal(a[:1], b[:1])
    pairs = itertools.zip_longest(tree_leaves(whole.policy), tree_leaves(other.policy))
    assert any(not torch.equal(a[1:], b[1:]) for a, b in pairs)
