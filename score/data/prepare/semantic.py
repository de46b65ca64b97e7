"""Label maps, of colours or of numbers, as label images whose values are positions in the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from score.data.images import SUFFIXES
from score.data.labels import UNLABELLED
from score.data.prepare.parts import Item, Part, entry, read_rgb, take, tile_name, write_image
from score.data.tiling import windows
from score.errors import DataError


class Form(NamedTuple):
    """How a dataset's label maps are written.

    Attributes:
        classes: names in their order.
        values: for each class the number that stands for it, or the colour (red, green, blue).
        images, labels: parts of the path by which images and label maps are told apart.
        ending: what a label map's name has after the image's, such as ``_label``.
        replaced: a part of the image's name, and what stands in its place in the label map's.
        ignored: numbers or colours that do not count.
    """

    classes: Sequence[str]
    values: Sequence[int | tuple[int, int, int]]
    images: str
    labels: str
    ending: str = ""
    replaced: tuple[str, str] = ("", "")
    ignored: Sequence[int | tuple[int, int, int]] = ()


ISPRS = Form(
    ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter"),
    ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    "image", "label", "_label", ("_RGB", ""), ((0, 0, 0),),
)  # fmt: skip
FORMS = {
    "potsdam": ISPRS,
    "vaihingen": ISPRS._replace(ending="", replaced=("", "")),
    "loveda": Form(
        ("background", "building", "road", "water", "barren", "forest", "agriculture"), tuple(range(1, 8)),
        "images_png", "masks_png", ignored=(0,),
    ),
    "uavid": Form(
        ("background clutter", "building", "road", "tree", "low vegetation", "moving car", "static car", "human"),
        ((0, 0, 0), (128, 0, 0), (128, 64, 128), (0, 128, 0), (128, 128, 0), (64, 0, 128), (192, 0, 192), (64, 64, 0)),
        "Images", "Labels",
    ),
    "openearthmap": Form(
        ("bareland", "rangeland", "developed space", "road", "tree", "water", "agriculture land", "building"),
        tuple(range(1, 9)), "images", "labels", ignored=(0,),
    ),
    "floodnet": Form(
        ("background", "building flooded", "building non-flooded", "road flooded", "road non-flooded", "water", "tree",
         "vehicle", "pool", "grass"), tuple(range(10)), "img", "label", "_lab",
    ),
}  # fmt: skip


def items(source: Path, form: Form, size: int | None, overlap: int) -> tuple[list[Item], list[str]]:
    """List images with their label maps; a path with a folder ``val`` or ``test`` in it is of ``val``.

    Returns:
        Items, and what is not used.
    """
    files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES]

    def within(path: Path, part: str) -> bool:
        return any(part in each for each in path.relative_to(source).parent.parts)

    labels = {_key(path, source, form.labels): path for path in files if within(path, form.labels)}
    made, notes, lone = [], [], 0
    for path in files:
        if within(path, form.labels) or not within(path, form.images):
            continue
        key = _key(path, source, form.images)
        found = labels.get((*key[:-1], key[-1].replace(*form.replaced) + form.ending))
        if found is None:
            lone += 1
            continue
        split = "val" if {"val", "Val", "valid", "test", "Test"} & set(path.relative_to(source).parts) else "train"
        name = "_".join(key)
        made.append(Item(name, split, partial(convert, path, found, form, name, size, overlap)))
    notes += [f"{lone} images have no label map, left out"] if lone else []
    return made, notes


def _key(path: Path, source: Path, part: str) -> tuple[str, ...]:
    """The folders of a file but the one that says what it is, and its name."""
    folders = path.relative_to(source).parent.parts
    return (*(each for each in folders if part not in each), path.stem)


def convert(image: Path, labels: Path, form: Form, name: str, size: int | None, overlap: int, folder: Path) -> Part:
    """Write an image's label map anew, and the image beside it, whole or in tiles.

    Raises:
        DataError: a file that cannot be read, another size, or a value that is no class.
    """
    numbers, part = positions(labels, form), Part()
    rows, columns = numbers.shape
    if size is None:
        write_image(folder / "labels" / f"{name}.png", numbers)
        take(image, folder / "images" / f"{name}{image.suffix.lower()}")
        part.images.append(entry(f"{name}{image.suffix.lower()}", columns, rows, []))
        return part
    pixels = read_rgb(image)
    if pixels.shape[:2] != numbers.shape:
        raise DataError(f"{labels}: {columns}x{rows} pixels, its image {pixels.shape[1]}x{pixels.shape[0]}")
    for window in windows(columns, rows, size, overlap):
        x, y, width, height = window
        tile = tile_name(name, window, (columns, rows))
        write_image(folder / "labels" / tile, numbers[y : y + height, x : x + width])
        write_image(folder / "images" / tile, pixels[y : y + height, x : x + width])
        part.images.append(entry(tile, width, height, []))
    return part


def positions(path: Path, form: Form) -> NDArray[np.uint8]:
    """Read a label map as positions in the classes, 255 where it does not count.

    Raises:
        DataError: it cannot be read, or holds a value that is no class.
    """
    values: Mapping[int, int] = {
        **{_code(value): UNLABELLED for value in form.ignored},
        **{_code(value): index for index, value in enumerate(form.values)},
    }
    if isinstance(form.values[0], tuple):
        wide = read_rgb(path).astype(np.int32)
        found = wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
    else:
        data = np.fromfile(path, np.uint8)
        read = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if read is None or read.ndim != 2:
            raise DataError(f"{path}: cannot be read as a label map of one channel; get it again")
        found = read.astype(np.int32)
    result = np.full(found.shape, UNLABELLED, np.uint8)
    left = found != UNLABELLED if isinstance(form.values[0], int) else np.ones(found.shape, bool)
    for value, index in values.items():
        here = found == value
        result[here] = index
        left &= ~here
    if left.any():
        value = int(found[left][0])
        said = f"{value & 255},{value >> 8 & 255},{value >> 16}" if isinstance(form.values[0], tuple) else str(value)
        raise DataError(f"{path}: the {'colour' if ',' in said else 'value'} {said} is no class; correct the file")
    return result


def _code(value: int | tuple[int, int, int]) -> int:
    return value if isinstance(value, int) else value[0] | value[1] << 8 | value[2] << 16
