"""Selection, resampling, value fits and guided steps against closed forms and brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlkit.diffusion.guidance import Guided, masked_step, table_slope, tilted_step, value_slope
from rlkit.diffusion.masked import MASK, sequences
from rlkit.diffusion.masked_oracles import pair_probability, pairs, single_optimal
from rlkit.diffusion.mixtures import Mixture
from rlkit.diffusion.particles import Particles
from rlkit.diffusion.steering import (
    Population,
    ancestors,
    best_of_n_law,
    candidates,
    effective,
    resample,
    svdd_select,
)
from rlkit.diffusion.value_models import ValueModel, regression
from rlkit.diffusion.value_tables import reference_chains, table_fit
from rlkit.envs.diffusion.gauss_mix import GaussMixDiffusion
from rlkit.envs.diffusion.masked_seq import MaskedSeq
from rlkit.random import Rng

MS4 = MaskedSeq(length=4, reward="pairs", steps=8)
MS4_SINGLE = MaskedSeq(length=4, reward="pairs", chain="single")


def task_of(problem, n=1):
    return problem.task(problem.instance(Rng(0, "instance", torch.arange(n))))


def rng_of(n=1, seed=1):
    return Rng(seed, "test", torch.arange(n))


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def grid(count):
    """Uniform numbers that stand for all of [0, 1), [1, count]."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[None]


@pytest.mark.parametrize("alpha", [0.3, 2.0, math.inf])
def test_a_candidate_is_kept_in_proportion_to_its_exponential_value(alpha):
    value = doubles(0.1, -0.4, 0.9, 0.3)
    count = 10_000
    point = torch.arange(4).expand(1, count, 4)
    kept = svdd_select(point, value.expand(1, count, 4), alpha, grid(count))
    weight = np.exp(value.numpy() / alpha)
    found = torch.bincount(kept.point[0], minlength=4).numpy() / count
    np.testing.assert_allclose(found, weight / weight.sum(), atol=2e-4)
    share = weight.sum() ** 2 / (weight**2).sum() / 4
    torch.testing.assert_close(kept.share, doubles(share), rtol=1e-9, atol=0)


def test_at_temperature_zero_the_best_candidate_is_kept():
    value = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    point = torch.arange(3 * 5 * 7).reshape(3, 5, 7)
    kept = svdd_select(point, value, 0.0, torch.zeros(3, 5))
    assert (kept.point == point.gather(2, value.argmax(2)[..., None])[..., 0]).all()


def test_selection_refuses_negative_temperature_no_candidates_and_infinite_values():
    value = torch.zeros(2, 3, 4, dtype=torch.float64)
    uniform = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="alpha = -1"):
        svdd_select(value, value, -1.0, uniform)
    with pytest.raises(ValueError, match="candidates = 0"):
        svdd_select(value[..., :0], value[..., :0], 1.0, uniform)
    value[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="candidate 3 of chain 2 of replica 1 is nan"):
        svdd_select(value, value, 1.0, uniform)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_law_of_the_best_of_n_is_that_of_all_tuples(count):
    law, reward = np.array([0.1, 0.3, 0.2, 0.15, 0.25]), np.array([1.0, 0.0, 1.0, 2.0, 0.0])
    expected = np.zeros(5)
    for picks in itertools.product(range(5), repeat=count):
        best = [i for i in picks if reward[i] == max(reward[list(picks)])]
        for i in best:
            expected[i] += np.prod(law[list(picks)]) / len(best)
    found = best_of_n_law(torch.tensor(law)[None], torch.tensor(reward)[None], count)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)


def test_divergence_of_the_best_of_sixteen_stays_below_its_bound_and_reaches_it():
    bound = math.log(16) - 15 / 16
    assert bound == pytest.approx(1.8350887, abs=1e-7)
    for size in (10, 100, 20_000):
        law = torch.full((1, size), 1 / size, dtype=torch.float64)
        best = best_of_n_law(law, torch.arange(size, dtype=torch.float64)[None], 16)
        kl = float((best * (best.clamp(min=1e-300) / law).log()).sum())
        assert kl <= bound
    assert kl == pytest.approx(bound, abs=1e-3)


