"""Grid worlds, and Gymnasium's tables: exact numbers, laws, refusals."""

import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv

from rlkit import grids
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.tabular.bifurcation import LAYOUTS, Bifurcation
from rlkit.envs.tabular.frozen_lake import MAPS, FrozenLake
from rlkit.envs.tabular.gridworld import GridWorld
from rlkit.envs.tabular.taxi import FENCES, STOPS, Taxi
from rlkit.tabular import held
from rlkit.transitions import from_transitions


def instance_of(problem, n=3, seed=1):
    return problem.instance(Streams(seed, torch.arange(n)).at("instance", 0))


def model_of(problem):
    return held(instance_of(problem)).model


def walk(layout):
    """Distance of every free cell to the nearest goal, by breadth first search on the string."""
    rows = layout.split("|")
    cells = {(r, c) for r, row in enumerate(rows) for c, mark in enumerate(row) if mark != "X"}
    distance = {cell: 0 for cell in cells if rows[cell[0]][cell[1]] == "G"}
    queue = list(distance)
    for r, c in queue:
        for cell in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if cell in cells and cell not in distance:
                distance[cell] = distance[r, c] + 1
                queue.append(cell)
    return distance


def soft_policy_value(model, gamma, epsilon):
    """Value of the start under the best policy that is uniform with probability `epsilon`.

    Value iteration in numpy: the mixture is part of the operator.
    """
    kernel, reward, start = model.kernel.numpy(), model.mean_reward.numpy(), model.start.numpy()
    value = np.zeros(len(start))
    for _ in range(2_000):
        q = reward + gamma * kernel @ value
        value = (1 - epsilon) * q.max(1) + epsilon * q.mean(1)
    return float(start @ value)


@pytest.mark.parametrize(
    ("grid", "cells", "value", "soft", "uniform"),
    [(1, 14, 0.531441, 0.5154, 0.02367), (2, 34, 0.478297, 0.4609, 0.00920),
     (3, 31, 0.656100, 0.6413, 0.04746), (4, 43, 0.531441, 0.5162, 0.01842)],
)  # fmt: skip
def test_bifurcation_grids_have_the_published_numbers(grid, cells, value, soft, uniform):
    problem = Bifurcation(grid=grid)
    instance = instance_of(problem)
    model = held(instance).model
    assert model.size == (cells + 1, 4)
    assert float(problem.optimal_value(instance)) == pytest.approx(value, abs=5e-7)
    assert soft_policy_value(model, 0.9, 0.05) == pytest.approx(soft, abs=5e-5)
    assert soft_policy_value(model, 0.9, 1.0) == pytest.approx(uniform, abs=5e-6)


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_every_cell_of_a_bifurcation_grid_is_worth_gamma_to_its_distance(grid):
    problem = Bifurcation(grid=grid)
    values = problem.state_values(instance_of(problem)).tolist()
    distance = walk(LAYOUTS[grid - 1])
    expected = [0.9 ** distance[cell] for cell in sorted(distance)] + [0.0]
    assert values == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("action", range(4))
def test_any_action_in_a_goal_cell_pays_one_and_ends_the_episode(action):
    model, maze = model_of(Bifurcation(grid=1)), grids.parse(LAYOUTS[0])
    goal = maze.free.index((2, 4))
    row = model.successor[goal, action], model.probability[goal, action], model.reward[goal, action]
    assert [part.tolist() for part in row] == [[14], [1.0], [1.0]]
    assert model.terminal.nonzero().tolist() == [[14]]


def test_a_walk_through_the_first_bifurcation_grid_is_paid_when_it_leaves_the_goal():
    env = BatchedEnv(Bifurcation(grid=1), 1, seed=1)
    start, _ = env.reset()
    rewards, ends = [], []
    for move in (1, 1, 1, 1, 0, 0, 3):
        _, reward, terminated, _, info = env.step(torch.tensor([move]))
        rewards.append(float(reward))
        ends.append(bool(terminated))
    assert rewards == [0.0] * 6 + [1.0]
    assert ends == [False] * 6 + [True]
    assert int(info["final_obs"]) == 14
    assert int(env.reset()[0]) == int(start) == 9


