from __future__ import annotations

import pytest
import torch

from hedgerow.data import Split, epoch_batches, steps_per_epoch
from hedgerow.errors import DataError
from hedgerow.registry import UnknownNameError


def split(n: int = 50) -> Split:
    images = torch.randint(0, 256, (n, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images, torch.arange(n))


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last", "steps"),
    [
        (50, 10, False, 5),
        (50, 10, True, 5),
        (55, 10, False, 6),
        (55, 10, True, 5),
        (51, 10, False, 5),  # a last batch of one
        (52, 10, False, 6),
        (1, 10, False, 1),  # of one, but the only one
        (5, 10, False, 1),
        (5, 1, False, 5),
    ],
)
def test_steps_per_epoch(n, batch_size, drop_last, steps):
    assert steps_per_epoch(n, batch_size, drop_last) == steps
    batches = list(epoch_batches(split(n), batch_size=batch_size, seed=0, epoch=0, drop_last=drop_last))
    assert len(batches) == steps


def test_every_image_once_with_its_label():
    s = split(50)
    batches = list(epoch_batches(s, batch_size=8, seed=1, epoch=2))
    labels = torch.cat([y for _, y in batches])
    assert sorted(labels.tolist()) == list(range(50))
    assert torch.equal(torch.cat([x for x, _ in batches]), s.pixels(labels))
    assert all(x.dtype == torch.float32 and y.dtype == torch.int64 for x, y in batches)


def test_order_depends_on_seed_and_epoch():
    s = split()

    def order(seed, epoch):
        return [y.tolist() for _, y in epoch_batches(s, batch_size=8, seed=seed, epoch=epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("augment", [(), ("crop",), ("crop", "flip"), ("flip", "crop")])
def test_restart_equals_uninterrupted(augment):
    options = {"batch_size": 8, "seed": 4, "epoch": 3, "augment": augment}
    whole = list(epoch_batches(split(), **options))
    for start in range(len(whole) + 1):
        assert same(list(epoch_batches(split(), **options, start=start)), whole[start:])


def test_augmentation_keeps_the_order_and_the_range():
    options = {"batch_size": 8, "seed": 4, "epoch": 3}
    plain = list(epoch_batches(split(), **options))
    changed = list(epoch_batches(split(), **options, augment=("crop", "flip")))
    for (x, y), (u, v) in zip(plain, changed, strict=True):
        assert torch.equal(y, v)
        assert not torch.equal(x, u)
        assert float(u.min()) >= 0
        assert float(u.max()) <= 1


def test_steps_are_augmented_differently():
    images = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    s = Split(images, torch.zeros(64, dtype=torch.int64))
    first, second = (x for x, _ in epoch_batches(s, batch_size=32, seed=0, epoch=0, augment=("crop",)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, DataError, "batch_size is 0"),
        ({"batch_size": 51, "drop_last": True}, DataError, "drop_last leaves no batch"),
        ({"start": 8}, DataError, "cannot start at step 8: the epoch has 7 steps"),
        ({"start": -1}, DataError, "cannot start at step -1"),
        ({"augment": ("crops",)}, UnknownNameError, "did you mean 'crop'"),
    ],
)
def test_errors_come_before_the_first_batch(changes, error, message):
    with pytest.raises(error, match=message):
        epoch_batches(split(), **{"batch_size": 8, "seed": 0, "epoch": 0, **changes})


@pytest.mark.gpu
def test_gpu_gives_the_batches_of_a_cpu():
    options = {"batch_size": 8, "seed": 4, "epoch": 3, "augment": ("crop", "flip")}
    on_gpu = [(x.cpu(), y.cpu()) for x, y in epoch_batches(split().to("cuda"), **options)]
    assert same(on_gpu, list(epoch_batches(split(), **options)))
