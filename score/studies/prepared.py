"""The HTML report of a prepared dataset, one file by itself: counts, sizes, what was left out, crops of every class."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np

from score import masks
from score.data.images import read_image
from score.data.prepare.parts import Plan
from score.data.prepare.run import Summary
from score.data.values import Record
from score.files import write_text

CROPS = 6  # of a class
SIDE = 160  # pixels of a crop
SHARES = (5, 25, 50, 75, 95)
COLOUR = (255, 40, 60)


class Crop(NamedTuple):
    """A picture of an object: where it is from, and a JPEG in base 64."""

    name: str
    data: str


def write_page(path: Path, plan: Plan, summary: Summary, folder: Path, differences: Sequence[str]) -> None:
    """Write the report.

    Args:
        path: where to.
        plan: what was prepared.
        summary: what came of it.
        folder: of the dataset.
        differences: where counts are not those expected, a line each.

    Raises:
        OutputError: no space, or no right to write.
    """
    splits = list(summary.images)
    rows = [{"name": "images", "values": [summary.images[split] for split in splits]}]
    crops: dict[str, list[Crop]] = {}
    sizes: dict[str, list[str]] = {}
    if summary.instances:
        rows.append({"name": "instances", "values": [summary.instances[split] for split in splits]})
        rows += [{"name": name, "values": [summary.classes[split][name] for split in splits]} for name in plan.classes]
        for split in splits:
            coco = json.loads((folder / split / f"instances_{split}.json").read_text(encoding="utf-8"))
            areas = [each["area"] for each in coco["annotations"] if not each["iscrowd"]]
            if areas:
                sizes[split] = [f"{value:.0f}" for value in np.percentile(np.sqrt(areas), SHARES)]
            for category, found in _crops(coco, folder / split / "images").items():
                crops[category] = [*crops.get(category, []), *found][:CROPS]
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("prepared.html.j2")
    told = {**asdict(summary), "name": plan.name, "licence": plan.licence, "source": plan.source, "splits": splits}
    text = page.render(**told, rows=rows, sizes=sizes, shares=SHARES, crops=crops, differences=differences)
    write_text(path, text)


def _crops(coco: dict[str, Any], images: Path) -> dict[str, list[Crop]]:
    """A few objects of each class, evenly spread over the file."""
    files = {each["id"]: each for each in coco["images"]}
    found: dict[str, list[Crop]] = {}
    for category in coco["categories"]:
        own = [each for each in coco["annotations"] if each["category_id"] == category["id"] and not each["iscrowd"]]
        chosen = [own[index] for index in np.linspace(0, len(own) - 1, min(CROPS, len(own)), dtype=int)]
        if chosen:
            found[category["name"]] = [_crop(each, files[each["image_id"]], images) for each in chosen]
    return found


def _crop(record: Record, image: Record, images: Path) -> Crop:
    """An object with a quarter of its size around it, outlined."""
    pixels = read_image(images / image["file_name"])
    rle = masks.encode_shape(record["segmentation"], image["height"], image["width"])
    x, y, width, height = masks.box(rle)
    margin = max(8, max(width, height) // 4)
    left, top = max(0, x - margin), max(0, y - margin)
    right, bottom = min(image["width"], x + width + margin), min(image["height"], y + height + margin)
    scale = SIDE / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(pixels[top:bottom, left:right], size, interpolation=way)
    mask = masks.decode(rle)[top:bottom, left:right].astype(np.uint8)
    large = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    picture = np.ascontiguousarray(picture)
    cv2.drawContours(picture, lines, -1, COLOUR, 1)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Crop(image["file_name"], base64.b64encode(data.tobytes()).decode())
