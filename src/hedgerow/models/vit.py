"""Vision transformers: patches as tokens, self-attention among them (arXiv 2010.11929)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.errors import ModelError
from hedgerow.models import MODELS
from hedgerow.models.parts import check_counts, is_large

Patch = int | Literal["auto"]
EXPANSION = 4  # of the hidden size, inside a block's two linear layers
SPREAD = 0.02  # standard deviation of linear weights, positions and the class token at the start


class SelfAttention(nn.Module):
    """Multi-head self-attention on `[N, tokens, hidden]`; query, key and value come from one linear layer."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.width = hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(width)) v of all heads, joined and mixed (arXiv 1706.03762, eq. 1)."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, self.width)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Attention, then two linear layers with GELU; each after layer norm and added to its input (2010.11929)."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.attention = SelfAttention(hidden, heads)
        self.norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, EXPANSION * hidden), nn.GELU(), nn.Linear(EXPANSION * hidden, hidden)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the shape of `x`, `[N, tokens, hidden]`."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A class token and one token per patch through `depth` blocks; the class token is classified (2010.11929).

    Takes `[N, channels, H, W]` of exactly `image_size`, returns logits `[N, num_classes]`. Where `patch` divides
    a side not, zeros follow behind. No dropout. Raises `ModelError` for options that are no positive integers, or
    when `heads` does not divide `hidden`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        hidden: int,
        heads: int,
        depth: int,
        patch: Patch,
    ) -> None:
        super().__init__()
        side = (16 if is_large(image_size) else 4) if patch == "auto" else patch
        check_counts("vit", hidden=hidden, heads=heads, depth=depth, patch=side)
        if hidden % heads:
            raise ModelError(f"a transformer's heads share its hidden size: {heads} does not divide {hidden}")
        rows, columns = (-(-pixels // side) for pixels in image_size)
        below, right = rows * side - image_size[0], columns * side - image_size[1]
        self.pad = nn.ZeroPad2d((0, right, 0, below)) if below or right else nn.Sequential()
        self.patches = nn.Conv2d(channels, hidden, side, stride=side)
        self.token = nn.Parameter(torch.empty(1, 1, hidden))
        self.position = nn.Parameter(torch.empty(1, 1 + rows * columns, hidden))
        self.blocks = nn.Sequential(*(EncoderBlock(hidden, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.head = nn.Linear(hidden, num_classes)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=SPREAD)
                nn.init.zeros_(module.bias)
        for parameter in (self.token, self.position):
            nn.init.trunc_normal_(parameter, std=SPREAD)
        nn.init.kaiming_normal_(self.patches.weight, nonlinearity="linear")
        if self.patches.bias is not None:
            nn.init.zeros_(self.patches.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `[N, num_classes]`."""
        tokens = self.patches(self.pad(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


@MODELS.register("vit-tiny")
def vit_tiny(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    hidden: int = 192,
    heads: int = 3,
    depth: int = 12,
    patch: Patch = "auto",
) -> nn.Module:
    """Vision transformer with 12 blocks of 3 heads, 192 wide (arXiv 2010.11929, 2012.12877).

    `patch` is 4 pixels for small images and 16 for large ones unless it is given. Any `image_size`, but only the
    one it was built for. Raises `ModelError` as `VisionTransformer` does.
    """
    return VisionTransformer(
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        hidden=hidden,
        heads=heads,
        depth=depth,
        patch=patch,
    )


@MODELS.register("vit-small")
def vit_small(
    *,
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    hidden: int = 384,
    heads: int = 6,
    depth: int = 12,
    patch: Patch = "auto",
) -> nn.Module:
    """Vision transformer with 12 blocks of 6 heads, 384 wide (arXiv 2010.11929, 2012.12877).

    Options and errors are those of `vit-tiny`.
    """
    return vit_tiny(
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        hidden=hidden,
        heads=heads,
        depth=depth,
        patch=patch,
    )
