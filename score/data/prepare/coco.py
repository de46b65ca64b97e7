"""Any COCO JSON of instances, whole or in tiles: NWPU VHR-10, the official JSON of iSAID, one's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score import masks
from score.data import coco_json
from score.data.images import SUFFIXES, open_image
from score.data.prepare.parts import Item, Part, crop, describe, entry, take_image, tile_name, write_image
from score.data.tiling import windows
from score.data.values import Record
from score.errors import DataError


def find(source: Path) -> tuple[Path, Path]:
    """The JSON of instances and the folder of images in a folder.

    Raises:
        DataError: there is none, or there are several.
    """
    if source.is_file():
        source, found = source.parent, [source]
    else:
        found = sorted(path for path in source.rglob("*.json") if path.stat().st_size)
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(source)) for path in found[:4])
        raise DataError(
            f"{source}: {len(found)} JSON files{f' ({names})' if names else ''}; name the one in source=FILE"
        )
    folders = {path.parent for path in source.rglob("*") if path.suffix.lower() in SUFFIXES}
    if len(folders) != 1:
        raise DataError(f"{source}: images in {len(folders)} folders; say which in images=FOLDER")
    return found[0], folders.pop()


def items(
    json: Path,
    images: Path,
    split: str,
    *,
    size: int | None = None,
    overlap: int = 0,
    least: int = 8,
    val: float | None = None,
    seed: int = 0,
    mend: bool = False,
) -> tuple[list[str], list[Item]]:
    """List the images of a JSON.

    Args:
        json: of instances, in any of the spellings that training reads.
        images: the folder that its file names are relative to.
        split: of all of them, unless ``val`` is given.
        size, overlap: of tiles, in pixels; None for whole images.
        least: pixels of an object in a tile, below which it is left out.
        val: share of the images, drawn by ``seed``, that are of ``val``; the others are of ``train``.
        mend: make an object of each polygon of an annotation.

    Returns:
        Class names in the order of their ids, and items.

    Raises:
        DataError: the JSON or an image cannot be used.
    """
    coco = coco_json.read(json, images).require()
    names = list(coco.names.values())
    made = []
    order = np.random.default_rng(seed).permutation(len(coco.records))
    chosen = set(order[: round((val or 0) * len(order))].tolist())
    paths = [Path(os.path.relpath(record["file_name"], images)) for record in coco.records]
    alone = len({path.name for path in paths}) == len(paths)
    for number, record in enumerate(coco.records):
        name = paths[number].name if alone else "_".join(part for part in paths[number].parts if part != os.pardir)
        if val is not None:
            split = "val" if number in chosen else "train"
        work = partial(whole, record, coco.names, name, mend)
        if size is not None:
            work = partial(cut, record, coco.names, name, size, overlap, least)
        made.append(Item(f"{number + 1:07d}", split, work))
    return names, made


def whole(record: Record, names: dict[Any, str], name: str, mend: bool, folder: Path) -> Part:
    """Take an image as it is, under a name."""
    part, path = Part(), Path(record["file_name"])
    annotations = []
    for each in record["annotations"]:
        shape, stated = each["segmentation"], each.get("area")
        pieces = [shape]
        if not isinstance(shape, dict):
            part.notes["objects of several polygons"] += len(shape) > 1
            pieces = [[list(ring)] for ring in shape] if mend else [[list(ring) for ring in shape]]
        for piece in pieces:
            rle = masks.encode_shape(piece, record["height"], record["width"])
            area = masks.area(rle)
            part.notes["stated areas more than 5 % off the mask's"] += bool(stated) and abs(stated / area - 1) > 0.05
            fact = {"bbox": list(masks.box(rle)), "area": area, "iscrowd": int(each.get("iscrowd", 0))}
            annotations.append({"category": names[each["category_id"]], **fact, "segmentation": piece})
    take_image(path, folder / "images" / name)
    part.images.append(entry(name, record["width"], record["height"], annotations))
    return part


def cut(
    record: Record,
    names: Mapping[Any, str],
    name: str,
    size: int,
    overlap: int,
    least: int,
    folder: Path,
    encode: Callable[[Any, int, int], masks.RLE] = masks.encode_shape,
) -> Part:
    """Cut an image and its masks into tiles, called after ``name``; an object in several tiles is several.

    ``encode`` makes a mask of a segmentation and the image's height and width.
    """
    part, path = Part(), Path(record["file_name"])
    columns, rows = record["width"], record["height"]
    shapes = [encode(each["segmentation"], rows, columns) for each in record["annotations"]]
    boxes = [masks.box(rle) for rle in shapes]
    picture = None
    for window in windows(columns, rows, size, overlap):
        x, y, width, height = window
        annotations = []
        for each, rle, (left, top, across, down) in zip(record["annotations"], shapes, boxes, strict=True):
            if left >= x + width or top >= y + height or left + across <= x or top + down <= y:
                continue
            seen = masks.cut(rle, window)
            if masks.area(seen) < least:
                part.dropped[f"objects of fewer than {least} pixels in a tile"] += 1
                continue
            moved = masks.RLE(size=seen["size"], counts=seen["counts"])
            annotations.append(
                describe(moved, names[each["category_id"]], height, width, iscrowd=int(each.get("iscrowd", 0)))
            )
        if not annotations:
            part.dropped["tiles without objects"] += 1
            continue
        picture = open_image(path) if picture is None else picture
        tile = tile_name(Path(name).stem, window, (columns, rows))
        write_image(folder / "images" / tile, crop(picture, window))
        part.images.append(entry(tile, width, height, annotations))
    return part
