"""RiverSwim, DeepSea, the stochastic chain and the two states: exact numbers and stepping laws."""

import numpy as np
import pytest
import torch

from rlkit import planning
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.tabular.deep_sea import DeepSea
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.envs.tabular.stochastic_chain import StochasticChain
from rlkit.envs.tabular.two_state import TwoState
from rlkit.tabular import held


def instance_of(problem, n=3, seed=1):
    return problem.instance(Streams(seed, torch.arange(n)).at("instance", 0))


def optimum(problem, **options):
    return problem.optimal_value(instance_of(problem, **options))


def test_river_swim_in_twenty_steps_is_worth_the_published_value():
    assert float(optimum(RiverSwim())) == pytest.approx(3.397264, abs=5e-7)


@pytest.mark.parametrize(
    ("states", "gain", "span"),
    [(6, 0.4286224338, 6.3103243082), (12, 0.4285714290, 14.8809523964),
     (20, 0.4285714286, 26.3095238095)],
)  # fmt: skip
def test_river_swim_without_end_has_the_published_gain_and_span(states, gain, span):
    problem = RiverSwim(states=states, horizon=None)
    instance = instance_of(problem)
    assert float(problem.optimal_value(instance)) == pytest.approx(gain, abs=6e-11)
    assert float(problem.span(instance)) == pytest.approx(span, abs=1e-9)


@pytest.mark.parametrize(("states", "steps"), [(6, 14.72234), (12, 34.72222), (20, 61.38889)])
def test_river_swim_has_the_published_diameter(states, steps):
    problem = RiverSwim(states=states, horizon=None)
    assert float(problem.diameter(instance_of(problem))) == pytest.approx(steps, abs=6e-6)


@pytest.mark.parametrize(("p", "q"), [(0.2, 0.3), (1.0, 0.05), (0.7, 1.0)])
@pytest.mark.parametrize("actions", [1, 2])
def test_two_states_have_their_closed_forms(p, q, actions):
    problem = TwoState(p=p, q=q, actions=actions)
    instance = instance_of(problem)
    assert float(problem.optimal_value(instance)) == pytest.approx(p / (p + q), abs=1e-10)
    assert float(problem.span(instance)) == pytest.approx(1 / (p + q), abs=1e-9)
    assert float(problem.diameter(instance)) == pytest.approx(1 / min(p, q), abs=1e-8)


@pytest.mark.parametrize("size", [2, 5, 10, 20])
def test_deep_sea_has_its_closed_forms(size):
    slip = 1 / size
    windy = (1 - slip) ** (size - 1) - 0.01 * (1 - (1 - slip) ** size)
    net = 0.99 - 0.01 * (size - 1) / size
    for swapped in (False, True):
        for problem, value in (
            (DeepSea(size=size, randomize_actions=swapped), 0.99),
            (DeepSea(size=size, randomize_actions=swapped, goal=0.99), net),
            (DeepSea(size=size, randomize_actions=swapped, stochastic=True), windy),
        ):
            values = optimum(problem).reshape(-1)
            assert torch.allclose(values, torch.full_like(values, value), atol=1e-12, rtol=0)


def test_deep_sea_of_five_rows_is_worth_the_published_value_and_not_what_bsuite_says():
    value = float(optimum(DeepSea(size=5, stochastic=True)))
    assert value == pytest.approx(0.40288, abs=5e-6)
    assert value > 0.8**4 - 0.01 + 2e-3


class BSuite:
    """The rules of bsuite's DeepSea, one scalar step after another, without its noise."""

    def __init__(self, size, mapping, goal=None):
        self.size, self.mapping, self.goal = size, mapping, goal
        self.row = self.column = 0

    def step(self, action, slips):
        right = action == self.mapping[self.row, self.column]
        reward = 0.0
        if self.column == self.size - 1 and right:
            reward += 1.0 if self.goal is None else self.goal + 0.01 / self.size
        if right:
            if not slips:
                self.column = min(self.column + 1, self.size - 1)
            reward -= 0.01 / self.size
        else:
            self.column = max(self.column - 1, 0)
        self.row += 1
        return reward, self.row == self.size


@pytest.mark.parametrize("goal", [None, 0.99])
@pytest.mark.parametrize("swapped", [False, True])
def test_deep_sea_steps_as_bsuite_does(swapped, goal):
    problem, n = DeepSea(size=6, randomize_actions=swapped, goal=goal), 20
    env = BatchedEnv(problem, n, seed=4)
    observation, _ = env.reset()
    model = held(env.instance).model
    generator = np.random.default_rng(1)
    # The mapping is read off where each action leads from the first cell of each row and column.
    after_one = model.successor[..., :-1, 1, 0] if swapped else model.successor[:-1, 1, 0]
    column_after = (after_one % 6).reshape(-1, 6, 6).expand(n, -1, -1)
    rights = torch.arange(6).clamp(max=4) + 1 == column_after
    rights[:, -1] = torch.as_tensor(
        (model.mean_reward[..., 30:36, 1] != 0).reshape(-1, 6).expand(n, -1)
    )
    mapping = rights.long().numpy()
    if not swapped:
        assert mapping.all()
    else:
        assert 0.4 < mapping.mean() < 0.6
        assert not (mapping == mapping[:1]).all()
    twins = [BSuite(6, mapping[row], goal) for row in range(n)]
    for _ in range(24):
        action = torch.as_tensor(generator.integers(2, size=n))
        twin_cells = [twin.row * 6 + twin.column for twin in twins]
        assert observation.tolist() == twin_cells
        observation, reward, terminated, truncated, _ = env.step(action)
        for row, twin in enumerate(twins):
            paid, ended = twin.step(int(action[row]), slips=False)
            assert float(reward[row]) == pytest.approx(paid, abs=1e-7)
            assert bool(terminated[row]) == ended
            if ended:
                twins[row] = BSuite(6, mapping[row], goal)
        assert not bool(truncated.any())


