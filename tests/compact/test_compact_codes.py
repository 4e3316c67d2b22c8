"""Codes of positions and values against slow, obvious ones, and against bytes that are not theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgerow.compact.positions import (
    decode_positions,
    deflate,
    encode_positions,
    inflate,
    rice_decode,
    rice_encode,
    rice_parameter,
)
from hedgerow.compact.values import from_planes, pack, planes_of, quantise, unpack
from hedgerow.errors import CheckpointError

SHARES = (0.0, 0.001, 0.01, 0.1, 0.5, 0.97, 1.0)


def random_mask(size: int, share: float, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(size) < share


def slow_rice(positions: list[int], parameter: int) -> str:
    """Return the code as a text of ones and zeros, one gap at a time."""
    unary, low, last = "", "", -1
    for position in positions:
        gap = position - last - 1
        last = position
        unary += "1" * (gap >> parameter) + "0"
        low += "".join(str((gap >> bit) & 1) for bit in range(parameter))
    return unary + low


@pytest.mark.parametrize("parameter", [0, 1, 3, 7])
def test_rice_codes_are_those_written_out_by_hand(parameter: int) -> None:
    positions = np.flatnonzero(random_mask(500, 0.05))
    bits = slow_rice(positions.tolist(), parameter)
    expected = np.packbits([int(bit) for bit in bits]).tobytes()
    assert rice_encode(positions, parameter) == expected
    assert rice_decode(expected, parameter, len(positions)).tolist() == positions.tolist()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.3])
def test_random_places_cost_little_more_than_their_entropy(share: float) -> None:
    mask = random_mask(400_000, share)
    positions = np.flatnonzero(mask)
    entropy = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * mask.size
    packed = rice_encode(positions, rice_parameter(positions))
    assert 8 * len(packed) < 1.04 * entropy


def test_regular_places_cost_next_to_nothing() -> None:
    mask = np.zeros((256, 1152), dtype=bool)
    mask[::4] = True  # whole rows: what filter pruning leaves
    code, packed = encode_positions(mask.reshape(-1))
    assert code == "bits"
    assert len(packed) < mask.size // 400


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.sampled_from(SHARES), st.integers(0, 10_000))
def test_positions_survive(size: int, share: float, seed: int) -> None:
    mask = random_mask(size, share, seed)
    code, packed = encode_positions(mask)
    found = decode_positions(code, packed, size=size, count=int(mask.sum()), what="w")
    assert found.tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("code", "packed", "size", "count", "match"),
    [
        ("gzip", b"", 8, 1, "coded as 'gzip'"),
        ("rice-x", b"", 8, 1, "coded as 'rice-x'"),
        ("rice-99", b"", 8, 1, "coded as 'rice-99'"),
        ("rice-0", b"\xff", 8, 1, "cut short or altered"),
        ("rice-2", b"\x00\x00\x00", 8, 1, "cut short or altered"),
        ("rice-0", b"\xf7", 4, 1, "not 1 below 4"),
        ("bits", b"nonsense", 8, 1, "damaged"),
        ("bits", deflate(b"\xff" * 100), 8, 8, "more or fewer bytes"),
        ("bits", deflate(b"\xff"), 8, 3, "not 3 below 8"),
    ],
)
def test_positions_that_are_none_are_refused(code: str, packed: bytes, size: int, count: int, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        decode_positions(code, packed, size=size, count=count, what="w")


def test_a_bomb_is_not_inflated() -> None:
    with pytest.raises(CheckpointError, match="more or fewer bytes"):
        inflate(deflate(bytes(50_000_000)), 1000, "w")
    with pytest.raises(CheckpointError, match="more or fewer bytes"):
        inflate(deflate(b"abc") + b"tail", 1000, "w")


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_every_bit_of_a_value_survives(kind: str) -> None:
    raw = np.random.default_rng(1).integers(0, 256, 4 * 1000, dtype=np.uint8)
    values = raw.view(kind)  # NaN, infinities and negative zeros among them
    packed, lengths = pack(values)
    back = unpack(packed, lengths, kind=kind, count=len(values), what="w")
    assert back.tobytes() == values.tobytes()
    assert from_planes(planes_of(values), kind).tobytes() == values.tobytes()


def test_the_first_plane_of_a_float_is_its_exponent() -> None:
    values = np.array([1.0, -2.0, 0.75], dtype=np.float32)
    assert planes_of(values)[0].tolist() == [127, 128, 126]


def test_trained_like_values_shrink_by_their_exponents() -> None:
    values = (0.02 * np.random.default_rng(2).standard_normal(100_000)).astype(np.float32)
    packed, lengths = pack(values)
    assert lengths[0] < 0
    assert len(packed) < 3.45 * len(values)


def test_quantised_values_are_nearest_steps_of_their_row() -> None:
    rng = np.random.default_rng(3)
    values, rows = rng.standard_normal(300).astype(np.float32), np.sort(rng.integers(0, 5, 300))
    rows[rows == 2] = 3  # a row without values
    steps, scales = quantise(values, rows, 5)
    for row in range(5):
        mine = values[rows == row]
        assert scales[row] == pytest.approx(max(map(abs, mine), default=0) / 127)
    assert np.abs(steps * scales[rows] - values).max() <= scales.max() / 2 * 1.0001
    assert quantise(np.zeros(2, dtype=np.float32), np.array([0, 1]), 2)[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "pickle"}, "values are 'pickle'"),
        ({"lengths": [1, 2]}, "not as long as it declares"),
        ({"count": 9}, "does not hold 9 values"),
        ({"packed": b""}, "not as long as it declares"),
    ],
)
def test_values_that_are_none_are_refused(change: dict[str, object], match: str) -> None:
    packed, lengths = pack(np.arange(8, dtype=np.float32))
    given_ = {"packed": packed, "lengths": lengths, "kind": "float32", "count": 8, "what": "w", **change}
    with pytest.raises(CheckpointError, match=match):
        unpack(given_.pop("packed"), given_.pop("lengths"), **given_)  # type: ignore[arg-type]
