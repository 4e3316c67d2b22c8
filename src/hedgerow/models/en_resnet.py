"""Ensembles of noisy residual networks after the Feynman-Kac formula (Wang et al., arXiv 1811.10745)."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS, Builder
from hedgerow.models.wide_resnet import WideResNet

Spread = Literal["sample", "batch"]
NOISE = 0.1


class BlockNoise(nn.Module):
    """Gaussian noise in proportion to the spread of its input: `x + scale * std(x) * N(0, I)` (arXiv 1811.10745).

    `x` is `[N, ...]`. The standard deviation is that of each sample, or, with `std="batch"`, of all entries of the
    batch, as the public code has it; an image's noise then depends on its batch. The noise is on in training and
    in evaluation alike; with `scale` 0 the layer is the identity, bit for bit. It is drawn from `generator`, or
    from torch's global one of the device where that is None; with `shared` one draw serves all samples of the
    batch. Raises `ModelError` for a scale that is negative or not finite, and for another `std`.
    """

    generator: torch.Generator | None
    shared: bool

    def __init__(self, scale: float = NOISE, std: Spread = "sample") -> None:
        super().__init__()
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
            raise ModelError(f"noise is {scale!r}; it scales the noise after a block, a number of at least 0")
        if std not in get_args(Spread):
            raise ModelError(f"noise_std is {std!r}; the noise follows the spread of a 'sample' or of the 'batch'")
        self.scale = float(scale)
        self.std = std
        self.generator = None
        self.shared = False

    @property
    def stochastic(self) -> bool:
        """Whether it draws at all."""
        return self.scale != 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the noisy input, of its shape and memory format."""
        if not self.scale:
            return x
        axes = tuple(range(0 if self.std == "batch" else 1, x.dim()))
        entries = math.prod(x.shape[axis] for axis in axes)
        spread = x.std(axes, correction=min(1, entries - 1), keepdim=True)
        shape = (1, *x.shape[1:]) if self.shared else tuple(x.shape)
        # Never like x: the numbers would follow its memory format.
        noise = torch.randn(shape, generator=self.generator, dtype=x.dtype, device=x.device)
        return torch.addcmul(x, spread, noise, value=self.scale)

    def extra_repr(self) -> str:
        """Show both settings when the model is printed."""
        return f"scale={self.scale}, std={self.std!r}"


class EnResNet(nn.Module):
    """The mean of the logits of `members` noisy pre-activation networks that are trained jointly (1811.10745).

    Each is a wide ResNet with noise after every residual block, independent for each block, member and call;
    `network` holds the options of `WideResNet`. Takes `[N, channels, H, W]` of any size, returns logits
    `[N, num_classes]`. Raises `ModelError` for fewer than one member and for what `WideResNet` and `BlockNoise`
    refuse.
    """

    def __init__(self, *, members: int, noise: float, noise_std: Spread, **network: Any) -> None:
        super().__init__()
        if not isinstance(members, int) or isinstance(members, bool) or members < 1:
            raise ModelError(f"members is {members!r}; an ensemble has a whole number of networks, at least 1")
        self.members = nn.ModuleList(WideResNet(**network) for _ in range(members))
        for member in self.members:
            blocks = cast(nn.Sequential, member.blocks)
            layers = [layer for block in blocks for layer in (block, BlockNoise(noise, noise_std))]
            member.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, `[N, num_classes]`."""
        first, *others = self.members
        total = first(x)
        for member in others:
            total = total + member(x)
        return total / len(self.members)  # type: ignore[no-any-return]


def en_resnet20(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    members: int,
    depth: int = 22,
    width: int = 1,
    noise: float = NOISE,
    noise_std: Spread = "sample",
) -> nn.Module:
    """Return an ensemble of any number of noisy ResNet-20 (arXiv 1811.10745); any `image_size`.

    Stages of 3, 3, 3 blocks, 16 to 64 channels. The `depth` of wide ResNets counts the two convolutional
    shortcuts, hence 22. Raises `ModelError` as `EnResNet` does.
    """
    shape = {"num_classes": num_classes, "channels": channels, "depth": depth, "width": width}
    return EnResNet(members=members, noise=noise, noise_std=noise_std, **shape)


def _published(members: int) -> Builder:
    def build(
        *,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        depth: int = 22,
        width: int = 1,
        noise: float = NOISE,
        noise_std: Spread = "sample",
    ) -> nn.Module:
        return en_resnet20(
            num_classes=num_classes,
            channels=channels,
            image_size=image_size,
            members=members,
            depth=depth,
            width=width,
            noise=noise,
            noise_std=noise_std,
        )

    build.__doc__ = f"Mean of {members} noisy pre-activation ResNet-20, a stochastic network (arXiv 1811.10745)."
    return build


for _members in (1, 2, 5):
    MODELS.register(f"en{_members}-resnet20")(_published(_members))
