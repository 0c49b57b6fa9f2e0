"""What episodic planners hold after given experience, against formulas written out in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from rlkit import planning
from rlkit.agents.tabular.psrl import PSRL
from rlkit.agents.tabular.rlsvi import RLSVI
from rlkit.agents.tabular.ucbvi import UCBVI
from rlkit.envs.tabular.random_mdp import RandomMDP
from rlkit.envs.tabular.river_swim import RiverSwim
from rlkit.experience import empty
from rlkit.model_posteriors import NormalGammaRewards, NormalRewards, sampled_kernel
from rlkit.protocol import Box, Discrete, Known, Spec, Transition
from rlkit.random import Rng
from rlkit.rollout import Rollout, Run

S, A, H = 4, 2, 5
SPEC = Spec(Discrete(S), Discrete(A), H, total_steps=1000)
PLANNERS = {
    "psrl": PSRL(),
    "psrl normal": PSRL(reward_prior="normal", alpha=2.0),
    "psrl known": PSRL(known_reward=True),
    "rlsvi": RLSVI(),
    "rlsvi staged": RLSVI(stage_dependent=True),
    "hoeffding": UCBVI(scale=0.001),
    "bernstein": UCBVI("bernstein", scale=0.001),
    "stage": UCBVI("stage", scale=0.1),
    "stage staged": UCBVI("stage", scale=0.1, stage_dependent=True),
    "root": UCBVI("root", scale=0.1),
}


def streams(n, step=0):
    return Rng(3, "learn", torch.arange(n), step)


def made_up(n=3, stages=1, seed=0, ended=True):
    """Experience with entries that were never tried."""
    rng = np.random.default_rng(seed)
    shape = (n, stages * S, A)
    visits = rng.poisson(1.5, (*shape, S)) * (rng.random((*shape, 1)) < 0.8)
    count = visits.sum(-1)
    mean = rng.random(shape)
    reward = mean * count
    square = count * (mean**2 + rng.random(shape))
    over = np.zeros((n, S), bool)
    over[:, 1] = ended
    fresh = empty(SPEC, streams(n), stages)
    arrays = (visits.astype(float), count.astype(float), reward, square, over)
    return fresh._replace(**dict(zip(fresh._fields, map(torch.tensor, arrays), strict=True)))


def induction(kernel, reward, ended, bonus=None, cap=False, top=1.0):
    """Backward induction `[N, H, S, A]` by loops; `kernel` and `reward` lead with stages or 1."""
    n = kernel.shape[0]
    q, value = np.zeros((n, H, S, A)), np.zeros((n, S))
    for h in reversed(range(H)):
        for i in range(n):
            own = h if kernel.shape[1] == H else 0
            for s in range(S):
                for a in range(A):
                    p = kernel[i, own, s, a]
                    q[i, h, s, a] = reward[i, own, s, a] + p @ value[i]
                    if bonus is not None:
                        q[i, h, s, a] += bonus(i, h, own, s, a, p, value[i])
                    if cap:
                        q[i, h, s, a] = min(q[i, h, s, a], (H - h) * top)
        value = np.where(ended, 0, q[:, h].max(-1))
    return q


def stagewise(table, stages=1):
    return np.asarray(table).reshape(table.shape[0], stages, S, *table.shape[2:])


@pytest.mark.parametrize("name", ["psrl", "psrl normal", "psrl known"])
def test_psrl_plans_in_the_model_it_drew(name):
    agent, seen = PLANNERS[name], made_up()
    table = torch.tensor(np.random.default_rng(1).random((S, A)))
    spec = replace(SPEC, known=Known(reward=table))
    rng = streams(3)
    kernel = sampled_kernel(seen, agent.alpha or 1 / S, rng)
    reward = agent.rewards(spec, seen, rng)
    if name == "psrl known":
        assert torch.equal(reward, table.expand(3, S, A))
    expected = induction(stagewise(kernel), stagewise(reward), seen.ended.numpy())
    q = agent.plan(spec, seen, rng).numpy()
    alive = ~seen.ended.numpy()
    np.testing.assert_allclose(
        q.transpose(0, 2, 1, 3)[alive], expected.transpose(0, 2, 1, 3)[alive], rtol=1e-12
    )


def test_kernels_have_the_mean_and_the_variance_of_their_dirichlet_law():
    n, alpha = 20_000, 0.25
    one = made_up(1)
    many = type(one)(*[leaf.expand(n, *leaf.shape[1:]) for leaf in one])
    drawn = sampled_kernel(many, alpha, streams(n)).numpy()
    parameter = one.visits[0].numpy() + alpha
    total = parameter.sum(-1, keepdims=True)
    mean = parameter / total
    variance = mean * (1 - mean) / (total + 1)
    assert np.abs((drawn.mean(0) - mean) / np.sqrt(variance / n)).max() < 4.5
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.1)
    np.testing.assert_allclose(drawn.sum(-1), 1, rtol=1e-12)


def repeated(count, reward, square, n):
    fresh = empty(Spec(Discrete(1), Discrete(1), 1), streams(n))
    full = [torch.full((n, 1, 1), float(x), dtype=torch.float64) for x in (count, reward, square)]
    return fresh._replace(count=full[0], reward=full[1], square=full[2])


@pytest.mark.parametrize("data", [[], [0.3], [0.3, -1.2, 2.0, 0.8]])
def test_mean_rewards_follow_the_conjugate_laws(data):
    """Normal: precision-weighted mean. Normal-gamma: Student's t, by the textbook update."""
    x, n = np.array(data), 20_000
    seen = repeated(len(x), x.sum(), (x**2).sum(), n)
    precision = 1 / 0.7**2 + len(x) / 0.4**2
    centre = (0.2 / 0.7**2 + x.sum() / 0.4**2) / precision
    law = stats.norm(centre, precision**-0.5)
    drawn = NormalRewards(0.2, 0.7, 0.4).sample(seen, streams(n)).numpy().ravel()
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-4
    k, m, mean = 2.0, len(x), x.mean() if data else 0.0
    rate = k + 0.5 * ((x - mean) ** 2).sum() + 0.5 * k * m * (mean - 0.2) ** 2 / (k + m)
    shape = k + m / 2
    law = stats.t(2 * shape, (k * 0.2 + x.sum()) / (k + m), np.sqrt(rate / (shape * (k + m))))
    drawn = NormalGammaRewards(0.2, k).sample(seen, streams(n)).numpy().ravel()
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-4


