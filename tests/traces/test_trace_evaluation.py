"""The agent that evaluates one policy from the actions of another."""

from functools import cache

import numpy as np
import pytest
import torch

from rlkit.agents.tabular.trace_evaluation import TraceEvaluation
from rlkit.envs.bandits.gaussian import GaussianBandit
from rlkit.envs.tabular.garnet import Garnet
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.models import from_kernel
from rlkit.protocol import Discrete, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import simulate
from rlkit.traces import RULES

N, S, A, T = 4, 4, 3, 40
CONVERGING = tuple(r for r in RULES if r != "q_lambda")


def streams(name: str = "initial", step: int = 0, n: int = N) -> Rng:
    return Rng(3, name, torch.arange(n), step)


@cache
def spec() -> Spec:
    model = Garnet(states=S, actions=A, shared=True).model(streams("instance"))
    return Spec(Discrete(S), Discrete(A), T, Known(model=model))


def transitions(seed: int = 0) -> list[Transition]:
    """Episodes of random pairs; some ends are terminal, some are time limits."""
    rng = np.random.default_rng(seed)
    batches, state = [], rng.integers(0, S, N)
    for _ in range(T):
        following, last = rng.integers(0, S, N), rng.random(N) < 0.1
        columns = (
            state, rng.integers(0, A, N), rng.normal(size=N),
            1.0 - last * (rng.random(N) < 0.5), following, last,
        )  # fmt: skip
        tensors = [torch.as_tensor(x) for x in columns]
        floats = {2: tensors[2].float(), 3: tensors[3].float()}
        batches.append(Transition(*(floats.get(i, x) for i, x in enumerate(tensors))))
        state = np.where(last, rng.integers(0, S, N), following)
    return batches


def taught(agent: TraceEvaluation, state, batches):
    for t, batch in enumerate(batches):
        state = agent.learn(spec(), state, batch, streams("learn", t))
    return state


