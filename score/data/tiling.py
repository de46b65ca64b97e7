"""Where tiles of one size begin."""

from __future__ import annotations

from score.errors import ConfigError
from score.masks import Box


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of one size begin along an axis; the last one is moved back until it ends with the axis."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def windows(width: int, height: int, size: int, overlap: int) -> list[Box]:
    """Tiles that cover an image, row by row, as x, y, width, height; all of one size unless the image is smaller.

    Args:
        width, height: of the image in pixels.
        size: of a tile's side in pixels.
        overlap: of neighbours in pixels, at least; the last ones of a row or column may share more.

    Raises:
        ConfigError: sizes that make no tiles.
    """
    if size < 1 or not 0 <= overlap <= size // 2:
        raise ConfigError(f"tiles of {size} pixels with an overlap of {overlap}: the overlap is at most half a tile")
    side = min(size, width), min(size, height)
    return [(x, y, *side) for y in starts(height, size, overlap) for x in starts(width, size, overlap)]
