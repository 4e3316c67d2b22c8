"""Certifying many images: what is kept already, what is this process's part, and the network in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.attacks import check_images, crafting
from hedgerow.certify.base import Certifier, Evidence, Proof
from hedgerow.certify.ledger import Kept, Ledger, Shard
from hedgerow.certify.statistics import check_draws
from hedgerow.errors import CheckpointError, DataError
from hedgerow.files import fingerprint

SCHEMA = 1  # of kept evidence: raised when the same settings come to mean other evidence


def identify(model: nn.Module, certifier: Certifier, method: str, device: torch.device) -> dict[str, Any]:
    """Return all that the evidence of `gather` depends on beside the images: what heads a ledger of it."""
    network = fingerprint(model.state_dict().values(), f"{model} {list(model.state_dict())}")
    return {"schema": SCHEMA, "method": method, "device": device.type, "network": network, **certifier.settings()}


def certify(
    model: nn.Module,
    x: Tensor,
    certifier: Certifier,
    *,
    positions: Sequence[int] | None = None,
    batch_size: int = 500,
) -> list[Proof]:
    """Return what is proved of each of `[N, ...]` images in [0,1]; see `gather` for the rest."""
    found = gather(model, x, certifier, positions=positions, batch_size=batch_size)
    return [certifier.conclude(evidence) for evidence in found.values()]


def gather(
    model: nn.Module,
    x: Tensor,
    certifier: Certifier,
    *,
    positions: Sequence[int] | None = None,
    batch_size: int = 500,
    ledger: Ledger | None = None,
    shard: Shard | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[int, Evidence]:
    """Return the evidence on `[N, ...]` images by their `positions` (0 to N-1 unless given), as far as known.

    The network is used in eval mode and float32, with its weights as constants, and left as it was. With a
    `ledger` evidence is kept as it is found, and what all shards have kept is returned and not computed again.
    `progress(done, total)` counts the images of this shard, first those
    kept already; when `stop()` is true after an image, or a few that
    share their forwards, the rest is left for another call. Groups are cut from the whole list, whatever is kept
    and whoever computes them: neither a crash nor the number of shards changes a byte of the evidence.
    Raises `DataError` for pixels outside [0,1], no images and wrong positions, `CheckpointError` for evidence on
    other images, `CertificationError` for a batch size below 1, and what the certifier raises.
    """
    check_draws("batch_size", batch_size)
    places = _checked_places(x, positions)
    x = x.float()
    shard = shard or Shard()
    known = _known(ledger, x, places)
    with crafting(model) as inner, torch.no_grad():
        size = certifier.together(inner, batch_size)
        groups = [range(i, min(i + size, len(x))) for i in range(0, len(x), size)]
        mine = groups[shard.number - 1 :: shard.count]
        todo = [group for group in mine if any(places[i] not in known for i in group)]
        total = sum(map(len, mine))
        done = total - sum(map(len, todo))
        if todo:
            certifier.check(inner, x)
        if progress:
            progress(done, total)
        for group in todo:
            images = x[group.start : group.stop]
            evidence = certifier.examine(inner, images, [places[i] for i in group], batch_size)
            found = {places[i]: Kept(fingerprint([x[i]]), e) for i, e in zip(group, evidence, strict=True)}
            fresh = {place: kept for place, kept in found.items() if place not in known}
            if ledger:
                ledger.add(fresh)
            known.update({place: kept.evidence for place, kept in fresh.items()})
            done += len(group)
            if progress:
                progress(done, total)
            if stop and stop():
                break
    if ledger:
        known = _known(ledger, x, places)
    return {place: known[place] for place in places if place in known}


def _checked_places(x: Tensor, positions: Sequence[int] | None) -> list[int]:
    check_images(x)
    if len(x) == 0:
        raise DataError("there is no image to certify")
    places = list(range(len(x))) if positions is None else [int(p) for p in positions]
    if len(places) != len(x) or len(set(places)) != len(places) or min(places) < 0:
        raise DataError(f"{len(places)} positions for {len(x)} images; give every image one of its own, 0 or more")
    return places


def _known(ledger: Ledger | None, x: Tensor, places: list[int]) -> dict[int, Evidence]:
    if ledger is None:
        return {}
    kept = ledger.read()
    asked = {place: image for place, image in zip(places, x.cpu(), strict=True) if place in kept}
    for place, image in asked.items():
        if fingerprint([image]) != kept[place].image:
            raise CheckpointError(
                f"{ledger.folder}: has evidence on another image at position {place}: the data have changed. "
                "Give another --out, or delete that folder"
            )
    return {place: kept[place].evidence for place in asked}
