"""iSAID as published: images with a PNG of instance ids and one of class colours, or the official COCO JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from score import masks
from score.data.images import check_size, open_image, read_size
from score.data.prepare import coco
from score.data.prepare.parts import (
    Item,
    Part,
    crop,
    describe,
    entry,
    image_files,
    take,
    tile_name,
    write_image,
)  # fmt: skip
from score.data.tiling import windows
from score.data.values import Record
from score.errors import DataError

IDS, COLOURS = "_instance_id_RGB.png", "_instance_color_RGB.png"
CLASSES = {  # as the development kit colours them
    (0, 0, 63): "ship", (0, 63, 63): "storage_tank", (0, 63, 0): "baseball_diamond", (0, 63, 127): "tennis_court",
    (0, 63, 191): "basketball_court", (0, 63, 255): "Ground_Track_Field", (0, 127, 63): "Bridge",
    (0, 127, 127): "Large_Vehicle", (0, 0, 127): "Small_Vehicle", (0, 0, 191): "Helicopter",
    (0, 0, 255): "Swimming_pool", (0, 191, 127): "Roundabout", (0, 127, 191): "Soccer_ball_field",
    (0, 127, 255): "plane", (0, 100, 155): "Harbor",
}  # fmt: skip


def items(source: Path, size: int, overlap: int, least: int) -> tuple[list[Item], list[str]]:
    """List the images of a folder that holds iSAID in any arrangement.

    A path with a folder ``val`` in it is of that split, all others are of ``train``; ``test`` has no masks.

    Args:
        source: the folder.
        size, overlap: of tiles, in pixels.
        least: pixels of an object in a tile, below which it is left out.

    Returns:
        Items, and what is not used.
    """
    found = {path.name.removesuffix(IDS): path for path in sorted(source.rglob(f"*{IDS}"))}
    colours = {path.name.removesuffix(COLOURS): path for path in sorted(source.rglob(f"*{COLOURS}"))}
    images = {
        path.stem: path
        for path in sorted(source.rglob("*.png"))
        if not path.name.endswith((IDS, COLOURS)) and "mask" not in str(path.relative_to(source)).lower()
    }
    made, notes = [], []
    for stem, ids in found.items():
        missing = [what for what, there in (("image", images), ("colours", colours)) if stem not in there]
        if missing:
            notes.append(f"{stem}: no {' and no '.join(missing)}, left out")
            continue
        split = "val" if "val" in ids.relative_to(source).parts else "train"
        work = partial(cut, images[stem], ids, colours[stem], size, overlap, least)
        made.append(Item(stem, split, work))
    notes += [f"{stem}: no masks, left out" for stem in sorted(set(images) - set(found))]
    return made, notes


def cut(image: Path, ids: Path, colours: Path, size: int, overlap: int, least: int, folder: Path) -> Part:
    """Cut an image and its masks into tiles; an object in several tiles is several.

    Raises:
        DataError: a file that cannot be read, sizes that differ, an id of two classes, a colour that is none.
    """
    labels, names = read_objects(ids, colours)
    picture, part, (rows, columns) = open_image(image), Part(), labels.shape
    if picture.size != (columns, rows):
        raise DataError(f"{image}: {picture.width}x{picture.height} pixels, its masks {columns}x{rows}")
    for window in windows(columns, rows, size, overlap):
        x, y, width, height = window
        tile, annotations = labels[y : y + height, x : x + width], []
        for index, place in enumerate(ndimage.find_objects(tile)):
            if place is None:
                continue
            mask = tile[place] == index + 1
            if np.count_nonzero(mask) < least:
                part.dropped[f"objects of fewer than {least} pixels in a tile"] += 1
                continue
            rle = masks.encode(mask[None], (place[1].start, place[0].start))[0]
            annotations.append(describe(rle, names[index], height, width))
        if not annotations:
            part.dropped["tiles without objects"] += 1
            continue
        name = tile_name(image.stem, window, (columns, rows))
        if (width, height) == (columns, rows):
            take(image, folder / "images" / name)
        else:
            write_image(folder / "images" / name, crop(picture, window))
        part.images.append(entry(name, width, height, annotations))
    return part


def json_items(source: Path, images: Path, size: int, overlap: int, least: int) -> tuple[list[Item], list[str]]:
    """List the images of JSON files as the development kit and the publication have them.

    Their polygons are the outermost pixels of each part of an object, as OpenCV's ``findContours`` gives them
    (``preprocess.py`` of https://github.com/CAPTAIN-WHU/iSAID_Devkit), so holes are filled.

    Args:
        source: the folder, or one JSON.
        images: a folder that holds the images, in any arrangement.
        size, overlap, least: as of :func:`items`.

    Returns:
        Items, and what is not used; nothing where no JSON is of this kind.

    Raises:
        DataError: a JSON is damaged.
    """
    made, notes = list[Item](), []
    files = {path.name: path for path in image_files(images)}
    for path in [source] if source.is_file() else sorted(source.rglob("*.json")):
        found = _read_json(path)
        if found is None:
            notes.append(f"{path.name}: not laid out as iSAID's, left out")
            continue
        words = set(re.split(r"[^a-z]+", str(path.relative_to(source.parent)).lower()))
        for record in found[0]:
            image = files.get(Path(str(record["file_name"])).name)
            if image is None:
                notes.append(f"{record['file_name']} of {path.name}: no image, left out")
                continue
            work = partial(_cut_contours, {**record, "file_name": str(image)}, found[1], size, overlap, least)
            made.append(Item(image.stem, "val" if "val" in words else "train", work))
    return made, notes if made else []


def _read_json(path: Path) -> tuple[list[Record], dict[Any, str]] | None:
    """Images with their annotations, and names of categories; None for a JSON of another kind."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); get it again") from error
    try:
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        records = {each["id"]: {**each, "annotations": []} for each in content["images"]}
        for each in content["annotations"]:
            rings = each["segmentation"]
            whole = all(len(ring) % 2 == 0 and {*map(type, ring)} == {int} for ring in rings)
            if each["category_id"] not in names or not whole or not rings or isinstance(rings, dict):
                return None
            records[each["image_id"]]["annotations"].append(each)
    except (KeyError, TypeError, AttributeError):
        return None
    return list(records.values()), names


