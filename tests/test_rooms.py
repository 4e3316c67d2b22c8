"""The order of the rooms: a room imports only from rooms above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hedgerow"
ROOMS = [
    "errors",
    "registry",
    "arguments",
    "seeds",
    "memory",
    "stochastic",
    "team",
    "files",
    "threat",
    "checks",
    "tracing",
    "sparsity",
    "compact",
    "runtime",
    "models",
    "data",
    "attacks",
    "corruptions",
    "bounds",
    "objectives",
    "certify",
    "pruners",
    "training",
    "result",
    "engines",
    "evaluation",
    "report",
    "recipe",
    "description",
    "physical",
    "gallery",
    "runfolder",
    "measuring",
    "pipeline",
    "trial",
    "export",
    "executors",
    "grid",
    "compare",
    "sweep",
    "reevaluate",
    "certification",
    "evaluating",
    "exporting",
    "doctor",
    "bench",
    "cli",
    "__main__",
]


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("hedgerow.")}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room: str) -> None:
    above = set(ROOMS[: ROOMS.index(room) + 1])
    files = [path for path in SOURCE.rglob("*.py") if room_of(path) == room]
    assert files
    for path in files:
        assert imports(path) <= above, f"{path.relative_to(SOURCE)} imports from below"


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"} == set(ROOMS)
