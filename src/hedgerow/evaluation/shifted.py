"""Accuracy under common corruptions: side information on robust overfitting, apart from the attacks' numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.attacks import crafting
from hedgerow.corruptions import ABSENT, CORRUPTIONS, SEVERITIES, corrupt, corruption_of
from hedgerow.errors import CheckpointError, DataError
from hedgerow.evaluation.judging import judged
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.statistics import measure
from hedgerow.files import fingerprint, read_tensors, write_tensors
from hedgerow.result import AtSeverity, Corrupted, Corruptions, Evaluation

ALL = "all"
_HOW = "unattacked images under {name}, severity {severity} (1903.12261), with the constants of {source}"


def chosen_corruptions(asked: Sequence[str], channels: int) -> tuple[list[str], dict[str, str]]:
    """Return the corruptions to compute for images of so many channels, and those left out of `all`, and why.

    Raises `DataError` for one that was asked for by name and cannot be computed, `UnknownNameError`.
    """
    if ALL not in asked:
        for name in asked:
            if reason := corruption_of(name).refusal(channels):
                raise DataError(f"corruption {name!r} {reason}; leave it out")
        return list(dict.fromkeys(asked)), {}
    refused = {name: reason for name in CORRUPTIONS if (reason := CORRUPTIONS[name].refusal(channels))}
    return [name for name in CORRUPTIONS if name not in refused], {**refused, **ABSENT}


def add_corruptions(
    record: Evaluation,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str],
    protocol: Protocol,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Add to the record of an evaluation the accuracy under each named corruption, at every severity.

    `x` `[N, C, H, W]` in [0,1] and `y` `[N]` are the images and labels of `record.examples`; randomness comes from
    the protocol's seed and an image's place in that list of positions. `names` are as for `chosen_corruptions`.
    With a `folder`, what is finished is kept there. Raises what `corrupt` and `chosen_corruptions` raise.
    """
    chosen, left_out = chosen_corruptions(names, x.shape[1])
    found = []
    with crafting(model) as inner, torch.no_grad():
        judge = judged(inner, x, eot=protocol.eot, draws=protocol.draws, seed=protocol.seed)
        for done, name in enumerate(chosen, start=1):
            path = folder and folder / f"corruption-{name.replace(':', '.')}.safetensors"
            flags = _kept(judge, x, y, name, record.examples, protocol, path)
            levels = [_level(name, severity, flags[severity - 1], x, protocol.seed) for severity in SEVERITIES]
            mean = sum(level.accuracy for level in levels) / len(levels)
            found.append(Corrupted(name=name, family=corruption_of(name).family, accuracy=mean, levels=levels))
            if progress:
                progress(done, len(chosen))
    record.corruptions = summarised(found, left_out)


def summarised(found: Sequence[Corrupted], left_out: dict[str, str]) -> Corruptions:
    """Return the means over the corruptions found, at least one, and over those of each family."""
    families = {
        family: [one.accuracy for one in found if one.family == family]
        for family in dict.fromkeys(one.family for one in found)
    }
    return Corruptions(
        accuracy=sum(one.accuracy for one in found) / len(found),
        families={family: sum(values) / len(values) for family, values in families.items()},
        found=list(found),
        left_out=left_out,
        how="mean accuracy over corruptions and their five severities, each weighing the same; not relative to "
        "another network's errors, and no attack among them",
    )


def _level(name: str, severity: int, flags: Tensor, x: Tensor, seed: int) -> AtSeverity:
    how = _HOW.format(name=name, severity=severity, source=published_with(x))
    return AtSeverity(severity=severity, **measure(flags, how, seed).model_dump())


def published_with(x: Tensor) -> str:
    """Return the data set whose constants hold for images `[N, C, H, W]` of this size."""
    from hedgerow.corruptions.base import BORDER

    return "ImageNet-C" if min(x.shape[2:]) >= BORDER else "CIFAR-10-C"


def _kept(
    judge: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str,
    positions: Sequence[int],
    protocol: Protocol,
    path: Path | None,
) -> Tensor:
    """Return `[5, N]`: whether each image is classified correctly at each severity."""
    if path is None:
        return _right(judge, x, y, name, positions, protocol)
    settings = f"{judge} {name} {corruption_of(name)} {list(positions)} {protocol.seed} {protocol.batch_size}"
    identity = fingerprint([*judge.state_dict().values(), x, y], settings)
    try:
        kept, metadata = read_tensors(path)
        if metadata.get("identity") == identity:
            return kept["right"].bool().to(x.device)
    except CheckpointError:
        pass  # absent or cut short: computed below
    found = _right(judge, x, y, name, positions, protocol)
    write_tensors(path, {"right": found.to(torch.uint8)}, {"identity": identity}, everyone=True)
    return found


def _right(
    judge: nn.Module, x: Tensor, y: Tensor, name: str, positions: Sequence[int], protocol: Protocol
) -> Tensor:
    rows = []
    for severity in SEVERITIES:
        parts = []
        for start in range(0, len(x), protocol.batch_size):
            part = slice(start, start + protocol.batch_size)
            images = corrupt(x[part], name, severity, seed=protocol.seed, positions=positions[part])
            parts.append(judge(images).argmax(1) == y[part])
        rows.append(torch.cat(parts))
    return torch.stack(rows)
