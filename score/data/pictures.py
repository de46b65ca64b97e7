"""What image files hold, and which of them show the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from score.data.images import opened, orientation, read_image
from score.errors import DataError

BITS = 256
NEAR = 24
"""Two images are nearly the same if at most so many bits of their hashes differ."""

BLOCK = 512  # images compared with all others at a time


class Picture(NamedTuple):
    """What an image file holds.

    Attributes:
        fault: why it cannot be read, as :func:`score.data.images.read_image` says; "" if it can.
        size: upright (width, height).
        mode: Pillow's name of its channels.
        turned: its EXIF orientation, 0 for none and for upright.
        content: a digest of size and pixels.
        bits: difference hashes of its eight views, ``[8, 256]`` bool; None where it shows hardly anything.
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
    return Picture("", (width, height), mode, turned, content, difference_hashes(pixels))


def difference_hashes(pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Whether brightness rises from each of 16 x 17 cells to its right neighbour, which survives scaling and JPEG.

    Args:
        pixels: ``[H, W, 3]`` uint8 RGB.

    Returns:
        ``[8, 256]``: of the image as it is, turned by quarters, and the same mirrored; None for an image with hardly
        any structure, where noise would decide.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found = np.array([_hash(grey), *map(_hash, _views(grey))])
    return found if NEAR < found[0].sum() < BITS - NEAR else None


def _views(grey: NDArray[Any]) -> list[NDArray[Any]]:
    """The seven other views, of so many pixels that cells of each side consist of whole ones."""
    small = cv2.resize(grey, (16 * 17, 16 * 17), interpolation=cv2.INTER_AREA)
    return [np.rot90(side, quarters) for side in (small, small.T) for quarters in range(4)][1:]


def _hash(grey: NDArray[Any]) -> NDArray[np.bool_]:
    cells = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return (cells[:, 1:] > cells[:, :-1]).reshape(BITS)


def pairs(first: Sequence[Picture], second: Sequence[Picture], within: bool) -> Iterator[tuple[int, int, int, bool]]:
    """Images that show what one before them shows.

    Args:
        first, second: of two datasets.
        within: whether the two are one, where only earlier images count.

    Returns:
        For each image of ``second``, where there is one: the position of the first one in ``first`` with the same
        pixels, else of the most similar one; its own position; how many bits of their hashes differ, -1 for the same
        pixels; whether it is turned or mirrored.
    """
    where: dict[str, int] = {}
    for index, picture in enumerate(first):
        where.setdefault(picture.content, index)
    same = {index: where[picture.content] for index, picture in enumerate(second) if picture.content in where}
    same = {index: one for index, one in same.items() if not within or one < index}
    yield from ((one, index, -1, False) for index, one in same.items())
    (rows, left), (columns, right) = _signs(first), _signs(second)
    for start in range(0, len(columns) if len(rows) else 0, BLOCK):
        block = right[start : start + BLOCK]
        views = (BITS - block.transpose(1, 0, 2) @ left[:, 0].T) / 2  # of -1 and 1: [8, block, first]
        distances = views.min(axis=0)
        if within:
            distances[rows[None, :] >= columns[start : start + BLOCK, None]] = BITS
        nearest = distances.argmin(axis=1)
        for place, row in enumerate(nearest.tolist()):
            index, distance = int(columns[start + place]), int(distances[place, row])
            if distance <= NEAR and index not in same:
                yield int(rows[row]), index, distance, bool(views[0, place, row] > distance)


def _signs(pictures: Sequence[Picture]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions of the images that have hashes, and these, as -1 and 1: ``[N, 8, 256]``."""
    where = [index for index, picture in enumerate(pictures) if picture.bits is not None]
    bits = np.array([pictures[index].bits for index in where], dtype=np.float32).reshape(-1, 8, BITS)
    return np.array(where, dtype=np.int64), 2 * bits - 1
