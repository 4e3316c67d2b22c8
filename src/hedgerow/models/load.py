"""From a name, or `package.module:function`, to a checked module on [0,1] pixels."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hedgerow.errors import HedgerowError, ModelError
from hedgerow.models import MODELS, Builder
from hedgerow.models.check import check_model
from hedgerow.models.normalize import Normalize
from hedgerow.registry import UnknownNameError, load_attribute, nearest


def build_model(  # noqa: PLR0913
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    factory: str | None = None,
    normalize: bool | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a reference network by name, or the user's module by `factory`, from `seed`, and check it.

    The module maps pixels in [0,1], `[N, channels, H, W]` with `image_size = (H, W)`, to logits
    `[N, num_classes]`. With `normalize` (unless said: yes for reference networks, no for a factory) it is a
    Sequential of `normalize`, which holds `mean` and `std` per channel, and `network`.

    `factory` is `package.module:function`; a `name` of that form means the same. It is called with `options`
    and with those of `num_classes`, `channels` and `image_size` that it names as parameters (`options` win).
    Equal seeds give equal weights; the global generators of torch are left as they were.

    Raises `UnknownNameError` when no reference network has that name, `ModelError` when the factory cannot be
    imported or called, raises, or returns no module, when an option is unknown, when the numbers make no
    sense, and for everything `check_model` finds.
    """
    if factory is None and ":" in name:
        factory = name
    wrapped = factory is None if normalize is None else normalize
    where = f"model {name!r}" if factory is None else f"model.factory {factory!r}"
    shape = _checked_shape(num_classes, channels, image_size, where)
    builder = MODELS[name] if factory is None else _load_factory(factory)
    arguments = _arguments(builder, shape, dict(options or {}), where=where, own=factory is not None)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reseed every accelerator too.
        torch.default_generator.manual_seed(seed)
        network = _call(builder, arguments, where)
        if wrapped:
            network = _normalized(network, mean, std, channels)
        check_model(network, **shape, where=where)
    return network


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _checked_shape(num_classes: int, channels: int, image_size: Sequence[int], where: str) -> dict[str, Any]:
    for key, value in (("num_classes", num_classes), ("channels", channels)):
        if not _is_count(value):
            raise ModelError(f"{where}: {key} must be an integer of at least 1, not {value!r}")
    if len(image_size) != 2 or not all(map(_is_count, image_size)):
        raise ModelError(f"{where}: image_size must be (height, width) in whole pixels, not {image_size!r}")
    return {"num_classes": num_classes, "channels": channels, "image_size": tuple(image_size)}


def _load_factory(path: str) -> Builder:
    where = f"model.factory {path!r}"
    if ":" not in path:
        raise ModelError(f"{where}: write package.module:function, with a colon before the function")
    try:
        found = load_attribute(path, kind="model.factory")
    except UnknownNameError as error:
        raise ModelError(str(error)) from error
    if isinstance(found, nn.Module) or not callable(found):
        raise ModelError(
            f"{where}: is a {type(found).__name__}, not a function; give a function or class that returns a "
            "new module"
        )
    return found  # type: ignore[no-any-return]


def _arguments(
    builder: Builder, shape: dict[str, Any], options: dict[str, Any], *, where: str, own: bool
) -> dict[str, Any]:
    """Return the keyword arguments for `builder`, refusing options that it does not name."""
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature: it gets what the user wrote
        return options
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [n for n in named if own or n not in shape]
    unknown = [n for n in options if n not in allowed]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        listed = "; ".join(f"no option {n!r}{nearest(str(n), allowed).rstrip('.')}" for n in unknown)
        raise ModelError(f"{where}: {listed.rstrip('?')}. Allowed: {', '.join(allowed) or 'none'}")
    return {key: value for key, value in shape.items() if key in named} | options


def _call(builder: Builder, arguments: dict[str, Any], where: str) -> nn.Module:
    try:
        network = builder(**arguments)
    except HedgerowError:
        raise
    except Exception as error:
        raise ModelError(
            f"{where}: called with {', '.join(arguments) or 'no arguments'}, it raised "
            f"{type(error).__name__}: {error}. Put what it needs under model.options"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{where}: returned a {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _normalized(network: nn.Module, mean: Sequence[float], std: Sequence[float], channels: int) -> nn.Module:
    layer = Normalize(mean, std)
    if len(mean) not in (1, channels):
        raise ModelError(
            f"normalisation has {len(mean)} means for images of {channels} channels; give one per channel, "
            "or one for all"
        )
    return nn.Sequential(OrderedDict(normalize=layer, network=network))
