"""Networks from the literature: published counts, sizes of feature maps, and blocks against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.models import MODELS, check_model
from hedgerow.models.mobilenet import InvertedResidual, scaled
from hedgerow.models.resnet import Bottleneck
from hedgerow.models.vit import EncoderBlock, SelfAttention, VisionTransformer
from hedgerow.sparsity import prunable_weights

SMALL, LARGE = (32, 32), (224, 224)


def shapes_only(name: str, classes: int, size: tuple[int, int], **options: Any) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name](num_classes=classes, channels=3, image_size=size, **options)


def some(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module) -> nn.Module:
    """In eval mode with every parameter and running statistic away from where it starts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return module.eval()


@pytest.mark.parametrize(
    ("name", "classes", "size", "options", "published"),
    [
        # ImageNet: as torchvision documents them, the transformers as timm counts them (2012.12877: 5 M and 22 M).
        ("resnet18", 1000, LARGE, {}, 11_689_512),
        ("resnet50", 1000, LARGE, {}, 25_557_032),
        ("mobilenet-v2", 1000, LARGE, {}, 3_504_872),
        ("vit-tiny", 1000, LARGE, {}, 5_717_416),
        ("vit-small", 1000, LARGE, {}, 22_050_664),
        # CIFAR: the counts that public repositories print for their networks.
        ("resnet50", 10, SMALL, {}, 23_520_842),
        ("wrn-28-10", 10, SMALL, {}, 36_479_194),
        ("wrn-28-10", 100, SMALL, {}, 36_536_884),
        ("wrn-28-10", 10, SMALL, {"depth": 16}, 17_116_634),
        ("preact-resnet18", 10, SMALL, {}, 11_172_170),
        ("mobilenet-v2", 10, SMALL, {}, 2_236_682),
    ],
)
def test_parameters_equal_the_published_count(
    name: str, classes: int, size: tuple[int, int], options: dict[str, Any], published: int
) -> None:
    assert sum(p.numel() for p in shapes_only(name, classes, size, **options).parameters()) == published


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.97), (0.75, 2.64), (1.4, 6.11)])
def test_narrow_and_wide_mobilenets_have_the_counts_timm_lists(width: float, millions: float) -> None:
    model = shapes_only("mobilenet-v2", 1000, LARGE, width=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_preact_resnet18_without_its_last_normalisation_has_the_other_count_in_use() -> None:
    model = shapes_only("preact-resnet18", 10, SMALL)
    last = sum(p.numel() for p in model.get_submodule("bn").parameters())
    assert sum(p.numel() for p in model.parameters()) - last == 11_171_146


@pytest.mark.parametrize(
    ("name", "options", "size", "positions"),
    [
        ("resnet18", {}, SMALL, (4, 4)),
        ("resnet18", {}, LARGE, (7, 7)),
        ("resnet50", {}, SMALL, (4, 4)),
        ("resnet50", {}, (127, 224), (16, 28)),
        ("resnet50", {}, (128, 160), (4, 5)),
        ("resnet50", {}, LARGE, (7, 7)),
        ("resnet50", {"stem": "cifar"}, LARGE, (28, 28)),
        ("resnet50", {"stem": "imagenet"}, SMALL, (1, 1)),
        ("mobilenet-v2", {}, SMALL, (4, 4)),
        ("mobilenet-v2", {}, LARGE, (7, 7)),
        ("mobilenet-v2", {"stem": "cifar"}, LARGE, (28, 28)),
        ("mobilenet-v2", {"stem": "imagenet"}, SMALL, (1, 1)),
        ("preact-resnet18", {}, SMALL, (4, 4)),
        ("wrn-28-10", {}, SMALL, (8, 8)),
    ],
)
def test_stems_divide_the_image_as_documented(
    name: str, options: dict[str, Any], size: tuple[int, int], positions: tuple[int, int]
) -> None:
    model = shapes_only(name, 10, size, **options)
    pools = [m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert len(pools) == 1
    seen: list[torch.Size] = []
    pools[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2:]))
    assert model(torch.empty(2, 3, *size, device="meta")).shape == (2, 10)
    assert seen == [positions]


@pytest.mark.parametrize(
    ("size", "options", "tokens"),
    [
        (SMALL, {}, 64),
        (LARGE, {}, 196),
        ((64, 64), {}, 256),
        ((64, 64), {"patch": 8}, 64),
        ((8, 8), {}, 4),
        ((20, 33), {}, 45),
        ((1, 1), {}, 1),
    ],
)
def test_a_transformer_has_a_token_per_patch_and_one_for_the_class(
    size: tuple[int, int], options: dict[str, Any], tokens: int
) -> None:
    model = shapes_only("vit-tiny", 10, size, **options)
    assert dict(model.named_parameters())["position"].shape == (1, tokens + 1, 192)
    assert model(torch.empty(2, 3, *size, device="meta")).shape == (2, 10)


def test_scaled_channels_are_multiples_of_eight_and_lose_at_most_a_tenth() -> None:
    assert [scaled(c, 1.0) for c in (16, 24, 32, 1280)] == [16, 24, 32, 1280]
    for width in (0.1, 0.35, 0.5, 0.75, 1.3, 1.4, 2.0):
        for channels in (16, 24, 32, 64, 96, 160, 320):
            found, wanted = scaled(channels, width), channels * width
            fits = [c for c in range(8, 1000, 8) if c >= 0.9 * wanted]
            assert found in fits
            assert found == min(fits) or abs(found - wanted) <= 4


