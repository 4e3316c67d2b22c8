"""How small a pruned network's file is: the sparse format, lossless, float16 and int8, beside a zipped one.

    python benchmarks/sizes.py              # ResNet-18, VGG-16-BN at 90, 95, 99 % -> results/benchmarks/sizes.json

Networks have random weights and a random uniform mask in every layer, which no file format can exploit. `smaller`
is all parameters and buffers as plain float32 over the file, its header and description included; `zipped` is
that plain file, zeros and all, under zlib at level 9. Every lossless file is read back and compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from inference import SIZE, masked
from torch import nn

from hedgerow.compact import read_sparse, write_sparse
from hedgerow.files import write_tensors

VALUES = {"lossless": "float32", "float16": "float16", "int8": "int8"}


def sizes(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Return the bytes of every form of one network, and how many times smaller each is than plain float32."""
    state = model.state_dict()
    plain = sum(tensor.numel() * 4 for tensor in state.values() if tensor.is_floating_point())
    image = torch.rand(1, 3, SIZE, SIZE)
    dense = write_tensors(folder / "dense.safetensors", state)
    found: dict[str, Any] = {"plain float32": plain, "zipped": len(zlib.compress(dense.read_bytes(), 9))}
    for name, kind in VALUES.items():
        path = folder / f"{name}.safetensors"
        found[name] = write_sparse(path, model, image, values=kind).stat().st_size
    back = read_sparse(folder / "lossless.safetensors").state_dict()
    if any(not torch.equal(tensor, back[name]) for name, tensor in state.items()):
        raise SystemExit("the lossless file does not hold the network bit for bit")
    return {"bytes": found, "smaller": {name: plain / size for name, size in found.items()}}


def main() -> None:
    """Write and print the sizes of all networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "vgg16-bn"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.9, 0.95, 0.99])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/sizes.json"))
    arguments = parser.parse_args()
    record: dict[str, Any] = {"torch": torch.__version__, "networks": {}}
    for name in arguments.models:
        for sparsity in arguments.sparsities:
            with tempfile.TemporaryDirectory() as scratch:
                found = sizes(masked(name, sparsity), Path(scratch))
            record["networks"][f"{name}, {sparsity:.0%} uniform"] = found
            print(f"{name}, {sparsity:.0%}:", *(f"{k} {v:.1f}x" for k, v in found["smaller"].items()), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
