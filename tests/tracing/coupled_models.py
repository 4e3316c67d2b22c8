"""Small networks whose channels are coupled, one way of coupling each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from small_models import Written, conv, norm
from torch import nn
from zoo_models import images

from hedgerow.tracing import trace


def residual(self, x):
    x = F.relu(self.b1(self.stem(x)))
    x = F.relu(x + self.b2(self.second(F.relu(self.first(x)))))
    return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def squeezed(self, x):
    x = self.a(x)
    x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
    return self.fc(self.d(x).flatten(1))


def split_and_joined(self, x):
    a, b = self.a(x).split([2, 4], 1)
    return self.fc(torch.cat([self.b(b), a, F.relu(b)], 1).mean((2, 3)))


def padded_shortcut(self, x):
    x = self.a(x)
    out = F.relu(self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))
    return self.fc(out.amax((2, 3)))


def scaled(self, x):
    x = self.a(x) * self.scale.view(1, -1, 1, 1) + self.shift[:, None, None]
    x = x * self.rows
    return self.fc(F.prelu(x, self.slope).flatten(1))


def token_mixer(self, x):
    x = self.a(x).flatten(2).transpose(1, 2) + self.place
    x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
    return self.fc(F.gelu(self.b(x)).mean(1))


def twice(self, x):
    x = self.a(x)
    return self.fc(F.relu(self.b(F.relu(self.b(x)))).mean((2, 3)))


def parameter(*shape):
    return nn.Parameter(torch.rand(*shape) + 0.5)


COUPLED = {
    "residual": lambda: Written(
        residual,
        stem=conv(3, 4),
        b1=norm(4),
        first=conv(4, 5),
        second=conv(5, 4),
        b2=norm(4),
        fc=nn.Linear(4, 2),
    ),
    "squeeze and excitation": lambda: Written(
        squeezed, a=conv(3, 6), down=conv(6, 2, 1), up=conv(2, 6, 1), d=conv(6, 6, groups=6), fc=nn.Linear(384, 2)
    ),
    "split and joined": lambda: Written(split_and_joined, a=conv(3, 6), b=conv(4, 3), fc=nn.Linear(9, 2)),
    "padded shortcut": lambda: Written(
        padded_shortcut, a=conv(3, 4), b=nn.Conv2d(4, 7, 3, stride=2, padding=1), fc=nn.Linear(7, 2)
    ),
    "constants per channel": lambda: Written(
        scaled,
        a=conv(3, 4),
        scale=parameter(4),
        shift=parameter(4),
        rows=parameter(8, 1),
        slope=parameter(4),
        fc=nn.Linear(256, 2),
    ),
    "tokens": lambda: Written(
        token_mixer,
        a=nn.Conv2d(3, 6, 4, stride=4),
        place=parameter(1, 4, 6),
        cls=parameter(1, 1, 6),
        b=nn.Linear(6, 5),
        fc=nn.Linear(5, 2),
    ),
    "grouped": lambda: nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 12, groups=2), norm(12), nn.MaxPool2d(2), conv(12, 24, groups=12),
        nn.Flatten(), nn.Linear(384, 2),
    ),
    "one module twice": lambda: Written(twice, a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(4, 2)),
    "instance norm": lambda: nn.Sequential(
        conv(3, 4), nn.GroupNorm(4, 4), nn.PReLU(), nn.Conv2d(4, 3, 8), nn.Flatten(), nn.Linear(3, 2)
    ),
}  # fmt: skip


def made(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = COUPLED[name]().double().eval()
    return model, trace(model, images(2, 3, 8, 8))
