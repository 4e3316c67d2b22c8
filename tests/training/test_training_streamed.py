"""Training on streamed images: the same network as on resident ones, and the same when it is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import phase_cases
import pytest
import torch
from phase_cases import THREAT, Recorder, Stop, Trained, plan, run_phase, same_state
from PIL import Image

from hedgerow.data import AnySplit, Reading, Split, StreamedSplit
from hedgerow.data.streamed import listed_files
from hedgerow.objectives import OBJECTIVES
from hedgerow.training import Setting, train


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> StreamedSplit:
    """The digits of `split`, each in a file."""
    folder, split = tmp_path_factory.mktemp("digits"), phase_cases.digits()
    names = [f"{i:03}.png" for i in range(len(split))]
    for name, image in zip(names, split.images, strict=True):
        Image.fromarray(image[0].numpy()).save(folder / name)
    reading = Reading(image_size=8, grey=True, workers=0)
    return StreamedSplit(str(folder), listed_files(names), split.labels, reading)


def with_workers(split: StreamedSplit, workers: int) -> StreamedSplit:
    reading = Reading(image_size=8, grey=True, workers=workers)
    return StreamedSplit(split.root, split.files, split.labels, reading)


def trained(split: AnySplit, folder: Path | None = None, **options: Any) -> Trained:
    return run_phase(split, "pretrain", folder, **options)  # type: ignore[arg-type]


def test_the_network_is_that_of_resident_images(files: StreamedSplit, split: Split) -> None:
    found, expected = trained(with_workers(files, 1)), trained(split)
    assert same_state(found.state, expected.state)
    assert found.losses == expected.losses


@pytest.mark.parametrize(("stop", "again"), [((1, 2), (1, 2)), ((0, 1), (0, 1)), ((1, None), (1, 3))])
def test_interrupted_and_resumed_equals_uninterrupted(
    files: StreamedSplit, tmp_path: Path, stop: tuple[int, int | None], again: tuple[int, int]
) -> None:
    how = plan(augment=("resized-crop", "flip"))
    whole = trained(files, how=how)
    with pytest.raises(Stop):
        trained(with_workers(files, 2), tmp_path, how=how, save_every=0.0, recorder=Recorder(stop=stop))
    resumed = trained(with_workers(files, 1), tmp_path, how=how)
    assert min(resumed.losses) == again  # it went on in the middle, it did not start again
    assert same_state(resumed.state, whole.state)
    assert resumed.outcome.images == whole.outcome.images == 360
    assert {place: whole.losses[place] for place in resumed.losses} == resumed.losses


def test_random_parts_do_make_another_network(files: StreamedSplit) -> None:
    assert not same_state(trained(files, how=plan(augment=("resized-crop",))).state, trained(files).state)


def test_replays_stay_with_their_batch(files: StreamedSplit, split: Split) -> None:
    states = []
    for images in (split, with_workers(files, 1)):
        net, objective = phase_cases.model(), OBJECTIVES["free-at"](THREAT, replays=3)
        setting = Setting(seed=3, accelerator="cpu")
        outcome = train(net, images, objective, plan=plan(batch_size=50, epochs=2), setting=setting)
        assert outcome.images == 2 * 3 * 120  # of batches of 50, 50 and 20
        states.append(net.state_dict())
    assert same_state(*states)


def test_waiting_for_images_is_training_time(files: StreamedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    from hedgerow.data import workers

    clock = [0.0]
    real = workers.read_image
    monkeypatch.setattr("hedgerow.training.loop.time.monotonic", lambda: clock[0])

    def slow(path: str, **options: Any) -> Any:
        clock[0] += 1.0
        return real(path, **options)

    monkeypatch.setattr(workers, "read_image", slow)
    setting = Setting(seed=3, accelerator="cpu")
    objective = OBJECTIVES["natural"]()
    outcome = train(phase_cases.model(), files, objective, plan=plan(epochs=2), setting=setting)
    assert outcome.seconds == pytest.approx(240.0)
    assert torch.is_tensor(files.labels)
