from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from dataset_writers import py2_pickle, shrink, write_cifar_python

from hedgerow.data import SOURCES
from hedgerow.data.sources import cifar10
from hedgerow.data.unpickle import read_pickled_dict
from hedgerow.errors import DataError


def read(content: bytes):
    return read_pickled_dict(content, "file", "expected a dict")


class Runs:
    """Pickled, it calls a function with arguments when it is read."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_lists_and_numbers_come_back(protocol, dtype, order):
    array = np.asfortranarray(np.arange(12).reshape(3, 4)).astype(dtype, order=order)
    held = {b"data": array, b"labels": [1, 2], b"name": b"\x00\xff", "text": "x", b"none": b""}
    if protocol < 3:
        held.pop(b"none")  # written as a call to bytes(), which the archives never make
    found = read(pickle.dumps(held, protocol=protocol))
    assert np.array_equal(found.pop("data"), array)
    assert found == {key if isinstance(key, str) else key.decode(): held[key] for key in held if key != b"data"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_python_2_arrays(order):
    array = np.arange(12, dtype=np.int32).reshape(3, 4).copy(order)
    assert np.array_equal(read(py2_pickle({b"data": array}))["data"], array)


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickle_executes_nothing(protocol, tmp_path):
    flag = tmp_path / "executed"
    hostile = [
        Runs(os.system, f"touch {flag}"),
        Runs(exec, f"open({str(flag)!r}, 'w')"),
        Runs(eval, f"open({str(flag)!r}, 'w')"),
        Runs(open, str(flag), "w"),
        Runs(np.save, str(flag), 1),
        Runs(np.fromfile, str(flag)),
    ]
    for item in hostile:
        for content in (item, {b"data": item}, {item: 1}, [item]):
            pickled = pickle.dumps(content, protocol=protocol)
            with pytest.raises(DataError, match=r"file: refused or broken pickle .*; expected a dict"):
                read(pickled)
    assert not flag.exists()
    assert not list(tmp_path.iterdir())


def test_hostile_pickle_in_a_cifar_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "LAYOUT", shrink(cifar10.LAYOUT))
    flag = tmp_path / "executed"
    for name in ("data_batch_3", "batches.meta"):
        folder = tmp_path / name
        write_cifar_python(folder, cifar10.LAYOUT)
        (folder / name).write_bytes(pickle.dumps({b"data": Runs(os.system, f"touch {flag}")}))
        with pytest.raises(DataError, match=rf"{name}: refused .*asks for (posix|nt).system.*; expected"):
            SOURCES["cifar10"](path=folder)
    assert not flag.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x02}.",  # sound, and an empty dict
        b"\x80\x02]q\x00.",
        b"\x80\x02" + ARRAY + b"}b.",  # changes the state of a function
        b"\x80\x02" + ARRAY + b"N}\x86b.",
        b"\x80\x02cnumpy\ndtype\nU\x02O8\x85R.",
        b"\x80\x02}(U\x04data" + ARRAY + b")Ru.",  # an array without a state
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",  # a dotted name
        b"Pid\n.",  # a persistent id
        b"\x82\x01.",  # an extension code
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    ],
)
def test_broken_or_odd_pickles(content):
    if content == b"\x80\x02}.":
        assert read(content) == {}
        return
    with pytest.raises(DataError, match="file: refused or broken pickle"):
        read(content)


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(3), np.zeros(2, "S3"), np.zeros(2, [("a", "u1")])])
def test_arrays_of_anything_but_whole_numbers_are_refused(array):
    with pytest.raises(DataError, match="refused"):
        read(pickle.dumps({b"data": array}, protocol=2))
