"""Less memory for a step: parts of the network are computed again in the backward pass and not kept until then.

Gradient checkpointing (Chen et al., 1604.06174). Crafting keeps little, since weights are constants there; what
fills memory is the one forward pass of a step whose gradients go to the weights. Computing it twice is a small
share of an adversarial step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hedgerow.data import AnySplit
from hedgerow.errors import ModelError
from hedgerow.memory import return_freed_memory
from hedgerow.objectives import Objective
from hedgerow.tracing import plain_weights, undisturbed

_PARTS = range(2, 33)  # of a chain of layers without modules of its own


@dataclass(eq=False)
class _Part:
    """A module, what one call of it keeps for the backward pass in bytes, and how much of that it was handed."""

    module: nn.Module
    kept: int = 0
    given: int = 0
    calls: int = 0
    parts: list[_Part] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it can be computed again as one: called once, and with parts that are not kept then."""
        return self.calls == 1 and bool(self.parts)


@dataclass(frozen=True)
class Stage:
    """What is computed again as one: `module`, or of an `nn.Sequential` its `runs` of children, each as one."""

    module: nn.Module
    runs: tuple[range, ...] = ()


def stages_for(model: nn.Module, split: AnySplit, objective: Objective, device: torch.device) -> list[Stage]:
    """Return `stages_of` the model for training on `split`; freed memory of a CPU goes back from now on.

    Raises `ModelError` for an objective that perturbs the weights.
    """
    if getattr(objective, "awp", 0.0):
        raise ModelError(
            "recompute: the weights that awp perturbs are themselves again when the backward pass computes the "
            "network anew; leave out recompute or awp"
        )
    if device.type == "cpu":
        return_freed_memory()
    return stages_of(model, split.pixels(slice(0, 1)).to(device))


def stages_of(model: nn.Module, images: Tensor) -> list[Stage]:
    """Return the stages of `model` with which the least is held at once; none if it has no parts to hold less of.

    `images` is `[N, ...]`, N at least 1; the first is run through the model in eval mode to see what every module
    keeps, which changes nothing. Held at once is what lies outside all stages, what each stage is given, and the
    most that one stage keeps.
    """
    root = _measured(model, images[:1])
    found: list[Stage] = []
    least = root.kept
    for limit in sorted({*(part.kept for part in _all(root)), *(root.kept // parts for parts in _PARTS)}):
        stages: list[Stage] = []
        outside, largest = _cut(root, limit, stages)
        if outside + largest < least:
            found, least = stages, outside + largest
    return found


@contextmanager
def recomputing(model: nn.Module, stages: list[Stage]) -> Iterator[None]:
    """Let `stages` of `model` keep only what they are given wherever gradients go to their weights.

    Gradients are those without it; running statistics are updated once, and random numbers repeat.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(vars(stage.module), vars(stage.module).get("forward")) for stage in stages]
    try:
        for stage in stages:
            call = _by_runs if stage.runs else _whole
            vars(stage.module)["forward"] = partial(call, stage, stage.module.forward, norms)
        yield
    finally:
        for own, forward in before:
            own.pop("forward", None)
            if forward is not None:  # somebody's who was here first
                own["forward"] = forward


def _whole(stage: Stage, forward: Callable[..., Any], norms: list[_BatchNorm], *args: Any, **options: Any) -> Any:
    return _again(forward, norms, *args, **options) if _learns([stage.module]) else forward(*args, **options)


def _by_runs(stage: Stage, forward: Callable[..., Any], norms: list[_BatchNorm], x: Any) -> Any:
    children = list(stage.module.children())
    if not _learns(children):
        return forward(x)
    done = 0
    for run in stage.runs:
        x = _after(children[done : run.start], x)
        x = _again(partial(_after, children[run.start : run.stop]), norms, x)
        done = run.stop
    return _after(children[done:], x)


def _after(modules: list[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _learns(modules: list[nn.Module]) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for module in modules for p in module.parameters())


def _again(call: Callable[..., Any], norms: list[_BatchNorm], *args: Any, **options: Any) -> Any:
    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _aside(norms)

    return checkpoint(call, *args, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _aside(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let the norms that are training update copies of their running statistics: they have seen this batch."""
    before = [(norm, dict(norm._buffers)) for norm in norms if norm.training]
    try:
        for norm, buffers in before:
            norm._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for norm, buffers in before:
            norm._buffers.update(buffers)


def _all(part: _Part) -> Iterator[_Part]:
    yield part
    for inner in part.parts:
        yield from _all(inner)


def _cut(part: _Part, limit: int, stages: list[Stage]) -> tuple[int, int]:
    """Cut `part` into stages that keep at most `limit`; return what is held outside them and their largest."""
    if part.kept <= limit and part.whole:
        stages.append(Stage(part.module))
        return part.given, part.kept
    if part.calls != 1:  # whose call it is that a part belongs to cannot be told
        return part.kept, 0
    outside, largest = part.kept - sum(inner.kept for inner in part.parts), 0
    runs: list[range] = []
    for start, stop in _runs(part, limit):
        inner = part.parts[start:stop]
        if len(inner) > 1:
            runs.append(range(start, stop))
            outside, largest = outside + inner[0].given, max(largest, sum(each.kept for each in inner))
        else:
            more, most = _cut(inner[0], limit, stages)
            outside, largest = outside + more, max(largest, most)
    if runs:
        stages.append(Stage(part.module, tuple(runs)))
    return outside, largest


def _runs(part: _Part, limit: int) -> Iterator[tuple[int, int]]:
    """Yield where runs of parts start and stop: of a chain as long as they keep at most `limit`, else of one."""
    ends, kept = [0], 0
    module = part.module
    chained = type(module).forward is nn.Sequential.forward and len(part.parts) == len(module)  # type: ignore[arg-type]
    for number, inner in enumerate(part.parts):
        if number > ends[-1] and not (chained and inner.calls == 1 and kept + inner.kept <= limit):
            ends.append(number)
            kept = 0
        kept += inner.kept
    ends.append(len(part.parts))
    yield from ((a, b) for a, b in itertools.pairwise(ends) if b > a)


def _measured(model: nn.Module, one: Tensor) -> _Part:
    parts: dict[nn.Module, _Part] = {}
    under: list[_Part] = []
    seen: dict[int, Tensor] = {}  # kept alive, so that no address serves twice

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        part = parts.setdefault(module, _Part(module))
        part.calls += 1
        part.given += sum(_bytes(x) for x in inputs if isinstance(x, Tensor))
        if under and part not in under[-1].parts:
            under[-1].parts.append(part)
        under.append(part)

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        under.pop()

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in seen and place not in weights:
            seen[place] = tensor
            for part in under:
                part.kept += _bytes(tensor)
        return tensor

    with undisturbed(model, one.device), plain_weights(model), torch.enable_grad():
        weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
        hooks = [m.register_forward_pre_hook(enter) for m in model.modules()]
        hooks += [m.register_forward_hook(leave) for m in model.modules()]
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model(one)
        finally:
            for hook in hooks:
                hook.remove()
    return parts[model]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
