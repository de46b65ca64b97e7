"""Objects of a raster as a table of polygons on the ground, and that table as a file of any of the usual formats."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window

from score import masks
from score.drawing import palette
from score.errors import ConfigError
from score.files import write_text, write_whole
from score.geo import formats
from score.geo.grid import Grid
from score.geo.outlines import Scale, laid, rectangles, simplified, trace
from score.geo.styles import qml
from score.result import Found

MEASURES = ("area_m2", "length_m", "width_m")
MEASURES_PX = ("area_px", "length_px", "width_px")
FORMATS = {
    ".gpkg": formats.geopackage,
    ".parquet": formats.parquet,
    ".fgb": formats.flatgeobuf,
    ".geojson": formats.geojson,
    ".shp": formats.shapefile,
}
SUFFIXES = ", ".join([*FORMATS, ".json"])
STALE = {".gpkg": (".gpkg-wal", ".gpkg-shm", ".gpkg-journal"), ".shp": (".qix", ".sbn", ".sbx")}
"""What other programs leave beside a file, and would take for a part of the new one: SQLite's journals, indices."""
BLOCK = 512  # pixels, of the class raster
CACHE = 128  # megabytes that GDAL keeps of it; its default is a share of the machine's


def frame(
    found: Sequence[Found],
    grid: Grid,
    *,
    source: str,
    model: str,
    date: str,
    asked: Mapping[str, str] | None = None,
    tolerance_m: float | None = None,
    min_area_m2: float = 0,
    oriented: bool = False,
) -> gpd.GeoDataFrame:
    """The objects of a raster as polygons in its CRS, a row an object, in the order given.

    Args:
        found: with masks in the grid's pixels, cropped ones with an offset; some may have a ``tile``, row and column.
        grid: where the pixels lie. Without a CRS coordinates are pixels, y downwards, unless the grid has a transform.
        source: the raster.
        model: which model found them.
        date: when, as ``2025-06-30``.
        asked: for each class what was asked, such as ``ship, vessel``; the class itself where it has none.
        tolerance_m: how far, in metres on the ground, a simplified outline may lie from the mask's edge; None for the
            shorter side of a pixel, for less leaves the steps of a slanting edge; 0 for the pixels' own edges.
        min_area_m2: objects smaller than this are left out.
        oriented: give the smallest rectangle on the ground round each object in place of its outline.

    Returns:
        ``class``, ``score`` (0 .. 1), ``seen`` (whether the model was trained on the class), ``area_m2`` (of the mask,
        as it was before its outline was simplified), ``length_m`` and ``width_m`` (of the smallest rectangle round
        the mask), ``source``, ``word``, ``tile`` (``row,column``, or empty), ``model``, ``date`` and valid polygons or
        multipolygons. Metres are true ones, whatever the CRS: see `score.geo.outlines.Scale`. Without a CRS there
        are none: then the columns are ``area_px``, ``length_px`` and ``width_px``, and the settings above count pixels.
        The index says which of ``found`` a row is.

    Raises:
        ConfigError: a tolerance or an area below 0.
    """
    for name, value in (("tolerance_m", tolerance_m), ("min_area_m2", min_area_m2)):
        if value is not None and not value >= 0:
            raise ConfigError(f"{name}={value}: not a number of at least 0")
    shapes = trace([item.rle for item in found])
    keep = ~shapely.is_empty(shapes)
    places = np.nan_to_num(shapely.get_coordinates(shapely.centroid(shapes[keep])))
    scale = Scale.at(grid, places)
    areas = shapely.area(shapes[keep]) * scale.areas
    large = areas >= min_area_m2
    chosen = np.flatnonzero(keep)[large]
    scale, shapes = Scale(scale.axes[large]), shapes[chosen]
    boxes, sides = rectangles(shapes, scale)
    if oriented:
        shapes = boxes
    elif tolerance_m != 0:
        tolerance = scale.shorter if tolerance_m is None else np.full(len(shapes), float(tolerance_m))
        shapes = simplified(shapes, scale, tolerance * (1 + 1e-6))
    items, asked = [found[index] for index in chosen], asked or {}
    tiles = [getattr(item, "tile", None) for item in items]
    columns: dict[str, Any] = {
        "class": _text(item.name for item in items),
        "score": np.array([item.score for item in items], dtype=float),
        "seen": np.array([item.seen for item in items], dtype=bool),
        **dict(zip(MEASURES if grid.crs else MEASURES_PX, (areas[large], *sides.T), strict=True)),
        "source": _text(source for _ in items),
        "word": _text(asked.get(item.name, item.name) for item in items),
        "tile": _text("" if tile is None else "{},{}".format(*tile) for tile in tiles),
        "model": _text(model for _ in items),
        "date": _text(date for _ in items),
    }
    return gpd.GeoDataFrame(columns, geometry=laid(shapes, grid), crs=grid.crs).set_axis(chosen)


