"""The dates that are compared: rasters, or files of objects; opened, aligned, on common ground."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from score.errors import ConfigError, DataError
from score.geo.grid import Grid, between
from score.geo.matching import AnyCRS, moved, wkt
from score.geo.registration import Shift, common_grid, covered, drawn, footprint, reading, register, shift

if TYPE_CHECKING:
    from score.geo.raster import Raster

VECTORS = (".gpkg", ".parquet", ".fgb", ".geojson", ".json", ".shp")
MARGIN = 1.5  # pixels along the edge of the common ground in which outlines are not trusted
LONGEST = 1024  # pixels, in which it is found out where rasters have data


@dataclass
class Date:
    """A date.

    Attributes:
        title: what it is called.
        path: the file or address.
        raster: None where there are only objects.
        objects: None until they are found.
        shift: how far it lies off the first, along the axes of that one's CRS.
    """

    title: str
    path: str
    raster: Raster | None = None
    objects: gpd.GeoDataFrame | None = field(default=None, repr=False)
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def crs(self) -> AnyCRS:
        """Of the coordinates of its objects; None for pixels."""
        return self.found.crs if self.raster is None else self.raster.grid.crs

    @property
    def found(self) -> gpd.GeoDataFrame:
        """Its objects, once they are known."""
        assert self.objects is not None
        return self.objects


def open_dates(paths: Sequence[str], titles: Sequence[str] | None, gsd_m: float | None) -> list[Date]:
    """Open what a user gave, reading the objects of vector files.

    Raises:
        ConfigError: fewer than two, or titles that do not fit.
        DataError: one that is missing, or cannot be read.
    """
    if len(paths) < 2:
        raise ConfigError("before, after: not given; name two dates, or several as in images=[a.tif,b.tif,c.tif]")
    stems = [Path(path).stem for path in paths]
    names = (
        stems if len(set(stems)) == len(stems) else [f"{number} {stem}" for number, stem in enumerate(stems, start=1)]
    )
    if titles is not None:
        names = [str(title) for title in titles]
        if len(names) != len(paths) or len(set(names)) < len(names):
            raise ConfigError(f"dates={names}: {len(paths)} different ones are needed, one for each image")
        with contextlib.suppress(ValueError):  # they need not be dates
            days = [datetime.date.fromisoformat(name) for name in names]
            if days != sorted(days):
                raise ConfigError(f"dates={names}: not in order; give the oldest image first")
    dates = []
    for title, path in zip(names, paths, strict=True):
        if Path(path).suffix.lower() in VECTORS:
            dates.append(Date(title, path, objects=read_objects(path)))
        else:
            from score.geo.raster import Raster

            dates.append(Date(title, path, Raster(path, gsd_m=gsd_m)))
    without = [date.path for date in dates if date.crs is None]
    if 0 < len(without) < len(dates):
        raise DataError(f"{without[0]}: has no coordinate reference system, and other dates have one; give it one")
    for date in dates:
        if date.crs is not None:
            between(date.crs, "EPSG:4326")  # refuses a plane of its own: areas are measured on the Earth
    return dates


def read_objects(path: str) -> gpd.GeoDataFrame:
    """Read a vector file of objects.

    Raises:
        DataError: it is missing, damaged, or has no class for each.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: no such file")
    try:
        if Path(path).suffix.lower() == ".parquet":
            frame = gpd.read_parquet(path)
        else:
            layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]  # others hold styles
            frame = gpd.read_file(path, layer=layers[0] if layers else None)
    except Exception as error:  # pyogrio and pyarrow have no common one
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a vector file ({reason}); replace it") from error
    if isinstance(frame, gpd.GeoDataFrame) and frame.empty:
        frame = frame.assign(**{"class": frame.get("class", "")})  # GeoJSON of no objects has no columns
    if not isinstance(frame, gpd.GeoDataFrame) or "class" not in frame.columns:
        raise DataError(f"{path}: has no geometries with a column 'class'; give a file that score predict wrote")
    return frame


def align(dates: Sequence[Date], max_shift: float) -> list[str]:
    """Set the shift of each date from the first, by images where both have one, and else by objects.

    Args:
        dates: two or more.
        max_shift: metres, without a CRS pixels.

    Returns:
        What to tell of each.

    Raises:
        DataError: one cannot be aligned.
    """
    told = []
    for date in dates[1:]:
        try:
            found, grid = _shift(dates[0], date, max_shift)
        except DataError as error:
            raise DataError(f"{date.path}: {error}") from error
        date.shift = found.ground(grid)
        metres = math.hypot(*(length * size for length, size in zip(found[:2], grid.gsd, strict=True)))
        size = f"{metres:.2f} m" if grid.crs else f"{metres:.2f} pixels"
        pixels = f" ({found.x:+.2f} and {found.y:+.2f} pixels)" if date.raster is not None else ""
        told.append(f"{date.title}: lies {size}{pixels} off; peak ratio {found.ratio:.1f}")
    return told


