"""Implicit process rewards against enumeration, hand-made cases and the exact optimum."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rlkit.agents.alignment.implicit_prm import ImplicitPRM
from rlkit.alignment.advantages import leave_one_out
from rlkit.alignment.losses import CE, Labelled
from rlkit.alignment.policies import TablePolicy
from rlkit.alignment.process_rewards import (
    along,
    check_outcomes,
    discounted,
    elected,
    expected_outcome,
    first_mistake,
    found,
    largest_return,
    least,
    leave_one_out_tokens,
    outcome_head,
    pick_best,
    prompts_to_keep,
    released_leave_one_out,
    step_values,
)
from rlkit.alignment.training import start_training
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.lock import TokenLock
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tokens import Responses, log_probability, returns, soft_optimum, walk

LOSSES = ("ce", "dpo", "kto", "nca")


def setting(problem, n=3, seed=1):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return problem.spec(instance), instance.replica.knowledge


def all_responses(automaton, prompt=0):
    """Every response to one prompt, in the order of the first token, then the second, ..."""
    n, words = automaton.origin.shape[0], range(automaton.vocabulary)
    token = torch.tensor(list(itertools.product(words, repeat=automaton.horizon)))
    asked = torch.full((n, len(token)), prompt)
    return walk(automaton, asked, token.expand(n, -1, -1))


def random_policy(automaton, seed):
    logits = np.random.default_rng(seed).normal(size=automaton.reference.shape)
    return torch.log_softmax(torch.tensor(2 * logits) + automaton.reference, -1)


def noisy_lock(demonstrations, noise, **fields):
    return TokenLock(
        18, 6, 3, 0.6, decoy=None, success=1 - noise, failure=noise, bernoulli=noise > 0,
        demonstrations=demonstrations, pairs=0, **fields,
    )  # fmt: skip


def trained(problem, agent, steps, replicas=6, seed=3):
    loop = Rollout(Run(problem, agent, steps, replicas, group=replicas, seed=seed))
    loop.advance(steps)
    return loop


def gold_range(record, name, noise):
    """From gold reward to the probability that the chosen response is right."""
    return (record[name] - noise) / (1 - 2 * noise)


@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_accumulated_rewards_are_soft_values_of_any_policy(beta):
    _, known = setting(TokenTree(4, 3))
    automaton = known.automaton
    every = all_responses(automaton)
    policy = random_policy(automaton, 0)
    reference = log_probability(automaton.reference, every).numpy()
    reward = beta * (log_probability(policy, every).numpy() - reference)
    accumulated = reward.cumsum(-1)
    for length in range(1, 5):
        # Responses that share their first tokens are neighbours in blocks of 3 ** rest.
        block = 3 ** (4 - length)
        rest = reference[..., length:].sum(-1).reshape(3, -1, block)
        total = reward.sum(-1).reshape(3, -1, block)
        expected = beta * np.log((np.exp(rest + total / beta)).sum(-1))
        seen = accumulated[..., length - 1].reshape(3, -1, block)
        assert np.abs(seen - expected[..., None]).max() < 1e-10


def test_the_exponential_of_a_log_ratio_has_mean_one_under_the_reference():
    _, known = setting(TokenTree(4, 3, prompts=2))
    every = all_responses(known.automaton, 1)
    reference = log_probability(known.automaton.reference, every).sum(-1)
    score = log_probability(random_policy(known.automaton, 1), every).sum(-1) - reference
    assert ((torch.exp(reference + score).sum(1) - 1).abs() < 1e-12).all()


def fitted_probability(success, failure, bias, steps=600):
    """What cross-entropy at beta = 1 predicts of the right and of a wrong token.

    One token, right with probability 0.4 under the reference; labels in exact proportions.
    """
    spec, known = setting(TokenLock(1, 2, competence=0.4, decoy=None, demonstrations=8), 1)
    right = int(known.automaton.reference[0, 0, 0].argmin())
    rows = [
        (token, label)
        for token, mass, chance in ((right, 40, success), (1 - right, 60, failure))
        for label, share in ((1.0, chance), (0.0, 1 - chance))
        for _ in range(round(mass * share))
    ]
    token = torch.tensor([[[token] for token, _ in rows]])
    label = torch.tensor([[label for _, label in rows]], dtype=torch.float64)
    shown = walk(known.automaton, torch.zeros(1, len(rows), dtype=torch.int64), token)
    agent = ImplicitPRM(beta=1.0, bias=bias, rate=0.03)
    state = agent.initial(spec, Rng(0, "initial", torch.arange(1)))
    for _ in range(steps):
        state = agent.classify(spec, state, CE(1.0), shown, label)
    pair = walk(known.automaton, torch.zeros(1, 2).long(), torch.tensor([[[right], [1 - right]]]))
    logit = agent.rewards(spec, state, pair).sum(-1) + state.memory.parameters
    return torch.sigmoid(logit)[0].numpy()


def test_cross_entropy_is_calibrated_where_the_mean_odds_are_one():
    # 0.4 * (0.6 / 0.4) + 0.6 * (0.4 / 0.6) = 1.
    assert fitted_probability(0.6, 0.4, False) == pytest.approx([0.6, 0.4], abs=1e-4)


def test_cross_entropy_cannot_be_calibrated_elsewhere_but_for_a_bias():
    # 0.4 * 9 + 0.6 / 9 = 3.67: the best law of the right token is the minimum of one function.
    def loss(p):
        logit = np.log([p / 0.4, (1 - p) / 0.6])
        chance = np.array([0.9, 0.1])
        nll = -chance * np.log(expit(logit)) - (1 - chance) * np.log(expit(-logit))
        return nll @ [0.4, 0.6]

    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-9})
    expected = expit(np.log([best.x / 0.4, (1 - best.x) / 0.6]))
    assert abs(expected[0] - 0.9) > 0.1
    assert fitted_probability(0.9, 0.1, False) == pytest.approx(expected, abs=1e-4)
    assert fitted_probability(0.9, 0.1, True) == pytest.approx([0.9, 0.1], abs=1e-3)


def test_gradient_of_cross_entropy_is_predicted_minus_observed():
    rng = np.random.default_rng(2)
    score = torch.tensor(-rng.gamma(2, 1, size=20), requires_grad=True)
    known, label = -torch.tensor(rng.gamma(2, 1, size=20)), torch.tensor(rng.integers(0, 2, 20))
    CE(0.3)(Labelled(score, known, label, torch.zeros(20))).sum().backward()
    ratio = 0.3 * (score.detach() - known).numpy()
    assert score.grad.numpy() == pytest.approx(0.3 * (expit(ratio) - label.numpy()), abs=1e-12)


def test_steps_sum_their_tokens_and_end_with_the_response():
    reward = torch.tensor([[[1.0, 2, 4, 8, 16], [1, 2, 4, 0, 0]]])
    mask = torch.tensor([[[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]])
    value, there = step_values(reward, mask, torch.tensor([[1.0, 0, 1, 1, 0]]))
    assert value.tolist() == [[[3, 4, 24, 0, 0], [3, 4, 0, 0, 0]]]
    assert there.tolist() == [[[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]]
    assert least(value, there).tolist() == [[3, 3]]
    assert least(-value.cumsum(-1), there).tolist() == [[-31, -7]]


def test_the_best_of_each_group_is_picked():
    score = torch.tensor([[0.1, 0.9, 0.5, 0.5, -3, -1]])
    gold = torch.tensor([[1.0, 2, 4, 8, 16, 32]])
    assert pick_best(score, gold, 2).tolist() == [pytest.approx((2 + 4 + 32) / 3)]
    assert pick_best(score, gold, 6).item() == 2


def test_votes_are_counted_by_answer():
    answer = torch.tensor([[3, 1, 1, 0, 0, 2]])
    gold = torch.tensor([[8.0, 2, 2, 1, 1, 4]])
    assert elected(answer, torch.ones(1, 6), gold, 6).item() == 2
    assert elected(answer, torch.tensor([[0.9, 0.3, 0.3, 0.1, 0.1, 0.2]]), gold, 6).item() == 8
    assert elected(answer, torch.ones(1, 6), gold, 3).item() == 1.5


def test_the_first_mistake_is_where_a_response_stops_being_sound():
    state = torch.tensor([[[0, 0, 1, 1, 1], [0, 2, 0, 1, 1], [0, 0, 2, 2, 0], [1, 1, 1, 1, 1]]])
    none = torch.zeros(1, 4).long()
    responses = Responses(none, state[..., 1:], state, none)
    place, made = first_mistake(torch.tensor([[True, False, True]]), responses)
    assert made.tolist() == [[True, True, False, False]]
    assert place[0, :2].tolist() == [1, 2]


def test_blame_is_shared_among_ties_and_counts_mistakes_alone():
    values = torch.tensor([[[0.0, -2, -1], [-1, -1, 5], [-9, 0, 0], [0, 0, -3]]])
    there = torch.tensor([[[True] * 3, [True] * 3, [True] * 3, [True, True, False]]])
    place = torch.tensor([[1, 0, 1, 0]])
    made = torch.tensor([[True, True, False, True]])
    # Found; one of two; no mistake; the last step does not exist, so that two tie at 0.
    assert found(values, there, place, made).item() == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found(values, there, place, torch.zeros(1, 4, dtype=torch.bool)).item() == 0


def test_completions_are_those_of_the_reference():
    _, known = setting(TokenTree(3, 3))
    every = all_responses(known.automaton)
    table = expected_outcome(known.automaton, known.rewards)
    reward = returns(known.rewards, every).numpy()
    law = log_probability(known.automaton.reference, every).numpy()
    ends = along(table, every).numpy()
    paid = np.cumsum(
        log_probability(known.rewards.token, every).numpy(), -1
    )  # a tree pays tokens or leaves
    for length in (1, 2):
        block = 3 ** (3 - length)
        weight = np.exp(law[..., length:].sum(-1)).reshape(3, -1, block)
        rest = (reward - paid[..., length - 1]).reshape(3, -1, block)
        seen = ends[..., length - 1].reshape(3, -1, block)
        assert np.abs((weight * rest).sum(-1)[..., None] - seen).max() < 1e-12


def test_the_outcome_model_is_a_smoothed_share():
    spec, known = setting(TokenLock(4, 3, competence=0.7, decoy=None, demonstrations=50))
    head = outcome_head(spec.known.tokens.data, 3)
    for replica in range(3):
        end = known.data.demonstration.state[replica, :, -1]
        alive = int((end == 0).sum())
        assert head[replica].tolist() == pytest.approx([(alive + 1) / (alive + 2),
                                                        1 / (52 - alive), 0.5])  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_leave_one_out_of_tokens_by_its_formula_and_the_released_code_beside_it(masked):
    random, group = np.random.default_rng(5), 4
    reward = random.normal(size=(2, 8, 5))
    length = random.integers(1, 6, size=(2, 8)) if masked else np.full((2, 8), 5)
    mask = np.arange(5) < length[..., None]
    tensors = torch.tensor(reward * mask), torch.tensor(mask).double()
    paper, released = (f(*tensors, group) for f in (leave_one_out_tokens, released_leave_one_out))
    for n, i in itertools.product(range(2), range(8)):
        first = i // group * group
        mean = {j: reward[n, j][mask[n, j]].mean() for j in range(first, first + group)}
        others = sum(mean[j] for j in mean if j != i) / (group - 1)
        expected = np.where(mask[n, i], reward[n, i] - others, 0)
        assert paper[n, i].numpy() == pytest.approx(expected, abs=1e-12)
        shift = np.where(mask[n, i], (reward[n, i] - mean[i]) / (group - 1), 0)
        assert (released - paper)[n, i].numpy() == pytest.approx(shift, abs=1e-12)


def test_leave_one_out_is_the_centred_reward_times_a_factor():
    reward = torch.tensor(np.random.default_rng(6).normal(size=(3, 12)))
    groups = reward.reshape(3, 4, 3)
    others = (groups.sum(-1, keepdim=True) - groups) / 2
    centred = 1.5 * (groups - groups.mean(-1, keepdim=True))
    torch.testing.assert_close(leave_one_out(reward, 3), (groups - others).flatten(1))
    torch.testing.assert_close(leave_one_out(reward, 3), centred.flatten(1))
    assert (leave_one_out(torch.ones(2, 6), 3) == 0).all()


def test_rewards_of_the_ideal_model_telescope_to_the_return_minus_the_optimal_value():
    _, known = setting(TokenTree(4, 3))
    beta = 0.4
    best = soft_optimum(known.automaton, known.rewards, beta)
    every = all_responses(known.automaton)
    ratio = log_probability(best.policy - known.automaton.reference, every)
    total = discounted(beta * ratio, 1.0)
    paid = log_probability(known.rewards.token, every)
    earned = torch.cat([torch.zeros_like(paid[..., :1]), paid.cumsum(-1)[..., :-1]], -1)
    rest = returns(known.rewards, every)[..., None] - earned
    value = best.value[:, :-1].gather(2, every.state[..., :-1].transpose(1, 2)).transpose(1, 2)
    assert (total - (rest - value)).abs().max() < 1e-12


def test_sums_are_discounted_towards_the_end():
    reward = torch.tensor([[[1.0, 2, 4]]])
    assert discounted(reward, 0.5).tolist() == [[[3, 4, 4]]]
    assert largest_return(torch.tensor([[[1.0, -5, 2], [9, 0, 0]]]),
                          torch.tensor([[[1.0, 1, 1], [0, 0, 0]]])).item() == 3  # fmt: skip
    assert largest_return(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).item() == 1


def test_prompts_that_always_or_never_succeed_are_left_out():
    outcome = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0]])
    assert prompts_to_keep(outcome, 4, 0.2, 0.8).tolist() == [[0] * 8 + [1] * 8]
    assert prompts_to_keep(outcome, 4, 0.5, 1.0).tolist() == [[1] * 4 + [0] * 8 + [1] * 4]


def test_labels_other_than_0_and_1_are_refused_by_row():
    with pytest.raises(ValueError, match=r"outcome of row 2, replica 1 is 0.5"):
        check_outcomes(torch.tensor([[0.0, 1, 1], [1, 0, 0.5]]))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (TokenTree(), "outcomes 0 or 1 alone"),
        (TokenLock(), "accepted: 0 or 1"),
        (TokenLock(decoy=None, demonstrations=0), "demonstrations = 0"),
        (TokenLock(20, decoy=None, competence=0.1), "differ in outcome"),
    ],
)
def test_problems_without_outcomes_are_refused(problem, message):
    with pytest.raises(ValueError, match=message):
        simulate(problem, ImplicitPRM(loss="dpo"), 2, 2, group=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "ipo"}, "loss"),
        ({"loss": "dpo", "bias": True}, "bias"),
        ({"best_of": 1}, "best_of"),
        ({"groups": 0}, "groups"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_fields_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ImplicitPRM(**fields)


def test_the_reference_itself_blames_and_prefers_nothing():
    problem = noisy_lock(100, 0.0)
    record = Rollout(Run(problem, ImplicitPRM(groups=64), 5, 4, group=4)).record()
    # All process rewards are 0: the first of equals is a random one, every step is blamed alike.
    assert record["found"].numpy() == pytest.approx(1 / 18)
    assert (record["best_sum"] - record["best_random"]).abs().max() < 0.1
    assert (record["sure_right"] == 0.5).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_ranks_successes_first(loss):
    record = trained(noisy_lock(500, 0.0), ImplicitPRM(loss=loss, groups=128), 150).record()
    exact = 1 - (1 - 0.6**6) ** 16  # of one success at least among 16
    # 768 groups: a standard error of 0.018.
    assert abs(record["best_possible"].mean() - exact) < 4 * 0.018
    for name in ("best_sum", "best_min", "best_min_accumulated"):
        assert (record["best_possible"] - record[name]).mean() < 0.05
    assert (record["best_outcome_model"] == record["best_possible"]).all()
    assert (record["best_completions"] == record["best_possible"]).all()


def test_blame_finds_the_first_mistake_with_noisy_labels_and_a_matched_scale():
    problem = noisy_lock(2000, 0.1)
    matched = trained(problem, ImplicitPRM(beta=0.5), 400, 4).record()
    assert matched["found"].mean() > 0.9
    small = trained(problem, ImplicitPRM(beta=0.05), 100, 4).record()
    assert small["found"].mean() < 0.5
    # Six keys, wrong with probability 0.4 each: the least likely one is any of those.
    share = [0.4**k * 0.6 ** (6 - k) * n for k, n in zip(range(1, 7), (6, 15, 20, 15, 6, 1),
                                                        strict=True)]  # fmt: skip
    expected = sum(p / k for k, p in enumerate(share, 1)) / sum(share)
    assert matched["found_unlikely"].mean().item() == pytest.approx(expected, abs=0.05)


def test_confidence_in_successes_is_bounded_by_normalisation_and_a_bias_raises_it():
    problem, beta = noisy_lock(1000, 0.1), 0.05
    bound = expit(beta * np.log(1 / 0.6**6))  # all mass of the policy on successes
    plain = trained(problem, ImplicitPRM(), 300, 3).record()["sure_right"]
    free = trained(problem, ImplicitPRM(bias=True), 300, 3).record()["sure_right"]
    assert (plain < bound).all()
    assert (free > plain).all()


def test_scorers_are_between_chance_and_the_best_there_is_on_chains():
    problem = TokenChain(steps=2, demonstrations=256)
    loop = trained(problem, ImplicitPRM(groups=64), 100, 4)
    record = loop.record()
    names = [n for n in record if n.startswith("best_")]
    assert len(names) == 9
    for name in names:
        assert (record[name] <= record["best_possible"]).all()
    for name in ("best_sum", "best_vote", "best_completions"):
        assert (record[name] - record["best_random"]).mean() > 0.1
    spec = loop.groups[0].spec
    assert spec.known.tokens.step_start[0].sum() == 2


def test_rewards_of_tables_vanish_after_the_end_and_sum_to_the_log_ratio():
    spec, known = setting(noisy_lock(50, 0.0))
    agent = ImplicitPRM(beta=0.3)
    state = agent.initial(spec, Rng(0, "initial", torch.arange(3)))
    logits = random_policy(known.automaton, 4)
    state = state._replace(policy=start_training(logits))
    shown = known.data.demonstration
    expected = TablePolicy().score(spec, logits, shown) - TablePolicy().reference(spec, shown)
    torch.testing.assert_close(agent.rewards(spec, state, shown), 0.3 * expected)
