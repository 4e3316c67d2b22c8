"""Small folders in the exact layouts of ImageNet and Tiny-ImageNet, each image of one colour of its own."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from torch import Tensor

WNIDS = ("n02123045", "n01440764", "n07734744")  # not in order, as in the published lists
WORDS = {"n02123045": "tabby, tabby cat", "n01440764": "tench, Tinca tinca", "n07734744": "mushroom"}


def colour(name: str) -> tuple[int, int, int]:
    code = zlib.crc32(name.encode())
    return 16 + code % 8 * 32, 16 + code // 8 % 8 * 32, 16 + code // 64 % 8 * 32


def write_jpeg(file: Path, size: tuple[int, int] = (64, 64)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(file.name)).save(file, "JPEG", quality=95)


def shows(image: Tensor, name: str) -> bool:
    """Whether the decoded image `[3, H, W]` (uint8) has the colour of the file of that name, all over."""
    wanted = np.array(colour(name))[:, None, None]
    return bool(np.abs(image.numpy().astype(int) - wanted).max() <= 3)


def write_tiny_imagenet(root: Path, *, n: int = 4, wnids: tuple[str, ...] = WNIDS) -> Path:
    """As the published archive unpacks; validation image `val_<i>.JPEG` is of class `i % len(wnids)`."""
    (root / "test" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{w}\n" for w in wnids))
    (root / "words.txt").write_text("n00001740\tentity\n" + "".join(f"{w}\t{WORDS[w]}\n" for w in wnids))
    for wnid in wnids:
        names = [f"{wnid}_{i}.JPEG" for i in range(n)]
        for name in names:
            write_jpeg(root / "train" / wnid / "images" / name)
        boxes = "".join(f"{name}\t0\t10\t63\t58\n" for name in names)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    lines = []
    for i in range(2 * len(wnids)):
        write_jpeg(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnids[i % len(wnids)]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    write_jpeg(root / "test" / "images" / "test_0.JPEG")
    return root


def write_train(root: Path, *, n: int = 3, wnids: tuple[str, ...] = WNIDS) -> Path:
    for wnid in wnids:
        for i in range(n):
            write_jpeg(root / "train" / wnid / f"{wnid}_{10 * i + 7}.JPEG", (50 + 5 * i, 40))
    return root


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


VAL = {number: WNIDS[(number * 2) % 3] for number in range(1, 8)}  # the class of each validation image


def write_flat_val(root: Path) -> Path:
    for number in VAL:
        write_jpeg(root / "val" / val_name(number), (40, 60))
    return root


def write_val_folders(root: Path) -> Path:
    for number, wnid in VAL.items():
        write_jpeg(root / "val" / wnid / val_name(number), (40, 60))
    return root


def write_devkit(folder: Path) -> None:
    """The ground truth and meta.mat of the devkit: numbers from 1 in an order of its own, inner synsets after."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {wnid: i + 1 for i, wnid in enumerate(WNIDS)}
    ids = [*enumerate(WNIDS, 1), (4, "n00001740")]
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([(float(i), w, WORDS.get(w, "entity"), 3.0 * (i == 4)) for i, w in ids], dtype=kind)
    savemat(folder / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    truth = "".join(f"{numbers[wnid]}\n" for wnid in VAL.values())
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def label_lists() -> dict[str, str]:
    """The widespread lists of validation labels, by file name, in their formats."""
    order = sorted(WNIDS)
    shuffled = sorted(VAL.items(), key=lambda item: item[0] * 5 % 8)
    return {
        "imagenet_2012_validation_synset_labels.txt": "".join(f"{wnid}\n" for wnid in VAL.values()),
        "val.txt": "".join(f"{val_name(i)} {order.index(wnid)}\n" for i, wnid in shuffled),
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"{val_name(i)[:-5]},{wnid} 85 1 499 272 {wnid} 1 2 3 4 \n" for i, wnid in shuffled),
        "own.txt": "".join(f"{val_name(i)} {order.index(wnid):03d} {wnid}\n" for i, wnid in shuffled),
    }
