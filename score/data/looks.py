"""What of an annotation deserves a look, though it can be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from score import masks
from score.data.coco_json import AGREES, Coco, who
from score.data.findings import Finding
from score.data.segmentations import Rings, Shape, read_segmentation
from score.data.values import Id, Record, id_reader, is_number, overlap
from score.errors import DataError
from score.masks import Box

OUTSIDE, BESIDE, AREA = 1, 2, 0.05
"""Looked at: vertices and boxes more than so many pixels outside of the image, boxes more than so many off their masks,
and areas by more than this share off both mask and polygon."""


class Annotation(NamedTuple):
    """An annotation as it stands, and what it is read as.

    Attributes:
        number: in the list, from 0 on.
        record: as it stands.
        image: detectron2's dict of its image.
        category: the id of its category.
        shape: its mask; None if that has no pixel.
    """

    number: int
    record: Record
    image: Record
    category: Id
    shape: Shape | None

    @property
    def where(self) -> str:
        """Its id, and the file of its image."""
        return f"{who('annotation', self.number + 1, self.record)} ({Path(self.image['file_name']).name})"


def readable(content: Mapping[str, Any], coco: Coco) -> Iterator[Annotation]:
    """The annotations of a JSON whose image, category and mask can be read."""
    images = {record["image_id"]: record for record in coco.records}
    read_image, read_category = (
        id_reader([item["id"] for item in content[kind] if isinstance(item, dict) and "id" in item])
        for kind in ("images", "categories")
    )
    for number, record in enumerate(content["annotations"]):
        if not isinstance(record, dict):
            continue
        image, category = images.get(read_image(record.get("image_id"))), read_category(record.get("category_id"))
        if image is None or category not in coco.names:
            continue
        try:
            shape = read_segmentation(record.get("segmentation"), image["height"], image["width"])
        except DataError:
            continue
        yield Annotation(number, record, image, category, shape)


def look_at(each: Annotation) -> Iterator[Finding]:
    """What of an annotation deserves a look."""
    record, image, shape, where = each.record, each.image, each.shape, each.where
    if shape is None:
        yield Finding("masks without a pixel, left out", where)
        return
    rle = masks.encode_shape(shape.segmentation, image["height"], image["width"])
    if record.get("id") in (0, "0") and not isinstance(record["id"], bool):
        yield Finding("id 0, which pycocotools' scoring takes for no match", where)
    if not isinstance(shape.segmentation, dict):
        yield from _look_at_rings(shape.segmentation, image, where)
    yield from look_at_box(record.get("bbox"), shape.box, image, where)
    area, stated = masks.area(rle), record.get("area")
    if is_number(stated) and stated and not fits(stated, area, shape):
        yield Finding(f"areas more than {AREA:.0%} off their masks' and polygons'", where, f"{stated}, not {area}")


def fits(stated: float, area: int, shape: Shape) -> bool:
    """Whether a stated area is about that of the mask, in pixels, or of its polygons."""
    outline = shape.segmentation
    polygons = [] if isinstance(outline, dict) else [sum(polygon(ring).area for ring in outline)]
    return any(abs(stated - other) <= AREA * other for other in (area, *polygons))


def _look_at_rings(rings: Rings, image: Record, where: str) -> Iterator[Finding]:
    """What of polygons deserves a look."""
    crossed = [point for point in map(crossing, rings) if point]
    if crossed:
        yield Finding("polygons that cross themselves", where, f"at {crossed[0]}")
    if len(rings) > 1:
        yield Finding("several polygons in one annotation: parts of one object, or several?", where, f"{len(rings)}")
    reach = max(max(-min(ring), max(ring[::2]) - image["width"], max(ring[1::2]) - image["height"]) for ring in rings)
    if reach > OUTSIDE:
        yield Finding("polygons that leave the image, cut off at its edge", where, f"by {reach:g} px")


def look_at_box(stated: Any, box: Box, image: Record, where: str) -> Iterator[Finding]:
    """What of a box deserves a look."""
    try:
        numbers = [float(value) for value in stated or ()]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4:
        what = "missing" if stated is None else "of another form"
        yield Finding(f"boxes that are {what}, made from the masks", where)
        return
    x, y, width, height = numbers
    edges, own = (x, y, x + width, y + height), (box[0], box[1], box[0] + box[2], box[1] + box[3])
    apart = max(abs(a - b) for a, b in zip(edges, own, strict=True))
    if not overlap(numbers, box) > AGREES:  # nan as well
        yield Finding("boxes beside their masks, made from these", where)
    elif apart > BESIDE:
        yield Finding(f"boxes more than {BESIDE} px off their masks'", where, f"by {apart:g} px")
    reach = max(-x, -y, edges[2] - image["width"], edges[3] - image["height"])
    if reach > OUTSIDE:
        yield Finding("boxes that leave the image", where, f"by {reach:g} px")


def crossing(ring: Sequence[float]) -> str:
    """Where a polygon crosses itself, as ``x, y``; "" if it does not, or only touches."""
    reason = shapely.is_valid_reason(polygon(ring))
    place = reason.removeprefix("Self-intersection[").rstrip("]").split() if reason.startswith("Self") else ()
    return ", ".join(f"{float(value):.1f}" for value in place)


def polygon(ring: Sequence[float]) -> shapely.Polygon:
    """A ring ``x, y, x, y, ...`` as shapely has it."""
    return shapely.Polygon(np.reshape(ring, (-1, 2)))


def repeated(annotations: Iterable[Annotation]) -> Iterator[Finding]:
    """Annotations with the same mask of the same class in the same image as an earlier one."""
    first: dict[tuple[Any, ...], Annotation] = {}
    for each in annotations:
        if each.shape is None:
            continue
        key = (each.image["image_id"], each.category, str(each.record.get("iscrowd")), str(each.shape.segmentation))
        earlier = first.setdefault(key, each)
        if earlier is not each:
            yield Finding("the same object twice", each.where, f"as {earlier.where.partition(' (')[0]}")