def test_systematic_resampling_rounds_expected_offspring_and_multinomial_inverts_the_law():
    weight = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = 8 * weight / weight.sum(2, keepdim=True)
    total = torch.zeros_like(weight)
    points = np.arange(0.005, 1, 0.01)
    for u in points:
        parent = ancestors(weight, torch.full((2, 3, 1), u, dtype=torch.float64))
        offspring = (parent[..., None] == torch.arange(8)).double().sum(2)
        assert (offspring >= expected.floor() - 1e-9).all()
        assert (offspring <= expected.ceil() + 1e-9).all()
        total += offspring
    # The mean over u is a Riemann sum of a step function.
    torch.testing.assert_close(total / len(points), expected, rtol=0, atol=0.02)
    uniform = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parent = ancestors(weight, uniform)
    edges = np.cumsum(weight.numpy(), 2)
    for n, g, i in itertools.product(range(2), range(3), range(8)):
        target = uniform[n, g, i].item() * edges[n, g, -1]
        assert parent[n, g, i] == np.searchsorted(edges[n, g], target, side="right")


def population(log_weight):
    n, g, k = log_weight.shape
    point = torch.arange(g * k).expand(n, -1)
    return Population(point, point.double(), log_weight, torch.zeros(n, g, dtype=torch.float64))


def test_only_poor_groups_are_resampled_and_their_mean_weight_is_kept():
    log = torch.log(doubles(1, 1, 1, 1, 8, 1e-9, 1e-9, 1e-9)).reshape(1, 2, 4)
    after, share = resample(population(log), 0.5, "systematic", rng_of(), "parents")
    torch.testing.assert_close(share, doubles(1.0, 0.25)[None])
    assert after.point.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4]]
    torch.testing.assert_close(after.log_z, torch.log(doubles(1.0, 2.0))[None])
    torch.testing.assert_close(after.log_weight[0, 1], doubles(0, 0, 0, 0))
    never, _ = resample(population(log), 0.0, "systematic", rng_of(), "parents")
    assert torch.equal(never.point, population(log).point) and (never.log_z == 0).all()
    with pytest.raises(ValueError, match="scheme = 'residual'"):
        resample(population(log), 0.5, "residual", rng_of(), "parents")


def test_effective_size_of_equal_weights_is_their_number():
    assert float(effective(doubles(2, 2, 2))) == 3
    assert float(effective(doubles(0, 5, 0))) == 1


def test_candidates_are_independent_steps_of_the_reference():
    task = task_of(MS4)
    x = torch.full((1, 1, 4), MASK)
    found = candidates(task, x, 2, torch.zeros(1, 1, dtype=torch.int64), 40_000, rng_of(), "c")
    assert found.shape == (1, 1, 40_000, 4)
    share = (found == MASK).double().mean((0, 1, 2))
    assert ((share - 0.5).abs() < 4 * 0.5 / 200).all()
    first = found[0, 0, :, 0][found[0, 0, :, 0] != MASK]
    freq = torch.bincount(first, minlength=4).double() / len(first)
    assert ((freq - 0.25).abs() < 4 * math.sqrt(0.1875 / len(first))).all()


@pytest.mark.parametrize("kind", ["pm", "exact"])
@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
def test_the_normaliser_of_particles_is_unbiased(kind, scheme):
    """Mean over 4000 groups within 4 standard errors of the chain's own E[exp(r / alpha)]."""
    task, alpha = task_of(MS4), 0.5
    prompt = torch.zeros(1, 4000 * 5, dtype=torch.int64)
    model = ValueModel(kind, alpha)
    aim = Particles(model, 5, 0.7, scheme)

    def move(x, t, asked, name):
        still = torch.zeros(*x.shape, 4, dtype=torch.float64)
        return Guided(task).step(x, t, asked, still, rng, name)

    rng = rng_of(seed=5)
    found, _ = aim.run(task, model.start(task, rng_of()), prompt, move, rng)
    estimate = found.log_z[0].exp()
    truth = math.exp(float(task.optimum(alpha).free) / alpha)
    error = float(estimate.std()) / math.sqrt(len(estimate))
    assert abs(float(estimate.mean()) - truth) < 4 * error
    assert error < 0.05 * truth


