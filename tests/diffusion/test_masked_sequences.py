"""Masked-sequence diffusion against published numbers, brute force and exact identities."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from rlkit.diffusion.masked import (
    MASK,
    MarkovMask,
    MaskTable,
    clean_codes,
    place,
    product_law,
    sequences,
)
from rlkit.diffusion.masked_chains import OneAtATime, ParallelSteps, all_masked, draw
from rlkit.diffusion.masked_hmm import HMMMask
from rlkit.diffusion.masked_oracles import (
    objective,
    pair_probability,
    pairs,
    parallel_law,
    parallel_optimal,
    parallel_values,
    single_law,
    single_optimal,
)
from rlkit.diffusion.masked_tasks import motif_reward, one_hot, pair_reward, preset, tilt
from rlkit.random import Rng

M = MASK


def laws(*shape, seed=0):
    """Random probability rows, float64."""
    random = np.random.default_rng(seed)
    return torch.tensor(random.dirichlet(np.ones(shape[-1]), size=shape[:-1]))


def rewards(length, n=1, seed=7):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, 4**length)))


def markov(length, n=3):
    return MarkovMask(laws(n, 4, seed=1), laws(n, 4, 4, seed=2), length)


def hidden(length, n=2, k=3):
    return HMMMask(
        laws(n, k, seed=3), laws(n, k, k, seed=4), laws(n, k, 4, seed=5), length
    )  # fmt: skip


def states(length, n):
    return sequences(length, 5).expand(n, -1, -1)


def code(tokens):
    return int((torch.tensor(tokens) * place(len(tokens))).sum())


def divergence(p, q):
    return (p * (p / q).log()).sum(1)


def matches(state, sequence):
    return all(a in (M, b) for a, b in zip(state, sequence, strict=True))


def brute_conditional(law, length):
    """`p(x_i = a | unmasked)` for all states by summing over all sequences, numpy."""
    table, everything = law.numpy(), list(itertools.product(range(4), repeat=length))
    answer = np.zeros((5**length, length, 4))
    for s, state in enumerate(itertools.product(range(5), repeat=length)):
        for mass, sequence in zip(table, everything, strict=True):
            if matches(state, sequence):
                for i, a in enumerate(sequence):
                    answer[s, i, a] += mass
    return answer / answer.sum(2, keepdims=True)


# ------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize(
    ("alpha", "log_partition", "mean", "kl"),
    [
        (0.5, 0.8387549511, 0.7568250924, 0.6748952337),
        (1, 0.2460489911, 0.4210048715, 0.1749558804),
    ],
)
def test_ms4_tilt_has_the_published_numbers(alpha, log_partition, mean, kl):
    task = preset("MS4")
    table, reward = task.denoiser.table(), task.rewards()
    tilted = tilt(table, reward, alpha)
    assert (table.law * reward).sum().item() == pytest.approx(0.075, abs=1e-12)
    assert tilted.log_partition.item() == pytest.approx(log_partition, abs=6e-11)
    assert (tilted.table.law * reward).sum().item() == pytest.approx(mean, abs=6e-11)
    assert divergence(tilted.table.law, table.law).item() == pytest.approx(kl, abs=6e-11)


@pytest.mark.parametrize(
    ("state", "value"),
    [
        ((M, M, M, M), 0.4193774755),
        ((1, M, M, M), 0.7388372031),
        ((M, 1, 2, M), 1.0),
        ((0, M, M, 0), 0.0073630137),
    ],
)
def test_ms4_values_are_the_published_ones(state, value):
    task = preset("MS4")
    tilted = tilt(task.denoiser.table(), task.rewards(), task.alpha)
    assert tilted.value[0, code(state)].item() == pytest.approx(value, abs=6e-11)


def test_ms4_conditionals_are_the_published_ones():
    task = preset("MS4")
    state = torch.tensor([[[1, M, M, 0]]])
    before = task.denoiser.conditional(state)[0, 0, 1].tolist()
    tilted = tilt(task.denoiser.table(), task.rewards(), task.alpha).table
    after = tilted.conditional(state)[0, 0, 1].tolist()
    assert before == pytest.approx([0.108333, 0.333333, 0.325, 0.233333], abs=6e-7)
    # The published four sum to 1.0000001: its third, .62696733, is rounded up there.
    assert after == pytest.approx([0.0164293, 0.3014636, 0.6269674, 0.0551398], abs=7e-8)


@pytest.mark.parametrize(
    ("steps", "pre", "after", "kl"),
    [
        (1, 0.326750, 0.377422, 0.510656),
        (2, 0.175965, 0.201063, 0.595411),
        (4, 0.091470, 0.104491, 0.635816),
        (8, 0.046614, 0.053350, 0.655522),
    ],
)
def test_ms4_parallel_chains_have_the_published_errors(steps, pre, after, kl):
    task = preset("MS4")
    table = task.denoiser.table()
    tilted = tilt(table, task.rewards(), task.alpha).table
    reference, model = table.conditionals(), tilted.conditionals()
    base, tuned = (parallel_law(x, reference, steps) for x in (reference, model))
    assert 0.5 * (base.law - table.law).abs().sum().item() == pytest.approx(pre, abs=6e-7)
    assert 0.5 * (tuned.law - tilted.law).abs().sum().item() == pytest.approx(after, abs=6e-7)
    assert tuned.path_kl.item() == pytest.approx(kl, abs=6e-7)
    assert base.path_kl.item() == 0


def test_ms5_has_the_published_numbers():
    task = preset("MS5")
    table, reward = task.denoiser.table(), task.rewards()
    tilted = tilt(table, reward, task.alpha)
    values = parallel_values(table.conditionals(), reward, task.alpha, task.steps)
    assert (table.law * reward).sum().item() == pytest.approx(0.249, abs=6e-4)
    assert (tilted.table.law * reward).sum().item() == pytest.approx(0.979, abs=6e-4)
    assert divergence(tilted.table.law, table.law).item() == pytest.approx(2.446, abs=6e-4)
    assert tilted.value[0, -1].item() == pytest.approx(0.7347, abs=6e-5)
    assert values[0, -1, -1].item() == pytest.approx(0.7317, abs=6e-5)


def test_parallel_error_halves_when_the_steps_double():
    task = preset("MS4")
    table = task.denoiser.table()
    reference = table.conditionals()
    error = [
        (parallel_law(reference, reference, steps).law - table.law).abs().sum().item()
        for steps in (16, 32)
    ]
    assert error[0] / error[1] == pytest.approx(2, abs=0.05)


# ------------------------------------------------------------------------- rewards and laws


def test_rewards_count_what_they_say():
    for sequence in itertools.product(range(4), repeat=5):
        text = "".join("ACGT"[a] for a in sequence)
        adjacent = [text[i : i + 2] for i in range(4)]
        letters = one_hot(torch.tensor(sequence))
        count = adjacent.count("CG") - 0.5 * adjacent.count("AA")
        scores = [
            sum(2 if text[p + j] == "ACG"[j] else -1 for j in range(3)) for p in range(3)
        ]  # fmt: skip
        assert pair_reward(letters).item() == count
        expected = math.log(sum(math.exp(2 * s) for s in scores)) / 12
        assert motif_reward(letters).item() == pytest.approx(expected, rel=1e-12)


def test_rewards_have_gradients_at_relaxed_letters():
    letters = torch.full((2, 5, 4), 0.25, dtype=torch.float64, requires_grad=True)
    (pair_reward(letters) + motif_reward(letters)).sum().backward()
    assert letters.grad.abs().sum() > 0


def test_product_law_multiplies():
    letters = laws(2, 3, 4)
    law = product_law(letters).numpy()
    for j, (a, b, c) in enumerate(itertools.product(range(4), repeat=3)):
        expected = letters[:, 0, a] * letters[:, 1, b] * letters[:, 2, c]
        np.testing.assert_allclose(law[:, j], expected, rtol=1e-13)


def test_table_denoiser_equals_sums_over_all_sequences():
    law = laws(2, 64)
    found = MaskTable.of(law).conditionals()
    for n in range(2):
        np.testing.assert_allclose(found[n], brute_conditional(law[n], 3), rtol=1e-12)


def test_table_keeps_its_law():
    law = laws(3, 256)
    torch.testing.assert_close(MaskTable.of(law).law, law, rtol=1e-14, atol=0)


def test_markov_denoiser_equals_the_table_on_all_states():
    model = markov(5)
    found = model.conditional(states(5, 3))
    torch.testing.assert_close(found, model.table().conditionals(), rtol=1e-11, atol=1e-14)


def test_markov_law_multiplies_transitions():
    model = markov(3)
    law = model.table().law
    for j, (a, b, c) in enumerate(itertools.product(range(4), repeat=3)):
        path = model.start[:, a] * model.transition[:, a, b] * model.transition[:, b, c]
        np.testing.assert_allclose(law[:, j], path, rtol=1e-13)


def test_long_markov_denoiser_equals_forward_and_backward_sums():
    model = markov(60)
    letters = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    reference = HMMMask(model.start, model.transition, letters, 60)
    random = np.random.default_rng(6)
    tokens = torch.tensor(random.integers(0, 4, size=(3, 20, 60)))
    tokens[torch.tensor(random.random(tokens.shape) < 0.8)] = M
    tokens[:, 0] = M
    torch.testing.assert_close(
        model.conditional(tokens), reference.conditional(tokens), rtol=1e-10, atol=1e-14
    )


def test_hidden_markov_law_sums_over_hidden_paths():
    model = hidden(3)
    law = model.table().law
    for j, tokens in enumerate(itertools.product(range(4), repeat=3)):
        total = torch.zeros(2, dtype=torch.float64)
        for z in itertools.product(range(3), repeat=3):
            path = model.start[:, z[0]] * model.emission[:, z[0], tokens[0]]
            for i in (1, 2):
                path = path * model.transition[:, z[i - 1], z[i]]
                path = path * model.emission[:, z[i], tokens[i]]
            total += path
        np.testing.assert_allclose(law[:, j], total, rtol=1e-12)


def test_hidden_markov_denoiser_equals_the_table_on_all_states():
    model = hidden(4)
    table = model.table()
    found = model.conditional(states(4, 2))
    torch.testing.assert_close(found, table.conditionals(), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(
        model.log_probability(states(4, 2)), table.log_marginal, rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("model", [markov(6), hidden(6)])
def test_a_replica_does_not_depend_on_its_company(model):
    n = model.start.shape[0]
    tokens = states(6, n)[:, ::7]
    tables = [getattr(model, field.name) for field in dataclasses.fields(model)[:-1]]
    alone = type(model)(*(table[1:2] for table in tables), 6)
    assert torch.equal(model.conditional(tokens)[1:2], alone.conditional(tokens[1:2]))


# ------------------------------------------------------------------------- one at a time


def test_one_at_a_time_follows_the_data_law_exactly():
    law = laws(3, 256)
    conditional = MaskTable.of(law).conditionals()
    found = single_law(conditional, conditional)
    torch.testing.assert_close(found.law, law, rtol=1e-12, atol=1e-16)


def test_any_order_gives_the_data_law():
    law = laws(1, 64)[0]
    conditional = brute_conditional(law, 3)
    chain = OneAtATime(MaskTable.of(law[None]))
    for order in itertools.permutations(range(3)):
        for j, sequence in enumerate(itertools.product(range(4), repeat=3)):
            now, total, brute = [M, M, M], 0.0, 1.0
            for left, i in zip((3, 2, 1), order, strict=True):
                then = list(now)
                then[i] = sequence[i]
                brute *= conditional[code(now), i, sequence[i]]
                step = chain.log_probability(torch.tensor([[now]]), torch.tensor([[then]]))
                total += step.item() + math.log(left)
                now = then
            assert total == pytest.approx(math.log(law[j]), abs=1e-12)
            assert brute == pytest.approx(law[j].item(), rel=1e-12)


def test_value_is_the_same_in_every_order():
    law, reward, alpha = laws(1, 64), rewards(3), 0.3
    conditional = brute_conditional(law[0], 3)
    value = tilt(MaskTable.of(law), reward, alpha).value[0].numpy()
    for order in itertools.permutations(range(3)):
        found = {}
        by_masks = sorted(itertools.product(range(5), repeat=3), key=lambda s: s.count(M))
        for state in by_masks:
            masked = [i for i in order if state[i] == M]
            if not masked:
                found[state] = reward[0, int(np.ravel_multi_index(state, (4, 4, 4)))].item()
                continue
            i = masked[0]
            following = [found[(*state[:i], a, *state[i + 1 :])] for a in range(4)]
            weights = conditional[code(state), i] * np.exp(np.array(following) / alpha)
            found[state] = alpha * math.log(weights.sum())
        for state, number in found.items():
            assert value[code(state)] == pytest.approx(number, abs=1e-12)


def test_path_divergence_of_the_tilted_model_is_that_of_the_laws():
    table = MaskTable.of(laws(3, 256))
    tilted = tilt(table, rewards(4, 3), 0.4)
    found = single_law(tilted.table.conditionals(), table.conditionals())
    expected = divergence(tilted.table.law, table.law)
    torch.testing.assert_close(found.path_kl, expected, rtol=1e-12, atol=0)


def test_tilted_denoiser_attains_the_optimum_one_at_a_time():
    table, reward, alpha = MaskTable.of(laws(3, 256)), rewards(4, 3), 0.4
    tilted = tilt(table, reward, alpha)
    chain = single_law(tilted.table.conditionals(), table.conditionals())
    found = objective(chain, reward, alpha)
    torch.testing.assert_close(found, tilted.value[:, -1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found, alpha * tilted.log_partition, rtol=1e-12, atol=0)


def test_optimal_kernel_one_at_a_time_is_the_tilted_denoiser():
    table, alpha = MaskTable.of(laws(2, 64)), 0.4
    tilted = tilt(table, rewards(3), alpha)
    found = single_optimal(table.conditionals(), tilted.value, alpha)
    masked = sequences(3, 5) == M
    share = masked.double() / masked.sum(1, keepdim=True).clamp(min=1)
    expected = tilted.table.conditionals() * share[..., None]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


def test_constant_reward_has_constant_value():
    table = MaskTable.of(laws(2, 64))
    reward = torch.full((1, 64), 1.7, dtype=torch.float64)
    single = tilt(table, reward, 0.3).value
    parallel = parallel_values(table.conditionals(), reward, 0.3, 3)[:, 1:]
    assert (single - 1.7).abs().max() < 1e-12
    assert (parallel - 1.7).abs().max() < 1e-12


def test_small_temperature_gives_the_largest_reward_that_is_left():
    law, reward = laws(1, 64), rewards(3)
    value = tilt(MaskTable.of(law), reward, 1e-4).value[0]
    everything = list(itertools.product(range(4), repeat=3))
    for state in itertools.product(range(5), repeat=3):
        best = max(
            reward[0, j].item() for j, sequence in enumerate(everything) if matches(state, sequence)
        )
        assert value[code(state)].item() == pytest.approx(best, abs=2e-3)


# ------------------------------------------------------------------------- parallel steps


def brute_step(conditional, state, t):
    """Successors and probabilities of a parallel step, numpy."""
    choices = []
    for i, token in enumerate(state):
        if token != M:
            choices.append([(token, 1.0)])
        else:
            row = conditional[code(state), i]
            choices.append([(a, row[a] / t) for a in range(4)] + [(M, 1 - 1 / t)])
    for pick in itertools.product(*choices):
        yield tuple(a for a, _ in pick), math.prod(p for _, p in pick)


def brute_paths(policy, reference, length, steps):
    """Law of the last state and divergence of all paths, path by path."""
    law, kl = {}, 0.0
    paths = [((M,) * length, 1.0, 1.0)]
    for t in range(steps, 0, -1):
        longer = []
        for state, p, q in paths:
            other = dict(brute_step(reference, state, t))
            for successor, mass in brute_step(policy[t - 1], state, t):
                if mass > 0:
                    longer.append((successor, p * mass, q * other[successor]))
        paths = longer
    for state, p, q in paths:
        law[state] = law.get(state, 0.0) + p
        kl += p * math.log(p / q)
    return law, kl


def test_parallel_law_and_divergence_equal_sums_over_paths():
    policy, reference = (MaskTable.of(laws(2, 16, seed=s)) for s in (0, 1))
    found = parallel_law(policy.conditionals(), reference.conditionals(), 3)
    for n in range(2):
        p, q = (brute_conditional(table.law[n], 2) for table in (policy, reference))
        law, kl = brute_paths([p] * 3, q, 2, 3)
        for j, state in enumerate(itertools.product(range(4), repeat=2)):
            assert found.law[n, j].item() == pytest.approx(law[state], rel=1e-12)
        assert found.path_kl[n].item() == pytest.approx(kl, rel=1e-12)


def test_a_policy_may_depend_on_time():
    tables = [MaskTable.of(laws(1, 16, seed=s)) for s in range(4)]
    reference, policies = tables[3], tables[:3]
    policy = torch.stack([table.conditionals() for table in policies], 1)
    found = parallel_law(policy, reference.conditionals(), 3)
    brute = [brute_conditional(table.law[0], 2) for table in tables]
    law, kl = brute_paths(brute[:3], brute[3], 2, 3)
    for j, state in enumerate(itertools.product(range(4), repeat=2)):
        assert found.law[0, j].item() == pytest.approx(law[state], rel=1e-12)
    assert found.path_kl.item() == pytest.approx(kl, rel=1e-12)


def test_a_policy_one_at_a_time_may_depend_on_time():
    policy, reference = laws(1, 2, 25, 2, 4), laws(1, 25, 2, 4, seed=1)
    found, row = single_law(policy, reference), policy[0].numpy()
    base, kl, law = reference[0].numpy(), 0.0, np.zeros((4, 4))
    for first in (0, 1):
        for a, b in itertools.product(range(4), repeat=2):
            state = (a, M) if first == 0 else (M, b)
            now, then = ((0, a), (1, b)) if first == 0 else ((1, b), (0, a))
            p = row[1, code((M, M))][now] * row[0, code(state)][then]
            q = base[code((M, M))][now] * base[code(state)][then]
            law[a, b] += 0.5 * p
            kl += 0.5 * p * math.log(p / q)
    np.testing.assert_allclose(found.law[0], law.ravel(), rtol=1e-12)
    assert found.path_kl.item() == pytest.approx(kl, rel=1e-12)


def test_parallel_values_equal_sums_over_paths():
    table, reward, alpha = MaskTable.of(laws(1, 16)), rewards(2), 0.3
    conditional = brute_conditional(table.law[0], 2)
    found = parallel_values(table.conditionals(), reward, alpha, 3)
    for t in (1, 2, 3):
        law, _ = brute_paths([conditional] * t, conditional, 2, t)
        masses = [law[s] for s in itertools.product(range(4), repeat=2)]
        total = np.sum(np.array(masses) * np.exp(reward[0].numpy() / alpha))
        assert found[0, t, -1].item() == pytest.approx(alpha * math.log(total), abs=1e-12)
    assert torch.equal(found[:, 0, clean_codes(2)], reward)


def test_only_masked_positions_of_a_policy_count():
    policy, reference = laws(2, 125, 3, 4), laws(2, 125, 3, 4, seed=1)
    masked = (sequences(3, 5) == M)[..., None]
    other = torch.where(masked, policy, laws(2, 125, 3, 4, seed=2))
    for chain in (lambda p: parallel_law(p, reference, 2), lambda p: single_law(p, reference)):
        assert torch.equal(chain(policy).law, chain(other).law)
        assert torch.equal(chain(policy).path_kl, chain(other).path_kl)


def test_oracles_of_a_replica_do_not_depend_on_its_company():
    law, reward = laws(5, 256), rewards(4, 5)
    policy = laws(5, 625, 4, 4, seed=1)

    def everything(rows):
        table = MaskTable.of(law[rows])
        reference, tilted = table.conditionals(), tilt(table, reward[rows], 0.3)
        values = parallel_values(reference, reward[rows], 0.3, 3)
        chains = (parallel_law(policy[rows], reference, 3), single_law(policy[rows], reference))
        yield from (reference, tilted.value, tilted.log_partition, values)
        yield single_optimal(reference, tilted.value, 0.3)
        yield parallel_optimal(reference, values, 0.3, 2)
        for chain in chains:
            yield from (chain.law, chain.path_kl, objective(chain, reward[rows], 0.3))

    for together, alone in zip(everything(slice(0, 5)), everything(slice(3, 4)), strict=True):
        torch.testing.assert_close(together[3:4], alone, rtol=0, atol=0, equal_nan=True)


def test_pairs_are_all_later_states():
    edges = pairs(3)
    everything = list(itertools.product(range(5), repeat=3))
    expected = {
        (code(x), code(y)) for x in everything for y in everything
        if all(a in (M, b) for a, b in zip(x, y, strict=True))
    }  # fmt: skip
    assert len(edges.source) == 729
    assert set(zip(edges.source.tolist(), edges.target.tolist(), strict=True)) == expected


def test_optimal_parallel_kernel_attains_the_optimum():
    table, reward, alpha, steps = MaskTable.of(laws(2, 64)), rewards(3), 0.3, 3
    reference = table.conditionals()
    values = parallel_values(reference, reward, alpha, steps)
    edges, mass, kl = pairs(3), torch.zeros(2, 125).double(), 0.0
    mass[:, -1] = 1
    for t in range(steps, 0, -1):
        kernel = parallel_optimal(reference, values, alpha, t)
        sums = torch.zeros(2, 125).double().index_add(1, edges.source, kernel)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)
        ratio = torch.where(kernel > 0, (kernel / pair_probability(reference, t)).log(), 0.0)
        flow = mass[:, edges.source] * kernel
        kl = kl + (flow * ratio).sum(1)
        mass = torch.zeros(2, 125).double().index_add(1, edges.target, flow)
    found = (mass[:, clean_codes(3)] * reward).sum(1) - alpha * kl
    torch.testing.assert_close(found, values[:, -1, -1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 4])
def test_no_factorised_policy_beats_the_optimum(seed, steps):
    n, alpha = 20, 0.3
    table, reward = MaskTable.of(laws(n, 64, seed=seed)), rewards(3, n, seed)
    reference = table.conditionals()
    best = parallel_values(reference, reward, alpha, steps)[:, -1, -1]
    single = tilt(table, reward, alpha)
    near = single.table.conditionals()
    # From far away to close to the optimum, one table a time.
    for share in (1.0, 0.3, 0.03):
        any_law = (1 - share) * near[:, None] + share * laws(n, steps, 125, 3, 4, seed=seed + 9)
        chain = parallel_law(any_law, reference, steps)
        torch.testing.assert_close(chain.law.sum(1), torch.ones(n).double(), rtol=1e-12, atol=0)
        assert bool((objective(chain, reward, alpha) <= best + 1e-12).all())
        each = (1 - share) * near[:, None] + share * laws(n, 3, 125, 3, 4, seed=seed + 8)
        value = objective(single_law(each, reference), reward, alpha)
        assert bool((value <= single.value[:, -1] + 1e-12).all())


def test_divergence_of_paths_is_no_less_than_of_their_ends():
    policy, reference = (MaskTable.of(laws(4, 64, seed=s)).conditionals() for s in (0, 1))
    for steps in (1, 3):
        chain = parallel_law(policy, reference, steps)
        base = parallel_law(reference, reference, steps)
        assert bool((divergence(chain.law, base.law) <= chain.path_kl + 1e-12).all())


# ------------------------------------------------------------------------- sampling


def chi_square_passes(samples, law):
    """Pearson's statistic of `samples` `[B, L]` below its 1 - 1e-6 quantile."""
    index = (samples * place(samples.shape[1], 4)).sum(1)
    seen = np.bincount(index.numpy(), minlength=law.shape[0])
    expected = law.numpy() * len(index)
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    statistic = ((seen - expected)[keep] ** 2 / expected[keep]).sum()
    return statistic < scipy.stats.chi2.ppf(1 - 1e-6, keep.sum() - 1)


