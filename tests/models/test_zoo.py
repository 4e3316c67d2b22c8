"""The reference networks: counts, shapes, gradients, tracing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import hedgerow.models
from hedgerow.errors import ModelError
from hedgerow.models import MODELS, build_model
from hedgerow.registry import import_folder

ENSEMBLES = ["en1-resnet20", "en2-resnet20", "en5-resnet20"]
CONVOLUTIONAL = [
    *("cnn-large", "cnn-small", *ENSEMBLES, "mobilenet-v2", "preact-resnet18"),
    *("resnet18", "resnet20", "resnet50", "vgg16-bn", "wrn-28-10", "wrn-28-4"),
]
TRANSFORMERS = ["vit-small", "vit-tiny"]
NAMES = sorted([*CONVOLUTIONAL, *TRANSFORMERS])
# The same architecture, narrower, where counts do not matter; without noise, which has its own tests.
THIN = {
    "mobilenet-v2": {"width": 0.25},
    **{key: {"width": 8} for key in ["preact-resnet18", "resnet18", "resnet50"]},
    "resnet20": {"width": 4},
    **{key: {"hidden": 16, "heads": 2, "depth": 2} for key in TRANSFORMERS},
    **{key: {"depth": 10, "width": 1} for key in ["wrn-28-10", "wrn-28-4"]},
    **{name: {"depth": 10, "noise": 0} for name in ENSEMBLES},
}
DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def make(name, channels=3, size=(32, 32), classes=10, **options):
    return MODELS[name](num_classes=classes, channels=channels, image_size=size, **options)


def wrapped(name, channels=3, size=(32, 32), classes=10, **more):
    return build_model(
        name,
        num_classes=classes,
        channels=channels,
        image_size=size,
        mean=[0.4] * channels,
        std=[0.25] * channels,
        options=THIN.get(name),
        **more,
    ).eval()


def counts(model):
    total = sum(p.numel() for p in model.parameters())
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return total, sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds))


def images(n, channels=3, size=(32, 32)):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(5))


def test_the_registry_lists_every_network_with_a_summary():
    assert list(MODELS) == NAMES
    assert all(MODELS.summary(n).endswith(".") for n in MODELS)


@pytest.mark.parametrize(
    ("name", "published"), [("resnet18", 11_164_352), ("vgg16-bn", 15_302_848), ("wrn-28-4", 5_841_840)]
)
def test_prunable_weights_equal_the_published_count(name, published):
    assert counts(make(name))[1] == published


def test_resnet20_with_convolutional_shortcuts_has_the_counted_parameters():
    stem = 3 * 16 * 9
    stage1 = 6 * 16 * 16 * 9
    stage2 = 16 * 32 * 9 + 5 * 32 * 32 * 9
    stage3 = 32 * 64 * 9 + 5 * 64 * 64 * 9
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    classifier = 64 * 10 + 10
    plain = stem + stage1 + stage2 + stage3 + norms + classifier
    assert plain == 269_722  # the parameter-free shortcuts of the paper
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert counts(make("resnet20")) == (plain + shortcuts, plain - norms - 10 + 16 * 32 + 32 * 64)


def test_a_wide_resnet_of_depth_22_and_width_1_matches_the_feynman_kac_member():
    # 2003.00631: En1, one pre-activation ResNet-20 with 1x1 convolution shortcuts; the wide ResNet paper
    # counts the two shortcuts as layers, hence 22.
    assert counts(make("wrn-28-4", depth=22, width=1))[0] == 272_282


def test_the_documented_table_equals_the_counted_one():
    number = r"([\d,]+)"
    pattern = rf"^\| `([\w-]+)` \|[^|]*\| {number} \| {number} \| ({number}|-) \| (\d+)x\6 \|$"
    rows = re.findall(pattern, DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(row[0] for row in rows) == list(MODELS)
    for name, total, prunable, published, _, smallest in rows:
        with torch.device("meta"):
            counted = counts(make(name))
        assert (f"{counted[0]:,}", f"{counted[1]:,}") == (total, prunable)
        assert published in ("-", prunable)
        side = int(smallest)
        small = make(name, size=(side, side), **THIN.get(name, {})).eval()
        assert small(images(2, size=(side, side))).shape == (2, 10)
        if side > 1:
            with pytest.raises(ModelError, match=rf"smallest size that works is {side}x{side}"):
                make(name, size=(side, side - 1))


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes"),
    [(n, 1, (28, 28), 10) for n in NAMES]
    + [(n, 3, (32, 32), 7) for n in NAMES]
    + [(n, 4, (20, 33), 3) for n in NAMES]
    + [(n, 1, (8, 8), 10) for n in NAMES if n != "vgg16-bn"],
)
def test_every_network_takes_the_shape_and_gives_finite_gradients(name, channels, size, classes):
    model = wrapped(name, channels, size, classes)
    x = images(2, channels, size).requires_grad_()
    logits = model(x)
    assert logits.shape == (2, classes)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
    assert gradient.shape == x.shape
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_eval_output_of_an_image_does_not_depend_on_its_batch(name):
    model, x = wrapped(name), images(5)
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(x.flip(0)).flip(0), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_network_traces_to_plain_layers_and_sums(name):
    model, x = wrapped(name), images(2)
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        assert torch.equal(traced(x), model(x))
    functions = {n.target for n in traced.graph.nodes if n.op in ("call_function", "call_method")}
    assert {f.__name__ for f in functions} <= {"sub", "truediv", "add"}
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    assert relus
    assert not any(m.inplace for m in relus)
    called = [n.target for n in traced.graph.nodes if n.op == "call_module"]
    assert len(called) == len(set(called)), "a module called twice cannot be bounded or closed on its own"


@pytest.mark.parametrize("name", ["cnn-small", "resnet20", "vit-tiny"])
def test_export_with_a_dynamic_batch(name):
    model = wrapped(name, size=(16, 16))
    batch = torch.export.Dim("batch", min=1, max=1024)
    exported = torch.export.export(model, (images(3, size=(16, 16)),), dynamic_shapes=({0: batch},)).module()
    x = images(7, size=(16, 16))
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_initial_weights_are_kaiming_and_biases_zero(name):
    for module in make(name, **{"resnet50": {"width": 16}, "wrn-28-10": {"width": 2}}.get(name, {})).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", THIN)
def test_every_layer_of_a_network_learns(name):
    model = make(name, **THIN[name])
    model(images(4)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn-28-4", {"depth": 27}, r"6 n \+ 4.*not 27"),
        ("wrn-28-4", {"depth": 4}, r"6 n \+ 4"),
        ("wrn-28-4", {"width": 0}, "factor of at least 1"),
        ("resnet18", {"width": 0}, "at least 1, not 0"),
        ("resnet20", {"width": 1.5}, "at least 1, not 1.5"),
        ("resnet50", {"width": 0}, "at least 1, not 0"),
        ("resnet50", {"stem": "small"}, "'resnet50': stem is 'small'; allowed: auto, cifar, imagenet"),
        ("wrn-28-10", {"depth": 27}, r"6 n \+ 4.*not 27"),
        ("preact-resnet18", {"width": True}, "width must be a whole number of at least 1, not True"),
        ("mobilenet-v2", {"width": 0}, "width is 0; it multiplies the channels, a positive number"),
        ("mobilenet-v2", {"width": float("nan")}, "width is nan"),
        ("mobilenet-v2", {"stem": "tiny"}, "'mobilenet-v2': stem is 'tiny'"),
        ("vit-tiny", {"heads": 5}, "5 does not divide 192"),
        ("vit-tiny", {"depth": 0}, "depth must be a whole number of at least 1, not 0"),
        ("vit-small", {"patch": 4.0}, "patch must be a whole number of at least 1, not 4.0"),
        ("vit-small", {"patch": "big"}, "patch must be a whole number of at least 1, not 'big'"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ModelError, match=message):
        make(name, **options)


def test_a_file_put_into_the_folder_is_enough(tmp_path, monkeypatch):
    (tmp_path / "zz_extra.py").write_text(
        "from torch import nn\nfrom hedgerow.models import MODELS\n\n"
        "@MODELS.register('zz-extra')\n"
        "def extra(*, num_classes, channels, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    monkeypatch.setattr(MODELS, "_parts", dict(MODELS._parts))
    monkeypatch.setattr(hedgerow.models, "__path__", [*hedgerow.models.__path__, str(tmp_path)])
    try:
        import_folder("hedgerow.models", list(hedgerow.models.__path__))
        first, second = (wrapped("zz-extra", size=(4, 4), seed=1) for _ in range(2))
        assert torch.equal(first.network[1].weight, second.network[1].weight)
    finally:
        sys.modules.pop("hedgerow.models.zz_extra", None)
        vars(hedgerow.models).pop("zz_extra", None)