def test_the_sampled_optimum_has_the_law_of_the_true_one():
    """Posterior matching (Osband et al. 2013, lemma 1): E V*(M_k) = E V*(M*) under the prior."""
    problem = RandomMDP(states=3, actions=2, horizon=4, noise=0.5)
    agent = PSRL(reward_prior="normal", prior_mean=1.0, noise=0.5)
    n = 2000
    loop = Rollout(Run(problem, agent, 40, n, seed=8, group=n))
    truth = loop.groups[0].instance.replica.model
    plan = planning.backward_induction(truth.dense(), 4)
    for step in (0, 4, 40):
        loop.advance(step)
        sampled = loop.groups[0].carry.agent.q[:, 0, 0].amax(-1)
        gap = (sampled - plan.value[:, 0, 0]).numpy()
        assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    # With a prior that is wrong the two differ.
    wrong = Rollout(Run(problem, replace(agent, prior_mean=0.0), 40, n, seed=8, group=n))
    wrong.advance(4)
    gap = (wrong.groups[0].carry.agent.q[:, 0, 0].amax(-1) - plan.value[:, 0, 0]).numpy()
    assert abs(gap.mean()) > 4 * gap.std() / n**0.5


def test_one_state_and_one_step_make_psrl_thompson_sampling():
    n = 20_000
    spec = Spec(Discrete(1), Discrete(3), 1)
    fresh = empty(spec, streams(n))
    count, total = np.array([1.0, 4.0, 0.0]), np.array([0.9, 2.0, 0.0])
    seen = fresh._replace(
        count=torch.tensor(count).expand(n, 1, 3),
        visits=torch.tensor(count)[None, None, :, None].expand(n, 1, 3, 1),
        reward=torch.tensor(total).expand(n, 1, 3),
    )
    agent = PSRL(reward_prior="normal", prior_mean=0.0, noise=0.5)
    chosen = agent.plan(spec, seen, streams(n))[:, 0, 0].argmax(-1).numpy()
    precision = 1 + count / 0.25
    draws = np.random.default_rng(0).normal(total / 0.25 / precision, precision**-0.5, (n, 3))
    expected = np.bincount(draws.argmax(1), minlength=3) / n
    share = np.bincount(chosen, minlength=3) / n
    assert np.abs(share - expected).max() < 4 * np.sqrt(2 * 0.25 / n)


