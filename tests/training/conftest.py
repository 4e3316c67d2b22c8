from __future__ import annotations

from collections.abc import Iterator

import phase_cases
import pytest
import torch

from hedgerow.data import Split


@pytest.fixture(scope="session")
def split() -> Split:
    return phase_cases.digits()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
