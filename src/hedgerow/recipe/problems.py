"""Problems of a recipe in words: where, what value, what is allowed, what was probably meant."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from hedgerow.registry import nearest


def describe_errors(
    schema: type[BaseModel], error: ValidationError, *, prefix: str = "", also: Sequence[str] = ()
) -> list[str]:
    """Return one line per problem; `also` are keys that are allowed beside those of `schema` at its top."""
    lines: dict[str, None] = {}
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        path = ".".join([*([prefix] if prefix else []), *_without_union_tags(schema, location)])
        if problem["type"] == "extra_forbidden":
            beside = [*_keys_at(schema, location[:-1]), *(also if len(location) == 1 else ())]
            text = f"unknown key (value {problem['input']!r}){nearest(location[-1], beside)}"
            lines[f"{path}: {text} Allowed here: {', '.join(sorted(beside))}"] = None
        elif problem["type"] == "missing":
            lines[f"{path}: required, and missing"] = None
        else:
            message = problem["msg"].removeprefix("Value error, ")
            if location[-1:] == ["granularity"] and isinstance(problem["input"], int):
                message += _in_quotes(problem["input"])
            lines[f"{path} = {problem['input']!r}: {message}"] = None
    return list(lines)


def _in_quotes(number: int) -> str:
    """Return what to write for `n:m`, which YAML takes for a number to the base 60."""
    pattern = ":".join(map(str, divmod(number, 60)))
    return f'; YAML takes {pattern} for a number, so a pattern needs quotes: granularity: "{pattern}"'


def describe_failure(path: str, options: Mapping[str, Any], error: Exception) -> str:
    """Return one line for a part that refused its options when it was made."""
    given = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{path} ({given or 'defaults'}): {error}"


def _fields_of(schema: Any) -> type[BaseModel] | None:
    """Return the pydantic model inside an annotation such as `Section | None`."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema
    if typing.get_origin(schema) in (typing.Union, types.UnionType, typing.Annotated):
        return next((f for f in map(_fields_of, typing.get_args(schema)) if f is not None), None)
    return None


def _has_keys(annotation: Any) -> bool:
    inside = typing.get_args(annotation) if typing.get_origin(annotation) is list else (annotation,)
    return any(typing.get_origin(part) is dict for part in inside)


def _keys_at(schema: type[BaseModel], location: Sequence[str]) -> list[str]:
    current: type[BaseModel] | None = schema
    for part in location:
        if current is not None and part in current.model_fields:
            current = _fields_of(current.model_fields[part].annotation)
    return list(current.model_fields) if current is not None else []


def _without_union_tags(schema: type[BaseModel], location: list[str]) -> list[str]:
    """Drop the branch names that pydantic adds to the location of a value of several types (`float`, `int`)."""
    current: type[BaseModel] | None = schema
    kept: list[str] = []
    items: type[BaseModel] | None = None  # the section that a list is of
    keyed = False  # whether what comes next is a key of a plain mapping, such as the grid
    for part in location:
        fields = current.model_fields if current is not None else {}
        if part in fields:
            kept.append(part)
            annotation = fields[part].annotation
            current, keyed = _fields_of(annotation), _has_keys(annotation)
            items = _fields_of(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is list else None
        elif current is not None or keyed or part.isdigit():
            kept.append(part)
            current, items = (items, None) if part.isdigit() and items is not None else (current, items)
            keyed = keyed and part.isdigit()  # the number of a mapping in a list comes before its key
    return kept
