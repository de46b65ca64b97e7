"""Masks as run lengths: made, read, measured, compared, moved.

A mask has the size of its image, or is a window of it: then ``offset`` says where the window begins, so that an object
of a raster needs no mask of the raster's size. Coordinates are x, y in pixels from the upper left corner of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from score.errors import DataError

if TYPE_CHECKING:  # what reads and writes files does without
    from torch import Tensor

Box = tuple[int, int, int, int]
"""``x, y, width, height``, as COCO writes it."""


class _Whole(TypedDict):
    size: list[int]
    counts: str


class RLE(_Whole, total=False):
    """COCO's compressed run-length encoding.

    ``size`` is ``[height, width]``, ``counts`` is ASCII. ``offset`` is the ``[x, y]`` of its upper left pixel in the
    image, where that is not 0, 0.
    """

    offset: list[int]


def encode(masks: NDArray[Any] | Tensor, offset: Sequence[int] = (0, 0)) -> list[RLE]:
    """Encode ``[K, H, W]`` masks (bool, or 0 and 1), all of one window that begins at ``offset``."""
    bits = masks if isinstance(masks, np.ndarray) else masks.cpu().numpy()
    encoded = coco_mask.encode(np.asfortranarray(bits.transpose(1, 2, 0).astype(np.uint8)))
    return [_rle(rle, offset) for rle in encoded]


def encode_columns(columns: NDArray[np.bool_], left: int, width: int) -> RLE:
    """Encode the mask of a whole image from the columns where it is.

    Run lengths go down the columns, so the empty ones on either side only lengthen the first run and the last. They are
    lengthened in the code itself; a mask of a large image costs no more than its own columns.

    Args:
        columns: ``[n, H]``, C-contiguous; those from ``left`` on, the last one empty unless it is the image's last.
        left: how many come before.
        width: of the image.
    """
    count, height = columns.shape
    if not columns.any():
        return RLE(size=[height, width], counts=_code(height * width))
    code = hotcoco.mask.encode(columns.T)["counts"].decode()  # in two thirds of pycocotools' time
    first = next(place for place, sign in enumerate(code) if not _goes_on(sign)) + 1
    last = next((place for place in range(len(code) - 1, 0, -1) if not _goes_on(code[place - 1])), 0)
    start = _code(_number(code[:first]) + left * height)
    end = _code(_number(code[last:]) + (width - left - count) * height)
    return RLE(size=[height, width], counts=start + code[first:last] + end)  # two runs at least: there is something


def _goes_on(sign: str) -> bool:
    return bool(ord(sign) - 48 & 32)


def _number(code: str) -> int:
    """A number in COCO's code: five bits a sign, the lowest first; a sign's sixth bit says that another follows."""
    value = sum((ord(sign) - 48 & 31) << 5 * place for place, sign in enumerate(code))
    return value - (1 << 5 * len(code)) if ord(code[-1]) - 48 & 16 else value  # the last sign's fifth bit is the minus


def _code(number: int) -> str:
    """A number in COCO's code."""
    signs = ""
    while True:
        low, number = number & 31, number >> 5
        last = number == (-1 if low & 16 else 0)
        signs += chr(48 + low + (0 if last else 32))
        if last:
            return signs


def encode_shape(shape: Any, height: int, width: int) -> RLE:
    """Encode ground truth of an image: polygons (lists of x, y, x, y, ... that COCO joins), or run lengths.

    Raises:
        DataError: the run lengths have another size than the image.
    """
    if not isinstance(shape, Mapping):
        return _rle(coco_mask.merge(coco_mask.frPyObjects(list(shape), height, width)))
    if list(shape["size"]) != [height, width]:
        stated = list(shape["size"])
        raise DataError(
            f"a mask of size {stated} in an image of height, width {[height, width]}; prepare the annotations again"
        )
    return _rle(coco_mask.frPyObjects(dict(shape), height, width) if isinstance(shape["counts"], list) else shape)


