"""The segmentation of a COCO annotation, in the spellings people use, as clean polygons or run lengths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from score.data.values import is_number, is_whole
from score.errors import DataError
from score.masks import RLE, Box, box, encode_shape

Rings = tuple[tuple[float, ...], ...]

FAR = 10
"""A vertex so many times the image's longer side away from it is a mistake, and without end to rasterise."""


class Shape(NamedTuple):
    """An object's outline and the extent of its mask.

    Attributes:
        segmentation: polygons in pixels, each ``x, y, x, y, ...``, or the mask.
        box: of the mask, in pixels.
    """

    segmentation: Rings | RLE
    box: Box


def read_segmentation(value: Any, height: int, width: int) -> Shape | None:
    """Read a segmentation: polygons, polygons of x, y pairs, or run lengths, a string or a list; one may be in a list.

    Values that can be read in one way only are read so.

    Args:
        value: as the JSON has it.
        height, width: of the image.

    Returns:
        None for a mask without pixels.

    Raises:
        DataError: ``what; what to do``, for a value that is damaged, or could mean several things.
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        found: Rings | RLE | None = _read_runs(value, height, width)
    elif isinstance(value, list):
        found = _read_rings(value, height, width)
    else:
        kind = "no segmentation" if value is None else f"a segmentation that is {type(value).__name__}"
        raise DataError(f"has {kind}; instance masks are needed, polygons or run lengths")
    if not found:
        return None
    rle = encode_shape(found, height, width)
    extent = box(rle)
    return Shape(found, extent) if extent[2] else None


def _read_rings(value: list[Any], height: int, width: int) -> Rings:
    """Polygons with three points or more."""
    if value and all(map(is_number, value)):
        raise DataError("has one flat list of coordinates; put it in a list, [[x, y, x, y, ...]], one a polygon")
    if len(value) >= 3 and all(map(_is_point, value)):
        value = [value]
    rings = [list(chain(*ring)) if isinstance(ring, list) and all(map(_is_point, ring)) else ring for ring in value]
    for ring in rings:
        if not isinstance(ring, list) or len(ring) % 2 or not set(map(type, ring)) <= {int, float}:
            raise DataError("has a polygon that is no list of an even number of numbers; correct it")
        if not all(map(_is_finite, ring)):
            raise DataError("has a coordinate that is no finite number; correct it")
    kept = tuple(tuple(ring) for ring in rings if len(ring) >= 6)
    for ring in kept:
        _check_extent(ring, height, width)
    return kept


def _check_extent(ring: tuple[float, ...], height: int, width: int) -> None:
    """Refuse a polygon that reaches far beyond its image."""
    low, high = (min(ring[::2]), min(ring[1::2])), (max(ring[::2]), max(ring[1::2]))
    reach = FAR * max(height, width)
    if min(low) >= -reach and max(high[0] - width, high[1] - height) <= reach:
        return
    extent = f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g} in an image of {width}x{height}"
    if low[0] >= width or low[1] >= height or max(high[0], high[1]) <= 0:
        raise DataError(
            f"lies outside the image altogether, {extent}; give pixels of the image: "
            "georeferenced labels have to be converted"
        )
    raise DataError(f"has a vertex far outside the image, {extent}; correct it")


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_finite(value: float) -> bool:
    return abs(value) < 1e300  # a whole number may be too large for a float


def _read_runs(value: Mapping[str, Any], height: int, width: int) -> RLE | None:
    """Run lengths that fill the image, None if there are none."""
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(map(is_whole, size))):
        raise DataError("has an RLE whose size is not [height, width] in whole numbers; correct it")
    if size != [height, width]:
        raise DataError(f"has an RLE of size {size} in an image of height, width {[height, width]}; correct it")
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif isinstance(counts, list) and all(is_whole(v) and v >= 0 for v in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise DataError("has an RLE whose counts are no string and no list of whole numbers; correct it")
    if not len(runs):
        return None
    if runs.min() < 0 or runs.sum() != height * width:
        raise DataError(
            f"has run lengths of {runs.sum()} pixels in an image of {height * width}; write the RLE anew, it is damaged"
        )
    if isinstance(counts, str):
        return RLE(size=[height, width], counts=counts)
    compressed = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return RLE(size=[height, width], counts=compressed["counts"].decode())


def _decompress(text: str) -> NDArray[np.int64]:
    """The run lengths of a compressed RLE, found without pycocotools, which reads beyond the end of a damaged one.

    Six bits a character: five of a number, lowest first, and whether more follow; the last one's highest is the sign.
    From the fourth on a number is the difference to the one before the last.
    """
    if re.fullmatch(r"\s*\d+([\s,]+\d+)+\s*", text):
        raise DataError("has run lengths as text, 'start length start length ...', which is not COCO's RLE; convert it")
    codes = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    ends = np.flatnonzero((codes & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    if not text.isascii() or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32 or lengths.max() > 10:
        raise DataError("has an RLE whose counts are no compressed run lengths; write the RLE anew, it is damaged")
    starts = ends - lengths + 1
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << place, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def are_normalised(segmentations: Iterable[Any]) -> bool:
    """Whether the polygons of a whole file lie within 0..1: shares of the image, not pixels."""
    found = False
    for value in segmentations:
        for number in _numbers(value):
            if not 0 <= number <= 1:
                return False
            found = True
    return found


def _numbers(value: Any, depth: int = 3) -> Iterator[float]:
    """The coordinates of polygons in any spelling."""
    if isinstance(value, list) and depth:
        for part in value:
            yield from _numbers(part, depth - 1)
    elif is_number(value):
        yield value
