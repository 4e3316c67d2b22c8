"""From a sparse file to logits, and what is said of files that are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runtime_nets import error, images, pruned, zoo
from torch import nn

from hedgerow.compact import read_sparse, write_sparse
from hedgerow.errors import CheckpointError, HedgerowError, ModelError
from hedgerow.files import read_tensors, write_tensors
from hedgerow.runtime import compile, load


@pytest.fixture(scope="module")
def model():
    return pruned(zoo("resnet20")[0], 0.1)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "net.safetensors"
    return write_sparse(path, model, images(2), about={"recipe": "r"})


def test_a_file_gives_the_logits_of_its_model(model, written):
    x = images(11)
    with torch.no_grad():
        expected = model(x)
    assert error(load(written, deterministic=True).predict(x), expected) < 2e-5
    assert np.array_equal(
        load(str(written), deterministic=True)(x), load(written, threads=2, deterministic=True)(x)
    )


def test_a_file_and_the_live_model_make_the_same_program(model, written):
    x = images(3)
    assert torch.equal(load(written, deterministic=True)(x), compile(model, x, deterministic=True)(x))


def test_rounded_values_are_computed_as_the_file_says(tmp_path):
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)).eval()
    x = images(2, 8)
    path = write_sparse(tmp_path / "int8.safetensors", small, x, values="int8")
    with torch.no_grad():
        expected = read_sparse(path).module()(x)
    assert error(load(path)(x), expected) < 1e-5


def test_a_file_cut_short_anywhere_is_refused(written, tmp_path):
    whole = written.read_bytes()
    path = tmp_path / "short.safetensors"
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.9999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=r"short\.safetensors"):
            load(path)
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load(tmp_path / "none.safetensors")


def altered(written, path, change):
    """Write a file whose description went through `change`."""
    tensors, metadata = read_tensors(written)
    description = json.loads(metadata["hedgerow"])
    change(description)
    return write_tensors(path, tensors, {"hedgerow": json.dumps(description)})


def first(description, op):
    return next(node for node in description["graph"] if node["op"] == op)


CHANGES = {
    "a weight of another shape": lambda d: d["tensors"]["network.conv.weight"].update(shape=[8, 3, 9, 1]),
    "a stride of one axis": lambda d: first(d, "conv")["attributes"].update(stride=[1]),
    "a stride of zero": lambda d: first(d, "conv")["attributes"].update(stride=[0, 0]),
    "an unknown attribute": lambda d: first(d, "conv")["attributes"].update(colour=1),
    "no eps": lambda d: first(d, "batch_norm")["attributes"].clear(),
    "another map": lambda d: first(d, "conv").update(shape=[-1, 8, 99, 16]),
    "huge padding": lambda d: first(d, "conv")["attributes"].update(padding=[10**9, 10**9]),
    "no operand": lambda d: first(d, "relu").update(inputs=[]),
    "a number for a name": lambda d: first(d, "linear").update(weights={"weight": "network.bn.bias"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_altered_architecture_is_refused_in_words(written, tmp_path, change):
    path = altered(written, tmp_path / "altered.safetensors", change)
    with pytest.raises(HedgerowError) as caught:
        load(path)
    assert len(str(caught.value)) < 600
    assert isinstance(caught.value, CheckpointError | ModelError)


def test_weights_that_are_no_numbers_are_refused_with_their_layer(model, tmp_path):
    broken = pruned(model, 0.5)
    with torch.no_grad():
        broken.network.fc.weight[0, 0] = float("nan")
    path = write_sparse(tmp_path / "nan.safetensors", broken, images(2))
    with pytest.raises(ModelError, match=r"'network\.fc' has weights that are NaN or infinite"):
        load(path)
