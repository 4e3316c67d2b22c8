"""Batch norm inside the convolution before it: the same network to an attack, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.attacks import crafting, folding
from hedgerow.attacks.folding import folded
from hedgerow.models import build_model
from hedgerow.sparsity import attach_masks, prunable_weights


class Uneven(nn.Module):
    """One pair, and three convolutions whose output is also read by something else, used twice, or handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.seen, self.twice, self.last = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norms[0](self.pair(x)))
        between = self.seen(x)
        x = self.norms[1](between) + between
        x = self.norms[2](self.twice(self.norms[2](self.twice(x))))
        out = self.last(x)
        self.norms[3](out)
        return out.flatten(1)


def unsettled(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and an affine map that change something."""
    dice = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    tensor.data.normal_(0, 0.3, generator=dice)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=dice)
    return model


def answer_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with crafting(model) as inner:
        answer = inner(x)
        gradient = torch.autograd.grad(answer.square().sum(), x)[0]
    return answer.detach(), gradient


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("resnet20", 21), ("resnet18", 20), ("vgg16-bn", 13), ("mobilenet-v2", 52), ("cnn-small", 0)],
)
def test_a_network_answers_the_same_folded(name: str, pairs: int) -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = build_model(name, num_classes=4, channels=3, image_size=(16, 16), mean=[0.5] * 3, std=[0.25] * 3)
    model = unsettled(model).double()
    expected = answer_and_gradient(model, x.double())
    with folding(model, x.double()) as count:
        found = answer_and_gradient(model, x.double())
    assert count == pairs
    for got, want in zip(found, expected, strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12 * want.abs().max().item())
        assert pairs == 0 or not torch.equal(got, want), "nothing was folded"


def test_only_a_convolution_that_nothing_else_reads_is_folded() -> None:
    model, x = unsettled(Uneven()).double(), torch.rand(2, 4, 5, 5, dtype=torch.float64)
    expected = answer_and_gradient(model, x)
    with folding(model, x) as count:
        found = answer_and_gradient(model, x)
    assert count == 1
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_masked_weights_are_folded_as_they_are_now() -> None:
    model, x = (
        unsettled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())),
        torch.rand(2, 3, 5, 5),
    )
    with folding(model, x) as count:
        masks = {n: torch.rand_like(w.dense) < 0.5 for n, w in prunable_weights(model).items()}
        attach_masks(model, masks)
        with torch.no_grad():
            next(model.parameters()).mul_(2)
            expected = copy.deepcopy(model).eval()(x)
        assert count == 1
        assert torch.allclose(answer_and_gradient(model, x)[0], expected, atol=1e-6)


def test_nothing_is_left_behind_even_by_an_error() -> None:
    model, x = unsettled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.rand(2, 3, 5, 5)
    before, state = [dict(vars(m)) for m in model], copy.deepcopy(model.state_dict())
    model.train()
    with pytest.raises(RuntimeError), folding(model, x), crafting(model), crafting(model):
        model(torch.rand(2, 5, 5, 5))
    for module, values in zip(model, before, strict=True):
        assert vars(module).keys() == values.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with crafting(model) as inner:
        assert "forward" not in vars(inner[0])  # type: ignore[index]


def test_outside_of_eval_mode_and_where_someone_looks_on_layers_stay_two() -> None:
    model, x = unsettled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), torch.rand(2, 3, 5, 5)
    with folding(model, x):
        with crafting(model, "train"):
            assert "forward" not in vars(model[0])
        handle = model[0].register_forward_hook(lambda *_: None)
        with crafting(model):
            assert "forward" not in vars(model[0])
        handle.remove()
        with crafting(model):
            assert "forward" in vars(model[0])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_with_and_without_bias_and_affine_map(affine: bool, bias: bool) -> None:
    model = unsettled(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d(6, affine=affine)))
    x = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    model.double().eval()
    with folding(model, x) as count, torch.no_grad():
        expected = model(x)
        with folded(model):
            assert torch.allclose(model(x), expected, rtol=1e-12)
    assert count == 1


def test_a_norm_without_running_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with folding(model, torch.rand(2, 3, 5, 5)) as count:
        assert count == 0