def test_windy_deep_sea_slips_one_time_in_size_and_is_noisy_at_both_ends_of_the_last_row():
    problem, n, size = DeepSea(size=4, stochastic=True), 40_000, 4
    instance, streams = instance_of(problem, n), Streams(3, torch.arange(n))
    state = problem.reset(instance, streams.at("reset", 0))
    one = torch.ones(n, dtype=torch.int64)
    out = problem.transition(instance, state, one, streams.at("env", 0))
    stays = (out.state.state == size).double().mean()
    assert abs(float(stays) - 1 / size) < 4.5 * (1 / size * (1 - 1 / size) / n) ** 0.5
    assert set(out.state.state.tolist()) == {size, size + 1}
    for cell in range(size**2):
        here = state._replace(state=torch.full((n,), cell))
        for action in (0, 1):
            step = problem.transition(
                instance, here, one * action, streams.at("env", 1 + 2 * cell + action)
            )
            spread = float(step.reward.double().std())
            noisy = cell in (size * (size - 1), size**2 - 1)
            assert spread == pytest.approx(1, abs=4.5 / (2 * n) ** 0.5) if noisy else spread == 0


def test_reward_noise_of_deep_sea_adds_to_that_of_the_ends():
    problem, n = DeepSea(size=3, stochastic=True, noise=0.5), 40_000
    instance, streams = instance_of(problem, n), Streams(3, torch.arange(n))
    state = problem.reset(instance, streams.at("reset", 0))
    for cell, deviation in ((0, 0.5), (8, 1.25**0.5)):
        here = state._replace(state=torch.full((n,), cell))
        out = problem.transition(instance, here, here.state * 0, streams.at("env", cell))
        error = 4.5 * deviation / (2 * n) ** 0.5
        assert float(out.reward.double().std()) == pytest.approx(deviation, abs=error)


def test_an_episode_of_deep_sea_has_one_step_a_row_and_ends_by_itself():
    env = BatchedEnv(DeepSea(size=7), 3, seed=1)
    env.reset()
    ends = [env.step(torch.ones(3, dtype=torch.int64))[2].tolist() for _ in range(14)]
    assert [step for step, flags in enumerate(ends) if flags[0]] == [6, 13]


@pytest.mark.parametrize("states", [3, 10, 25])
def test_the_chain_is_worth_never_turning(states):
    problem = StochasticChain(states=states)
    assert float(optimum(problem)) == pytest.approx((1 - 1 / states) ** (states - 1), abs=1e-12)
    spread = problem.noise_table(held(instance_of(problem)).model)
    assert spread.nonzero().tolist() == [[0, 0], [states - 1, 1]]


@pytest.mark.parametrize(
    "problem", [RiverSwim(states=3, horizon=4), StochasticChain(states=3), DeepSea(size=2)]
)
def test_the_optimal_value_is_that_of_the_best_of_all_policies(problem):
    """Every choice at every state and stage, valued in numpy."""
    model = held(instance_of(problem)).model
    states, horizon = model.size[0], problem.horizon
    kernel, reward, rows = model.kernel.numpy(), model.mean_reward.numpy(), np.arange(states)
    best = -np.inf
    for choice in np.ndindex(*[2] * (states * horizon)):
        value = np.zeros(states)
        for action in np.reshape(choice, (horizon, states)):
            value = reward[rows, action] + kernel[rows, action] @ value
        best = max(best, value[0])
    assert float(optimum(problem)) == pytest.approx(best, abs=1e-12)


def test_span_and_values_of_a_finite_horizon_are_those_of_its_first_stage():
    problem = RiverSwim()
    instance = instance_of(problem)
    value = planning.backward_induction(held(instance).model, 20).value[0]
    assert torch.allclose(problem.state_values(instance), value)
    assert float(problem.span(instance)) == pytest.approx(float(value.max() - value.min()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RiverSwim(states=1), r"states = 1 outside \[2, inf\)"),
        (lambda: RiverSwim(horizon=0), r"horizon = 0 outside \[1, inf\)"),
        (lambda: DeepSea(size=1), r"size = 1 outside \[2, inf\)"),
        (lambda: DeepSea(noise=-1.0), r"noise = -1.0 outside \[0, inf\)"),
        (lambda: DeepSea(goal=float("nan")), "goal = nan is not a finite number"),
        (lambda: TwoState(p=0.0), r"p = 0.0 outside \(0, 1\]"),
        (lambda: TwoState(q=1.5), r"q = 1.5 outside \(0, 1\]"),
        (lambda: TwoState(actions=0), r"actions = 0 outside \[1, inf\)"),
        (lambda: StochasticChain(states=True), "states = True is not an integer"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
