"""Accuracy under attack: every verdict comes from our own forward on a stored adversarial image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.attacks import bare, check_images, crafting
from hedgerow.attacks.autoattack import describe
from hedgerow.errors import DataError
from hedgerow.evaluation.chunks import Job, is_kept, kept_chunk
from hedgerow.evaluation.detectors import MODAL, in_training
from hedgerow.evaluation.integrity import Kept, check_integrity, weights_of
from hedgerow.evaluation.judging import describe_judge, judged, reachable
from hedgerow.evaluation.protocol import Protocol
from hedgerow.evaluation.shards import Share, UnfinishedError
from hedgerow.evaluation.statistics import measure
from hedgerow.evaluation.verdicts import LABELS, VARIED, check_counts, labels_belong, more_than_one_class, verdict
from hedgerow.result import Evaluation
from hedgerow.stochastic import Averaged
from hedgerow.team import team
from hedgerow.threat import ThreatModel


@dataclass(frozen=True)
class Evaluated:
    """The record, and the images behind it: `[N, ...]` strongest adversarial example per image."""

    record: Evaluation
    adversarial: Tensor
    clean_predictions: Tensor
    adversarial_predictions: Tensor


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
    share: Share | None = None,
) -> Evaluated:
    """Return accuracy on clean images, under PGD, AutoAttack, further attacks, and the worst of them per example.

    `x` is `[N, C, H, W]` float in [0,1], `y` `[N]` int64; work is in float32 and `eval` mode, and leaves the
    model as it was. Each attack attacks every image that is classified correctly. With a `folder`, finished
    batches are kept there and not computed again for the same model, images and protocol, and several processes
    share them out. `progress(done, total)` is told of each, and `tell` of AutoAttack's own progress. Raises
    `DataError` for bad pixels or labels, no images, or an attack that is not made for the threat's norm.

    With a `share`, which needs a folder, this call computes only its part of the batches. While some are missing
    it raises `UnfinishedError`; under a time budget it returns what is there, and `record.examples` says of which
    images.

    A model that is stochastic, says so or gives itself away by answers that vary, is judged by the mean of seeded
    draws and attacked with gradients averaged over others (`Averaged`; one that is given keeps its own settings).
    """
    protocol = protocol or Protocol()
    check_images(x)
    x = x.float()
    if len(x) == 0:
        raise DataError("there is no image to evaluate on")
    if share is not None and folder is None:
        raise DataError("a share of an evaluation needs a folder, where the shares meet")
    for name, attack in protocol.attacks.items():
        if threat.norm not in attack.norms:
            raise DataError(f"attack {name!r} is for {' and '.join(attack.norms)} threats; this one is {threat}")
    size, handed_over = protocol.batch_size, in_training(bare(model), MODAL)
    with crafting(model) as given, torch.no_grad():
        inner = reachable(given, x[:1])
        judge = judged(inner, x, eot=protocol.eot, draws=protocol.draws, seed=protocol.seed)
        averaged_one = judge if isinstance(judge, Averaged) else None
        job = Job(threat, judge(x[:1]).shape[1], protocol, tell, averaged_one)
        check_images(x, y, job.classes)
        weights_before = weights_of(inner)

        heard: set[int] = set()

        def path_of(number: int) -> Path | None:
            return folder and folder / f"chunk-{number:04d}.safetensors"

        def part(number: int) -> dict[str, Tensor]:
            chunk = slice(number * size, (number + 1) * size)
            found = kept_chunk(judge, x[chunk], y[chunk], job, number, path_of(number))
            if progress and number not in heard:
                heard.add(number)
                progress(min(chunk.stop, len(x)), len(x))
            return found

        def there(number: int) -> bool:
            chunk, path = slice(number * size, (number + 1) * size), path_of(number)
            return path is not None and is_kept(judge, x[chunk], y[chunk], job, path)

        numbers, members = list(range(-(-len(x) // size))), team()
        if share is not None:
            numbers = share.carry_out(len(numbers), there, part)
        elif folder is not None and members.world > 1:  # each process its batches, then all read all of them
            for number in numbers[members.rank :: members.world]:
                part(number)
            members.wait()
        places = [i for number in numbers for i in range(number * size, min((number + 1) * size, len(x)))]
        if len(places) < len(x) and (share is None or share.budget is None or not places):
            raise UnfinishedError(len(places), len(x))
        parts = [part(number) for number in numbers]
        if len(places) < len(x):
            x, y = x[places], y[places]
        found = _judge({key: torch.cat([part[key] for part in parts]) for key in parts[0]}, x, y, job)
        found.record.examples = places
        if protocol.integrity:
            started = time.monotonic()
            kept = Kept(parts, lambda index: path_of(numbers[index]), weights_before, handed_over)
            found.record.checks |= check_integrity(judge, inner, x, y, kept, job)
            if tell:
                spent = sum(m.seconds for m in found.record.measures.values())
                tell(f"integrity checks: {time.monotonic() - started:.1f} s, attacks: {spent:.1f} s")
    return found


def _judge(found: dict[str, Tensor], x: Tensor, y: Tensor, job: Job) -> Evaluated:
    names = job.attacks
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
            **check_counts([found[f"{name}_images"] for name in names], x, measures, job.threat),
            VARIED: more_than_one_class(found["clean"], y),
            LABELS: labels_belong(found["clean"], y, job.classes),
        },
    )
    return Evaluated(record, images, found["clean"], predictions)


def _how(name: str, job: Job) -> str:
    protocol, threat = job.protocol, job.threat
    steps = f"PGD-{protocol.pgd_steps} on cross-entropy, step eps/4, {protocol.pgd_restarts} random restarts"
    if job.judge is not None:
        steps += f", EOT {job.judge.eot}"
    usual = [word for word, there in (("PGD", protocol.pgd_steps), ("AutoAttack", protocol.autoattack)) if there]
    run = f" ({', '.join([*usual, *map(str, protocol.attacks)])})" if protocol.attacks else ""
    scene = job.scene(protocol.seed)
    attack = {
        "clean": "unchanged images",
        "pgd": f"{steps}, {threat}",
        "autoattack": f"{describe(job.classes, stochastic=job.judge is not None)}, {threat}",
        "worst_case": f"correct under every attack run{run}, {threat}",
        **{other: f"{one.describe(scene)}, {threat}" for other, one in protocol.attacks.items()},
    }[name]
    return attack if job.judge is None else f"{attack}; {describe_judge(job.judge)}"
