from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from hedgerow.data import SOURCES, Raw, Split, load_dataset
from hedgerow.errors import DataError
from hedgerow.registry import UnknownNameError


def raw() -> Raw:
    """Images that carry their own number, so that any of them can be told apart."""

    def split(count: int, offset: int) -> Split:
        number = torch.arange(count) + offset
        images = torch.stack([number // 256, number % 256], 1).to(torch.uint8).view(count, 2, 1, 1)
        return Split(images, torch.arange(count) % 5)

    return Raw("Numbers", tuple("abcde"), split(100, 0), split(20, 10_000))


@pytest.fixture
def source(monkeypatch):
    """A registry entry that goes away with the test."""

    def add(make):
        monkeypatch.setitem(SOURCES._parts, "numbers", make)

    add(raw)
    return add


def numbers(split: Split) -> set[int]:
    return {int(a) * 256 + int(b) for a, b in split.images.view(len(split), 2)}


def test_splits_never_share_an_image(source):
    d = load_dataset("numbers", validation=0.2)
    train, validation, test = numbers(d.train), numbers(d.validation), numbers(d.test)
    assert (len(train), len(validation), len(test)) == (80, 20, 20)
    assert train | validation == set(range(100))
    assert test == set(range(10_000, 10_020))


def test_positions_point_into_the_source(source):
    d = load_dataset("numbers", validation=0.2, train_limit=50, test_limit=10)
    whole = raw()
    for split, origin in ((d.train, whole.train), (d.validation, whole.train), (d.test, whole.test)):
        assert torch.equal(split.images, origin.images[split.positions])
        assert torch.equal(split.labels, origin.labels[split.positions])


@pytest.mark.parametrize(("validation", "count"), [(0.1, 10), (10, 10), (0.5, 50), (1, 1), (0.001, 1)])
def test_validation_as_share_or_count(source, validation, count):
    d = load_dataset("numbers", validation=validation)
    assert (len(d.validation), len(d.train)) == (count, 100 - count)


def test_everything_is_stratified(source):
    d = load_dataset("numbers", validation=0.2, train_limit=50, test_limit=10)
    for split, each in ((d.train, 8), (d.validation, 2), (d.test, 2)):
        assert torch.bincount(split.labels).tolist() == [each] * 5


def test_seeded(source):
    options = {"validation": 0.2, "train_limit": 50, "test_limit": 10}

    def drawn(seed):
        d = load_dataset("numbers", seed=seed, **options)
        return [s.positions.tolist() for s in d.splits.values()]

    assert drawn(0) == drawn(0)
    assert all(a != b for a, b in zip(drawn(0), drawn(1), strict=True))


def test_without_a_limit_the_test_set_is_untouched(source):
    assert torch.equal(load_dataset("numbers", seed=0).test.images, raw().test.images)
    assert load_dataset("numbers", test_limit=1000, train_limit=1000).test.positions.tolist() == list(range(20))


def test_label_and_name(source):
    assert load_dataset("numbers").label == "Numbers"
    assert load_dataset("numbers", label="Mine").label == "Mine"
    assert load_dataset("numbers").name == "numbers"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0}, "validation=0"),
        ({"validation": -3}, "validation=-3"),
        ({"validation": 0.0}, "validation=0.0"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"validation": True}, "validation=True"),
        ({"validation": 100}, "validation=100 of 100 training images leaves none"),
        ({"validation": 96}, "numbers: validation=96 of 100 .* 95 is the most"),
        ({"train_limit": 0}, "train_limit=0"),
        ({"test_limit": 0}, "test_limit=0"),
        ({"path": "x"}, "takes no path"),
        ({"image_size": 3}, "no option 'image_size' .it has: none"),
    ],
)
def test_errors(source, options, message):
    with pytest.raises(DataError, match=message):
        load_dataset("numbers", **options)


def test_option_misspelt_and_path_missing():
    with pytest.raises(DataError, match=r"did you mean 'image_size'.*needs a path"):
        load_dataset("folder", imagesize=3)


def test_unknown_source():
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_dataset("digit")


def test_a_source_with_a_wrong_label_is_refused(source):
    bad = raw()
    bad.test.labels[7] = 5
    source(lambda: bad)
    with pytest.raises(DataError, match="numbers, test: label 5 at position 7, and 5 classes"):
        load_dataset("numbers")


def test_a_source_may_take_any_option(source):
    seen = {}
    source(lambda **options: seen.update(options) or raw())
    load_dataset("numbers", path="here", anything=1)
    assert str(seen["path"]) == "here"
    assert seen["anything"] == 1


def test_every_source_has_a_summary():
    assert {"cifar10", "cifar100", "digits", "folder", "svhn"} <= set(SOURCES)
    assert all(SOURCES.summary(name) for name in SOURCES)


def test_digits():
    d = load_dataset("digits")
    assert d.label == "Digits 8x8 (scikit-learn)"
    assert (d.num_classes, d.channels, d.image_size) == (10, 1, (8, 8))
    assert len(d.train) + len(d.validation) == 1438
    assert len(d.test) == 359
    assert int(d.train.images.max()) == 255
    shares = torch.bincount(d.test.labels) / torch.from_numpy(load_digits().target).bincount()
    assert shares.tolist() == pytest.approx([0.2] * 10, abs=0.01)


def test_digits_are_scaled_by_rounding():
    whole = SOURCES["digits"]()
    ours = sorted(torch.cat([whole.train.images, whole.test.images]).flatten(1).tolist())
    assert ours == sorted([round(v * 255 / 16) for v in x] for x in load_digits().data.tolist())


def test_digits_test_set_does_not_depend_on_the_seed():
    a, b = load_dataset("digits", seed=0), load_dataset("digits", seed=1)
    assert torch.equal(a.test.images, b.test.images)
    assert not torch.equal(a.validation.images, b.validation.images)
