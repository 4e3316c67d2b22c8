"""The sparse file: lossless, small, and deaf to whatever a hostile file says."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.compact import read_sparse, write_sparse
from hedgerow.errors import CheckpointError, ModelError
from hedgerow.files import read_tensors, write_tensors
from hedgerow.models import build_model
from hedgerow.sparsity import attach_masks, bake, prunable_weights


class Own(nn.Module):
    """A user's module: concat, depthwise, a skip, arithmetic of its own, a double-precision buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 16, 5)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("seen", torch.tensor([1.0, 2.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.one(x * self.scale + 0.25))
        both = torch.cat([first, self.deep(first) + first], 1)
        pooled = F.max_pool2d(F.hardtanh(self.norm(both), 0.0, 6.0), 2)
        return self.head(pooled.flatten(1))  # type: ignore[no-any-return]


def pruned(model: nn.Module, density: float, seed: int = 0) -> dict[str, Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.dense.shape, generator=dice) < density
        for name, weight in prunable_weights(model).items()
    }


def own(density: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    model = Own().eval()
    bake(model, pruned(model, density))
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "net.safetensors"
    return write_sparse(path, own(), torch.rand(2, 3, 8, 8), about={"recipe": {"a": 1}})


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
def test_a_network_comes_back_bit_for_bit(density: float, tmp_path: Path) -> None:
    model, x = own(density), torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        model.one.weight[0, 0, 0, 0] = -0.0  # type: ignore[union-attr, index, operator]
    found = read_sparse(write_sparse(tmp_path / "net.safetensors", model, x))
    state = found.state_dict()
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes()
    again = Own().eval()
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(found.module()(x), model(x))
        assert torch.equal(again(x), model(x))
        assert found.module()(x[:1]).shape == (1, 5)


@pytest.mark.parametrize("name", ["resnet20", "cnn-small"])
def test_networks_of_the_zoo_come_back(name: str, tmp_path: Path) -> None:
    model = build_model(
        name, num_classes=10, channels=3, image_size=(32, 32), mean=[0.5] * 3, std=[0.2] * 3
    ).eval()
    bake(model, pruned(model, 0.1))
    x = torch.rand(3, 3, 32, 32)
    network = read_sparse(write_sparse(tmp_path / "net.safetensors", model, x)).module()
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
    assert not network.train().training
    assert {n: p.requires_grad for n, p in network.named_parameters()} == dict.fromkeys(
        (n for n, _ in model.named_parameters()), True
    )


def test_a_masked_network_is_stored_by_its_effective_weights(tmp_path: Path) -> None:
    model = own(1.0)
    attach_masks(model, pruned(model, 0.2))
    x = torch.rand(2, 3, 8, 8)
    found = read_sparse(write_sparse(tmp_path / "net.safetensors", model, x))
    with torch.no_grad():
        assert torch.equal(found.module()(x), model(x))
    kept = {name: len(weight.positions) for name, weight in found.sparse.items()}
    assert kept == {name: int(mask.sum()) for name, mask in pruned(model, 0.2).items()}


def test_rounded_values_are_close_and_zeros_stay(tmp_path: Path) -> None:
    model, x = own(), torch.rand(2, 3, 8, 8)
    for values, steps in (("float16", 2**-11), ("int8", 1 / 254)):
        found = read_sparse(write_sparse(tmp_path / "net.safetensors", model, x, values=values))  # type: ignore[arg-type]
        for name, weight in prunable_weights(model).items():
            stored = found.sparse[name].dense()
            assert torch.equal(stored[weight.dense == 0], weight.dense[weight.dense == 0])
            rows = weight.dense.detach().abs().flatten(1).amax(1)
            assert ((stored - weight.dense).abs().flatten(1).amax(1) <= 1.01 * steps * rows).all()
        assert torch.equal(found.dense["norm.weight"], model.norm.weight)  # type: ignore[union-attr]


def test_the_file_is_as_small_as_promised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 400, bias=False), nn.Linear(400, 10, bias=False))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    dense = sum(p.numel() * 4 for p in model.parameters())
    x = torch.rand(2, 3, 32, 32)
    for sparsity, lossless, rounded in ((0.9, 9.5, 25), (0.95, 18, 45), (0.99, 75, 140)):
        bake(model, pruned(model, 1 - sparsity))
        for values, goal in (("float32", lossless), ("int8", rounded)):
            path = write_sparse(tmp_path / "net.safetensors", model, x, values=values)  # type: ignore[arg-type]
            assert dense / os.path.getsize(path) > goal
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)


