"""Every kind of layer that can be pruned, each with a way to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hedgerow.models.vit import SelfAttention

WIDTH, TOKENS = 8, 5
Call = Callable[[nn.Module, Tensor], Tensor]


def tokens(n: int = 3, width: int = WIDTH) -> Tensor:
    return torch.randn(n, TOKENS, width, generator=torch.Generator().manual_seed(1))


def plain(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def itself(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x)[0]


def quietly(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x, need_weights=False)[0]


def padded(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x, key_padding_mask=torch.arange(TOKENS).expand(x.shape[:2]) > 3)[0]


def causally(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x, attn_mask=torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1))[0]


def across(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x[..., :6], x[..., :4])[0]


def encoded(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, src_key_padding_mask=torch.arange(TOKENS).expand(x.shape[:2]) > 3)


def decoded(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, 2 * x)


@dataclass(frozen=True)
class Case:
    """A layer, how it is called, and torch's native function that evaluates it without autograd, if any."""

    make: Callable[[], nn.Module]
    call: Call = plain
    images: tuple[int, ...] | None = None
    native: str | None = None

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        module = self.make()
        with torch.no_grad():
            for parameter in module.parameters():  # torch starts the biases of attention at 0
                parameter.add_(0.1 * torch.randn_like(parameter))
        return module

    def input(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return tokens() if self.images is None else torch.randn(3, *self.images, generator=generator)


def attention(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.MultiheadAttention(WIDTH, **{"num_heads": 2, "batch_first": True, **options})


def encoder(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True, **options)


MHA, LAYER = "_native_multi_head_attention", "_transformer_encoder_layer_fwd"
CASES: dict[str, Case] = {
    "conv1d": Case(lambda: nn.Conv1d(4, 6, 3), images=(4, 9)),
    "conv1d-grouped": Case(lambda: nn.Conv1d(4, 6, 3, groups=2, dilation=2), images=(4, 9)),
    "conv2d": Case(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), images=(4, 7, 8)),
    "conv2d-reflected": Case(lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), images=(4, 7, 8)),
    "conv2d-grouped": Case(lambda: nn.Conv2d(4, 6, 3, groups=2), images=(4, 7, 8)),
    "conv2d-depthwise": Case(lambda: nn.Conv2d(4, 8, 3, groups=4), images=(4, 7, 8)),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 2), images=(2, 4, 4, 5)),
    "conv3d-depthwise": Case(lambda: nn.Conv3d(3, 3, 2, groups=3), images=(3, 4, 4, 5)),
    "linear": Case(lambda: nn.Linear(WIDTH, 3)),
    "attention": Case(attention(), itself, native=MHA),
    "attention-without-weights": Case(attention(), quietly, native=MHA),
    "attention-padded": Case(attention(), padded, native=MHA),
    "attention-causal": Case(attention(), causally, native=MHA),
    "attention-one-head": Case(attention(num_heads=1), itself),
    "attention-tokens-first": Case(attention(batch_first=False), itself),
    "attention-without-bias": Case(attention(bias=False), itself),
    "attention-bias-kv": Case(attention(add_bias_kv=True, add_zero_attn=True), itself),
    "attention-across": Case(attention(kdim=6, vdim=4), across),
    "attention-explicit": Case(lambda: SelfAttention(WIDTH, 2)),
    "encoder-layer": Case(encoder(), native=LAYER),
    "encoder-layer-norm-first": Case(encoder(norm_first=True, activation="gelu"), native=LAYER),
    "encoder-nested": Case(lambda: nn.TransformerEncoder(encoder()(), 2), encoded, native=LAYER),
    "decoder-layer": Case(
        lambda: nn.TransformerDecoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True), decoded, native=MHA
    ),
}
