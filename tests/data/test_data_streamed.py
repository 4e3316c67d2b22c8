"""Streamed images are those of the resident path, in its order, however many processes decode them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_writers import image_bytes
from PIL import Image
from torch import Tensor

from hedgerow.data import Dataset, Reading, Split, StreamedSplit, epoch_batches, load_dataset
from hedgerow.data.crops import random_box
from hedgerow.errors import DataError
from hedgerow.seeds import generator
from hedgerow.team import Team

Batches = list[tuple[Tensor, Tensor]]
EPOCH: dict[str, Any] = {"batch_size": 5, "seed": 3, "epoch": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ä cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)
                (tmp_path / "pets" / part / name / f"{i}.png").write_bytes(image_bytes(pixels))
    return tmp_path / "pets"


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset("folder", path=root, validation=4, **{"image_size": 16, "workers": 0, **options})


def streamed(root: Path, **options: Any) -> StreamedSplit:
    split = load(root, stream=True, **options).train
    assert isinstance(split, StreamedSplit)
    return split


def same(found: Batches, expected: Batches) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(found, expected, strict=True)
    )


def test_every_split_is_the_resident_one(root: Path) -> None:
    for (name, split), whole in zip(
        load(root, stream=True).splits.items(), load(root).splits.values(), strict=True
    ):
        assert isinstance(split, StreamedSplit), name
        assert isinstance(whole, Split), name
        assert torch.equal(split.resident().images, whole.images)
        assert torch.equal(split.labels, whole.labels)
        assert torch.equal(split.positions, whole.positions)
        index = torch.tensor([3, 0, 3])
        assert torch.equal(split.pixels(index), whole.pixels(index))
        assert torch.equal(split.pixels(slice(0, 2)), whole.pixels(slice(0, 2)))
        taken = split.take(3, seed=5)
        assert torch.equal(taken.resident().images, whole.take(3, seed=5).images)
        assert torch.equal(taken.select(torch.tensor([2])).positions, taken.positions[2:])
        assert split.take(None, 0) is split
        assert whole.resident() is whole
    assert load(root, stream=True).mean == load(root).mean  # there are fewer images than are measured
    assert load(root, stream=True).std == load(root).std


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_resident_ones(root: Path, workers: int) -> None:
    options = {**EPOCH, "augment": ("crop", "flip")}
    expected = list(epoch_batches(load(root).train, **options))
    assert same(list(epoch_batches(streamed(root, workers=workers), **options)), expected)


@pytest.mark.parametrize("augment", [("crop", "flip"), ("resized-crop", "flip"), ()])
def test_workers_starts_and_parts_change_nothing(root: Path, augment: tuple[str, ...]) -> None:
    options = {**EPOCH, "augment": augment}
    whole = list(epoch_batches(streamed(root), **options))
    assert [len(y) for _, y in whole] == [5, 5, 5, 5]
    assert same(list(epoch_batches(streamed(root, workers=2), **options, start=1)), whole[1:])
    shares = [
        list(epoch_batches(streamed(root, workers=rank), **options, part=Team(rank, 2).part)) for rank in (0, 1)
    ]
    joined = [tuple(map(torch.cat, zip(a, b, strict=True))) for a, b in zip(*shares, strict=True)]
    assert same(joined, whole)  # type: ignore[arg-type]
    assert not same(list(epoch_batches(streamed(root), **{**options, "epoch": 3})), whole)


def test_a_process_decodes_its_own_part_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hedgerow.data import workers

    read: list[str] = []
    real = workers.read_image
    monkeypatch.setattr(workers, "read_image", lambda path, **k: read.append(path) or real(path, **k))
    list(epoch_batches(streamed(root), **EPOCH, augment=("flip",), part=Team(0, 2).part))
    assert len(read) == 4 * 2
    assert len(set(read)) == len(read)


def test_random_parts_are_cut_out_of_the_file_itself(root: Path) -> None:
    split = streamed(root)
    found = list(epoch_batches(split, **EPOCH, augment=("resized-crop",)))
    order = torch.randperm(20, generator=generator(3, "order", 2))
    for step, (images, labels) in enumerate(found):
        dice = torch.rand(5, 10, 4, generator=generator(3, "resized-crop", 2, step)).tolist()
        for image, label, place, tries in zip(images, labels, order[5 * step :], dice, strict=False):
            with Image.open(split.paths([int(place)])[0]) as picture:
                box = random_box(*picture.size, tries)
                slow = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR, box=box))
            assert np.array_equal(image.mul(255).round().permute(1, 2, 0).numpy(), slow)
            assert label == split.labels[place]


def test_global_random_numbers_are_left_alone(root: Path) -> None:
    torch.manual_seed(0)
    list(epoch_batches(streamed(root, workers=1), **EPOCH, augment=("resized-crop",)))
    found = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(3))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_named(root: Path, workers: int) -> None:
    split = streamed(root, workers=workers)
    victims = split.paths()[:2]
    Path(victims[0]).write_bytes(b"no image")
    Path(victims[1]).write_bytes(Path(victims[1]).read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        list(epoch_batches(split, **{**EPOCH, "batch_size": 20}))
    text = str(caught.value)
    assert "2 of 20 images cannot be read; repair or remove them" in text
    assert f"{victims[0]}: not an image in a format that Pillow reads" in text
    assert f"{victims[1]}: " in text
    with pytest.raises(DataError, match="2 of 20 images cannot be read"):
        split.resident()


def test_a_worker_that_ends_is_a_message(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hedgerow.data import workers

    monkeypatch.setattr(workers, "read_image", lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        DataError, match=r"a process that decodes images has ended: DataLoader worker .* lower data.workers"
    ):
        list(epoch_batches(streamed(root, workers=1), **EPOCH))


def test_other_runtime_errors_are_not_taken_for_that() -> None:
    from hedgerow.data import worker_errors

    with pytest.raises(RuntimeError, match="own"), worker_errors():
        raise RuntimeError("own")


def test_what_does_not_fit_is_streamed_and_never_decoded_whole(root: Path) -> None:
    bytes_of_all = 48 * 3 * 16 * 16
    small, large = (bytes_of_all - 1) / 2**30, bytes_of_all / 2**30
    assert isinstance(load(root, memory=large).train, Split)
    split = load(root, memory=small).train
    assert isinstance(split, StreamedSplit)
    assert len(list(epoch_batches(split, **EPOCH))) == 4
    with pytest.raises(
        DataError, match=r"20 images of .*train: at 16x16 they would take .* GiB decoded, and data"
    ):
        split.resident()
    assert split.take(3, 0).pixels().shape == (3, 3, 16, 16)


def test_grey_is_asked_for(root: Path) -> None:
    split, whole = streamed(root, grey=True), load(root, grey=True).train
    assert split.shape == (1, 16, 16)
    assert same(list(epoch_batches(split, **EPOCH)), list(epoch_batches(whole, **EPOCH)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "image_size is 0; it counts pixels"),
        ({"image_size": 8, "workers": -1}, "workers is -1; it counts processes"),
        ({"image_size": 8, "memory": 0}, "memory is 0; it is in GiB"),
    ],
)
def test_readings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Reading(**options)


def test_streaming_needs_a_size(root: Path) -> None:
    with pytest.raises(DataError, match="stream: true needs image_size"):
        load(root, stream=True, image_size=None)


def test_splits_that_cannot_be(root: Path) -> None:
    split = streamed(root)
    with pytest.raises(DataError, match="the split is empty"):
        split.select(torch.tensor([], dtype=torch.int64))
    with pytest.raises(DataError, match=r"torch.float32 \[20\]; expected one int64 for each of the 20 files"):
        StreamedSplit(split.root, split.files, split.labels.float(), split.reading)
    with pytest.raises(DataError, match="cannot start at step 9"):
        epoch_batches(split, **EPOCH, start=9)


MEASURE = """
import resource, sys, torch
from hedgerow.data import epoch_batches, load_dataset
split = load_dataset("folder", path=sys.argv[1], validation=40, image_size=224, stream=True, workers=2).train
options = dict(batch_size=32, seed=0, augment=("resized-crop", "flip"))
warm = split.select(torch.arange(64))
list(epoch_batches(warm, epoch=0, **options))
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
before, workers = peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)
seen = sum(len(x) for x, _ in epoch_batches(split, epoch=1, **options))
print(seen, peak(resource.RUSAGE_SELF) - before, peak(resource.RUSAGE_CHILDREN) - workers)
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """760 images take 109 MiB decoded, 436 as float32; what grows is what a few batches of 4.6 MiB take."""
    content = image_bytes(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), "JPEG")
    for part, n in (("train", 400), ("test", 1)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                (tmp_path / part / name / f"{i}.jpg").write_bytes(content)
    words = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seen, grown, grown_worker = map(float, done.stdout.split())
    assert seen == 760
    assert grown < 40, done.stdout
    assert grown_worker < 40, done.stdout
