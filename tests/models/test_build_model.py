"""From a name or a factory to a checked module: determinism, normalisation, every error."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.models import Normalize, build_model, check_model
from hedgerow.registry import UnknownNameError

FACTORIES = """
import torch
from torch import nn


def mlp(hidden, num_classes, image_size=(2, 2)):
    pixels = image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.Linear(hidden, num_classes))


def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def loose(num_classes, **kwargs):
    assert set(kwargs) <= {"anything"}, kwargs
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))


class Net(nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, num_classes, 4)

    def forward(self, x):
        return self.conv(x).flatten(1)


def broken(num_classes):
    raise RuntimeError("no weights today")


def text():
    return "a network"


number = 3
ready = fixed()
"""


@pytest.fixture(autouse=True)
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    (tmp_path / "bad_nets.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in ("my_nets", "bad_nets"):
        sys.modules.pop(name, None)


def build(name="own", *, classes=3, channels=1, size=(4, 4), mean=(0.5,), std=(0.25,), **more):
    return build_model(name, num_classes=classes, channels=channels, image_size=size, mean=mean, std=std, **more)


def same_weights(a, b):
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_left_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build("resnet20", seed=4, options={"width": 2})
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same_weights(first, build("resnet20", seed=4, options={"width": 2}))
    assert not same_weights(first, build("resnet20", seed=5, options={"width": 2}))


def test_a_reference_network_is_wrapped_and_a_factory_is_not():
    assert [n for n, _ in build("cnn-small").named_children()] == ["normalize", "network"]
    assert isinstance(build("cnn-small", normalize=False)[0], nn.Conv2d)
    assert isinstance(build(factory="my_nets:fixed")[0], nn.Flatten)
    assert isinstance(build(factory="my_nets:fixed", normalize=True).normalize, Normalize)


def test_the_wrapper_normalises_and_nothing_else():
    model = build("cnn-small", channels=2, mean=(0.2, 0.6), std=(0.5, 0.25)).eval()
    x = torch.rand(3, 2, 4, 4)
    scaled = torch.stack([(x[:, 0] - 0.2) / 0.5, (x[:, 1] - 0.6) / 0.25], dim=1)
    torch.testing.assert_close(model.normalize(x), scaled)
    torch.testing.assert_close(model(x), model.network(scaled))
    assert set(model.normalize.state_dict()) == {"mean", "std"}
    assert not list(model.normalize.parameters())
    assert "0.25" in repr(model.normalize)


@pytest.mark.parametrize(
    ("factory", "options"),
    [("mlp", {"hidden": 5}), ("fixed", None), ("loose", {"anything": 1}), ("Net", None), ("Net", {"channels": 1})],
)
def test_a_factory_gets_the_options_and_what_its_signature_names(factory, options):
    model = build(factory=f"my_nets:{factory}", options=options, seed=2)
    assert model(torch.rand(5, 1, 4, 4)).shape == (5, 3)
    assert same_weights(model, build(factory=f"my_nets:{factory}", options=options, seed=2))
    assert same_weights(model, build(f"my_nets:{factory}", options=options, seed=2))


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("my_nets.fixed", None, "write package.module:function"),
        ("no_nets:make", None, "cannot import module 'no_nets'"),
        (":make", None, "importing its module raised ValueError"),
        ("bad_nets:make", None, "importing its module raised ZeroDivisionError"),
        ("my_nets:fixd", None, "has no 'fixd'; did you mean 'fixed'"),
        ("my_nets:number", None, "is a int, not a function"),
        ("my_nets:ready", None, "is a Sequential, not a function"),
        ("my_nets:broken", None, "called with num_classes, it raised RuntimeError: no weights today"),
        ("my_nets:mlp", None, "raised TypeError: .*hidden.*model.options"),
        ("my_nets:text", None, "returned a str; it must return a torch.nn.Module"),
        ("my_nets:mlp", {"hiden": 5}, "no option 'hiden'; did you mean 'hidden'"),
        ("my_nets:fixed", {"hidden": 5}, "no option 'hidden'. Allowed: none"),
        ("my_nets:Net", {"num_classes": 4}, r"shape \[2, 4\]; expected logits \[2, 3\]"),
    ],
)
def test_a_factory_that_does_not_work_is_a_model_error(factory, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        build(factory=factory, options=options)
    assert factory in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": {"dept": 10}}, "no option 'dept'; did you mean 'depth'.*Allowed: depth, width"),
        ({"options": {"num_classes": 10}}, "no option 'num_classes'.*Allowed: depth, width"),
        ({"options": {"depth": 11}}, "depth is 6 n"),
        ({"classes": 0}, "num_classes must be an integer of at least 1, not 0"),
        ({"channels": 1.0}, "channels must be an integer of at least 1, not 1.0"),
        ({"size": (0, 4)}, r"image_size must be \(height, width\)"),
        ({"size": (4,)}, r"image_size must be \(height, width\)"),
        ({"mean": (0.1, 0.2)}, "2 means and 1 standard deviations"),
        ({"mean": (), "std": ()}, "0 means"),
        ({"mean": (0.1, 0.2), "std": (1, 1)}, "2 means for images of 1 channels"),
        ({"std": (0.0,)}, "positive standard deviations"),
        ({"mean": (float("nan"),)}, "finite means"),
    ],
)
def test_a_reference_network_asked_for_wrongly_is_a_model_error(more, message):
    with pytest.raises(ModelError, match=message):
        build("wrn-28-4", **{"options": {"depth": 10, "width": 1}, **more})


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"did you mean 'resnet18'.*Known: cnn-large, cnn-small"):
        build("resnet-18")


def test_images_too_small_name_the_smallest_size():
    with pytest.raises(ModelError, match=r"cannot take 15x40 images.*smallest size that works is 16x16"):
        build("vgg16-bn", size=(15, 40))


class Probe(nn.Module):
    """A classifier whose output is `change(logits)`, and which disturbs what it can."""

    def __init__(self, change=lambda logits: logits):
        super().__init__()
        self.change = change
        self.linear = nn.Linear(16, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.norm.running_mean = self.norm.running_mean + torch.rand(3)
        return self.change(self.dropout(self.norm(self.linear(x.flatten(1)))))


def check(model, channels=1):
    check_model(model, num_classes=3, channels=channels, image_size=(4, 4), where="model 'probe'")


def fail(logits):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: (z, z), r"returned a tuple; it must return one tensor, \[2, 3\]"),
        (lambda z: z.sum(1), r"returned the shape \[2\]; expected logits \[2, 3\]"),
        (lambda z: z[:1], r"returned the shape \[1, 3\]"),
        (lambda z: (z > 0).long(), "returned torch.int64; expected floating-point"),
        (lambda z: z / 0, "returned NaN or infinity"),
        (fail, r"images \[2, 1, 4, 4\] .*raised RuntimeError: out of order"),
    ],
)
def test_check_model_names_what_is_wrong_and_leaves_no_trace(change, message):
    model = Probe(change).train()
    model.norm.eval()
    buffers = {n: (b, b.clone()) for n, b in model.named_buffers()}
    before = torch.get_rng_state()
    with pytest.raises(ModelError, match=message) as caught:
        check(model)
    assert str(caught.value).startswith("model 'probe': ")
    assert torch.equal(torch.get_rng_state(), before)
    assert [model.training, model.dropout.training, model.norm.training] == [True, True, False]
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


def test_check_model_passes_a_classifier_and_refuses_other_channels():
    check(Probe())
    with pytest.raises(ModelError, match=r"\[2, 3, 4, 4\].*compare channels and image size"):
        check(Probe(), channels=3)


def test_check_model_refuses_a_module_with_nothing_to_prune():
    with pytest.raises(ModelError, match="nothing to prune"):
        check(nn.Sequential(nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten()))
