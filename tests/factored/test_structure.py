"""Features, parent sets and priors of factored MDPs."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from rlkit.factored.posterior import capacity, start
from rlkit.factored.structure import (
    causal_prior,
    check_joint,
    decode,
    edges,
    encode,
    equals,
    joint_kernel,
    parent_sets,
    supersets,
    told_prior,
)
from rlkit.models import Model
from rlkit.protocol import Discrete, GaussianPrior, Known, Spec


def test_joint_indices_count_with_the_first_feature_most_significant():
    values = (3, 2, 4)
    listed = torch.tensor(list(product(*(range(v) for v in values))))
    assert torch.equal(decode(torch.arange(24), values), listed)
    assert torch.equal(encode(listed, values), torch.arange(24))


@pytest.mark.parametrize("values", [(2, 2, 2, 2), (3, 2, 4), (1, 5)])
def test_codes_number_the_configurations_of_every_set(values):
    sets = parent_sets(values, len(values))
    assert sets.member.shape == (2 ** len(values), len(values))
    x = np.array(list(product(*(range(v) for v in values))))
    for member, size, code in zip(*(leaf.numpy() for leaf in sets), strict=True):
        assert size == np.prod(np.array(values)[member])
        rows = {}
        for row, number in zip(x[:, member], code, strict=True):
            assert rows.setdefault(number, tuple(row)) == tuple(row)
        assert sorted(rows) == list(range(size))


def test_the_list_has_every_set_up_to_the_bound_once_smaller_ones_first():
    sets = parent_sets((2,) * 9, 5)
    sizes = sets.member.sum(1)
    assert len(sets.member.unique(dim=0)) == len(sets.member) == 382
    assert (sizes.diff() >= 0).all() and int(sizes.max()) == 5


def test_admissible_sets_contain_the_known_parents():
    sets = parent_sets((2, 3, 2, 2, 4), 4)
    known = edges([[1, 3], [], [0]], 5)
    for j, row in enumerate([{1, 3}, set(), {0}]):
        for size in (None, 3):
            allowed = supersets(sets, known, size)[j]
            for member, found in zip(sets.member, allowed, strict=True):
                chosen = set(member.nonzero().squeeze(1).tolist())
                assert found == (row <= chosen and (size is None or len(chosen) == size))
        (place,) = equals(sets, known)[j].nonzero()
        assert set(sets.member[place[0]].nonzero().squeeze(1).tolist()) == row


@pytest.mark.parametrize("size", [None, 3])
def test_capacity_bounds_every_draw_of_known_parents_and_some_reach_it(size):
    sets = parent_sets((2, 3, 2, 5, 4), 3)
    for degree in range(4):
        width, depth = capacity(sets, degree, size)
        counts, rows = [], []
        for known in sets.member[sets.member.sum(1) >= degree]:
            allowed = supersets(sets, known, size)
            counts.append(int(allowed.sum()))
            rows.append(int((allowed * sets.size).sum()))
        assert (max(counts), max(rows)) == (width, depth)


def test_the_joint_kernel_is_the_product_of_factors_and_gives_them_back():
    rng = np.random.default_rng(0)
    values, joint = (2, 3, 4), 6
    rows = [torch.tensor(rng.dirichlet(np.ones(v), (5, joint))).mT for v in values]
    kernel = joint_kernel(rows)
    assert kernel.shape == (5, 24, joint)
    for n, x in product(range(5), range(joint)):
        want = [math.prod(r[n, y, x].item() for r, y in zip(rows, ys, strict=True))
                for ys in product(*(range(v) for v in values))]  # fmt: skip
        np.testing.assert_allclose(kernel[n, :, x], want, rtol=1e-12)
    np.testing.assert_allclose(kernel.sum(1), 1, rtol=1e-12)
    cube = kernel.reshape(5, *values, joint)
    for j, row in enumerate(rows):
        others = [axis + 1 for axis in range(3) if axis != j]
        np.testing.assert_allclose(cube.sum(others), row, rtol=1e-12)


KNOWN = edges([[0], [1]], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": edges([[0, 1, 2], [1]], 3)}, "feature 0 3 parents"),
        ({"parents": edges([[0], [0, 1, 2]], 3)}, "feature 1 3 parents"),
        ({"known": KNOWN.float()}, "known is"),
        ({"known": KNOWN[:, :2]}, "known is"),
        ({"known": torch.zeros(2, 5, dtype=torch.bool)}, "one column a state or action"),
        ({"sparseness": 4}, "sparseness = 4"),
        ({"sparseness": -1}, "sparseness = -1"),
        ({"degree": 2}, "known parents"),
        ({"degree": 3}, "degree = 3"),
        ({"state": (2, 0)}, "values of feature 1 = 0"),
        ({"state": ()}, "number of state features = 0"),
    ],
)
def test_priors_that_contradict_themselves_are_refused(change, message):
    fields = {"state": (2, 2), "action": (2,), "known": KNOWN, "sparseness": 2, "degree": 1}
    causal_prior(**fields)
    with pytest.raises(ValueError, match=message):
        causal_prior(**{**fields, **change})


@pytest.mark.parametrize("parent", [3, -1])
def test_edges_among_successor_features_are_refused(parent):
    with pytest.raises(ValueError, match="edges among successor features"):
        edges([[0], [parent]], 3)


def spec(**change):
    """Of a problem with two binary state features and one action feature."""
    prior = causal_prior((2, 2), (2,), KNOWN, 2, 1)
    one = torch.zeros(4, 2, 1, dtype=torch.int64)
    start = torch.tensor([1.0, 0, 0, 0])
    model = Model(one, one.double() + 1, one.double(), start, start > 2)
    fields = {"observation": Discrete(4), "action": Discrete(2), "horizon": 3, "prior": prior,
              "reward": torch.zeros(4, 2), "model": model} | change  # fmt: skip
    known = Known(reward=fields["reward"], model=fields["model"], prior=fields["prior"])
    return Spec(fields["observation"], fields["action"], fields["horizon"], known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": None}, "CausalPrior"),
        ({"prior": GaussianPrior(torch.zeros(1), torch.eye(1))}, "CausalPrior"),
        ({"observation": Discrete(5)}, "4 states and 2 actions; the problem has 5 and 2"),
        ({"action": Discrete(3)}, "the problem has 4 and 3"),
        ({"horizon": None}, "finite horizon"),
        ({"reward": None}, "known reward"),
        ({"reward": torch.zeros(4)}, "known reward"),
        ({"reward": torch.zeros(8, 2)}, "known reward"),
    ],
)
def test_problems_that_do_not_fit_their_prior_are_refused(change, message):
    told_prior(spec())
    with pytest.raises(ValueError, match=message):
        told_prior(spec(**change))


def test_a_joint_table_beyond_the_memory_is_refused_with_its_size():
    check_joint(500, 6)
    with pytest.raises(ValueError, match="12,800,000,000 bytes"):
        check_joint(20_000, 4)


def test_a_list_of_sets_beyond_the_memory_is_refused():
    with pytest.raises(ValueError, match="parent sets over"):
        parent_sets((2,) * 20, 5)


def test_a_feature_without_admissible_sets_is_refused():
    sets = parent_sets((2, 2, 2), 1)
    allowed = supersets(sets, edges([[0], [0, 1]], 3))[None]
    with pytest.raises(ValueError, match="no admissible parent set for successor feature 1"):
        start(sets, allowed, (2, 2), (3, 5))
