"""Outlines of masks: traced, measured on the ground, simplified, and laid onto the ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio import features
from shapely.geometry.base import BaseGeometry

from score import masks
from score.geo.grid import GEOD, Grid
from score.geo.matching import listed
from score.masks import RLE

CANVAS = 4_000_000  # pixels in which masks are traced together, for a call costs more than a small mask


def trace(rles: Sequence[RLE]) -> NDArray[Any]:
    """The edges of masks' pixels as valid polygons with holes, or multipolygons of their parts, ``[N]``.

    Pixels that touch in a corner only are two parts. Coordinates are those of the image that a mask is a window of,
    the corners of pixels being whole numbers; the area is the number of pixels. An empty mask has an empty outline.
    """
    boxes = np.array([masks.box(rle) for rle in rles]).reshape(-1, 4)
    found = listed([shapely.Polygon()] * len(rles))
    batch, width = list[int](), 0
    order = [index for index in np.argsort(boxes[:, 3], kind="stable").tolist() if boxes[index, 2]]
    for index, following in zip(order, [*order[1:], None], strict=False):
        batch.append(index)
        width += boxes[index, 2]
        if following is None or (width + boxes[following, 2]) * boxes[following, 3] > CANVAS:
            found[batch] = _traced([rles[number] for number in batch])
            batch, width = [], 0
    return found


def _traced(rles: Sequence[RLE]) -> NDArray[Any]:
    """Of masks that are not empty, side by side in one picture."""
    windows = [masks.part(rle) for rle in rles]
    lefts = np.cumsum([0, *(bits.shape[1] for _, bits in windows)])
    canvas = np.zeros((max(bits.shape[0] for _, bits in windows), lefts[-1]), np.int32)
    for number, (left, (_, bits)) in enumerate(zip(lefts, windows, strict=False), start=1):
        canvas[: bits.shape[0], left : left + bits.shape[1]][bits] = number
    places, rings, polygons, owner = list[Any](), [0], [0], list[int]()
    for shape, value in features.shapes(canvas, mask=canvas > 0, connectivity=4):
        for ring in shape["coordinates"]:
            places += ring
            rings.append(len(places))
        polygons.append(len(rings) - 1)
        owner.append(int(value) - 1)
    shift = np.array(
        [(columns.start - left, rows.start) for left, ((rows, columns), _) in zip(lefts, windows, strict=False)]
    )
    lengths = np.diff(np.array(rings)[polygons])
    xy = np.array(places) + np.repeat(shift[owner], lengths, axis=0)
    whole = valid(shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (np.array(rings), np.array(polygons))))
    parts, source = shapely.get_parts(whole, return_index=True)
    owners = np.array(owner)[source]
    order = np.argsort(owners, kind="stable")
    found = shapely.multipolygons(parts[order], indices=owners[order])
    single = shapely.get_num_geometries(found) == 1
    found[single] = shapely.get_geometry(found[single], 0)
    return found


def valid(shapes: NDArray[Any]) -> NDArray[Any]:
    """Polygons ``[N]`` mended where a ring touches or crosses itself; lines and points that come out are dropped."""
    broken = ~shapely.is_valid(shapes)
    if broken.any():
        shapes = shapes.copy()
        mended = shapely.make_valid(shapes[broken])
        mixed = shapely.get_type_id(mended) == shapely.GeometryType.GEOMETRYCOLLECTION
        mended[mixed] = shapely.buffer(mended[mixed], 0)
        shapes[broken] = mended
    return shapes


class Scale(NamedTuple):
    """What pixels measure on the ground at the places of objects.

    Lengths and areas are taken on the ellipsoid itself, at the middle of each object. In the limit of a small object
    this is what any equal-area projection and any UTM zone give less its scale error, and no zone has to be chosen: it
    holds for rasters in degrees, in feet, in Web Mercator, across zones and near the poles. The size of a pixel changes
    over an object, but what one half of it has too much the other lacks.

    Attributes:
        axes: ``[N, 2, 2]`` metres for a pixel; a column is the way east and north along a pixel's width or height.
    """

    axes: NDArray[np.float64]

    @classmethod
    def at(cls, grid: Grid, places: NDArray[np.float64]) -> Scale:
        """At places ``[N, 2]`` in pixels; without a CRS a pixel measures 1 by 1."""
        if grid.crs is None:
            return cls(np.broadcast_to(np.eye(2), (len(places), 2, 2)))
        crs = CRS(grid.crs)
        ground = crs.geodetic_crs
        if ground is None:  # a site's own coordinates: a plane
            plane = np.array([grid.transform[:2], grid.transform[3:5]]) * crs.axis_info[0].unit_conversion_factor
            return cls(np.broadcast_to(plane, (len(places), 2, 2)))
        turn = Transformer.from_crs(crs, ground.to_2d(), always_xy=True)
        degrees = ground.axis_info[0].unit_conversion_factor * 180 / np.pi  # in one of its units

        def lonlat(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(turn.transform(*grid.ground(pixels).T)) * degrees

        geod, middle = crs.get_geod() or GEOD, lonlat(places)
        axes = np.empty((len(places), 2, 2))
        for column, step in enumerate(np.eye(2) / 2):
            for sign in (1, -1):
                azimuth, _, metres = geod.inv(*middle, *lonlat(places + sign * step))
                way = np.stack([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))], axis=1)
                way *= sign * np.asarray(metres)[:, None]
                axes[:, :, column] = way if sign == 1 else axes[:, :, column] + way
        return cls(axes)

    @property
    def areas(self) -> NDArray[np.float64]:
        """Of a pixel at each place, ``[N]``, in square metres."""
        areas: NDArray[np.float64] = np.abs(np.linalg.det(self.axes))
        return areas

    @property
    def shorter(self) -> NDArray[np.float64]:
        """The shorter side of a pixel at each place, ``[N]``, in metres."""
        sides: NDArray[np.float64] = np.linalg.norm(self.axes, axis=1).min(axis=1)
        return sides

    def metres(self, shapes: NDArray[Any]) -> NDArray[Any]:
        """Shapes ``[N]`` in pixels, in metres east and north."""
        return _turned(shapes, self.axes)

    def pixels(self, shapes: NDArray[Any]) -> NDArray[Any]:
        """The way back."""
        return _turned(shapes, np.linalg.inv(self.axes))


def _turned(shapes: NDArray[Any], axes: NDArray[Any]) -> NDArray[Any]:
    owner = np.repeat(np.arange(len(shapes)), shapely.get_num_coordinates(shapes))
    return shapely.transform(shapes, lambda xy: np.einsum("nij,nj->ni", axes[owner], xy))


def simplified(shapes: NDArray[Any], scale: Scale, tolerance: NDArray[np.float64]) -> NDArray[Any]:
    """Outlines ``[N]`` in pixels, none of whose edges lies farther than so many metres from where it was.

    Every corner that is left is one of the mask's; parts and holes stay apart, and none is lost.
    """
    fewer = shapely.simplify(scale.metres(shapes), tolerance, preserve_topology=True)
    return valid(shapely.transform(scale.pixels(fewer), np.rint))


def rectangles(shapes: NDArray[Any], scale: Scale) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The smallest rectangle on the ground, turned at will, round each outline.

    Args:
        shapes: ``[N]`` in pixels.
        scale: at each of them.

    Returns:
        The rectangles ``[N]`` in pixels, and their longer and shorter sides ``[N, 2]`` in metres.
    """
    corners, sides = np.zeros((len(shapes), 4, 2)), np.zeros((len(shapes), 2))
    for index, hull in enumerate(shapely.convex_hull(scale.metres(shapes))):
        points = shapely.get_coordinates(hull)
        middle = points.mean(axis=0)  # OpenCV counts in 32 bits
        rectangle = cv2.minAreaRect((points - middle).astype(np.float32))
        corners[index] = cv2.boxPoints(rectangle) + middle
        sides[index] = sorted(rectangle[1], reverse=True)
    return scale.pixels(shapely.polygons(corners) if len(shapes) else listed([])), sides


def laid(shapes: Sequence[BaseGeometry] | NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Outlines ``[N]`` in pixels, in coordinates of the grid's CRS."""
    return valid(shapely.transform(listed(shapes), grid.ground))
