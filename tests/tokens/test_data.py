"""What is collected and observed, and data that are refused."""

import math

import pytest
import torch

from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.door import TokenDoor
from rlkit.envs.tokens.style import TokenStyle
from rlkit.envs.tokens.tree import TokenTree
from rlkit.random import Rng
from rlkit.tokens import (
    Data,
    Responses,
    Rewards,
    check_data,
    check_rewards,
    generate,
    read_tokens,
    returns,
    walk,
)
from rlkit.tokens.problem import sample

N = 3


def drawn(problem, n=N, seed=0):
    instance = problem.instance(Rng(seed, "instance", torch.arange(n)))
    return instance, instance.replica.knowledge


def changed(data, part, index, value):
    """`data` with one entry of one field changed; `part` such as "first.token"."""
    name, _, leaf = part.partition(".")
    tensor = (getattr(getattr(data, name), leaf) if leaf else getattr(data, name)).clone()
    tensor[index] = value
    if leaf:
        tensor = getattr(data, name)._replace(**{leaf: tensor})
    return data._replace(**{name: tensor})


def test_agents_observe_the_proxy_and_are_measured_by_gold():
    problem = TokenStyle(bonus=0.3, slope=float("inf"))
    instance, known = drawn(problem)
    rng = Rng(7, "env", torch.arange(N), 5)
    batch = sample(known.automaton, known.automaton.reference, 500, rng)
    step = problem.transition(instance, problem.reset(instance, rng), batch, rng)
    gold, proxy = returns(known.rewards, batch), returns(known.proxy, batch)
    assert ((gold - proxy).abs() > 0.2).any()
    torch.testing.assert_close(step.feedback.reward, proxy)
    ahead = torch.sign((proxy[:, ::2] - proxy[:, 1::2]).round(decimals=6))
    assert torch.equal(step.feedback.preferred, (ahead + 1) / 2)
    told = problem.diagnostics(instance, step.state, batch)["regret"]
    torch.testing.assert_close(told, problem.optimal_value(instance) - gold.mean(1))
    data = known.data
    torch.testing.assert_close(data.outcome, returns(known.proxy, data.demonstration))
    ahead = returns(known.proxy, data.first) - returns(known.proxy, data.second)
    assert torch.equal(data.preferred, (torch.sign(ahead.round(decimals=6)) + 1) / 2)


def test_where_nothing_is_misspecified_the_proxy_is_gold():
    known = drawn(TokenTree())[1]
    assert known.proxy is known.rewards
    assert known.prompt_tokens.shape == (N, 1, 0)
    assert (known.step_start == 1).all() and known.sound.all()


def test_demonstrations_come_in_groups_to_one_prompt():
    data = drawn(TokenChain(demonstrations=60, per_prompt=5))[1].data
    group = data.demonstration.prompt.reshape(N, 12, 5)
    assert (group == group[..., :1]).all()
    assert data.demonstration.prompt.unique().numel() == 4
    assert not torch.equal(data.demonstration.token[:, 0], data.demonstration.token[:, 1])


def test_a_teacher_without_errors_calls_equal_rewards_a_tie():
    data = drawn(TokenDoor(pairs=500, slope=float("inf")))[1]
    ahead = returns(data.proxy, data.data.first) - returns(data.proxy, data.data.second)
    assert torch.equal(data.data.preferred, (torch.sign(ahead.round(decimals=6)) + 1) / 2)
    assert set(data.data.preferred.unique().tolist()) == {0.0, 0.5, 1.0}


