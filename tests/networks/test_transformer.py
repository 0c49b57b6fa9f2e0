"""The transformer and the perceptron against PyTorch's modules and Hugging Face's GPT-2."""

import math

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from rlkit.networks.linear import affine, embed, start_affine
from rlkit.networks.mlp import perceptron, start_perceptron
from rlkit.networks.transformer import empty_cache, forward, forward_step, start_transformer
from rlkit.random import Rng

HEADS = 4


def drawn(ids, width=32, length=9, layers=2, batch=6):
    """Parameters with every leaf perturbed, so that norms and biases matter too, and inputs."""
    rng = Rng(3, "network", torch.as_tensor(ids))
    leaves, structure = tree_flatten(start_transformer(rng, length, width, layers))
    moved = [leaf + 0.2 * rng.normal(f"leaf {i}", *leaf.shape[1:]) for i, leaf in enumerate(leaves)]
    return tree_unflatten(moved, structure), rng.normal("x", batch, length, width)


def row(parameters, replica):
    """The parameters of one replica, without the dimension of replicas."""
    return tree_map(lambda leaf: leaf[replica], parameters)


def cached(parameters, x, heads=HEADS):
    """`forward` position by position."""
    cache = empty_cache(parameters, x.shape[1], heads)
    steps = [forward_step(parameters, x[:, :, t], cache, t, heads) for t in range(x.shape[2])]
    return torch.stack(steps, 2)


def set_affine(module, weight, bias):
    module.weight.data, module.bias.data = weight, bias


def of_pytorch(own, width):
    """PyTorch's layers with the weights of one replica; made without drawing any."""
    layers = []
    for layer in own.layers:
        theirs = nn.TransformerEncoderLayer(
            width, HEADS, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, device="meta"
        ).to_empty(device="cpu")
        theirs.self_attn.in_proj_weight.data = layer.attend.weight.T.contiguous()
        theirs.self_attn.in_proj_bias.data = layer.attend.bias
        set_affine(theirs.self_attn.out_proj, layer.mix.weight.T.contiguous(), layer.mix.bias)
        set_affine(theirs.linear1, layer.up.weight.T.contiguous(), layer.up.bias)
        set_affine(theirs.linear2, layer.down.weight.T.contiguous(), layer.down.bias)
        set_affine(theirs.norm1, *layer.before)
        set_affine(theirs.norm2, *layer.between)
        layers.append(theirs)
    last = nn.LayerNorm(width)
    set_affine(last, *own.last)
    return layers, last


def test_forward_is_that_of_pytorchs_layers_with_the_same_weights():
    parameters, x = drawn([0, 1, 2])
    mine = forward(parameters, x, HEADS)
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[2])
    for replica in range(3):
        own = row(parameters, replica)
        layers, last = of_pytorch(own, x.shape[-1])
        stream = x[replica] + own.position
        for layer in layers:
            stream = layer(stream, src_mask=mask, is_causal=True)
        torch.testing.assert_close(mine[replica], last(stream).detach(), rtol=0, atol=1e-5)


@pytest.mark.peers
def test_forward_is_that_of_gpt2_with_the_same_weights():
    transformers = pytest.importorskip("transformers")
    parameters, x = drawn([0, 1])
    config = transformers.GPT2Config(
        vocab_size=5,
        n_positions=x.shape[2],
        n_embd=x.shape[3],
        n_layer=2,
        n_head=HEADS,
        activation_function="gelu",
    )
    with torch.random.fork_rng():
        model = transformers.GPT2Model(config).eval()
    for replica in range(2):
        own = row(parameters, replica)
        model.wpe.weight.data = own.position
        set_affine(model.ln_f, *own.last)
        for block, layer in zip(model.h, own.layers, strict=True):
            set_affine(block.ln_1, *layer.before)
            set_affine(block.attn.c_attn, *layer.attend)
            set_affine(block.attn.c_proj, *layer.mix)
            set_affine(block.ln_2, *layer.between)
            set_affine(block.mlp.c_fc, *layer.up)
            set_affine(block.mlp.c_proj, *layer.down)
        theirs = model(inputs_embeds=x[replica]).last_hidden_state.detach()
        mine = forward(parameters, x, HEADS)[replica]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 6])
def test_cached_steps_are_the_full_forward(batch):
    parameters, x = drawn([4, 5, 6], batch=batch)
    torch.testing.assert_close(
        cached(parameters, x), forward(parameters, x, HEADS), rtol=0, atol=1e-5
    )


def test_a_later_input_changes_nothing_before_it():
    parameters, x = drawn([0, 1])
    other = x.clone()
    other[:, :, 5:] = x[:, :, 5:].flip(-1)
    for run in (lambda inputs: forward(parameters, inputs, HEADS), lambda i: cached(parameters, i)):
        before, after = run(x), run(other)
        assert torch.equal(before[:, :, :5], after[:, :, :5])
        assert ((before[:, :, 5:] - after[:, :, 5:]).abs().amax(-1) > 1e-3).all()


def test_responses_of_a_batch_do_not_see_each_other():
    parameters, x = drawn([0, 1])
    other = x.clone()
    other[:, 2] = x[:, 2].flip(-1)
    change = (forward(parameters, x, HEADS) - forward(parameters, other, HEADS)).abs().amax((0, 2))
    assert change[2].max() > 1e-3
    assert change[[0, 1, 3, 4, 5]].max() < 1e-5  # a product may group its rows in another way


