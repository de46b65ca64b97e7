"""Where the pixels of a raster lie on the ground."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from score.errors import DataError

GEOD = Geod(ellps="WGS84")


class Grid(NamedTuple):
    """The pixels of a raster, or of a resampled copy of it that does not exist as a file.

    Attributes:
        width, height: in pixels.
        transform: from pixels (x to the right, y downwards, 0, 0 the upper left corner of the upper left pixel) to
            coordinates of the CRS in its axes' traditional order (easting or longitude first).
        crs: the coordinate reference system as WKT; None for an image without one, whose coordinates are pixels.
    """

    width: int
    height: int
    transform: Affine = Affine.identity()
    crs: str | None = None

    @property
    def gsd(self) -> tuple[float, float]:
        """Metres on the ground along a pixel's width and its height, at the middle; without a CRS, pixels."""
        return self.gsd_at(self.width / 2, self.height / 2)

    def gsd_at(self, x: float, y: float) -> tuple[float, float]:
        """As `gsd`, at a place in pixels."""
        if self.crs is None:
            return 1.0, 1.0
        crs, (a, b, _, d, e, _) = CRS(self.crs), self.transform[:6]
        if crs.is_geographic:
            turn = crs.axis_info[0].unit_conversion_factor * 180 / math.pi  # degrees in a unit
            lon, lat = (value * turn for value in self.transform @ (x, y))
            ends = [(lon + a * turn, lat + d * turn), (lon + b * turn, lat + e * turn)]
            return tuple(GEOD.inv(lon, lat, *end)[2] for end in ends)  # type: ignore[return-value]
        unit = crs.axis_info[0].unit_conversion_factor  # metres in a unit: feet are used, too
        return math.hypot(a, d) * unit, math.hypot(b, e) * unit

    def scaled(self, width: int, height: int) -> Grid:
        """The same ground in another number of pixels."""
        scale = Affine.scale(self.width / width, self.height / height)
        return Grid(width, height, self.transform @ scale, self.crs)

    def ground(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Coordinates of the CRS ``[N, 2]`` of places ``[N, 2]`` in pixels."""
        x, y = np.asarray(pixels, dtype=float).reshape(-1, 2).T
        return np.stack(self.transform @ (x, y), axis=1)

    def pixels(self, ground: ArrayLike) -> NDArray[np.float64]:
        """Places in pixels ``[N, 2]`` of coordinates of the CRS ``[N, 2]``."""
        x, y = np.asarray(ground, dtype=float).reshape(-1, 2).T
        return np.stack(~self.transform @ (x, y), axis=1)


def between(source: Any, target: Any) -> Transformer:
    """What turns coordinates of one CRS into those of another, in their axes' traditional order.

    Raises:
        DataError: nothing does, for one is a plane of its own.
    """
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        names = " and ".join(f"'{CRS(crs).name}'" for crs in (source, target))
        raise DataError(
            f"no way leads between the coordinate systems {names}; give all data one of the Earth"
        ) from error


def on_earth(grid: Grid) -> bool:
    """Whether any of a few places of a grid has a longitude and a latitude; a plane of its own, and none, need none."""
    crs = None if grid.crs is None else CRS(grid.crs)
    if crs is None or crs.is_engineering:
        return True
    if crs.is_geocentric:
        return False
    places = np.stack(np.meshgrid(*(np.linspace(0, side, 5) for side in grid[:2])), axis=-1)
    turn = between(crs, crs.geodetic_crs)
    return bool(np.isfinite(turn.transform(*grid.ground(places.reshape(-1, 2)).T)).all(0).any())