def test_weights_of_exact_values_have_mean_one_at_every_state():
    task, alpha = task_of(MS4), 0.5
    base, edge, values = task.table.conditionals(), pairs(4), task.values(alpha)
    for t in range(1, 9):
        gain = (values[:, t - 1, edge.target] - values[:, t, edge.source]) / alpha
        mean = torch.zeros(1, 625, dtype=torch.float64).index_add(
            1, edge.source, pair_probability(base, t) * gain.exp()
        )
        torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=1e-10)


def test_guidance_by_the_posterior_mean_is_exact_for_one_gaussian_and_linear_reward():
    task = task_of(GaussMixDiffusion(data="lqg", reward="linear", steps=6))
    x = doubles(-1.0, 0.2, 2.0)[None, :, None]
    prompt = torch.zeros(1, 3, dtype=torch.int64)
    for t in range(1, 7):
        abar = float(task.kernel.schedule.abar[t])
        expected = math.sqrt(abar) * 0.5 / (abar * 0.5 + 1 - abar)
        for kind in ("pm", "exact"):
            slope = value_slope(task, ValueModel(kind, 0.3), (), x, t, prompt)
            torch.testing.assert_close(slope, torch.full_like(x, expected), rtol=1e-9, atol=0)


def test_guidance_by_the_posterior_mean_is_wrong_on_two_gaussians_as_tabulated():
    """GM1 with equal weights at level 0.5."""
    task = task_of(GaussMixDiffusion(data="gm1", reward="linear", steps=1, terminal_abar=0.5))
    even = replace(task.mixture, log_weight=torch.log(doubles(0.5, 0.5))[None, None])
    task = replace(task, mixture=even)
    x = doubles(-2, -1, 0, 1, 2)[None, :, None]
    prompt = torch.zeros(1, 5, dtype=torch.int64)
    table = {"exact": (0.62, 3.385, 2.169, 0.337, 0.259), "pm": (0.267, 0.684, 5.517, 0.684, 0.267)}
    for kind, expected in table.items():
        slope = value_slope(task, ValueModel(kind, 0.5), (), x, 1, prompt) / 0.5
        np.testing.assert_allclose(slope[0, :, 0].numpy(), expected, atol=6e-4)


def test_a_tilted_step_is_the_step_times_an_exponential():
    law = task_of(GaussMixDiffusion(data="gm2", kernel="exact")).law(torch.zeros(1, 1))
    slope = doubles(0.7, -1.3)[None, None]
    wide = Mixture(law.log_weight, law.mean, law.spectrum, law.basis)
    bent = tilted_step(wide, slope)
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ratio = bent.log_density(x) - law.log_density(x) - (slope * x).sum(-1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=0, atol=1e-10)
    single = Mixture(
        doubles(0.0)[None, None], doubles(0.4)[None, None, None], doubles(0.2)[None, None, None]
    )
    moved = tilted_step(single, doubles(3.0)[None, None])
    assert float(moved.mean) == pytest.approx(0.4 + 0.2 * 3.0)
    assert float(moved.spectrum) == 0.2


