"""What must hold of a COCO JSON and its images before anything is computed from them."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score.data.images import check_size, read_size
from score.errors import DataError
from score.names import normalise


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO JSON.

    Raises:
        DataError: no such file, not a COCO JSON of instances, or no annotations at all.
    """
    try:
        coco = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such annotation file; {_put(path)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); replace the file") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list):
            raise DataError(f"{path}: not a COCO JSON, it has no list of {key}; see cocodataset.org/#format-data")
    if not coco["annotations"]:
        raise DataError(f"{path}: no annotations at all; there is nothing to learn from or to compare with")
    return coco


def _put(path: Path) -> str:
    """What to do about a missing file: its nearest folder that does exist, and what it lacks."""
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    return f"in {there} there is no {path.relative_to(there).parts[0]}" if there else "check the path"


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse an empty list of class names, or one that says a name twice.

    Raises:
        DataError: naming the doubles.
    """
    if not names:
        raise DataError(f"{where}: no class names; give at least one")
    doubles = [name for name, count in Counter(map(normalise, names)).items() if count > 1]
    if doubles:
        raise DataError(f"{where}: class names given more than once: {_listed(doubles)}; leave each once")


def match_categories(
    categories: Iterable[dict[str, Any]], names: Sequence[str], json_file: Path, spec: str
) -> dict[int | str, int]:
    """Match a JSON's categories to a dataset's classes, by name and never by position.

    Args:
        categories: the JSON's ``categories``.
        names: the classes, in the dataset's order.
        json_file: named in the message.
        spec: what states ``names``, named in the message.

    Returns:
        The JSON's category id to the index in ``names``.

    Raises:
        DataError: the names differ; the message lists the difference.
    """
    try:
        pairs = [(category["id"], str(category["name"])) for category in categories]
        double = len({i for i, _ in pairs}) < len(pairs)
    except (KeyError, TypeError) as error:
        raise DataError(f"{json_file}: a category without id or name; give every category both") from error
    check_names([name for _, name in pairs], str(json_file))
    if double:
        raise DataError(f"{json_file}: two categories with one id; give each its own")
    index = {normalise(name): i for i, name in enumerate(names)}
    found = {normalise(name): name for _, name in pairs}
    missing = [name for name in names if normalise(name) not in found]
    unknown = [name for key, name in found.items() if key not in index]
    if missing or unknown:
        sides = [
            f"{what} {_listed(side)}" for what, side in (("it lacks", missing), ("it has besides", unknown)) if side
        ]
        raise DataError(f"{json_file}: categories differ from {spec}: {'; '.join(sides)}; make the names agree")
    return {i: index[normalise(name)] for i, name in pairs}


def check_records(coco: dict[str, Any], json_file: Path) -> None:
    """Check that images and annotations are complete and refer to each other; an id may be 0.

    Raises:
        DataError: naming the first image or annotation at fault.
    """
    for kind, keys in (("image", ("id", "file_name", "width", "height")), ("annotation", ("image_id", "category_id"))):
        for number, record in enumerate(coco[f"{kind}s"]):
            absent = [key for key in keys if key not in record]
            if absent:
                raise DataError(f"{json_file}: {kind} {record.get('id', f'number {number}')} has no {_listed(absent)}")
            if not isinstance(record.get("id", 0), int | str):
                raise DataError(f"{json_file}: {kind} number {number} has the id {record['id']}; use numbers or words")
    for key, of in (("id", "image"), ("file_name", "image"), ("id", "annotation")):
        counts = Counter(record[key] for record in coco[f"{of}s"] if key in record)
        double = next((value for value, count in counts.items() if count > 1), None)
        if double is not None:
            raise DataError(f"{json_file}: {counts[double]} {of}s with the {key} {double}; each needs its own")
    images = {record["id"]: [record["height"], record["width"]] for record in coco["images"]}
    categories = {record["id"] for record in coco["categories"]}
    for record in coco["annotations"]:
        who = f"{json_file}: annotation {record.get('id', 'without id')}"
        if record["image_id"] not in images:
            raise DataError(
                f"{who} is of image {record['image_id']}, which is not listed; add it or drop the annotation"
            )
        if record["category_id"] not in categories:
            raise DataError(f"{who} is of category {record['category_id']}, which is not listed; correct it")
        if "bbox" not in record or not isinstance(record.get("segmentation"), list | dict):
            raise DataError(f"{who} has no bbox or no segmentation; instance masks are needed")
        area = record.get("area")
        if area is not None and not (isinstance(area, int | float) and 0 <= area < math.inf):
            raise DataError(f"{who} has the area {area}; correct it, or leave it out")
        shape = record["segmentation"]
        if isinstance(shape, list):
            if not all(map(_is_ring, shape)):
                raise DataError(f"{who} has a polygon that is no list of an even number of coordinates; correct it")
        elif list(shape.get("size", ())) != images[record["image_id"]] or "counts" not in shape:
            raise DataError(f"{who} has an RLE of another size than its image, or without counts; correct it")


def _is_ring(ring: Any) -> bool:
    """Whether something is a flat list of x, y, x, y, ... of finite numbers; rasterising others has no end."""
    if not isinstance(ring, list) or len(ring) % 2:
        return False
    try:
        points = np.array(ring)
    except ValueError:
        return False
    return not ring or (points.ndim == 1 and points.dtype.kind in "iuf" and bool(np.isfinite(points).all()))


def check_images(images: Sequence[dict[str, Any]], folder: Path) -> None:
    """Check that every image file is there, can be opened, and has the stated size; reads headers only.

    Raises:
        DataError: naming the first file at fault, and how many are missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images; {_put(folder)}")
    there = {parent: _files(folder / parent) for parent in {os.path.dirname(image["file_name"]) for image in images}}
    missing = [image["file_name"] for image in images if _split(image)[1] not in there[_split(image)[0]]]
    if missing:
        raise DataError(f"{folder / missing[0]}: no such image ({len(missing)} of {len(images)} are missing); add it")
    for image in images:
        path = folder / image["file_name"]
        check_size(path, read_size(path), (image["width"], image["height"]))


def _split(image: dict[str, Any]) -> tuple[str, str]:
    return os.path.split(image["file_name"])


def _files(folder: Path) -> set[str]:
    """The names in a folder: one listing is much cheaper than asking for each file."""
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _listed(names: Iterable[str], most: int = 12) -> str:
    """Names in quotes, the first few of many."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + rest
