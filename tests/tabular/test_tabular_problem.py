"""What `TabularProblem` simulates is what its tables say, and its regret is the classical one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rlkit import planning, tiers
from rlkit.engine import BatchedEnv, Streams
from rlkit.envs.tabular.deep_sea import DeepSea
from rlkit.envs.tabular.garnet import Garnet
from rlkit.models import Model, from_outcomes
from rlkit.random import Rng
from rlkit.registry import load
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tabular import TabularProblem, TabularState, held

STATES, ACTIONS, OUTCOMES, KINDS = 5, 3, 4, 3
SLOW = pytest.mark.slow
UNIFORM = load("agent", "uniform")()


@dataclass(frozen=True)
class Drawn(TabularProblem):
    """Random tables: outcomes of different pay, two of them in one state, one terminal state."""

    own: bool = True
    outcome_pay: bool = True
    ends: bool = True
    gamma: float | None = None
    noise: float = 0.0
    horizon: int | None = 6

    def model(self, rng: Rng) -> Model:
        generator = np.random.default_rng(11)
        shape = (KINDS, STATES, ACTIONS, OUTCOMES)
        successor = generator.integers(STATES, size=shape)
        law = generator.dirichlet(np.full(OUTCOMES, 0.7), size=shape[:-1])
        law[..., 0, 1, :] = [0.0, 1.0, 0.0, 0.0]
        pay = generator.normal(size=(*shape[:-1], OUTCOMES if self.outcome_pay else 1))
        start = generator.dirichlet(np.ones(STATES - 1), size=KINDS)
        start = np.concatenate([start, np.zeros((KINDS, 1))], 1)
        kind = rng.replica % KINDS if self.own else 1
        tables = [torch.as_tensor(table)[kind] for table in (successor, law, pay, start)]
        return from_outcomes(*tables, torch.arange(STATES) == (STATES - 1 if self.ends else -1))


def instance_of(problem, n, seed=1):
    return problem.instance(Streams(seed, torch.arange(n)).at("instance", 0))


def law_of(model: Model, row: int, state: int, action: int) -> dict[tuple[int, float], float]:
    """Probability of every (successor, pay) of a state and action, summed in plain Python."""
    probability, successor = model.probability, model.successor
    reward = model.reward.expand(probability.shape)
    if model.batched:
        probability, successor, reward = probability[row], successor[row], reward[row]
    law: dict[tuple[int, float], float] = {}
    for k in range(OUTCOMES):
        key = int(successor[state, action, k]), float(reward[state, action, k].float())
        law[key] = law.get(key, 0.0) + float(probability[state, action, k])
    return law


def chi_square(law: dict, seen: list) -> float:
    """Tail probability of the counts of `seen` under `law`; impossible outcomes are refused."""
    counts = dict.fromkeys(law, 0)
    for key in seen:
        assert law.get(key, 0.0) > 0, f"{key} has probability 0"
        counts[key] += 1
    likely = [key for key in law if law[key] * len(seen) >= 5]
    rest = 1 - sum(law[key] for key in likely)
    observed = np.array([counts[key] for key in likely])
    expected = np.array([law[key] * len(seen) for key in likely])
    statistic = ((observed - expected) ** 2 / expected).sum()
    if rest * len(seen) > 5:
        other = len(seen) - observed.sum()
        statistic += (other - rest * len(seen)) ** 2 / (rest * len(seen))
    cells = len(likely) + (rest * len(seen) > 5)
    return 1.0 if cells < 2 else float(chi2.sf(statistic, cells - 1))


@pytest.mark.parametrize("own", [True, False], ids=["own tables", "shared tables"])
@pytest.mark.parametrize("outcome_pay", [True, False], ids=["pay by outcome", "pay by action"])
def test_successors_and_their_pay_follow_the_tables(own, outcome_pay):
    """36 or 12 laws of 8,000 draws each: no tail probability below one in a million."""
    problem, n = Drawn(own=own, outcome_pay=outcome_pay), 8_000 * (KINDS if own else 1)
    instance, streams = instance_of(problem, n), Streams(3, torch.arange(n))
    model, zero = held(instance).model, torch.zeros(n, dtype=torch.int64)
    tails = []
    for step, (state, action) in enumerate(np.ndindex(STATES - 1, ACTIONS)):
        here = TabularState(zero + state, zero)
        out = problem.transition(instance, here, zero + action, streams.at("env", step))
        assert torch.equal(out.discount, (out.state.state != STATES - 1).float())
        assert bool((out.state.stage == 1).all())
        pairs = list(zip(out.state.state.tolist(), out.reward.tolist(), strict=True))
        for kind in range(KINDS if own else 1):
            seen = pairs[kind::KINDS] if own else pairs
            tails.append(chi_square(law_of(model, kind, state, action), seen))
    assert min(tails) > 1e-6
    assert max(tails) > 0.5


@pytest.mark.parametrize("own", [True, False], ids=["own tables", "shared tables"])
def test_starts_follow_their_law(own):
    problem, n = Drawn(own=own), 9_000
    instance = instance_of(problem, n)
    state = problem.reset(instance, Streams(3, torch.arange(n)).at("reset", 0))
    assert bool((state.stage == 0).all())
    start = held(instance).model.start.reshape(-1, STATES)
    for kind in range(KINDS if own else 1):
        seen = state.state[kind::KINDS].tolist() if own else state.state.tolist()
        assert chi_square(dict(enumerate(start[kind].tolist())), seen) > 1e-4


def test_a_start_given_for_all_replicas_is_every_replicas_start():
    class Certain(Drawn):
        def model(self, rng):
            return super().model(rng)._replace(start=torch.eye(STATES, dtype=torch.float64)[2])

    problem = Certain()
    instance = instance_of(problem, 9)
    assert held(instance).model.start.shape == (9, STATES)
    assert held(instance).stepping.start.shape == (9, 1)
    state = problem.reset(instance, Streams(3, torch.arange(9)).at("reset", 0))
    assert state.state.tolist() == [2] * 9


def policy_value(model: Model, kind: int, choose, problem: Drawn) -> float:
    """Exact value of the start under action probabilities `choose(h)` `[S, A]`, in numpy."""
    kernel, reward = model.kernel, model.mean_reward
    start = model.start
    if model.batched:
        kernel, reward, start = kernel[kind], reward[kind], start[kind]
    value = np.zeros(STATES)
    for h in reversed(range(problem.horizon)):
        q = reward.numpy() + (problem.gamma or 1.0) * kernel.numpy() @ value
        value = (choose(h) * q).sum(1)
    return float(start.numpy() @ value)


@pytest.mark.parametrize("own", [True, False], ids=["own tables", "shared tables"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_gaps_add_up_to_the_difference_of_optimal_and_achieved_value(own, noise):
    """One episode of uniform actions a replica; differences within 4.5 standard errors."""
    problem, n = Drawn(own=own, noise=noise), 12_000
    instance = instance_of(problem, n)
    model, best = held(instance).model, problem.optimal_value(instance).reshape(-1)
    env = BatchedEnv(problem, n, seed=1)
    env.reset()
    regret, total = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    alive = torch.ones(n, dtype=torch.bool)
    for step in range(problem.horizon):
        action = Streams(8, env.replica).at("act", step).integers("action", ACTIONS)
        _, reward, terminated, _, info = env.step(action)
        regret += alive * info["regret"]
        total += alive * reward
        alive &= ~terminated
    uniform = np.full((STATES, ACTIONS), 1 / ACTIONS)
    for kind in range(KINDS if own else 1):
        exact = policy_value(model, kind, lambda h: uniform, problem)
        own_regret, own_total = (
            (regret[kind::KINDS], total[kind::KINDS]) if own else (regret, total)
        )
        for sample, claim in ((own_regret, float(best[kind]) - exact), (own_total, exact)):
            error = float(sample.std() / len(sample) ** 0.5)
            assert abs(float(sample.mean()) - claim) < 4.5 * error


def test_regret_of_the_rollout_loop_is_the_classical_regret():
    """Uniform actions for 50 episodes of RiverSwim: within 4.5 standard errors."""
    problem = load("problem", "RiverSwim-v0")()
    instance = instance_of(problem, 1)
    history = simulate(problem, UNIFORM, 50 * problem.horizon, 400, seed=2)
    regret = history.metrics["regret"][-1]
    kernel, reward = held(instance).model.kernel.mean(1), held(instance).model.mean_reward.mean(1)
    value = torch.zeros(problem.states, dtype=torch.float64)
    for _ in range(problem.horizon):
        value = reward + kernel @ value
    claim = 50 * float(problem.optimal_value(instance) - value[0])
    assert abs(float(regret.mean()) - claim) < 4.5 * float(regret.std() / 400**0.5)


@pytest.mark.parametrize("own", [True, False], ids=["own tables", "shared tables"])
@pytest.mark.parametrize(("gamma", "horizon"), [(None, 6), (0.9, 6), (0.9, None), (None, None)])
def test_gaps_of_each_objective_are_those_of_its_planner(own, gamma, horizon):
    problem = Drawn(own=own, gamma=gamma, horizon=horizon, ends=horizon is not None)
    instance, n = instance_of(problem, 7), 7
    model = held(instance).model
    if gamma is not None:
        q = planning.policy_iteration(model, gamma).q
    elif horizon is not None:
        q = planning.backward_induction(model, horizon).q
    else:
        q = planning.gain_and_bias(model).q
    generator = np.random.default_rng(5)
    state, action = (torch.as_tensor(generator.integers(k, size=n)) for k in (STATES, ACTIONS))
    stage = torch.as_tensor(generator.integers(6, size=n)) if problem.staged else ()
    here = TabularState(state, stage)
    told = problem.diagnostics(instance, here, action)
    best = problem.optimal_action(instance, here)
    policy = problem.optimal_policy(instance)
    for row in range(n):
        table = q[row] if own else q
        mine = policy[row] if own else policy
        if problem.staged:
            table, mine = table[stage[row]], mine[stage[row]]
        table = table[state[row]]
        gap = float(table.max() - table[action[row]])
        assert float(told["regret"][row]) == pytest.approx(gap, abs=1e-12)
        assert bool(told["optimal"][row]) == (gap <= 1e-9)
        assert int(best[row]) == int(table.argmax()) == int(mine[state[row]])


def test_a_longer_time_limit_than_the_horizon_stays_at_its_last_stage():
    problem = Drawn(ends=False)
    env = BatchedEnv(problem, 5, seed=1, max_episode_steps=20)
    env.reset()
    for _ in range(19):
        assert torch.isfinite(env.step(torch.zeros(5, dtype=torch.int64))[-1]["regret"]).all()
    assert env.state.stage.tolist() == [problem.horizon - 1] * 5


def test_replicas_have_the_same_tables_and_luck_in_any_company():
    problem = Drawn(noise=0.3)
    parts = [(BatchedEnv(problem, n, seed=1, first_replica=first)) for first, n in ((0, 9), (4, 2))]
    for env in parts:
        env.reset()
    for step in range(25):
        rows = []
        for env in parts:
            action = Streams(8, env.replica).at("act", step).integers("action", ACTIONS)
            observation, reward, *_, info = env.step(action)
            rows.append(torch.stack([observation.double(), reward.double(), info["regret"]]))
        assert torch.equal(rows[0][:, 4:6], rows[1])


def test_noise_is_normal_with_the_stated_deviation_everywhere():
    problem, n = Drawn(own=False, outcome_pay=False, noise=0.5, ends=False), 20_000
    instance, streams = instance_of(problem, n), Streams(3, torch.arange(n))
    zero = torch.zeros(n, dtype=torch.int64)
    out = problem.transition(instance, TabularState(zero, zero), zero + 2, streams.at("env", 0))
    noise = out.reward - held(instance).model.mean_reward[0, 2].float()
    assert abs(float(noise.mean())) < 4.5 * 0.5 / n**0.5
    assert abs(float(noise.var()) - 0.25) < 4.5 * 0.25 * (2 / n) ** 0.5


def test_reward_range_does_not_depend_on_what_replicas_drew():
    assert problem_range(Drawn(own=True)) == (float("-inf"), float("inf"))
    assert problem_range(Drawn(own=False, noise=0.1)) == (float("-inf"), float("inf"))
    low, high = problem_range(Drawn(own=False))
    pays = held(instance_of(Drawn(own=False), 1)).model.reward.float()
    assert (low, high) == (float(pays.min()), float(pays.max()))


def problem_range(problem):
    return problem.spec(instance_of(problem, 3)).reward_range


def test_terminal_states_need_a_time_limit():
    with pytest.raises(ValueError, match="horizon = None, but there are terminal states"):
        instance_of(Drawn(gamma=0.9, horizon=None), 2)


def test_more_states_than_labels_are_refused():
    class Huge(TabularProblem):
        horizon = 1

        def model(self, rng):
            n = 2**20 + 1
            one, start = torch.ones(n, 1, 1), torch.zeros(n)
            start[0] = 1
            return from_outcomes(torch.zeros(n, 1, 1, dtype=torch.int64), one, one, start)

    with pytest.raises(ValueError, match="1048577 states; accepted: up to 1048576"):
        instance_of(Huge(), 1)


@pytest.mark.skipif(not tiers.has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize(
    "problem",
    [
        Drawn(noise=0.3),
        pytest.param(Drawn(own=False, gamma=0.9), marks=SLOW),
        pytest.param(DeepSea(size=4, stochastic=True, randomize_actions=True), marks=SLOW),
        pytest.param(Garnet(shared=True, horizon=9), marks=SLOW),
    ],
)
def test_the_compiled_scan_steps_as_the_eager_loop_does(problem):
    """States, actions and gaps to the last bit; sums of noisy rewards to rounding."""
    run = Run(problem, UNIFORM, 100, 48, group=48)
    loops = Rollout(run), Rollout(replace(run, tier="compiled"), chunk=16)
    for loop in loops:
        loop.advance(100)
    assert loops[1].tier == "compiled"
    eager, compiled = (loop.state() for loop in loops)
    for name, leaf in eager.items():
        tolerance = 1e-5 if "reward" in name else 0.0
        assert torch.allclose(leaf.double(), compiled[name].double(), rtol=0, atol=tolerance), name
