"""What a training step computes: its FLOPs, and its convolutions, each of which can be timed by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_KINDS = {"convolution": "forward", "convolution_backward": "backward"}


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count FLOPs by PyTorch's formulas; its own counter does not work with `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += _flops(func, args, kwargs or {}, out)
        return out

    def clear(self) -> None:
        """Begin at 0 again."""
        self.total = 0.0


@dataclass(frozen=True)
class _Shape:
    """All that the speed of an operation takes from one of its tensors."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def filled(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device).normal_()


@dataclass(frozen=True)
class Convolution:
    """One kind of call: `forward`, or `backward` to the input, the weight or both; with its FLOPs."""

    kind: str
    call: Any
    arguments: tuple[Hashable, ...]
    flops: float

    def __str__(self) -> str:
        """Name the pass, the input's and the weight's size."""
        shapes = [argument for argument in self.arguments if isinstance(argument, _Shape)]
        x, weight = shapes[-2:] if self.kind == "backward" else shapes[:2]
        return f"{self.kind}{self._wanted()}, images {list(x.size)}, weight {list(weight.size)}"

    def _wanted(self) -> str:
        mask = self.arguments[-1]
        if self.kind == "forward" or not isinstance(mask, tuple):
            return ""
        return " to " + " and ".join(
            name for name, asked in zip(("input", "weight", "bias"), mask, strict=True) if asked
        )

    def seconds(self, *, repeats: int = 3) -> float:
        """Return the best time of a call by itself, on random numbers of the same sizes, layouts and dtype."""
        given = [_given(argument) for argument in self.arguments]
        best = float("inf")
        with torch.no_grad():
            for _ in range(repeats + 1):  # the first prepares the kernel, and is the slowest
                start = time.perf_counter()
                self.call(*given)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - start)
        return best


class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note which convolutions run inside, forward and backward, and how often each does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = _KINDS.get(func._overloadpacket.__name__)
        if kind is not None:
            flops = _flops(func, args, kwargs or {}, out)
            self.seen[Convolution(kind, func, tuple(map(_noted, args)), flops)] += 1
        return out

    def clear(self) -> None:
        """Forget what was seen."""
        self.seen.clear()

    def alone(self) -> float:
        """Return the seconds that all of them take when each kind is timed by itself, best of three."""
        return sum(count * convolution.seconds() for convolution, count in self.seen.items())


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    formula = flop_registry.get(func._overloadpacket)
    return 0.0 if formula is None else float(formula(*args, **kwargs, out_val=out))


def _noted(argument: Any) -> Hashable:
    if isinstance(argument, Tensor):
        return _Shape(tuple(argument.shape), argument.stride(), argument.dtype, argument.device)
    return tuple(argument) if isinstance(argument, list | tuple) else argument


def _given(argument: Hashable) -> Any:
    if isinstance(argument, _Shape):
        return argument.filled()
    return list(argument) if isinstance(argument, tuple) else argument
