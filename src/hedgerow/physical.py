"""The network that is attacked in place of a masked one: the same function at the cost of what is left of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hedgerow.compact import shrink
from hedgerow.errors import MissingPackageError, ModelError
from hedgerow.runtime import SparseModel, dense_macs, lowered
from hedgerow.stochastic import is_stochastic

CHECK = "what is asked answers as the masked network"
CONFIRMED = "the masked network confirms the verdicts"
TOLERANCE = 1e-5
"""How far logits may be apart, as a share of the largest."""

_WHOLE_CHANNELS = ("channel", "filter")
_WORTHWHILE = 0.9  # of the FLOPs: with less to gain the masked network is attacked itself
_SPARSE = 1 / 3  # of the multiplications: with more of them left, dense kernels are about as fast
_HEAVY = 1e9  # multiplications of all images once: below, compiling costs more than it saves
_GRADIENTS = 1e-3  # of an image's largest: more where an input lies at a kink, which is another gradient
_KINKS = 0.05  # of the images, at most
_CONFIRMED = 0.005


@dataclass(frozen=True)
class Physical:
    """The network to attack; where it is another one, whether it computes the same, and the evidence.

    `share` is what it has of the masked network's FLOPs, between 0 and 1, zeros counted.
    """

    model: nn.Module
    same: bool = True
    remark: str | None = None
    share: float = 1.0


def physical(model: nn.Module, images: Tensor, granularity: str, *, times: int = 1) -> Physical:
    """Return what to attack, or to ask, in place of `model`, a masked network in `eval` mode.

    Where whole channels were pruned and a tenth of the work is saved, it is `model` without them. Where two
    thirds of the multiplications are gone, the work is on a CPU and there is enough of it, it is `model`, or what
    is left of it without those channels, in the sparse runtime. `images` is `[N, ...]` in [0,1], N at least 1;
    each will be asked about `times` or more. On the first 100 both must give the same logits, to 1e-5 of the
    largest, and in the runtime the same gradients. Where they do not, where nothing can be gained, and for a
    stochastic model, it is `model` itself.
    """
    if is_stochastic(model):
        return Physical(model)
    small = _shrunk(model, images[:100]) if granularity in _WHOLE_CHANNELS else None
    if small is None:
        small = Physical(model)
    return (_sparse(model, small, images, times) if small.same else None) or small


def _shrunk(model: nn.Module, sample: Tensor) -> Physical | None:
    try:
        shrunk = shrink(model, sample[:1])
    except ModelError:  # its forward pass cannot be traced; it can be attacked all the same
        return None
    before, after = shrunk.removal.flops
    if after > _WORTHWHILE * before:
        return None
    apart = _apart(model, shrunk.model, sample)
    same = apart <= TOLERANCE
    found = f"logits at most {apart:.0e} of the largest apart on {len(sample)} images"
    share = after / before
    attacked = f"the shrunk one was taken, {share:.1%} of the FLOPs" if same else "the masked one was taken"
    return Physical(shrunk.model if same else model, same, f"{found}; {attacked}", share if same else 1.0)


def _sparse(model: nn.Module, small: Physical, images: Tensor, times: int) -> Physical | None:
    if images.device.type != "cpu" or images.dim() != 4:
        return None
    sample = images[:100]
    try:
        network = lowered(small.model, sample[:1])
        dense = dense_macs(network) / small.share
        if dense * len(images) * times < _HEAVY or network.macs > _SPARSE * dense:
            return None
        sparse = SparseModel(small.model, network, threads=torch.get_num_threads())
    except (ModelError, MissingPackageError):  # an operation that the runtime does not know, or no Numba
        return None
    apart, kinks = _apart(model, sparse, sample), _other_gradients(model, sparse, sample)
    same = apart <= TOLERANCE and kinks <= _KINKS
    found = (
        f"logits at most {apart:.0e} of the largest apart, gradients of {kinks:.0%} of the images more than "
        f"{_GRADIENTS:.0e}, on {len(sample)} images"
    )
    share = f"{network.macs / dense:.1%} of the multiplications"
    form = "" if small.model is model else " in the shrunk form"
    attacked = f"the sparse runtime answered{form}, {share}" if same else "the masked one was taken"
    return Physical(sparse if same else model, same, f"{found}; {attacked}", small.share if same else 1.0)


@torch.no_grad()
def _apart(model: nn.Module, small: nn.Module, images: Tensor) -> float:
    model.eval()
    small.eval()
    expected = model(images)
    return float((small(images) - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _other_gradients(model: nn.Module, sparse: nn.Module, images: Tensor) -> float:
    """Return the share of the images whose gradients of the largest logit differ between two networks."""
    found = []
    for network in (model, sparse):
        pixels = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            found.append(torch.autograd.grad(network(pixels).amax(1).sum(), pixels)[0].flatten(1))
    expected, given = found
    far = (given - expected).abs().amax(1) > _GRADIENTS * expected.abs().amax(1).clamp_min(1e-12)
    return float(far.float().mean())


@torch.no_grad()
def confirm(model: nn.Module, images: Tensor, predictions: Tensor, *, batch_size: int) -> tuple[bool, str]:
    """Ask the masked `model` about `images` `[N, ...]`, of which the attacked one gave `predictions` `[N]`.

    Returns whether at most 0.5 % of the answers differ (an image may lie at the very border of two classes), and
    how many do.
    """
    answers = torch.cat([model(part).argmax(1) for part in torch.split(images, batch_size)])
    other = int((answers != predictions).sum())
    return other <= _CONFIRMED * len(images), f"{other} of {len(images)} answers on attacked images differ"