def test_slope_of_a_table_is_the_difference_that_a_letter_makes():
    table = torch.rand(1, 625, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = torch.tensor([[[4, 1, 4, 0]]])
    slope = table_slope(table, x)
    weight = (125, 25, 5, 1)

    def code(tokens):
        return sum(w * a for w, a in zip(weight, tokens, strict=True))

    for i, a in itertools.product((0, 2), range(4)):
        after = x[0, 0].tolist()
        after[i] = a
        expected = table[0, code(after)] - table[0, code(x[0, 0].tolist())]
        torch.testing.assert_close(slope[0, 0, i, a], expected)


def test_slope_of_the_posterior_mean_is_a_directional_derivative_of_the_reward():
    task = task_of(MS4)
    x = torch.tensor([[[4, 1, 4, 4]]])
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    slope = value_slope(task, ValueModel("pm", 0.5), (), x, 3, prompt)
    mean, small = task.expect(x, 3, prompt), 1e-6
    for i, a in itertools.product((0, 2, 3), range(4)):
        way = torch.zeros_like(mean)
        way[0, 0, i] = -mean[0, 0, i]
        way[0, 0, i, a] += 1
        ahead, behind = (task.reward(mean + s * small * way, prompt) for s in (1, -1))
        torch.testing.assert_close(
            slope[0, 0, i, a], ((ahead - behind) / (2 * small))[0, 0], rtol=0, atol=1e-7
        )
    assert (slope[0, 0, 1] == 0).all()


def test_exact_guidance_of_the_single_chain_is_its_optimal_kernel():
    task, alpha = task_of(MS4_SINGLE), 0.5
    tilt = task.tilt(alpha)
    states = sequences(4, 5)[None][:, (sequences(4, 5) == MASK).any(1)]
    best = single_optimal(task.table.conditionals(), tilt.value, alpha)
    best = best[:, (sequences(4, 5) == MASK).any(1)]
    prompt = torch.zeros(states.shape[:2], dtype=torch.int64)
    slope = value_slope(task, ValueModel("exact", alpha), (), states, 1, prompt) / alpha
    for seed in range(5):
        step = masked_step(task, states, 1, slope, rng_of(seed=seed), "move")
        reference = task.log_probability(states, 1, prompt, step.point)
        revealed = (step.point != states).long().argmax(2, keepdim=True)
        letter = step.point.gather(2, revealed)
        row = best.gather(2, revealed[..., None].expand(-1, -1, -1, 4)).squeeze(2)
        chosen = torch.log(row.gather(2, letter)[..., 0])
        torch.testing.assert_close(reference - step.log_ratio, chosen, rtol=0, atol=1e-9)


@pytest.mark.parametrize("problem", [MS4, MS4_SINGLE], ids=["parallel", "single"])
def test_weights_correct_for_the_guided_proposal(problem):
    """E_q[p / q] = 1 and E_q[p / q f] = E_p f, within 4 standard errors."""
    task, count = task_of(problem), 40_000
    x = torch.full((1, count, 4), MASK)
    prompt = torch.zeros(1, count, dtype=torch.int64)
    slope = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4).expand(1, count, 4, 4)
    step = masked_step(task, x, 3, slope, rng_of(seed=8), "move")
    weight = step.log_ratio.exp()
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / math.sqrt(count)
    seen = (step.point[..., 3] != MASK).double() * weight
    truth = 1 / 3 if problem is MS4 else 1 / 4
    assert abs(float(seen.mean()) - truth) < 4 * float(seen.std()) / math.sqrt(count)
    still = masked_step(task, x, 3, 0 * slope, rng_of(seed=8), "move")
    torch.testing.assert_close(still.log_ratio, torch.zeros_like(still.log_ratio))
    assert torch.equal(still.point, task.step(x, 3, prompt, rng_of(seed=8), "move"))


@pytest.mark.parametrize("kernel", ["exact", "ddpm", "ddim"])
def test_weights_correct_for_guided_points(kernel):
    task, count = task_of(GaussMixDiffusion(data="gm2", kernel=kernel)), 40_000
    x = doubles(0.3, -0.2).expand(1, count, 2)
    prompt = torch.zeros(1, count, dtype=torch.int64)
    slope = doubles(1.5, -1.0).expand(1, count, 2)
    step = Guided(task).step(x, 6, prompt, slope, rng_of(seed=3), "move")
    plain = task.step(x, 6, prompt, rng_of(seed=4), "move")
    weight = step.log_ratio.exp()
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / math.sqrt(count)
    error = (step.point * weight[..., None]).std(1) ** 2 + plain.std(1) ** 2
    gap = (step.point * weight[..., None]).mean(1) - plain.mean(1)
    assert (gap.abs() < 4 * torch.sqrt(error / count)).all()


def test_a_deterministic_step_follows_the_score_of_the_tilted_law():
    """One Gaussian, linear reward: guided DDIM steps are DDIM steps on the tilted data."""
    problem = GaussMixDiffusion(data="lqg", reward="linear", kernel="ddim", eta=0.0, steps=4)
    task, alpha = task_of(problem), 0.4
    tilted = replace(task.mixture, mean=task.mixture.mean + 0.5 / alpha)
    x, prompt = doubles(-0.5, 1.0)[None, :, None], torch.zeros(1, 2, dtype=torch.int64)
    slope = value_slope(task, ValueModel("pm", alpha), (), x, 3, prompt) / alpha
    found = Guided(task).step(x, 3, prompt, slope, rng_of(), "move").point
    expected = replace(task, mixture=tilted).step(x, 3, prompt, rng_of(), "move")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", ["mean", "soft", "bellman"])
