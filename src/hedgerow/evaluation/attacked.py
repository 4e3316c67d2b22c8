"""Accuracy under attack: every verdict comes from our own forward on a stored adversarial image."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.attacks import Scene, autoattack, check_images, crafting, pgd
from hedgerow.attacks.autoattack import describe
from hedgerow.errors import CheckpointError, DataError
from hedgerow.evaluation.judging import describe_judge, judged
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.statistics import wilson
from hedgerow.files import fingerprint, read_tensors, write_tensors
from hedgerow.result import Evaluation, Measure, Verdict
from hedgerow.seeds import derive
from hedgerow.stochastic import Averaged, averaged
from hedgerow.team import team
from hedgerow.threat import ThreatModel

_BALL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Evaluated:
    """The record, and the images behind it: `[N, ...]` strongest adversarial example per image."""

    record: Evaluation
    adversarial: Tensor
    clean_predictions: Tensor
    adversarial_predictions: Tensor


@dataclass(frozen=True)
class _Job:
    """What is the same for every batch."""

    threat: ThreatModel
    classes: int
    protocol: Protocol
    tell: Callable[[str], None] | None = field(default=None, repr=False)
    judge: Averaged | None = field(default=None, repr=False)

    def scene(self, seed: int) -> Scene:
        """Return what the attacks are told."""
        return Scene(
            threat=self.threat,
            num_classes=self.classes,
            seed=seed,
            batch_size=self.protocol.batch_size,
            stochastic=self.judge is not None,
        )


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    protocol: Protocol | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Evaluated:
    """Return accuracy on clean images, under PGD, AutoAttack, further attacks, and the worst of them per example.

    `x` is `[N, C, H, W]` float in [0,1], `y` `[N]` int64; work is in float32 and `eval` mode, and leaves the
    model as it was. Each attack attacks every image that is classified correctly. With a `folder`, finished
    batches are kept there and not computed again for the same model, images and protocol, and several processes
    share them out. `progress(done, total)` is told of each, and `tell` of AutoAttack's own progress. Raises
    `DataError` for bad pixels or labels, no images, or an attack that is not made for the threat's norm.

    A model that is stochastic, says so or gives itself away by answers that vary, is judged by the mean of seeded
    draws and attacked with gradients averaged over others (`Averaged`; one that is given keeps its own settings).
    """
    protocol = protocol or Protocol()
    check_images(x)
    x = x.float()
    if len(x) == 0:
        raise DataError("there is no image to evaluate on")
    for name, attack in protocol.attacks.items():
        if threat.norm not in attack.norms:
            raise DataError(f"attack {name!r} is for {' and '.join(attack.norms)} threats; this one is {threat}")
    size = protocol.batch_size
    with crafting(model) as inner, torch.no_grad():
        judge = judged(inner, x, eot=protocol.eot, draws=protocol.draws, seed=protocol.seed)
        averaged_one = judge if isinstance(judge, Averaged) else None
        job = _Job(threat, judge(x[:1]).shape[1], protocol, tell, averaged_one)
        check_images(x, y, job.classes)

        def part(number: int) -> dict[str, Tensor]:
            path = folder and folder / f"chunk-{number:04d}.safetensors"
            chunk = slice(number * size, (number + 1) * size)
            found = _kept_chunk(judge, x[chunk], y[chunk], job, number, path)
            if progress:
                progress(min(chunk.stop, len(x)), len(x))
            return found

        numbers, members = range(-(-len(x) // size)), team()
        if folder is not None and members.world > 1:  # each process its batches, then all read all of them
            for number in numbers[members.rank :: members.world]:
                part(number)
            members.wait()
        parts = [part(number) for number in numbers]
    merged = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return _judge(merged, x, y, job)


def _kept_chunk(
    model: nn.Module, x: Tensor, y: Tensor, job: _Job, number: int, path: Path | None
) -> dict[str, Tensor]:
    if path is None:
        return _attack_chunk(model, x, y, job, number)
    further = f" {dict(job.protocol.attacks)}" if job.protocol.attacks else ""
    identity = fingerprint([*model.state_dict().values(), x, y], f"{job} {model}{further}")
    try:
        kept, metadata = read_tensors(path)
        if metadata.get("identity") == identity:
            return {name: tensor.to(x.device) for name, tensor in kept.items()}
    except CheckpointError:
        pass  # absent or cut short: computed below
    found = _attack_chunk(model, x, y, job, number)
    write_tensors(path, found, {"identity": identity, "threat": str(job.threat)}, everyone=True)
    return found


def _attack_chunk(model: nn.Module, x: Tensor, y: Tensor, job: _Job, number: int) -> dict[str, Tensor]:
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
    attacks = {"pgd": by_pgd, **({"autoattack": by_autoattack} if protocol.autoattack else {})}
    for name, one in protocol.attacks.items():
        attacks[name] = functools.partial(one, model, x[right], y[right], job.scene(seed))
    for name, attack in attacks.items():
        before = time.monotonic()
        images = x.clone()
        if len(right):
            images[right] = attack()
        # The same batch as in the clean forward, so that an unchanged image gets the same answer.
        found[f"{name}_images"], found[f"{name}_predictions"] = images, model(images).argmax(1)
        seconds.append(time.monotonic() - before)
    return {**found, "seconds": torch.tensor([seconds], dtype=torch.float64, device=x.device)}


def _judge(found: dict[str, Tensor], x: Tensor, y: Tensor, job: _Job) -> Evaluated:
    names = [name for name in ("pgd", "autoattack", *job.protocol.attacks) if f"{name}_images" in found]
    standing = {"clean": found["clean"] == y}
    for name in names:
        standing[name] = standing["clean"] & (found[f"{name}_predictions"] == y)
    standing["worst_case"] = torch.stack(list(standing.values())).all(0)
    seconds = dict(zip(names, found["seconds"].sum(0).tolist(), strict=True))
    measures = {
        name: measure(flags, _how(name, job), job.protocol.seed, seconds.get(name, 0.0))
        for name, flags in standing.items()
    }
    images, predictions = x.clone(), found["clean"].clone()
    for name in names:
        broken = (standing["clean"] & ~standing[name]).nonzero().flatten()
        images[broken] = found[f"{name}_images"][broken]
        predictions[broken] = found[f"{name}_predictions"][broken]
    record = Evaluation(
        split="given",
        threat=str(job.threat),
        examples=list(range(len(y))),
        measures=measures,
        verdicts=[verdict({k: bool(v[i]) for k, v in standing.items()}) for i in range(len(y))],
        checks={
            **_checks([found[f"{name}_images"] for name in names], x, measures, job.threat),
            "clean predictions are of more than one class": more_than_one_class(found["clean"], y),
        },
    )
    return Evaluated(record, images, found["clean"], predictions)


def _checks(
    attacked: list[Tensor], x: Tensor, measures: dict[str, Measure], threat: ThreatModel
) -> dict[str, bool]:
    limit = float(threat.eps) + _BALL_TOLERANCE
    checks = {
        "adversarial images lie in the ball and in [0,1]": all(
            bool((threat.distance(images, x) <= limit).all() and images.min() >= 0 and images.max() <= 1)
            for images in attacked
        ),
        "attacked accuracy is not above clean accuracy": all(
            m.correct <= measures["clean"].correct for m in measures.values()
        ),
    }
    if "autoattack" in measures:
        checks["AutoAttack is not weaker than PGD"] = measures["autoattack"].correct <= measures["pgd"].correct
    return checks


def more_than_one_class(predictions: Tensor, y: Tensor) -> bool:
    """Return whether `[N]` predictions vary, where the labels do: a constant answer cannot be attacked."""
    return len(torch.unique(y)) < 2 or len(torch.unique(predictions)) > 1


def measure(correct: Tensor, how: str, seed: int, seconds: float = 0.0) -> Measure:
    """Return the record of an accuracy from `[N]` boolean flags."""
    count, n = int(correct.sum()), len(correct)
    low, high = wilson(count, n)
    return Measure(
        correct=count, n=n, accuracy=count / max(n, 1), low=low, high=high, how=how, seed=seed, seconds=seconds
    )


def verdict(standing: dict[str, bool]) -> Verdict:
    """Return the word for one example: what breaks it first, of clean, PGD, AutoAttack, then further attacks."""
    if not standing["clean"]:
        return "misclassified"
    breakers = [name for name, stands in standing.items() if name not in ("clean", "worst_case") and not stands]
    return f"broken by {breakers[0]}" if breakers else "robust"


def _how(name: str, job: _Job) -> str:
    protocol, threat = job.protocol, job.threat
    steps = f"PGD-{protocol.pgd_steps} on cross-entropy, step eps/4, {protocol.pgd_restarts} random restarts"
    if job.judge is not None:
        steps += f", EOT {job.judge.eot}"
    others = "".join(f", {other}" for other in protocol.attacks)
    run = f" (PGD{', AutoAttack' if protocol.autoattack else ''}{others})" if others else ""
    scene = job.scene(protocol.seed)
    attack = {
        "clean": "unchanged images",
        "pgd": f"{steps}, {threat}",
        "autoattack": f"{describe(job.classes, stochastic=job.judge is not None)}, {threat}",
        "worst_case": f"correct under every attack run{run}, {threat}",
        **{other: f"{one.describe(scene)}, {threat}" for other, one in protocol.attacks.items()},
    }[name]
    return attack if job.judge is None else f"{attack}; {describe_judge(job.judge)}"


def quick_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel, steps: int = 10, seed: int = 0
) -> dict[str, float]:
    """Return `clean` and `robust` accuracy (PGD, one restart), 0 to 1: the yardstick of model selection.

    A model that says that it is stochastic is attacked and judged by single draws from `seed`.
    """
    with crafting(model) as inner, torch.no_grad():
        judge = averaged(inner, seed=seed)
        clean = torch.cat([judge(part).argmax(1) for part in torch.split(x, 500)]) == y
        robust = 0
        if clean.any():  # not every model takes an empty batch
            found = pgd(judge, x[clean], y[clean], threat=threat, steps=steps, restarts=1, seed=seed)
            kept = torch.cat([judge(part).argmax(1) for part in torch.split(found, 500)]) == y[clean]
            robust = int(kept.sum())
    return {"clean": clean.sum().item() / len(y), "robust": robust / len(y)}
