"""From a source's name to a `Dataset`: find, read, limit, and split off the validation set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hedgerow.data.dataset import Dataset
from hedgerow.data.sources import SOURCES, Raw
from hedgerow.data.split import check_labels
from hedgerow.data.stratify import draw
from hedgerow.data.streamed import AnySplit
from hedgerow.errors import DataError
from hedgerow.registry import nearest


def load_dataset(
    source: str,
    *,
    path: str | Path | None = None,
    validation: float | int = 0.1,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    label: str | None = None,
    **options: Any,
) -> Dataset:
    """Load a source by name and split a validation set off its training images.

    `validation` is a share (float between 0 and 1) or a count (int). `train_limit` keeps that many of the
    source's training images, validation images included; `test_limit` of its test images. All three draws
    are stratified by class and depend on `seed` alone; every class keeps a training image. A split's
    `positions` point into the source's own training or test set. `options` go to the source.

    Raises `UnknownNameError` for a source nobody registered, and `DataError` for options that it does not
    have, for missing or broken files, for labels outside the classes, and for sizes that cannot be had.
    """
    raw = _call(source, SOURCES[source], path, options)
    where = source if path is None else f"{source} {path}"
    check_labels(raw.train.labels, len(raw.classes), f"{where}, train")
    check_labels(raw.test.labels, len(raw.classes), f"{where}, test")
    pool = _limit(raw.train, train_limit, seed, "train_limit")
    count = _validation_count(validation, len(pool))
    try:
        chosen, rest = draw(pool.labels, count, seed=seed, place="validation", leave=1)
    except DataError as error:
        raise DataError(f"{where}: validation={validation!r} of {len(pool):,} training images: {error}") from None
    if not len(rest):
        raise DataError(f"{where}: validation={validation!r} leaves no training image; lower it")
    return Dataset(
        name=source,
        label=label or raw.label,
        classes=raw.classes,
        train=pool.select(rest),
        validation=pool.select(chosen),
        test=_limit(raw.test, test_limit, seed, "test_limit"),
    )


def _call(name: str, source: Callable[..., Raw], path: str | Path | None, options: dict[str, Any]) -> Raw:
    parameters = inspect.signature(source).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "path"]
    problems = [
        f"no option {option!r}{nearest(option, known).rstrip('.')} (it has: {', '.join(known) or 'none'})"
        for option in options
        if option not in known and not open_ended
    ]
    if path is None:
        if "path" in parameters and parameters["path"].default is inspect.Parameter.empty:
            problems.append("needs a path to its files")
        given = options
    else:
        if "path" not in parameters and not open_ended:
            problems.append(f"takes no path ({path} was given); leave it out")
        given = {**options, "path": Path(path).expanduser()}
    if problems:
        raise DataError(f"data source {name!r}: {'; '.join(problems)}")
    return source(**given)


def _limit(split: AnySplit, limit: int | None, seed: int, place: str) -> AnySplit:
    if limit is None or limit >= len(split):
        return split
    if limit < 1:
        raise DataError(f"{place}={limit}: give at least 1 image, or leave it out for all {len(split):,}")
    return split.select(draw(split.labels, limit, seed=seed, place=place)[0])


def _validation_count(validation: float | int, available: int) -> int:
    if isinstance(validation, float):
        if not 0.0 < validation < 1.0:
            raise DataError(f"validation={validation}: a share lies between 0 and 1; write a count as an int")
        return max(1, round(validation * available))
    if isinstance(validation, bool) or validation < 1:
        raise DataError(f"validation={validation}: give a share such as 0.1 or a count of at least 1")
    if validation >= available:
        raise DataError(
            f"validation={validation:,} of {available:,} training images leaves none to train on; lower it"
        )
    return validation
