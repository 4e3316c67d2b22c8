"""The choice of a number format."""

from __future__ import annotations

import pytest
import torch

from hedgerow.training import precision
from hedgerow.training.precision import chosen_precision, emulated, native_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bf16_only_where_the_hardware_has_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    assert chosen_precision("auto", CPU) == ("bf16" if native else "float32")
    assert chosen_precision("bf16", CPU) == "bf16"
    assert chosen_precision("float32", CPU) == "float32"
    warning = emulated("bf16", CPU)
    assert (warning is None) == native
    assert warning is None or "set precision: auto" in warning
    assert emulated("auto", CPU) is None
    assert emulated("float32", CPU) is None


@pytest.mark.parametrize("look", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_the_processor_is_asked(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == look, raising=False)
    assert native_bf16(CPU)
    monkeypatch.setattr(torch.cpu, look, lambda: False, raising=False)
    assert not native_bf16(CPU)
    assert not native_bf16(torch.device("meta"))
