"""Token tasks as Gymnasium environments."""

import gymnasium
import numpy as np
import pytest
import torch

import rlkit  # noqa: F401
from rlkit.adapters.single import SingleEnv
from rlkit.engine import BatchedEnv
from rlkit.envs.tokens.chain import TokenChain
from rlkit.envs.tokens.door import TokenDoor
from rlkit.envs.tokens.style import TokenStyle
from rlkit.random import Rng
from rlkit.tokens import best_policy, by_prompt, evaluate, returns, state_values
from rlkit.tokens.problem import sample

NAMES = ["Bigram", "Chain", "DFA", "Door", "Grammar", "Lock", "Style", "Tree"]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_can_be_made_and_played_with_its_mask(name):
    env = gymnasium.make(f"rlkit/Token{name}-v0")
    _, info = env.reset(seed=3)
    env.action_space.seed(0)
    ended = steps = 0
    while ended < 5:
        assert info["action_mask"].dtype == np.int8
        assert info["action_mask"].shape == (env.action_space.n,)
        token = env.action_space.sample(mask=info["action_mask"])
        _, _, terminated, truncated, info = env.step(token)
        steps += 1
        assert steps < 200
        if terminated or truncated:
            ended += 1
            assert terminated and not truncated
            _, info = env.reset()


def test_a_response_ends_with_its_end_token():
    env = gymnasium.make("rlkit/TokenStyle-v0")
    env.reset(seed=0)
    known = env.unwrapped.batch.instance.replica.knowledge
    prompt = int(env.unwrapped.batch.state.state[0]) // 4
    topics = known.prompt_tokens[0, prompt].tolist()
    flag = 7
    paid = []
    for token in (*topics, flag, 9):
        _, reward, terminated, _, _ = env.step(token)
        paid.append(reward)
        assert terminated == (token == 9)
    assert paid == pytest.approx([-0.05, -0.05, 0.05, 1.0])


@pytest.mark.parametrize("problem", [TokenStyle(), TokenDoor(doors=2)], ids=repr)
def test_play_that_ends_early_pays_what_the_padded_response_does(problem):
    env = BatchedEnv(problem, 200, seed=3)
    observation, _ = env.reset()
    tables = env.instance.replica
    known = tables.knowledge
    state = observation % known.automaton.states
    prompt = (known.automaton.origin == state[:, None]).long().argmax(1, keepdim=True)
    rng = Rng(1, "x", torch.arange(200))
    batch = sample(known.automaton, known.automaton.reference, 1, rng, prompt)
    total, regret = torch.zeros(200), torch.zeros(200).double()
    running = torch.ones(200, dtype=torch.bool)
    for time in range(problem.horizon):
        # Rows that are over have begun anew: any legal token will do there.
        fresh = env.masks()["action_mask"].long().argmax(1)
        token = torch.where(running, batch.token[:, 0, time], fresh)
        _, reward, over, _, info = env.step(token)
        total += torch.where(running, reward, 0.0)
        regret += torch.where(running, info["regret"], 0.0)
        ended = known.over.gather(1, batch.state[:, 0, time + 1, None]).squeeze(1)
        last = ended | torch.tensor(time == problem.horizon - 1)
        assert torch.equal(over[running], last[running])
        running &= ~over
    assert not running.any()
    torch.testing.assert_close(total, returns(known.proxy, batch)[:, 0].float())
    gold, best = known.rewards, best_policy(known.automaton, known.rewards)
    start = by_prompt(known.automaton, state_values(known.automaton, gold, best))
    top = start.gather(1, prompt).squeeze(1)
    torch.testing.assert_close(regret, top - returns(gold, batch)[:, 0])


