"""The posterior over graphs and tables against scores written from their definition."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from rlkit.factored.posterior import (
    Trajectory,
    capacity,
    conditional_rows,
    expected,
    sample,
    start,
    tables,
    update,
)
from rlkit.factored.structure import decode, edges, encode, parent_sets, supersets
from rlkit.random import Rng

STATE, ACTION = (2, 3, 2), (4,)
VALUES = (*STATE, *ACTION)


def begin(values, successor, known, sparseness, degree=0, n=1):
    sets = parent_sets(values, sparseness)
    allowed = supersets(sets, known)
    allowed = allowed.expand(n, *allowed.shape[-2:])
    return sets, start(sets, allowed, successor, capacity(sets, degree))


def episodes(values, successor, n, length, seed=0):
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(np.prod(v), size=(n, length)) for v in (values, successor))
    return Trajectory(torch.tensor(x), torch.tensor(y), torch.full((n,), length))


def contingency(values, successor, data, row, j, members):
    """Counts `[configurations, N_j]` by a loop over the data."""
    found = {}
    x = decode(data.x[row, : data.length[row]], values).numpy()
    y = decode(data.successor[row, : data.length[row]], successor).numpy()
    for features, after in zip(x, y, strict=True):
        cell = found.setdefault(tuple(features[members]), np.zeros(successor[j]))
        cell[after[j]] += 1
    return found


def score(counts, alpha, values):
    """Dirichlet-multinomial log marginal likelihood of a contingency table."""
    total = 0.0
    for row in counts.values():
        total += gammaln(values * alpha) - gammaln(values * alpha + row.sum())
        total += (gammaln(alpha + row) - gammaln(alpha)).sum()
    return total


@pytest.mark.parametrize("alpha", [1.0, 0.1, 2.5])
def test_sequential_weights_are_dirichlet_multinomial_scores(alpha):
    known = edges([[0], [1, 3], []], 4)
    sets, prior = begin(VALUES, STATE, known, 3, n=4)
    data = [episodes(VALUES, STATE, 4, 9, seed) for seed in range(3)]
    posterior = prior
    for part in data:
        posterior = update(posterior, sets, STATE, alpha, part)
    joined = Trajectory(*(torch.cat(p, 1) for p in list(zip(*data, strict=True))[:2]),
                        torch.full((4,), 27))  # fmt: skip
    for n in range(4):
        for j in range(3):
            for k, weight in enumerate(posterior.log_weight[n, j].tolist()):
                if weight == -np.inf:
                    assert k >= supersets(sets, known)[j].sum()
                    continue
                members = sets.member[posterior.candidate[n, j, k]].numpy()
                counts = contingency(VALUES, STATE, joined, n, j, members)
                assert weight == pytest.approx(score(counts, alpha, STATE[j]), abs=1e-9)


def test_the_order_of_the_data_does_not_matter():
    sets, prior = begin(VALUES, STATE, edges([[], [], []], 4), 3, n=2)
    data = episodes(VALUES, STATE, 2, 40)
    order = torch.tensor(np.random.default_rng(1).permutation(40))
    turned = Trajectory(data.x[:, order], data.successor[:, order], data.length)
    ours, theirs = (update(prior, sets, STATE, 1.0, d) for d in (data, turned))
    torch.testing.assert_close(ours.log_weight, theirs.log_weight, rtol=0, atol=1e-10)
    assert torch.equal(ours.counts, theirs.counts)


def test_the_posterior_of_four_transitions_by_hand():
    """One state bit s, one action bit a, and s' = a at every one of the four x.

    Empty set: 1/2 1/3 2/4 2/5 = 1/30. {s}: each value of s sees 0 and 1: (1/2 1/3)^2 = 1/36.
    {a}: (1/2 2/3)^2 = 1/9. {s, a}: (1/2)^4 = 1/16.
    """
    sets, prior = begin((2, 2), (2,), edges([[]], 2), 2)
    data = Trajectory(torch.arange(4)[None], torch.tensor([[0, 1, 0, 1]]), torch.tensor([4]))
    weight = update(prior, sets, (2,), 1.0, data).log_weight[0, 0]
    np.testing.assert_allclose(weight.exp(), [1 / 30, 1 / 36, 1 / 9, 1 / 16], rtol=1e-12)
    share = torch.softmax(weight, 0)
    np.testing.assert_allclose(share, np.array([24, 20, 80, 45]) / 169, rtol=1e-12)


def test_counts_are_those_of_a_loop_and_sum_to_the_number_of_steps():
    known = edges([[3], [1], [0]], 4)
    sets, prior = begin(VALUES, STATE, known, 3, degree=1, n=3)
    data = episodes(VALUES, STATE, 3, 50)
    posterior = update(prior, sets, STATE, 1.0, data)
    for n in range(3):
        for j in range(3):
            for k in range(int(supersets(sets, known)[j].sum())):
                place = posterior.candidate[n, j, k]
                first = posterior.first[n : n + 1, :, None, k]
                size = int(sets.size[place])
                one = type(posterior)(*(leaf[n : n + 1] for leaf in posterior))
                part = tables(one, STATE, first, size).split(STATE, -1)[j][0]
                assert part.sum() == 50
                members = sets.member[place].numpy()
                found = contingency(VALUES, STATE, data, n, j, members)
                assert sorted(map(tuple, part.numpy()[part.sum(1) > 0].tolist())) == sorted(
                    tuple(row) for row in found.values()
                )


def test_steps_beyond_the_length_are_not_read():
    sets, prior = begin(VALUES, STATE, edges([[], [], []], 4), 3, n=3)
    data = episodes(VALUES, STATE, 3, 10)
    short = data._replace(length=torch.tensor([4, 10, 0]))
    posterior = update(prior, sets, STATE, 1.0, short)
    for n, length in enumerate([4, 10, 0]):
        cut = Trajectory(data.x[:, :length], data.successor[:, :length], torch.full((3,), length))
        alone = update(prior, sets, STATE, 1.0, cut)
        torch.testing.assert_close(posterior.log_weight[n], alone.log_weight[n], rtol=0, atol=0)
        assert torch.equal(posterior.counts[n], alone.counts[n])


def test_renaming_the_features_renames_the_posterior():
    """State features in another order, known parents and data renamed with them."""
    order, known = [2, 0, 1, 3], [[0], [3], []]
    renamed = tuple(VALUES[i] for i in order)
    place = {old: new for new, old in enumerate(order)}
    mask = edges([[place[i] for i in known[j]] for j in order[:3]], 4)
    data = episodes(VALUES, STATE, 2, 60)
    x = encode(decode(data.x, VALUES)[..., order], renamed)
    y = encode(decode(data.successor, STATE)[..., order[:3]], renamed[:3])
    sets, prior = begin(VALUES, STATE, edges(known, 4), 3, n=2)
    other, start_ = begin(renamed, renamed[:3], mask, 3, n=2)
    ours = update(prior, sets, STATE, 1.0, data)
    theirs = update(start_, other, renamed[:3], 1.0, Trajectory(x, y, data.length))

    def weights(posterior, sets, names):
        return {
            (n, names[j], frozenset(names[i] for i in sets.member[k].nonzero()[:, 0])): w.item()
            for n in range(2)
            for j in range(3)
            for k, w in zip(posterior.candidate[n, j], posterior.log_weight[n, j], strict=True)
            if w > -np.inf
        }

    first, second = weights(ours, sets, range(4)), weights(theirs, other, order)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, abs=1e-10)


def test_one_feature_with_all_parents_is_tabular_dirichlet_sampling():
    """The posterior mean is (n + alpha) / (n(s, a) + S alpha) of a loop over transitions."""
    states, actions, alpha = 6, 2, 1 / 6
    sets, prior = begin((states, actions), (states,), edges([[0, 1]], 2), 2, degree=2)
    assert prior.candidate.shape[-1] == 1
    data = episodes((states, actions), (states,), 1, 200)
    posterior = update(prior, sets, (states,), alpha, data)
    visits = np.zeros((states * actions, states))
    for x, y in zip(data.x[0].tolist(), data.successor[0].tolist(), strict=True):
        visits[x, y] += 1
    want = (visits + alpha) / (visits.sum(1, keepdims=True) + states * alpha)
    model = expected(posterior, sets, (states,), alpha, posterior.candidate[..., 0])
    (rows,) = conditional_rows(model, sets, (states,))
    np.testing.assert_allclose(rows[0].T, want, rtol=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_samples_have_the_moments_of_the_posterior(alpha):
    """Graphs by their weights, rows Dirichlet: 5 standard errors of 40,000 draws."""
    n, successor = 40_000, (2, 3)
    sets, prior = begin((2, 3, 2), successor, edges([[0], []], 3), 2, n=1)
    posterior = update(prior, sets, successor, alpha, episodes((2, 3, 2), successor, 1, 12))
    many = type(posterior)(*(leaf.expand(n, *leaf.shape[1:]) for leaf in posterior))
    model = sample(many, sets, successor, alpha, Rng(0, "test", torch.arange(n)))
    share = torch.softmax(posterior.log_weight[0], -1)
    for j in range(2):
        for place, p in zip(posterior.candidate[0, j].tolist(), share[j].tolist(), strict=True):
            found = (model.parents[:, j] == place).double().mean().item()
            assert abs(found - p) <= 5 * np.sqrt(p * (1 - p) / n)
    place = posterior.candidate[0, 1, share[1].argmax()]
    chosen = model.parents[:, 1] == place
    rows = conditional_rows(model, sets, successor)[1][chosen].numpy()
    mean = expected(posterior, sets, successor, alpha, model.parents[chosen][:1])
    mean = conditional_rows(mean, sets, successor)[1][0].numpy()
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-12)
    first = posterior.first[:, :, None, share[1].argmax()]
    seen = tables(posterior, successor, first, int(sets.size[place])).split(successor, -1)[1][0]
    total = (3 * alpha + seen.sum(-1).numpy())[sets.code[place].numpy()]
    spread = np.sqrt(mean * (1 - mean) / (total + 1))
    assert (np.abs(rows.mean(0) - mean) <= 5 * spread / np.sqrt(len(rows))).all()
    error = 5 * np.sqrt(((rows - mean) ** 4).mean(0) / len(rows))
    assert (np.abs(((rows - mean) ** 2).mean(0) - spread**2) <= error).all()


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_draw_does_not_depend_on_the_company(alpha):
    """Where alpha >= 1 as many rows are drawn as the longest table in the company asks for."""
    sets, prior = begin((2,) * 5, (2, 2, 2), edges([[], [], []], 5), 4, n=6)
    posterior = update(prior, sets, (2, 2, 2), alpha, episodes((2,) * 5, (2,) * 3, 6, 30))
    replica = torch.arange(6)
    together = sample(posterior, sets, (2, 2, 2), alpha, Rng(3, "test", replica))
    for n in range(6):
        one = type(posterior)(*(leaf[n : n + 1] for leaf in posterior))
        alone = sample(one, sets, (2, 2, 2), alpha, Rng(3, "test", replica[n : n + 1]))
        assert torch.equal(alone.parents[0], together.parents[n])
        for ours, theirs in zip(
            *(conditional_rows(m, sets, (2, 2, 2)) for m in (alone, together)), strict=True
        ):
            torch.testing.assert_close(ours[0], theirs[n], rtol=1e-12, atol=0)
