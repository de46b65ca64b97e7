"""Scenes at several dates: what stands there is known, and so is what has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely.geometry.base import BaseGeometry

from score.geo.grid import Grid

CRS = "EPSG:32633"
FINE = 8  # pixels drawn for one of the image: shifts of a fraction of a pixel are drawn, not interpolated
SIZE = 640, 480
GRID = Grid(*SIZE, Affine(0.5, 0, 400000, 0, -0.5, 5000000), CRS)
COLOURS = {"building": (176, 96, 80), "ship": (200, 200, 205)}


class Thing(NamedTuple):
    kind: str
    shape: BaseGeometry  # in pixels of the first date


def things(seed: int = 0) -> list[Thing]:
    """Forty-eight inside the image, none near another, and six that its edge cuts."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(6):
        for column in range(8):
            x, y = 80 * column + 40 + rng.uniform(-12, 12), 80 * row + 40 + rng.uniform(-12, 12)
            if (row + column) % 2:
                w, h = rng.uniform(9, 14, 2)
                shape, kind = shapely.box(x - w, y - h, x + w, y + h), "building"
            else:
                shape, kind = shapely.affinity.scale(shapely.Point(x, y).buffer(1), *rng.uniform(6, 16, 2)), "ship"
            found.append(Thing(kind, shapely.affinity.rotate(shape, rng.uniform(0, 90))))
    middles = ((0, 160), (0, 320), (640, 160), (640, 320), (240, 0), (400, 480))
    return found + [Thing("ship", shapely.Point(middle).buffer(8)) for middle in middles]


def resized(thing: Thing, factor: float) -> Thing:
    """With so many times its area."""
    return thing._replace(shape=shapely.affinity.scale(thing.shape, factor**0.5, factor**0.5))


class Pair(NamedTuple):
    before: list[Thing]
    after: list[Thing]
    truth: dict[str, int]


def ten_changes() -> Pair:
    """Three things appear, three vanish, two grow and two shrink."""
    all_things = things()
    inner = [8 * row + column for row in (1, 2, 3, 4) for column in (1, 2, 3, 4, 5, 6)]
    chosen = np.random.default_rng(1).choice(inner, 10, replace=False).tolist()
    before = [thing for index, thing in enumerate(all_things) if index not in chosen[:3]]
    after = [
        resized(thing, 1.6) if index in chosen[6:8] else resized(thing, 0.6) if index in chosen[8:] else thing
        for index, thing in enumerate(all_things)
        if index not in chosen[3:6]
    ]
    return Pair(before, after, {"appeared": 3, "vanished": 3, "grown": 2, "shrunk": 2, "same": len(before) - 13})


def image(
    items: list[Thing], shift: tuple[float, float] = (0, 0), *, season: bool = False, seed: int = 0
) -> NDArray[Any]:
    """``[H, W, 3]`` uint8: things on ground with paths, all of it moved by a shift in pixels, with noise."""
    width, height = SIZE
    picture = Image.new("RGB", (width * FINE, height * FINE), (110, 130, 90))
    paint = ImageDraw.Draw(picture)
    rng = np.random.default_rng(7)
    for _ in range(60):  # fields and paths: the ground is the same at every date
        x, y = rng.uniform(-50, width), rng.uniform(-50, height)
        grey = int(rng.integers(70, 150))
        corner = [(value + move) * FINE for value, move in zip((x, y), shift, strict=True)]
        size = rng.choice([3, 60, 120], 2) * FINE
        paint.rectangle((*corner, *(corner + size)), fill=(grey, grey + 10, grey - 20))
    for item in items:
        outline = (shapely.get_coordinates(item.shape) + shift) * FINE
        paint.polygon([tuple(point) for point in outline.tolist()], fill=COLOURS[item.kind])
    pixels = np.asarray(picture.reduce(FINE), dtype=float)
    if season:
        pixels = 0.7 * pixels[..., [1, 0, 2]] + 60
    return (pixels + np.random.default_rng(seed).normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)


def write(path: Path, pixels: NDArray[Any], grid: Grid = GRID, **settings: Any) -> Path:
    """Write an image as a GeoTIFF whose upper left corner is a grid's."""
    height, width = pixels.shape[:2]
    facts = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **facts, crs=grid.crs, transform=grid.transform, **settings) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


def frame(items: list[Thing], shift: tuple[float, float] = (0, 0), grid: Grid = GRID, score: float = 0.9) -> Any:
    """What a perfect model gives: outlines of pixels, cut at the edge of the image, on the ground."""
    moved = [(shapely.affinity.translate(item.shape, *shift), number) for number, item in enumerate(items, start=1)]
    owner = rasterio.features.rasterize(moved, (grid.height, grid.width), dtype=np.int16)
    rows = [
        {"class": items[int(number) - 1].kind, "score": score, "geometry": shapely.geometry.shape(outline)}
        for outline, number in rasterio.features.shapes(owner, mask=owner > 0, connectivity=8, transform=grid.transform)
    ]
    return gpd.GeoDataFrame(rows, columns=["class", "score", "geometry"], geometry="geometry", crs=grid.crs)
