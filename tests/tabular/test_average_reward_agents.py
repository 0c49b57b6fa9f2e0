"""UCRL2, TSDE, optimistic Q-learning and certainty equivalence, against plain loops."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlkit.agents.tabular.epsilon_greedy_model import EpsilonGreedyModel
from rlkit.agents.tabular.optimistic_q import OptimisticQ
from rlkit.agents.tabular.tsde import TSDE
from rlkit.agents.tabular.ucrl2 import UCRL2
from rlkit.envs.bandits.gaussian import GaussianBandit
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.models import from_outcomes
from rlkit.optimism import relative_value_iteration
from rlkit.planning import gain_and_bias
from rlkit.protocol import Box, Discrete, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate
from rlkit.tabular import TabularProblem

N, S, A = 6, 3, 2
GAIN, LEFT = 0.4286224338, 20_000 * (0.4286224338 - 0.005)  # of RiverSwim, spec 20-A.5 and A.6


def spec(horizon=None, steps=400, **known):
    return Spec(Discrete(S), Discrete(A), horizon, Known(**known), steps, reward_range=(0.0, 1.0))


def rng(stream="initial", step=0, n=N):
    return Rng(3, stream, torch.arange(n), step)


def experience(seed, steps, horizon=None, n=N):
    """Random transitions `[n]` a step as a list of dicts; chains where nothing ends."""
    draw = np.random.default_rng(seed)
    state, stage, found = draw.integers(0, S, n), np.zeros(n, int), []
    kernel = draw.dirichlet(np.full(S, 0.7), (S, A))
    for _ in range(steps):
        action = draw.integers(0, A, n)
        rows = kernel[state, action]
        following = np.array([draw.choice(S, p=row) for row in rows])
        reward, stage = draw.random(n).astype(np.float32), stage + 1
        last = np.zeros(n, bool) if horizon is None else stage == horizon
        found.append({"s": state, "a": action, "r": reward, "next": following, "last": last})
        state, stage = np.where(last, draw.integers(0, S, n), following), stage * ~last
    return found


def batch(step):
    s, a, r, following, last = (torch.as_tensor(step[k]) for k in ("s", "a", "r", "next", "last"))
    return Transition(s, a, r, torch.ones_like(r), following, last)


def feed(agent, told, steps):
    """States of the agent before and after each step."""
    states = [agent.initial(told, rng(n=len(steps[0]["s"])))]
    for time, step in enumerate(steps):
        at = rng("learn", time, len(step["s"]))
        states.append(agent.learn(told, states[-1], batch(step), at))
    return states


def tables(steps, replica):
    """Counts `[S, A, S]` and sums of rewards `[S, A]` by a loop."""
    count, reward = np.zeros((S, A, S)), np.zeros((S, A))
    for step in steps:
        s, a = step["s"][replica], step["a"][replica]
        count[s, a, step["next"][replica]] += 1
        reward[s, a] += step["r"][replica]
    return count, reward


def jaksch_phases(steps, replica, horizon):
    """Steps before each phase: it ends when its visits of a pair reach those before, or 1."""
    starts, before, within = [0], np.zeros((S, A)), np.zeros((S, A))
    for time, step in enumerate(steps):
        within[step["s"][replica], step["a"][replica]] += 1
        full = (within >= np.maximum(1, before)).any()
        if full and (horizon is None or step["last"][replica]):
            starts.append(time + 1)
            before, within = before + within, np.zeros((S, A))
    return starts


def ouyang_phases(steps, replica):
    """Algorithm 1 of Ouyang et al. (2017), with its own time from 1."""
    starts, count = [], np.zeros((S, A))
    time, start = 1, 0
    while time <= len(steps):
        length, start, then = time - start, time, count.copy()
        starts.append(time - 1)
        while time <= start + length and (count <= 2 * then).all() and time <= len(steps):
            step = steps[time - 1]
            count[step["s"][replica], step["a"][replica]] += 1
            time += 1
    if time == start + length + 1 or not (count <= 2 * then).all():
        starts.append(time - 1)
    return starts


def starts_of(phases):
    """Steps before each phase, per replica, from the states after each step."""
    began = torch.stack([phase.began for phase in phases]).numpy()
    return [sorted(set(column.tolist())) for column in began.T]


@pytest.mark.parametrize("horizon", [None, 4])
@pytest.mark.parametrize("agent", [UCRL2(), EpsilonGreedyModel()], ids=["ucrl2", "greedy"])
def test_phases_end_where_counts_have_doubled(agent, horizon):
    steps = experience(0, 200, horizon)
    states = feed(agent, spec(horizon), steps)
    for replica, found in enumerate(starts_of(states)):
        expected = jaksch_phases(steps, replica, horizon)
        assert found == expected
        assert states[-1].phases[replica].item() == len(expected)


def test_phases_of_tsde_are_those_of_the_paper():
    steps = experience(1, 200)
    states = [state.phase for state in feed(TSDE(), spec(), steps)]
    for replica, found in enumerate(starts_of(states)):
        expected = ouyang_phases(steps, replica)
        assert found == expected
        assert states[-1].phases[replica].item() == len(expected)


@pytest.mark.parametrize("horizon", [None, 5])
def test_experience_is_counted_as_in_a_loop(horizon):
    steps = experience(2, 60, horizon)
    agents = [UCRL2(), EpsilonGreedyModel()] + ([TSDE()] if horizon is None else [])
    for agent in agents:
        state = feed(agent, spec(horizon), steps)[-1]
        seen = (state.phase if isinstance(agent, TSDE) else state).experience
        for replica in range(N):
            count, reward = tables(steps, replica)
            assert np.array_equal(seen.visits[replica].numpy(), count)
            assert np.array_equal(seen.count[replica].numpy(), count.sum(-1))
            np.testing.assert_allclose(seen.reward[replica].numpy(), reward, atol=1e-12)


def test_a_state_that_ended_an_episode_is_worth_nothing_in_plans():
    agents = (UCRL2(scale=0.01), EpsilonGreedyModel())
    over = torch.tensor([False, True]).repeat(N // 2)
    at, two = torch.zeros(N, dtype=torch.int64), torch.full((N,), 2)
    step = Transition(at, at, torch.zeros(N), 1 - over.float(), two, over)
    for agent in agents:
        state = agent.learn(spec(3), agent.initial(spec(3), rng()), step, rng("learn"))
        assert state.experience.count[over, 0, 0].tolist() == [1] * (N // 2)
        assert state.episode.stage.tolist() == [1, 0] * (N // 2)
        model = (agent.plausible if isinstance(agent, UCRL2) else agent.estimate)(
            spec(3), state, torch.arange(N)
        )
        assert torch.equal(model.goes_on[:, 2] == 0, over)
        assert (model.goes_on[:, :2] == 1).all()


def best_row(p, radius, u):
    q, order = p.copy(), np.argsort(u)
    q[order[-1]] = min(1.0, p[order[-1]] + radius / 2)
    for worst in order:
        q[worst] = max(0.0, q[worst] - max(0.0, q.sum() - 1))
    return q


def optimistic_gain(kernel, reward, radius, policy=None):
    """Extended value iteration, row by row; of one policy if given."""
    u = np.zeros(S)
    for _ in range(3000):
        q = np.array(
            [
                [reward[s, a] + best_row(kernel[s, a], radius[s, a], u) @ u for a in range(A)]
                for s in range(S)
            ]
        )
        best = q.max(1) if policy is None else q[np.arange(S), policy]
        step = best - u
        u = u + 0.9 * (step - step[0])
        if np.ptp(step) < 1e-9:
            return step.mean()
    raise AssertionError("no convergence")


@pytest.mark.parametrize(("scale", "delta"), [(1.0, 0.05), (0.3, 0.05), (0.05, 0.2)])
def test_the_policy_of_ucrl2_is_optimistic_to_the_accuracy_of_its_phase(scale, delta):
    agent, steps = UCRL2(scale=scale, delta=delta), experience(3, 250)
    states = feed(agent, spec(), steps)
    for replica in range(3):
        start = jaksch_phases(steps, replica, None)[-1]
        count, paid = tables(steps[:start], replica)
        visits, t = np.maximum(1, count.sum(-1)), start + 1
        assert count.sum(-1).min() > 0
        radius = scale * np.sqrt(14 * S * math.log(2 * A * t / delta) / visits)
        width = scale * np.sqrt(7 * math.log(2 * S * A * t / delta) / (2 * visits))
        reward = np.minimum(1, paid / visits + width)
        kernel = count / visits[..., None]
        model = agent.plausible(spec(), states[start], torch.tensor([replica]))
        np.testing.assert_allclose(model.kernel[0].numpy(), kernel, atol=1e-12)
        np.testing.assert_allclose(model.reward[0].numpy(), reward, atol=1e-12)
        np.testing.assert_allclose(model.radius[0].numpy(), radius, atol=1e-12)
        value = states[start].value[replica : replica + 1]
        swept = model.lookahead(value).amax(-1) - value
        assert swept.max() - swept.min() < 1 / math.sqrt(t)
        policy = states[-1].policy[replica].numpy()
        own = optimistic_gain(kernel, reward, radius, policy)
        assert own >= optimistic_gain(kernel, reward, radius) - 1 / math.sqrt(t)


def test_the_episodic_plan_of_ucrl2_is_optimistic_backward_induction():
    horizon, steps = 4, experience(4, 200, 4)
    state = feed(UCRL2(scale=0.05), spec(horizon), steps)[-1]
    for replica in range(N):
        start = jaksch_phases(steps, replica, horizon)[-1]
        count, paid = tables(steps[:start], replica)
        visits, t = np.maximum(1, count.sum(-1)), start + 1
        radius = 0.05 * np.sqrt(14 * S * math.log(2 * A * t / 0.05) / visits)
        width = 0.05 * np.sqrt(7 * math.log(2 * S * A * t / 0.05) / (2 * visits))
        reward, u = np.minimum(1, paid / visits + width), np.zeros(S)
        for h in reversed(range(horizon)):
            q = np.array(
                [
                    [
                        reward[s, a] + best_row(count[s, a] / visits[s, a], radius[s, a], u) @ u
                        for a in range(A)
                    ]
                    for s in range(S)
                ]
            )
            assert np.ptp(q, axis=1).min() > 1e-9
            assert np.array_equal(state.policy[replica, h].numpy(), q.argmax(1))
            u = q.max(1)


def test_what_is_due_plans_the_same_alone_as_in_company():
    steps = experience(5, 80)
    for agent in (UCRL2(scale=0.1), TSDE(), EpsilonGreedyModel(), OptimisticQ(scale=0.1)):
        together = feed(agent, spec(), steps)[-1]
        alone = feed(agent, spec(), [{k: v[:1] for k, v in step.items()} for step in steps])[-1]
        leaves = torch.utils._pytree.tree_leaves
        for a, b in zip(leaves(together), leaves(alone), strict=True):
            assert torch.equal(a[:1], b)


@dataclass(frozen=True)
class Paid(TabularProblem):
    """Three states; arriving in one pays 0 or 1, so that rewards are random."""

    def model(self, rng):
        draw = np.random.default_rng(8)
        kernel = torch.as_tensor(draw.dirichlet(np.full(S, 0.8), (S, A)))
        successor = torch.arange(S).expand(S, A, S)
        reward = torch.as_tensor(draw.integers(0, 2, (S, A, S))).double()
        return from_outcomes(successor, kernel, reward, torch.tensor([1.0, 0.0, 0.0]))


def coverage(agent, replicas=300, steps=300):
    """Share of replicas whose set kept the truth and whose gain was optimistic, at 12 times."""
    problem = Paid()
    loop = Rollout(Run(problem, agent, steps, replicas, group=replicas))
    truth = problem.model(rng()).dense()
    gain = gain_and_bias(problem.model(rng())).gain
    inside = torch.ones(replicas, dtype=torch.bool)
    for until in range(25, steps + 1, 25):
        loop.advance(until)
        group = loop.groups[0]
        sets = agent.plausible(group.spec, group.carry.agent, torch.arange(replicas))
        seen = group.carry.agent.experience.count > 0
        near = (sets.kernel - truth.kernel).abs().sum(-1) <= sets.radius
        ok = (near & (sets.reward >= truth.reward)) | ~seen
        zero, fine = torch.zeros(replicas, S).double(), torch.full((replicas,), 1e-6).double()
        found = relative_value_iteration(sets, zero, fine, 2000)
        inside &= ok.flatten(1).all(1) & (found.gain >= gain - 1e-6)
    return inside.double().mean().item()


def test_the_sets_of_ucrl2_hold_the_truth_as_often_as_promised():
    assert coverage(UCRL2(delta=0.2)) >= 0.8
    assert coverage(UCRL2(delta=0.2, scale=0.1)) < 0.8  # so that the count could have failed


def policy_gains(kernel, reward):
    for policy in itertools.product(range(A), repeat=S):
        chain = kernel[np.arange(S), policy]
        system = np.vstack([chain.T - np.eye(S), np.ones(S)])
        law = np.linalg.lstsq(system, np.append(np.zeros(S), 1.0), rcond=None)[0]
        yield policy, law @ reward[np.arange(S), policy]


def test_tsde_plays_the_gain_optimal_policy_of_its_sample():
    agent, told, steps = TSDE(alpha=1.0), spec(), experience(6, 120)
    states = feed(agent, told, steps)
    for replica in range(N):
        time = int(states[-1].phase.began[replica])
        rows, draws = torch.tensor([replica]), Rng(3, "learn", torch.tensor([replica]), time - 1)
        model = agent.sample(told, states[time].phase, rows, draws)
        found = dict(policy_gains(model.kernel[0].numpy(), model.reward[0].numpy()))
        played = tuple(states[time].phase.policy[replica].tolist())
        assert found[played] >= max(found.values()) - agent.tolerance


def test_plans_that_are_cut_short_are_counted():
    steps = experience(6, 50)
    for sweeps, share in ((1, 1.0), (5000, 0.0)):
        agent = TSDE(alpha=1.0, sweeps=sweeps, tolerance=1e-9)
        state = feed(agent, spec(), steps)[-1]
        told = agent.diagnostics(spec(), state)
        assert torch.equal(told["cut_plans"], (share * told["phases"]).long())


def test_samples_of_tsde_have_the_mean_of_the_dirichlet_posterior():
    n, steps = 4000, experience(7, 30, n=1)
    steps = [{k: np.repeat(v, 4000) for k, v in step.items()} for step in steps]
    agent = TSDE(alpha=0.5)
    phase = feed(agent, spec(), steps)[-1].phase
    model = agent.sample(spec(), phase, torch.arange(n), rng("fresh", n=n))
    count, _ = tables(steps, 0)
    expected = (count + 0.5) / (count + 0.5).sum(-1, keepdims=True)
    error = model.kernel.std(0) / math.sqrt(n)
    assert ((model.kernel.mean(0) - torch.as_tensor(expected)).abs() < 5 * error).all()


def test_known_rewards_are_used_by_every_planner_row_by_row():
    reward = torch.rand(N, S, A, generator=torch.Generator().manual_seed(0))
    told, rows = spec(reward=reward), torch.tensor([4, 1])
    for agent in (UCRL2(known_reward=True), EpsilonGreedyModel(known_reward=True)):
        state = agent.initial(told, rng())
        model = (agent.plausible if isinstance(agent, UCRL2) else agent.estimate)(told, state, rows)
        assert torch.equal(model.reward, reward[rows].double())
    agent = TSDE(known_reward=True)
    sample = agent.sample(told, agent.initial(told, rng()).phase, rows, rng(n=2))
    assert torch.equal(sample.reward, reward[rows].double())


def test_optimistic_q_is_the_update_of_the_paper():
    agent, told, steps = OptimisticQ(scale=0.1, span=2.0, delta=0.1), spec(), experience(9, 400)
    horizon = agent.effective_horizon(told)
    state = feed(agent, told, steps)[-1]
    for replica in range(N):
        q = np.full((S, A), horizon)
        low, count = q.copy(), np.zeros((S, A))
        for step in steps:
            s, a = step["s"][replica], step["a"][replica]
            count[s, a] += 1
            rate = (horizon + 1) / (horizon + count[s, a])
            bonus = 0.1 * 4 * 2 * math.sqrt(horizon * math.log(2 * 400 / 0.1) / count[s, a])
            target = step["r"][replica] + (1 - 1 / horizon) * low[step["next"][replica]].max()
            q[s, a] = (1 - rate) * q[s, a] + rate * (target + bonus)
            low[s, a] = min(low[s, a], q[s, a])
        np.testing.assert_allclose(state.q[replica].reshape(S, A).numpy(), q, atol=1e-12)
        np.testing.assert_allclose(state.least[replica].reshape(S, A).numpy(), low, atol=1e-12)


def test_effective_horizon_by_hand():
    """T = 20,000, S A = 12, delta = .1: cube root of 122.6, T / (S A) over ln 800,000."""
    told = Spec(Discrete(6), Discrete(2), total_steps=20_000, reward_range=(0.0, 1.0))
    assert OptimisticQ().effective_horizon(told) == pytest.approx(4.9683, abs=1e-3)
    short = OptimisticQ(span=0.001).effective_horizon(told)
    assert short == 2.0
    bound = OptimisticQ(span=0.01).effective_horizon(told)
    assert bound == pytest.approx(math.sqrt(0.01 * 20_000 / 12))
    assert OptimisticQ(horizon=50.0).effective_horizon(told) == 50.0


def test_one_pair_without_bonus_is_worth_its_discounted_reward():
    """Spec 20-A.7: the value goes to r / (1 - gamma); the error falls as n^-(1 + 1 / H)."""
    told = Spec(Discrete(1), Discrete(1), total_steps=10_000, reward_range=(0.0, 1.0))
    agent, one = OptimisticQ(scale=0.0, horizon=4.0), torch.zeros(1, dtype=torch.int64)
    state = agent.initial(told, rng(n=1))
    reward, on, never = torch.full((1,), 0.25), torch.ones(1), torch.zeros(1, dtype=torch.bool)
    step = Transition(one, one, reward, on, one, never)
    for time in range(10_000):
        state = agent.learn(told, state, step, rng("learn", time, 1))
    assert state.least.item() == pytest.approx(0.25 * 4, abs=5e-4)


def test_the_ends_of_the_rewards_scale_optimistic_values():
    steps, told = experience(10, 100), spec()
    wide = Spec(told.observation, told.action, None, told.known, 400, reward_range=(-3.0, 5.0))
    moved = [{**step, "r": (8 * step["r"] - 3).astype(np.float32)} for step in steps]
    a = feed(OptimisticQ(span=2.0), told, steps)[-1]
    b = feed(OptimisticQ(span=16.0), wide, moved)[-1]
    torch.testing.assert_close(a.q, b.q, atol=1e-5, rtol=0)
    c = feed(UCRL2(scale=0.05), told, steps)[-1]
    d = feed(UCRL2(scale=0.05), wide, moved)[-1]
    assert torch.equal(c.policy, d.policy)


def relabelled(steps, states, actions):
    s, a = np.argsort(states), np.argsort(actions)
    return [{**t, "s": s[t["s"]], "next": s[t["next"]], "a": a[t["a"]]} for t in steps]


def test_relabelling_states_and_actions_relabels_what_is_learnt():
    steps, states, actions = experience(11, 300), [2, 0, 1], [1, 0]
    other = relabelled(steps, states, actions)
    for agent in (UCRL2(scale=0.02), EpsilonGreedyModel()):
        for horizon in (None, 5):
            mine, theirs = experience(11, 300, horizon), None
            theirs = relabelled(mine, states, actions)
            a, b = (feed(agent, spec(horizon), x)[-1].policy for x in (mine, theirs))
            assert torch.equal(torch.argsort(torch.tensor(actions))[a][..., states], b)
    a, b = (feed(OptimisticQ(scale=0.1), spec(), x)[-1].least for x in (steps, other))
    assert torch.equal(a.reshape(N, S, A)[:, states][:, :, actions], b.reshape(N, S, A))


def test_ties_are_broken_at_random():
    """Nothing seen: under UCRL2 every action is as good, in each replica and state on its own."""
    policy = UCRL2().initial(spec(), rng(n=2000)).policy.double()
    assert (policy.mean(0) - 0.5).abs().max().item() < 5 * 0.5 / math.sqrt(2000)
    assert policy.T.corrcoef()[0, 1].abs().item() < 5 / math.sqrt(2000)


def test_exploration_falls_as_documented():
    agent, n = EpsilonGreedyModel(epsilon=0.5, decay=10.0), 20_000
    state = agent.initial(spec(), rng(n=n))
    state = state._replace(time=torch.full((n,), 30), policy=torch.zeros_like(state.policy))
    action, _ = agent.act(spec(), state, torch.zeros(n, dtype=torch.int64), rng("act", 30, n))
    expected = 0.5 / math.sqrt(1 + 30 / 10) / A
    assert action.double().mean().item() == pytest.approx(expected, abs=5 * math.sqrt(0.11 / n))


def test_gaps_add_up_to_the_regret_in_gains_but_for_the_bias_of_the_ends():
    """E[T gain - rewards - gaps] = E[bias(end)] - bias(start)."""
    problem, steps, n = RiverSwim(horizon=None), 500, 400
    loop = Rollout(Run(problem, UCRL2(scale=0.05), steps, n, group=n))
    loop.advance(steps)
    carry = loop.groups[0].carry
    answer = gain_and_bias(problem.model(rng()))
    assert answer.gain.item() == pytest.approx(GAIN, abs=1e-10)
    lost = steps * GAIN - carry.totals["reward"] - carry.totals["regret"]
    ends = answer.bias[carry.state.state] - answer.bias[0]
    difference = lost - ends
    assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(n)
    assert carry.totals["regret"].mean() > 5 * difference.std() / math.sqrt(n)


@pytest.mark.parametrize("agent", [TSDE(), OptimisticQ()], ids=["tsde", "optimistic_q"])
def test_episodes_are_refused_where_the_average_reward_is_the_aim(agent):
    with pytest.raises(ValueError, match="episodes of 20 steps"):
        simulate(RiverSwim(), agent, 10, 2)


AGENTS = [UCRL2(), TSDE(), OptimisticQ(), EpsilonGreedyModel()]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: type(agent).__name__)
def test_problems_without_a_table_are_refused(agent):
    with pytest.raises(ValueError, match="needs Discrete"):
        simulate(GaussianBandit(), agent, 10, 2)
    with pytest.raises(ValueError, match="needs Discrete"):
        agent.initial(Spec(Discrete(2), Box((1,)), reward_range=(0.0, 1.0), total_steps=5), rng())


def test_missing_knowledge_is_refused():
    endless = Spec(Discrete(2), Discrete(2), reward_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="length of the run"):
        OptimisticQ().initial(endless, rng())
    noisy = Spec(Discrete(2), Discrete(2), total_steps=9)
    for agent in (UCRL2(), OptimisticQ()):
        with pytest.raises(ValueError, match="reward_low"):
            agent.initial(noisy, rng())
    for agent in (UCRL2, TSDE, EpsilonGreedyModel):
        with pytest.raises(ValueError, match="known_reward"):
            agent(known_reward=True).initial(endless, rng())


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (UCRL2, "delta", 0.0),
        (UCRL2, "delta", 1.0),
        (UCRL2, "scale", -1.0),
        (UCRL2, "sweeps", 0),
        (UCRL2, "reward_high", float("nan")),
        (OptimisticQ, "span", 0.0),
        (OptimisticQ, "delta", 1.5),
        (OptimisticQ, "scale", -0.1),
        (OptimisticQ, "horizon", 1.0),
        (OptimisticQ, "reward_low", float("inf")),
        (TSDE, "alpha", 0.0),
        (TSDE, "reward_prior", "beta"),
        (TSDE, "prior_count", 0.0),
        (TSDE, "noise", -1.0),
        (TSDE, "tolerance", 0.0),
        (TSDE, "sweeps", 0),
        (EpsilonGreedyModel, "epsilon", 1.1),
        (EpsilonGreedyModel, "decay", 0.0),
        (EpsilonGreedyModel, "alpha", -1.0),
        (EpsilonGreedyModel, "tolerance", 0.0),
    ],
)
def test_fields_outside_their_range_are_refused(kind, field, value):
    with pytest.raises(ValueError, match=field):
        kind(**{field: value})


@pytest.mark.slow
def test_regret_on_river_swim_is_that_of_the_specification():
    """20-A-iv, T = 20,000: TSDE 56 +- 26 (< 200), UCRL2 3161 +- 268, optimistic Q 4570 +- 93."""

    def final(agent, replicas):
        run = simulate(RiverSwim(horizon=None), agent, 20_000, replicas, group=replicas)
        return run.metrics["regret"][-1].numpy()

    tsde, span = final(TSDE(), 16), 6.3103243082
    ucrl2, whole = final(UCRL2(scale=0.3), 16), final(UCRL2(), 16)
    q, safe = final(OptimisticQ(span=span, scale=0.05), 32), final(OptimisticQ(span=span), 32)
    assert tsde.mean() < 200
    assert tsde.max() < ucrl2.min() < ucrl2.max() < q.max() < LEFT
    assert ucrl2.mean() == pytest.approx(3161, abs=268 + 4 * ucrl2.std() / 4)
    assert q.mean() == pytest.approx(4570, abs=93 + 4 * q.std() / math.sqrt(32))
    for theory in (whole, safe):
        assert theory.mean() == pytest.approx(LEFT, rel=0.02)
