"""C-PSRL and F-PSRL in the loop: matching of posteriors, equivalences, ends, refusals."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlkit.agents.tabular.c_psrl import CPSRL
from rlkit.agents.tabular.f_psrl import FPSRL
from rlkit.agents.tabular.psrl import PSRL
from rlkit.envs.tabular.factored import RandomFactoredMDP
from rlkit.envs.tabular.factored_taxi import FactoredTaxi
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.factored import causal_prior, edges, learner
from rlkit.rollout import Rollout, Run

SMALL = RandomFactoredMDP(3, 1, parents=2, sparseness=3, known_parents=1, horizon=4)


def play(problem, agent, episodes, n=8, **options):
    loop = Rollout(Run(problem, agent, episodes * problem.horizon, n, group=n, **options))
    loop.advance(episodes * problem.horizon)
    return loop


def optimal_values(kernel, reward, horizon):
    """Value of state 0 `[N]` by a numpy loop over stages."""
    value = np.zeros((kernel.shape[0], kernel.shape[1]))
    for _ in range(horizon):
        value = (reward + np.einsum("nxay,ny->nxa", kernel, value)).max(2)
    return value[:, 0]


def mismatch(problem, agent, episodes, n, monkeypatch):
    """Functionals of the model drawn at the start of each episode minus those of the true one.

    `[3, episodes, N]`: optimal value, sum of the squared probabilities, number of parents.
    """
    found, solve = [], learner.solve

    def functionals(kernel, spec, parents):
        value = optimal_values(kernel, spec.known.reward.numpy(), problem.horizon)
        return np.array([value, (kernel**2).sum((1, 2, 3)), parents.sum((1, 2)).numpy()])

    def watched(spec, sets, model, rows):
        kernel = learner.kernel(spec, sets, model, rows).numpy()
        found.append(functionals(kernel, spec, sets.member[model.parents]))
        return solve(spec, sets, model, rows)

    monkeypatch.setattr(learner, "solve", watched)
    spec = play(problem, agent, episodes - 1, n).groups[0].spec
    truth = functionals(spec.known.model.kernel.numpy(), spec, spec.known.prior.parents)
    assert len(found) == episodes
    return np.stack(found, 1) - truth[:, None]


def scores(difference):
    """z of the mean of paired differences `[..., N]`; 0 where they are all zero."""
    mean, spread = difference.mean(-1), difference.std(-1)
    return mean / np.where(spread > 0, spread / np.sqrt(difference.shape[-1]), 1)


PRIORS = {
    "sets of any size": (
        RandomFactoredMDP(3, 1, parents=None, sparseness=2, known_parents=1, concentration=1.0,
                          horizon=4),
        CPSRL(),
    ),
    "sets of one size, spiky rows": (
        RandomFactoredMDP(2, 2, parents=2, sparseness=2, known_parents=0, concentration=0.3,
                          horizon=3),
        CPSRL(concentration=0.3, exact_size=True),
    ),
    "the graph": (
        RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=1, concentration=1.0,
                          horizon=4),
        FPSRL(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIORS)
def test_sampled_models_are_distributed_as_the_true_one(name, monkeypatch):
    """E f(M_k) = E f(M*) for every k where the MDP is drawn from the agent's prior.

    Russo and Van Roy (2014): the lemma behind every regret bound of posterior sampling. For f
    the optimal value and two others; 4.5 standard errors of 3,000 paired replicas, 10 episodes.
    """
    assert np.abs(scores(mismatch(*PRIORS[name], 10, 3000, monkeypatch))).max() <= 4.5


@pytest.mark.parametrize(
    ("agent", "least"),
    [
        (CPSRL(concentration=0.5), 4.5),  # seen in the value alone
        (CPSRL(concentration=0.9), 0),
        (CPSRL(exact_size=True), 0),
        (FPSRL(graph="known"), 4.5),
    ],
)
def test_another_prior_is_noticed(agent, least, monkeypatch):
    problem, _ = PRIORS["sets of any size"]
    z = np.abs(scores(mismatch(problem, agent, 10, 3000, monkeypatch)))
    assert z.max() > 4.5 and z[0].max() > least


def same_play(a, b):
    first, second = a.state(), b.state()
    keys = [k for k in first if "totals" in k or "policy" in k or k.endswith((".state", "action"))]
    assert any("policy" in k for k in keys) and any("totals" in k for k in keys)
    return all(torch.equal(first[k], second[k]) for k in keys)


@pytest.mark.parametrize("concentration", [0.2, 1.0])
def test_a_known_graph_makes_both_agents_one(concentration):
    problem = RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=2, horizon=4)
    informed, told = CPSRL(concentration), FPSRL(concentration)
    assert same_play(play(problem, informed, 12), play(problem, told, 12))
    # one open edge is enough to tell them apart
    problem = RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=1, horizon=4)
    assert not same_play(play(problem, informed, 12), play(problem, told, 12))


def test_the_known_edges_may_stand_for_the_graph():
    problem = RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=2, horizon=4)
    assert same_play(play(problem, FPSRL(graph="known"), 6), play(problem, FPSRL(), 6))


@dataclass(frozen=True)
class OneFeature(RiverSwim):
    """RiverSwim as a factored MDP of one feature with all parents."""

    def spec(self, instance):
        spec = super().spec(instance)
        prior = causal_prior((self.states,), (2,), edges([[0, 1]], 2), 2, 2)
        return type(spec)(
            spec.observation, spec.action, spec.horizon, spec.known._replace(prior=prior)
        )


def test_one_feature_with_all_parents_has_the_regret_of_psrl():
    """The same algorithm with other draws: means of 300 replicas, 4 standard errors."""
    runs = [
        play(OneFeature(horizon=10), CPSRL(1 / 6), 60, 300),
        play(RiverSwim(horizon=10), PSRL(known_reward=True), 60, 300),
    ]
    ours, theirs = (run.record()["regret"].numpy() for run in runs)
    error = np.sqrt((ours.var() + theirs.var()) / 300)
    assert abs(ours.mean() - theirs.mean()) <= 4 * error
    assert ours.std() > 0


def test_weights_find_the_graph_and_errors_fall():
    problem = RandomFactoredMDP(3, 2, parents=2, sparseness=3, known_parents=0, horizon=10)
    loop = Rollout(Run(problem, CPSRL(), 1500, 20, group=20))
    loop.advance(10)
    early = loop.record()
    loop.advance(1500)
    late = loop.record()
    assert late["graph"].mean() > 0.8 > 0.4 > early["graph"].mean()
    assert late["super_graph"].mean() >= late["graph"].mean()
    assert late["model_error"].mean() < 0.5 * early["model_error"].mean()


def test_the_model_error_is_that_of_the_posterior_mean():
    """Product of (n + alpha) / (n(c) + N alpha) over a loop of the episodes' transitions."""
    problem, n = SMALL, 3
    loop = play(problem, FPSRL(), 5, n)
    group = loop.groups[0]
    prior, state = group.spec.known.prior, group.carry.agent
    loop = Rollout(Run(problem, FPSRL(), 5 * 4, n, group=n))
    visits = np.zeros((n, 8, 2, 8))
    for step in range(1, 21):
        before = loop.groups[0].carry.state.state.numpy()
        loop.advance(step)
        carry = loop.groups[0].carry
        log = carry.agent.episode
        column = (step - 1) % 4
        after = log.successor[:, column].numpy()
        visits[np.arange(n), before, carry.action.numpy(), after] += 1
    errors = []
    bits = np.array([[s >> 2 & 1, s >> 1 & 1, s & 1] for s in range(8)])
    x = np.array([[*bits[s], a] for s in range(8) for a in range(2)])
    for row in range(n):
        kernel = np.ones((16, 8))
        flat = visits[row].reshape(16, 8)
        for j in range(3):
            members = prior.parents[row, j].numpy()
            for i in range(16):
                alike = (x[:, members] == x[i, members]).all(1)
                ones = flat[alike][:, bits[:, j] == 1].sum()
                p = (ones + 1) / (flat[alike].sum() + 2)
                kernel[i] *= np.where(bits[:, j] == 1, p, 1 - p)
        truth = group.spec.known.model.kernel[row].reshape(16, 8).numpy()
        errors.append(np.abs(kernel - truth).sum(1).mean())
    found = FPSRL().diagnostics(group.spec, state)["model_error"]
    np.testing.assert_allclose(found, errors, rtol=1e-9)


