"""DDPO and DPOK: per-prompt statistics, ratios, unbiased gradients, penalties, learning.

Oracles: the published formulas in numpy, exact objectives of affine chains and short sequences.
"""

import math
import warnings
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkit.agents.diffusion.ddpo import DDPO
from rlkit.agents.diffusion.dpok import DPOK
from rlkit.alignment.training import gradient, improve, start_training
from rlkit.diffusion import riccati
from rlkit.diffusion.measures import measure
from rlkit.diffusion.policies import (
    AffineParameters,
    ResidualPolicy,
    steps_of,
)
from rlkit.diffusion.prompt_statistics import moments_of, record, start_statistics
from rlkit.diffusion.proximal import (
    divergence_to_go,
    minibatches,
    noise_factor,
    ratio,
    rollout_of,
    surrogate,
)
from rlkit.diffusion.step_values import draw_steps, remember_chains, start_replay, step_values
from rlkit.diffusion.task import Chains, Scores
from rlkit.engine import Streams
from rlkit.envs.diffusion.few_step import FewStepGauss
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.protocol import Transition
from rlkit.rollout import Rollout, Run

LQG = GaussMixDiffusion(data="lqg", reward="quadratic", kernel="exact")
RING = GaussMixDiffusion(
    data="ring", dimension=16, reward="modes", kernel="ddim", steps=20, prompts=1
)
ALPHA = 0.4


def spec_of(problem, replicas):
    return problem.spec(problem.instance(Streams(0, torch.arange(replicas)).at("instance", 0)))


def rng_of(replicas, stream="act", step=0, seed=0):
    return Streams(seed, torch.arange(replicas)).at(stream, step)


def moved(parameters, scale, seed=0):
    """Parameters shifted by normal noise."""
    rng = np.random.default_rng(seed)
    leaves, structure = torch.utils._pytree.tree_flatten(parameters)
    shifted = [
        leaf + scale * torch.tensor(rng.normal(size=leaf.shape)).to(leaf.dtype) for leaf in leaves
    ]
    return torch.utils._pytree.tree_unflatten(shifted, structure)


def written(problem, agent, replicas, scale=0.0, seed=0):
    """A state whose policy is away from the reference, its chains, and their scores."""
    spec = spec_of(problem, replicas)
    state = agent.initial(spec, rng_of(replicas, "initial", seed=seed))
    trained = start_training(moved(state.policy.parameters, scale, seed))
    state = state._replace(policy=trained)
    chains, state = agent.act(spec, state, None, rng_of(replicas, seed=seed))
    reward = spec.known.diffusion.reward(chains.point, chains.prompt)
    return spec, state, chains, reward


def learn(agent, spec, state, chains, reward):
    batch = Transition(None, chains, None, None, None, None, Scores(reward, chains.point))
    return agent.learn(spec, state, batch, rng_of(len(reward), "learn"))


def flat(tree):
    leaves = torch.utils._pytree.tree_leaves(tree)
    return torch.cat([leaf.double().flatten(1) for leaf in leaves], 1)


# Statistics of prompts