def test_a_draw_never_has_weight_zero():
    weights = laws(1000, 4) * torch.tensor(np.random.default_rng(0).random((1000, 1)))
    weights = torch.nn.functional.pad(weights, (1, 2))
    for u in (0.0, 1 - 2.0**-53):
        index = draw(weights, torch.full((1000,), u, dtype=torch.float64))
        assert bool((index == (1 if u == 0 else 4)).all())


def test_samples_one_at_a_time_follow_the_data_law():
    model = markov(3)
    samples = OneAtATime(model).sample(Rng(1, "env", torch.arange(3)), 20000)
    law = model.table().law
    assert all(chi_square_passes(samples[n], law[n]) for n in range(3))
    assert not chi_square_passes(samples[0], law[1])


def test_samples_of_parallel_steps_follow_their_own_law():
    model = preset("MS4").denoiser
    samples = ParallelSteps(model, 2).sample(Rng(2, "env", torch.arange(2)), 20000)
    conditional = model.table().conditionals()
    law = parallel_law(conditional, conditional, 2).law
    assert all(chi_square_passes(samples[n], law[0]) for n in range(2))
    assert not chi_square_passes(samples[0], model.table().law[0])


def test_one_step_reveals_one_uniform_position():
    model = preset("MS4").denoiser
    rng = Rng(3, "env", torch.arange(1))
    start = all_masked(rng, 20000, 4)
    start[..., 1] = 2
    after = OneAtATime(model).step(start, rng)
    revealed = (start == M) & (after != M)
    assert bool((revealed.sum(2) == 1).all())
    assert bool((after[..., 1] == 2).all())
    share = revealed.double().mean((0, 1))[[0, 2, 3]]
    error = math.sqrt(2 / 9 / 20000)
    assert (share - 1 / 3).abs().max() < 5 * error