def by_hand(agent: TraceEvaluation, state, batches, definition) -> np.ndarray:
    """The same updates in double precision, one list of start times per episode."""
    q = np.zeros((N, S, A))
    target, behaviour = state.target.double().numpy(), state.behaviour.double().numpy()
    for row in range(N):
        pairs, rho, pi, greedy = [], [], [], []
        for batch in batches:
            s, a, r, d, s2, last = (float(x[row]) for x in batch[:6])
            s, a, s2 = int(s), int(a), int(s2)
            pairs.append((row, s, a))
            pi.append(target[row, s, a])
            rho.append(pi[-1] / behaviour[row, s, a])
            greedy.append(pi[-1] == target[row, s].max())
            delta = r + agent.gamma * d * (target[row, s2] * q[row, s2]).sum() - q[row, s, a]
            for i, pair in enumerate(pairs):
                ways = (np.array(x[i + 1 :]) for x in (rho, pi, greedy))
                first, *others = ways
                beta = definition(agent.rule, first, agent.lambda_, *others)[-1]
                age = len(pairs) - 1 - i
                q[pair] += agent.alpha * agent.gamma**age * beta * delta
            if last:
                pairs, rho, pi, greedy = [], [], [], []
    return q


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("policies", ["preferred", "random"])
def test_learning_follows_the_algorithm(rule, policies, definition):
    agent = TraceEvaluation(rule, policies=policies)
    state = agent.initial(spec(), streams())
    batches = transitions()
    expected = by_hand(agent, state, batches, definition)
    q = taught(agent, state, batches).q.reshape(N, S, A)
    # Single precision, and entries that weigh less than a millionth are forgotten.
    assert q.numpy() == pytest.approx(expected, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("rule", CONVERGING)
def test_the_estimate_tends_to_the_value_of_the_target(rule):
    # With deterministic successors and rewards every sample of the operator agrees with it at the
    # fixed point, so that nothing keeps a fixed step size from reaching it.
    following = torch.tensor([[1, 0, 2], [2, 3, 1], [3, 0, 0], [0, 1, 2]])
    kernel = torch.nn.functional.one_hot(following, S).double()
    reward = torch.linspace(-1, 1, S * A, dtype=torch.float64).reshape(S, A)
    model = from_kernel(kernel, reward, torch.tensor([1.0, 0, 0, 0]))
    known = Spec(Discrete(S), Discrete(A), None, Known(model=model))
    agent = TraceEvaluation(rule, lambda_=0.5, alpha=0.3, gamma=0.5, behaviour_epsilon=1.0)
    state, at = agent.initial(known, streams()), torch.zeros(N, dtype=torch.int64)
    never, goes_on = torch.zeros(N, dtype=torch.bool), torch.ones(N)
    assert agent.diagnostics(known, state)["rmse"].min() > 0.5
    for t in range(800):
        action, state = agent.act(known, state, at, streams("act", t))
        pay, after = reward[at, action].float(), following[at, action]
        batch = Transition(at, action, pay, goes_on, after, never)
        state, at = agent.learn(known, state, batch, streams("learn", t)), after
    assert agent.diagnostics(known, state)["rmse"].max() < 1e-3


def test_the_diagnostic_is_the_distance_to_the_exact_values():
    agent = TraceEvaluation(gamma=0.8, policies="random")
    state = agent.initial(spec(), streams())
    model = spec().known.model
    kernel, reward = model.kernel.numpy(), model.mean_reward.numpy()
    for row in range(N):
        policy = agent.both(streams(), S, A)[0][row].numpy()
        chain = np.einsum("sat,tb->satb", kernel, policy).reshape(S * A, S * A)
        q = np.linalg.solve(np.eye(S * A) - 0.8 * chain, reward.reshape(-1))
        assert state.truth[row].numpy() == pytest.approx(q, abs=1e-8)
        rmse = agent.diagnostics(spec(), state)["rmse"][row]
        assert float(rmse) == pytest.approx(np.sqrt(np.mean(q**2)), abs=1e-8)


def test_actions_are_those_of_the_behaviour():
    n = 4000
    agent = TraceEvaluation(behaviour_epsilon=0.6)
    state = agent.initial(spec(), streams(n=n))
    action, _ = agent.act(spec(), state, torch.ones(n, dtype=torch.int64), streams("act", n=n))
    likely = state.behaviour[:, 1].argmax(1)
    share = (action == likely).float().mean()
    probability = 0.4 + 0.6 / 3
    error = (probability * (1 - probability) / n) ** 0.5
    assert abs(float(share) - probability) < 4 * error
    assert torch.equal(likely, state.target[:, 1].argmax(1))


@pytest.mark.parametrize("rule", RULES)
def test_renaming_states_and_actions_renames_the_table(rule):
    agent = TraceEvaluation(rule)
    state, batches = agent.initial(spec(), streams()), transitions()
    flipped = state._replace(target=state.target.flip(1, 2), behaviour=state.behaviour.flip(1, 2))
    renamed = [
        b._replace(
            observation=S - 1 - b.observation,
            action=A - 1 - b.action,
            next_observation=S - 1 - b.next_observation,
        )
        for b in batches
    ]
    q, other = (taught(agent, s, b).q for s, b in ((state, batches), (flipped, renamed)))
    assert other.flip(1).numpy() == pytest.approx(q.numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_scaling_rewards_scales_the_table(rule):
    agent = TraceEvaluation(rule)
    state, batches = agent.initial(spec(), streams()), transitions()
    scaled = [b._replace(reward=4 * b.reward) for b in batches]
    q, other = (taught(agent, state, b).q for b in (batches, scaled))
    assert torch.equal(other, 4 * q)  # a power of two: not a bit is lost


@pytest.mark.parametrize("rule", RULES)
def test_a_replica_learns_the_same_in_any_batch(rule):
    problem, agent = Garnet(states=5, actions=2), TraceEvaluation(rule)
    many = simulate(problem, agent, 40, 20, group=20).diagnostics["rmse"]
    few = simulate(problem, agent, 40, 3, first_replica=4, group=3).diagnostics["rmse"]
    assert many[:, 4:7].numpy() == pytest.approx(few.numpy(), rel=1e-6)


def test_it_runs_where_episodes_are_cut_and_refuses_what_it_cannot_use():
    assert torch.isfinite(simulate(RiverSwim(), TraceEvaluation(), 50, 4).metrics["reward"]).all()
    with pytest.raises(ValueError, match=r"known\.model"):
        simulate(GaussianBandit(), TraceEvaluation(), 5, 2)


def test_an_action_that_the_behaviour_never_takes_is_named():
    agent = TraceEvaluation("rbis", behaviour_epsilon=0.0)
    with pytest.raises(ValueError, match=r"behaviour of state 0, action \d is 0.*rule 'rbis'"):
        agent.initial(spec(), streams())
    TraceEvaluation("tree_backup", behaviour_epsilon=0.0).initial(spec(), streams())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"rule": "retraces"}, "rule = 'retraces' unknown; did you mean 'retrace'.*rbis"),
        ({"lambda_": 1.01}, r"lambda_ = 1.01 outside \[0, 1\]"),
        ({"gamma": 1.0}, r"gamma = 1.0 outside \[0, 1\)"),
        ({"alpha": 0.0}, r"alpha = 0.0 outside \(0, 1\]"),
        ({"alpha": -1.0}, r"alpha = -1.0 outside \(0, 1\]"),
        ({"policies": "greedy"}, "policies = 'greedy' unknown"),
        ({"target_epsilon": 2.0}, "target_epsilon"),
        ({"behaviour_epsilon": float("nan")}, "behaviour_epsilon"),
    ],
)
def test_fields_outside_their_range_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        TraceEvaluation(**field)
