"""Control with traces and n-step expected SARSA against plain loops; learning curves; refusals."""

import numpy as np
import pytest
import torch

from rlkit.agents.tabular.n_step_expected_sarsa import NStepExpectedSarsa
from rlkit.agents.tabular.trace_control import TraceControl
from rlkit.envs.bandits.contextual_linear import ContextualLinearBandit
from rlkit.envs.tabular.bifurcation import Bifurcation
from rlkit.envs.tabular.garnet import Garnet
from rlkit.exploration import epsilon_greedy, epsilon_greedy_value
from rlkit.learning_curves import add_evaluations, area, expected_return, next_step, start_curve
from rlkit.models import Model, from_outcomes
from rlkit.protocol import Discrete, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run, simulate

STATES, ACTIONS, REPLICAS, STEPS = 6, 3, 5, 80
GAMMA = 0.9
RULES = {
    "importance_sampling": lambda lam, t, rho, ratios, pi, greedy, beta: lam**t * ratios,
    "q_lambda": lambda lam, t, rho, ratios, pi, greedy, beta: lam**t,
    "watkins": lambda lam, t, rho, ratios, pi, greedy, beta: lam * greedy * beta,
    "tree_backup": lambda lam, t, rho, ratios, pi, greedy, beta: lam * pi * beta,
    "retrace": lambda lam, t, rho, ratios, pi, greedy, beta: lam * min(1, rho) * beta,
    "truncated_importance_sampling": (
        lambda lam, t, rho, ratios, pi, greedy, beta: lam**t * min(1, ratios)
    ),
    "moretrace": lambda lam, t, rho, ratios, pi, greedy, beta: min(lam**t, ratios),
    "recursive_retrace": lambda lam, t, rho, ratios, pi, greedy, beta: lam * min(1, rho * beta),
    "rbis": lambda lam, t, rho, ratios, pi, greedy, beta: min(lam**t, rho * beta),
}


def soft(row, epsilon):
    """Epsilon-greedy probabilities of one row."""
    greedy = row == row.max()
    return epsilon / len(row) + (1 - epsilon) * greedy / greedy.sum()


def experience(seed=0):
    """Made-up transitions `[STEPS, REPLICAS]`, with terminal steps and cuts without an end."""
    rng = np.random.default_rng(seed)
    size = (STEPS, REPLICAS)
    state = rng.integers(0, STATES, (STEPS + 1, REPLICAS))
    ended, cut = rng.random(size) < 0.07, rng.random(size) < 0.05
    return {
        "state": state[:-1],
        "action": rng.integers(0, ACTIONS, size),
        "reward": rng.normal(size=size),
        "discount": 1.0 - ended,
        "next": state[1:],
        "last": ended | cut,
    }


def taught(agent, data):
    """The table `[REPLICAS, STATES, ACTIONS]` after the experience, and the one before."""
    spec = Spec(Discrete(STATES), Discrete(ACTIONS), horizon=STEPS)
    rng = Rng(3, "initial", torch.arange(REPLICAS))
    state = agent.initial(spec, rng)
    before = state.q.numpy().astype(np.float64)
    for t in range(STEPS):
        row = {name: torch.as_tensor(values[t]) for name, values in data.items()}
        batch = Transition(
            row["state"],
            row["action"],
            row["reward"].float(),
            row["discount"].float(),
            row["next"],
            row["last"],
        )
        state = agent.learn(spec, state, batch, rng)
    return state.q.numpy(), before


