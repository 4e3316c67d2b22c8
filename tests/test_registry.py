"""Names for parts: known ones, near ones, and the user's own by module:attribute."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hedgerow.registry import Registry, UnknownNameError, load_attribute, nearest


def table() -> Registry[object]:
    registry: Registry[object] = Registry("colour")

    @registry.register("green")
    def green() -> None:
        """Between blue and yellow.

        More words.
        """

    registry.register("blue")(lambda: None)
    return registry


def test_parts_are_found_and_listed_in_order() -> None:
    registry = table()
    assert list(registry) == ["blue", "green"]
    assert callable(registry["green"])
    assert registry.summary("green") == "Between blue and yellow."
    assert registry.summary("blue") == ""


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        table()["gren"]
    assert str(caught.value) == (
        "unknown colour 'gren'; did you mean 'green'? Known: blue, green, or package.module:name of your own"
    )
    with pytest.raises(UnknownNameError, match=r"unknown colour 'xyz'\. Known: blue, green"):
        table()["xyz"]


def test_nearest_spelling() -> None:
    assert nearest("sparsty", ["sparsity", "method"]) == "; did you mean 'sparsity'?"
    assert nearest("qqq", ["sparsity", "method"]) == "."
    assert nearest("x", []) == "."


def test_a_name_is_taken_once_but_may_be_filed_again_by_its_owner() -> None:
    registry = table()
    green = registry["green"]
    registry.register("green")(green)
    with pytest.raises(ValueError, match="colour 'green' is registered twice"):
        registry.register("green")(object())


def test_module_and_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "registry_parts_here.py").write_text("class Box:\n    inner = 'found'\n\nvalue = 3\n")
    assert table()["registry_parts_here:value"] == 3
    assert load_attribute("registry_parts_here:Box.inner") == "found"
    with pytest.raises(UnknownNameError, match=r"has no 'valeu'; did you mean 'value'\?"):
        table()["registry_parts_here:valeu"]
    with pytest.raises(UnknownNameError, match=r"colour 'registry_parts_here:Box\.outer': .*has no 'outer'"):
        table()["registry_parts_here:Box.outer"]
    with pytest.raises(UnknownNameError, match="cannot import module 'registry_parts_gone'"):
        table()["registry_parts_gone:value"]


@pytest.mark.parametrize("text", ["1 / 0", "def broken(:", "raise RuntimeError('no')"])
def test_a_module_that_cannot_be_imported_for_its_own_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "registry_parts_broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError, match="importing its module raised"):
        load_attribute("registry_parts_broken:value")
