"""Noisy ensembles: the noise layer against a plain loop, its statistics, its limits, and where it comes from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import MODELS, build_model
from hedgerow.models.en_resnet import BlockNoise, EnResNet, en_resnet20
from hedgerow.models.wide_resnet import WideResNet
from hedgerow.sparsity import attach_masks, bake, prunable_weights, shared_weights
from hedgerow.stochastic import is_stochastic

SMALL = {"num_classes": 10, "channels": 1, "depth": 10, "width": 1}


def small(members: int = 2, **options) -> EnResNet:
    torch.manual_seed(0)
    return EnResNet(members=members, **{**SMALL, "noise": 0.1, "noise_std": "sample", **options}).eval()


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def seeded(model: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(x)


def noises(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each noise layer adds to its input in one forward, in units of `scale * std`."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        spread = given[0].std((1, 2, 3), keepdim=True)
        found.append((out - given[0]) / (layer.scale * spread))

    layers = [m for m in model.modules() if isinstance(m, BlockNoise)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    seeded(model, x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("name", "count"), [("1", 272_282), ("2", 544_564), ("5", 1_361_410)])
def test_parameters_are_those_of_the_paper(name, count):
    model = MODELS[f"en{name}-resnet20"](num_classes=10, channels=3, image_size=(32, 32))
    assert sum(p.numel() for p in model.parameters()) == count
    assert all(p.requires_grad for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, BlockNoise)]
    assert len(layers) == int(name) * 9, "one after every block, none after stem and head"
    assert {(layer.scale, layer.std) for layer in layers} == {(0.1, "sample")}
    assert is_stochastic(model)


def test_without_noise_one_member_is_the_wide_resnet_bit_for_bit():
    shape = {"num_classes": 10, "channels": 3, "image_size": (16, 16), "mean": [0.5] * 3, "std": [0.25] * 3}
    options = {"depth": 22, "width": 1}
    plain = build_model("wrn-28-4", seed=3, options=options, **shape)
    member = build_model("en1-resnet20", seed=3, options={**options, "noise": 0}, **shape)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), member.parameters(), strict=True))
    x = torch.rand(4, 3, 16, 16)
    for training in (True, False):
        assert torch.equal(plain.train(training)(x), member.train(training)(x))
    assert not is_stochastic(member)


def test_the_output_is_the_mean_of_the_members_logits():
    model, x = small(3, noise=0), images()
    alone = torch.stack([member(x) for member in model.members])
    torch.testing.assert_close(model(x), alone.mean(0))
    assert not torch.allclose(alone[0], alone[1], atol=1e-3), "the members start apart"
    noisy, dice = small(3), torch.get_rng_state()
    together = noisy(x)
    torch.set_rng_state(dice)
    torch.testing.assert_close(together, torch.stack([member(x) for member in noisy.members]).mean(0))


def test_without_noise_the_noise_layer_is_the_identity_and_draws_nothing():
    x, state = images(), torch.get_rng_state()
    assert BlockNoise(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("std", ["sample", "batch"])
def test_the_noise_layer_is_the_formula(std):
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64) * torch.arange(1, 6).view(-1, 1, 1, 1)
    layer = BlockNoise(0.3, std)
    layer.generator = torch.Generator().manual_seed(8)
    noise = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    expected = []
    for one, drawn in zip(x, noise, strict=True):
        entries = one.flatten() if std == "sample" else x.flatten()
        mean = sum(entries) / len(entries)
        variance = sum((e - mean) ** 2 for e in entries) / (len(entries) - 1)
        expected.append(one + 0.3 * variance.sqrt() * drawn)
    torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_each_sample_gets_gaussian_noise_of_its_own_size():
    torch.manual_seed(2)
    sizes = torch.tensor([0.1, 1.0, 30.0]).view(-1, 1, 1, 1)
    x = torch.randn(3, 16, 64, 64) * sizes
    layer = BlockNoise(0.1)
    added = (layer(x) - x) / (0.1 * sizes)
    for sample in added.flatten(1):
        assert sample.mean().abs() < 0.02
        assert sample.std().item() == pytest.approx(1, abs=0.02)
        assert (sample.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert torch.equal(layer(torch.full((2, 1, 4, 4), 0.7)), torch.full((2, 1, 4, 4), 0.7)), "no spread, no noise"
    assert torch.equal(layer(torch.ones(2, 1, 1, 1)), torch.ones(2, 1, 1, 1)), "nor where there is one entry"


def test_noise_is_independent_for_each_block_member_sample_and_call():
    model, x = small(2), images(6)
    first = noises(model, x)
    assert len(first) == 6
    drawn = [sample.flatten()[:256] for layer in first for sample in layer]
    second = seeded(model, x, 0), seeded(model, x, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        calls = model(x), model(x)
    assert not torch.equal(*second)
    assert not torch.equal(*calls)
    table = torch.corrcoef(torch.stack(drawn))
    off = table[~torch.eye(len(drawn), dtype=torch.bool)]
    assert off.abs().max() < 0.32, "of 256 entries: five standard deviations"


@pytest.mark.parametrize("training", [True, False])
def test_noise_is_on_in_training_and_in_evaluation(training):
    model, x = small(1).train(training), images()
    assert not torch.equal(seeded(model, x, 0), seeded(model, x, 1))
    if not training:
        assert torch.equal(seeded(model, x, 0), seeded(model, x, 0))


def test_shared_noise_is_that_of_one_image():
    x = torch.randn(1, 3, 8, 8).expand(5, 3, 8, 8)
    layer = BlockNoise(0.1)
    assert not torch.equal(layer(x)[0], layer(x)[1])
    layer.shared = True
    torch.manual_seed(4)
    together = layer(x)
    assert all(torch.equal(together[0], other) for other in together)
    torch.manual_seed(4)
    assert torch.equal(layer(x[:1])[0], together[0])


def test_the_noise_depends_on_the_batch_only_with_the_batchs_spread():
    x = images(4)
    x[0] *= 10
    for std, alike in (("sample", True), ("batch", False)):
        layer = BlockNoise(0.5, std)
        layer.shared = True
        whole, part = seeded(layer, x), seeded(layer, x[1:])
        assert torch.equal(whole[1:], part) == alike


def test_copies_and_reloaded_states_draw_alike():
    model, x = small(), images()
    other = small(noise=0.1)
    torch.manual_seed(9)
    for p in other.parameters():
        nn.init.normal_(p)
    other.load_state_dict(model.state_dict())
    expected = seeded(model, x)
    assert torch.equal(seeded(copy.deepcopy(model), x), expected)
    assert torch.equal(seeded(other, x), expected)
    plain = WideResNet(**SMALL).state_dict()
    assert len(model.state_dict()) == 2 * len(plain), "the noise has no state"


def test_channels_last_and_bf16_change_the_noise_by_rounding_alone():
    model, x = small(), images()
    expected = seeded(model, x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(seeded(last, x.contiguous(memory_format=torch.channels_last)), expected)
    features = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    assert BlockNoise(0.1)(features).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = seeded(model, x)
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()
    assert BlockNoise(0.1)(features.bfloat16()).dtype == torch.bfloat16


def test_gradients_pass_through_the_noise_and_its_size():
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def noisy(values: Tensor) -> Tensor:
        layer = BlockNoise(0.5)
        layer.generator = torch.Generator().manual_seed(3)
        return layer(values)

    assert torch.autograd.gradcheck(noisy, x)


def test_masked_members_train_where_the_mask_is_open():
    model, x = small(2).train(), images()
    masks = {
        name: torch.rand(weight.dense.shape, generator=torch.Generator().manual_seed(i)) > 0.5
        for i, (name, weight) in enumerate(prunable_weights(model).items())
    }
    attach_masks(model, masks)
    with shared_weights(model):
        model(x).logsumexp(1).sum().backward()
    for name, weight in prunable_weights(model).items():
        assert weight.dense.grad.isfinite().all()
        assert not weight.dense.grad[~masks[name]].any()
    expected = seeded(model.eval(), x)
    bake(model, masks)
    assert torch.equal(seeded(model, x), expected)
    assert is_stochastic(model)


def test_any_number_of_members_by_factory():
    path = "hedgerow.models.en_resnet:en_resnet20"
    model = build_model(
        path,
        num_classes=3,
        channels=1,
        image_size=(8, 8),
        mean=[0.5],
        std=[0.5],
        options={"members": 3, "depth": 10},
    )
    assert len(model.members) == 3
    assert model(images()).shape == (4, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": -0.1}, "noise is -0.1.*at least 0"),
        ({"noise": float("inf")}, "noise is inf"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"noise": True}, "noise is True"),
        ({"noise": "much"}, "noise is 'much'"),
        ({"noise_std": "layer"}, "noise_std is 'layer'.*'sample' or of the 'batch'"),
        ({"members": 0}, "members is 0.*at least 1"),
        ({"members": 1.5}, "members is 1.5"),
        ({"depth": 20}, r"depth is 6 n \+ 4.*not 20"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        en_resnet20(**{"num_classes": 3, "channels": 1, "image_size": (8, 8), "members": 1, **options})


def test_an_option_of_another_network_is_refused_by_name():
    with pytest.raises(ModelError, match="no option 'nois'; did you mean 'noise'"):
        build_model(
            "en2-resnet20",
            num_classes=3,
            channels=1,
            image_size=(8, 8),
            mean=[0.5],
            std=[0.5],
            options={"nois": 0.1},
        )