def taxi_model(size=2):
    """A taxi agent's spec and one model from the prior for each of 50 replicas."""
    taxi = FactoredTaxi(size=size)
    found, solve = {}, learner.solve

    def watched(spec, sets, model, rows):
        found.update(spec=spec, kernel=learner.kernel(spec, sets, model, rows))
        return solve(spec, sets, model, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "solve", watched)
        Rollout(Run(taxi, CPSRL(0.1), 15, 50, group=50))
    return taxi, found["spec"], found["kernel"]


def test_sampled_models_end_where_the_true_one_does():
    """Rows of actions that end the episode are empty, the others lead to no terminal state."""
    taxi, spec, kernel = taxi_model()
    _, reward = taxi.outcomes()
    terminal = spec.known.model.terminal
    ends = (reward == 20) & ~terminal[:, None]
    total = kernel.sum(-1)
    assert (total[:, ends] == 0).all() and (total[:, terminal] == 0).all()
    rest = total[:, ~ends & ~terminal[:, None]]
    torch.testing.assert_close(rest, torch.ones_like(rest), rtol=1e-12, atol=0)
    assert (kernel[..., terminal] == 0).all()


def test_no_sampled_model_delivers_twice():
    """A delivery pays 20, each earlier step at least -1: nothing is worth more than 20."""
    taxi, spec, kernel = taxi_model()
    value = np.zeros((50, 80))
    for _ in range(taxi.horizon):
        value = (spec.known.reward.numpy() + np.einsum("nxay,ny->nxa", kernel, value)).max(2)
    assert value.max() <= 20.0 + 1e-9


