"""Q-learning for episodes, optimistic and epsilon-greedy, against loops written from the papers."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from rlkit.agents.tabular.q_learning import QLearning
from rlkit.agents.tabular.q_learning_ucb import QLearningUCB
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Box, Discrete, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tabular import TabularProblem

N, S, A, H, T = 3, 4, 2, 5, 400
SPEC = Spec(Discrete(S), Discrete(A), H, total_steps=T)
STREAM = Rng(0, "learn", torch.arange(N))


def transitions(steps, seed=0):
    """Random ones; state 3 ends the episode, and so does the limit."""
    rng = np.random.default_rng(seed)
    state, clock = rng.integers(0, 3, N), np.zeros(N, int)
    for _ in range(steps):
        action, following = rng.integers(0, A, N), rng.integers(0, S, N)
        reward = rng.random(N).astype(np.float32)
        over = following == 3
        last = over | (clock == H - 1)
        yield clock.copy(), Transition(
            torch.tensor(state), torch.tensor(action), torch.tensor(reward),
            torch.tensor(1.0 - over).float(), torch.tensor(following), torch.tensor(last),
        )  # fmt: skip
        state = np.where(last, rng.integers(0, 3, N), following)
        clock = np.where(last, 0, clock + 1)


def learned(agent, batches):
    state = agent.initial(SPEC, STREAM)
    for _, batch in batches:
        state = agent.learn(SPEC, state, batch, STREAM)
    return state.q.numpy()


def test_optimistic_q_learning_is_algorithm_1_of_jin_and_others():
    batches, scale = list(transitions(T)), 0.3
    q, value = np.full((N, H, S, A), float(H)), np.full((N, H + 1, S), float(H))
    value[:, H] = 0
    count = np.zeros((N, H, S, A))
    log = np.log(S * A * T / 0.05)
    for clock, b in batches:
        for n in range(N):
            h, s, a = clock[n], int(b.observation[n]), int(b.action[n])
            count[n, h, s, a] += 1
            t = count[n, h, s, a]
            rate, bonus = (H + 1) / (H + t), scale * np.sqrt(H**3 * log / t)
            ahead = value[n, h + 1, int(b.next_observation[n])] * float(b.discount[n])
            q[n, h, s, a] += rate * (float(b.reward[n]) + ahead + bonus - q[n, h, s, a])
            value[n, h, s] = min(H, q[n, h, s].max())
    ours = learned(QLearningUCB(scale), batches).reshape(q.shape)
    np.testing.assert_allclose(ours, q, rtol=1e-10)
    assert (q > H).any() and (q < H).any()


@pytest.mark.parametrize("gamma", [None, 0.9])
@pytest.mark.parametrize("step_size", [None, 0.25])
def test_q_learning_is_the_rule_of_watkins(gamma, step_size):
    batches = list(transitions(T))
    stages = H if gamma is None else 1
    q, count = np.full((N, stages + 1, S, A), 0.5), np.zeros((N, stages, S, A))
    q[:, stages] = 0
    for clock, b in batches:
        for n in range(N):
            h = clock[n] if gamma is None else 0
            s, a, following = (int(x[n]) for x in (b.observation, b.action, b.next_observation))
            count[n, h, s, a] += 1
            ahead = q[n, h + 1 if gamma is None else 0, following].max() * float(b.discount[n])
            rate = step_size or 1 / count[n, h, s, a]
            target = float(b.reward[n]) + (gamma or 1) * ahead
            q[n, h, s, a] += rate * (target - q[n, h, s, a])
    agent = QLearning(gamma=gamma, step_size=step_size, first_value=0.5)
    ours = learned(agent, batches).reshape(N, stages, S, A)
    np.testing.assert_allclose(ours, q[:, :stages], rtol=1e-12)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_only_the_discount_stops_a_discounted_learner_from_looking_ahead(discount, last):
    """An episode cut short is no end; an end is one."""
    agent = QLearning(gamma=0.5, step_size=1.0, first_value=8.0)
    number = torch.zeros(N, dtype=torch.int64)
    batch = Transition(
        number, number, torch.ones(N), torch.full((N,), discount), number + 1,
        torch.full((N,), last),
    )  # fmt: skip
    state = agent.learn(SPEC, agent.initial(SPEC, STREAM), batch, STREAM)
    assert state.q[:, 0, 0].tolist() == [1 + 0.5 * discount * 8] * N


@pytest.mark.parametrize("agent", [QLearning(), QLearningUCB()])
def test_the_last_stage_expects_nothing_more(agent):
    number = torch.zeros(N, dtype=torch.int64)
    state = agent.initial(SPEC, STREAM)._replace(stage=number + H - 1)
    batch = Transition(number, number, torch.full((N,), 0.25), torch.ones(N), number, number == 0)
    after = agent.learn(SPEC, state, batch, STREAM)
    bonus = 0 if isinstance(agent, QLearning) else np.sqrt(H**3 * np.log(S * A * T / 0.05))
    np.testing.assert_allclose(after.q[:, (H - 1) * S, 0], 0.25 + bonus, rtol=1e-12)
    assert not after.stage.any()


@dataclass(frozen=True)
class TwoRooms(TabularProblem):
    """Action 1 leads from room 0 to room 1, where action 0 pays 1; the best value is H - 1."""

    horizon: int = 4

    def model(self, rng: Rng) -> Model:
        successor = torch.tensor([[[0], [1]], [[1], [0]]])
        reward = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]]])
        law = torch.ones(2, 2, 1, dtype=torch.float64)
        return from_outcomes(successor, law, reward, torch.tensor([1.0, 0.0]))


def test_action_values_become_those_of_two_rooms_solved_by_hand():
    agent = QLearning(epsilon=1.0, step_size=1.0)
    loop = Rollout(Run(TwoRooms(), agent, 4000, 2, seed=1, group=2))
    loop.advance(4000)
    q = loop.groups[0].carry.agent.q.reshape(2, 4, 2, 2)
    left = np.arange(4, 0, -1)
    expected = np.stack([left - 2, left - 1, left, np.maximum(left - 2, 0)], 1).reshape(4, 2, 2)
    expected[3, 0], expected[3, 1, 1] = 0, 0
    reached = np.ones((4, 2, 2), bool)
    reached[0, 1] = False  # episodes start in room 0
    for replica in q:
        np.testing.assert_array_equal(replica.numpy()[reached], np.maximum(expected, 0)[reached])


def test_exploration_happens_at_its_rate_and_ties_are_broken_evenly():
    n = 40_000
    rng = Rng(2, "act", torch.arange(n))
    agent = QLearning(epsilon=0.3)
    state = agent.initial(SPEC, rng)
    where = torch.zeros(n, dtype=torch.int64)
    share = agent.act(SPEC, state, where, rng)[0].double().mean()
    assert abs(share - 0.5) < 4 * 0.5 / n**0.5
    state = state._replace(q=state.q + torch.tensor([0.0, 1.0]))
    share = agent.act(SPEC, state, where, rng)[0].double().mean()
    assert abs(share - 0.85) < 4 * (0.85 * 0.15 / n) ** 0.5


@pytest.mark.parametrize("agent", [QLearning(epsilon=0.2), QLearningUCB(0.02)])
def test_learners_lose_less_than_half_of_what_chance_loses(agent):
    final = []
    for who in (agent, QLearning(epsilon=1.0)):
        final.append(simulate(TwoRooms(), who, 800, 64, seed=4, group=64).metrics["regret"][-1])
    saved = (final[1] - 2 * final[0]).numpy()
    assert saved.mean() > 4 * saved.std() / 8


@pytest.mark.parametrize(
    ("agent", "fields", "words"),
    [
        (QLearning, {"epsilon": 1.1}, "epsilon"),
        (QLearning, {"gamma": 1.0}, "gamma"),
        (QLearning, {"step_size": 0.0}, "step_size"),
        (QLearning, {"first_value": float("nan")}, "first_value"),
        (QLearningUCB, {"scale": -1.0}, "scale"),
        (QLearningUCB, {"delta": 0.0}, "delta"),
        (QLearningUCB, {"reward_max": 0.0}, "reward_max"),
    ],
)
def test_fields_out_of_range_are_refused(agent, fields, words):
    with pytest.raises(ValueError, match=words):
        agent(**fields)


@pytest.mark.parametrize("agent", [QLearning(), QLearningUCB()])
def test_unsuitable_problems_are_refused(agent):
    for change, words in (
        ({"observation": Box((3,))}, "Discrete states"),
        ({"horizon": None}, "horizon = None"),
        ({"observation": Discrete(30_000)}, "300000 numbers a replica"),
    ):
        with pytest.raises(ValueError, match=words):
            agent.initial(replace(SPEC, **change), STREAM)
    QLearning(gamma=0.9).initial(replace(SPEC, horizon=None), STREAM)
