"""SAMRS as published (SIOR, SOTA, FAST): a pickled list of objects for each image."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score import masks
from score.data.images import SUFFIXES, read_size
from score.data.prepare.parts import Item, Part, entry, take_image
from score.data.segmentations import read_segmentation
from score.errors import DataError
from score.names import normalise

BOXES = ("rbox", "rhbox")  # kept beside COCO's bbox, for detection
NUMPY = {  # what arrays and numbers of NumPy are made of, under its old and new names
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class Unpickler(pickle.Unpickler):
    """Knows lists, dicts, numbers, text and NumPy's arrays; a pickle of anything else could run a program."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what an array is made of."""
        if (module, name) not in NUMPY:
            raise pickle.UnpicklingError(f"it would load {module}.{name}")
        return super().find_class(module, name)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the objects of an image.

    Raises:
        DataError: the file is damaged, holds something else, or would run a program.
    """
    try:
        found = Unpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a damaged pickle raises what it likes
        raise DataError(f"{path}: cannot be read as objects of SAMRS ({str(error)[:120]}); get it again") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"{path}: not a list of objects, as SAMRS has it; get it again")
    return found


def items(source: Path, classes: Sequence[str], split: str, lists: Mapping[str, Path]) -> tuple[list[Item], list[str]]:
    """List the images of a folder that holds SAMRS in any arrangement: ``NAME.pkl`` and the image ``NAME.*``.

    Args:
        source: the folder.
        classes: of the dataset.
        split: of images that no list names.
        lists: for each split a text file with an image's name a line; with these, other images are left out.

    Returns:
        Items, and what is not used.

    Raises:
        DataError: a list cannot be read.
    """
    pickles = {path.stem: path for path in sorted(source.rglob("*.pkl"))}
    images = {path.stem: path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES}
    where = {stem: name for name, path in lists.items() for stem in _list(path)}
    known = {normalise(name): name for name in classes}
    made, notes = [], []
    for stem, path in pickles.items():
        if stem not in images:
            notes.append(f"{stem}: no image, left out")
        elif stem in where or not lists:
            made.append(Item(stem, where.get(stem, split), partial(take_objects, images[stem], path, known)))
    unlisted = len(pickles) - len(made) - len(notes)
    lone = len(set(images) - set(pickles))
    notes += [f"{unlisted} images are in no list, left out"] if unlisted else []
    notes += [f"{lone} images have no objects, left out"] if lone else []
    return made, notes


def _list(path: Path) -> list[str]:
    """The names of a list, a line each."""
    try:
        return [Path(line.strip()).stem for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of names") from error


def take_objects(image: Path, objects: Path, known: Mapping[str, str], folder: Path) -> Part:
    """Take an image as it is, with the masks and boxes of its objects."""
    part, annotations = Part(), []
    width, height = read_size(image)
    for number, item in enumerate(read(objects)):
        where = f"{objects}, object {number}"
        name = known.get(normalise(str(item.get("category", ""))))
        if name is None:
            raise DataError(f"{where}: the class {item.get('category')!r} is none of the dataset")
        mask = item.get("mask")
        try:
            if isinstance(mask, dict):
                counts = mask.get("counts")
                counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
                mask = {"size": [int(side) for side in mask.get("size", ())], "counts": counts}
            shape = read_segmentation(mask, height, width)
            boxes = {key: np.asarray(item[key], float).ravel().tolist() for key in BOXES if item.get(key) is not None}
        except DataError as error:
            raise DataError(f"{where} {error}") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: a mask or box that is none ({str(error)[:80]}); get it again") from error
        if shape is None:
            part.dropped["objects with an empty mask"] += 1
            continue
        rle = masks.encode_shape(shape.segmentation, height, width)
        annotations.append(
            {
                "category": name,
                "bbox": list(shape.box),
                "area": masks.area(rle),
                "iscrowd": 0,
                "segmentation": rle,
                **boxes,
            }
        )
    if not annotations:
        part.dropped["images without objects"] += 1
        return part
    take_image(image, folder / "images" / image.name)
    part.images.append(entry(image.name, width, height, annotations))
    return part
