"""The free keys of a recipe: checked against the signature of the part they are for."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from hedgerow.errors import HedgerowError
from hedgerow.recipe.problems import describe_errors, describe_failure
from hedgerow.recipe.schema import DataSection, ObjectiveSection, PhasesSection, PruningSection, ThreatSection
from hedgerow.registry import Registry, UnknownNameError
from hedgerow.threat import ThreatModel


def part_problems(raw: Mapping[str, Any]) -> list[str]:
    """Check the free keys of data, objective and pruning against the parts they are for."""
    from hedgerow.data import SOURCES
    from hedgerow.objectives import OBJECTIVES
    from hedgerow.pruners import PRUNERS

    threat = raw.get("threat")
    context: dict[str, Any] = {"seed": 0}
    try:
        context["threat"] = ThreatSection.model_validate(threat or {}).build()
    except ValidationError:
        context["threat"] = ThreatModel()  # reported by the schema; its absence would only echo
    sections: list[tuple[str, str, Registry[Any], type[BaseModel], bool]] = [
        ("data", "source", SOURCES, DataSection, False),
        ("objective", "name", OBJECTIVES, ObjectiveSection, True),
        ("pruning", "method", PRUNERS, PruningSection, True),
        *(
            (f"phases.{phase}.objective", "name", OBJECTIVES, ObjectiveSection, True)
            for phase in PhasesSection.model_fields
        ),
    ]
    problems = []
    for path, key, registry, section, build in sections:
        values = _dig(raw, path)
        if isinstance(values, Mapping):
            problems += _problems_of(path, key, registry, section, values, context if build else None)
    return problems


def _problems_of(
    path: str,
    key: str,
    registry: Registry[Any],
    section: type[BaseModel],
    values: Mapping[str, Any],
    context: Mapping[str, Any] | None,
) -> list[str]:
    name = values.get(key, section.model_fields[key].default)
    if not isinstance(name, str):
        return []  # missing or of a wrong type: the schema says so
    try:
        part = registry[name]
    except UnknownNameError as error:
        return [f"{path}.{key} = {name!r}: {error}"]
    options = {k: v for k, v in values.items() if k not in section.model_fields}
    model = option_model(part, known=list(section.model_fields))
    problems, wrong = [], set()
    try:
        model.model_validate(options)
    except ValidationError as error:
        problems = describe_errors(model, error, prefix=path, also=list(section.model_fields))
        wrong = {problem["loc"][0] for problem in error.errors()}
    sound = {name: value for name, value in options.items() if name not in wrong}
    if context is not None:
        try:
            construct(part, sound, **context)
        except (ValueError, HedgerowError) as error:
            problems.append(describe_failure(path, sound, error))
    return problems


def option_model(part: Callable[..., Any], known: list[str]) -> type[BaseModel]:
    """Return a pydantic model of the keyword-only options that a part's signature declares."""
    function: Callable[..., Any] = getattr(part, "__init__") if isinstance(part, type) else part  # noqa: B009
    hints = _type_hints(function)
    fields: dict[str, Any] = {
        name: (
            hints.get(name, Any),
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in (*known, "seed")
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return create_model(f"{getattr(part, '__name__', 'part')} options", __config__=config, **fields)


def construct(part: Callable[..., Any], options: Mapping[str, Any], **context: Any) -> Any:
    """Call a part with its options and with whatever of `context` its signature asks for."""
    accepted = inspect.signature(part).parameters
    return part(**{**{k: v for k, v in context.items() if k in accepted}, **options})


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(function, types.WrapperDescriptorType):  # a class without an __init__ of its own
        return {}
    return typing.get_type_hints(function)


def _dig(raw: Any, path: str) -> Any:
    for key in path.split("."):
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def own_options(section: BaseModel) -> dict[str, Any]:
    """Return the free keys of a data, objective or pruning section."""
    return dict(section.model_extra or {})
