"""Which number format a machine trains fast in."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bf16"]
FABRIC = {"float32": "32-true", "bf16": "bf16-mixed"}


def native_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware; elsewhere it is emulated, ten times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    looks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, look, bool)() for look in looks)


def chosen_precision(asked: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """Return the precision to train in; `auto` is bf16 where the hardware has it, else float32."""
    if asked != "auto":
        return asked
    return "bf16" if native_bf16(device) else "float32"


def emulated(asked: Precision, device: torch.device) -> str | None:
    """Return what to tell a user who asks for bf16 where it is emulated; None when all is well."""
    if asked == "bf16" and not native_bf16(device):
        return f"precision bf16 is emulated on this {device.type} and far slower than float32; set precision: auto"
    return None
