"""LabelMe's JSON files: polygons, rectangles and circles, one file an image."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from score.data.images import read_size
from score.data.prepare.parts import Item, Outline, Part, image_files, outlined, split_of
from score.errors import DataError


def items(source: Path) -> tuple[list[str], list[Item], list[str]]:
    """List the JSON files of a folder that LabelMe wrote; a path with a folder ``val`` in it is of that split.

    Returns:
        Class names in alphabetical order, items, and what is not used.

    Raises:
        DataError: a file is damaged.
    """
    names, made, notes, other = set[str](), [], [], 0
    for path in sorted(source.rglob("*.json")):
        content = _read(path)
        if content is None:
            other += 1
            continue
        names.update(shape["label"] for shape in content["shapes"])
        key = "_".join(path.relative_to(source).with_suffix("").parts)
        made.append(Item(key, split_of(path, source), partial(take_image, path, key)))
    notes += [f"{other} JSON files are not LabelMe's, left out"] if other else []
    return sorted(names), made, notes


def take_image(path: Path, key: str, folder: Path) -> Part:
    """Take the image of a LabelMe file as it is, with its polygons, rectangles and circles."""
    content = _read(path)
    assert content is not None
    image = path.parent / str(content.get("imagePath", "")).replace("\\", "/")
    if not image.is_file():
        image = next((each for each in image_files(path.parent) if each.stem == path.stem), image)
    if not image.is_file():
        raise DataError(f"{path}: its image {content.get('imagePath')} is not there")
    width, height = read_size(image)
    shapes = []
    for number, shape in enumerate(content["shapes"]):
        where = f"{path}, shape {number}"
        try:
            points = [(float(x), float(y)) for x, y in shape["points"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: no points; correct it") from error
        ring = _ring(str(shape.get("shape_type", "polygon")), points, where)
        shapes.append(Outline(shape["label"], ring, where))
    return outlined(image, key, width, height, shapes, folder)


def _ring(kind: str, points: list[tuple[float, float]], where: str) -> list[float]:
    """The flat coordinates of a shape."""
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle" and len(points) == 2:
        radius, turn = np.hypot(*np.subtract(points[1], points[0])), np.linspace(0, 2 * np.pi, 65)[:-1]
        points = [(points[0][0] + radius * np.cos(a), points[0][1] + radius * np.sin(a)) for a in turn]
    elif kind != "polygon":
        raise DataError(f"{where}: a {kind}, and no outline; draw a polygon")
    if len(points) < 3:
        raise DataError(f"{where}: an outline of {len(points)} points; correct it")
    return [float(value) for point in points for value in point]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON; get it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    for number, shape in enumerate(content["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{path}, shape {number}: no label; name its class")
    return content
