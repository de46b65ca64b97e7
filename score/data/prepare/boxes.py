"""Datasets of boxes, DOTA and DIOR, as ground truth for the scores of boxes: a box is its own mask."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from score.data.dota import read_dota
from score.data.images import read_size
from score.data.prepare.parts import Item, Outline, Part, image_files, outlined, split_of
from score.errors import DataError

CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")
Objects = list[tuple[Outline, bool]]
"""Boxes, and whether each is difficult."""


def items(source: Path, suffix: str) -> tuple[list[str], list[Item], list[str]]:
    """List the images of a folder with a label file each: ``.txt`` as DOTA has them, or ``.xml`` as DIOR has.

    A path with a folder ``val``, ``valid`` or ``test`` in it is of the split ``val``.

    Args:
        source: the folder.
        suffix: of label files.

    Returns:
        Class names in alphabetical order, items, and what is not used.

    Raises:
        DataError: a label file is damaged.
    """
    read: Callable[[Path], Objects] = {".txt": from_dota, ".xml": from_voc}[suffix]
    labels: dict[tuple[str, str], Path] = {}
    for path in sorted(source.rglob(f"*{suffix}")):
        labels.setdefault((path.stem, split_of(path, source)), path)
    images = {(path.stem, split_of(path, source)): path for path in image_files(source)}
    both = sorted(labels.keys() & images.keys())
    names = {outline.category for key in both for outline, _ in read(labels[key])}
    made = [Item(f"{key[1]}_{key[0]}", key[1], partial(take_image, images[key], labels[key], suffix)) for key in both]
    lone = len(images) - len(both)
    return sorted(names), made, [f"{lone} images have no label file, left out"] if lone else []


def from_dota(path: Path) -> Objects:
    """The oriented boxes of a label file of DOTA."""
    found = read_dota(path)
    return [
        (Outline(item.name, item.corners.ravel().tolist(), f"{path}, object {number}"), item.difficult)
        for number, item in enumerate(found)
    ]


def from_voc(path: Path) -> Objects:
    """The boxes of a label file of DIOR: oriented where it has them, else axis-aligned.

    Raises:
        DataError: the file is damaged.
    """
    try:
        objects = ElementTree.parse(path).getroot().iter("object")
        return list(_voc(objects, path))
    except (ElementTree.ParseError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as labels of DIOR ({error}); get it again") from error


def _voc(objects: Iterable[Any], path: Path) -> Iterable[tuple[Outline, bool]]:
    for number, each in enumerate(objects):
        turned = each.find("robndbox")
        value = {child.tag: float(child.text) for child in (each.find("bndbox") if turned is None else turned)}
        if turned is None:
            x0, y0, x1, y1 = (value[key] for key in ("xmin", "ymin", "xmax", "ymax"))
            ring = [x0, y0, x1, y0, x1, y1, x0, y1]
        else:
            ring = [value[f"{axis}_{corner}"] for corner in CORNERS for axis in "xy"]
        hard = each.findtext("difficult", "0").strip() == "1"
        name = each.findtext("name").strip()
        if not name:
            raise ValueError("an object without a name")
        yield Outline(name, ring, f"{path}, object {number}"), hard


def take_image(image: Path, label: Path, suffix: str, folder: Path) -> Part:
    """Take an image as it is, with its boxes; difficult ones are ignored in scores."""
    objects = {".txt": from_dota, ".xml": from_voc}[suffix](label)
    width, height = read_size(image)
    part = outlined(image, image.stem, width, height, [outline for outline, _ in objects], folder)
    hard = {tuple(round(value, 3) for value in outline.ring) for outline, difficult in objects if difficult}
    for each in part.images[0]["annotations"]:
        each["iscrowd"] = int(tuple(each["segmentation"][0]) in hard)
    part.notes["difficult objects, ignored in scores"] += len(hard)
    return part
