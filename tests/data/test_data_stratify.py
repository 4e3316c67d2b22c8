from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.data.stratify import allocate, draw
from hedgerow.errors import DataError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.data())
def test_draw_is_a_partition_that_keeps_shares(values, data):
    labels = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    drawn, rest = draw(labels, count, seed=0, place="x")
    assert len(drawn) == count
    assert sorted(drawn.tolist() + rest.tolist()) == list(range(len(values)))
    assert drawn.tolist() == sorted(drawn.tolist())
    for label in set(values):
        exact = values.count(label) * count / len(values)
        assert abs(int((labels[drawn] == label).sum()) - exact) < 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.data())
def test_allocate_leaves_what_it_was_told_to(values, data):
    sizes = torch.tensor(values)
    room = int((sizes - 1).clamp_min(0).sum())
    count = data.draw(st.integers(0, room))
    counts = allocate(sizes, count, leave=1)
    assert int(counts.sum()) == count
    assert bool((counts >= 0).all())
    assert bool((sizes - counts >= torch.minimum(sizes, torch.tensor(1))).all())
    with pytest.raises(DataError, match=f"{room:,} is the most"):
        allocate(sizes, room + 1, leave=1)


def test_draw_depends_on_seed_and_place():
    labels = torch.arange(100) % 4

    def drawn(seed, place):
        return draw(labels, 20, seed=seed, place=place)[0].tolist()

    assert drawn(1, "a") == drawn(1, "a")
    assert drawn(1, "a") != drawn(2, "a")
    assert drawn(1, "a") != drawn(1, "b")
