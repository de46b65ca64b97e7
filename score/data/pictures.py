"""What image files hold, and which of them show the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from score.data.images import opened, orientation, read_image
from score.errors import DataError

BITS = 256
NEAR = 24
"""Two images are nearly the same if at most so many bits of their hashes differ."""

BLOCK = 2048  # images compared with all others at a time


class Picture(NamedTuple):
    """What an image file holds.

    Attributes:
        fault: why it cannot be read, as :func:`score.data.images.read_image` says; "" if it can.
        size: upright (width, height).
        mode: Pillow's name of its channels.
        turned: its EXIF orientation, 0 for none and for upright.
        content: a digest of size and pixels.
        bits: its difference hash, ``[256]`` bool; None where it shows hardly anything.
    """

    fault: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    turned: int = 0
    content: str = ""
    bits: NDArray[np.bool_] | None = None


def look(path: str) -> Picture:
    """Decode an image file."""
    try:
        with opened(path) as image:
            mode, turned = image.mode, orientation(image)
        pixels = read_image(path)
    except DataError as error:
        return Picture(fault=str(error))
    height, width = pixels.shape[:2]
    content = hashlib.sha256(f"{width}x{height}".encode() + pixels.tobytes()).hexdigest()
    return Picture("", (width, height), mode, turned, content, difference_hash(pixels))


def difference_hash(pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Whether brightness rises from each of 16 x 17 cells to its right neighbour, which survives scaling and JPEG.

    Args:
        pixels: ``[H, W, 3]`` uint8 RGB.

    Returns:
        ``[256]``; None for an image with hardly any structure, where noise would decide.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).reshape(BITS)
    return bits if NEAR < bits.sum() < BITS - NEAR else None


def pairs(first: Sequence[Picture], second: Sequence[Picture], within: bool) -> Iterator[tuple[int, int, int]]:
    """Images that show the same.

    Args:
        first, second: of two datasets.
        within: whether the two are one, where each pair counts once.

    Returns:
        Positions in ``first`` and ``second``, and how many bits of their hashes differ; -1 for the same pixels.
    """
    same: dict[str, list[int]] = {}
    for index, picture in enumerate(second):
        same.setdefault(picture.content, []).append(index)
    for index, picture in enumerate(first):
        yield from ((index, other, -1) for other in same.get(picture.content, ()) if not within or other > index)
    (rows, left), (columns, right) = _signs(first), _signs(second)
    for start in range(0, len(rows), BLOCK):
        distances = (BITS - left[start : start + BLOCK] @ right.T) / 2  # of -1 and 1
        for row, column in zip(*np.nonzero(distances <= NEAR), strict=True):
            one, other = int(rows[start + row]), int(columns[column])
            if first[one].content != second[other].content and (not within or one < other):
                yield one, other, int(distances[row, column])


def _signs(pictures: Sequence[Picture]) -> tuple[list[int], NDArray[np.float32]]:
    """Positions of the images that have a hash, and these, as -1 and 1: ``[N, 256]``."""
    where = [index for index, picture in enumerate(pictures) if picture.bits is not None]
    bits = np.array([pictures[index].bits for index in where], dtype=np.float32).reshape(-1, BITS)
    return where, 2 * bits - 1
