"""Objects over the raster that they were found in: a picture, and a page with a map that needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pyproj import CRS, Transformer

from score.drawing import TINT, Colour, below, enlargement, legend, lettering, palette
from score.files import write_text
from score.geo.grid import Grid
from score.geo.vectors import classes

STATIC = Path(__file__).parent / "static"
LIMIT = 20_000  # objects on a page: drawn anew within two seconds by two cores without a graphics card
RADIUS = 6378137.0  # metres, of Web Mercator's sphere
POLAR = 84.0  # degrees; nearer to a pole Web Mercator ends
SHARED = ("source", "model", "date")  # attributes that are told once where all objects agree
EXACT = 16  # the page's outlines lie on parts of a pixel of the raster so small


def overview(
    pixels: NDArray[np.uint8], grid: Grid, table: gpd.GeoDataFrame, *, words: Sequence[str] | None = None
) -> Image.Image:
    """A picture of a raster with the outlines of its objects, tinted, and a legend with the count of each class.

    Args:
        pixels: ``[H, W, 3]`` RGB, the whole raster at any size.
        grid: the raster's own; objects are in its CRS.
        table: as `score.geo.vectors.frame` makes it.
        words: the classes, in the order that gives them their colours; None for the table's, sorted.
    """
    words = classes(table, words)
    colours, labels = palette(len(words)), _labels(table, words)
    factor = enlargement(pixels.shape)
    size = pixels.shape[1] * factor, pixels.shape[0] * factor
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    line = max(1, round(min(size) / 500))
    small = grid.scaled(*size)
    for label, shape in sorted(zip(labels, table.geometry, strict=True), key=lambda pair: -pair[1].area):
        _paint(picture, shapely.transform(shape, small.pixels), colours[label], line)
    return below(picture, legend(picture.width, Counter(labels), words, lettering(size)))


def _paint(picture: Image.Image, shape: Any, colour: Colour, line: int) -> None:
    """Tint a shape in pixels of a picture, and draw its outline; what is too small to be seen becomes a dot."""
    left, top, right, bottom = shape.bounds
    dot = 1.5 * line  # its radius
    x0, y0 = math.floor(left - 2 * dot), math.floor(top - 2 * dot)
    x1, y1 = math.ceil(right + 2 * dot), math.ceil(bottom + 2 * dot)
    if x0 >= picture.width or y0 >= picture.height or x1 <= 0 or y1 <= 0:
        return
    mask = Image.new("L", (x1 - x0, y1 - y0))
    paint = ImageDraw.Draw(mask)
    rings = [ring - (x0, y0) for part in shapely.get_parts(shape) for ring in _rings(part)]
    if max(right - left, bottom - top) < 2 * dot:
        x, y = (left + right) / 2 - x0, (top + bottom) / 2 - y0
        paint.ellipse((x - dot, y - dot, x + dot, y + dot), fill=255)
    else:
        for part in shapely.get_parts(shape):
            for inner, ring in enumerate(_rings(part)):  # holes after what is round them
                paint.polygon((ring - (x0, y0)).ravel().tolist(), fill=0 if inner else round(255 * TINT))
        for ring in rings:
            paint.line(ring.ravel().tolist(), fill=255, width=line)
    picture.paste(colour, (x0, y0), mask)


def _labels(table: gpd.GeoDataFrame, words: Sequence[str]) -> list[int]:
    number = {word: position for position, word in enumerate(words)}
    return [number[str(word)] for word in table["class"]]


def html_map(
    pixels: NDArray[np.uint8],
    grid: Grid,
    table: gpd.GeoDataFrame,
    path: str | Path,
    *,
    words: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Write a page with the objects on a map over the raster; one file, which a browser opens without any network.

    The map has a legend with a checkbox and count for each class, a slider for the least score, and each object's
    attributes at a click. Raster and outlines are laid onto it together, so they fit each other to the pixel; where on
    Earth they lie, a large raster shows to its middle only. Without a CRS, or near a pole, the place is a made-up one.
    Of more than 20,000 objects the page has the best, and says so.

    Args:
        pixels: ``[H, W, 3]`` RGB, the whole raster, 2048 a side at most for all graphics cards.
        grid: the raster's own; objects are in its CRS.
        table: as `score.geo.vectors.frame` makes it.
        path: where to, ``.html``.
        words: the classes, in the order that gives them their colours; None for the table's, sorted.
        title: of the page; "" for the table's source.

    Raises:
        OutputError: no space, or no right to write.
    """
    words, total = classes(table, words), len(table)
    if total > LIMIT:
        table = table.nlargest(LIMIT, "score")
    place, real = placed(grid)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    corners = _lonlat(place, np.array([(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]))
    facts, columns = _attributes(table)
    content = {
        "image": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "corners": corners.tolist(),
        "real": real,
        "words": words,
        "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette(len(words))],
        "total": total,
        "facts": facts,
        "columns": list(columns),
        "objects": _features(table, grid, place, words, columns),
    }
    name = title or str(facts.get("source", "")).rsplit("/", 1)[-1] or "objects"
    page = (STATIC / "map.html").read_text(encoding="utf-8")
    fill = {
        "TITLE": html.escape(name),
        "STYLE": (STATIC / "maplibre-gl.css").read_text(encoding="utf-8"),
        "LICENCE": (STATIC / "maplibre-gl.LICENSE.txt").read_text(encoding="utf-8").replace("--", "- -"),
        "LIBRARY": (STATIC / "maplibre-gl.js").read_text(encoding="utf-8"),
        "CONTENT": json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    head, *rest = page.split("{{")
    parts = [head]
    for piece in rest:
        key, _, after = piece.partition("}}")
        parts += [fill[key], after]
    write_text(Path(path), "".join(parts))


def placed(grid: Grid) -> tuple[Affine, bool]:
    """From a raster's pixels to Web Mercator, in metres, straight: the one that fits its corners best.

    Returns:
        And whether the place is the raster's own; a raster without one lies on the equator.
    """
    corners = np.array([(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)], dtype=float)
    if grid.crs is not None and CRS(grid.crs).geodetic_crs is not None:
        turn = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
        lon, lat = (np.asarray(values) for values in turn.transform(*grid.ground(corners).T))
        if np.isfinite([lon, lat]).all() and np.abs(lat).max() < POLAR:
            lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
            lon -= (lon.mean() + 180) // 360 * 360
            if np.abs(lon).max() > 180:  # there a page's map ends; the scale depends on the latitude only
                lon -= lon.mean()
            x, y = np.radians(lon) * RADIUS, np.arctanh(np.sin(np.radians(lat))) * RADIUS
            rows = np.linalg.lstsq(np.c_[corners, np.ones(4)], np.c_[x, y], rcond=None)[0].T
            return Affine(*rows.ravel()), True
    return Affine(1, 0, -grid.width / 2, 0, -1, grid.height / 2), False


def _lonlat(place: Affine, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Longitude and latitude ``[N, 2]`` of places ``[N, 2]`` in pixels."""
    x, y = place @ tuple(np.asarray(pixels, dtype=float).T)
    return np.degrees(np.stack([x / RADIUS, np.arctan(np.sinh(y / RADIUS))], axis=1))


def _attributes(table: gpd.GeoDataFrame) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What all objects share, and what differs between them, as JSON has it."""
    facts, columns = dict[str, Any](), dict[str, list[Any]]()
    for name in table.columns.drop([table.geometry.name, "class"]):
        values = [_plain(value) for value in table[name]]
        if name in SHARED and values and all(value == values[0] for value in values):
            facts[name] = values[0]
        else:
            columns[name] = values
    return facts, columns


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it; of a number, five digits."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.number):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return str(value)


def _features(
    table: gpd.GeoDataFrame, grid: Grid, place: Affine, words: Sequence[str], columns: dict[str, list[Any]]
) -> list[Any]:
    """A list an object: the class's number, the values of the columns, and the parts as GeoJSON has them."""
    pixel = math.sqrt(abs(place.determinant)) / RADIUS * 180 / math.pi  # degrees
    digits = max(0, math.ceil(math.log10(EXACT / pixel)))
    shapes = shapely.transform(
        np.asarray(table.geometry.array, dtype=object), lambda xy: np.round(_lonlat(place, grid.pixels(xy)), digits)
    )
    rows = zip(*columns.values(), strict=True) if columns else [()] * len(table)
    return [
        [label, list(row), [[ring.tolist() for ring in _rings(part)] for part in shapely.get_parts(shape)]]
        for label, row, shape in zip(_labels(table, words), rows, shapes, strict=True)
    ]


def _rings(polygon: Any) -> list[NDArray[np.float64]]:
    return [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
