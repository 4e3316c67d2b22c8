"""The integrity checks of an evaluation: signs that its numbers are too good, or about something else.

They look at a small random sample of the evaluated images; what is free, counts and stored images, is checked on
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hedgerow.attacks.crafting import unchanged_buffers
from hedgerow.checks import Check, passing
from hedgerow.evaluation.chunks import Job, changed_answers
from hedgerow.evaluation.detectors import (
    BATCHES,
    GRID,
    MODE,
    NOISE,
    PIXELS,
    Sample,
    batch_independence,
    evaluation_mode,
    pixel_grid,
    pixel_scale,
    randomness,
)
from hedgerow.evaluation.gradients import check_gradients
from hedgerow.files import fingerprint
from hedgerow.seeds import derive

CLEAN_AGAIN = "clean answers and weights are the same before and after"
VERDICTS_AGAIN = "stored images give their verdicts again"


@dataclass(frozen=True)
class Kept:
    """What an evaluation leaves behind: its batches, their files, and how it found the network.

    `weights_before` is `weights_of` the network as it was, `handed_over` the `MODAL` modules that were in
    train mode then.
    """

    parts: Sequence[dict[str, Tensor]]
    path_of: Callable[[int], Path | None]
    weights_before: str
    handed_over: Sequence[str]


def check_integrity(
    judge: nn.Module, inner: nn.Module, x: Tensor, y: Tensor, kept: Kept, job: Job
) -> dict[str, Check]:
    """Return the checks that ask the network again, after its evaluation.

    `x` `[N, ...]` and `y` `[N]` are all images; checks that cost more than a forward or two for each look at
    `job.protocol.integrity` of them, drawn by its seed. Call inside `crafting` and `no_grad`; buffers are put
    back.
    """
    with unchanged_buffers(inner):
        whole = _asked_again(judge, inner, x, kept, job)
        sample = _sample(judge, inner, x, y, kept.parts, job)
        checks = {
            MODE: evaluation_mode(sample, kept.handed_over),
            NOISE: randomness(sample),
            BATCHES: batch_independence(sample),
            PIXELS: pixel_scale(sample),
            GRID: pixel_grid(sample.x),
            **(check_gradients(sample) if "pgd" in job.attacks else {}),
        }
    some = f"on {len(sample.x)} of {len(x)} images"
    return {**whole, **{name: _said(check, some) for name, check in checks.items()}}


def weights_of(model: nn.Module) -> str:
    """Return a fingerprint of all parameters and buffers."""
    return fingerprint(model.state_dict().values())


def _sample(
    judge: nn.Module, inner: nn.Module, x: Tensor, y: Tensor, parts: Sequence[dict[str, Tensor]], job: Job
) -> Sample:
    dice = torch.Generator().manual_seed(derive(job.protocol.seed, "integrity sample"))
    chosen = torch.randperm(len(x), generator=dice)[: job.protocol.integrity].sort().values.to(x.device)
    names = ("clean", "pgd_predictions" if "pgd" in job.attacks else "clean")
    clean, pgd = (torch.cat([part[name] for part in parts]) for name in names)
    broken = (clean == y) & (pgd != y)
    return Sample(judge, inner, x[chosen], y[chosen], clean[chosen], broken[chosen], job)


def _asked_again(judge: nn.Module, inner: nn.Module, x: Tensor, kept: Kept, job: Job) -> dict[str, Check]:
    clean = verdicts = 0
    for number, (images, part) in enumerate(zip(torch.split(x, job.protocol.batch_size), kept.parts, strict=True)):
        changes = changed_answers(judge, images, part, job, kept.path_of(number))
        clean, verdicts = clean + changes[0], verdicts + changes[1]
    same = weights_of(inner) == kept.weights_before
    filed = "read back from their files" if kept.path_of(0) else "from memory: no folder was given to keep them in"
    return {
        CLEAN_AGAIN: passing(
            same and not clean,
            f"{clean} of {len(x)} predictions changed, weights and buffers {'did not' if same else 'changed'}",
            "all clean images again after all attacks, in the same batches",
        ),
        VERDICTS_AGAIN: passing(
            not verdicts,
            f"{verdicts} of {len(x) * len(job.attacks)} verdicts changed",
            f"every stored image of every attack once more, {filed}",
        ),
    }


def _said(check: Check, some: str) -> Check:
    return check.model_copy(update={"how": f"{check.how}, {some}".removeprefix(", ")})
