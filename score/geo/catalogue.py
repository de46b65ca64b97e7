"""Which scenes a catalogue lists: a table, a STAC item collection, a STAC API, or files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from score.errors import ConfigError, DataError
from score.files import is_address
from score.geo.raster import SUFFIXES

HREFS, DATES = ("href", "path", "image", "location", "url"), ("date", "datetime")
PICTURES = {"thumbnail", "overview", "metadata"}  # roles of what is no data
KINDS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")


class Scene(NamedTuple):
    """One raster of a catalogue.

    Attributes:
        id: its name, the only one of the catalogue.
        href: a file or an address.
        date: when it was taken, as 2025-06-30, or "" where the catalogue does not say.
    """

    id: str
    href: str
    date: str = ""


def read(
    source: str | Path,
    *,
    asset: str | None = None,
    collections: Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    datetime: str | None = None,
) -> tuple[list[Scene], list[str]]:
    """List the scenes of a catalogue.

    Args:
        source: a Parquet table with a column ``href`` or ``path`` (and ``id`` and ``date`` if it likes; GeoParquet of
            footprints and stac-geoparquet are such tables); a STAC item or item collection in JSON; the address of a
            STAC API. Relative paths count from the file's folder.
        asset: the key of the asset to take of STAC items; None for the one of role or key ``visual``, else the first
            TIFF or JPEG 2000 that is no thumbnail.
        collections: to search in a STAC API.
        bbox: west, south, east, north in degrees to search there.
        datetime: a time or a range to search there, as ``2025-01-01/2025-06-30``.

    Returns:
        The scenes, and a line about each item that has no asset to use.

    Raises:
        ConfigError: a search that makes no sense.
        DataError: the catalogue cannot be read, names two scenes alike, or has none that can be used.
    """
    text = str(source)
    if is_address(text):
        items: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]] = _search(text, collections, bbox, datetime)
    elif text.lower().endswith(".parquet"):
        rows = _rows(Path(source))
        if rows and "assets" not in rows[0]:
            return _unique(_listed(rows, text), text), []
        items = [row | {"properties": row} for row in rows]
    else:
        items = _items(Path(source))
    scenes, left_out = [], []
    for item in items:
        try:
            href = _place(_asset(item, asset), item, text)
        except DataError as error:
            left_out.append(str(error))
            continue
        scenes.append(Scene(str(item["id"]), href, _date(item.get("properties", {}).get("datetime"))))
    if not scenes:
        raise DataError(f"{text}: no scene that can be used" + "".join(f"; {line}" for line in left_out[:1]))
    return _unique(scenes, text), left_out


def files(paths: Sequence[str | Path]) -> list[Scene]:
    """Files and addresses as scenes, named by their file names.

    Raises:
        DataError: two have the same name.
    """
    return _unique([Scene(_name(str(path)), str(path)) for path in paths], "images")


def _name(href: str) -> str:
    path = urlsplit(href).path if "://" in href else href
    return path.rstrip("/").rpartition("/")[2] or href


def _date(value: object) -> str:
    return "" if value is None else str(value)[:10]


def _unique(scenes: Sequence[Scene], source: str) -> list[Scene]:
    """Without those listed twice."""
    known: dict[str, Scene] = {}
    for scene in scenes:
        if known.setdefault(scene.id, scene).href != scene.href:
            raise DataError(
                f"{source}: two scenes are named {scene.id}, {known[scene.id].href} and {scene.href}; give each an id "
                "of its own"
            )
    return list(known.values())


def _rows(path: Path) -> list[dict[str, Any]]:
    """The columns of a Parquet table that are needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error
    if not table.num_rows:
        raise DataError(f"{path}: lists no scene")
    wanted = [name for name in ("id", "assets", "links", *HREFS, *DATES) if name in table.column_names]
    if not {"assets", *HREFS} & set(wanted):
        raise DataError(f"{path}: no column {', '.join(HREFS)} or assets; it has {', '.join(table.column_names)}")
    return table.select(wanted).to_pylist()


def _listed(rows: Sequence[Mapping[str, Any]], source: str) -> list[Scene]:
    column = next(name for name in HREFS if name in rows[0])
    date = next((name for name in DATES if name in rows[0]), "")
    if empty := [number for number, row in enumerate(rows, start=1) if not row[column]]:
        raise DataError(f"{source}: row {empty[0]} has no {column}")
    return [
        Scene(str(row.get("id") or _name(row[column])), _place(row[column], {}, source), _date(row.get(date)))
        for row in rows
    ]


def _items(path: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such catalogue") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    items = found.get("features", [found]) if isinstance(found, dict) else None
    if not items or not all(isinstance(item, dict) and "id" in item for item in items):
        raise DataError(f"{path}: no STAC item or item collection; each needs an id and assets")
    return items


def _search(
    address: str, collections: Sequence[str] | None, bbox: Sequence[float] | None, datetime: str | None
) -> Iterator[Mapping[str, Any]]:
    import pystac_client
    import requests
    from pystac import STACError

    try:
        box = None if bbox is None else [float(value) for value in bbox]
    except ValueError as error:
        raise ConfigError(f"stac.bbox={bbox}: four numbers of degrees, west, south, east, north") from error
    if box is not None and not (len(box) == 4 and box[1] <= box[3]):
        raise ConfigError(f"stac.bbox={box}: four numbers of degrees, west, south, east, north")
    try:
        client = pystac_client.Client.open(address, timeout=60)
        search = client.search(
            collections=None if collections is None else list(collections), bbox=box, datetime=datetime
        )
        yield from search.items_as_dicts()
    except (STACError, pystac_client.exceptions.APIError, requests.RequestException, NotImplementedError) as error:
        raise DataError(f"{address}: no answer of a STAC API ({' '.join(str(error).split())[:200]})") from error
    except Exception as error:  # what pystac_client raises of a time that is none, or of an answer that is no catalogue
        raise DataError(f"{address}: the STAC search failed ({' '.join(str(error).split())[:200]})") from error


def _asset(item: Mapping[str, Any], key: str | None) -> str:
    """The address of an item's raster, as the item has it."""
    assets = {name: value for name, value in (item.get("assets") or {}).items() if value and value.get("href")}
    if key is not None:
        if key not in assets:
            raise DataError(f"item {item['id']}: no asset {key}; it has {', '.join(assets) or 'none'}")
        return assets[key]["href"]
    usable: list[tuple[bool, bool, int, str]] = []
    for name, value in assets.items():
        roles = {*(value.get("roles") or ())}
        tiff = (value.get("type") or "").lower().startswith(KINDS) or value["href"].lower().endswith(SUFFIXES)
        if tiff and not roles & PICTURES:
            usable.append((name != "visual" and "visual" not in roles, "data" not in roles, len(usable), value["href"]))
    if not usable:
        raise DataError(f"item {item['id']}: no asset that is a raster; it has {', '.join(assets) or 'none'}")
    return min(usable)[-1]


def _place(href: str, item: Mapping[str, Any], source: str) -> str:
    """An address from wherever GDAL is asked; relative ones count from the item's own address, or the catalogue's."""
    if is_address(href) or os.path.isabs(href):
        return href.removeprefix("file://")
    links = item.get("links") or ()
    own = next((link["href"] for link in links if link.get("rel") == "self" and "://" in link.get("href", "")), source)
    return urljoin(own, href) if "://" in own else os.path.normpath(Path(own).parent / href)
