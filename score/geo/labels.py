"""A raster and a vector layer of labels as tiles to learn from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from score import masks
from score.data.prepare.parts import Item, Part, describe, entry, write_image
from score.data.tiling import windows
from score.errors import ConfigError, DataError
from score.geo.raster import Raster
from score.masks import Box

BLOCK = 4  # tiles along a side of a block, which is of one split


class Label(NamedTuple):
    """An object: its class, and its shape in the raster's pixels."""

    category: str
    shape: BaseGeometry


def items(
    raster: Path,
    vectors: Path,
    field: str,
    *,
    layer: str | None = None,
    inside: Path | None = None,
    size: int = 512,
    overlap: int = 0,
    least: int = 8,
    val: float = 0.2,
    seed: int = 0,
    reading: Mapping[str, Any] | None = None,
) -> tuple[list[str], list[Item], list[str]]:
    """Cut a raster and its labels into tiles.

    The raster is divided into blocks of four tiles a side, each of one split, drawn by the seed; no tile shows pixels
    of two blocks.

    Args:
        raster: the raster.
        vectors: polygons, in any CRS and any format that GDAL reads; holes and several parts are kept.
        field: the attribute that names the class.
        layer: of the vector file; None for its first.
        inside: polygons within which labels are complete; what lies outside is ignored, not background.
        size, overlap: of tiles, in pixels of the raster's grid.
        least: pixels of an object in a tile, below which it is left out.
        val: share of the blocks that are of the split ``val``.
        seed: of the blocks.
        reading: as :class:`score.geo.raster.Raster` takes it.

    Returns:
        Class names in alphabetical order, items, and what is not used.

    Raises:
        ConfigError: a share or sizes that make no sense.
        DataError: a file cannot be read, the layer has no CRS, no such field, no polygon, or does not meet the raster.
    """
    if not 0 <= val < 1:
        raise ConfigError(f"val={val}: a share of the blocks, 0 or more and below 1")
    opened = Raster(raster, **(reading or {}))
    grid = opened.grid
    labels, notes = read_labels(vectors, field, layer, opened)
    valid = _shapes(inside, None, opened).geometry.union_all() if inside else None
    if valid is not None and not valid.intersects(shapely.box(0, 0, grid.width, grid.height)):
        raise DataError(f"{inside}: nothing of it lies on {raster}; check both files' CRS")
    tree = shapely.STRtree([label.shape for label in labels])
    made, met = [], set[int]()
    blocks = _blocks(grid.width, grid.height, size)
    chosen = _draw(len(blocks), val, seed)
    for number, block in enumerate(blocks):
        x, y, width, height = block
        frame = shapely.box(x, y, x + width, y + height)
        here = sorted(tree.query(frame, predicate="intersects").tolist())
        met |= set(here)
        within = shapely.intersection(valid, frame) if valid is not None else None
        found = [labels[index] for index in here]
        work = partial(cut, str(raster), dict(reading or {}), block, found, within, size, overlap, least)
        made.append(Item(f"{raster.stem}_{number:05d}", "val" if number in chosen else "train", work))
    if not met:
        raise DataError(f"{vectors}: nothing of it lies on {raster}; check both files' CRS")
    if len(met) < len(labels):
        notes.append(f"{len(labels) - len(met)} shapes lie beside the raster, left out")
    return sorted({label.category for label in labels}), made, notes


def read_labels(path: Path, field: str, layer: str | None, raster: Raster) -> tuple[list[Label], list[str]]:
    """Read polygons as objects in a raster's pixels."""
    table = _shapes(path, layer, raster)
    if field not in table.columns:
        there = ", ".join(str(name) for name in table.columns if name != table.geometry.name)
        raise DataError(f"{path}: no attribute {field!r}; it has {there or 'none'}")
    flat = shapely.get_dimensions(table.geometry.values) == 2
    named = table[field].notna().to_numpy() & (table[field].astype(str).str.strip() != "").to_numpy()
    notes = [f"{(~flat).sum()} shapes are no polygons, left out"] if not flat.all() else []
    notes += [f"{(flat & ~named).sum()} polygons have no {field}, left out"] if (flat & ~named).any() else []
    table = table[flat & named]
    if table.empty:
        raise DataError(f"{path}: no polygon with a {field}")
    shapes = map(_areas, shapely.make_valid(table.geometry.values))
    return [Label(_name(name), shape) for name, shape in zip(table[field], shapes, strict=True)], notes


