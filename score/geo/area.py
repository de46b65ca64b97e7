"""Areas of interest: files, shapes or bounds, in a raster's CRS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from score.errors import ConfigError, DataError
from score.geo.grid import between

Area: TypeAlias = str | Path | Sequence[float] | BaseGeometry


def read_area(area: Area, crs: str | None) -> BaseGeometry:
    """An area of interest in a raster's CRS, as one geometry.

    Args:
        area: as :class:`Raster` takes it.
        crs: as WKT, or None.

    Raises:
        ConfigError: it is none.
        DataError: the vector file cannot be read, or holds no polygon.
    """
    if isinstance(area, BaseGeometry):
        if area.is_empty or shapely.get_dimensions(area) != 2:
            raise ConfigError(f"area={area}: no polygon")
        outline = area
    elif isinstance(area, str | Path):
        return _file_area(Path(area), crs)
    else:
        numbers = list(area)
        good = len(numbers) == 4 and all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
        if good and crs and numbers[0] > numbers[2] > -180:
            raise ConfigError(f"area={numbers}: across the 180th meridian an area has to come from a vector file")
        if not good or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
            raise ConfigError(f"area={numbers}: give WEST, SOUTH, EAST, NORTH in degrees, or a vector file")
        if crs and (min(numbers[0], numbers[1] * 2) < -180 or max(numbers[2], numbers[3] * 2) > 180):
            raise ConfigError(f"area={numbers}: not degrees; give WEST, SOUTH, EAST, NORTH in WGS84")
        outline = shapely.box(*numbers)
    if crs is None:
        return outline
    turned = between(4326, crs)
    fine = shapely.segmentize(outline, max(length(outline) / 256, 1e-9))  # straight in degrees is bent elsewhere
    moved = shapely.transform(fine, lambda xy: np.stack(turned.transform(xy[:, 0], xy[:, 1]), axis=1))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise ConfigError(f"area={area}: outside of the raster's CRS")
    return moved


def _file_area(path: Path, crs: str | None) -> BaseGeometry:
    import geopandas

    try:
        frame = geopandas.read_file(path)
    except Exception as error:  # pyogrio, fiona and GDAL have no common one
        raise DataError(f"area={path}: cannot be read as a vector file ({reason(error)})") from error
    if frame.empty or not frame.geometry.notna().any():
        raise DataError(f"area={path}: holds no geometry")
    if crs is not None and frame.crs is None:
        raise DataError(f"area={path}: has no CRS; give it one")
    if crs is not None and frame.crs != CRS(crs):
        between(frame.crs, crs)  # refuses what cannot be turned
    outline = (frame.to_crs(crs) if crs is not None else frame).geometry.union_all()
    if not shapely.get_dimensions(outline) == 2:
        raise DataError(f"area={path}: holds no polygon")
    return cast("BaseGeometry", outline)


def length(outline: BaseGeometry) -> float:
    """The longer side of a shape's extent."""
    west, south, east, north = outline.bounds
    return max(east - west, north - south, 1e-12)


def reason(error: BaseException) -> str:
    """What a library said, in one line, from where it began to go wrong."""
    while error.__cause__ is not None and str(error.__cause__):
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
