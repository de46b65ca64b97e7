"""A raster cut into overlapping tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from score.data.tiling import starts, windows
from score.masks import Box


class Tile(NamedTuple):
    """A window of a raster.

    Attributes:
        row, column: its place among the tiles, from the upper left.
        window: x, y, width, height in the raster's pixels.
    """

    row: int
    column: int
    window: Box


def plan(width: int, height: int, size: int, overlap: int, area: BaseGeometry | None = None) -> list[Tile]:
    """Tiles that cover a raster, row by row; all of one size unless the raster is smaller.

    An object of at most ``overlap`` pixels a side lies whole in one of them.

    Args:
        width, height: of the raster in pixels.
        size: of a tile's side in pixels.
        overlap: of neighbours in pixels, at least.
        area: only tiles that it touches, in pixels.

    Raises:
        ConfigError: sizes that make no tiles.
    """
    places = windows(width, height, size, overlap)
    columns = len(starts(width, size, overlap))
    tiles = [Tile(*divmod(number, columns), window) for number, window in enumerate(places)]
    if area is None:
        return tiles
    x, y, w, h = np.array([tile.window for tile in tiles]).T
    shapely.prepare(area)
    touched = shapely.intersects(shapely.box(x, y, x + w, y + h), area)
    return [tile for tile, inside in zip(tiles, touched, strict=True) if inside]
