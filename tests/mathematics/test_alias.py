"""Alias tables: their law is computed exactly from the tables, not sampled, wherever possible."""

import numpy as np
import pytest
import torch

from rlkit.alias import BLOCK, LABEL_BITS, LABELS, WHOLE, alias, draw, pack
from rlkit.random import Rng


def law(table, outcomes=None):
    """The probabilities `[R, K]` that alias tables `[R, K]` stand for, summed column by column."""
    accept, other = table.accept.numpy(), table.other.numpy()
    rows, columns = accept.shape
    out = np.zeros((rows, outcomes or columns))
    for r in range(rows):
        for k in range(columns):
            out[r, k] += accept[r, k] / columns
            out[r, other[r, k]] += (1 - accept[r, k]) / columns
    return out


def rows(kind, count, size):
    """Rows of probabilities of every kind of trouble."""
    rng = np.random.default_rng(size)
    if kind == "random":
        p = rng.random((count, size))
    elif kind == "sparse":
        p = rng.random((count, size)) * (rng.random((count, size)) < 0.3)
        p[:, rng.integers(size)] += 0.01
    elif kind == "one":
        p = np.eye(size)[rng.integers(size, size=count)]
    elif kind == "equal":
        p = np.ones((count, size))
    elif kind == "steep":
        p = 2.0 ** -np.arange(size) * np.ones((count, 1))
        p = rng.permuted(p, axis=1)
    elif kind == "one heavy":
        p = np.full((count, size), 1e-9)
        p[np.arange(count), rng.integers(size, size=count)] = 1
    else:  # all but one heavy
        p = np.ones((count, size))
        p[np.arange(count), rng.integers(size, size=count)] = 1e-9
    return torch.tensor(p / p.sum(1, keepdims=True))


KINDS = ["random", "sparse", "one", "equal", "steep", "one heavy", "one light"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_law_of_the_table_is_the_law_it_was_built_from(kind, size):
    p = rows(kind, 20, size)
    table = alias(p)
    assert ((table.accept >= 0) & (table.accept <= 1)).all()
    assert ((table.other >= 0) & (table.other < size)).all()
    # Every column's acceptance is off by at most half a step of its resolution.
    np.testing.assert_allclose(law(table), p, rtol=0, atol=0.5 / WHOLE + 1e-14 * size)
    assert torch.equal(torch.round(table.accept * WHOLE), table.accept * WHOLE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_probability_is_never_drawn(kind):
    p = rows(kind, 50, 9)
    table = alias(p)
    packed = pack(table, torch.arange(9).expand(50, 9))
    never = p == 0
    # Neither as the first label of a column that accepts, nor as the second of one that does not.
    threshold, second = packed >> (2 * LABEL_BITS), packed & (LABELS - 1)
    assert (threshold[never] == 0).all()
    assert not (never.gather(1, second) & (threshold < WHOLE - 1)).any()


def test_rows_are_the_same_in_any_company_and_in_any_block():
    p = rows("random", BLOCK + 300, 5)
    whole = alias(p)
    for part in (slice(0, 1), slice(7, 90), slice(BLOCK - 2, BLOCK + 3)):
        table = alias(p[part])
        assert torch.equal(table.accept, whole.accept[part])
        assert torch.equal(table.other, whole.other[part])
    shaped = alias(p[:60].reshape(3, 4, 5, 5))
    assert torch.equal(shaped.other.reshape(60, 5), whole.other[:60])
    assert torch.equal(shaped.accept.reshape(60, 5), whole.accept[:60])


def test_rows_that_sum_to_one_up_to_rounding_are_fine():
    p = rows("random", 30, 11)
    for factor in (1 - 1e-8, 1 + 1e-8):
        table = alias(p * factor)
        assert ((table.accept >= 0) & (table.accept <= 1)).all()
        np.testing.assert_allclose(law(table), p, rtol=0, atol=2e-8 + 0.5 / WHOLE)


def words(packed, columns, count):
    """Evenly spread words: every column and every stretch of its fraction the same number."""
    word = torch.arange(count, dtype=torch.int64) * (2**32 // count)
    return draw(packed, torch.zeros(count, dtype=torch.int64), columns, word)


@pytest.mark.parametrize("kind", KINDS)
def test_evenly_spread_words_give_exact_frequencies(kind):
    size, count = 8, 2**18
    p = rows(kind, 1, size)
    label = torch.randperm(LABELS, generator=torch.Generator().manual_seed(0))[:size]
    out = words(pack(alias(p), label[None]).reshape(-1), size, count)
    share = torch.stack([(out.label == name).sum() for name in label]) / count
    # One word for each boundary inside a column, and the bits kept of the probabilities.
    assert (share - p[0]).abs().max() <= size * (1 / count + 1 / WHOLE)


def test_draws_come_from_their_own_row():
    p = rows("sparse", 40, 6)
    offset = 100 * torch.arange(40)[:, None] + torch.arange(6)
    packed = pack(alias(p), offset).reshape(-1)
    rng = np.random.default_rng(0)
    row = torch.tensor(rng.integers(40, size=20_000))
    out = draw(packed, row, 6, torch.tensor(rng.integers(2**32, size=20_000)))
    assert torch.equal(out.label // 100, row)
    assert (p[row, out.label % 100] > 0).all()
    assert torch.equal(out.column // 6, row)
    first, second = offset.reshape(-1)[out.column], alias(p).other.reshape(-1)[out.column]
    chosen = torch.where(out.second == 1, 100 * row + second, first)
    assert torch.equal(out.label, chosen)


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 1000])
def test_words_at_both_ends_stay_in_the_table(columns):
    p = rows("random", 3, columns)
    packed = pack(alias(p), torch.arange(columns).expand(3, columns)).reshape(-1)
    for word in (0, 1, 2**31, 2**32 - 1):
        out = draw(packed, torch.tensor([0, 1, 2]), columns, torch.full((3,), word))
        assert ((out.label >= 0) & (out.label < columns)).all()
        assert torch.equal(out.column // columns, torch.tensor([0, 1, 2]))


def test_labels_up_to_the_largest_survive_packing():
    p = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    label = torch.tensor([[LABELS - 1, 0]])
    out = words(pack(alias(p), label).reshape(-1), 2, 4096)
    assert set(out.label.tolist()) == {0, LABELS - 1}
    assert (out.label == 0).double().mean().item() == pytest.approx(0.7, abs=1e-3)


def test_frequencies_of_random_words_are_within_five_standard_errors():
    p, count = rows("random", 1, 6), 200_000
    packed = pack(alias(p), torch.arange(6)[None]).reshape(-1)
    rng = Rng(3, "env", torch.arange(count), torch.tensor(0))
    out = draw(packed, torch.zeros(count, dtype=torch.int64), 6, rng.words("x", 1)[:, 0])
    share = torch.bincount(out.label, minlength=6) / count
    error = torch.sqrt(p[0] * (1 - p[0]) / count)
    assert ((share - p[0]).abs() < 5 * error).all()
