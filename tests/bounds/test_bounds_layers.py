"""Every affine layer against its own Jacobian: A, |A|, A transposed, A squared, b; in both number formats."""

from __future__ import annotations

import math

import pytest
import torch
from gardens import Garden
from layers_of_all_kinds import STRAIGHT
from torch import Tensor

from hedgerow.bounds import Network
from hedgerow.tracing import Node, run

CASES = [(name, seed) for name in STRAIGHT for seed in range(4)]


def alone(name: str, seed: int) -> tuple[Garden, list[Node]]:
    """A garden with one layer, and its nodes that depend on the input."""
    garden = Garden(((4, 6), (4, 5, 6))[seed % 2], seed)
    STRAIGHT[name](garden)
    graph = garden.graph()
    return garden, [node for node in graph.nodes if node in graph.dependent()][1:]


def jacobian(garden: Garden) -> tuple[Tensor, Tensor]:
    """`[out, in]` and the value at 0, `[out]`, by differentiating the graph itself."""
    graph, shape = garden.graph(), garden.nodes[0].shape[1:]

    def flat(x: Tensor) -> Tensor:
        return run(graph, garden.model, x.view(1, *shape)).flatten()

    zero = torch.zeros(math.prod(shape), dtype=torch.float64)
    return torch.autograd.functional.jacobian(flat, zero), flat(zero).detach()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "seed"), CASES)
def test_a_layer_is_what_its_jacobian_says(name: str, seed: int, dtype: torch.dtype) -> None:
    garden, nodes = alone(name, seed)
    with torch.no_grad():
        network = Network(garden.graph(), garden.model, dtype=dtype)
    matrix, start = (t.to(dtype) for t in jacobian(garden))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    shape, out = garden.nodes[0].shape[1:], nodes[-1].shape[1:]
    dice = torch.Generator().manual_seed(seed)
    x = torch.randn(3, *shape, generator=dice, dtype=dtype)
    rows = torch.randn(5, *out, generator=dice, dtype=dtype)

    def close(found: Tensor, expected: Tensor) -> bool:
        return torch.allclose(found.flatten(1), expected.flatten(1), atol=tolerance, rtol=tolerance)

    with torch.no_grad():
        values = {network.input: x}
        back = {nodes[-1]: rows}
        for node in nodes:
            values[node] = network.affine[node].value(*(values[p] for p in network.parents(node)))
        for node in reversed(nodes):
            found = network.affine[node].adjoint(back[node])
            for parent, each in zip(network.parents(node), found, strict=True):
                back[parent] = back[parent] + each if parent in back else each
    assert close(values[nodes[-1]], x.flatten(1) @ matrix.T + start)
    assert close(back[network.input], rows.flatten(1) @ matrix)
    if len(nodes) > 1:
        return  # of a chain, |A| is not the product of its parts'
    layer = network.affine[nodes[0]]
    sizes = [x.abs()] * len(network.parents(nodes[0]))
    magnitude = layer.magnitude(*sizes)
    if len(sizes) == 1:
        assert close(magnitude, x.abs().flatten(1) @ matrix.abs().T)
        assert layer.terms >= (matrix != 0).sum(1).max()
        assert layer.terms >= (matrix != 0).sum(0).max()
    else:
        assert (magnitude.flatten(1) + tolerance >= x.abs().flatten(1) @ matrix.abs().T).all()
    offset = torch.zeros(1, *out, dtype=dtype) if layer.offset is None else layer.offset.expand(1, *out)
    assert close(offset, start.view(1, -1))
    if layer.squares is not None:
        assert close(layer.squares(x.square()), x.square().flatten(1) @ matrix.square().T)
    if layer.diagonal:
        assert ((matrix != 0).sum(0) <= 1).all()
        assert ((matrix != 0).sum(1) <= 1).all()


def test_all_weights_are_taken_as_they_are_now() -> None:
    garden, (node,) = alone("linear", 0)
    x = torch.ones(1, 4, 6, dtype=torch.float64)
    before = Network(garden.graph(), garden.model).affine[node].value(x)
    with torch.no_grad():
        next(garden.model.parameters()).mul_(2)
    after = Network(garden.graph(), garden.model).affine[node].value(x)
    assert not torch.allclose(before, after)
    assert torch.equal(after, run(garden.graph(), garden.model, x))


def test_made_without_gradients_the_weights_have_no_graph() -> None:
    garden, (node,) = alone("conv", 0)
    x = torch.ones(1, 4, 6, dtype=torch.float64)
    assert Network(garden.graph(), garden.model).affine[node].value(x).requires_grad
    with torch.no_grad():
        network = Network(garden.graph(), garden.model)
    assert not network.affine[node].value(x).requires_grad