def _rle(rle: Mapping[str, Any], offset: Sequence[int] = (0, 0)) -> RLE:
    """What pycocotools made, as text."""
    counts = rle["counts"]
    found = RLE(size=[int(v) for v in rle["size"]], counts=counts.decode() if isinstance(counts, bytes) else counts)
    if any(offset):
        found["offset"] = [int(v) for v in offset]
    return found


def decode(rle: RLE) -> NDArray[np.bool_]:
    """The mask ``[H, W]`` of its own ``size``, decoded anew at each call."""
    return coco_mask.decode(rle).view(bool)


def area(rle: RLE) -> int:
    """Pixels in a mask."""
    return int(coco_mask.area(rle))


def box(rle: RLE) -> Box:
    """A mask's extent in the image; the width of an empty one is 0."""
    x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
    left, top = rle.get("offset", (0, 0))
    return x + left, y + top, width, height


def part(rle: RLE) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The rows and columns of the image that a mask's box covers, and the mask there."""
    x, y, width, height = box(rle)
    where = (slice(y, y + height), slice(x, x + width))
    left, top = rle.get("offset", (0, 0))
    return where, decode(rle)[y - top : y - top + height, x - left : x - left + width]


def cut(rle: RLE, window: Box) -> RLE:
    """What a window of the image shows of a mask; its offset is the window's."""
    left, top, width, height = window
    bits = np.zeros((height, width), dtype=bool)
    (rows, columns), inside = part(rle)
    y0, y1 = max(rows.start, top), min(rows.stop, top + height)
    x0, x1 = max(columns.start, left), min(columns.stop, left + width)
    if y0 < y1 and x0 < x1:
        bits[y0 - top : y1 - top, x0 - left : x1 - left] = inside[
            y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start
        ]
    return encode(bits[None], (left, top))[0]


def trim(rle: RLE) -> RLE:
    """A mask in the smallest window that holds it."""
    return cut(rle, box(rle))


def paste(rle: RLE, height: int, width: int) -> RLE:
    """A mask at the size of its whole image; what lies outside is lost."""
    (rows, columns), bits = part(rle)
    if rows.start < 0 or columns.start < 0 or rows.stop > height or columns.stop > width:
        return cut(rle, (0, 0, width, height))
    shown = np.zeros((min(columns.stop + 1, width) - columns.start, height), dtype=bool)  # its columns, and one more
    shown[: bits.shape[1], rows] = bits.T
    return encode_columns(shown, columns.start, width)


def iou(first: Sequence[RLE], second: Sequence[RLE], crowd: Sequence[bool] | None = None) -> NDArray[np.float64]:
    """Intersection over union of all pairs of masks of one image, whatever their windows.

    Args:
        first: ``N`` masks.
        second: ``M`` masks.
        crowd: ``M`` flags; with a crowd, the area of the first counts for the union, as in COCO.

    Returns:
        ``[N, M]``.
    """
    flags = [bool(flag) for flag in crowd] if crowd is not None else [False] * len(second)
    if not first or not second:
        return np.zeros((len(first), len(second)))
    if len({(*rle["size"], *rle.get("offset", (0, 0))) for rle in (*first, *second)}) == 1:
        return np.asarray(coco_mask.iou(list(first), list(second), flags))
    touching = coco_mask.iou(_boxes(first), _boxes(second), [False] * len(second))  # [N, M], 0 where boxes are apart
    found = np.zeros((len(first), len(second)))
    for i, j in zip(*np.nonzero(touching), strict=True):
        frame = _union(box(first[i]), box(second[j]))
        pair = [cut(first[i], frame)], [cut(second[j], frame)]
        found[i, j] = coco_mask.iou(*pair, [flags[j]])[0, 0]
    return found


def _boxes(rles: Iterable[RLE]) -> NDArray[np.float64]:
    return np.array([box(rle) for rle in rles], dtype=np.float64)


def _union(first: Box, second: Box) -> Box:
    """The smallest box around two."""
    x, y = min(first[0], second[0]), min(first[1], second[1])
    right, bottom = (max(first[i] + first[i + 2], second[i] + second[i + 2]) for i in (0, 1))
    return x, y, right - x, bottom - y