@pytest.mark.parametrize("stages", [1, H])
def test_rlsvi_without_noise_is_ridge_regression(stages):
    """Backward least squares on one feature a state and action, solved as a linear system."""
    seen, ridge = made_up(stages=stages), 0.3
    agent = RLSVI(sigma=0.0, ridge=ridge, stage_dependent=stages > 1)
    visits, reward = stagewise(seen.visits, stages), stagewise(seen.reward, stages)
    value, q = np.zeros((3, S)), np.zeros((3, H, S, A))
    for h in reversed(range(H)):
        own = h if stages > 1 else 0
        for i in range(3):
            gram = np.diag(visits[i, own].sum(-1).ravel()) + ridge * np.eye(S * A)
            target = (reward[i, own] + visits[i, own] @ value[i]).ravel()
            q[i, h] = np.linalg.solve(gram, target).reshape(S, A)
        value = np.where(seen.ended, 0, q[:, h].max(-1))
    np.testing.assert_allclose(agent.plan(SPEC, seen, streams(3)), q, rtol=1e-12)


def test_rlsvi_values_have_the_law_of_bayesian_regression_fresh_at_every_stage():
    n = 20_000
    one = made_up(1)
    many = type(one)(*[leaf.expand(n, *leaf.shape[1:]) for leaf in one])
    q = RLSVI(sigma=0.5, ridge=2.0).plan(SPEC, many, streams(n)).numpy()
    weight = 2.0 + one.count[0].numpy()
    last = (q[:, -1] - one.reward[0].numpy() / weight) * np.sqrt(weight) / 0.5
    assert np.all(stats.kstest(last, stats.norm.cdf, axis=0).pvalue > 1e-4)
    # At stage H - 1 the deviation from the mean given the values below is fresh noise.
    below = np.where(one.ended[0], 0, q[:, -1].max(-1))
    mean = (one.reward[0].numpy() + np.einsum("sat,nt->nsa", one.visits[0].numpy(), below)) / weight
    fresh = (q[:, -2] - mean) * np.sqrt(weight) / 0.5
    assert np.all(stats.kstest(fresh, stats.norm.cdf, axis=0).pvalue > 1e-4)
    correlation = (fresh * last).mean(0)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)


def bonus(name, count, scale, log):
    """The bonus of one entry as the paper writes it; `h` counts from 0."""

    def value(i, h, own, s, a, p, following):
        n = count[i, own, s, a]
        if n == 0:
            return np.inf
        if name == "bernstein":
            variance = max(0, p @ following**2 - (p @ following) ** 2)
            sizes = 8 * log * variance / n, 14 * H * log / (3 * n), 8 * H**2 / n
            return scale * (sizes[0] ** 0.5 + sizes[1] + sizes[2] ** 0.5)
        size = {"hoeffding": 7 * H * log, "root": H, "stage": (H - h) * np.sqrt(log)}[name]
        return scale * size / np.sqrt(n)

    return value


