"""One batch of an evaluation: attacked once, kept in a file, and asked again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hedgerow.attacks import Scene, autoattack, pgd
from hedgerow.errors import CheckpointError
from hedgerow.evaluation.protocol import Protocol
from hedgerow.files import fingerprint, read_tensors, write_tensors
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged
from hedgerow.threat import ThreatModel


@dataclass(frozen=True)
class Job:
    """What is the same for every batch."""

    threat: ThreatModel
    classes: int
    protocol: Protocol
    tell: Callable[[str], None] | None = field(default=None, repr=False)
    judge: Averaged | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        # Part of the identity of batches kept so far, which this spelling keeps valid.
        return f"_Job(threat={self.threat!r}, classes={self.classes!r}, protocol={self.protocol!r})"

    def scene(self, seed: int) -> Scene:
        """Return what the attacks are told."""
        return Scene(
            threat=self.threat,
            num_classes=self.classes,
            seed=seed,
            batch_size=self.protocol.batch_size,
            stochastic=self.judge is not None,
        )

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order in which they run."""
        usual = {"pgd": self.protocol.pgd_steps > 0, "autoattack": self.protocol.autoattack}
        return (*(name for name, runs in usual.items() if runs), *self.protocol.attacks)


def kept_chunk(
    model: nn.Module, x: Tensor, y: Tensor, job: Job, number: int, path: Path | None
) -> dict[str, Tensor]:
    """Return what `attack_chunk` finds, from the file `path` where it holds just that; it is written otherwise."""
    if path is None:
        return attack_chunk(model, x, y, job, number)
    identity = _identity(model, x, y, job)
    try:
        kept, metadata = read_tensors(path)
        if metadata.get("identity") == identity:
            return {name: tensor.to(x.device) for name, tensor in kept.items()}
    except CheckpointError:
        pass  # absent or cut short: computed below
    found = attack_chunk(model, x, y, job, number)
    write_tensors(path, found, {"identity": identity, "threat": str(job.threat)}, everyone=True)
    return found


def is_kept(model: nn.Module, x: Tensor, y: Tensor, job: Job, path: Path) -> bool:
    """Return whether the file `path` holds what `attack_chunk` finds; its tensors are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("identity") == _identity(model, x, y, job)
    except (SafetensorError, OSError):
        return False  # absent or cut short


def _identity(model: nn.Module, x: Tensor, y: Tensor, job: Job) -> str:
    further = f" {dict(job.protocol.attacks)}" if job.protocol.attacks else ""
    return fingerprint([*model.state_dict().values(), x, y], f"{job} {model}{further}")


def attack_chunk(model: nn.Module, x: Tensor, y: Tensor, job: Job, number: int) -> dict[str, Tensor]:
    """Return `clean` predictions `[n]` and, of each attack, its images and the predictions on them; `seconds`."""
    protocol, threat = job.protocol, job.threat
    seed = derive(protocol.seed, "evaluate", number)
    clean = model(x).argmax(1)
    right = (clean == y).nonzero().flatten()

    def by_pgd() -> Tensor:
        return pgd(
            model,
            x[right],
            y[right],
            threat=threat,
            steps=protocol.pgd_steps,
            restarts=protocol.pgd_restarts,
            seed=seed,
            batch_size=protocol.batch_size,
        )

    def by_autoattack() -> Tensor:
        return autoattack(
            model,
            x[right],
            y[right],
            threat=threat,
            num_classes=job.classes,
            seed=seed,
            batch_size=protocol.batch_size,
            tell=job.tell,
        )

    found = {"clean": clean}
    seconds = []
    attacks: dict[str, Callable[[], Tensor]] = {"pgd": by_pgd, "autoattack": by_autoattack}
    for name, one in protocol.attacks.items():
        attacks[name] = functools.partial(one, model, x[right], y[right], job.scene(seed))
    for name in job.attacks:
        before = time.monotonic()
        images = x.clone()
        if len(right):
            images[right] = attacks[name]()
        # The same batch as in the clean forward, so that an unchanged image gets the same answer.
        found[f"{name}_images"], found[f"{name}_predictions"] = images, model(images).argmax(1)
        seconds.append(time.monotonic() - before)
    return {**found, "seconds": torch.tensor([seconds], dtype=torch.float64, device=x.device)}


def changed_answers(
    model: nn.Module, x: Tensor, part: dict[str, Tensor], job: Job, path: Path | None
) -> tuple[int, int]:
    """Return how many clean and how many attacked images of a batch `x` get another class when asked again.

    The attacked ones are read back from `path` where there is one; an image that is another there counts too.
    """
    kept = {name: tensor.to(x.device) for name, tensor in read_tensors(path)[0].items()} if path else part
    clean = int((model(x).argmax(1) != part["clean"]).sum())
    changed = 0
    for name in job.attacks:
        images, predictions = kept[f"{name}_images"], part[f"{name}_predictions"]
        other = (images != part[f"{name}_images"]).flatten(1).any(1) | (model(images).argmax(1) != predictions)
        changed += int(other.sum())
    return clean, changed