def test_statistics_are_those_of_the_published_tracker():
    n, prompts, size = 3, 4, 20
    rng = np.random.default_rng(0)
    seen = start_statistics(rng_of(n), prompts, size)
    tracker = [[deque(maxlen=size) for _ in range(prompts)] for _ in range(n)]
    for count in (5, 30, 64, 64, 7):
        reward, prompt = rng.normal(size=(n, count)), rng.integers(0, prompts, (n, count))
        prompt[:, : count // 2] = 1  # more of one prompt than fit
        seen = record(seen, torch.tensor(reward), torch.tensor(prompt))
        mean, deviation = moments_of(seen, torch.tensor(reward), torch.tensor(prompt))
        for i in range(n):
            for c in range(prompts):
                tracker[i][c].extend(reward[i][prompt[i] == c])
            for b in range(count):
                own = tracker[i][prompt[i, b]]
                used = reward[i] if len(own) < 16 else np.array(own)
                assert float(mean[i, b]) == pytest.approx(used.mean(), abs=1e-12)
                assert float(deviation[i, b]) == pytest.approx(used.std(), abs=1e-12)


def test_prompts_of_different_scale_get_the_same_advantages():
    agent = DDPO(batch=200, buffer=200, kl="none", advantage_clip=1e9)
    problem = replace(RING, dimension=2, prompts=2)
    spec, state, chains, reward = written(problem, agent, 2)
    rollout, _ = agent.judged(spec, state, chains, reward)
    other = torch.where(chains.prompt == 1, 7.0 + 100 * reward, reward)
    again, _ = agent.judged(spec, state, chains, other)
    torch.testing.assert_close(again.advantage, rollout.advantage, atol=1e-9, rtol=1e-9)


# Ratios and log-probabilities


CASES = [
    (LQG, "affine"),
    (RING, "residual"),
    (RING, "spread"),
    (MaskedSeq(), "table"),
    (MaskedSeq(), "network"),
    (MaskedSeq(chain="single"), "table"),
]


@pytest.mark.parametrize(("problem", "policy"), CASES)
def test_ratios_of_fresh_data_are_one(problem, policy):
    agent = DDPO(policy=policy, hidden=(16,), batch=12)
    spec, state, chains, _ = written(problem, agent, 3, 0.02)
    with torch.no_grad():
        again = agent.model.log_probability(spec, state.policy.parameters, chains)
    assert (again - chains.log_probability).abs().max() < 2e-4
    affine = policy in ("affine", "table")
    assert not affine or (again - chains.log_probability).abs().max() < 1e-10


@pytest.mark.parametrize(("problem", "policy"), CASES)
def test_the_reference_has_no_divergence_and_any_other_has(problem, policy):
    agent = DDPO(policy=policy, hidden=(16,), batch=12)
    spec, state, chains, _ = written(problem, agent, 3)
    model = agent.model
    assert model.divergence(spec, state.policy.parameters, chains).abs().max() < 1e-12
    other = moved(state.policy.parameters, 0.1)
    assert (model.divergence(spec, other, chains).sum(1) > 0).all()


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_log_probabilities_are_those_of_the_published_ddim_step(eta):
    problem = replace(RING, eta=eta)
    policy = ResidualPolicy((16,))
    spec = spec_of(problem, 2)
    parameters = moved(policy.start(spec, rng_of(2, "initial")), 0.1)
    prompt = torch.zeros(2, 5).long()
    chains = policy.write(spec, parameters, prompt, rng_of(2))
    task = spec.known.diffusion
    abar = task.kernel.schedule.abar.numpy()
    for t in (1, 2, 9, 20):
        x, following = (chains.chain[:, k].numpy() for k in (t, t - 1))
        now = torch.full((2, 5), t)
        guess = task.mixture.denoise(torch.tensor(x), abar[t])
        out = policy.residual(task, parameters, torch.tensor(x), guess, now, prompt)
        x0 = (guess + out).detach().numpy()
        noise = (x - math.sqrt(abar[t]) * x0) / math.sqrt(1 - abar[t])
        variance = (1 - abar[t - 1]) / (1 - abar[t]) * (1 - abar[t] / abar[t - 1])
        direction = math.sqrt(max(1 - abar[t - 1] - eta**2 * variance, 0)) * noise
        mean = math.sqrt(abar[t - 1]) * x0 + direction
        deviation = eta * math.sqrt(variance if t > 1 else 1e-4)
        each = (
            -((following - mean) ** 2) / (2 * deviation**2)
            - math.log(deviation)
            - 0.5 * math.log(2 * math.pi)
        )
        np.testing.assert_allclose(chains.log_probability[:, t - 1], each.sum(-1), rtol=1e-4)
        # The published one is a mean over dimensions: its ratio is ours with "mean".
        old = torch.tensor(each.mean(-1))
        ours = ratio(chains.log_probability[:, t - 1] + 0.3, 16 * old, 1 / 16)
        np.testing.assert_allclose(ours, math.exp(0.3 / 16), rtol=1e-3)


def test_bernoulli_part_of_a_masked_step_cancels_in_the_ratio():
    agent = DDPO(policy="table", batch=40)
    spec, state, chains, _ = written(MaskedSeq(), agent, 2)
    other = moved(state.policy.parameters, 0.3)
    ratio_of = agent.model.log_probability(spec, other, chains) - chains.log_probability
    steps = steps_of(chains)
    base = agent.model.laws(spec, state.policy.parameters, steps.x, steps.t)
    laws = agent.model.laws(spec, other, steps.x, steps.t)
    revealed = (steps.x == 4) & (steps.following < 4)
    letter = steps.following.clamp(max=3)[..., None]
    told = torch.where(revealed, (laws - base).gather(-1, letter)[..., 0], 0.0).sum(-1)
    torch.testing.assert_close(ratio_of.flatten(1), told, atol=1e-10, rtol=0)


def test_surrogate_by_hand():
    bare = torch.tensor([[0.5, 1.0, 1.5, 0.5, 1.0, 1.5]])
    gain = surrogate(bare, torch.tensor([[2.0, 2, 2, -2, -2, -2]]), 0.2)
    assert torch.allclose(gain, torch.tensor([[1.0, 2.0, 2.4, -1.6, -2.0, -3.0]]))


def test_an_overflowing_ratio_leaves_gradients_finite():
    x = torch.tensor([[900.0]], requires_grad=True)
    gain = surrogate(ratio(x, torch.zeros(1, 1), 1.0), torch.tensor([[-1.0]]), 0.2)
    assert torch.isfinite(torch.autograd.grad(gain.sum(), x)[0]).all()


def test_divergence_to_go_is_that_of_later_steps():
    each = torch.tensor([[1.0], [10.0], [100.0]])[None]  # t = 1, 2, 3
    assert divergence_to_go(each)[0, :, 0].tolist() == [0.0, 1.0, 11.0]


# Minibatches and descent


def test_an_epoch_visits_every_step_once_in_another_order_for_each_replica():
    chains = Chains(torch.randn(3, 6, 7, 2), torch.zeros(3, 7).long(), torch.zeros(3, 5, 7))
    label = torch.arange(35.0).reshape(1, 5, 7).expand(3, -1, -1)
    rollout = rollout_of(chains, label, label)
    parts = list(minibatches(rollout, rng_of(3, "learn"), 2, 4))
    assert [part.advantage.shape[1] for part in parts] == [9, 9, 9, 8] * 2
    for epoch in (parts[:4], parts[4:]):
        seen = torch.cat([part.advantage for part in epoch], 1)
        assert torch.equal(seen.sort(1).values, label.reshape(3, -1))
        assert not torch.equal(seen[0], seen[1])
        t = torch.cat([part.steps.t for part in epoch], 1)
        assert torch.equal(t, (seen // 7).long() + 1)
        x = torch.cat([part.steps.x for part in epoch], 1)
        row = torch.arange(3)[:, None]
        assert torch.equal(x, chains.chain[row, t, (seen % 7).long()])
    assert not torch.equal(parts[0].advantage, parts[4].advantage)


def test_gradients_are_cut_at_their_norm_in_each_replica_alone():
    start = (torch.zeros(2, 3), torch.zeros(2, 1))
    slope = torch.tensor([[0.3, 0.0, 0.0], [30.0, 0.0, 0.0]])

    def loss(parameters):
        return (slope * parameters[0]).sum(1) + 40 * (slope[:, :1] * parameters[1] / 30).sum(1)

    after = improve(start_training(start), loss, 0.1, 1.0)
    moment = torch.cat([adam.mean for adam in after.adam], 1) * 10
    np.testing.assert_allclose(moment[0], [0.3, 0, 0, 0.4], atol=1e-6)
    np.testing.assert_allclose(moment[1], [0.6, 0, 0, 0.8], atol=1e-6)
    free = improve(start_training(start), loss, 0.1, math.inf)
    np.testing.assert_allclose(free.adam[0].mean[1] * 10, [30, 0, 0], atol=1e-4)


def test_a_cut_gradient_does_not_see_logits_that_stay_at_minus_infinity():
    start = torch.tensor([[0.5, -math.inf, 0.2]])
    for bound in (1.0, math.inf):
        after = improve(
            start_training(start), lambda leaf: ((leaf - 0.9 * start) ** 2).sum(1), 0.1, bound
        )
        np.testing.assert_allclose(after.parameters, [[0.4, -math.inf, 0.1]], atol=1e-5)


# Gradients


def sampled_gradient(agent, spec, state, chains, reward):
    """Gradient of the loss in the units of the objective: T times, and not in deviations."""
    rollout, memory = agent.judged(spec, state, chains, reward)
    _, deviation = moments_of(memory, reward, chains.prompt)
    slopes = gradient(state.policy.parameters, lambda p: agent.loss(spec, p, rollout))
    scale = chains.log_probability.shape[1] * deviation[:, :1]
    return -scale * flat(slopes)


def exact_gradient(problem, parameters):
    chain = riccati.affine_chain(spec_of(problem, 1).known.diffusion)

    def loss(p):
        found = riccati.earn(chain, *riccati.of_policy(p))
        return -(found.reward - ALPHA * found.path_kl)

    return -flat(gradient(parameters, loss))


def scores(estimate, exact):
    """Deviations of the mean over replicas from the exact value, in standard errors."""
    error = estimate.std(0) / math.sqrt(len(estimate))
    return ((estimate.mean(0) - exact.mean(0)) / error).abs()


def tied_policy(replicas, slope=0.25):
    """The same affine policy for all replicas."""
    rng = np.random.default_rng(4)
    parts = [torch.tensor(rng.normal(0, slope, (1, 10, 1, 1))) for _ in range(2)]
    return AffineParameters(*(part.expand(replicas, -1, -1, -1) + 0.0 for part in parts))


def gradients(mode, kl, replicas=100, batch=2000):
    agent = DDPO(
        alpha=ALPHA, policy="affine", batch=batch, buffer=batch, mode=mode, kl=kl,
        advantage_clip=1e9,
    )  # fmt: skip
    spec = spec_of(LQG, replicas)
    state = agent.initial(spec, rng_of(replicas, "initial"))
    state = state._replace(policy=start_training(tied_policy(replicas)))
    chains, state = agent.act(spec, state, None, rng_of(replicas))
    reward = spec.known.diffusion.reward(chains.point, chains.prompt)
    estimate = sampled_gradient(agent, spec, state, chains, reward)
    return scores(estimate, exact_gradient(LQG, state.policy.parameters))


@pytest.mark.parametrize("mode", ["sf", "is"])
def test_gradient_with_kl_in_the_return_is_that_of_the_exact_objective(mode):
    assert gradients(mode, "return").max() < 4.5


def test_gradient_with_kl_in_the_loss_only_is_not():
    assert gradients("sf", "loss_only").max() > 10


def test_gradient_of_masked_sequences_is_that_of_the_exact_objective():
    problem, replicas, batch = MaskedSeq(length=3, steps=4, reward="pairs"), 60, 2000
    agent = DDPO(
        alpha=ALPHA, policy="table", batch=batch, buffer=batch, mode="sf", advantage_clip=1e9
    )
    spec = spec_of(problem, replicas)
    state = agent.initial(spec, rng_of(replicas, "initial"))
    rng = np.random.default_rng(1)
    shape = (1, *state.policy.parameters.shape[1:])
    logits = torch.tensor(rng.normal(0, 0.3, shape)).expand(replicas, -1, -1, -1) + 0.0
    state = state._replace(policy=start_training(logits))
    chains, state = agent.act(spec, state, None, rng_of(replicas))
    reward = spec.known.diffusion.reward(chains.point, chains.prompt)
    estimate = sampled_gradient(agent, spec, state, chains, reward)
    one, at = spec_of(problem, 1), torch.zeros(1).long()
    for seed in range(3):
        way = torch.tensor(np.random.default_rng(seed).normal(size=shape))

        def value(step, way=way):
            found = measure(one, agent.model, logits[:1] + step * way, at, ALPHA)
            return float(found["gold_reward"] - ALPHA * found["path_kl"])

        exact = (value(1e-4) - value(-1e-4)) / 2e-4
        along = estimate @ way.flatten()
        assert abs(float(along.mean()) - exact) < 4 * float(along.std()) / math.sqrt(replicas)


def test_ratio_and_score_function_agree_on_fresh_data():
    spec, state, chains, reward = written(LQG, DDPO(policy="affine", batch=50), 3, 0.05)
    found = [
        sampled_gradient(
            DDPO(policy="affine", batch=50, mode=mode), spec, state, chains, reward
        )
        for mode in ("is", "sf")
    ]  # fmt: skip
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


def test_mean_over_dimensions_is_the_sum_over_their_number():
    agent = DDPO(batch=20, hidden=(8,), mode="sf")
    spec, state, chains, reward = written(RING, agent, 2, 0.05)
    total, mean = (
        sampled_gradient(replace(agent, reduce=reduce), spec, state, chains, reward)
        for reduce in ("sum", "mean")
    )
    torch.testing.assert_close(mean * 16, total, atol=1e-4, rtol=1e-3)


# Invariances of updates


@pytest.mark.parametrize("agent", [
    DDPO(policy="affine", batch=40, mode="sf", buffer=40),
    DDPO(policy="affine", batch=40, pieces=1, epochs=2, buffer=40),
])  # fmt: skip
def test_the_order_of_chains_does_not_matter(agent):
    spec, state, chains, reward = written(LQG, agent, 3, 0.05)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    mixed = Chains(
        chains.chain[:, :, order], chains.prompt[:, order], chains.log_probability[..., order]
    )
    first = learn(agent, spec, state, chains, reward)
    second = learn(agent, spec, state, mixed, reward[:, order])
    difference = flat(first.policy.parameters) - flat(second.policy.parameters)
    assert difference.abs().max() < 1e-9
    assert (flat(first.policy.parameters) - flat(state.policy.parameters)).abs().max() > 1e-4


@pytest.mark.parametrize("agent", [DDPO(policy="affine", mode="sf"), DDPO(policy="affine")])
def test_a_constant_added_to_rewards_changes_nothing(agent):
    spec, state, chains, reward = written(LQG, agent, 3, 0.05)
    first, second = (learn(agent, spec, state, chains, reward + c) for c in (0.0, 5.0))
    difference = flat(first.policy.parameters) - flat(second.policy.parameters)
    assert difference.abs().max() < 1e-9


def test_constant_rewards_teach_nothing_and_say_so():
    agent = DDPO(policy="affine", kl="none")
    spec, state, chains, reward = written(LQG, agent, 2, 0.05)
    with pytest.warns(UserWarning, match="all rewards of a batch are the same"):
        after = learn(agent, spec, state, chains, reward * 0 + 0.7)
    assert torch.equal(flat(after.policy.parameters), flat(state.policy.parameters))


def test_large_advantages_are_cut():
    agent = DDPO(policy="affine", batch=200, buffer=200)
    spec, state, chains, reward = written(LQG, agent, 1)
    outlier = reward.clone()
    outlier[0, 0] = 1e6
    rollout, _ = agent.judged(spec, state, chains, outlier)
    assert float(rollout.advantage.max()) == 5.0


# DPOK


@pytest.mark.parametrize(
    ("kernel", "variance"), [("ddpm", "small"), ("ddpm", "large"), ("ddim", "small")]
)
def test_noise_penalty_is_the_squared_distance_of_predicted_noises(kernel, variance):
    problem = replace(RING, kernel=kernel, variance=variance)
    policy = ResidualPolicy((16,))
    spec = spec_of(problem, 2)
    parameters = moved(policy.start(spec, rng_of(2, "initial")), 0.1)
    prompt = torch.zeros(2, 6).long()
    chains = policy.write(spec, parameters, prompt, rng_of(2))
    steps, task = steps_of(chains), spec.known.diffusion
    level = task.kernel.schedule.at(steps.t)
    guess = task.mixture.denoise(steps.x, level)
    out = policy.residual(task, parameters, steps.x, guess, steps.t, steps.prompt)
    expected = (level / (1 - level)) * (out * out).sum(-1)  # eps is (x - sqrt(abar) x0) / ...
    found = noise_factor(task, steps) * policy.assess(spec, parameters, steps).divergence
    late = (steps.t > 1) | torch.tensor(kernel == "ddim" or variance == "small")
    torch.testing.assert_close(found[late], expected[late], rtol=1e-6, atol=1e-12)
    # The released floor of the last deviation does not matter: it cancels.
    assert (steps.t == 1).any()


def test_noise_penalty_of_masked_sequences_is_the_divergence():
    agent = DPOK(policy="table", batch=4)
    spec, _, chains, _ = written(MaskedSeq(), agent, 1)
    assert (noise_factor(spec.known.diffusion, steps_of(chains)) == 1).all()


def test_cut_off_ratios_have_no_gradient_on_either_side():
    agent = DPOK(policy="affine", batch=60, kl_weight=0.0, clip=1e-9)
    spec, state, chains, reward = written(LQG, agent, 2, 0.05)
    rollout = agent.judged(spec, state.memory.value.parameters, chains, reward)
    other = moved(state.policy.parameters, 0.01)
    slopes = gradient(other, lambda p: agent.loss(spec, p, rollout))
    assert flat(slopes).abs().max() == 0
    # The smaller of two gains pushes steps back that went the wrong way.
    mild = DDPO(policy="affine", batch=60, kl="none", clip=1e-9)
    slopes = gradient(other, lambda p: mild.loss(spec, p, rollout))
    assert flat(slopes).abs().max() > 0


def test_replay_keeps_the_newest_chains_and_draws_only_those():
    spec = spec_of(LQG, 2)
    replay = start_replay(spec, rng_of(2), 10)
    for batch in range(3):
        first = 4 * batch
        label = torch.arange(first, first + 4.0).expand(2, -1).double()
        chain = label[:, None, :, None] + torch.arange(11.0)[None, :, None, None] / 100
        chains = Chains(chain.double(), torch.zeros(2, 4).long(), torch.zeros(2, 10, 4))
        replay = remember_chains(replay, chains, label)
        steps, reward = draw_steps(replay, rng_of(2), f"draw/{batch}", 500)
        kept = range(max(0, first + 4 - 10), first + 4)
        assert set(reward.flatten().tolist()) == {float(k) for k in kept}
        assert torch.allclose(steps.x[..., 0], reward.double() + steps.t / 100)
        assert set(steps.t.flatten().tolist()) == set(range(1, 11))


def test_the_baseline_learns_the_mean_reward_given_the_noisy_point():
    agent = DPOK(
        policy="affine", batch=256, replay=256, value_steps=300, value_batch=512, value_rate=0.01
    )
    spec, state, chains, reward = written(LQG, agent, 2)
    value = learn(agent, spec, state, chains, reward).memory.value.parameters
    steps = steps_of(chains)
    level = spec.known.diffusion.kernel.schedule.at(steps.t)
    wide = 0.5 * level + 1 - level  # x_0 ~ N(1, 0.5)
    mean = 1 + 0.5 * level.sqrt() / wide * (steps.x[..., 0] - level.sqrt())
    expected = -0.75 * ((mean + 1) ** 2 + 0.5 * (1 - level) / wide)
    with torch.no_grad():
        error = step_values(spec, value, steps) - expected
    assert (error.square().mean(1).sqrt() < 0.2 * reward.std(1)).all()


# Learning


def objective(loop):
    """Exact objective of affine policies below its best, `[N]`."""
    group = loop.groups[0]
    chain = riccati.affine_chain(group.spec.known.diffusion)
    found = riccati.earn(chain, *riccati.of_policy(group.carry.agent.policy.parameters))
    plan = riccati.solve(chain, ALPHA)
    best = riccati.earn(chain, plan.slope, plan.offset)
    return (best.reward - ALPHA * best.path_kl) - (found.reward - ALPHA * found.path_kl)


def trained(problem, agent, steps, replicas):
    loop = Rollout(Run(problem, agent, steps, replicas, group=replicas))
    loop.advance(steps)
    return loop


@pytest.mark.parametrize("reward", ["quadratic", "linear"])
def test_ddpo_reaches_the_best_affine_sampler(reward):
    agent = DDPO(alpha=ALPHA, policy="affine", batch=128, buffer=128, pieces=2, rate=0.004)
    loop = trained(replace(LQG, reward=reward), agent, 100, 5)
    assert (objective(loop) < 0.02).all()


@pytest.mark.filterwarnings("ignore:all rewards of a batch")  # where all chains hit the mode
def test_ddpo_reaches_reward_of_a_mode_in_the_queries_of_the_prototype():
    agent = DDPO(alpha=0.0, kl="none", rate=0.003)
    record = trained(RING, agent, 42, 4).record()
    assert (record["gold_reward"] > 0.8).all()
    assert float(record["queries"][0]) == 1344


@pytest.mark.parametrize("agent", [
    DDPO(batch=64, policy="network"),
    DPOK(batch=64, policy="network"),
])  # fmt: skip
def test_masked_sequences_are_learned_below_the_exact_front(agent):
    loop = Rollout(Run(MaskedSeq(), agent, 30, 2, group=2))
    task = loop.groups[0].spec.known.diffusion
    first = None
    for step in (1, 10, 20, 30):
        loop.advance(step)
        found = loop.record()
        first = found["gap"] if first is None else first
        for alpha in (0.02, 0.1, 0.5, 2.0):
            best = alpha * task.tilt(alpha).log_partition
            assert (found["gold_reward"] - alpha * found["kl"] <= best + 1e-9).all()
        assert (found["gap"] >= -1e-9).all()
    assert (found["gap"] < 0.5 * first).all()


# Refusals


@pytest.mark.parametrize("make", [DDPO, DPOK])
@pytest.mark.parametrize(
    ("problem", "fields", "message"),
    [
        (replace(RING, eta=0.0), {}, r"eta = 0 has no density; accepted: \(0, 1\]"),
        (FewStepGauss(), {}, "the reward is a distance of laws"),
        (MaskedSeq(), {}, "accepted: table, network, conv"),
        (LQG, {"policy": "table"}, "accepted: affine, residual, spread"),
        (replace(LQG, data="gm1"), {"policy": "affine"}, "steps that are mixtures"),
        (MaskedSeq(length=8), {"policy": "table"}, "policy = 'table' with length = 8"),
    ],
)
def test_unsuitable_problems_are_refused(make, problem, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields).initial(spec_of(problem, 2), rng_of(2))


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (DDPO, {"clip": 0.0}),
        (DDPO, {"clip": 1.0}),
        (DDPO, {"alpha": -0.1}),
        (DDPO, {"batch": 1}),
        (DDPO, {"mode": "ppo"}),
        (DDPO, {"kl": "both"}),
        (DDPO, {"reduce": "max"}),
        (DDPO, {"epochs": 0}),
        (DDPO, {"pieces": 0}),
        (DDPO, {"buffer": 15}),
        (DDPO, {"advantage_clip": 0.0}),
        (DDPO, {"gradient_clip": 0.0}),
        (DDPO, {"policy": "linear"}),
        (DPOK, {"clip": -0.2}),
        (DPOK, {"reward_weight": 0.0}),
        (DPOK, {"kl_weight": -1.0}),
        (DPOK, {"penalty": "l2"}),
        (DPOK, {"replay": 31}),
        (DPOK, {"policy_steps": 0}),
        (DPOK, {"value_steps": 0}),
        (DPOK, {"value_rate": 0.0}),
        (DPOK, {"value_batch": 0}),
        (DPOK, {"gradient_clip": -1.0}),
    ],
)
def test_fields_outside_their_range_are_refused_by_name(make, fields):
    (name, value), = fields.items()  # fmt: skip
    with pytest.raises(ValueError, match=name) as caught:
        make(**fields)
    assert str(value).strip("'") in str(caught.value)


def test_stored_log_probabilities_of_another_dtype_are_refused():
    agent = DDPO(policy="affine")
    spec, state, chains, reward = written(LQG, agent, 2)
    lower = chains._replace(log_probability=chains.log_probability.float())
    with pytest.raises(ValueError, match=r"have dtype torch.float32; accepted: torch.float64"):
        learn(agent, spec, state, lower, reward)


def test_varied_rewards_warn_of_nothing():
    agent = DDPO(policy="affine")
    spec, state, chains, reward = written(LQG, agent, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(agent, spec, state, chains, reward)
