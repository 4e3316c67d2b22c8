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
from hedgerow.recipe.schema import (
    AttackSection,
    DataSection,
    ObjectiveSection,
    PhasesSection,
    PruningSection,
    ThreatSection,
)
from hedgerow.registry import Registry, UnknownNameError
from hedgerow.threat import ThreatModel, parse_fraction


def part_problems(raw: Mapping[str, Any]) -> list[str]:
    """Check the names of parts, and the free keys of data, objective and pruning against those parts."""
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
    problems = _unknown_names(raw)
    for path, key, registry, section, build in sections:
        values = _dig(raw, path)
        if isinstance(values, Mapping):
            problems += _problems_of(path, key, registry, section, values, context if build else None)
    problems += _attack_problems(raw, context["threat"]) + _curve_problems(raw, context["threat"])
    if raw.get("compile") is True and raw.get("sync_bn") is True:
        problems.append(
            "compile = true: sync_bn: true makes processes wait for each other inside a layer, and that is not "
            "compiled; leave one of the two out"
        )
    return problems + _recompute_problems(raw) + _average_problems(raw) + _combination_problems(raw)


def _attack_problems(raw: Mapping[str, Any], threat: ThreatModel) -> list[str]:
    """Check names and settings of further attacks, that each is made for the threat's norm and is there once."""
    from hedgerow.attacks import ATTACKS

    listed = _dig(raw, "evaluation.attacks")
    problems: list[str] = []
    names: list[str] = []
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        path = f"evaluation.attacks.{i}"
        values = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            continue  # the schema says so
        name = values["name"]
        if name in ("pgd", "autoattack"):
            key = "pgd_steps and pgd_restarts set it" if name == "pgd" else "autoattack: true runs it"
            problems.append(f"{path} = {name!r}: not a further attack; evaluation.{key}")
            continue
        found = _problems_of(path, "name", ATTACKS, AttackSection, values, {})
        if not found and threat.norm not in (norms := ATTACKS[name].norms):
            found = [f"{path} = {name!r}: made for {' and '.join(norms)}, and threat.norm is {threat.norm}"]
        if name in names:
            found.append(f"{path} = {name!r}: is there already; one measure, one name")
        names.append(name)
        problems += found
    return problems


def _curve_problems(raw: Mapping[str, Any], threat: ThreatModel) -> list[str]:
    """Say which radii of the security curve cannot be attacked at."""
    listed = _dig(raw, "evaluation.curve")
    problems = []
    for i, value in enumerate(listed if isinstance(listed, list) else []):
        path = f"evaluation.curve.{i}"
        try:
            eps = parse_fraction(value)
        except ValueError:
            continue  # the schema says so
        try:
            if threat.with_eps(eps).eps == 0:
                problems.append(f"{path} = {value!r}: a radius of 0 attacks nothing; `clean` is that accuracy")
        except ValueError as error:
            problems.append(f"{path} = {value!r}: {error}")
    return problems


def _combination_problems(raw: Mapping[str, Any]) -> list[str]:
    """Say why the method's granularity does not go with the distribution or the sparsity, where it does not."""
    from hedgerow.pruners import PRUNERS, Pruner
    from hedgerow.pruners.combinations import refusal
    from hedgerow.sparsity import DISTRIBUTIONS

    try:
        section = PruningSection.model_validate(_dig(raw, "pruning"))
        DISTRIBUTIONS[section.distribution]
        pruner = construct(PRUNERS[section.method], own_options(section), seed=0)
    except (ValueError, TypeError, HedgerowError):
        return []  # reported already
    if not isinstance(pruner, Pruner):
        return []
    reason = refusal(type(pruner), pruner.granularity, section.distribution, section.sparsity)
    return [f"pruning: {reason}"] if reason else []


def _recompute_problems(raw: Mapping[str, Any]) -> list[str]:
    if raw.get("recompute") is not True:
        return []
    problems = []
    if raw.get("compile") is True:
        problems.append(
            "recompute = true: a compiled network decides by itself what it keeps for the backward pass; leave "
            "out recompute or compile"
        )
    for path in ("objective", *(f"phases.{phase}.objective" for phase in PhasesSection.model_fields)):
        if _dig(raw, f"{path}.awp"):
            problems.append(
                f"recompute = true: with {path}.awp the weights of the forward pass are no longer there when it "
                "is computed again; leave out recompute or awp"
            )
    return problems


def _average_problems(raw: Mapping[str, Any]) -> list[str]:
    from hedgerow.pruners import PRUNERS

    ema, method = _dig(raw, "phases.prune.ema"), _dig(raw, "pruning.method")
    try:
        pruner = PRUNERS[method] if ema is not None and isinstance(method, str) else None
    except UnknownNameError:
        return []  # reported already
    if pruner is None or not getattr(pruner, "learns", False) or pruner.averages:
        return []
    return [
        f"phases.prune.ema = {ema!r}: {method} moves its masks while it trains, and the average of networks with "
        "different masks is none of them. Leave it out here; phases.pretrain and phases.finetune may have it"
    ]


def _unknown_names(raw: Mapping[str, Any]) -> list[str]:
    from hedgerow.corruptions import CORRUPTIONS
    from hedgerow.data.augment import AUGMENTATIONS
    from hedgerow.models import MODELS
    from hedgerow.sparsity import DISTRIBUTIONS

    augment, corruptions = _dig(raw, "data.augment"), _dig(raw, "evaluation.corruptions")
    corruptions = [corruptions] if isinstance(corruptions, str) else corruptions
    corruptions = [n for n in corruptions if n != "all"] if isinstance(corruptions, list) else []
    named: list[tuple[str, Registry[Any], Any]] = [
        *(("data.augment", AUGMENTATIONS, name) for name in (augment if isinstance(augment, list) else [])),
        *(("evaluation.corruptions", CORRUPTIONS, name) for name in corruptions),
        ("pruning.distribution", DISTRIBUTIONS, _dig(raw, "pruning.distribution")),
        ("model.name", MODELS, None if _dig(raw, "model.factory") else _dig(raw, "model.name")),
    ]
    problems = []
    for path, registry, name in named:
        try:
            if isinstance(name, str):  # anything else is absent, or the schema's to report
                registry[name]
        except UnknownNameError as error:
            problems.append(f"{path} = {name!r}: {error}")
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
    if context is not None and wrong <= set(options):  # with a required option missing there is nothing to make
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
    """Call a part with its options, as the types it declares, and with what of `context` its signature asks for.

    YAML reads `1e-4` as text; the part gets the number that was checked.
    """
    accepted = inspect.signature(part).parameters
    typed = option_model(part, known=[]).model_validate(options)
    chosen = {name: getattr(typed, name) for name in options}
    return part(**{**{k: v for k, v in context.items() if k in accepted}, **chosen})


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
