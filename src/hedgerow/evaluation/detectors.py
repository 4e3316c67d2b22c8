"""Faults of a network or of what it is fed that spoil any evaluation: looked for by behaviour, not by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from hedgerow.checks import Check, graded
from hedgerow.errors import HedgerowError
from hedgerow.evaluation.chunks import Job
from hedgerow.evaluation.judging import LOOKED_AT
from hedgerow.evaluation.statistics import mcnemar
from hedgerow.models import Normalize
from hedgerow.stochastic import Averaged, answers_vary, drawing, is_stochastic, shares_noise

MODE = "the network computes in evaluation mode"
NOISE = "answers do not vary, or the network says that they do"
BATCHES = "answers do not depend on batch size or order"
PIXELS = "pixels are fed as the network expects them"
GRID = "pixels are steps from 0 to 1"

# Layers of PyTorch that compute otherwise in train mode; others are in it by default, and for nothing.
MODAL = (_DropoutNd, _NormBase, nn.RReLU)

_MOVED = 1e-2  # of the logits' norm: far above what kernels for other batch sizes round differently
_ODD_SIZE = 7
_FEWEST, _MOST = 6, 256  # different values of pixels that come in steps
_ROUNDING = 0.05  # of a step
_SURE, _UNLIKELY = 1e-3, 0.01  # chances that pixels which are right look as if they were not


@dataclass(frozen=True)
class Sample:
    """The images that checks look at, and the network: as it is (`inner`) and as it is judged.

    `x` `[n, ...]`, `y` and `predictions` `[n]`; `broken` `[n]`: by the evaluation's own PGD.
    """

    judge: nn.Module
    inner: nn.Module
    x: Tensor
    y: Tensor
    predictions: Tensor
    broken: Tensor
    job: Job = field(repr=False)


def in_training(model: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Module,)) -> list[str]:
    """Return the names of the modules of these kinds in train mode; the model itself is called "network"."""
    return [name or "network" for name, m in model.named_modules() if m.training and isinstance(m, kinds)]


def evaluation_mode(sample: Sample, handed_over: Sequence[str]) -> Check:
    """Return whether eval mode took hold, by modules in train mode and by buffers that a forward changes.

    `handed_over`: the `MODAL` modules that were in train mode when the evaluator got the network.
    """
    buffers = dict(sample.inner.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    with drawing(sample.inner, 0):
        sample.inner(sample.x[:LOOKED_AT])
    after = dict(sample.inner.named_buffers())
    changed = [name for name, was in before.items() if name not in after or not torch.equal(after[name], was)]
    training = in_training(sample.inner)
    outcome = "fail" if training or changed else "warn" if handed_over else "pass"
    number = f"{_named('module', training)} in train mode and {_named('buffer', changed)} changed by a forward"
    if handed_over:
        number += f"; handed over in train mode: {_named('module', handed_over)}, evaluated in eval mode"
    return Check(outcome=outcome, number=number, how="one forward of the network in eval mode")


def _named(what: str, names: Sequence[str]) -> str:
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}" + (f" ({some})" if names else "")


def randomness(sample: Sample) -> Check:
    """Return whether the network's answers vary although no module says so (`hedgerow.stochastic`).

    One that says so and takes its noise from where it is told passes; one that says so and draws from the global
    generators gets a warning, as its answers depend on the batch.
    """
    some = sample.x[:LOOKED_AT]
    vary, says = answers_vary(sample.inner, some), is_stochastic(sample.inner)
    number = f"answers {'vary' if vary else 'are the same'} on {len(some)} images; the network " + (
        "says that it is stochastic" if says else "does not say that it is stochastic"
    )
    if isinstance(sample.judge, Averaged):
        number += f"; gradients are means over {sample.judge.eot} draws, answers over {sample.judge.draws}"
    if says and not isinstance(sample.inner, Averaged) and not shares_noise(sample.inner):
        return Check(outcome="warn", number=f"{number}; its noise depends on the batch", how=_FORWARDS)
    return Check(outcome="fail" if vary and not says else "pass", number=number, how=_FORWARDS)


_FORWARDS = "4 forwards of the same images"


def batch_independence(sample: Sample) -> Check:
    """Return whether logits are the same for the images in one batch, backwards, and in batches of seven.

    A stochastic network whose noise depends on the batch is warned of, here as under randomness.
    """
    x = sample.x[: sample.job.protocol.batch_size]
    whole = sample.judge(x)
    others = [
        sample.judge(x.flip(0)).flip(0),
        torch.cat([sample.judge(part) for part in torch.split(x, _ODD_SIZE)]),
    ]
    size = torch.linalg.vector_norm(whole, dim=1).clamp_min(1e-12)
    moved = torch.stack([torch.linalg.vector_norm(other - whole, dim=1) / size for other in others]).amax(0)
    flipped = int(torch.stack([other.argmax(1) != whole.argmax(1) for other in others]).any(0).sum())
    number = (
        f"logits of {int((~(moved <= _MOVED)).sum())} of {len(whole)} images move by more than 1 %, at most by "
        f"{float(moved.max()):.1g} of their norm; {flipped} get another class"
    )
    how = f"all in one batch, in reverse order, and in batches of {_ODD_SIZE}"
    if bool((moved <= _MOVED).all()):
        return Check(outcome="warn" if flipped else "pass", number=number, how=how)
    by_noise = isinstance(sample.judge, Averaged) and not shares_noise(sample.judge)
    return Check(outcome="warn" if by_noise else "fail", number=number, how=how)


def pixel_scale(sample: Sample) -> Check:
    """Return whether the network does better on the same pixels scaled otherwise: they are on a wrong scale then.

    Tried are one normalisation less and one more, with the statistics of the network's own `Normalize` and with
    those of the images, 255 times as much, and the scales [-1,1] and [0,1] taken for each other. By the exact
    McNemar test, divided by the number tried.
    """
    x, right = sample.x, sample.predictions == sample.y
    spread = x.transpose(0, 1).flatten(1)
    statistics = [(m.mean, m.std) for m in sample.inner.modules() if isinstance(m, Normalize)]
    wide = (-1, *[1] * (x.dim() - 2))
    statistics.append((spread.mean(1).view(wide), spread.std(1).clamp_min(1e-3).view(wide)))
    guesses = {"255 times": 255 * x, "from [0,1] to [-1,1]": 2 * x - 1, "from [-1,1] to [0,1]": (x + 1) / 2}
    for i, (mean, std) in enumerate(statistics):
        whose = "the network's" if i < len(statistics) - 1 else "their own"
        guesses[f"normalised once less, by {whose} statistics"] = x * std + mean
        guesses[f"normalised once more, by {whose} statistics"] = (x - mean) / std
    best, chance, agree = "", 1.0, 0
    for name, guess in guesses.items():
        paired = mcnemar((_classes(sample, guess) == sample.y).tolist(), right.tolist())
        p = min(1.0, paired.p * len(guesses))
        if paired.difference > 0 and p < chance:
            best, chance, agree = name, p, paired.both + paired.first_only
    number = f"{int(right.sum())} of {len(x)} right as fed, pixels {float(x.min()):.3g} to {float(x.max()):.3g}"
    if chance < _UNLIKELY:
        number += f"; {agree} right {best} (p {chance:.1g})"
    how = f"clean predictions on the images and on {len(guesses)} other scales"
    return graded(-chance, warn=-_UNLIKELY, fail=-_SURE, number=number, how=how)


def _classes(sample: Sample, images: Tensor) -> Tensor:
    try:
        parts = torch.split(images, sample.job.protocol.batch_size)
        return torch.cat([sample.judge(part).argmax(1) for part in parts])
    except (RuntimeError, ValueError, AssertionError, HedgerowError):
        return torch.full_like(sample.y, -1)  # it takes pixels in [0,1] only, and is right to


def pixel_grid(x: Tensor) -> Check:
    """Return whether pixels that come in equal steps have 0 and 1 among those steps, in every channel.

    8-bit pixels divided by 255 do; normalised or shifted ones do not, even where they are cut to [0,1], and then
    eps is not what it says. Nothing is said of a channel without such steps, as after resizing.
    """
    off, seen = [], 0
    for channel, values in enumerate(x.transpose(0, 1).flatten(1).double()):
        step = _step(values.unique())
        if step is None:
            continue
        seen += 1
        inside = values[(values > 0) & (values < 1)]
        if not _whole(torch.stack([inside.min(), 1 - inside.min()]) / step):
            off.append(f"{channel} (steps of {step:.4g} from {float(inside.min()):.4g})")
    number = f"{len(off)} of {seen} channels with equal steps miss 0 or 1" + (
        f": {', '.join(off[:3])}" if off else ""
    )
    return Check(outcome="fail" if off else "pass", number=number, how="the different values of each channel")


def _step(values: Tensor) -> float | None:
    """Return the step between the sorted values strictly inside (0,1); None where they have none in common."""
    inside = values[(values > 0) & (values < 1)]
    if not _FEWEST <= len(inside) <= _MOST:
        return None
    if _whole(255 * inside):
        return 1 / 255
    span = float(inside[-1] - inside[0])
    step = span / round(span / float(inside.diff().min()))
    return step if _whole((inside - inside[0]) / step) else None


def _whole(values: Tensor) -> bool:
    return bool(((values - values.round()).abs() < _ROUNDING).all())
