"""The convolutions of a step, noted one by one, beside those that one would write down."""

from __future__ import annotations

import torch
from torch import nn

from hedgerow.attacks import ascend, crafting
from hedgerow.bench.counting import Convolutions, Flops
from hedgerow.threat import ThreatModel


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1, stride=2, bias=False), nn.Flatten()
    )


def test_a_training_step_has_one_forward_and_one_backward_of_each_layer() -> None:
    with Convolutions() as found:
        network()(torch.rand(2, 3, 6, 6)).sum().backward()
    assert {str(convolution): count for convolution, count in found.seen.items()} == {
        "forward, images [2, 3, 6, 6], weight [4, 3, 3, 3]": 1,
        "forward, images [2, 4, 6, 6], weight [4, 4, 1, 1]": 1,
        "backward to input and weight, images [2, 4, 6, 6], weight [4, 4, 1, 1]": 1,
        "backward to weight and bias, images [2, 3, 6, 6], weight [4, 3, 3, 3]": 1,
    }


def test_an_attack_goes_back_to_the_pixels_alone() -> None:
    model, x = network(), torch.rand(2, 3, 6, 6)
    with Convolutions() as found, crafting(model) as inner:
        ascend(
            inner, x, threat=ThreatModel(), start=x, loss=lambda logits, _: logits.sum(1), steps=3, step_size=0.01
        )
    assert set(found.seen.values()) == {3}
    kinds = [str(convolution).partition(",")[0] for convolution in found.seen]
    assert sorted(kinds) == ["backward to input", "backward to input", "forward", "forward"]


def test_flops_of_the_convolutions_are_those_of_a_network_of_nothing_else() -> None:
    with Flops() as flops, Convolutions() as found:
        network()(torch.rand(2, 3, 6, 6)).sum().backward()
    assert sum(count * convolution.flops for convolution, count in found.seen.items()) == flops.total
    (first,) = [c for c in found.seen if str(c).startswith("forward, images [2, 3")]
    assert first.flops == 2 * 2 * 36 * 4 * 27  # 2 images, 36 places, 4 filters of 27 weights


def test_layouts_are_kinds_of_their_own_and_calls_are_repeated_as_they_were() -> None:
    model = network()
    with Convolutions() as found, torch.no_grad():
        model(torch.rand(2, 3, 6, 6))
        model.to(memory_format=torch.channels_last)
        model(torch.rand(2, 3, 6, 6).contiguous(memory_format=torch.channels_last))
        model(torch.rand(2, 3, 6, 6).contiguous(memory_format=torch.channels_last))
    assert sorted(found.seen.values()) == [1, 1, 2, 2]
    shapes: list[tuple[torch.Size, tuple[int, ...]]] = []

    def called(x: torch.Tensor, *_: object) -> None:
        shapes.append((x.shape, x.stride()))

    for convolution in found.seen:
        object.__setattr__(convolution, "call", called)
        convolution.seconds(repeats=1)
    assert ((2, 3, 6, 6), (108, 36, 6, 1)) in shapes
    assert ((2, 3, 6, 6), (108, 1, 18, 3)) in shapes


def test_the_time_alone_is_a_call_s_time_as_often_as_it_came() -> None:
    model, x = network(), torch.rand(2, 3, 6, 6)
    with Convolutions() as found, torch.no_grad():
        for _ in range(3):
            model[0](x)  # type: ignore[index]
    (kind,) = found.seen
    object.__setattr__(kind, "call", lambda *_: None)
    assert 0 < found.alone() < 0.1
    found.clear()
    assert found.alone() == 0