@pytest.mark.parametrize("slip", [0.0, 0.2, 1.0])
def test_grid_world_moves_and_slips_as_a_loop_over_cells_says(slip):
    layout = "S..X|.X..|..G.|...X"
    model = model_of(GridWorld(layout=layout, slip=slip, step_reward=-0.1, goal_reward=2.0))
    rows = layout.split("|")
    free = [(r, c) for r in range(4) for c in range(4) if rows[r][c] != "X"]
    steps = ((-1, 0), (0, 1), (1, 0), (0, -1))
    for state, (r, c) in enumerate(free):
        for action in range(4):
            law, pay = np.zeros(len(free)), 0.0
            if rows[r][c] == "G":
                law[state] = 1.0
            else:
                for turn, weight in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                    down, right = steps[(action + turn) % 4]
                    cell = (r + down, c + right)
                    cell = cell if cell in free else (r, c)
                    law[free.index(cell)] += weight
                    pay += weight * (-0.1 + 2.0 * (rows[cell[0]][cell[1]] == "G"))
            assert model.kernel[state, action].tolist() == pytest.approx(law.tolist())
            assert float(model.mean_reward[state, action]) == pytest.approx(pay)
    assert model.terminal.nonzero().tolist() == [[free.index((2, 2))]]
    assert model.start.tolist() == [1.0] + [0.0] * (len(free) - 1)


def test_grid_world_of_several_starts_begins_in_each_alike():
    model = model_of(GridWorld(layout="S.S|.G.|S.S"))
    assert model.start.tolist() == [0.25, 0, 0.25, 0, 0, 0, 0.25, 0, 0.25]


def test_the_optimum_of_a_deterministic_grid_is_the_shortest_way():
    problem = GridWorld(gamma=0.9)
    distance = walk(problem.layout)
    assert float(problem.optimal_value(instance_of(problem))) == pytest.approx(
        0.9 ** (distance[0, 0] - 1)
    )
    hurried = GridWorld(gamma=None, step_reward=-1.0, goal_reward=20.0, horizon=30)
    assert float(hurried.optimal_value(instance_of(hurried))) == 20.0 - distance[0, 0]


def compare(table, model):
    """Number of (state, action) rows that differ from Gymnasium's, terminal states left out."""
    mismatches = 0
    for state, actions in table.items():
        if bool(model.terminal[state]):
            continue
        for action, outcomes in actions.items():
            theirs = [
                (p, successor, float(reward), bool(ended))
                for p, successor, reward, ended in outcomes
            ]
            k = len(theirs)
            successors = model.successor[state, action, :k]
            ours = list(
                zip(
                    model.probability[state, action, :k].tolist(),
                    successors.tolist(),
                    model.reward[state, action].expand(model.probability.shape[-1])[:k].tolist(),
                    model.terminal[successors].tolist(),
                    strict=True,
                )
            )
            rest = float(model.probability[state, action, k:].sum())
            mismatches += ours != theirs or rest != 0.0
    return mismatches


@pytest.mark.parametrize("name", ["4x4", "8x8"])
@pytest.mark.parametrize("slippery", [True, False])
def test_frozen_lake_has_gymnasiums_tables(name, slippery):
    theirs = FrozenLakeEnv(map_name=name, is_slippery=slippery)
    model = model_of(FrozenLake(map=name, slippery=slippery))
    assert compare(theirs.P, model) == 0
    assert model.start.tolist() == theirs.initial_state_distrib.tolist()
    assert [bool(t) for t in model.terminal] == [mark in b"GH" for mark in theirs.desc.ravel()]


def test_frozen_lake_of_another_map_has_gymnasiums_tables():
    theirs = FrozenLakeEnv(desc=["SFHF", "FFFF", "HFFG"])
    model = model_of(FrozenLake(map="SFHF|FFFF|HFFG"))
    assert model.size == (12, 4)
    assert compare(theirs.P, model) == 0


def test_shipped_maps_are_gymnasiums():
    from gymnasium.envs.toy_text import frozen_lake

    assert {name: layout.split("|") for name, layout in MAPS.items()} == frozen_lake.MAPS


def test_taxi_has_gymnasiums_tables():
    theirs, model = TaxiEnv(), model_of(Taxi())
    assert model.size == (500, 6)
    assert int(model.terminal.sum()) == 100
    assert compare(theirs.P, model) == 0
    assert model.start.tolist() == theirs.initial_state_distrib.tolist()
    delivered = {
        s for rows in theirs.P.values() for row in rows.values() for _, s, _, end in row if end
    }
    assert all(bool(model.terminal[state]) for state in delivered)


def test_taxi_picture_stands_on_gymnasiums_map():
    theirs = TaxiEnv()
    assert list(STOPS) == theirs.locs
    walls = {(r, c) for r in range(5) for c in range(4) if theirs.desc[1 + r, 2 * c + 2] == b"|"}
    assert set(FENCES) == walls