@pytest.mark.parametrize("name", ["hoeffding", "bernstein", "stage", "root", "stage staged"])
def test_upper_bounds_are_those_of_a_plain_loop(name):
    agent = PLANNERS[name]
    stages = H if agent.stage_dependent else 1
    seen = made_up(stages=stages)
    count = stagewise(seen.count, stages)
    tried = np.maximum(count, 1)
    kernel = stagewise(seen.visits, stages) / tried[..., None]
    log = np.log(5 * S * A * 1000 / 0.05)
    rule = bonus(agent.bonus, count, agent.scale, log)
    reward = stagewise(seen.reward, stages) / tried
    expected = induction(kernel, reward, seen.ended.numpy(), rule, cap=True)
    q = agent.plan(SPEC, seen, streams(3)).numpy()
    np.testing.assert_allclose(q, expected, rtol=1e-12)
    capped = np.arange(H, 0, -1)[:, None, None]
    never = np.broadcast_to(count == 0, q.shape)
    assert never.any() and (q == np.broadcast_to(capped, q.shape))[never].all()
    assert (q < capped).any()


@pytest.mark.parametrize("name", ["hoeffding", "bernstein", "stage"])
def test_upper_bounds_hold_with_the_promised_probability(name):
    """Optimism at theory constants; without a bonus it fails, so the test can."""
    n, problem = 200, RiverSwim(states=4, horizon=6)
    for scale, promised in ((1.0, True), (1e-6, False)):
        loop = Rollout(Run(problem, UCBVI(name, scale, delta=0.1), 240, n, seed=2, group=n))
        truth = loop.groups[0].instance.shared.model
        best = planning.backward_induction(truth.dense(), 6).q
        broken = torch.zeros(n, dtype=torch.bool)
        for step in range(6, 241, 6):
            loop.advance(step)
            q = loop.groups[0].carry.agent.q.reshape(n, 6, 4, 2)
            broken |= (q < best - 1e-9).flatten(1).any(1)
        assert (broken.double().mean() <= 0.1) == promised


def test_one_state_and_one_step_make_ucbvi_a_bandit_index():
    spec = Spec(Discrete(1), Discrete(3), 1, total_steps=50)
    fresh = empty(spec, streams(1))
    count = torch.tensor([[[1.0, 9.0, 0.0]]], dtype=torch.float64)
    total = torch.tensor([[[0.1, 0.9, 0.0]]], dtype=torch.float64)
    seen = fresh._replace(count=count, visits=count[..., None], reward=total)
    q = UCBVI("stage", scale=0.1).plan(spec, seen, streams(1))[0, 0, 0]
    width = 0.1 * np.sqrt(np.log(5 * 3 * 50 / 0.05))
    assert q.tolist() == pytest.approx([0.1 + width, 0.1 + width / 3, 1.0], rel=1e-12)