def _cut_contours(record: Record, names: dict[Any, str], size: int, overlap: int, least: int, folder: Path) -> Part:
    path = record["file_name"]
    check_size(path, read_size(path), (record["width"], record["height"]))
    try:
        return coco.cut(record, names, Path(path).name, size, overlap, least, folder, fill)
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def fill(contours: Sequence[Sequence[int]], height: int, width: int) -> masks.RLE:
    """The mask within contours that are pixels of it, in a window.

    Args:
        contours: ``x, y, x, y, ...``, whole numbers.
        height, width: of the image.

    Raises:
        DataError: one reaches beyond the image.
    """
    points = [np.array(ring).reshape(-1, 2) for ring in contours]
    low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
    if low.min() < 0 or high[0] >= width or high[1] >= height:
        raise DataError(f"a contour from {low.tolist()} to {high.tolist()}, outside of {width}x{height} pixels")
    canvas = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    for ring in points:
        cv2.drawContours(canvas, [(ring - low).astype(np.int32)], -1, 1, cv2.FILLED)
    return masks.encode(canvas[None], low.tolist())[0]


def read_objects(ids: Path, colours: Path) -> tuple[NDArray[np.integer[Any]], list[str]]:
    """Read the objects of an image.

    Returns:
        ``[H, W]``, 0 where nothing is, and 1 .. N in the order of the ids; and the classes of these.

    Raises:
        DataError: as :func:`cut`.
    """
    picture = open_image(ids)
    seen = np.zeros(1 << 24, bool)
    for _, codes in _stripes(picture):
        seen[codes] = True
    seen[0] = False
    known = np.flatnonzero(seen)
    table = np.zeros(1 << 24, np.uint16 if len(known) < 1 << 16 else np.int32)
    table[known] = np.arange(1, len(known) + 1)
    labels = np.empty((picture.height, picture.width), table.dtype)
    for rows, codes in _stripes(picture):
        labels[rows] = table[codes]
    del picture, table  # before the next is read
    picture = open_image(colours)
    if (picture.height, picture.width) != labels.shape:
        raise DataError(f"{ids}: another size than {colours.name}")
    colour = np.full(len(known) + 1, -1, np.int32)
    for rows, codes in _stripes(picture):
        new = labels[rows] * (colour[labels[rows]] < 0)
        colour[new] = codes  # of pixels that differ, the last one's
        wrong = np.flatnonzero(((colour[labels[rows]] != codes) & (labels[rows] > 0)).ravel())
        if len(wrong):
            number = known[labels[rows].flat[wrong[0]] - 1]
            raise DataError(f"{ids}: the object of id {number} has two colours in {colours.name}")
    classes = {red + (green << 8) + (blue << 16): name for (red, green, blue), name in CLASSES.items()}
    names = []
    for index, code in enumerate(colour[1:].tolist()):
        if code not in classes:
            red, green, blue = code & 255, code >> 8 & 255, code >> 16
            raise DataError(f"{colours}: the colour {red},{green},{blue} of id {known[index]} is no class of iSAID")
        names.append(classes[code])
    return labels, names


def _stripes(picture: Image.Image) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """Rows, and R + 256 G + 65536 B of their pixels, a few at a time: no large image is held as whole numbers."""
    for top in range(0, picture.height, 256):
        rows = slice(top, min(top + 256, picture.height))
        wide = crop(picture, (0, top, picture.width, rows.stop - top)).astype(np.int32)
        yield rows, wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
