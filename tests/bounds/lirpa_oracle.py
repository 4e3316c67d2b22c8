"""Bounds by auto-LiRPA 0.3, in a process of its own: reads a network and a box from a file, writes bounds to it.

The package is pinned to a PyTorch of 2022; four names that have moved since are put back in their old places.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy
import torch
import torch.onnx.symbolic_helper as helper
from torch import nn
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS


def old_places() -> None:
    arrays = types.ModuleType("numpy.lib.arraysetops")
    arrays.isin = numpy.isin  # type: ignore[attr-defined]
    sys.modules.setdefault("numpy.lib.arraysetops", arrays)
    if not hasattr(helper, "_set_opset_version"):
        helper._set_opset_version = lambda version: setattr(GLOBALS, "export_onnx_opset_version", version)
    if not hasattr(torch._C.Node, "__getitem__"):
        torch._C.Node.__getitem__ = helper._node_get


def build(name: str) -> nn.Module:
    """The networks to compare on; their weights come from the file."""
    if name == "dense":
        return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    first, second = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Conv2d(3, 4, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def main(path: Path) -> None:
    old_places()
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    def members(self: nn.Module, get: object, prefix: str = "", recurse: bool = True, **_: object) -> object:
        return inner(self, get, prefix, recurse)

    inner = BoundedModule._named_members
    BoundedModule._named_members = members
    given = torch.load(path, weights_only=True)
    model = build(given["name"])
    model.load_state_dict(given["weights"])
    bounded = BoundedModule(model, given["lower"][:1], bound_opts={"relu": "adaptive"})
    noise = PerturbationLpNorm(norm=float("inf"), x_L=given["lower"], x_U=given["upper"])
    images = BoundedTensor((given["lower"] + given["upper"]) / 2, noise)
    found = {}
    for name, how in {"ibp": "IBP", "crown-ibp": "IBP+backward", "crown": "backward"}.items():
        ends = bounded.compute_bounds(x=(images,), method=how)
        found[name] = torch.stack([end.detach() for end in ends])
    torch.save(found, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
