"""Modules as users write them: one trait each, small enough to trace in a moment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hedgerow.sparsity import attach_masks, prunable_weights


class Written(nn.Module):
    """A module whose forward pass is `function(self, x)`, with `parts` as attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class Counting(nn.Module):
    """Counts its calls in a buffer, and draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x):
        self.calls += 1
        return x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def conv(inputs=4, outputs=4, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def norm(channels=4, kind=nn.BatchNorm2d):
    layer = kind(channels)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            tensor.uniform_(0.5, 1.5)
    return layer


def attention(heads=2, width=4):
    return nn.MultiheadAttention(width, heads, batch_first=True)


def functional(self, x):
    return self.fc(F.relu(self.c(x)).flatten(1))


def concatenated(self, x):
    a, b = self.a(x), self.b(x)
    return self.d(torch.cat([a, F.max_pool2d(b, 3, 1, 1)], 1))


def in_place(self, x):
    out = self.b(self.c(x))
    out += x
    return F.relu(out, inplace=True).view(x.size(0), -1)


def in_place_on_a_view(self, x):
    y = self.b(self.c(x))
    flat = y.flatten(1)
    y.mul_(2.0)
    flat[:, 0] = 0
    return flat


def arithmetic(self, x):
    x = (x - torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1)) / self.std
    return torch.add(2 - x, x * x, alpha=3) + self.shift * 0.5 + -x


def shapes(self, x):
    a, b = x.chunk(2, 1)
    c, d = torch.split(x, [1, 3], dim=1)
    y = torch.stack([a, b], 2).flatten(1, 2).permute(0, 1, 3, 2)[:, :, 1:, ::2]
    z = F.pad(torch.cat([c, d], 1).transpose(2, 3).narrow(2, 1, 7)[..., ::2], (0, 0, 0, 0, 1, 0))[:, 1:]
    return (y + z).movedim(1, -1).unflatten(-1, (2, 2)).select(-1, 1).unbind(-1)[0].unsqueeze(1).squeeze(1)


def activations(self, x):
    for function in (F.silu, F.mish, F.hardswish, F.hardsigmoid, torch.tanh, F.gelu, F.leaky_relu, F.elu, F.relu6):
        x = 0.5 * (x + function(3 * x - 1))
    x = (
        F.softplus(x).sqrt()
        + x.abs().exp().log()
        + torch.sigmoid(x)
        + x.clamp(-1, 0.5)
        + x.clamp(min=0)
        + x.clip(max=1)
    )
    return F.softmax(self.p(x), 1) + F.log_softmax(x, -1) + F.gelu(x, approximate="tanh")


def pools(self, x):
    x = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False) + F.max_pool2d(
        x, 3, 2, 1, ceil_mode=True
    )
    y = (
        F.adaptive_max_pool2d(x, 2)
        + F.adaptive_avg_pool2d(x, (2, 2))
        + F.avg_pool2d(x, 2, divisor_override=3)[..., :2, :2]
    )
    return torch.cat([y.mean((2, 3)), y.sum(-1).amax(2), y.max(3)[0].mean(-1, keepdim=True).squeeze(-1)], 1)


def norms(self, x):
    return self.d(self.e(self.a(self.b(self.c(x)))))


def tokens(self, x):
    x = self.patch(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.place
    x = x + self.attention(x, x, x, need_weights=False)[0]
    return self.head(self.norm(x)[:, 0])


def weighted_attention(self, x):
    x = x.flatten(2).transpose(1, 2)
    return self.attention(x, x, x)[0].mean(1) @ self.w


def no_grad(self, x):
    with torch.no_grad():
        y = self.c(x) * 2
    return self.c(y)


def many_dims(self, x):
    x = self.one(x.flatten(2)).unflatten(2, (4, 4, 4))
    return self.up(self.three(x))


def everything_unknown(self, x):
    x = F.conv2d(x, self.c.weight / self.c.weight.std()) ** 2
    return torch.where(x > 0.1, x, x.cumsum(1)) * x.shape[0] + torch.zeros(x.shape[0], 1, 1, 1)


# name: (module, shape of one image, operations that its graph has besides input and constant)
CASES = {
    "functional relu, flatten to linear": (
        lambda: Written(functional, c=conv(groups=2), fc=nn.Linear(256, 3)),
        (4, 8, 8),
        "conv relu reshape linear",
    ),
    "concatenation": (
        lambda: Written(concatenated, a=conv(4, 3), b=conv(4, 2), d=conv(5, 2)),
        (4, 8, 8),
        "conv max_pool cat",
    ),
    "depthwise and dropout": (
        lambda: nn.Sequential(conv(groups=4), norm(), nn.ReLU6(), nn.Dropout(), conv(kernel=1), nn.Identity()),
        (4, 8, 8),
        "conv batch_norm hardtanh",
    ),
    "in place": (lambda: Written(in_place, c=conv(), b=norm()), (4, 8, 8), "conv batch_norm add relu reshape"),
    "in place on a view": (
        lambda: Written(in_place_on_a_view, c=conv(), b=norm()),
        (4, 8, 8),
        "conv batch_norm mul reshape select unknown",
    ),
    "one module twice": (lambda: Written(lambda s, x: s.c(s.c(x)), c=conv()), (4, 8, 8), "conv"),
    "arithmetic with constants": (
        lambda: Written(arithmetic, std=torch.full((4, 1, 1), 0.25), shift=nn.Parameter(torch.rand(4, 1, 1))),
        (4, 8, 8),
        "reshape sub div add mul",
    ),
    "moving entries": (lambda: Written(shapes), (4, 8, 8), "slice reshape cat permute pad select add"),
    "activations": (
        lambda: Written(activations, p=nn.PReLU(4)),
        (4, 6),
        "silu mish hardswish hardsigmoid tanh gelu leaky_relu elu hardtanh softplus sqrt abs exp log sigmoid relu "
        "softmax log_softmax prelu add mul sub",
    ),
    "pools": (
        lambda: Written(pools),
        (4, 10, 10),
        "avg_pool max_pool adaptive_max_pool adaptive_avg_pool slice mean sum amax cat add reshape",
    ),
    "norms": (
        lambda: Written(
            norms,
            a=nn.GroupNorm(2, 4),
            b=nn.LayerNorm((8, 8)),
            c=nn.InstanceNorm2d(4, affine=True),
            d=nn.BatchNorm2d(4, affine=False),
            e=nn.InstanceNorm2d(4, track_running_stats=True),
        ),
        (4, 8, 8),
        "group_norm layer_norm batch_norm",
    ),
    "vision transformer": (
        lambda: Written(
            tokens,
            patch=nn.Conv2d(3, 4, 4, stride=4),
            cls=nn.Parameter(torch.rand(1, 1, 4)),
            place=nn.Parameter(torch.rand(1, 5, 4)),
            attention=attention(),
            norm=nn.LayerNorm(4),
            head=nn.Linear(4, 3),
        ),
        (3, 8, 8),
        "conv reshape permute expand cat add linear select sdpa layer_norm",
    ),
    "attention with its weights": (
        lambda: Written(weighted_attention, attention=attention(), w=nn.Parameter(torch.rand(4, 3))),
        (4, 3, 3),
        "reshape permute linear select mul matmul softmax mean",
    ),
    "without gradients": (lambda: Written(no_grad, c=conv()), (4, 8, 8), "conv mul"),
    "one and three dimensions": (
        lambda: Written(
            many_dims,
            one=nn.Conv1d(4, 2, 3, padding=1),
            three=nn.Conv3d(2, 2, 3, dilation=(1, 1, 2), padding=2),
            up=nn.ConvTranspose3d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        ),
        (4, 8, 8),
        "reshape conv conv_transpose",
    ),
    "padding modes": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, (4, 3), padding="same", dilation=(1, 2)),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
            nn.ReflectionPad2d(2),
            nn.ConstantPad2d((1, 0, 2, 0), 0.5),
        ),
        (4, 8, 8),
        "conv pad",
    ),
    "outside the vocabulary": (
        lambda: Written(everything_unknown, c=conv()),
        (4, 8, 8),
        "div unknown add",
    ),
}


def build(name):
    """Return the double-precision module of a case in eval mode, and a function that draws images for it."""
    factory, shape, _ = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = factory().double().eval()
    generator = torch.Generator().manual_seed(5)
    return model, lambda n: torch.rand(n, *shape, dtype=torch.double, generator=generator)


def plain():
    layers = [conv(3, 4, bias=False), norm(), nn.ReLU(), conv(4, 2), nn.Flatten(), nn.Linear(128, 3)]
    return nn.Sequential(*layers).double().eval()


def masked():
    """Return the plain network for 8x8 pixels under random masks, and the masks."""
    model, generator = plain(), torch.Generator().manual_seed(2)
    weights = prunable_weights(model).items()
    masks = {name: torch.rand(weight.dense.shape, generator=generator) < 0.3 for name, weight in weights}
    attach_masks(model, masks)
    return model, masks
