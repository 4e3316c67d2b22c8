"""FLOPs against torch's own counter, against loops over non-zero weights, and against the removed network."""

from __future__ import annotations

import pytest
import torch
from small_models import Written, attention, build, conv
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from zoo_models import NETWORKS, images, traced, zoo

from hedgerow.errors import ModelError
from hedgerow.sparsity import attach_masks, prunable_weights
from hedgerow.tracing import flops, trace


def counted_by_torch(model, x):
    # Torch knows matrix products, not its fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_flops_of_every_reference_network_equal_those_of_torch(name):
    model, graph = traced(name)
    found = flops(graph, model)
    for n in (1, 2):
        assert found.dense * n == counted_by_torch(model, images(n, 3, 16, 16))
    noise = (
        {"aten.std.correction", "aten.randn.default", "aten.addcmul.default"} if name.startswith("en") else set()
    )
    assert {text.split(" in ")[0] for text in found.unknown} == noise
    assert sum(layer.sparse for layer in found.layers) == found.sparse <= found.dense


@pytest.mark.parametrize("name", ["vision transformer", "attention with its weights", "one and three dimensions"])
def test_attention_products_and_transposed_convolutions_equal_those_of_torch(name):
    model, draw = build(name)
    assert flops(trace(model, draw(2)), model).dense == counted_by_torch(model, draw(1)) > 0


def test_sparse_flops_count_every_non_zero_weight_once_per_position():
    model = nn.Sequential(
        conv(3, 4, bias=False), nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(54, 5)
    )
    generator = torch.Generator().manual_seed(1)
    masks = {n: torch.rand(w.dense.shape, generator=generator) < 0.4 for n, w in prunable_weights(model).items()}
    graph = trace(model, torch.rand(2, 3, 8, 8))
    nonzero = {name: int(mask.sum()) for name, mask in masks.items()}
    expected = 2 * (nonzero["0.weight"] * 64 + nonzero["1.weight"] * 9 + nonzero["3.weight"])
    dense = flops(graph, model)
    assert dense.sparse == dense.dense == 2 * (4 * 3 * 9 * 64 + 6 * 2 * 9 * 9 + 54 * 5)
    assert flops(graph, model, masks=masks).sparse == expected
    assert flops(graph, model, masks=masks).dense == dense.dense
    only = {"1.weight": masks["1.weight"]}
    assert flops(graph, model, masks=only).sparse == dense.dense - 2 * 9 * (108 - nonzero["1.weight"])
    attach_masks(model, masks)
    assert flops(graph, model).sparse == expected


def test_a_layer_called_twice_costs_twice():
    model = Written(lambda s, x: s.c(s.c(x)[..., ::2, ::2]), c=conv())
    found = flops(trace(model, torch.rand(2, 4, 8, 8)), model)
    assert [layer.weight for layer in found.layers] == ["c.weight", "c.weight"]
    assert [layer.positions for layer in found.layers] == [64, 16]


@pytest.mark.parametrize(("inputs", "outputs"), [(1.0, 1.0), (0.5, 0.25), (0.75, 1.0)])
def test_flops_at_channel_densities_are_those_of_the_smaller_layer(inputs, outputs):
    def cost(groups, n_in, n_out):
        layer = nn.Conv2d(n_in, n_out, (3, 1), stride=2, groups=groups)
        return flops(trace(layer, torch.rand(2, n_in, 9, 8)), layer).layers[0]

    whole = cost(1, 16, 8)
    assert (whole.inputs, whole.outputs, whole.kernel, whole.groups, whole.positions) == (16, 8, 3, 1, 16)
    assert whole.at(inputs, outputs) == cost(1, int(16 * inputs), int(8 * outputs)).dense
    grouped = cost(2, 16, 8)
    assert (grouped.inputs, grouped.groups) == (8, 2)
    assert grouped.at(inputs, outputs) == cost(2, int(16 * inputs), int(8 * outputs)).dense


def test_flops_at_densities_are_differentiable():
    model, graph = traced("cnn-small")
    layer = flops(graph, model).layers[1]
    k = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    value = layer.at(k, k)
    value.backward()
    assert value.item() == layer.dense / 4
    assert k.grad.item() == layer.dense


def test_what_is_not_known_is_named_and_not_counted_as_nothing():
    def forward(self, x):
        y = torch.einsum("nchw,co->nohw", self.c(x), self.w)
        return torch.nn.functional.conv2d(y, self.c.weight * 2)

    model = Written(forward, c=conv(), w=nn.Parameter(torch.rand(4, 4)))
    found = flops(trace(model, torch.rand(2, 4, 8, 8)), model)
    assert len(found.layers) == 1
    assert {text.split(" in ")[0] for text in found.unknown} == {"aten.einsum.default", "aten.conv2d.default"}


def test_attention_over_tokens_counts_both_products():
    model = Written(lambda s, x: s.a(x, x, x, need_weights=False)[0], a=attention(heads=2, width=6)).eval()
    found = flops(trace(model, torch.rand(2, 5, 6)), model)
    assert [layer.op for layer in found.layers] == ["linear", "sdpa", "linear"]
    assert [layer.dense for layer in found.layers] == [2 * 5 * 6 * 18, 2 * 2 * (2 * 5 * 5 * 3), 2 * 5 * 6 * 6]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"nowhere.weight": torch.ones(2)}, r"mask of nowhere\.weight: no convolution or linear layer"),
        (
            {"network.0.weight": torch.ones(2, 2)},
            r"mask of network\.0\.weight: is \[2, 2\], expected \[16, 3, 4, 4\]",
        ),
    ],
)
def test_masks_of_another_model_are_refused(masks, message):
    with pytest.raises(ModelError, match=message):
        flops(traced("cnn-small")[1], zoo("cnn-small"), masks=masks)