def test_what_is_known_travels_along(written: Path) -> None:
    assert read_sparse(written).about == {"recipe": {"a": 1}}


def test_no_part_of_the_file_is_a_pickle(written: Path) -> None:
    content = written.read_bytes()
    assert b"PK\x03\x04" not in content
    assert b"\x80\x04\x95" not in content
    assert b"torch" not in content.split(b"}}", 1)[0].replace(b"torch_", b"")


def altered(path: Path, target: Path, change: Any) -> Path:
    """Write a file again to `target`, its description changed in place by `change`."""
    tensors, metadata = read_tensors(path)
    description = json.loads(metadata["hedgerow"])
    change(description, tensors)
    return write_tensors(target, tensors, {"hedgerow": json.dumps(description)})


HOSTILE: dict[str, tuple[Any, str]] = {
    "newer format": (lambda d, t: d.update(format=9), "format 9"),
    "no graph": (lambda d, t: d.pop("graph"), "not a sparse file"),
    "unknown operation": (lambda d, t: d["graph"][1].update(op="os.system"), "not a network of known operations"),
    "operation without rule": (lambda d, t: d["graph"][1].update(op="unknown"), "not a network of known"),
    "a loop": (lambda d, t: d["graph"][2].update(inputs=[2]), "not a network of known operations"),
    "a graph of nonsense": (lambda d, t: d.update(graph=[3]), "not a network of known operations"),
    "no output": (lambda d, t: d["graph"][-1].pop("output"), "not a network of known operations"),
    "a weight is missing": (lambda d, t: d["tensors"].pop("head.weight"), "lacks head.weight"),
    "a tensor is missing": (lambda d, t: t.pop("head.weight:values"), "head.weight: not as it declares"),
    "endless shape": (lambda d, t: d["tensors"]["head.weight"].update(shape=[2**40, 2**40]), "not as it declares"),
    "negative shape": (lambda d, t: d["tensors"]["head.weight"].update(shape=[-5, -256]), "not as it declares"),
    "another shape": (lambda d, t: d["tensors"]["head.weight"].update(shape=[5, 2]), "head.weight"),
    "more values": (lambda d, t: d["tensors"]["head.weight"].update(count=10**6), "not as it declares"),
    "fewer values": (lambda d, t: d["tensors"]["head.weight"].update(count=1), "head.weight"),
    "strange values": (lambda d, t: d["tensors"]["head.weight"].update(values="object"), "values are 'object'"),
    "strange dtype": (lambda d, t: d["tensors"]["seen"].update(dtype="object"), "seen: not as it declares"),
    "index is a list": (lambda d, t: d.update(tensors=[1]), "not a sparse file"),
    "bits changed": (lambda d, t: t["head.weight:positions"].fill_(255), "head.weight"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_fails_cleanly(case: str, written: Path, tmp_path: Path) -> None:
    change, match = HOSTILE[case]
    hostile = altered(written, tmp_path / "hostile.safetensors", change)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_sparse(hostile)
    assert str(hostile) in str(caught.value)


def test_every_cut_and_many_flipped_bytes_are_noticed_or_harmless(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for length in range(0, len(content), max(1, len(content) // 60)):
        broken.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_sparse(broken)
    dice = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(content), (300,), generator=dice).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 0x55
        broken.write_bytes(bytes(flipped))
        with contextlib.suppress(CheckpointError):  # nothing else may be raised
            read_sparse(broken).state_dict()


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.erfinv(self.line(x) / 10)

    with pytest.raises(ModelError, match=r"erfinv.*cannot be stored"):
        write_sparse(tmp_path / "net.safetensors", Odd(), torch.rand(2, 4))
    with pytest.raises(ModelError, match="values 'int4' is not known; allowed: float32, float16, int8"):
        write_sparse(tmp_path / "net.safetensors", own(), torch.rand(2, 3, 8, 8), values="int4")  # type: ignore[arg-type]
    half = own()
    half.register_buffer("extra", torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(ModelError, match="extra is bfloat16; the sparse file holds float32"):
        write_sparse(tmp_path / "net.safetensors", half, torch.rand(2, 3, 8, 8))
    assert not (tmp_path / "net.safetensors").exists()
