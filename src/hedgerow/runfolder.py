"""The folder of one run: where everything lies, and the finished phases in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from hedgerow.compact import read_sparse
from hedgerow.errors import CheckpointError, ModelError, RecipeError
from hedgerow.files import read_tensors, write_tensors, write_text
from hedgerow.recipe import Recipe, parse_recipe
from hedgerow.result import PhaseRecord
from hedgerow.sparsity import Masks
from hedgerow.team import team


def _without_grid(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"grid": [], "methods": {}, "pruning": None}) if recipe.grid else recipe


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; nothing is created by asking for them."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One line per finished epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """States of unfinished phases, and the outcome of finished ones."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished network: a plain state_dict with exact zeros."""
        return self.path / "model.safetensors"

    @property
    def masks(self) -> Path:
        """The masks, uint8, 1 where kept."""
        return self.path / "masks.safetensors"

    @property
    def evaluation(self) -> Path:
        """Finished batches of the evaluation, with the adversarial images."""
        return self.path / "evaluation"

    @property
    def gallery(self) -> Path:
        """A few examples for the page."""
        return self.path / "gallery.safetensors"

    @property
    def result(self) -> Path:
        """What is known of the finished network."""
        return self.path / "result.json"

    @property
    def validation(self) -> Path:
        """What a trial says of the finished network: its accuracy on validation images."""
        return self.path / "validation.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def holds(self, recipe: Recipe) -> bool:
        """Return whether the folder was opened for this recipe before; `RecipeError` when for another.

        A grid may grow or shrink: its cells have folders of their own, each held by its own recipe.
        """
        if not self.recipe.exists():
            return False
        held = self.read_recipe()
        if bool(held.grid) != bool(recipe.grid) or _without_grid(held) != _without_grid(recipe):
            problem = (
                f"holds a run of another recipe; give another --out, or continue it: hedgerow resume {self.path}"
            )
            raise RecipeError(str(self.path), [problem])
        return True

    def open(self, recipe: Recipe) -> None:
        """Write the recipe, or find the same one; `RecipeError` when the folder holds another run."""
        if not self.holds(recipe) or self.read_recipe() != recipe:
            write_text(self.recipe, recipe.to_yaml())

    def read_recipe(self) -> Recipe:
        """Return the recipe; `CheckpointError` when this is no run folder, `RecipeError` when it was spoilt."""
        if not self.recipe.exists():
            raise CheckpointError(f"{self.path}: not a run folder (it has no recipe.yaml)")
        try:
            raw = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(str(self.recipe), [f"not valid YAML: {' '.join(str(error).split())}"]) from error
        return parse_recipe(raw if isinstance(raw, dict) else {}, str(self.recipe))

    def phase_file(self, phase: str) -> Path:
        """Return where the outcome of a finished phase is kept."""
        return self.checkpoints / f"{phase}.safetensors"

    def save_phase(self, record: PhaseRecord, model: nn.Module, masks: Masks) -> None:
        """Keep the outcome of a finished phase."""
        tensors = {f"model:{name}": tensor for name, tensor in model.state_dict().items()}
        tensors.update({f"mask:{name}": mask for name, mask in masks.items()})
        write_tensors(self.phase_file(record.name), tensors, {"record": record.model_dump_json()})

    def load_phase(self, phase: str, model: nn.Module) -> tuple[PhaseRecord, Masks] | None:
        """Put `model` where a finished phase left it; None when it is not finished."""
        path = self.phase_file(phase)
        if not path.exists():
            return None
        tensors, metadata = read_tensors(path)
        load_into(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model:")}, path)
        masks = {k[5:]: v.bool() for k, v in tensors.items() if k.startswith("mask:")}
        return PhaseRecord.model_validate_json(metadata["record"]), masks


def load_into(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a state_dict strictly; `ModelError` lists what does not fit."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: these weights are of another network. {' '.join(str(error).split())[:500]}"
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a user's weights from `.safetensors`, from a sparse file, or from a weights-only `torch.save` file.

    Nothing in the file is executed.
    """
    if path.suffix == ".safetensors":
        tensors, metadata = read_tensors(path)
        load_into(model, read_sparse(path).state_dict() if "hedgerow" in metadata else tensors, path)
        return
    from hedgerow.files import load_checkpoint

    state = load_checkpoint(path)
    load_into(model, state.get("state_dict", state), path)


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Hold the run folder for this process; a second one is told so instead of spoiling it."""
    import fcntl

    if not team().first:  # the first process holds it for all of them
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(str(path), [f"cannot be a folder ({error.strerror}); give another --out"]) from error
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{path}: another process is working in this run folder") from None
        yield
