"""Bad input: every refusal says what is wrong, where, and what to do, before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gardens import dense, pixels
from torch import Tensor, nn

from hedgerow.bounds import Network, batch_statistics, check_supported, margin_bounds, output_bounds
from hedgerow.errors import CertificationError, DataError, ModelError
from hedgerow.models.en_resnet import BlockNoise
from hedgerow.threat import ThreatModel
from hedgerow.tracing import trace

THREAT = ThreatModel("linf", "1/10")


class Written(nn.Module):
    """A layer `inner` of the user's own, before two that bounds know."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(1, 4, 3), inner, nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)).flatten(1))  # type: ignore[no-any-return]


class Own(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[no-any-return]


class Over(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.top / (2 + x)


UNSUPPORTED = {
    "gelu": (nn.GELU(), "gelu in 'inner': no bounds are known for it"),
    "group norm": (nn.GroupNorm(2, 4), "group_norm in 'inner'"),
    "square": (Own(lambda x: x * x), "mul in 'inner': both of its operands depend on the image"),
    "quotient": (Over(), "div in 'inner': it divides by what depends on the image"),
    "sort": (Own(lambda x: x.sort(3).values), "aten.sort.* in 'inner'"),
    "steep leaky relu": (nn.LeakyReLU(1.5), "leaky_relu in 'inner': not with slope 1.5"),
    "ragged adaptive pool": (
        nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.Upsample((6, 6))),
        "adaptive_max_pool in 'inner.0'",
    ),
    "batch axis moved": (
        Own(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
        "permute in 'inner': it moves",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_layer_is_named_with_its_module(name: str) -> None:
    inner, message = UNSUPPORTED[name]
    model = Written(inner)
    graph = trace(model, torch.rand(2, 1, 8, 8))
    with pytest.raises(ModelError, match=f"no bounds for this network: {message}"):
        check_supported(graph)
    with pytest.raises(ModelError, match=message):
        margin_bounds(graph, model, torch.rand(1, 1, 8, 8), torch.tensor([0]), THREAT)


def test_all_that_is_unsupported_is_said_at_once_and_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Written(nn.Sequential(nn.GELU(), nn.Softplus(), nn.ReLU(), nn.SiLU()))
    graph = trace(model, torch.rand(2, 1, 8, 8))

    def work(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be computed")

    monkeypatch.setattr(F, "conv2d", work)
    with pytest.raises(
        ModelError, match=r"gelu in 'inner.0'.*softplus in 'inner.1'.*silu in 'inner.3'.*Bounds know conv"
    ):
        Network(graph, model)


def test_a_stochastic_network_is_refused() -> None:
    model = Written(BlockNoise())
    quiet = Written(BlockNoise(0.0))
    graph = trace(quiet, torch.rand(2, 1, 8, 8))
    images = (torch.rand(1, 1, 8, 8), torch.tensor([0]))
    with pytest.raises(ModelError, match=r"Written is stochastic.*randomized smoothing, or set its noise to 0"):
        margin_bounds(graph, model, *images, THREAT)
    assert margin_bounds(graph, quiet, *images, THREAT).shape == (1, 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    model = Written(nn.BatchNorm2d(4))
    graph = trace(model, torch.rand(2, 1, 8, 8))
    with torch.no_grad():
        model.inner.running_var[2] = value  # type: ignore[index, union-attr]
    with pytest.raises(ModelError, match=r"inner.running_var holds NaN or infinity"):
        margin_bounds(graph, model, torch.rand(1, 1, 8, 8), torch.tensor([0]), THREAT)


def test_a_radius_below_zero_is_none() -> None:
    with pytest.raises(ValueError, match="eps -1/10 is negative"):
        ThreatModel("linf", "-1/10")


GRAPH, MODEL = dense(4, 5, 3)
Y = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.full((2, 4), 1.5).double(), Y, "pixels run from 1.5 to 1.5; expected \\[0,1\\]"),
        (torch.full((2, 4), torch.nan).double(), Y, "pixels run from nan"),
        (torch.full((2, 4), 1), Y, "images are torch.int64"),
        (torch.rand(2, 5).double(), Y, "images are \\[5\\]; the network was traced with \\[4\\]"),
        (torch.rand(2, 4).double(), torch.tensor([0, 3]), "labels run from 0 to 3; expected 0 to 2"),
        (torch.rand(2, 4).double(), torch.tensor([0.0, 1.0]), "labels are torch.float32"),
    ],
)
def test_images_and_labels_out_of_range_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        margin_bounds(GRAPH, MODEL, x, y, THREAT)


def test_images_finer_than_the_arithmetic_are_refused() -> None:
    with pytest.raises(DataError, match=r"images are torch.float64, which torch.float32 cannot hold"):
        margin_bounds(GRAPH, MODEL, pixels(2, (4,)), Y, THREAT, dtype=torch.float32)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(CertificationError, match="method 'deeppoly' is not known; allowed: ibp, crown-ibp, crown"):
        margin_bounds(GRAPH, MODEL, pixels(2, (4,)), Y, THREAT, "deeppoly")  # type: ignore[arg-type]


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(DataError, match="the box is empty"):
        output_bounds(GRAPH, MODEL, pixels(2, (4,)) + 1, pixels(2, (4,)))


def test_margins_of_anything_but_logits_are_refused() -> None:
    model = nn.Conv2d(1, 2, 3)
    graph = trace(model, torch.rand(2, 1, 8, 8))
    with pytest.raises(ModelError, match="margins need logits"):
        margin_bounds(graph, model, torch.rand(2, 1, 8, 8), Y, THREAT)
    lower, upper = output_bounds(graph, model, torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8))
    assert lower.shape == upper.shape == (2, 2, 6, 6)


def test_another_model_than_the_traced_one_is_refused() -> None:
    with pytest.raises(ModelError, match="has no such parameter"):
        margin_bounds(GRAPH, nn.Linear(4, 3), pixels(2, (4,)), Y, THREAT)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("var", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)  # type: ignore[arg-type]


def test_a_batch_norm_that_is_no_module_has_no_batch_statistics() -> None:
    model = Functional()
    graph = trace(model, torch.rand(2, 1, 8, 8))
    with (
        pytest.raises(ModelError, match="batch_norm in the model's own forward is no BatchNorm module"),
        batch_statistics(graph, model),
    ):
        pass
