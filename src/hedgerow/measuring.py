"""What a recipe's `evaluation` section asks of a finished network, carried out on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hedgerow.attacks import ATTACKS, Attack, by_answers
from hedgerow.checks import passing
from hedgerow.data import Dataset, Split
from hedgerow.description import granularity_of
from hedgerow.engines.modules import BlackBox
from hedgerow.evaluation import (
    SAMPLED_BATCH,
    Evaluated,
    Protocol,
    Share,
    add_corruptions,
    add_curve,
    add_verified,
    chosen_corruptions,
    evaluate,
    layer_sensitivity,
)
from hedgerow.gallery import write_gallery
from hedgerow.physical import CHECK, CONFIRMED, confirm, physical
from hedgerow.recipe import Recipe, construct, own_options
from hedgerow.result import Evaluation, Sensitivity
from hedgerow.runfolder import RunFolder
from hedgerow.seeds import generator
from hedgerow.threat import ThreatModel
from hedgerow.training import Display, Listener

NO_GRADIENTS = "needs gradients, and a file that ONNX Runtime computes gives answers alone"


@dataclass
class Bench:
    """What all phases of a run work on."""

    recipe: Recipe
    folder: RunFolder
    dataset: Dataset
    threat: ThreatModel
    device: torch.device
    display: Display
    logs: tuple[Listener, ...] = ()


@dataclass(frozen=True)
class Planned:
    """The test images in the order of their batches, what attacks them, and what is not run, and why."""

    test: Split
    folder: Path
    protocol: Protocol
    refused: Mapping[str, str]


def evaluate_model(bench: Bench, model: nn.Module, share: Share | None = None) -> Evaluated:
    """Evaluate on the test split as the recipe says; keep the attacked images and a gallery of them.

    With a `share` it does its part of the attacks, and raises `UnfinishedError` while others are missing; the rest
    is done on all evaluated images when none is, or at the end of a time budget.
    """
    section, recipe = bench.recipe.evaluation, bench.recipe
    plan = planned(bench, share, black_box=isinstance(model, BlackBox))
    chosen_corruptions(section.corruptions, bench.dataset.channels)  # refused before anything is attacked
    test = plan.test
    model = model.to(bench.device).eval()
    if recipe.channels_last:  # as it is right after training: a run that goes on here asks the same layers
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    attacked = physical(model, test.pixels(), granularity_of(recipe))
    found = evaluate(
        attacked.model,
        test.pixels(),
        test.labels,
        threat=bench.threat,
        protocol=plan.protocol,
        folder=plan.folder,
        progress=partial(_told, bench, "evaluated"),
        tell=lambda text: bench.display.say(f"{recipe.name} {text}"),
        share=share,
    )
    record = found.record
    if len(record.examples) < len(test):
        test = test.select(torch.tensor(record.examples))
    record.split, record.examples = "test", test.positions.tolist()
    record.refused |= plan.refused
    if attacked.remark:
        record.checks[CHECK] = passing(attacked.same, attacked.remark, "both on real images")
    if attacked.model is not model:
        said = confirm(
            model, found.adversarial, found.adversarial_predictions, batch_size=plan.protocol.batch_size
        )
        record.checks[CONFIRMED] = passing(*said, "the strongest image of each attack, asked again")
    _add_more(bench, replace(plan, test=test), record, attacked.model, model)
    if share is not None and share.budget is not None:
        _say_sampled(record, len(plan.test), recipe.seed, share.budget.text)
    run = [*(["AutoAttack"] if plan.protocol.autoattack else []), *(["PGD"] if plan.protocol.pgd_steps else [])]
    attack, count = " and ".join([*run, *plan.protocol.attacks]), section.gallery
    write_gallery(bench.folder.gallery, test, found, threat=bench.threat, attack=attack, count=count)
    return found


def planned(bench: Bench, share: Share | None, *, black_box: bool) -> Planned:
    """Return what is to be run; in random order and small batches under a time budget.

    A file without gradients meets Square, and those of the recipe's attacks that need answers alone.
    """
    section, recipe = bench.recipe.evaluation, bench.recipe
    test = bench.dataset.test.take(section.examples, recipe.seed)
    attacks: dict[str, Attack] = {
        one.name: construct(ATTACKS[one.name], own_options(one)) for one in section.attacks
    }
    refused: dict[str, str] = {}
    folder, size = bench.folder.evaluation, section.batch_size
    if share is not None and share.budget is not None:
        order = torch.randperm(len(test), generator=generator(recipe.seed, "budget"))
        test, folder, size = test.select(order), folder / "sampled", min(size, SAMPLED_BATCH)
    if black_box:
        asked = {"pgd": True, "autoattack": section.autoattack, "curve": bool(section.curve)}
        asked |= {section.verify or "verify": bool(section.verify), "sensitivity": bool(section.sensitivity)}
        asked |= {name: not by_answers(attack) for name, attack in attacks.items()}
        refused = {name: NO_GRADIENTS for name, there in asked.items() if there}
        attacks = {name: attack for name, attack in attacks.items() if by_answers(attack)}
        attacks.setdefault("square", construct(ATTACKS["square"], {}))
    protocol = Protocol(
        pgd_steps=0 if black_box else section.pgd_steps,
        pgd_restarts=section.pgd_restarts,
        autoattack=section.autoattack and not black_box,
        attacks=attacks,
        batch_size=size,
        seed=recipe.seed,
        eot=section.eot,
        draws=section.draws,
        integrity=section.integrity,
    )
    return Planned(test.resident().to(bench.device), folder, protocol, refused)


def _add_more(bench: Bench, plan: Planned, record: Evaluation, attacked: nn.Module, model: nn.Module) -> None:
    section, images = bench.recipe.evaluation, (plan.test.pixels(), plan.test.labels)
    same: dict[str, Any] = {"threat": bench.threat, "folder": plan.folder}
    if section.curve and "curve" not in plan.refused:
        same["progress"] = partial(_told, bench, "attacked at another radius")
        add_curve(record, attacked, *images, radii=section.curve, protocol=plan.protocol, **same)
    if section.verify and section.verify not in plan.refused:
        same.update(progress=partial(_told, bench, "verified"), batch_size=section.batch_size)
        add_verified(record, model, *images, method=section.verify, **same)
    if section.corruptions:
        add_corruptions(
            record,
            attacked,
            *images,
            names=section.corruptions,
            protocol=plan.protocol,
            folder=plan.folder,
            progress=partial(_told, bench, "corrupted", unit="kinds"),
        )


def _say_sampled(record: Evaluation, available: int, seed: int, budget: str) -> None:
    under = [level for one in (record.corruptions.found if record.corruptions else []) for level in one.levels]
    words = (
        f"; {len(record.examples)} of {available} images, drawn at random by seed {seed}: what {budget} allowed"
    )
    for one in (*record.measures.values(), *record.curve, *under):
        one.how += words


def _told(bench: Bench, what: str, done: int, total: int, *, unit: str = "images") -> None:
    bench.display.say(f"{bench.recipe.name} {what} {done}/{total} {unit}")


def sensitivity_of(bench: Bench, model: nn.Module) -> Sensitivity | None:
    """Measure the network layer by layer on validation images, where the recipe asks for it."""
    section, seed = bench.recipe.evaluation, bench.recipe.seed
    if section.sensitivity is None:
        return None
    bench.display.say(f"{bench.recipe.name} measures the sensitivity of its layers")
    some = bench.dataset.validation.take(section.sensitivity_examples, seed)
    some = some.resident().to(bench.device)
    return layer_sensitivity(
        model,
        some.pixels(),
        some.labels,
        share=section.sensitivity,
        threat=bench.threat,
        protocol=Protocol(pgd_steps=10, pgd_restarts=1, autoattack=False, seed=seed),
    )
