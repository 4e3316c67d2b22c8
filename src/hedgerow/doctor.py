"""What this installation and this machine can do."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NEEDED = ("lightning-fabric", "pydantic", "pyautoattack", "safetensors", "scikit-learn", "scipy", "matplotlib")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and what to do if not."""

    what: str
    good: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Return the findings, in the order a user would ask."""
    import torch

    findings = [Finding("python", True, sys.version.split()[0]), Finding("torch", True, torch.__version__)]
    findings += [_package(name) for name in _NEEDED]
    findings += [_devices(), _precision(), _threads(), _data()]
    return findings


def this_machine() -> dict[str, str | int]:
    """Return what a measured time depends on: processor, its best instructions, cores, threads, torch, device."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", "install this package again: pip install hedgerow")


def _devices() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("devices", True, ", ".join(names))
    return Finding("devices", True, "cpu (no CUDA device)")


def _precision() -> Finding:
    import torch

    from hedgerow.training.precision import native_bf16

    native = native_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    found = f"float32{', bf16 in hardware' if native else ''} ({torch.backends.cpu.get_cpu_capability()})"
    advice = "" if native else "precision: bf16 is emulated here and far slower than float32; leave it or set auto"
    return Finding("precision", True, found, advice)


def _threads() -> Finding:
    import torch

    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    found = f"{torch.get_num_threads()} of {os.cpu_count()} cores, OMP_WAIT_POLICY {policy}"
    passive = policy.upper() == "PASSIVE"
    advice = "" if passive else "set OMP_WAIT_POLICY=PASSIVE: on busy cores waiting threads spin and slow all down"
    return Finding("threads", passive, found, advice)


def _data() -> Finding:
    from hedgerow.data import load_dataset
    from hedgerow.files import cache_folder

    digits = load_dataset("digits")
    return Finding("data", True, f"{digits.label}: {len(digits.train)} images; cache {cache_folder()}")
