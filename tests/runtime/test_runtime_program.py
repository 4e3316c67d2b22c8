"""A program as its user meets it: images in, logits out, threads, memory, clear errors."""

from __future__ import annotations

import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from runtime_nets import MACHINE, error, images, lowered, pruned, zoo
from torch import nn

from hedgerow.compact import SparseTensor, write_sparse
from hedgerow.errors import DataError, MissingPackageError, ModelError
from hedgerow.runtime import Program, compile, load
from hedgerow.runtime import machine as machines
from hedgerow.sparsity import attach_masks, prunable_weights


@pytest.fixture(scope="module")
def subject():
    model, graph, _ = zoo("resnet20")
    sparse = pruned(model, 0.1)
    return sparse, lowered(sparse, graph)


@pytest.fixture(scope="module")
def program(subject):
    return Program(subject[1], deterministic=True)


@pytest.mark.parametrize("count", [1, 2, MACHINE.lanes - 1, MACHINE.lanes, 2 * MACHINE.lanes + 1])
def test_batches_of_any_size_are_computed_by_any_number_of_threads(subject, program, count):
    model, network = subject
    x = images(count)
    with torch.no_grad():
        expected = model(x)
    assert error(program(x), expected) < 2e-5
    for threads in (2, 3):
        found = Program(network, threads=threads, deterministic=True)(x)
        assert torch.equal(found, program(x))


def test_arrays_and_tensors_come_back_as_they_went_in(program):
    x = images(3)
    found, array = program.predict(x), program.predict(x.numpy())
    assert isinstance(found, torch.Tensor)
    assert isinstance(array, np.ndarray)
    assert found.shape == array.shape == (3, 7)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), array)
    turned = x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # the same images, not in order
    assert torch.equal(program.predict(turned), found)
    assert torch.equal(program.predict(x.requires_grad_()), found)


def test_callers_in_several_threads_do_not_meet(subject, program):
    batches = [images(9, seed=seed) for seed in range(4)]
    alone, found = [program(x) for x in batches], {}

    def call(index):
        found[index] = [program(batches[index]) for _ in range(5)]

    workers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(y, alone[i]) for i in range(4) for y in found[i])


def test_python_goes_on_while_a_batch_is_computed(program):
    x, span = images(1500), []

    def work():
        span.append(time.perf_counter())
        program(x)
        span.append(time.perf_counter())

    for _ in range(5):  # a busy machine may let this thread wait for longer than the batch takes
        span.clear()
        ticks, worker = [], threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            ticks.append(time.perf_counter())
            time.sleep(0.001)
        margin = (span[1] - span[0]) / 4
        if any(span[0] + margin < tick < span[1] - margin for tick in ticks):
            return
    pytest.fail("threads cannot help: nothing else runs while a batch is computed")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(0, 3, 16, 16), r"\[0, 3, 16, 16\].*\[N, 3, 16, 16\] with at least one"),
        (torch.zeros(2, 3, 16, 17), r"\[2, 3, 16, 17\]"),
        (torch.zeros(3, 16, 16), r"\[3, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), "images are float64.*float32"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "images are uint8.*float32"),
        (np.zeros((2, 3, 16, 16)), "images are float64"),
        ([[1.0]], "images are list"),
        (torch.zeros(2, 3, 16, 16, device="meta"), "images are on meta"),
    ],
)
def test_images_that_are_none_are_refused(program, wrong, message):
    with pytest.raises(DataError, match=message):
        program.predict(wrong)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "two"])
def test_a_number_of_threads_that_is_none_is_refused(subject, threads):
    with pytest.raises(ModelError, match=r"threads is .* whole number of at least 1"):
        Program(subject[1], threads=threads)


def test_without_numba_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llvmlite", None)
    with pytest.raises(MissingPackageError, match="pip install numba"):
        machines.detect()


def test_a_program_says_what_it_is(program):
    program.prepare(MACHINE.lanes + 1)
    text = str(program)
    assert MACHINE.name in text
    assert f"{program.network.macs:,} of " in text
    assert "threads: 1" in text
    assert program.compile_seconds > 0


def test_masks_on_a_live_model_are_seen_and_later_training_is_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)).eval()
    x = images(3, 8)
    attach_masks(model, {name: torch.rand(w.dense.shape) < 0.5 for name, w in prunable_weights(model).items()})
    with torch.no_grad():
        expected = model(x)
    program = compile(model, x, deterministic=True)
    weights = sum(
        int(torch.count_nonzero(getattr(w.module, w.attribute))) for w in prunable_weights(model).values()
    )
    assert sum(len(step.taps.values) for step in program.network.steps) == weights
    with torch.no_grad():
        model[0].bias.add_(1)
    assert error(program(x), expected) < 1e-5


def test_nothing_dense_is_made_of_a_sparse_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1024), nn.ReLU(), nn.Linear(1024, 5)).eval()
    with torch.no_grad():
        model[1].weight.masked_fill_(torch.rand(1024, 3072) > 0.01, 0)
    x, dense_bytes = images(9, 32), 4 * 1024 * 3072
    with torch.no_grad():
        expected = model(x)
    path = write_sparse(tmp_path / "net.safetensors", model, x)
    monkeypatch.setattr(SparseTensor, "dense", None)
    load(path, deterministic=True).predict(x)  # whatever is compiled once is there now
    tracemalloc.start()
    program = load(path, deterministic=True)
    found = program.predict(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = sum(e.schedule.floats * 4 for e in program._engines.values())  # arenas are not NumPy's own memory
    assert peak + kept < dense_bytes / 2
    assert error(found, expected) < 1e-5


def test_machines_of_other_widths_compute_the_same(subject):
    model, network = subject
    x = images(18)
    with torch.no_grad():
        expected = model(x)
    plain = replace(MACHINE, lanes=4, plain=True)
    assert error(Program(network, machine=plain).predict(x), expected) < 2e-5