@pytest.mark.parametrize("name", ["hoeffding", "bernstein", "stage", "root"])
def test_upper_bounds_do_not_know_the_names_of_states(name):
    agent, seen = PLANNERS[name], made_up()
    order = torch.tensor([2, 0, 3, 1])
    renamed = type(seen)(
        seen.visits[:, order][..., order], *[x[:, order] for x in seen[1:4]], seen.ended[:, order]
    )
    q, moved = (agent.plan(SPEC, x, streams(3)) for x in (seen, renamed))
    torch.testing.assert_close(moved, q[:, :, order], rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_plan_for_some_replicas_is_the_plan_for_all_of_them(name):
    agent = PLANNERS[name]
    stages = H if getattr(agent, "stage_dependent", False) else 1
    seen = made_up(40, stages)
    table = torch.tensor(np.random.default_rng(1).random((S, A)))
    spec = replace(SPEC, known=Known(reward=table))
    rows = torch.tensor([3, 17, 18, 39])
    part = type(seen)(*[leaf[rows] for leaf in seen])
    rng = streams(40)
    few = agent.plan(spec, part, replace(rng, replica=rng.replica[rows]))
    assert torch.equal(agent.plan(spec, seen, rng)[rows], few)


@pytest.mark.parametrize("name", PLANNERS)
def test_only_replicas_whose_episode_ended_plan_and_each_as_if_all_did(name):
    agent, n = PLANNERS[name], 40
    table = torch.tensor(np.random.default_rng(1).random((n, S, A)))
    spec, rng = replace(SPEC, known=Known(reward=table)), streams(n, step=7)
    last = torch.zeros(n, dtype=torch.bool)
    last[[3, 17, 18]] = True
    number = torch.arange(n)
    batch = Transition(
        number % 3, number % A, torch.ones(n), torch.ones(n), number % S, torch.ones_like(last)
    )
    before = agent.initial(spec, streams(n))
    every = agent.learn(spec, before, batch, rng)
    few = agent.learn(spec, before, batch._replace(last=last), rng)
    assert torch.equal(few.q[last], every.q[last]) and torch.equal(few.q[~last], before.q[~last])
    assert few.episode.stage.tolist() == (~last).long().tolist()
    assert torch.equal(few.experience.count.sum((1, 2)), last.double())


@pytest.mark.parametrize("name", PLANNERS)
def test_nothing_is_expected_beyond_a_state_that_ends_the_episode(name):
    """All transitions lead from 0 to the end: the value is the reward, however large the rest."""
    agent = PLANNERS[name]
    stages = H if getattr(agent, "stage_dependent", False) else 1
    shape = (1, stages * S, A)
    fresh = empty(SPEC, streams(1), stages)
    count = torch.full(shape, 1e12, dtype=torch.float64)
    visits = torch.zeros(*shape, S, dtype=torch.float64)
    visits[..., 1] = 1e12
    ended = torch.tensor([[False, True, False, False]])
    reward = torch.full(shape, 0.3, dtype=torch.float64)
    seen = fresh._replace(
        visits=visits, count=count, reward=0.3 * count, square=0.09 * count, ended=ended
    )
    spec = replace(SPEC, known=Known(reward=reward[0, :S]))
    q = agent.plan(spec, seen, streams(1))[0][:, [0, 2, 3]]
    assert torch.allclose(q, torch.full_like(q, 0.3), atol=2e-3)


@pytest.mark.parametrize("name", PLANNERS)
def test_the_plan_is_held_through_an_episode_and_replaced_after_it(name):
    problem = RiverSwim(states=S, horizon=H)
    loop = Rollout(Run(problem, PLANNERS[name], 1000, 4, seed=1, group=4))
    held = loop.groups[0].carry.agent.q
    for step in range(1, 3 * H + 1):
        loop.advance(step)
        now = loop.groups[0].carry.agent.q
        assert torch.equal(now, held) == (step % H != 0)
        held = now


@pytest.mark.parametrize(
    ("agent", "fields", "words"),
    [
        (PSRL, {"alpha": 0.0}, "alpha"),
        (PSRL, {"reward_prior": "beta"}, "reward_prior"),
        (PSRL, {"noise": -1.0}, "noise"),
        (RLSVI, {"sigma": -0.1}, "sigma"),
        (RLSVI, {"ridge": 0.0}, "ridge"),
        (UCBVI, {"bonus": "chernoff"}, "bonus"),
        (UCBVI, {"scale": 0.0}, "scale"),
        (UCBVI, {"delta": 1.0}, "delta"),
        (UCBVI, {"reward_max": 0.0}, "reward_max"),
    ],
)
def test_fields_out_of_range_are_refused(agent, fields, words):
    with pytest.raises(ValueError, match=words):
        agent(**fields)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation": Box((3,))}, "Discrete states"),
        ({"horizon": None}, "horizon = None"),
        ({"observation": Discrete(3000)}, "numbers a replica"),
    ],
)
def test_unsuitable_problems_are_refused(name, change, words):
    spec = replace(SPEC, known=Known(reward=torch.zeros(S, A)), **change)
    with pytest.raises(ValueError, match=words):
        PLANNERS[name].initial(spec, streams(2))


def test_rewards_beyond_the_declared_and_runs_of_unknown_length_are_refused():
    with pytest.raises(ValueError, match="rewards go up to 3"):
        UCBVI().initial(replace(SPEC, reward_range=(0.0, 3.0)), streams(2))
    with pytest.raises(ValueError, match="total_steps = None"):
        UCBVI().initial(replace(SPEC, total_steps=None), streams(2))
    with pytest.raises(ValueError, match="does not disclose"):
        PSRL(known_reward=True).initial(SPEC, streams(2))