def test_replicas_end_their_episodes_on_their_own():
    """A replica's run does not depend on whose episodes end at the same time."""
    taxi = FactoredTaxi(size=2)
    loop = play(taxi, CPSRL(0.1), 15, 12)
    assert loop.record()["episodes"].unique().numel() > 1
    alone = play(taxi, CPSRL(0.1), 15, 1, first_replica=5)
    for name in ("reward", "regret", "episodes", "graph"):
        torch.testing.assert_close(
            alone.record()[name][0], loop.record()[name][5], rtol=1e-9, atol=1e-9
        )


def test_episodes_are_counted():
    loop = play(FactoredTaxi(size=2), CPSRL(0.1), 4, 6)
    assert (loop.record()["episodes"] >= 4).all()


@pytest.mark.parametrize("agent", [CPSRL, FPSRL])
def test_bad_fields_are_refused(agent):
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="concentration"):
            agent(concentration=value)


@pytest.mark.parametrize(
    ("problem", "agent", "message"),
    [
        (SMALL, CPSRL(sparseness=0), "sparseness = 0, but a feature has 1 known parents"),
        (SMALL, CPSRL(sparseness=5), "sparseness = 5"),
        (RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=1, graph=False), FPSRL(),
         "does not disclose its graph"),
        (RiverSwim(), CPSRL(), "prior"),
        (RiverSwim(), FPSRL(), "prior"),
    ],
)  # fmt: skip
def test_unsuitable_problems_are_refused(problem, agent, message):
    with pytest.raises(ValueError, match=message):
        Rollout(Run(problem, agent, 4, 2))


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="graph = 'both'"):
        FPSRL(graph="both")
    with pytest.raises(ValueError, match="sparseness = -1"):
        CPSRL(sparseness=-1)


def test_a_time_limit_for_each_replica_is_refused():
    with pytest.raises(ValueError, match="finite horizon"):
        Rollout(Run(SMALL, CPSRL(), 4, 2, time_limit=torch.tensor([2, 3])))


def test_secret_graphs_are_learnt_without_diagnostics_of_them():
    problem = RandomFactoredMDP(3, 1, parents=2, sparseness=2, known_parents=1, graph=False)
    record = play(problem, CPSRL(), 2).record()
    assert "graph" not in record and "model_error" in record


@pytest.mark.slow
def test_full_size_regret_is_that_of_the_specification():
    """150 episodes, 20 instances: the interval of the specification's own prototype.

    F-PSRL 18.9 +- 2.8; C-PSRL with 3, 2, 1, 0 known parents 17.6 +- 1.8, 19.2 +- 2.3,
    18.8 +- 2.3, 20.4 +- 2.0. The difference of two independent experiments, z <= 4.
    """
    wanted = [(FPSRL(), 2, 18.9, 2.8), (CPSRL(), 3, 17.6, 1.8), (CPSRL(), 2, 19.2, 2.3),
              (CPSRL(), 1, 18.8, 2.3), (CPSRL(), 0, 20.4, 2.0)]  # fmt: skip
    for agent, known, mean, half in wanted:
        regret = play(RandomFactoredMDP(known_parents=known), agent, 150, 20).record()["regret"]
        error = np.hypot(half / 1.96, regret.std().item() / np.sqrt(20))
        assert abs(regret.mean().item() - mean) <= 4 * error