def test_a_mistaken_teacher_flips_its_share_and_calls_ties():
    exact = drawn(TokenTree(pairs=4000, slope=float("inf")))[1].data.preferred
    noisy = drawn(TokenTree(pairs=4000, slope=float("inf"), mistake=0.2))[1].data.preferred
    told = exact != 0.5
    flips = (exact != noisy).double().sum(1) / told.sum(1)
    assert ((flips - 0.2).abs() < 4 * math.sqrt(0.16 / 3000)).all()
    assert (told.sum(1) > 3000).all()
    data = drawn(TokenTree(pairs=4000, equal=0.5))[1]
    ahead = returns(data.proxy, data.data.first) - returns(data.proxy, data.data.second)
    assert torch.equal(data.data.preferred == 0.5, ahead.abs() < 0.5)
    assert set(data.data.preferred.unique().tolist()) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
    ("part", "index", "value", "message"),
    [
        ("preferred", (1, 7), 1.5, r"label of row \[1, 7\] is 1\.5; accepted: \[0, 1\]"),
        ("preferred", (0, 0), math.nan, r"label of row \[0, 0\] is nan"),
        ("outcome", (2, 5), math.inf, "outcome of row 5, replica 2 is inf; accepted: finite"),
        (
            "first.token",
            (0, 3, 2),
            5,
            "token 5 at position 2 of row 3, replica 0; accepted: 0 .. 4",
        ),
        ("second.token", (1, 0, 1), -1, "token -1 at position 1 of row 0, replica 1"),
        ("demonstration.prompt", (1, 9), 4, "prompt 4 of row 9, replica 1; accepted: 0 .. 1"),
        ("first.prompt", (1, 9), None, "pair 9 of replica 1 answers two prompts"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_row(part, index, value, message):
    known = drawn(TokenDoor(doors=2))[1]
    if value is None:
        value = 1 - known.data.first.prompt[index]
    with pytest.raises(ValueError, match=message):
        check_data(known.automaton, changed(known.data, part, index, value))


def test_a_response_that_the_reference_never_writes_is_refused_by_position():
    known = drawn(TokenStyle())[1]
    token = known.data.first.token.clone()
    token[1, 4] = torch.tensor([0, 9, 9, 0, 9, 9, 9, 9])  # goes on after its end
    first = walk(known.automaton, known.data.first.prompt, token)
    data = known.data._replace(first=first)
    with pytest.raises(
        ValueError, match="first responses of pairs: token 0 at position 3 of row 4"
    ):
        check_data(known.automaton, data)


def test_sequences_longer_than_the_horizon_are_refused():
    known = drawn(TokenDoor())[1]
    longer = Responses(*(x.repeat_interleave(2, -1) if x.dim() == 3 else x
                         for x in known.data.demonstration))  # fmt: skip
    with pytest.raises(ValueError, match="demonstrations have 16 tokens; accepted: the horizon, 8"):
        check_data(known.automaton, known.data._replace(demonstration=longer))
    with pytest.raises(ValueError, match="row 1 has 9 tokens; accepted: at most the horizon, 8"):
        read_tokens(known.automaton, [0, 0], [[1, 2], [0] * 9])


def test_empty_sets_are_refused_where_they_are_needed():
    known = drawn(TokenDoor(pairs=0, demonstrations=0))[1]
    check_data(known.automaton, known.data)
    for name in ("pairs", "demonstrations"):
        with pytest.raises(ValueError, match=f"{name} = 0; accepted"):
            check_data(known.automaton, known.data, [name])


def test_listed_tokens_are_read_as_they_are():
    known = drawn(TokenStyle())[1]
    token, length = read_tokens(known.automaton, [0, 1, 0], [[0, 9], [], [3, 2, 1]])
    assert token.shape == (N, 3, 8)
    assert token[0].tolist() == [[0, 9, 0, 0, 0, 0, 0, 0], [0] * 8, [3, 2, 1, 0, 0, 0, 0, 0]]
    assert length.tolist() == [[2, 0, 3]] * N
    with pytest.raises(ValueError, match="token 1 at position 2 of row 1; the reference never"):
        read_tokens(known.automaton, [0, 1], [[0], [2, 9, 1]])
    with pytest.raises(ValueError, match="token 10 at position 0 of row 0; accepted: 0 .. 9"):
        read_tokens(known.automaton, [0], [[10]])
    with pytest.raises(ValueError, match="prompt 2 of row 0; accepted: 0 .. 1"):
        read_tokens(known.automaton, [2], [[1]])


@pytest.mark.parametrize(
    ("part", "index", "message"),
    [
        ("token", (1, 2, 4, 3), "gold reward of time 2, state 4, token 3, replica 1 is nan"),
        ("token", (1, 2, 0, 3), r"state 0, token 3 \(where prompt 0 begins\), replica 1 is nan"),
        ("final", (2, 5), "gold reward of state 5, replica 2 is nan; accepted: finite"),
    ],
)
def test_rewards_that_are_not_finite_are_refused_by_place(part, index, message):
    known = drawn(TokenDoor())[1]
    table = getattr(known.rewards, part).clone()
    table[index] = math.nan
    with pytest.raises(ValueError, match=message):
        check_rewards(known.automaton, known.rewards._replace(**{part: table}), "gold")


def test_rewards_of_another_shape_are_refused():
    known = drawn(TokenDoor())[1]
    short = Rewards(known.rewards.token, known.rewards.final[:, 1:])
    with pytest.raises(ValueError, match=r"proxy final rewards have shape \[3, 5\]; accepted"):
        check_rewards(known.automaton, short, "proxy")


def test_instances_are_checked_when_they_are_drawn():
    class Broken(TokenDoor):
        def demonstrate(self, task, rng):
            shown = super().demonstrate(task, rng)
            return shown._replace(token=shown.token + 1)

    with pytest.raises(ValueError, match="demonstrations: token 5 at position"):
        drawn(Broken())


@pytest.mark.parametrize("problem", [TokenStyle(), TokenChain(), TokenDoor(doors=2)], ids=repr)
def test_a_response_from_a_prefix_is_the_whole_response_that_begins_so(problem):
    automaton, rewards = drawn(problem)[1].automaton, drawn(problem)[1].rewards
    rng = Rng(3, "act", torch.arange(N))
    prompt = torch.zeros(N, 40, dtype=torch.long)
    whole = generate(automaton, automaton.reference, prompt, rng)
    given = torch.arange(40).remainder(problem.horizon + 1).expand(N, 40)
    begun = torch.where(torch.arange(problem.horizon) < given[..., None], whole.token, -1)
    rest = generate(automaton, automaton.reference, prompt, rng, begun, given)
    assert torch.equal(rest.token, whole.token)
    assert torch.equal(rest.state, whole.state)
    torch.testing.assert_close(returns(rewards, rest), returns(rewards, whole))
    assert isinstance(drawn(problem)[1].data, Data)