def test_a_reset_to_a_prefix_goes_on_where_it_ended():
    problem = TokenChain()
    env = BatchedEnv(problem, 50, seed=1)
    env.reset()
    known = env.instance.replica.knowledge
    prompt = torch.full((50, 1), 2)
    whole = sample(known.automaton, known.automaton.reference, 1, Rng(4, "x", torch.arange(50)),
                   prompt)  # fmt: skip
    prefix = whole.token[0, 0, :5].tolist()
    same = (whole.token[:, 0, :5] == whole.token[0, 0, :5]).all(-1)
    observation, info = env.reset(options={"prompt": 2, "prefix": prefix})
    assert torch.equal(observation // known.automaton.states, torch.full((50,), 5))
    assert torch.equal((observation % known.automaton.states)[same], whole.state[same, 0, 5])
    assert info["action_mask"].all()
    total = torch.zeros(50)
    for time in range(5, 12):
        _, reward, over, _, _ = env.step(whole.token[:, 0, time])
        total += reward
        assert bool(over.all()) == (time == 11)
    torch.testing.assert_close(total[same], returns(known.rewards, whole)[same, 0].float())


def test_single_environments_start_from_prefixes_too():
    env = gymnasium.make("rlkit/TokenDoor-v0")
    env.reset(seed=5)
    known = env.unwrapped.batch.instance.replica.knowledge
    key = known.prompt_tokens[0, 0].tolist()
    observation, info = env.reset(options={"prefix": key})
    assert observation == 3 * known.automaton.states + 3
    assert info["action_mask"].tolist() == [1] * 5
    _, reward, terminated, _, _ = env.step(4)
    assert terminated and reward == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 2}, "prompt 2 of row 0; accepted: 0 .. 1"),
        ({"prefix": [1]}, "prefix without a prompt; accepted: prompt 0 .. 1"),
        ({"prompt": 0, "prefix": [1, 9]}, "prefix of 2 tokens ends the response"),
        ({"prompt": 0, "prefix": [1, 9, 1]}, "token 1 at position 2 of row 0; the reference never"),
        ({"prompt": 0, "prefix": [1, 12]}, "token 12 at position 1 of row 0; accepted: 0 .. 9"),
        ({"prompt": 0, "prefix": [1] * 9}, "row 0 has 9 tokens"),
        ({"prompt": 0, "prefix": [1] * 8}, "prefix of 8 tokens ends the response"),
        ({"promt": 1}, "option = 'promt' unknown; did you mean 'prompt'"),
        ({"prompt": 1.7}, r"prompt = 1\.7; accepted: an integer"),
        ({"prompt": 0, "prefix": [0.9]}, r"prefix = \[0\.9\]; accepted: a list of integers"),
        ({"prompt": 0, "prefix": "12"}, "prefix = '12'; accepted: a list of integers"),
        ({"prompt": 0, "prefix": 3}, "prefix = 3; accepted: a list of integers"),
    ],
)
def test_prefixes_that_cannot_go_on_are_refused(options, message):
    env = gymnasium.make("rlkit/TokenStyle-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)


class Muted(TokenDoor):
    """A door of which the reference never writes token 1 at position 2."""

    def tokens(self, rng):
        task = super().tokens(rng)
        reference = task.automaton.reference.clone()
        reference[:, 2, :-2, 1] = -torch.inf
        reference = torch.log_softmax(reference, -1)
        return task._replace(automaton=task.automaton._replace(reference=reference))


def test_illegal_tokens_are_refused_by_environments_and_read_as_legal_by_the_engine():
    problem = Muted(keys=1, vocabulary=4)
    env = BatchedEnv(problem, 3, seed=0)
    env.reset()
    for _ in range(2):
        env.step(torch.zeros(3, dtype=torch.long))
    assert not env.masks()["action_mask"][:, 1].any()
    with pytest.raises(ValueError, match=r"action 1 at position 2 of row 0 is illegal; accepted:"):
        env.step(torch.ones(3, dtype=torch.long))
    rng = Rng(0, "env", torch.arange(3), 9)
    ones, zeros = torch.ones(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    made = [problem.transition(env.instance, env.state, a, rng).state.state for a in (ones, zeros)]
    assert torch.equal(*made)
    told = [problem.diagnostics(env.instance, env.state, a)["regret"] for a in (ones, zeros)]
    assert torch.equal(*told) and torch.isfinite(told[0]).all()
    one = gymnasium.make("rlkit/TokenStyle-v0").unwrapped
    one.reset(seed=0)
    assert one.batch.masks()["action_mask"].all()


def test_legal_tokens_after_a_time_limit_are_those_of_the_last_observation():
    env = SingleEnv(Muted(keys=1, vocabulary=4), max_episode_steps=2)
    env.reset(seed=0)
    env.step(0)
    _, _, terminated, truncated, info = env.step(0)
    assert truncated and not terminated
    assert info["action_mask"].tolist() == [1, 0, 1, 1]
    assert env.reset()[1]["action_mask"].tolist() == [1, 1, 1, 1]


def test_prefixes_may_be_tensors_and_arrays():
    env = gymnasium.make("rlkit/TokenStyle-v0")
    env.reset(seed=0)
    seen = [
        env.reset(options={"prompt": prompt, "prefix": prefix})[0]
        for prompt, prefix in ((1, [2, 3]), (np.int64(1), np.array([2, 3])))
    ]
    seen.append(env.reset(options={"prompt": 1, "prefix": torch.tensor([2, 3])})[0])
    assert len(set(seen)) == 1


def test_the_reference_played_token_by_token_earns_its_exact_reward():
    problem = TokenDoor()
    env = BatchedEnv(problem, 4000, seed=2)
    observation, _ = env.reset()
    known = env.instance.replica.knowledge
    automaton = known.automaton
    total, running = torch.zeros(4000), torch.ones(4000, dtype=torch.bool)
    row = torch.arange(4000)
    random = np.random.default_rng(0)
    for _ in range(problem.horizon):
        time, state = observation // automaton.states, observation % automaton.states
        cdf = automaton.reference[row, time, state].exp().cumsum(-1)
        token = (torch.tensor(random.random(4000))[:, None] >= cdf).sum(-1).clamp(max=4)
        observation, reward, over, _, _ = env.step(token)
        total += torch.where(running, reward, 0.0)
        running &= ~over
    exact = evaluate(automaton, known.rewards, automaton.reference, 1.0).reward
    assert abs(total.mean() - exact.mean()) < 4 * total.std() / 4000**0.5
