"""Which convolutions let several output channels walk one list: where weights are hardly sparse, it is faster."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hedgerow.files import cache_folder, write_json
from hedgerow.runtime.batch import batch_schedule
from hedgerow.runtime.calls import runner
from hedgerow.runtime.machine import Machine
from hedgerow.runtime.memory import huge
from hedgerow.runtime.network import Network
from hedgerow.runtime.schedule import Schedule
from hedgerow.runtime.single import single_schedule
from hedgerow.runtime.steps import Conv

RULE = 0.6
"""From this share of weights in a shared list on, sharing is taken to be faster."""
OPEN = (0.35, 0.85)
"""Between these shares it is measured, when that is allowed."""

_ROUNDS = 5


def scheduled(network: Network, machine: Machine, kind: Literal["batch", "single"], *, measured: bool) -> Schedule:
    """Return the schedule of that kind, each convolution done the way that is faster on this machine.

    Without `measured` it is decided by `RULE` alone. Measurements are kept in the cache folder, by machine, shape
    and share.
    """
    make: Callable[..., Schedule] = batch_schedule if kind == "batch" else single_schedule
    if machine.plain:
        return make(network, machine)
    shares = {i: fill(s, machine.outs) for i, s in enumerate(network.steps) if isinstance(s, Conv)}
    shared = frozenset(i for i, share in shares.items() if share >= RULE)
    unclear = frozenset(i for i, share in shares.items() if OPEN[0] < share < OPEN[1])
    if measured and unclear:
        keys = {i: _key(network, i, machine, f"{kind}, {shares[i]:.1f}") for i in unclear}
        shared = (shared - unclear) | _measured(network, machine, make, keys)
    return make(network, machine, shared)


def fill(conv: Conv, outs: int) -> float:
    """Return the share of weights among the entries of lists that `outs` output channels have in common."""
    taps = conv.taps
    if taps.outputs < outs or conv.groups > 1 or not len(taps.columns):
        return 0.0
    limit = int(taps.columns.max()) + 1
    together = np.unique(taps.rows // outs * limit + taps.columns)
    return len(taps.columns) / (outs * len(together))


def _measured(
    network: Network, machine: Machine, make: Callable[..., Schedule], keys: dict[int, str]
) -> frozenset[int]:
    """Return those of the steps in `keys` that are faster when shared; what is not known yet is timed."""
    file = cache_folder() / "runtime-choices.json"
    known = _read(file)
    unknown = frozenset(i for i, key in keys.items() if key not in known)
    if unknown:
        alone, together = _times(make(network, machine)), _times(make(network, machine, unknown))
        known |= {keys[i]: together[i] < alone[i] for i in unknown}
        try:
            write_json(file, known)
        except OSError as error:
            warnings.warn(
                f"{file}: the measured choices cannot be kept ({error}) and are made again next time; set "
                "HEDGEROW_CACHE to a folder with room",
                stacklevel=2,
            )
    return frozenset(i for i, key in keys.items() if known[key])


def _times(schedule: Schedule) -> dict[int, float]:
    """Return the seconds of each step of the network, the least of several rounds, on images of zeros."""
    network = schedule.network
    ends = (0, network.output, network.output if network.given is None else network.given)
    images, out, given = (np.zeros((schedule.lanes, *network.shapes[end]), np.float32) for end in ends)
    arena, run, table = huge(4 * schedule.floats), runner(), schedule.table()
    frame = np.array([images.ctypes.data, out.ctypes.data, 0, 0, given.ctypes.data], np.int64)
    parts: dict[int, Any] = {
        owner: np.ascontiguousarray(table[[i for i, o in enumerate(schedule.owners) if o == owner]])
        for owner in dict.fromkeys(schedule.owners)
    }
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(_ROUNDS):
        for owner, part in parts.items():
            begin = time.perf_counter()
            run(part, arena.ctypes.data, frame, 0, schedule.lanes, schedule.lanes)
            best[owner] = min(best[owner], time.perf_counter() - begin)
    return best


def _key(network: Network, index: int, machine: Machine, how: str) -> str:
    step = network.steps[index]
    assert isinstance(step, Conv)
    shapes = [list(network.shapes[value]) for value in (step.source, step.target)]
    geometry = (step.kernel, step.stride, step.padding, step.dilation)
    return f"{machine.name}: {how}, {shapes}, {' '.join(map(str, geometry))}"


def _read(file: Path) -> dict[str, bool]:
    """Return the kept choices; none where there is no such file, or a broken one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, bool)} if isinstance(found, dict) else {}
