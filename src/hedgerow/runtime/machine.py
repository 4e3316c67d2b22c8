"""What the kernels must know of a processor: the width of its vectors, its registers, its first cache."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import MissingPackageError


@dataclass(frozen=True)
class Machine:
    """A processor as the runtime sees it.

    `lanes` floats are one vector, and so many images are computed together. A tile holds `sums` vectors in
    registers, for a single image, whose inputs are not aligned, up to `most`; where several outputs share their
    inputs it has `shared` columns of `outs` channels. `level1` is the data cache of a core in bytes. With `plain`
    the convolutions are written without LLVM's vectors.
    """

    name: str
    lanes: int
    sums: int
    most: int
    shared: int
    outs: int
    level1: int = 32 * 1024
    plain: bool = False


def detect() -> Machine:
    """Return the machine that this process runs on. Raises `MissingPackageError` without Numba."""
    try:
        from llvmlite import binding
    except ImportError as error:
        raise MissingPackageError(
            "the sparse runtime compiles its kernels with Numba, which is not installed: pip install numba"
        ) from error
    name = binding.get_host_cpu_name()
    features = {feature for feature, there in binding.get_host_cpu_features().items() if there}
    return from_features(name, features, architecture=platform.machine(), level1=_level1())


def from_features(name: str, features: set[str], *, architecture: str, level1: int) -> Machine:
    """Return the machine with these instructions, as LLVM names them.

    A vector is as wide as a register, and a tile leaves registers for a weight and for what is loaded: of 16 with
    AVX2 it takes 8 or 12, of 32 with AVX-512 and NEON 16 or 18.
    """
    if "avx512f" in features:
        return Machine(f"{name}, AVX-512", lanes=16, sums=16, most=18, shared=4, outs=4, level1=level1)
    if {"avx2", "fma"} <= features:
        return Machine(f"{name}, AVX2", lanes=8, sums=8, most=12, shared=2, outs=4, level1=level1)
    if "neon" in features or architecture.lower() in ("aarch64", "arm64"):
        return Machine(f"{name}, NEON", lanes=4, sums=16, most=18, shared=4, outs=4, level1=level1)
    name = f"{name}, no known vectors"
    return Machine(name, lanes=4, sums=8, most=12, shared=2, outs=4, level1=level1, plain=True)


def _level1() -> int:
    try:
        caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
        sizes = [c / "size" for c in caches if (c / "level").read_text().strip() == "1" and _for_data(c)]
        return int(sizes[0].read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError, IndexError):
        return Machine.level1


def _for_data(cache: Path) -> bool:
    return (cache / "type").read_text().strip() in ("Data", "Unified")
