"""Kept batches: a killed evaluation goes on where it stood, and nothing stale is believed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hedgerow.evaluation import Evaluated, Protocol, chunks, evaluate
from hedgerow.threat import ThreatModel

N, SIZE, CHUNKS = 50, 20, 3
PROTOCOL = Protocol(pgd_steps=5, pgd_restarts=2, autoattack=False, batch_size=SIZE, integrity=0)


class Bench:
    """Evaluations of one setting into one folder; counts how many batches were attacked."""

    def __init__(self, trained: Any, folder: Path) -> None:
        self.setting = {
            "model": trained.model,
            "x": trained.x[:N],
            "y": trained.y[:N],
            "threat": trained.threat,
            "protocol": PROTOCOL,
        }
        self.folder = folder
        self.attacked = 0

    def run(self, folder: Path | None = None, **changes: Any) -> Evaluated:
        setting = {**self.setting, **changes}
        return evaluate(setting.pop("model"), setting.pop("x"), setting.pop("y"), folder=folder, **setting)

    def again(self, **changes: Any) -> tuple[Evaluated, int]:
        """The evaluation with the folder, and the number of batches that were attacked for it."""
        before = self.attacked
        return self.run(self.folder, **changes), self.attacked - before

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture
def bench(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(trained, tmp_path / "evaluation")
    original = chunks.pgd

    def counting(*given: Any, **options: Any) -> Any:
        bench.attacked += 1
        return original(*given, **options)

    monkeypatch.setattr(chunks, "pgd", counting)
    return bench


def equal(one: Evaluated, other: Evaluated) -> bool:
    def plain(found: Evaluated) -> dict[str, Any]:
        record = found.record.model_dump()
        for measure in record["measures"].values():
            del measure["seconds"]
        return record

    return plain(one) == plain(other) and torch.equal(one.adversarial, other.adversarial)


def test_a_folder_changes_nothing_but_keeps_one_file_for_each_batch(bench: Bench) -> None:
    plain = bench.run()
    kept, attacks = bench.again()
    assert attacks == CHUNKS
    assert equal(kept, plain)
    assert [file.name for file in bench.files()] == [f"chunk-{i:04d}.safetensors" for i in range(CHUNKS)]
    second, attacks = bench.again()
    assert attacks == 0
    assert equal(second, plain)
    assert second.record.measures == kept.record.measures, "seconds too: they are those of the attack"


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        lambda file: file.write_bytes(file.read_bytes()[:5]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"not tensors at all" * 20),
    ],
    ids=["deleted", "halved", "cut in the header", "emptied", "overwritten"],
)
def test_a_spoilt_batch_alone_is_computed_again(bench: Bench, chunk: int, spoil: Callable[[Path], object]) -> None:
    first, _ = bench.again()
    spoilt = bench.files()[chunk]
    untouched = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in bench.files() if f != spoilt}
    spoil(spoilt)
    second, attacks = bench.again()
    assert attacks == 1
    assert equal(second, first)
    assert len(bench.files()) == CHUNKS
    for file, (time, content) in untouched.items():
        assert file.stat().st_mtime_ns == time
        assert file.read_bytes() == content


def test_a_killed_evaluation_goes_on(bench: Bench) -> None:
    def kill(done: int, total: int) -> None:
        if done == 2 * SIZE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.again(progress=kill)
    assert bench.attacked == len(bench.files()) == 2
    resumed, attacks = bench.again()
    assert attacks == 1
    assert equal(resumed, bench.run())


def other_weights(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[6].weight[0, 0] += 1e-3
    return other


def other_statistics(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other[1].running_mean[0] += 1e-3
    return other


def other_layers(model: nn.Module) -> nn.Module:
    return nn.Sequential(*[nn.LeakyReLU(0.3) if isinstance(layer, nn.ReLU) else layer for layer in model])


@pytest.mark.parametrize("change", [other_weights, other_statistics, other_layers])
def test_batches_of_another_model_are_not_used(bench: Bench, change: Callable[[nn.Module], nn.Module]) -> None:
    bench.again()
    model = change(bench.setting["model"])
    found, attacks = bench.again(model=model)
    assert attacks == CHUNKS
    assert equal(found, bench.run(model=model))


@pytest.mark.parametrize(
    "change",
    [
        {"threat": ThreatModel("linf", "1/9")},
        {"threat": ThreatModel("l2", "1/8")},
        {"protocol": Protocol(pgd_steps=6, pgd_restarts=2, autoattack=False, batch_size=SIZE, integrity=0)},
        {"protocol": Protocol(pgd_steps=5, pgd_restarts=1, autoattack=False, batch_size=SIZE, integrity=0)},
        {
            "protocol": Protocol(
                pgd_steps=5, pgd_restarts=2, autoattack=False, batch_size=SIZE, seed=1, integrity=0
            )
        },
        {"protocol": Protocol(pgd_steps=5, pgd_restarts=2, autoattack=False, batch_size=25, integrity=0)},
    ],
    ids=["eps", "norm", "steps", "restarts", "seed", "batch size"],
)
def test_batches_of_another_protocol_are_not_used(bench: Bench, change: dict[str, Any]) -> None:
    bench.again()
    found, attacks = bench.again(**change)
    assert attacks == (2 if getattr(change.get("protocol"), "batch_size", SIZE) == 25 else CHUNKS)
    assert equal(found, bench.run(**change))


def test_only_the_batch_whose_images_changed_is_computed_again(bench: Bench) -> None:
    bench.again()
    x, y = bench.setting["x"].clone(), bench.setting["y"].clone()
    x[SIZE, 0, 0, 0] = 1 - x[SIZE, 0, 0, 0]
    _, attacks = bench.again(x=x)
    assert attacks == 1
    y[-1] = (y[-1] + 1) % 10
    found, attacks = bench.again(x=x, y=y)
    assert attacks == 1
    assert equal(found, bench.run(x=x, y=y))


def test_a_model_whose_weights_changed_back_gets_its_verdicts_back(bench: Bench) -> None:
    first, _ = bench.again()
    bench.again(model=other_weights(bench.setting["model"]))
    back, attacks = bench.again()
    assert attacks == CHUNKS
    assert equal(back, first)
