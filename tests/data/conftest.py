from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the cache of the user who runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HEDGEROW_CACHE", str(folder))
    return folder