def loop_of_traces(agent, data, table):
    """Algorithm of the paper, one replica at a time, every pair of the episode in a list."""
    table = table.copy()
    for n in range(REPLICAS):
        q, entries, episodes = table[n], [], 0
        for s, a, r, on, following, last in zip(*(v[:, n] for v in data.values()), strict=True):
            rate = 1.0 if episodes < agent.warmup_episodes else agent.behaviour_epsilon
            pi, mu = soft(q[s], agent.target_epsilon)[a], soft(q[s], rate)[a]
            value = soft(q[following], agent.target_epsilon) @ q[following]
            error = r + on * agent.gamma * value - q[s, a]
            greedy, rho = q[s, a] == q[s].max(), pi / mu
            for entry in entries:
                entry["t"] += 1
                entry["ratios"] *= rho
                entry["beta"] = RULES[agent.rule](
                    agent.lambda_, entry["t"], rho, entry["ratios"], pi, greedy, entry["beta"]
                )
            entries.append({"pair": (s, a), "t": 0, "ratios": 1.0, "beta": 1.0})
            for entry in entries:
                q[entry["pair"]] += agent.alpha * agent.gamma ** entry["t"] * entry["beta"] * error
            if last:
                entries, episodes = [], episodes + 1
    return table


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_what_a_plain_loop_learns(rule, lambda_):
    """Single precision: differences are roundings, at most a part in 10^4 after 80 steps."""
    agent = TraceControl(rule=rule, lambda_=lambda_, alpha=0.1, warmup_episodes=2)
    data = experience()
    table, before = taught(agent, data)
    np.testing.assert_allclose(table, loop_of_traces(agent, data, before), rtol=1e-4, atol=1e-4)


def loop_of_returns(agent, data, table):
    """Sutton and Barto's off-policy n-step expected SARSA, one replica at a time."""
    table = table.copy()
    for n in range(REPLICAS):
        q, waiting, episodes = table[n], [], 0
        for s, a, r, on, following, last in zip(*(v[:, n] for v in data.values()), strict=True):
            rate = 1.0 if episodes < agent.warmup_episodes else agent.behaviour_epsilon
            rho = soft(q[s], agent.target_epsilon)[a] / soft(q[s], rate)[a]
            value = on * soft(q[following], agent.target_epsilon) @ q[following]
            waiting.append(((s, a), r, rho))
            while len(waiting) == agent.n or (last and waiting):
                rewards = [agent.gamma**k * later[1] for k, later in enumerate(waiting)]
                whole = sum(rewards) + agent.gamma ** len(waiting) * value
                weight = np.prod([later[2] for later in waiting[1:]])
                pair = waiting.pop(0)[0]
                q[pair] += agent.alpha * weight * (whole - q[pair])
            episodes += last
    return table


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_step_returns_learn_what_a_plain_loop_learns(n):
    agent = NStepExpectedSarsa(n=n, alpha=0.2, warmup_episodes=2)
    data = experience(1)
    table, before = taught(agent, data)
    np.testing.assert_allclose(table, loop_of_returns(agent, data, before), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["retrace", "rbis", "recursive_retrace"])
def test_without_decay_left_traces_are_one_step_expected_sarsa(rule):
    options = {"alpha": 0.5, "warmup_episodes": 2}
    data = experience(2)
    with_traces, _ = taught(TraceControl(rule=rule, lambda_=0.0, **options), data)
    one_step, _ = taught(NStepExpectedSarsa(n=1, **options), data)
    np.testing.assert_array_equal(with_traces, one_step)


def test_a_terminal_step_does_not_bootstrap_and_a_cut_one_does():
    spec = Spec(Discrete(2), Discrete(2))
    rng = Rng(0, "initial", torch.arange(2))
    agent = TraceControl(alpha=1.0, initial_std=0.0, target_epsilon=0.0)
    state = agent.initial(spec, rng)
    state = state._replace(q=torch.tensor([[[0.0, 0.0], [5.0, 1.0]]]).expand(2, -1, -1))
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
    discount, last = torch.tensor([0.0, 1.0]), torch.tensor([True, True])
    batch = Transition(zero, zero, torch.tensor([1.0, 1.0]), discount, one, last)
    after = agent.learn(spec, state, batch, rng)
    assert after.q[:, 0, 0].tolist() == pytest.approx([1.0, 1.0 + GAMMA * 5.0])
    assert not after.traces.weight.any()


