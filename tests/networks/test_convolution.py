"""Convolutional networks of all replicas against PyTorch's modules, one replica after the other."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from rlkit.networks.convolution import (
    DILATIONS,
    convolve,
    score,
    start_filters,
    start_scorer,
    start_tagger,
    tag,
)
from rlkit.random import Rng


def perturbed(parameters, rng):
    """Every leaf moved, so that biases and heads matter too."""
    leaves, structure = tree_flatten(parameters)
    moved = [leaf + 0.1 * rng.normal(f"leaf {i}", *leaf.shape[1:]) for i, leaf in enumerate(leaves)]
    return tree_unflatten(moved, structure)


def drawn(start, ids, *sizes, batch=6, length=21, inputs=5):
    rng = Rng(3, "network", torch.as_tensor(ids))
    return perturbed(start(rng, *sizes), rng), rng.normal("x", batch, length, inputs)


def layer_of(filters, replica, dilation):
    """PyTorch's layer with the filters of one replica."""
    _, outputs, inputs, window = filters.weight.shape
    layer = nn.Conv1d(
        inputs, outputs, window, padding="same", dilation=dilation, device="meta"
    ).to_empty(device="cpu")
    layer.weight.data, layer.bias.data = filters.weight[replica], filters.bias[replica]
    return layer


def features_of(trunk, replica, x):
    """Features `[B, H, L]` of `x` `[B, L, I]` layer by layer."""
    silu = nn.SiLU()
    stream = silu(layer_of(trunk.widen, replica, 1)(x.transpose(1, 2)))
    for filters, dilation in zip(trunk.residual, DILATIONS, strict=True):
        stream = stream + silu(layer_of(filters, replica, dilation)(stream))
    return stream


@pytest.mark.parametrize("ids", [[4], [0, 1, 2]])
def test_tags_are_those_of_pytorchs_layers_with_the_same_weights(ids):
    parameters, x = drawn(start_tagger, ids, 5, 8, 4)
    mine = tag(parameters, x)
    for replica in range(len(ids)):
        features = features_of(parameters.trunk, replica, x[replica]).transpose(1, 2)
        theirs = features @ parameters.head.weight[replica] + parameters.head.bias[replica]
        torch.testing.assert_close(mine[replica], theirs.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ids", [[4], [0, 1, 2]])
def test_scores_are_those_of_pytorchs_layers_with_the_same_weights(ids):
    parameters, x = drawn(start_scorer, ids, 4, 8, inputs=4)
    mine = score(parameters, x)
    for replica in range(len(ids)):
        stream = features_of(parameters.trunk, replica, x[replica]).mean(2)
        first, last = tree_map(lambda leaf, r=replica: leaf[r], parameters.head)
        hidden = nn.functional.gelu(stream @ first.weight + first.bias)
        theirs = (hidden @ last.weight + last.bias)[:, 0]
        torch.testing.assert_close(mine[replica], theirs.detach(), rtol=0, atol=1e-5)


def test_a_filter_of_three_by_hand():
    rng = Rng(0, "x", torch.tensor([0]))
    filters = start_filters(rng, "f", 1, 1, window=3)
    filters = filters._replace(
        weight=torch.tensor([[[[1.0, 10.0, 100.0]]]]), bias=torch.tensor([[0.5]])
    )
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1)
    assert convolve(filters, x).flatten().tolist() == [210.5, 321.5, 432.5, 43.5]
    assert convolve(filters, x, dilation=2).flatten().tolist() == [310.5, 420.5, 31.5, 42.5]


def test_a_zero_head_makes_the_zero_function_with_a_gradient_in_the_head():
    rng = Rng(0, "x", torch.tensor([0, 1]))
    parameters, x = start_tagger(rng, 5, 8, 4, zero=True), rng.normal("x", 3, 12, 5)
    weight = parameters.head.weight.requires_grad_()
    out = tag(parameters, x)
    assert not out.any()
    (slope,) = torch.autograd.grad(out.sum(), weight)
    assert bool((slope != 0).any(1).all())
    assert not score(start_scorer(rng.child("score"), 5, 8), x).any()


def test_initial_weights_keep_the_scale_of_the_stream():
    rng = Rng(0, "x", torch.arange(4))
    filters = start_filters(rng, "f", 16, 64)
    out = convolve(filters, rng.normal("x", 8, 50, 16))[:, :, 4:-4]
    # 4 replicas x 64 filters: their mean squares vary by 2 / 144 of relative variance.
    assert abs(float(out.square().mean()) - 1) < 5 * (2 / 144 / 256) ** 0.5 + 0.01


def outcome(parameters, x):
    """Outputs and gradients of all leaves."""
    leaves, structure = tree_flatten(parameters)
    inner = [leaf.detach().requires_grad_() for leaf in leaves]
    out = tag(tree_unflatten(inner, structure), x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), inner)]


def test_a_replica_has_the_same_bits_in_any_company_of_the_same_size():
    def rows(ids, replica):
        return [leaf[replica] for leaf in outcome(*drawn(start_tagger, ids, 5, 8, 4))]

    expected = rows([7, 1, 2, 3], 0)
    for ids, replica in (([7, 11, 12, 13], 0), ([0, 7, 5, 6], 1), ([9, 8, 4, 7], 3)):
        assert all(torch.equal(a, b) for a, b in zip(expected, rows(ids, replica), strict=True))


def test_replicas_do_not_touch_each_other():
    parameters, x = drawn(start_tagger, [0, 1, 2], 5, 8, 4)
    leaves, structure = tree_flatten(parameters)
    inner = [leaf.detach().requires_grad_() for leaf in leaves]
    out = tag(tree_unflatten(inner, structure), x)[1]
    for slope in torch.autograd.grad(out.sum(), inner):
        assert not slope[[0, 2]].any()
        assert slope[1].any()


def test_an_output_sees_32_positions_to_either_side_and_no_further():
    parameters, x = drawn(start_tagger, [0], 5, 8, 4, batch=1, length=80)
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(tag(parameters, x)[0, 0, 40].sum(), x)
    seen = slope[0, 0].abs().sum(1).nonzero()[:, 0].tolist()
    assert seen == list(range(40 - 32, 40 + 33))


def test_bad_sizes_are_refused():
    rng = Rng(0, "x", torch.tensor([0]))
    with pytest.raises(ValueError, match=r"window = 4 is even"):
        start_filters(rng, "f", 1, 1, window=4)
    with pytest.raises(ValueError, match=r"window = 0 outside"):
        start_filters(rng, "f", 1, 1, window=0)
    with pytest.raises(ValueError, match=r"width = 0 outside"):
        start_tagger(rng, 5, 0, 4)
    with pytest.raises(ValueError, match=r"width = 0 outside"):
        start_scorer(rng, 5, 0)


def test_leaves_lead_with_replicas():
    rng = Rng(0, "x", torch.arange(3))
    for parameters in (start_tagger(rng, 5, 8, 4), start_scorer(rng.child("s"), 5, 8)):
        assert {leaf.shape[0] for leaf in tree_leaves(parameters)} == {3}