def with_gradients(ids):
    parameters, x = drawn(ids)
    leaves, structure = tree_flatten(parameters)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = forward(tree_unflatten(leaves, structure), x, HEADS)
    slopes = torch.autograd.grad((out**3).sum(), leaves)
    with torch.no_grad():
        return [out.detach(), cached(parameters, x), *slopes]


def test_a_replica_is_the_same_bits_in_any_company():
    together = with_gradients([7, 8, 9, 10, 11])
    for place, replica in enumerate([7, 8, 9, 10, 11]):
        for all_, one in zip(together, with_gradients([replica]), strict=True):
            assert torch.equal(all_[place], one[0])


def test_gradients_of_every_leaf_are_those_of_finite_differences():
    parameters, x = drawn([0, 1], width=4, length=3, layers=1, batch=2)
    leaves, structure = tree_flatten((parameters, x))
    leaves = [leaf.double().requires_grad_() for leaf in leaves]

    def run(*values):
        own, inputs = tree_unflatten(list(values), structure)
        return forward(own, inputs, 2)

    assert torch.autograd.gradcheck(run, leaves)


def test_initial_weights_have_the_spread_of_gpt2():
    start = start_transformer(Rng(0, "network", torch.arange(3)), 16, 64, 2)
    for layer in start.layers:
        for part, deviation in (
            (layer.attend, 0.02),
            (layer.up, 0.02),
            (layer.mix, 0.01),
            (layer.down, 0.01),
        ):
            spread = part.weight.std(dim=(1, 2)) / deviation
            # Four standard errors of a standard deviation of as many normals.
            assert (spread - 1).abs().max() < 4 / math.sqrt(2 * part.weight[0].numel())
            assert (part.bias == 0).all()
    distinct = {leaf.flatten(1).sum(1)[0].item() for leaf in tree_leaves(start)} - {0.0, 64.0}
    assert len(distinct) == 1 + 4 * 2


def test_initial_weights_of_a_replica_do_not_depend_on_the_others(untouched_generators):
    both = start_transformer(Rng(0, "network", torch.tensor([4, 7])), 8, 16, 1)
    one = start_transformer(Rng(0, "network", torch.tensor([7])), 8, 16, 1)
    for a, b in zip(tree_leaves(both), tree_leaves(one), strict=True):
        assert torch.equal(a[1:], b)
        assert a.is_contiguous()


def test_embeddings_are_rows_of_the_replicas_own_table():
    table = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    index = torch.tensor([[[0, 2]], [[1, 1]]])
    expected = torch.tensor([[[[0.0, 1], [4, 5]]], [[[8, 9], [8, 9]]]])
    assert torch.equal(embed(table, index), expected)
    assert embed(table, index[..., :0]).shape == (2, 1, 0, 2)


def test_affine_maps_are_matrix_products_of_each_replica():
    rng = Rng(0, "network", torch.arange(3))
    part = start_affine(rng, "map", 5, 4, 1.0)._replace(bias=rng.normal("bias", 4))
    x = rng.normal("x", 2, 7, 5)
    for r in range(3):
        expected = x[r] @ part.weight[r] + part.bias[r]
        torch.testing.assert_close(affine(part, x)[r], expected, rtol=0, atol=1e-5)


def test_perceptron_is_pytorchs_and_starts_at_zero():
    rng = Rng(1, "network", torch.arange(3))
    start = start_perceptron(rng, (5, 16, 16, 2))
    x = rng.normal("x", 7, 5)
    assert (perceptron(start, x) == 0).all()
    moved = [
        part._replace(
            weight=part.weight + 0.3 * rng.normal(f"weight {i}", *part.weight.shape[1:]),
            bias=rng.normal(f"bias {i}", *part.bias.shape[1:]),
        )
        for i, part in enumerate(start)
    ]
    for r in range(3):
        value = x[r]
        for part in moved[:-1]:
            value = torch.tanh(nn.functional.linear(value, part.weight[r].T, part.bias[r]))
        expected = nn.functional.linear(value, moved[-1].weight[r].T, moved[-1].bias[r])
        mine = perceptron(tuple(moved), x, torch.tanh)[r]
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


def test_perceptron_keeps_the_size_of_its_inputs_at_the_start():
    start = start_perceptron(Rng(0, "network", torch.arange(2)), (64, 256, 256, 1))
    for part, inputs in zip(start[:-1], (64, 256), strict=True):
        variance = (part.weight**2).mean((1, 2)) * inputs
        # Four standard errors of a mean of squares of normals.
        assert (variance - 1).abs().max() < 4 * math.sqrt(2 / part.weight[0].numel())


def test_gradients_of_the_perceptron_are_those_of_finite_differences():
    rng = Rng(0, "network", torch.arange(2))
    start = start_perceptron(rng, (3, 4, 2))
    leaves, structure = tree_flatten((start, rng.normal("x", 5, 3)))
    leaves = [(leaf + 0.1).double().requires_grad_() for leaf in leaves]

    def run(*values):
        return perceptron(*tree_unflatten(list(values), structure))

    assert torch.autograd.gradcheck(run, leaves)
