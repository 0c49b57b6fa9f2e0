"""Random models and the linear programs that solve them independently of the planners."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from rlkit.models import Dense, Model, from_outcomes

Draw = Callable[..., Model]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def garnet() -> Draw:
    """Random models: every row has `branching` distinct successors; pays of outcomes differ."""

    def draw(seed, states, actions, branching=None, replicas=None, ends=0) -> Model:
        rng = np.random.default_rng(seed)
        k = branching or states
        lead = () if replicas is None else (replicas,)
        shape = (*lead, states, actions, k)
        order = rng.random((*shape[:-1], states)).argsort(-1)[..., :k]
        terminal = np.zeros((*lead, states), dtype=bool)
        terminal[..., states - ends :] = True
        return from_outcomes(
            torch.tensor(order),
            torch.tensor(rng.dirichlet(np.ones(k), shape[:-1])),
            torch.tensor(rng.normal(size=shape)),
            torch.tensor(rng.dirichlet(np.ones(states), lead or None)),
            torch.tensor(terminal),
        )

    return draw


@pytest.fixture
def arrays() -> Callable[[Model], tuple[np.ndarray, np.ndarray]]:
    """Kernel and mean reward of a model by a loop over its outcomes."""

    def build(model: Model):
        successor, probability = model.successor.numpy(), model.probability.numpy()
        reward = np.broadcast_to(model.reward.numpy(), probability.shape)
        *lead, states, actions, _ = probability.shape
        kernel = np.zeros((*lead, states, actions, states))
        mean = np.zeros((*lead, states, actions))
        for place in np.ndindex(probability.shape):
            kernel[(*place[:-1], successor[place])] += probability[place]
            mean[place[:-1]] += probability[place] * reward[place]
        return kernel, mean

    return build


@pytest.fixture
def discounted_program():
    """Optimal values of `min sum v` such that `v >= r_a + gamma P_a v`."""

    def solve(kernel, reward, gamma):
        states, actions = reward.shape
        rows = np.vstack([gamma * kernel[:, a] - np.eye(states) for a in range(actions)])
        right = np.concatenate([-reward[:, a] for a in range(actions)])
        return program(np.ones(states), rows, right)

    return solve


@pytest.fixture
def horizon_program():
    """Optimal values `[H, S]` of the program over all stages at once."""

    def solve(kernel, reward, horizon):
        states, actions = reward.shape
        rows, right = [], []
        for h in range(horizon):
            for s in range(states):
                for a in range(actions):
                    row = np.zeros((horizon + 1, states))
                    row[h, s] = -1
                    row[h + 1] += kernel[s, a]
                    rows.append(row.ravel())
                    right.append(-reward[s, a])
        last = np.eye((horizon + 1) * states)[-states:]
        cost = np.ones((horizon + 1) * states)
        out = program(cost, np.array(rows), right, last, np.zeros(states))
        return out.reshape(horizon + 1, states)[:-1]

    return solve


@pytest.fixture
def average_program():
    """Optimal gain of `min g` such that `g + h >= r_a + P_a h`."""

    def solve(kernel, reward):
        states, actions = reward.shape
        rows = np.vstack([kernel[:, a] - np.eye(states) for a in range(actions)])
        rows = np.hstack([rows, -np.ones((len(rows), 1))])
        right = np.concatenate([-reward[:, a] for a in range(actions)])
        return program(np.eye(states + 1)[-1], rows, right)[-1]

    return solve


def program(cost, rows, right, equal=None, values=None):
    """Solution of a linear program in free variables."""
    result = linprog(
        cost, rows, right, equal, values, bounds=(None, None), method="highs-ds", options=TIGHT
    )
    assert result.success
    return result.x


TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@pytest.fixture
def river_swim() -> Callable[..., Dense]:
    """The chain of the average-reward literature, with states in front that only lead into it."""

    def build(states, transient=0):
        first, last = transient, transient + states - 1
        kernel = np.zeros((last + 1, 2, last + 1))
        for s in range(first, last + 1):
            kernel[s, 0, max(first, s - 1)] = 1.0
            if first < s < last:
                kernel[s, 1, s - 1 : s + 2] = 0.05, 0.6, 0.35
        kernel[first, 1, first : first + 2] = 0.4, 0.6
        kernel[last, 1, last - 1 : last + 1] = 0.4, 0.6
        for s in range(transient):  # half the time it stays, half the time it enters
            kernel[s, :, s] = 0.5
            kernel[s, :, first] = 0.5
        reward = np.zeros((last + 1, 2))
        reward[first, 0], reward[last, 1] = 0.005, 1.0
        return Dense(torch.tensor(kernel), torch.tensor(reward))

    return build