def test_rbis_and_recursive_retrace_are_one_algorithm_without_decay():
    records = []
    for rule in ("rbis", "recursive_retrace"):
        agent = TraceControl(rule=rule, lambda_=1.0, alpha=0.7, monitor=True)
        loop = Rollout(Run(Bifurcation(grid=1, horizon=10_000), agent, 400, 16, group=16))
        loop.advance(400)
        records.append({**loop.state(), **loop.record()})
    first, second = records
    assert first["auc"].abs().sum() > 0
    assert not [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("rule", ["rbis", "retrace", "moretrace"])
def test_a_monitored_replica_is_the_same_in_any_company(rule):
    problem = Bifurcation(grid=1, horizon=10_000)
    agent = TraceControl(rule=rule, lambda_=0.8, monitor=True)
    whole = simulate(problem, agent, 300, 8, group=8)
    part = simulate(problem, agent, 300, 3, first_replica=5, group=8)
    alone = simulate(problem, agent, 300, 1, first_replica=6, group=8)
    for name, values in {**whole.metrics, **whole.diagnostics}.items():
        others = {**part.metrics, **part.diagnostics}, {**alone.metrics, **alone.diagnostics}
        assert torch.equal(values[:, 5:8], others[0][name])
        assert torch.equal(values[:, 6:7], others[1][name])


def test_the_behaviour_is_uniform_in_the_first_episodes_and_soft_after_them():
    """Five standard errors of a share over 20,000 replicas."""
    count = 20_000
    spec = Spec(Discrete(1), Discrete(4))
    rng = Rng(1, "act", torch.arange(count))
    agent = TraceControl(behaviour_epsilon=0.2, warmup_episodes=5)
    q = torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(count, 1, 4)
    state = agent.initial(spec, rng)._replace(q=q)
    for episodes, share in ((4, 0.25), (5, 0.85)):
        state = state._replace(episodes=torch.full((count,), episodes))
        action, _ = agent.act(spec, state, torch.zeros(count, dtype=torch.int64), rng)
        error = np.sqrt(share * (1 - share) / count)
        assert abs((action == 2).double().mean().item() - share) <= 5 * error


def test_greedy_mass_is_shared_by_all_maximisers():
    q = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]])
    policy = epsilon_greedy(q, 0.2)
    tied = 0.05 + 0.8 / 3
    expected = torch.tensor([[tied, tied, 0.05, tied], [0.05, 0.85, 0.05, 0.05]])
    torch.testing.assert_close(policy, expected)
    torch.testing.assert_close(epsilon_greedy_value(q, 0.2), (expected * q).sum(1))


# ----------------------------------------------------------------------- exact evaluation


