"""YOLO's segmentation folders: ``images/``, ``labels/`` and ``data.yaml``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml

from score.data.images import read_size
from score.data.prepare.parts import Item, Outline, Part, image_files, outlined, split_of
from score.errors import DataError


def items(source: Path) -> tuple[list[str], list[Item], list[str]]:
    """List the images of a folder with ``images/``, ``labels/`` and ``data.yaml``.

    A path with a folder ``val``, ``valid`` or ``test`` in it is of the split ``val``.

    Returns:
        Class names, items, and what is not used.

    Raises:
        DataError: there is no ``data.yaml``, or it has no ``names``.
    """
    try:
        names = yaml.safe_load((source / "data.yaml").read_text("utf-8"))["names"]
        names = [str(names[number]) for number in range(len(names))]  # of a dict, too: each number has its name
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DataError(
            f"{source}: no data.yaml that names the classes, from 0 on; class numbers mean nothing without"
        ) from error
    made, notes, lone = [], [], 0
    for image in image_files(source):
        parts = list(image.relative_to(source).parts)
        if "images" not in parts:
            continue
        parts[parts.index("images")] = "labels"
        label = source.joinpath(*parts).with_suffix(".txt")
        lone += not label.exists()
        key = "_".join(image.relative_to(source).with_suffix("").parts)
        made.append(Item(key, split_of(image, source), partial(take_image, image, label, tuple(names), key)))
    notes += [f"{lone} images have no label file: they hold nothing"] if lone else []
    return names, made, notes


def take_image(image: Path, label: Path, names: tuple[str, ...], key: str, folder: Path) -> Part:
    """Take an image as it is, with the polygons of its label file, which are shares of its sides."""
    width, height = read_size(image)
    shapes: list[Outline] = []
    lines = label.read_text("utf-8-sig", "replace").splitlines() if label.exists() else []
    for number, line in enumerate(lines, start=1):
        where, words = f"{label}, line {number}", line.split()
        if not words:
            continue
        try:
            index, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError as error:
            raise DataError(f"{where}: not a class number and coordinates; correct it") from error
        if not 0 <= index < len(names):
            raise DataError(f"{where}: class {index}, but data.yaml names {len(names)}, from 0; correct it")
        if len(values) == 4:
            raise DataError(f"{where}: a box, and no outline; instance masks are needed")
        if len(values) < 6 or len(values) % 2 or not all(-0.01 <= value <= 1.01 for value in values):
            raise DataError(f"{where}: not an outline of three points or more within 0 .. 1; correct it")
        sides = (width, height) * (len(values) // 2)
        ring = [value * side for value, side in zip(values, sides, strict=True)]
        shapes.append(Outline(names[index], ring, where))
    return outlined(image, key, width, height, shapes, folder)