def _areas(shape: BaseGeometry) -> BaseGeometry:
    """The polygons of a shape, without the lines and points that a collection holds beside them."""
    if shape.geom_type != "GeometryCollection":
        return shape
    return shapely.union_all([part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2])


def _name(value: Any) -> str:
    """A class as its field has it; of a column with gaps, whole numbers come as others."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _shapes(path: Path, layer: str | None, raster: Raster) -> geopandas.GeoDataFrame:
    """A vector layer in a raster's pixels."""
    if not path.exists():
        raise DataError(f"{path}: no such vector file")
    try:
        table = geopandas.read_file(path, **({"layer": layer} if layer else {}))
    except Exception as error:  # pyogrio, fiona and GDAL have no common one
        raise DataError(f"{path}: cannot be read as a vector layer ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(table, geopandas.GeoDataFrame) or table.empty:
        raise DataError(f"{path}: holds no shapes")
    if raster.grid.crs is not None:
        if table.crs is None:
            raise DataError(f"{path}: has no CRS, so nobody knows where it lies; assign it one in your GIS")
        table = table.to_crs(raster.grid.crs)
    table = table[table.geometry.notna() & ~table.geometry.is_empty]
    known = np.isfinite(shapely.bounds(table.geometry.values)).all(axis=1)  # else where the raster's CRS does not reach
    if len(table) and not known.any():
        raise DataError(f"{path}: nothing of it lies on {raster.source}; check both files' CRS")
    table = table[known]
    return table.set_geometry(shapely.transform(table.geometry.values, raster.grid.pixels)).set_crs(
        None, allow_override=True
    )


def _blocks(width: int, height: int, size: int) -> list[Box]:
    """Blocks side by side; what would be narrower than a tile is part of the one before."""

    def cuts(length: int) -> list[tuple[int, int]]:
        begins = [*range(0, max(1, length - size), BLOCK * size), length]
        return list(itertools.pairwise(begins))

    return [(x0, y0, x1 - x0, y1 - y0) for y0, y1 in cuts(height) for x0, x1 in cuts(width)]


def _draw(count: int, share: float, seed: int) -> set[int]:
    """Which of so many blocks are of ``val``: a share of them, at least one of several."""
    order = sorted(range(count), key=lambda number: hashlib.sha256(f"{seed} {number}".encode()).digest())
    wanted = round(share * count)
    return set(order[: max(wanted, 1) if share and count > 1 else wanted])


def cut(
    source: str,
    reading: dict[str, Any],
    block: Box,
    labels: Sequence[Label],
    valid: BaseGeometry | None,
    size: int,
    overlap: int,
    least: int,
    folder: Path,
) -> Part:
    """Cut a block into tiles; an object in several tiles is several."""
    raster, part = Raster(source, **reading), Part()
    left, top, across, down = block
    tree = shapely.STRtree([label.shape for label in labels])
    for x, y, width, height in windows(across, down, size, overlap):
        window = (left + x, top + y, width, height)
        pixels, data = raster.read(window)
        frame = shapely.box(window[0], window[1], window[0] + width, window[1] + height)
        annotations = []
        for index in sorted(tree.query(frame, predicate="intersects").tolist()):
            mask = _burn(labels[index].shape, window) & data
            if np.count_nonzero(mask) < least:
                part.dropped[f"objects of fewer than {least} pixels in a tile"] += 1
                continue
            annotations.append(describe(masks.encode(mask[None])[0], labels[index].category, height, width))
        known = data if valid is None else data & _burn(valid, window)
        if not annotations and not known.any():
            part.dropped["tiles outside of the area, or without data"] += 1
            continue
        if not known.all() and labels:
            crowd = describe(masks.encode(~known[None])[0], labels[0].category, height, width)
            annotations.append({**crowd, "iscrowd": 1})
        if not any(not each["iscrowd"] for each in annotations):
            part.dropped["tiles without objects"] += 1
            continue
        name = f"{Path(source).stem}_{window[0]}_{window[1]}.png"
        write_image(folder / "images" / name, pixels)
        part.images.append(entry(name, width, height, annotations))
    return part


def _burn(shape: BaseGeometry, window: Box) -> NDArray[np.bool_]:
    """The pixels of a window whose middle lies in a shape."""
    place = Affine.translation(window[0], window[1])
    burnt = rasterize([(shape, 1)], out_shape=(window[3], window[2]), transform=place, dtype="uint8")
    return np.asarray(burnt, bool)
