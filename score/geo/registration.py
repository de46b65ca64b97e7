"""How far the second of two images of the same ground lies off the first, to a fraction of a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio.features
import rasterio.warp
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from scipy import fft, ndimage
from shapely.geometry.base import BaseGeometry
from skimage.registration import phase_cross_correlation

from score.errors import DataError
from score.geo.grid import Grid, between
from score.geo.matching import AnyCRS

if TYPE_CHECKING:
    from score.geo.raster import Raster

Pixels = NDArray[np.uint8]
Inside = NDArray[np.bool_]
Read = Callable[[Grid], tuple[Pixels, Inside]]
"""Gives an image on the pixels of a grid: ``[H, W, 3]``, and ``[H, W]``: where it has data."""

RATIO = 2.0  # of a peak to the next one at least; unrelated images reach 1.4, rows of other objects 1.8
CHIP = 512  # pixels of a side of what is compared at full resolution
LONGEST = 1024  # pixels of the longer side of what is compared as a whole
BORDER = 20  # pixels about objects that are drawn to be aligned by
NO_CRS = "EPSG:3857"  # stands for pixels as coordinates: any CRS, as long as it is the same on both sides


class Shift(NamedTuple):
    """By how many pixels the content of the second image lies to the right of and below that of the first.

    Attributes:
        x, y: in pixels, to the right and downwards.
        ratio: correlation at this shift over the next best one's; near 1 where the images have nothing in common.
    """

    x: float
    y: float
    ratio: float

    def ground(self, grid: Grid) -> tuple[float, float]:
        """The same in units of the CRS of the grid whose pixels were compared."""
        a, b, _, d, e, _ = grid.transform[:6]
        return a * self.x + b * self.y, d * self.x + e * self.y


def footprint(grid: Grid, crs: AnyCRS) -> BaseGeometry:
    """The outline of a raster in a CRS, with points between the corners: straight lines may be bent there.

    Raises:
        DataError: one of the two has no CRS.
    """
    if (grid.crs is None) != (crs is None):
        raise DataError("one of the two has a coordinate reference system and the other has none; give both one")
    side = np.linspace(0, 1, 21)[:-1]
    x = np.concatenate([side, np.ones(20), 1 - side, np.zeros(20)]) * grid.width
    y = np.concatenate([np.zeros(20), side, np.ones(20), 1 - side]) * grid.height
    ground = grid.ground(np.stack([x, y], axis=1))
    if grid.crs is not None and crs is not None:
        ground = np.stack(between(grid.crs, crs).transform(*ground.T), axis=1)
    if not np.isfinite(ground).all():
        raise DataError("the second raster lies where the first one's coordinate reference system is not defined")
    return shapely.make_valid(shapely.Polygon(ground))


def common_grid(before: Grid, after: Grid) -> Grid:
    """The part of the first raster's pixels that the second covers; as coarse as the coarser of the two.

    Raises:
        DataError: they have no ground in common, or one of them no CRS.
    """
    shared = footprint(before, before.crs) & footprint(after, before.crs)
    if shared.area == 0:
        raise DataError("the two dates have no ground in common; check that they show the same place")
    pixels = before.pixels(shapely.get_coordinates(shared))
    left, top = np.floor(pixels.min(0) + 1e-6).clip(0).astype(int).tolist()
    right, bottom = np.ceil(pixels.max(0) - 1e-6).clip(max=(before.width, before.height)).astype(int).tolist()
    width, height = max(right - left, 1), max(bottom - top, 1)
    part = Grid(width, height, before.transform @ Affine.translation(left, top), before.crs)
    coarser = max(1.0, _pixel(after) / _pixel(before))
    return part.scaled(max(1, round(width / coarser)), max(1, round(height / coarser)))


def _pixel(grid: Grid) -> float:
    """Metres of a pixel's side."""
    return math.sqrt(math.prod(grid.gsd))


def onto(pixels: Pixels, inside: Inside, source: Grid, target: Grid) -> tuple[Pixels, Inside]:
    """Bring an image onto the pixels of another grid, in any CRS.

    Args:
        pixels: ``[H, W, 3]``.
        inside: ``[H, W]``, where it has data.
        source: of the image.
        target: wanted.
    """
    finer = _pixel(target) > 1.5 * _pixel(source)
    how = Resampling.average if finer else Resampling.bilinear
    grids: dict[str, Any] = {
        "src_transform": source.transform, "src_crs": source.crs or NO_CRS,
        "dst_transform": target.transform, "dst_crs": target.crs or NO_CRS,
    }  # fmt: skip
    shape = target.height, target.width
    data, there = np.zeros((3, *shape), np.uint8), np.zeros(shape, np.uint8)
    rasterio.warp.reproject(np.moveaxis(pixels, 2, 0).copy(), data, resampling=how, **grids)
    rasterio.warp.reproject(inside.astype(np.uint8) * 255, there, resampling=how, init_dest_nodata=False, **grids)
    return np.moveaxis(data, 0, 2), there > 250