def _text(values: Any) -> pd.Series:
    return pd.Series(list(values), dtype="str")


def write(
    table: gpd.GeoDataFrame,
    path: str | Path,
    *,
    layer: str = "objects",
    words: Sequence[str] | None = None,
    grid: Grid | None = None,
    style: str | None = None,
    file_name: str | None = None,
) -> None:
    """Write a table of objects in the format of the path's suffix, whole or not at all; a file there is replaced.

    - ``.gpkg``: GeoPackage; QGIS opens it in the classes' colours. All outlines are multipolygons there.
    - ``.parquet``: GeoParquet 1.1, with a column of bounding boxes.
    - ``.fgb``: FlatGeobuf, multipolygons; its spatial index orders the rows.
    - ``.geojson``: RFC 7946: longitude and latitude in WGS84 with 8 decimals, outlines cut at the 180th meridian.
      Without a CRS, coordinates stay what they are, and the RFC is not kept.
    - ``.shp``: Shapefile and the files beside it; names longer than ten letters as `formats.SHAPEFILE_NAMES` has them.
    - ``.json``: COCO JSON in the grid's pixels, with polygons; an outline with holes is cut into several without.

    Beside all but the last, a ``.qml`` tells QGIS the colours.

    Args:
        table: of `frame`, or with any other attributes.
        path: where to.
        layer: what the objects are called inside a file that holds several tables.
        words: the classes, in the order that gives them their colours and COCO ids; None for the table's, sorted.
        grid: the raster's; COCO JSON needs it.
        style: of :func:`score.geo.styles.qml`; None for a colour a class.
        file_name: what COCO JSON calls the raster; None for the table's source, which one without objects lacks.

    Raises:
        ConfigError: no such format, or COCO JSON without a grid.
        OutputError: no space, or no right to write.
    """
    path, words = Path(path), classes(table, words)
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        if grid is None:
            raise ConfigError(f"{path}: COCO JSON counts pixels, so it needs the raster's grid; choose {SUFFIXES}")
        write_text(path, json.dumps(formats.coco(table, grid, words, file_name), ensure_ascii=False) + "\n")
        return
    if style is None:
        style = qml(words) if "class" in table.columns else ""

    def together(partial: Path) -> None:
        """Write all files in a folder of their own, for GDAL minds the names; the main one is moved last."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            main = Path(folder) / f"{path.stem}{suffix}"
            FORMATS[suffix](table, main, layer)
            if style:
                main.with_suffix(".qml").write_text(style, encoding="utf-8")
            if style and suffix == ".gpkg":
                formats.add_style(main, layer, style)
            for beside in sorted(set(Path(folder).iterdir()) - {main}):
                beside.replace(path.parent / beside.name)
            main.replace(partial)
        for ending in STALE.get(suffix, ()):
            (path.parent / (path.stem + ending)).unlink(missing_ok=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*crs.*not provided", UserWarning)  # pixels have none
        write_whole(path, together)


def classes(table: gpd.GeoDataFrame, words: Sequence[str] | None = None) -> list[str]:
    """The classes of a table, or those given and after them others that it has."""
    given, there = list(words or ()), table["class"].unique() if "class" in table.columns else ()
    return given + sorted(set(map(str, there)) - set(given))


def check_suffix(path: str | Path) -> None:
    """Check that `write` knows a path's format.

    Raises:
        ConfigError: it does not.
    """
    if Path(path).suffix.lower() not in {*FORMATS, ".json"}:
        raise ConfigError(f"{path}: not a format that vectors can be written in; use {SUFFIXES}")


def class_raster(found: Sequence[Found], grid: Grid, words: Sequence[str], path: str | Path) -> None:
    """Write which class each pixel of a raster is of, as a cloud-optimised GeoTIFF; of two the better score's.

    A pixel is 0 where nothing was found, else the position of its class among the words, from 1. The file has a colour
    a class, and names: GDAL's category names in the ``.aux.xml`` beside it, and a tag ``CLASS_1`` ... inside. It is
    written in strips, so memory holds a few of these and the largest object's mask, whatever the raster.

    Args:
        found: with ``label`` the position among the words, and masks in the grid's pixels.
        grid: of the raster to write.
        words: the classes.
        path: where to, ``.tif``.

    Raises:
        OutputError: no space, or no right to write.
    """
    path, dtype = Path(path), np.uint8 if len(words) < 256 else np.uint16
    profile = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 1,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": 0,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "bigtiff": "if_safer",
    }
    names = ["", *words]

    def together(partial: Path) -> None:
        """GDAL makes these files as copies of others only."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            plain, main = Path(folder) / "plain.tif", Path(folder) / path.name
            with rasterio.open(plain, "w", **profile) as raster:
                raster.write_colormap(1, {0: (0, 0, 0, 0), **dict(enumerate(palette(len(words)), start=1))})
                raster.update_tags(**{f"CLASS_{number}": word for number, word in enumerate(words, start=1)})
                for top, strip in _strips(found, grid, dtype):
                    raster.write(strip, 1, window=Window(0, top, *strip.shape[::-1]))
            try:
                copy_raster(plain, main, driver="COG", compress="DEFLATE", overview_resampling="MODE", blocksize=BLOCK)
            except CPLE_BaseError as error:  # the only thing of rasterio that is no OSError where a disk is full
                raise OSError(str(error)) from error
            beside = path.with_name(path.name + ".aux.xml")
            beside.unlink(missing_ok=True)
            beside.write_text(_categories(names), encoding="utf-8")
            main.replace(partial)

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        write_whole(path, together)


def _strips(found: Sequence[Found], grid: Grid, dtype: type) -> Iterator[tuple[int, NDArray[Any]]]:
    """The rows of a class raster from the top, some at a time: which is the first, and the pixels."""
    order = sorted(range(len(found)), key=lambda index: found[index].score)
    boxes = np.array([found[index].box for index in order]).reshape(-1, 4)
    for top in range(0, grid.height, BLOCK):
        strip: NDArray[Any] = np.zeros((min(BLOCK, grid.height - top), grid.width), dtype)
        for position in np.flatnonzero((boxes[:, 1] < top + len(strip)) & (boxes[:, 1] + boxes[:, 3] > top)):
            item = found[order[position]]
            (rows, columns), bits = masks.part(item.rle)
            first, last = max(rows.start, top), min(rows.stop, top + len(strip))
            strip[first - top : last - top, columns][bits[first - rows.start : last - rows.start]] = item.label + 1
        yield top, strip


def _categories(names: Sequence[str]) -> str:
    """Names of the values of a raster's only band, as GDAL keeps them beside it."""
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    listing = ET.SubElement(band, "CategoryNames")
    for name in names:
        ET.SubElement(listing, "Category").text = name
    return ET.tostring(root, encoding="unicode") + "\n"
