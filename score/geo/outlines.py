"""Outlines of masks: traced, measured on the ground, simplified, and laid onto the ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio import features
from shapely.geometry.base import BaseGeometry

from score import masks
from score.geo.grid import GEOD, Grid
from score.geo.matching import listed
from score.masks import RLE


def trace(rle: RLE) -> BaseGeometry:
    """The edges of a mask's pixels as a valid polygon with holes, or a multipolygon of its parts.

    Pixels that touch in a corner only are two parts. Coordinates are those of the image that the mask is a window of,
    the corners of pixels being whole numbers; the area is the number of pixels. An empty mask has an empty outline.
    """
    (rows, columns), bits = masks.part(rle)
    if not bits.size:
        return shapely.Polygon()
    place = Affine.translation(columns.start, rows.start)
    traced = features.shapes(bits.view(np.uint8), mask=bits, connectivity=4, transform=place)
    parts = valid(listed(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]) for shape, _ in traced))
    return parts[0] if len(parts) == 1 else shapely.multipolygons(shapely.get_parts(parts))


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