def test_a_replica_draws_the_same_alone():
    model = preset("MS4").denoiser
    for chain in (OneAtATime(model), ParallelSteps(model, 5)):
        together = chain.sample(Rng(4, "env", torch.arange(4)), 6)
        alone = chain.sample(Rng(4, "env", torch.tensor([2])), 6)
        assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize("t", [1, 3])
def test_step_probabilities_equal_the_table_and_sum_to_one(t):
    model = markov(3, 2)
    edges, everything = pairs(3), sequences(3, 5)
    before, after = (everything[x].expand(2, -1, -1) for x in (edges.source, edges.target))
    found = ParallelSteps(model, 3).log_probability(before, t, after).exp()
    expected = pair_probability(model.table().conditionals(), t)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-15)
    total = torch.zeros(2, 125).double().index_add(1, edges.source, found)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_single_step_probabilities_sum_to_one():
    model = markov(3, 2)
    chain = OneAtATime(model)
    edges, everything = pairs(3), sequences(3, 5)
    one = (everything[edges.source] != everything[edges.target]).sum(1) == 1
    before = everything[edges.source[one]].expand(2, -1, -1)
    after = everything[edges.target[one]].expand(2, -1, -1)
    mass = chain.log_probability(before, after).exp()
    open_states = (everything == M).any(1)
    total = torch.zeros(2, 125).double().index_add(1, edges.source[one], mass)[:, open_states]
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------- refusals