def sweep(table, value):
    """Optimal values with one more step, of a table of outcomes."""
    return np.array(
        [
            max(
                sum(p * (reward + (0 if end else value[s])) for p, s, reward, end in row)
                for row in rows.values()
            )
            for rows in table.values()
        ]
    )


def test_taxi_is_worth_what_is_known_of_it():
    """The mean optimal return of Taxi is 7.93, by value iteration on Gymnasium's own tables."""
    theirs = TaxiEnv()
    value = np.zeros(500)
    for _ in range(40):
        value = sweep(theirs.P, value)
    problem = Taxi()
    expected = float(theirs.initial_state_distrib @ value)
    assert float(problem.optimal_value(instance_of(problem))) == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(7.93, abs=0.005)


def test_slippery_ice_is_crossed_as_often_as_value_iteration_on_gymnasiums_tables_says():
    theirs = FrozenLakeEnv()
    value = np.zeros(16)
    for _ in range(100):
        value = sweep(theirs.P, value)
    problem = FrozenLake()
    assert float(problem.optimal_value(instance_of(problem))) == pytest.approx(value[0], abs=1e-12)


def test_the_optimal_policy_of_the_lake_reaches_its_value():
    """4,000 episodes of the optimal policy, within 4.5 standard errors."""
    problem, n = FrozenLake(), 4_000
    env = BatchedEnv(problem, n, seed=1)
    env.reset()
    paid, alive = torch.zeros(n), torch.ones(n, dtype=torch.bool)
    for _ in range(problem.horizon):
        _, reward, terminated, truncated, _ = env.step(
            problem.optimal_action(env.instance, env.state)
        )
        paid += alive * reward
        alive &= ~(terminated | truncated)
    value = float(problem.optimal_value(env.instance))
    assert abs(float(paid.mean()) - value) < 4.5 * (value * (1 - value) / n) ** 0.5


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("S.|..G", "layout has 3 cells in row 2 and 2 in row 1"),
        ("", "layout has an empty row 1"),
        ("|SG", "layout has an empty row 1"),
        ("S..|.Q.|..G", "layout has 'Q' in row 2, column 2; accepted: X wall, S start"),
        ("...|..G", "layout has no start; accepted: at least one 'S'"),
        ("S..|...", "layout has no goal; accepted: at least one 'G'"),
        ("SX.|XXG", "no way to a goal from the start in row 1, column 1"),
        ("S.G|XXX|S..", "no way to a goal from the start in row 3, column 1"),
    ],
)
def test_malformed_layouts_are_refused_with_the_place(layout, message):
    with pytest.raises(ValueError, match=message):
        GridWorld(layout=layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridWorld(slip=1.1), r"slip = 1.1 outside \[0, 1\]"),
        (lambda: GridWorld(gamma=1.0), r"gamma = 1.0 outside \[0, 1\)"),
        (lambda: GridWorld(horizon=0), r"horizon = 0 outside \[1, inf\)"),
        (lambda: GridWorld(step_reward=float("inf")), "step_reward = inf is not a finite number"),
        (lambda: GridWorld(goal_reward=True), "goal_reward = True is not a number"),
        (lambda: Bifurcation(grid=5), r"grid = 5 outside \[1, 4\]"),
        (lambda: Bifurcation(gamma=-0.1), r"gamma = -0.1 outside \[0, 1\)"),
        (lambda: Bifurcation(horizon=2.5), "horizon = 2.5 is not an integer"),
        (lambda: FrozenLake(map="5x5"), "map = '5x5' unknown; accepted: 4x4, 8x8, or rows"),
        (lambda: FrozenLake(map="SF|FX"), "layout has 'X' in row 2, column 2; accepted: S start"),
        (lambda: FrozenLake(map="SH|HG"), "no way to a goal from the start in row 1, column 1"),
        (lambda: Taxi(horizon=0), r"horizon = 0 outside \[1, inf\)"),
        (lambda: Taxi(gamma=2.0), r"gamma = 2.0 outside \[0, 1\)"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tables_that_contradict_their_terminal_states_are_refused():
    table = {0: {0: [(1.0, 1, 0.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    start = torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="state 0, action 0 ends the episode in state 1"):
        from_transitions(table, start, torch.tensor([False, False]))
    table[0][0] = [(1.0, 1, 0.0, False)]
    with pytest.raises(ValueError, match="state 0, action 0 does not end the episode in state 1"):
        from_transitions(table, start, torch.tensor([False, True]))
    table[0][0] = [(0.9, 1, 0.0, True)]
    with pytest.raises(ValueError, match="probability of state 0, action 0 sums to 0.9"):
        from_transitions(table, start, torch.tensor([False, True]))
