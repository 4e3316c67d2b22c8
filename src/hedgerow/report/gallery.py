"""Attacked images: clean, what was added, and the result, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hedgerow.errors import CheckpointError
from hedgerow.files import read_tensors
from hedgerow.report.words import TIMES, printable

LIMIT = 24
SMALL_IMAGE = 96  # pixels; smaller ones are shown enlarged, with hard pixel edges

SHOWN_VERDICTS = ("robust", "broken", "misclassified")

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """One attacked image; the three images are `data:` URIs."""

    clean: str
    perturbation: str
    adversarial: str
    truth: str
    before: str
    after: str
    right_before: bool
    right_after: bool
    label: int

    @property
    def verdict(self) -> str:
        """What became of the image: one of `SHOWN_VERDICTS`."""
        robust, broken, misclassified = SHOWN_VERDICTS
        return misclassified if not self.right_before else robust if self.right_after else broken


@dataclass(frozen=True)
class Gallery:
    """The attacked images of one run, and how they were made and magnified."""

    pictures: list[Picture]
    recorded: int
    attack: str
    scale: str
    pixelated: bool


def read_gallery(path: Path, classes: list[str], *, limit: int = LIMIT) -> Gallery | None:
    """Return at most `limit` pictures of a `gallery.safetensors`, or None if there is no such file.

    Raises `CheckpointError` if the file is broken or its tensors do not belong together.
    """
    if not path.is_file():
        return None
    arrays, metadata = _read(path)
    clean: Pixels = arrays["clean"][:limit].astype(np.float32) / np.float32(255)
    adversarial: Pixels = arrays["adversarial"][:limit].astype(np.float32)
    perturbation: Pixels = adversarial - clean
    half_range, scale = magnification(perturbation, metadata.get("eps", ""), metadata.get("norm", ""))
    added = np.clip(0.5 + perturbation / (2 * half_range), 0, 1).astype(np.float32)
    names = [
        [class_name(int(i), classes) for i in arrays[key][:limit]]
        for key in ("labels", "clean_predictions", "adversarial_predictions")
    ]
    right = [arrays["labels"] == arrays[f"{kind}_predictions"] for kind in ("clean", "adversarial")]
    pictures = [
        Picture(
            data_uri(clean[i]),
            data_uri(added[i]),
            data_uri(adversarial[i]),
            names[0][i],
            names[1][i],
            names[2][i],
            bool(right[0][i]),
            bool(right[1][i]),
            int(arrays["labels"][i]),
        )
        for i in range(len(clean))
    ]
    parts = [metadata.get("attack", "unnamed attack"), metadata.get("norm", ""), metadata.get("eps", "")]
    attack = ", ".join(printable(p) for p in (parts[0], " ".join(p for p in parts[1:] if p)) if p)
    small = max(clean.shape[-2:]) < SMALL_IMAGE
    return Gallery(pictures, len(arrays["labels"]), attack, scale, small)


def magnification(perturbation: Pixels, eps: str, norm: str) -> tuple[float, str]:
    """Return the change that is drawn as full range, and a sentence that says so.

    For linf it is eps; for other norms, or an eps that is not a positive fraction, the largest change shown.
    """
    largest = float(np.abs(perturbation).max()) if perturbation.size else 0.0
    observed = f"the largest change seen is {255 * largest:.2f}/255"
    try:
        radius = float(Fraction(eps.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        radius = 0.0
    if norm.lower() == "linf" and radius > 0:
        half_range, what = radius, f"\u00b1{printable(eps)}"
    else:
        half_range, what = largest or 1.0, "the largest change seen"
    factor = f"{TIMES}{1 / (2 * half_range):.1f}"
    grey = "mid-grey is no change"
    return half_range, f"magnified {factor}, so that {what} fills the whole range; {grey}; {observed}"


def class_name(index: int, classes: list[str]) -> str:
    """Return the name of a class, or `class 12` for one without a name."""
    return printable(classes[index]) if 0 <= index < len(classes) else f"class {index}"


def data_uri(image: Pixels) -> str:
    """Return a `[C, H, W]` image in [0, 1] as a PNG `data:` URI; other than 1 or 3 channels are averaged."""
    from PIL import Image

    shown = image if image.shape[0] in (1, 3) else image.mean(axis=0, keepdims=True)
    levels = np.clip(np.rint(np.nan_to_num(shown) * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    picture = Image.fromarray(levels if levels.shape[2] == 3 else levels[:, :, 0])
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _read(path: Path) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    tensors, metadata = read_tensors(path)
    expected = {
        "clean": 4,
        "adversarial": 4,
        "labels": 1,
        "clean_predictions": 1,
        "adversarial_predictions": 1,
    }
    for name, dimensions in expected.items():
        if name not in tensors or tensors[name].dim() != dimensions:
            found = f"has shape {list(tensors[name].shape)}" if name in tensors else "is missing"
            raise CheckpointError(
                f"{path}: tensor {name!r} {found}, a gallery needs it with {dimensions} dimensions; "
                "delete the file to report without pictures, or evaluate the run again"
            )
    lengths = {len(tensors[name]) for name in expected}
    if len(lengths) > 1 or tensors["clean"].shape != tensors["adversarial"].shape:
        raise CheckpointError(
            f"{path}: the tensors do not belong together (lengths {sorted(lengths)}); evaluate the run again"
        )
    return {name: tensors[name].numpy() for name in expected}, metadata
