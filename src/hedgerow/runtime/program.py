"""A network ready to run: images in, logits out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgerow.errors import DataError, ModelError
from hedgerow.runtime.machine import Machine, detect
from hedgerow.runtime.network import Network, dense_macs, row_length
from hedgerow.runtime.steps import Conv, Floats

Kind = Literal["batch", "single"]
Images = TypeVar("Images", Floats, Tensor)

_WORTH = 0.65  # of a group must be there: fewer images are faster one by one


class Engine:
    """One schedule with the arenas that its threads work in."""

    def __init__(self, network: Network, machine: Machine, kind: Kind, *, measured: bool) -> None:
        # Here, and not above: Numba is loaded when something is to be run.
        from hedgerow.runtime.calls import runner
        from hedgerow.runtime.choice import scheduled

        self.schedule = scheduled(network, machine, kind, measured=measured)
        self._table, self._run = self.schedule.table(), runner()
        self._arenas: deque[NDArray[np.uint8]] = deque()

    def run(self, images: Floats, output: Floats, first: int, last: int, given: Floats | None = None) -> None:
        """Compute the output of the images from `first` to `last`, and of what is `given` beside; threads may."""
        from hedgerow.runtime.memory import huge

        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = huge(4 * self.schedule.floats)
        beside = 0 if given is None else given.ctypes.data
        frame = np.array([images.ctypes.data, output.ctypes.data, 0, 0, beside], np.int64)
        self._run(self._table, arena.ctypes.data, frame, first, last, self.schedule.lanes)
        self._arenas.append(arena)


class Program:
    """A network that runs on this machine's processor, from its non-zero weights alone, in float32.

    Images are taken in groups of as many as a vector has numbers; what is left over, and a single image, is
    computed one by one. With `threads` above 1 groups are computed beside each other. Where several output
    channels may share their inputs (weights that are hardly sparse), two kernels are timed at load and the faster
    is remembered for the machine and the shape; `deterministic` decides by a rule instead, so that every process
    computes the same bits. An image's last bits also depend on whether it is computed in a group or alone.

    Kernels are compiled when they are first needed, and kept on disk: `compile_seconds` says what that took.

    Raises `ModelError` unless `threads` is a whole number of at least 1, and `MissingPackageError` without Numba.
    """

    def __init__(
        self, network: Network, *, threads: int = 1, deterministic: bool = False, machine: Machine | None = None
    ) -> None:
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise ModelError(f"threads is {threads!r}; give a whole number of at least 1")
        self.network, self.threads, self.deterministic = network, threads, deterministic
        self.machine = detect() if machine is None else machine
        self.compile_seconds = 0.0
        self._engines: dict[Kind, Engine] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, "hedgerow-runtime") if threads > 1 else None

    def predict(self, images: Images) -> Images:
        """Return the logits `[N, classes]` of float32 `images` `[N, C, H, W]`, as an array or tensor like them.

        Raises `DataError` for an empty batch, another type, another shape, or a tensor that is not on the CPU.
        """
        if isinstance(images, Tensor):
            if images.device.type != "cpu":
                raise DataError(f"images are on {images.device}; the sparse runtime takes them on the cpu")
            if images.dtype != torch.float32:
                raise DataError(_WRONG_TYPE.format(str(images.dtype).removeprefix("torch.")))
            return torch.from_numpy(self._predict(images.detach().numpy()))
        return self._predict(images)

    def __call__(self, images: Images) -> Images:
        """Return `predict(images)`: a program can stand where a model is called."""
        return self.predict(images)

    def prepare(self, images: int) -> Program:
        """Compile now what batches of so many images need; return the program."""
        for kind, _, _ in self._jobs(images):
            self._engine(kind)
        return self

    def _predict(self, images: Floats) -> Floats:
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            raise DataError(_WRONG_TYPE.format(getattr(images, "dtype", type(images).__name__)))
        shape, expected = list(images.shape), list(self.network.shapes[0])
        if len(shape) != 4 or shape[1:] != expected or shape[0] < 1:
            raise DataError(
                f"images have the shape {shape}; this program takes [N, {', '.join(map(str, expected))}] with at "
                "least one image"
            )
        plain = np.ascontiguousarray(images)
        logits = np.empty((shape[0], self.network.shapes[self.network.output][0]), np.float32)
        jobs = [self._job(*job, plain, logits) for job in self._jobs(shape[0])]
        if self._pool is None or len(jobs) == 1:
            for job in jobs:
                job()
        else:
            for done in [self._pool.submit(job) for job in jobs]:
                done.result()
        return logits

    def _job(self, kind: Kind, first: int, last: int, images: Floats, logits: Floats) -> Callable[[], None]:
        engine = self._engine(kind)
        return lambda: engine.run(images, logits, first, last)

    def _jobs(self, count: int) -> list[tuple[Kind, int, int]]:
        """Return what is run how, from which image to which."""
        lanes = self.machine.lanes
        groups = count // lanes + (count % lanes > _WORTH * lanes)
        found: list[tuple[Kind, int, int]] = []
        for part in range(groups if self.threads > 1 else min(groups, 1)):
            first, last = (part, part + 1) if self.threads > 1 else (0, groups)
            found.append(("batch", first * lanes, min(count, last * lanes)))
        left = range(groups * lanes, count)
        singles = min(self.threads, len(left))
        for part in range(singles):
            first, last = (left.start + len(left) * p // singles for p in (part, part + 1))
            found.append(("single", first, last))
        return found

    def _engine(self, kind: Kind) -> Engine:
        with self._lock:
            if kind not in self._engines:
                begin = time.perf_counter()
                measured = not self.deterministic
                self._engines[kind] = Engine(self.network, self.machine, kind, measured=measured)
                self.compile_seconds += time.perf_counter() - begin
            return self._engines[kind]

    def __str__(self) -> str:
        convs = [step for step in self.network.steps if isinstance(step, Conv)]
        kept = sum(len(conv.taps.values) for conv in convs)
        total = sum(conv.taps.outputs * row_length(conv, self.network.shapes) for conv in convs)
        macs, dense = self.network.macs, dense_macs(self.network)
        return (
            f"{len(self.network.steps)} steps, {kept:,} of {total:,} weights, {macs:,} of {dense:,} "
            f"multiplications per image; {self.machine.name}, threads: {self.threads}, compiled and prepared in "
            f"{self.compile_seconds:.1f} s"
        )


_WRONG_TYPE = "images are {}; the sparse runtime takes float32 pixels, for example images.float()"
