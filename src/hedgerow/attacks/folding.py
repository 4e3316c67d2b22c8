"""Fewer passes over memory while an attack is made: batch norm inside the convolution before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hedgerow.attacks.known import known
from hedgerow.tracing import undisturbed

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Pair = tuple[_ConvNd, _BatchNorm]
_learnt: WeakKeyDictionary[nn.Module, list[tuple[ref[_ConvNd], ref[_BatchNorm]]]] = WeakKeyDictionary()


@contextmanager
def folding(model: nn.Module, images: Tensor) -> Iterator[int]:
    """Let every attack inside compute as one the convolutions that feed a batch norm and nothing else.

    `images` is `[N, ...]`, N at least 1; the first is run through the model in eval mode, which changes nothing,
    to find those pairs; their number is yielded. A forward pass that decides by values is taken to use its layers
    as it does for that image. Not for evaluation: rounding differs, and attacks there are to be repeatable with
    the layers as they are.
    """
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
    pairs = _pairs(model, images[:1].to(kinds[0] if kinds else images.dtype))
    with known(_learnt, model, [(ref(convolution), ref(norm)) for convolution, norm in pairs]):
        yield len(pairs)


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Compute the pairs that `folding` found as one convolution each inside; parameters are constants there.

    y = (W x + b - mean) * s + beta, s = gamma / sqrt(var + eps), is (s W) x + (b - mean) * s + beta: the same up
    to rounding. For eval mode; a pair whose batch norm is training stays two layers.
    """
    changed: list[nn.Module] = []
    try:
        for convolution, norm in _standing(model):
            _replace(convolution, _as_one(convolution, norm))
            changed.append(convolution)
            _replace(norm, _unchanged)
            changed.append(norm)
        yield
    finally:
        for module in changed:
            del module.forward


def _standing(model: nn.Module) -> Iterator[_Pair]:
    for first, second in _learnt.get(model, ()):
        convolution, norm = first(), second()
        if convolution is not None and norm is not None and not norm.training and _plain(convolution, norm):
            yield convolution, norm


def _plain(convolution: nn.Module, norm: nn.Module) -> bool:
    """Tell whether both compute what their classes say and nobody looks at what lies between them."""
    watched = any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in (convolution, norm)
    )
    known = any(type(convolution).forward is kind.forward for kind in _CONVOLUTIONS)
    return known and type(norm).forward is _BatchNorm.forward and not watched


def _replace(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    module.forward = forward


def _unchanged(x: Tensor) -> Tensor:
    return x


@torch.no_grad()
def _as_one(convolution: _ConvNd, norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("a batch norm without running statistics cannot be folded")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias
    weight = convolution.weight * scale.view(-1, *[1] * (convolution.weight.dim() - 1))
    run = cast(Callable[[Tensor, Tensor, Tensor], Tensor], convolution._conv_forward)
    return lambda x: run(x, weight, bias)


def _pairs(model: nn.Module, one: Tensor) -> list[_Pair]:
    calls: list[tuple[_ConvNd, Tensor]] = []
    norms: list[tuple[_BatchNorm, Tensor]] = []

    def noted(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, _ConvNd):
            calls.append((module, output))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            norms.append((module, inputs[0]))

    hooks = [m.register_forward_hook(noted) for m in model.modules() if isinstance(m, _ConvNd | _BatchNorm)]
    try:
        with undisturbed(model, one.device), torch.no_grad(), _Uses() as uses:
            answer = model(one)
    finally:
        for hook in hooks:
            hook.remove()
    seen = Counter(id(module) for module, _ in [*calls, *norms])
    read = {_place(tensor): norm for norm, tensor in norms}
    handed_out = {_place(leaf) for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)}
    found = []
    for convolution, output in calls:
        place = _place(output)
        norm = read.get(place)
        if norm is None or uses.of[place] != 1 or place in handed_out:
            continue
        if seen[id(convolution)] == seen[id(norm)] == 1 and _plain(convolution, norm):
            found.append((convolution, norm))
    return found


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count how many operations read each piece of memory; all of it is kept, so that no address serves twice."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: Counter[int] = Counter()
        self.kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        self.of.update({_place(tensor) for tensor in given})
        out = func(*args, **(kwargs or {}))
        self.kept.append((given, out))
        return out