def covered(inside: Inside, grid: Grid) -> BaseGeometry:
    """The ground that has data: polygons in the grid's CRS of a mask ``[H, W]``."""
    shapes = rasterio.features.shapes(inside.astype(np.uint8), mask=inside, transform=grid.transform)
    return shapely.union_all([shapely.geometry.shape(item) for item, _ in shapes])


def shift(
    before: NDArray[Any], after: NDArray[Any], inside: Inside | None = None, *, limit: float = 32, ratio: float = RATIO
) -> Shift:
    """Find the shift between two images on the same pixels, by phase correlation of their edges.

    Edges are gradient magnitudes less their surroundings': brightness, contrast and a field that was dark and is bright
    have no part in it. The best whole shift is found first; skimage's upsampled cross-correlation refines it where the
    images then overlap.

    Args:
        before, after: ``[H, W]`` or ``[H, W, 3]``, any kind of numbers.
        inside: ``[H, W]``, where both have data; None for everywhere.
        limit: the longest shift in pixels.
        ratio: the least peak ratio.

    Raises:
        DataError: no shift stands out, or one beyond the limit fits better.
    """
    inside = np.ones(before.shape[:2], bool) if inside is None else inside
    if min(before.shape[:2]) < 16 or not inside.any():
        raise DataError("too little common ground to align by; align by coordinates alone, with align=crs")
    weight = _taper(inside)
    first, second = _edges(before, inside), _edges(after, inside)
    whole = _peak(first * weight, second * weight, limit, ratio)
    x, y = float(whole.x), float(whole.y)
    for _ in range(3):  # each pass leaves a tenth of what was left
        moved = ndimage.shift(second, (-y, -x), order=3)
        there = ndimage.shift(inside.astype(np.float32), (-y, -x), order=1) > 0.99
        weight = _taper(inside & there)
        left, *_ = phase_cross_correlation(first * weight, moved * weight, upsample_factor=100, normalization=None)
        if np.abs(left).max() > 1:
            raise DataError("the two dates cannot be aligned by their content; align=crs trusts the coordinates")
        y, x = y - float(left[0]), x - float(left[1])
    return Shift(x, y, whole.ratio)


def _edges(image: NDArray[Any], inside: Inside) -> NDArray[np.float32]:
    """Gradient magnitudes, those near missing data left out, less the mean of their surroundings."""
    grey = image.astype(np.float32)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    size = ndimage.gaussian_gradient_magnitude(np.where(inside, grey, 0), 1)
    safe = ndimage.binary_erosion(inside, iterations=4, border_value=1).astype(np.float32)
    typical = (size * safe).sum() / max(safe.sum(), 1) + 1e-6
    size = np.log1p(size / typical) * safe  # a bright roof counts as much as a dim one
    around = ndimage.gaussian_filter(size, 8) / np.maximum(ndimage.gaussian_filter(safe, 8), 1e-3)
    edges: NDArray[np.float32] = (size - around) * safe
    return edges


def _taper(inside: Inside) -> NDArray[np.float32]:
    """``[H, W]``: 1 well inside, falling to 0 at the rim, or else the rim would be what fits best."""
    reach = min(16.0, min(inside.shape) / 8)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] - 0.5
    weight: NDArray[np.float32] = np.sin(np.pi / 2 * np.clip(depth / reach, 0, 1)).astype(np.float32) ** 2
    return weight