def normed(x: Tensor, bn: nn.Module) -> Tensor:
    mean, var = (getattr(bn, n).view(-1, 1, 1) for n in ("running_mean", "running_var"))
    scale, shift = (getattr(bn, n).view(-1, 1, 1) for n in ("weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(8, 8, 1), (8, 16, 2), (4, 8, 1)])
def test_a_bottleneck_is_three_convolutions_beside_a_shortcut(inputs: int, outputs: int, stride: int) -> None:
    block, x = stirred(Bottleneck(inputs, outputs, stride)), some(2, inputs, 7, 6)
    w = dict(block.named_parameters())
    out = normed(F.conv2d(x, w["conv1.weight"]), block.bn1).clamp(min=0)
    out = normed(F.conv2d(out, w["conv2.weight"], stride=stride, padding=1), block.bn2).clamp(min=0)
    out = normed(F.conv2d(out, w["conv3.weight"]), block.bn3)
    same = stride == 1 and inputs == outputs
    kept = x if same else normed(F.conv2d(x, w["shortcut.0.weight"], stride=stride), block.shortcut[1])
    torch.testing.assert_close(block(x), (out + kept).clamp(min=0))
    assert w["conv2.weight"].shape == (outputs // 4, outputs // 4, 3, 3)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "expansion"), [(4, 4, 1, 6), (4, 4, 2, 6), (4, 6, 1, 1), (4, 4, 1, 1)]
)
def test_an_inverted_residual_filters_every_channel_alone(
    inputs: int, outputs: int, stride: int, expansion: int
) -> None:
    block, x = stirred(InvertedResidual(inputs, outputs, stride, expansion)), some(2, inputs, 7, 6)
    out = x
    if expansion > 1:
        out = normed(F.conv2d(out, block.expand[0].weight), block.expand[1]).clamp(0, 6)
    kernels = block.depthwise[0].weight
    assert kernels.shape == (inputs * expansion, 1, 3, 3)
    alone = [F.conv2d(out[:, c : c + 1], k[None], stride=stride, padding=1) for c, k in enumerate(kernels)]
    out = normed(torch.cat(alone, dim=1), block.depthwise[1]).clamp(0, 6)
    out = normed(F.conv2d(out, block.project[0].weight), block.project[1])
    torch.testing.assert_close(block(x), x + out if stride == 1 and inputs == outputs else out)


def as_torch(attention: SelfAttention, target: nn.Module) -> dict[str, Tensor]:
    return {
        "in_proj_weight": attention.qkv.weight,
        "in_proj_bias": attention.qkv.bias,
        "out_proj.weight": attention.out.weight,
        "out_proj.bias": attention.out.bias,
    }


def test_attention_equals_torchs_own() -> None:
    ours, theirs = stirred(SelfAttention(12, 3)), nn.MultiheadAttention(12, 3, batch_first=True).eval()
    theirs.load_state_dict(as_torch(ours, theirs))
    x = some(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_a_transformer_block_equals_torchs_own() -> None:
    ours = stirred(EncoderBlock(12, 3))
    options: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-6}
    theirs = nn.TransformerEncoderLayer(12, 3, 48, batch_first=True, norm_first=True, **options).eval()
    state = {f"self_attn.{name}": value for name, value in as_torch(ours.attention, theirs).items()}
    pairs = {"norm1": "norm1", "norm2": "norm2", "linear1": "mlp.0", "linear2": "mlp.2"}
    for name, own in pairs.items():
        state |= {f"{name}.{kind}": ours.get_parameter(f"{own}.{kind}") for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    x = some(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def thin(size: tuple[int, int], patch: int = 4) -> VisionTransformer:
    options = {"num_classes": 3, "channels": 2, "hidden": 12, "heads": 3, "depth": 2}
    return stirred(VisionTransformer(image_size=size, patch=patch, **options))  # type: ignore[arg-type, return-value]


def test_tokens_are_patches_in_reading_order_each_at_its_position() -> None:
    model, x = thin((8, 12)), some(2, 2, 8, 12)
    seen: list[Tensor] = []
    model.blocks.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x)
    kernels, bias = model.patches.weight.flatten(1), model.patches.bias
    patches = [x[:, :, r : r + 4, c : c + 4].flatten(1) @ kernels.T + bias for r in (0, 4) for c in (0, 4, 8)]
    tokens = torch.stack([model.token[0, 0].expand(2, 12), *patches], dim=1)
    torch.testing.assert_close(seen[0], tokens + model.position)


def test_a_patch_that_does_not_divide_the_image_is_filled_with_zeros() -> None:
    model, whole, x = thin((6, 9)), thin((8, 12)), some(2, 2, 6, 9)
    whole.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), whole(F.pad(x, (0, 3, 0, 2))))


def test_a_transformer_without_positions_does_not_see_the_order_of_patches() -> None:
    model, x = thin((4, 12)), some(2, 2, 4, 12)
    shifted = x.roll(4, dims=3)
    assert not torch.allclose(model(shifted), model(x))
    with torch.no_grad():
        model.position.zero_()
    torch.testing.assert_close(model(shifted), model(x))


def test_a_transformer_starts_as_published() -> None:
    torch.manual_seed(0)
    model = MODELS["vit-tiny"](num_classes=10, channels=3, image_size=SMALL, depth=2)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
    patches = model.get_parameter("patches.weight")
    assert patches.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert model.get_parameter("position").std().item() == pytest.approx(0.02, rel=0.05)


class OnlyAttention(nn.Module):
    """A user's network whose one prunable layer is torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2)
        return self.attention(rows, rows, rows)[0].mean(dim=1)


def test_a_users_network_may_consist_of_attention() -> None:
    model = OnlyAttention()
    check_model(model, num_classes=4, channels=1, image_size=(4, 4))
    assert list(prunable_weights(model)) == ["attention.in_proj_weight", "attention.out_proj.weight"]