def _shift(first: Date, date: Date, max_shift: float) -> tuple[Shift, Grid]:
    """Of a date from the first, in pixels of a grid."""
    if first.raster is not None and date.raster is not None:
        grid = common_grid(first.raster.grid, date.raster.grid)
        limit = max_shift / float(np.mean(grid.gsd))
        return register(reading(first.raster), reading(date.raster), grid, limit=limit), grid
    shapes = [moved(_polygons(each.found), each.crs, first.crs) for each in (first, date)]
    (before, after), grid = drawn(shapes, wkt(first.crs))
    return shift(before, after, limit=max_shift / float(np.mean(grid.gsd))), grid


def _polygons(frame: gpd.GeoDataFrame) -> NDArray[Any]:
    shapes = np.asarray(frame.geometry.array, dtype=object)
    return shapes[shapely.get_dimensions(shapes) == 2]


def common_ground(dates: Sequence[Date], area: BaseGeometry | None) -> BaseGeometry | None:
    """What all dates show, in the first one's CRS, less a margin; None where there are only objects, and no area.

    Args:
        dates: aligned.
        area: what else it must lie in, or None.

    Raises:
        DataError: there is none.
    """
    crs, ground = dates[0].crs, area
    for date in dates:
        if date.raster is None:
            continue
        grid = fitted(date.raster.grid, LONGEST)
        _, inside = reading(date.raster)(grid)
        shape = whole = footprint(grid, crs)
        if inside.all():
            grid = date.raster.grid  # its outline is exact
        else:
            shape = moved([covered(inside, grid)], grid.crs, crs)[0]
        pixel = math.sqrt(whole.area / (grid.width * grid.height))
        shape = translate(shape, -date.shift[0], -date.shift[1]).buffer(-MARGIN * pixel)
        ground = shape if ground is None else ground & shape
    if ground is not None and ground.area == 0:
        raise DataError("the dates have no ground in common; check that they show the same place, and area")
    return ground


def check_overlap(dates: Sequence[Date], area: BaseGeometry | None) -> None:
    """Refuse dates of different places, and an area elsewhere.

    Raises:
        DataError: the bounds of one have nothing in common with the first one's.
    """
    first, *others = [_bounds(date, dates[0].crs) for date in dates]
    if area is not None and first is not None and not first.intersects(area):
        raise DataError(f"area: no ground in common with {dates[0].path}; give another")
    for date, box in zip(dates[1:], others, strict=True):
        if first is not None and box is not None and not first.intersects(box):
            raise DataError(
                f"{date.path}: no ground in common with {dates[0].path}; check that they show the same place"
            )


def _bounds(date: Date, crs: AnyCRS) -> BaseGeometry | None:
    """The ground of a raster, or what objects lie in; None where there are none."""
    if date.raster is not None:
        return footprint(date.raster.grid, crs)
    if not len(date.found):
        return None
    box = shapely.box(*date.found.total_bounds)
    return moved([shapely.segmentize(box, max(box.length / 64, 1e-9))], date.crs, crs)[0]


def fitted(grid: Grid, longest: int) -> Grid:
    """The same ground in pixels of which there are at most so many a side."""
    factor = min(1.0, longest / max(grid.width, grid.height))
    return grid.scaled(max(1, round(grid.width * factor)), max(1, round(grid.height * factor)))


def shown(dates: Sequence[Date], ground: BaseGeometry | None, longest: int) -> Grid:
    """The pixels of a picture of the common ground; where nothing tells it, of all objects of the first date."""
    first = dates[0]
    if first.raster is not None:
        grid = first.raster.grid
        for date in dates[1:]:
            if date.raster is not None:
                grid = common_grid(grid, date.raster.grid)
        return fitted(grid, longest)
    left, bottom, right, top = first.found.total_bounds if ground is None else ground.bounds
    pixel = max(right - left, top - bottom) / longest
    width, height = (max(1, math.ceil(side / pixel)) for side in (right - left, top - bottom))
    down, start = (1, bottom) if first.crs is None else (-1, top)  # pixels as coordinates count downwards
    return Grid(width, height, Affine(pixel, 0, left, 0, down * pixel, start), wkt(first.crs))