def test_a_table_holds_the_means_over_visits(target):
    task, alpha = task_of(MaskedSeq(length=3, reward="pairs", steps=3)), 0.7
    chains = reference_chains(task, 300, rng_of())
    table = table_fit(task, chains, target, alpha)[0].numpy()
    code = (chains.chain[0].numpy() @ np.array([25, 5, 1])).astype(int)
    reward = chains.reward[0].numpy()

    def mean(values):
        return values.mean() if target == "mean" else alpha * np.log(np.exp(values / alpha).mean())

    aim = reward
    for t in range(1, 4):
        after = np.empty(300)
        for state in np.unique(code[t]):
            here = code[t] == state
            expected = mean(aim[here])
            assert table[t, state] == pytest.approx(expected, abs=1e-10)
            after[here] = expected
        if target == "bellman":
            aim = after
    assert (
        table[3, 25 + 0 * 5 + 1]
        == pytest.approx(  # CAC is seen only at the end
            mean(reward[(code[1:] == 26).any(0)]) if (code[1:] == 26).any() else mean(reward)
        )
    )


def test_losses_of_fits_are_least_at_the_mean_and_at_the_soft_mean():
    aim, alpha = doubles(0.1, 0.5, 0.9, 0.95), 0.2
    value = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    expected = {
        "mean": float(aim.mean()),
        "soft": alpha * math.log(float((aim / alpha).exp().mean())),
    }
    for target, best in expected.items():
        loss = regression(aim, value, target, alpha).mean(1)
        assert float(value[loss.argmin()]) == pytest.approx(best, abs=1.1e-4)
    # Beyond the cap the loss goes on as its tangent.
    far = regression(doubles(2.5), doubles(0.0), "soft", 0.2) - regression(
        doubles(2.3), doubles(0.0), "soft", 0.2
    )
    assert float(far) == pytest.approx((math.exp(8.0) - 1) * 1.0, rel=1e-6)


@pytest.mark.parametrize("target", ["mean", "soft"])
def test_a_network_learns_the_value_of_points(target):
    """One Gaussian and a linear reward: both targets are the posterior mean, up to a constant."""
    task = task_of(GaussMixDiffusion(data="lqg", steps=4, kernel="exact"), n=2)
    model = ValueModel("mc", 0.5, target, pretrain=2000, updates=300)
    memory = model.start(task, rng_of(2))
    x, prompt = (
        torch.linspace(-0.5, 1.5, 9).double().expand(2, -1)[..., None],
        torch.zeros(2, 9).long(),
    )
    fitted = model(task, memory, x, 1, prompt)
    truth = task.value(x, 1, prompt, 0.5 if target == "soft" else 1e6)
    spread = float(truth.std())
    assert float((fitted - truth).square().mean().sqrt()) < 0.3 * spread


@pytest.mark.parametrize("chain", ["parallel", "single"])
def test_tables_tend_to_the_conditional_mean_by_enumeration(chain):
    """Visited states within 5 standard errors, the reward's range over the root of visits."""
    task = task_of(MaskedSeq(length=3, reward="pairs", steps=3, chain=chain))
    limit = ValueModel("mc", 0.5, pretrain=0).start(task, rng_of())[0]
    chains = reference_chains(task, 8000, rng_of())
    table = table_fit(task, chains, "mean", 0.5)[0]
    code = (chains.chain[0] * torch.tensor([25, 5, 1])).sum(-1)
    spread = float(task.rewards().max() - task.rewards().min()) / 2
    for t in range(1, 4):
        visits = torch.bincount(code[t], minlength=125)
        there = visits > 0
        error = spread / visits[there].double().sqrt()
        assert ((table[t] - limit[t])[there].abs() < 5 * error).all()
    assert float(limit[3, -1]) == pytest.approx(float(chains.reward.mean()), abs=0.05)
