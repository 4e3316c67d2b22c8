"""Operations of a user's module become few steps, or are refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from runtime_nets import MACHINE, error, images
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.runtime import Affine, Conv, Pool, compile


class Odd(nn.Module):
    """Values that are used twice, a layer that is called twice, arithmetic in every order, every pool."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 1, stride=2)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8 * 16, 6)
        self.tail = nn.Linear(6, 5)
        self.register_buffer("shift", torch.randn(8, 1, 1))
        for norm in (self.norm, self.plain):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)

    def forward(self, x):
        a = self.one(x * 0.5 + 0.25)  # used three times, hence nothing goes into it
        b = F.relu6(self.norm(a))
        c = self.deep(b) + a
        d = (1.5 - self.deep(F.relu(c))) / 2 + self.shift
        e = F.relu(self.plain(d) + a)
        f = self.down(e) + F.max_pool2d(e, 3, 2, 1)
        g = F.adaptive_max_pool2d(F.avg_pool2d(f, 3, 1, 1, count_include_pad=False), 4)
        h = self.head(g.flatten(1)) + self.head((g * g.new_tensor(2.0)).flatten(1))
        return self.tail(F.hardtanh(h, -1.0, 2.0)) * 3.0


@pytest.fixture(scope="module")
def odd():
    torch.manual_seed(0)
    return Odd().eval()


def test_a_users_module_computes_what_pytorch_does(odd):
    x = images(MACHINE.lanes + 2)
    with torch.no_grad():
        expected = odd(x)
    program = compile(odd, x, deterministic=True)
    assert error(program(x), expected) < 1e-5
    kinds = [type(step) for step in program.network.steps]
    assert kinds.count(Conv) == 7
    assert kinds.count(Pool) == 3
    assert kinds.count(Affine) < 8


class Chain(nn.Sequential):
    """Pre-activation: normalisation that comes before any convolution it could go into."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )


def test_normalisation_goes_into_the_convolution_before_it_and_never_past_a_relu():
    torch.manual_seed(0)
    model, x = Chain().eval(), images(2, 8)
    nn.init.uniform_(model[1].bias)
    nn.init.normal_(model[3].bias)
    with torch.no_grad():
        expected = model(x)
    program = compile(model, x, deterministic=True)
    kinds = [type(step).__name__ for step in program.network.steps]
    assert kinds == ["Conv", "Affine", "Conv", "Pool", "Conv"]
    assert program.network.steps[0].low == 0
    assert error(program(x), expected) < 1e-5


class Refused(nn.Module):
    """One operation that the runtime does not have, in a module of its own."""

    def __init__(self, operation):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = operation
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (nn.GELU(), "gelu in 'body'"),
        (nn.GroupNorm(2, 4), "group_norm in 'body'"),
        (nn.ConvTranspose2d(4, 4, 2), "conv_transpose in 'body'"),
        (Call(lambda x: x * x), r"mul in 'body' \(of two computed values\)"),
        (Call(lambda x: torch.cat([x, x], 1)[:, ::2]), "cat in 'body'; slice in 'body'"),
        (Call(lambda x: x[..., :1] + x), r"slice in 'body'; add in 'body' \(of two different shapes\)"),
        (nn.AdaptiveAvgPool2d(3), r"adaptive_avg_pool in 'body' \(into windows of different sizes\)"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), r"avg_pool in 'body' \(whose last window is not whole\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_refused_is_named(operation, message):
    with pytest.raises(ModelError, match=f"cannot run {message}.*run this network with torch"):
        compile(Refused(operation), images(2, 8))


def test_a_network_that_gives_no_logits_is_refused():
    with pytest.raises(ModelError, match=r"gives logits \[N, classes\]; this network makes \[-1, 4, 8, 8\]"):
        compile(nn.Conv2d(3, 4, 3, padding=1), images(2, 8))