ROWS = laws(1, 4)
LONG = MarkovMask(laws(1, 4), laws(1, 4, 4), 11)
SMALL = MaskTable.of(laws(1, 16))
CHAIN = OneAtATime(SMALL)


def tokens(*chain):
    return torch.tensor([[list(chain)]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LONG.table(), r"length = 11 outside \[1, 10\]"),
        (lambda: product_law(laws(1, 11, 4)), r"letters.shape\[1\] = 11 outside \[1, 10\]"),
        (lambda: MaskTable.of(laws(1, 15)), r"law has shape \(1, 15\), accepted: \[N, 4\^L\]"),
        (lambda: MaskTable.of(laws(1, 16) * 1.1), r"law has row 0 .* sum to 1"),
        (lambda: MarkovMask(ROWS * 0.9, laws(1, 4, 4), 3), r"start has row 0 .* sum to 1"),
        (lambda: MarkovMask(ROWS, -laws(1, 4, 4), 3), r"transition has row 0 .* entries >= 0"),
        (lambda: MarkovMask(ROWS * math.nan, laws(1, 4, 4), 3), "start has row 0"),
        (lambda: MarkovMask(ROWS.float(), laws(1, 4, 4), 3), "start is torch.float32, accepted"),
        (lambda: MarkovMask(ROWS, laws(1, 4, 4), 0), r"length = 0 outside \[1, inf\)"),
        (lambda: HMMMask(ROWS, laws(1, 4, 4), laws(1, 4, 5), 3), r"emission.shape\[2\] = 5"),
        (lambda: tilt(SMALL, rewards(2), 0), r"alpha = 0 outside \(0, inf\)"),
        (lambda: tilt(SMALL, rewards(2), -0.5), r"alpha = -0.5 outside \(0, inf\)"),
        (lambda: tilt(SMALL, rewards(3), 1), r"reward has shape \(1, 64\), accepted"),
        (lambda: tilt(SMALL, rewards(2) * math.inf, 1), "reward has .* accepted: finite"),
        (lambda: parallel_values(SMALL.conditionals(), rewards(2), 0, 2), "alpha = 0 outside"),
        (lambda: parallel_values(SMALL.conditionals(), rewards(2), 1, 0), "steps = 0 outside"),
        (lambda: parallel_law(SMALL.conditionals(), SMALL.conditionals(), 0), "steps = 0 outside"),
        (lambda: parallel_law(SMALL.law, SMALL.law, 2), r"policy has shape \(1, 16\), accepted"),
        (lambda: single_law(laws(1, 25, 2, 4) * 0.9, laws(1, 25, 2, 4)), "policy has row 0 .* sum"),
        (lambda: pairs(7), r"length = 7 outside \[1, 6\]"),
        (lambda: ParallelSteps(SMALL, 0), r"steps = 0 outside \[1, inf\)"),
        (lambda: ParallelSteps(SMALL, 3).kernel(tokens(M, M), 4), r"t = 4 outside \[1, 3\]"),
        (lambda: SMALL.conditional(tokens(5, M)), r"tokens has the token 5 outside \[0, 4\]"),
        (lambda: SMALL.conditional(tokens(0, M, M)), r"tokens is .* accepted: torch.int64 of"),
        (lambda: CHAIN.log_probability(tokens(0, M), tokens(1, 2)), "changes an unmasked token"),
        (lambda: CHAIN.log_probability(tokens(0, M), tokens(M, 2)), "changes an unmasked token"),
        (lambda: CHAIN.log_probability(tokens(M, M), tokens(1, 2)), "reveals 2 positions .*: 1"),
        (lambda: CHAIN.log_probability(tokens(M, M), tokens(M, M)), "reveals 0 positions .*: 1"),
        (lambda: CHAIN.kernel(tokens(1, 2)), "a chain without a mask, accepted: at least 1"),
        (
            lambda: ParallelSteps(SMALL, 3).log_probability(tokens(0, M), 2, tokens(1, M)),
            r"successor = \[1, 4\] changes an unmasked token of \[0, 4\]",
        ),
        (lambda: CHAIN.sample(Rng(0, "env", torch.arange(1)), 0), "batch = 0 outside"),
        (lambda: preset("MS6"), "name = 'MS6' unknown; accepted"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_state_of_probability_zero_is_refused_with_its_tokens():
    steps = torch.eye(4, dtype=torch.float64)[None]
    model = MarkovMask(ROWS, steps, 3)
    for denoiser in (model, model.table(), HMMMask(ROWS, steps, steps, 3)):
        with pytest.raises(ValueError, match=r"tokens = \[0, 4, 1\] have probability 0"):
            denoiser.conditional(tokens(0, M, 1))
        assert denoiser.conditional(tokens(2, M, 2))[0, 0, 1, 2] == 1