def _peak(first: NDArray[np.float32], second: NDArray[np.float32], limit: float, least: float) -> Shift:
    """The whole shift at which two images correlate best, and by how much better than at any other."""
    shape = [fft.next_fast_len(side + side // 2, real=True) for side in first.shape]  # room against wrapping round
    spectrum = np.conj(fft.rfft2(first, shape)) * fft.rfft2(second, shape)
    # half whitened, for a sharp peak, and smooth, or noise and the blocks of a JPEG, which do not move, would be it
    fine = fft.fftfreq(shape[0])[:, None] ** 2 + fft.rfftfreq(shape[1]) ** 2
    spectrum *= np.exp(-2 * np.pi**2 * fine) / np.sqrt(np.abs(spectrum) + 1e-12)
    surface = fft.irfft2(spectrum, shape)
    y, x = (int(value) for value in np.unravel_index(surface.argmax(), surface.shape))
    best = surface[y, x]
    rows = np.abs((np.arange(shape[0]) - y + shape[0] // 2) % shape[0] - shape[0] // 2)
    columns = np.abs((np.arange(shape[1]) - x + shape[1] // 2) % shape[1] - shape[1] // 2)
    next_best = surface[(rows[:, None] > 6) | (columns > 6)].max()
    x, y = x - shape[1] * (x > shape[1] // 2), y - shape[0] * (y > shape[0] // 2)
    found = Shift(x, y, float(best / max(next_best, 1e-9)))
    if not found.ratio >= least:
        raise DataError(
            f"the two dates cannot be aligned by their content: the best shift fits only {found.ratio:.2f} times as "
            f"well as the next, {least:g} is needed; align=crs trusts the coordinates"
        )
    if math.hypot(found.x, found.y) > limit:
        raise DataError(
            f"the two dates fit best when shifted by {found.x:.0f}, {found.y:.0f} pixels, more than the {limit:.1f} "
            "allowed; raise max_shift, or trust the coordinates with align=crs"
        )
    return found


def register(before: Read, after: Read, grid: Grid, *, limit: float = 32) -> Shift:
    """Find the shift between two rasters of any size: as a whole, coarsely, then at full resolution in nine places.

    Args:
        before, after: what reads them, each with data somewhere.
        grid: their common one, of :func:`common_grid`.
        limit: the longest shift in pixels of the grid.

    Returns:
        In pixels of the grid; of several places the median.

    Raises:
        DataError: as :func:`shift`, or the places do not agree.
    """
    factor = max(1.0, max(grid.width, grid.height) / LONGEST)
    coarse = grid.scaled(max(1, round(grid.width / factor)), max(1, round(grid.height / factor)))
    (first, there), (second, also) = before(coarse), after(coarse)
    whole = shift(first, second, there & also, limit=limit / factor)
    whole = Shift(whole.x * factor, whole.y * factor, whole.ratio)
    if factor == 1:
        return whole
    found = []
    for row in (0.2, 0.5, 0.8):
        for column in (0.2, 0.5, 0.8):
            corner = round(column * grid.width - CHIP / 2), round(row * grid.height - CHIP / 2)
            place = grid.transform @ Affine.translation(*corner)
            moved = place @ Affine.translation(round(whole.x), round(whole.y))  # the same content, if it is right
            (first, there), (second, also) = (
                before(Grid(CHIP, CHIP, place, grid.crs)),
                after(Grid(CHIP, CHIP, moved, grid.crs)),
            )
            try:
                part = shift(first, second, there & also, limit=2 * factor + 2)
            except DataError:  # water, a wood, a new quarter: the other places decide
                continue
            found.append((part.x + round(whole.x), part.y + round(whole.y), part.ratio))
    if len(found) < 3:
        raise DataError(
            f"the two dates can be aligned to {factor:.1f} pixels only: {len(found)} of 9 places have enough in "
            "common; align=crs trusts the coordinates"
        )
    x, y, ratio = np.median(found, axis=0).tolist()
    spread = float(np.median(np.hypot(*(np.array(found)[:, :2] - (x, y)).T)))
    if spread > 2:
        raise DataError(
            f"the two dates are not shifted as a whole: places differ by {spread:.1f} pixels; rectify them first, or "
            "trust the coordinates with align=crs"
        )
    return Shift(x, y, ratio)


def reading(raster: Raster) -> Read:
    """What reads a raster on the pixels of any grid; only as much of it, and as finely, as is needed."""

    def read(target: Grid) -> tuple[Pixels, Inside]:
        own = raster.grid
        corners = own.pixels(shapely.get_coordinates(footprint(target, own.crs)))
        left, top = (np.floor(corners.min(0)) - 2).clip(0).astype(int).tolist()
        right, bottom = (np.ceil(corners.max(0)) + 2).clip(max=own[:2]).astype(int).tolist()
        width, height = right - left, bottom - top
        if width <= 0 or height <= 0:
            return np.zeros((target.height, target.width, 3), np.uint8), np.zeros((target.height, target.width), bool)
        factor = max(1.0, _pixel(target) / _pixel(own))
        size = max(1, round(width / factor)), max(1, round(height / factor))
        part = Grid(width, height, own.transform @ Affine.translation(left, top), own.crs).scaled(*size)
        return onto(*raster.read((left, top, width, height), size[::-1]), part, target)

    return read


def drawn(shapes: Sequence[NDArray[Any]], crs: str | None) -> tuple[list[Pixels], Grid]:
    """Objects of some dates as images on one grid, so that dates without images can be aligned by them.

    Args:
        shapes: polygons of each date ``[N]``, in one CRS.
        crs: as WKT, or None.

    Raises:
        DataError: at one of the dates there is nothing.
    """
    if not all(len(each) for each in shapes):
        raise DataError("a date without objects cannot be aligned by them; align=crs trusts the coordinates")
    together = np.concatenate(shapes)
    left, bottom, right, top = shapely.total_bounds(together)
    typical = float(np.median(np.sqrt(shapely.area(together))))
    pixel = max(typical / 12, max(right - left, top - bottom) / (2 * LONGEST - 2 * BORDER))
    width, height = (math.ceil(side / pixel) + 2 * BORDER for side in (right - left, top - bottom))
    down = 1 if crs is None else -1  # pixels as coordinates count downwards
    start = (left - BORDER * pixel, (bottom if crs is None else top) - down * BORDER * pixel)
    grid = Grid(width, height, Affine(pixel, 0, start[0], 0, down * pixel, start[1]), crs)
    size = dict[str, Any](out_shape=(height, width), transform=grid.transform, default_value=255, dtype=np.uint8)
    return [rasterio.features.rasterize(each, **size) for each in shapes], grid
