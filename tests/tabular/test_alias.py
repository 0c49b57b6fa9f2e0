"""Alias tables: the law of their columns is the given one, and draws obey it at every edge."""

import numpy as np
import pytest
import torch

from rlkit import alias


def law_of_columns(table):
    """Probability of each outcome, summed over the columns in numpy."""
    accept, other = table.accept.numpy(), table.other.numpy()
    rows, count = accept.shape
    law = np.zeros((rows, count))
    for row in range(rows):
        for column in range(count):
            law[row, column] += accept[row, column] / count
            law[row, other[row, column]] += (1 - accept[row, column]) / count
    return law


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 50.0])
def test_columns_add_up_to_the_law(count, concentration):
    """Up to the resolution of an acceptance, once a column that gives to it."""
    generator = np.random.default_rng(3)
    law = generator.dirichlet(np.full(count, concentration), size=30)
    law[0] = 0.0
    law[0, count // 2] = 1.0
    table = alias.alias(torch.as_tensor(law))
    assert np.abs(law_of_columns(table) - law).max() <= 0.5 / alias.WHOLE
    assert bool(((table.accept >= 0) & (table.accept <= 1)).all())


def test_rows_do_not_depend_on_their_neighbours():
    law = torch.as_tensor(np.random.default_rng(3).dirichlet(np.ones(5), size=alias.BLOCK + 9))
    whole, part = alias.alias(law), alias.alias(law[alias.BLOCK - 2 :])
    assert torch.equal(whole.accept[alias.BLOCK - 2 :], part.accept)
    assert torch.equal(whole.other[alias.BLOCK - 2 :], part.other)


def test_a_column_turns_to_its_second_outcome_exactly_at_its_acceptance():
    """One column of acceptance `s / WHOLE`: fractions below `s` keep the first outcome."""
    for share in (0, 1, 12_345, alias.WHOLE - 1):
        table = alias.Alias(torch.tensor([[share / alias.WHOLE, 1.0]]), torch.tensor([[1, 1]]))
        packed = alias.pack(table, torch.tensor([[17, 2**20 - 1]])).reshape(-1)
        fractions = torch.tensor([0, share - 1, share, alias.WHOLE - 1]).clamp(min=0)
        words = fractions << 8  # the lower half of the words belongs to the first of two columns
        out = alias.draw(packed, torch.zeros(4, dtype=torch.int64), 2, words)
        second = fractions >= share
        assert out.column.tolist() == [0] * 4
        assert out.second.tolist() == second.long().tolist()
        assert out.label.tolist() == torch.where(second, 2**20 - 1, 17).tolist()


def test_the_column_is_the_upper_part_of_the_word():
    law = torch.full((2, 4), 0.25, dtype=torch.float64)
    label = torch.arange(8).reshape(2, 4)
    packed = alias.pack(alias.alias(law), label).reshape(-1)
    words = torch.tensor([0, 2**30 - 1, 2**30, 2**31, 2**32 - 1])
    out = alias.draw(packed, torch.ones(5, dtype=torch.int64), 4, words)
    assert out.column.tolist() == out.label.tolist() == [4, 4, 5, 6, 7]


def test_an_outcome_that_would_never_be_drawn_is_not_kept():
    """A rounded-up acceptance leaves no second outcome whose pay a step could mix up."""
    law = torch.tensor([[0.5 - 1e-12, 0.5 + 1e-12]], dtype=torch.float64)
    table = alias.alias(law)
    assert table.accept.tolist() == [[1.0, 1.0]]
    assert table.other.tolist() == [[0, 1]]


def test_first_labels_are_read_back():
    label = torch.tensor([[0, 5, 2**20 - 1]])
    packed = alias.pack(alias.alias(torch.full((1, 3), 1 / 3, dtype=torch.float64)), label)
    assert torch.equal(alias.first_label(packed), label)
