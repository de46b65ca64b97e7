"""Tables of objects in the formats of others: what each can hold, and how outlines are fitted to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from score.data.coco_json import categories
from score.geo.grid import Grid

DECIMALS = 8  # of a degree: a millimetre


def geopackage(table: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """Outlines of one kind, for QGIS shows a layer of two kinds as two."""
    pyogrio.write_dataframe(
        table, path, layer=layer, driver="GPKG", geometry_type="MultiPolygon", promote_to_multi=True
    )


def add_style(path: Path, layer: str, style: str) -> None:
    """Add the table in which QGIS looks for the style of a layer of a GeoPackage."""
    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": layer,
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "a colour a class",
        "owner": "",
        "ui": "",
        "update_time": pd.Timestamp.now("UTC").floor("s"),
    }
    pyogrio.write_dataframe(
        pd.DataFrame([row]), path, layer="layer_styles", driver="GPKG", append=False, layer_options={"FID": "id"}
    )


def parquet(table: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """With bounding boxes, by which readers skip what they do not need."""
    try:
        table.to_parquet(path, write_covering_bbox=True, schema_version="1.1.0", index=False)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def flatgeobuf(table: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """As `geopackage`."""
    pyogrio.write_dataframe(
        table, path, layer=layer, driver="FlatGeobuf", geometry_type="MultiPolygon", promote_to_multi=True
    )


def geojson(table: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """As RFC 7946 has it, which knows no CRS but WGS84."""
    options: dict[str, Any] = {"COORDINATE_PRECISION": DECIMALS, "WRITE_NAME": "NO"}
    if table.crs is not None and table.crs.geodetic_crs is not None:  # a site's own plane has no place on Earth
        lonlat = table.to_crs("EPSG:4326").geometry.array
        table = table.set_geometry(gpd.GeoSeries(cut_at_180(np.asarray(lonlat, dtype=object)), crs="EPSG:4326"))
        options |= {"RFC7946": "YES"}
    pyogrio.write_dataframe(table, path, layer=layer, driver="GeoJSON", geometry_type="Unknown", **options)


def cut_at_180(shapes: NDArray[Any]) -> NDArray[Any]:
    """Outlines ``[N]`` in degrees, each within -180 .. 180; one that crosses the 180th meridian is cut in two there.

    No outline may be wider than half the Earth, or go round a pole.
    """
    found = shapes.copy()
    low, high = shapely.bounds(shapes)[:, [0, 2]].T if len(shapes) else (np.zeros(0), np.zeros(0))
    for index in np.flatnonzero((high - low > 180) | (high > 180) | (low < -180)):
        start = shapely.get_coordinates(shapes[index])[0, 0]
        shape = shapely.transform(shapes[index], lambda xy, start=start: _near(xy, start))
        pieces = [
            shapely.transform(shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), _back(turn))
            for turn in (-720, -360, 0, 360, 720)
        ]
        parts = [part for part in shapely.get_parts(pieces) if part.geom_type == "Polygon" and not part.is_empty]
        found[index] = parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
    return shapely.set_precision(found, 10.0**-DECIMALS)


def _near(xy: NDArray[np.float64], longitude: float) -> NDArray[np.float64]:
    """The same places, their longitudes within half a turn of one."""
    return np.stack([longitude + (xy[:, 0] - longitude + 180) % 360 - 180, xy[:, 1]], axis=1)


def _back(turn: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda xy: xy - np.array([turn, 0])


SHAPEFILE_NAMES = {
    "class_before": "class_b",
    "area_before_m2": "area_b_m2",
    "area_after_m2": "area_a_m2",
    "score_before": "score_b",
    "score_after": "score_a",
    "parts_before": "parts_b",
    "parts_after": "parts_a",
}
"""Names of attributes that are too long for a Shapefile, and what they are there; all others are cut to ten letters."""


def shapefile(table: gpd.GeoDataFrame, path: Path, layer: str) -> None:
    """Under the path's name, for it knows no layers."""
    short = {name: SHAPEFILE_NAMES.get(name, name[:10]) for name in table.columns.drop(table.geometry.name)}
    for position, name in enumerate(short):
        if short[name] in list(short.values())[:position]:
            short[name] = f"{name[:7]}_{position}"
    pyogrio.write_dataframe(
        table.rename(columns=short),
        path,
        driver="ESRI Shapefile",
        geometry_type="Polygon",  # holds several parts, too
        encoding="UTF-8",
    )


def coco(table: gpd.GeoDataFrame, grid: Grid, words: Sequence[str], file_name: str | None = None) -> dict[str, Any]:
    """A COCO dataset of one image, the raster: ``images``, ``categories`` (ids from 1), ``annotations``.

    Args:
        table: of `frame`, in the grid's CRS.
        grid: the raster's.
        words: the classes, all that the table has among them.
        file_name: of the raster; None for the table's ``source``.
    """
    if file_name is None:
        file_name = os.path.basename(str(table["source"].iloc[0])) if len(table) and "source" in table.columns else ""
    shapes = shapely.transform(np.asarray(table.geometry.array, dtype=object), grid.pixels)
    shapes = shapely.set_precision(shapes, 1 / 1024)  # corners of pixels are whole numbers again
    number = {word: position for position, word in enumerate(words, start=1)}
    annotations = []
    for position, (word, score, shape) in enumerate(zip(table["class"], table["score"], shapes, strict=True), start=1):
        left, top, right, bottom = shape.bounds
        pieces = [piece for part in shapely.get_parts(shape) for piece in without_holes(part)]
        annotations.append({
            "id": position,
            "image_id": 1,
            "category_id": number[word],
            "bbox": [left, top, right - left, bottom - top],
            "area": shape.area,
            "iscrowd": 0,
            "segmentation": [shapely.get_coordinates(piece.exterior)[:-1].ravel().tolist() for piece in pieces],
            "score": round(float(score), 6),
        })  # fmt: skip
    image = {"id": 1, "file_name": file_name, "width": grid.width, "height": grid.height}
    return {"images": [image], "categories": categories(words), "annotations": annotations}


def without_holes(polygon: BaseGeometry) -> list[BaseGeometry]:
    """A polygon as polygons without holes that together cover the same: cut through its holes, upright."""
    if not len(polygon.interiors):
        return [polygon]
    middles = sorted(hole.centroid.x for hole in polygon.interiors)
    x = round(middles[len(middles) // 2])
    left, top, right, bottom = polygon.bounds
    if not left < x < right:
        x = middles[len(middles) // 2]
    halves = [polygon.intersection(shapely.box(*box)) for box in ((left, top, x, bottom), (x, top, right, bottom))]
    parts = [part for part in shapely.get_parts(halves) if part.geom_type == "Polygon"]
    return [piece for part in parts for piece in without_holes(part)]