def random_model(seed, outcomes=3):
    """A model with random rewards of every outcome, two start states and a terminal state."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(outcomes), (STATES, ACTIONS))
    return from_outcomes(
        torch.as_tensor(rng.integers(0, STATES, (STATES, ACTIONS, outcomes))),
        torch.as_tensor(probability),
        torch.as_tensor(rng.normal(size=(STATES, ACTIONS, outcomes))),
        torch.tensor([0.3, 0.7] + [0.0] * (STATES - 2), dtype=torch.float64),
        torch.arange(STATES) == STATES - 1,
    )


def rolled_out(model, policy, steps, count, rng):
    """Discounted returns `[count]` of simulated episodes that stop at the terminal state."""
    succ, prob, reward, start, terminal = (leaf.numpy() for leaf in model)
    state = rng.choice(STATES, count, p=start)
    total, alive = np.zeros(count), ~terminal[state]
    for t in range(steps):
        action = (rng.random((count, 1)) > policy[state].cumsum(1)[:, :-1]).sum(1)
        law = prob[state, action]
        outcome = (rng.random((count, 1)) > law.cumsum(1)[:, :-1]).sum(1)
        total += alive * GAMMA**t * reward[state, action, outcome]
        state = succ[state, action, outcome]
        alive &= ~terminal[state]
    return total


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_exact_evaluation_is_the_mean_of_simulated_returns(steps):
    """Four standard errors over 40,000 episodes."""
    model, rng = random_model(4), np.random.default_rng(5)
    policy = rng.dirichlet(np.ones(ACTIONS), (2, STATES))
    exact = expected_return(model, torch.as_tensor(policy), GAMMA, steps)
    for row in range(2):
        returns = rolled_out(model, policy[row], steps, 40_000, rng)
        assert abs(returns.mean() - exact[row].item()) <= 4 * returns.std() / 200


def test_rows_with_models_of_their_own_are_evaluated_on_them():
    models = [random_model(seed) for seed in range(3)]
    policy = torch.as_tensor(np.random.default_rng(0).dirichlet(np.ones(ACTIONS), (3, STATES)))
    own = Model(*(torch.stack(leaves) for leaves in zip(*models, strict=True)))
    together = expected_return(own, policy, GAMMA, 12)
    apart = [expected_return(m, policy[i : i + 1], GAMMA, 12) for i, m in enumerate(models)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-14)


# ------------------------------------------------------------------------ learning curves


def plain_area(evaluations, steps, window):
    """The protocol in numpy: trailing means from (0, 0) on, straight lines, a sum over steps."""
    place = [0] + [step for step, _ in evaluations]
    raw = [0.0] + [value for _, value in evaluations]
    smooth = [np.mean(raw[max(0, k + 1 - window) : k + 1]) for k in range(len(raw))]
    return np.interp(np.arange(steps + 1), place, smooth).sum()


@pytest.mark.parametrize("window", [1, 7, 100])
def test_the_area_is_that_of_the_whole_curve_at_every_step(window):
    rng = np.random.default_rng(6)
    curve = start_curve(Rng(0, "initial", torch.arange(REPLICAS)), window)
    seen = [[] for _ in range(REPLICAS)]
    for step in range(300):
        rows = np.flatnonzero(rng.random(REPLICAS) < [0.04, 0.1, 0.3, 0.9, 0.0])
        rows = rows[: None if step else 0]  # two points at step 0 have no line
        values = rng.normal(size=rows.size)
        for row, value in zip(rows, values, strict=True):
            seen[row].append((step, value))
        if rows.size:
            curve = add_evaluations(curve, torch.as_tensor(rows), torch.as_tensor(values))
        curve = next_step(curve)
        if step % 37 == 0 or step == 299:
            expected = [plain_area(evaluations, step + 1, window) for evaluations in seen]
            np.testing.assert_allclose(area(curve), expected, rtol=0, atol=1e-10)
    assert min(len(evaluations) for evaluations in seen[:4]) > 2


@pytest.mark.parametrize(
    "problem", [Bifurcation(grid=1, horizon=10_000), Garnet(states=8, horizon=9)]
)
def test_the_monitor_follows_every_episode_of_a_run(problem):
    """Evaluations of the tables at the ends of episodes, recomputed without the shortcut."""
    steps = 500
    agent = TraceControl(monitor=True, warmup_episodes=1, lambda_=0.8)
    loop = Rollout(Run(problem, agent, steps, 4, group=4))
    model = loop.groups[0].spec.known.model
    seen, episodes = [[] for _ in range(4)], torch.zeros(4)
    for step in range(steps):
        loop.advance(step + 1)
        record, q = loop.record(), loop.groups[0].carry.agent.q
        policy = epsilon_greedy(q, 0.05)
        value = expected_return(model, policy, GAMMA, 51)
        for row in (record["episodes"] > episodes).nonzero().flatten().tolist():
            seen[row].append((step, value[row].item()))
            assert record["evaluation"][row].item() == pytest.approx(value[row].item(), abs=1e-9)
        episodes = record["episodes"]
    expected = [plain_area(evaluations, steps, 100) for evaluations in seen]
    np.testing.assert_allclose(record["auc"], expected, rtol=1e-6)
    assert min(map(len, seen)) > 10


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rule": "rbi"}, r"rule = 'rbi' unknown.*'rbis'"),
        ({"lambda_": 1.1}, r"lambda_ = 1.1 outside \[0, 1\]"),
        ({"alpha": 0.0}, r"alpha = 0.0 outside \(0, 1\]"),
        ({"gamma": 1.0}, r"gamma = 1.0 outside \[0, 1\)"),
        ({"target_epsilon": -0.1}, r"target_epsilon = -0.1 outside \[0, 1\]"),
        ({"behaviour_epsilon": 0.0}, r"behaviour_epsilon = 0 with target_epsilon = 0.1.*\(0, 1\]"),
        ({"warmup_episodes": -1}, r"warmup_episodes = -1 outside"),
        ({"initial_std": -1.0}, r"initial_std = -1.0 outside"),
        ({"capacity": 0}, r"capacity = 0 outside \[1, inf\)"),
        ({"evaluation_steps": 0}, r"evaluation_steps = 0 outside \[1, inf\)"),
        ({"evaluation_window": 0}, r"evaluation_window = 0 outside \[1, inf\)"),
    ],
)
def test_a_field_outside_its_range_is_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        TraceControl(**fields)


def test_a_capacity_holds_where_merged_traces_would_be_faster():
    spec, rng = Spec(Discrete(2), Discrete(2), horizon=20), Rng(0, "agent", torch.arange(5))
    for rule in ("retrace", "rbis"):
        assert TraceControl(rule, capacity=3).initial(spec, rng).traces.weight.shape == (5, 3)


@pytest.mark.parametrize("rule", ["q_lambda", "tree_backup"])
def test_rules_without_ratios_accept_a_greedy_behaviour(rule):
    TraceControl(rule=rule, behaviour_epsilon=0.0)


def test_n_step_returns_refuse_what_they_cannot_weigh():
    with pytest.raises(ValueError, match="n = 0 outside"):
        NStepExpectedSarsa(n=0)
    with pytest.raises(ValueError, match="behaviour_epsilon = 0 with target_epsilon = 0.1"):
        NStepExpectedSarsa(behaviour_epsilon=0.0)
    NStepExpectedSarsa(n=1, behaviour_epsilon=0.0)


@pytest.mark.parametrize("agent", [TraceControl(), NStepExpectedSarsa()])
def test_features_instead_of_states_are_refused(agent):
    with pytest.raises(ValueError, match="Discrete states"):
        simulate(ContextualLinearBandit(), agent, 2, 2, group=2)


def test_the_monitor_needs_a_model_and_learning_does_not():
    spec, rng = Spec(Discrete(2), Discrete(2)), Rng(0, "initial", torch.arange(2))
    TraceControl().initial(spec, rng)
    with pytest.raises(ValueError, match=r"monitor = True needs spec\.known\.model"):
        TraceControl(monitor=True).initial(spec, rng)


# ------------------------------------------------------------------------ published table

TABLE = {  # lambda: mean areas on grid 1, each +-8 (95 %), 1000 replicas
    0.6: {
        "retrace": 1274.4,
        "truncated_importance_sampling": 1265.0,
        "recursive_retrace": 1272.1,
        "rbis": 1279.9,
    },
    1.0: {
        "retrace": 1254.8,
        "truncated_importance_sampling": 1167.5,
        "recursive_retrace": 1231.1,
        "rbis": 1231.1,
    },
}
ALPHA = {("truncated_importance_sampling", 1.0): 0.5, ("rbis", 1.0): 0.7}
ALPHA["recursive_retrace", 1.0] = 0.7


@pytest.mark.slow
@pytest.mark.parametrize("lambda_", TABLE)
@pytest.mark.parametrize("rule", TABLE[1.0])
def test_areas_on_the_first_grid_are_those_of_an_independent_run(rule, lambda_):
    """Four standard errors of the difference; the other run has its own random numbers."""
    alpha = ALPHA.get((rule, lambda_), 0.9)
    agent = TraceControl(rule=rule, lambda_=lambda_, alpha=alpha, monitor=True)
    run = simulate(Bifurcation(grid=1, horizon=10**6), agent, 3000, 1000, group=1000)
    areas = run.diagnostics["auc"][-1].numpy()
    error = np.hypot(8 / 1.96, areas.std() / np.sqrt(1000))
    assert abs(areas.mean() - TABLE[lambda_][rule]) <= 4 * error
