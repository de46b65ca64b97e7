"""Which scenes a catalogue lists."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import shapely

from score.errors import ConfigError, DataError
from score.files import is_catalogue
from score.geo import catalogue
from score.geo.catalogue import Scene

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name: str, assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": {"type": "Point", "coordinates": [9, 48]},
        "bbox": [9, 48, 9, 48], "properties": {"datetime": "2025-06-30T10:00:00Z"}, "links": [], "assets": assets,
        **more,
    }  # fmt: skip


def test_a_table_of_paths(tmp_path: Path) -> None:
    table = {"path": ["a/one.tif", "https://host/two.tif", "/data/x.tif"], "date": ["2025-01-02", None, "2024-01-01"]}
    pandas.DataFrame(table).to_parquet(tmp_path / "list.parquet")
    scenes, left_out = catalogue.read(tmp_path / "list.parquet")
    assert left_out == [] and scenes == [
        Scene("one.tif", str(tmp_path / "a" / "one.tif"), "2025-01-02"),
        Scene("two.tif", "https://host/two.tif"),
        Scene("x.tif", "/data/x.tif", "2024-01-01"),
    ]


def test_a_table_of_footprints_with_ids(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"id": [7, 8], "href": ["a.tif", "b/a.tif"]}, geometry=[shapely.box(0, 0, 1, 1)] * 2)
    frame.to_parquet(tmp_path / "list.parquet")
    assert [scene.id for scene in catalogue.read(tmp_path / "list.parquet")[0]] == ["7", "8"]


def test_stac_items_in_json_and_parquet(tmp_path: Path) -> None:
    items = [
        item("s1", {"thumbnail": {"href": "t.tif", "roles": ["thumbnail"], "type": TIFF},
                    "B02": {"href": "b02.tif", "type": TIFF, "roles": ["data"]},
                    "visual": {"href": "./rgb.tif", "type": TIFF}}),
        item("s2", {"image": {"href": "sub/two.jp2"}}, links=[{"rel": "self", "href": "https://host/c/s2.json"}]),
        item("s3", {}),
        item("s4", {"preview": {"href": "p.png", "type": "image/png"}}),
    ]  # fmt: skip
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    scenes, left_out = catalogue.read(tmp_path / "items.json")
    assert scenes == [
        Scene("s1", str(tmp_path / "rgb.tif"), "2025-06-30"), Scene("s2", "https://host/c/sub/two.jp2", "2025-06-30"),
    ]  # fmt: skip
    assert left_out == [
        "item s3: no asset that is a raster; it has none", "item s4: no asset that is a raster; it has preview",
    ]  # fmt: skip
    assert catalogue.read(tmp_path / "items.json", asset="B02")[0][0].href == str(tmp_path / "b02.tif")
    rows = [{"id": row["id"], "datetime": "2025-06-30", "assets": row["assets"]} for row in items[:2]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "items.parquet")
    assert [scene.href for scene in catalogue.read(tmp_path / "items.parquet")[0]] == [
        str(tmp_path / "rgb.tif"), str(tmp_path / "sub" / "two.jp2"),
    ]  # fmt: skip
    (tmp_path / "one.json").write_text(json.dumps(items[2]))
    with pytest.raises(DataError, match="one.json: no scene that can be used; item s3: no asset"):
        catalogue.read(tmp_path / "one.json")


@pytest.fixture
def api() -> Iterator[tuple[str, list[Any]]]:
    """A STAC API of three items, two a page, and the searches that it was asked for."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, found: dict[str, Any]) -> None:
            data = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            links = [{"rel": rel, "href": f"{address}{path}", "type": "application/geo+json", "method": "POST"}
                     for rel, path in (("self", ""), ("root", ""), ("search", "search"))]  # fmt: skip
            about = {"type": "Catalog", "id": "here", "description": "scenes", "stac_version": "1.0.0"}
            self.answer(about | {"conformsTo": conforms, "links": links})

        def do_POST(self) -> None:
            search = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(search)
            first = search.get("token", 0)
            items = [item(f"s{n}", {"visual": {"href": f"https://host/s{n}.tif", "type": TIFF}}) for n in range(3)]
            following = {
                "rel": "next",
                "href": f"{address}search",
                "method": "POST",
                "body": {"token": 2},
                "merge": True,
            }
            page = {
                "type": "FeatureCollection",
                "features": items[first : first + 2],
                "links": [following][first // 2 :],
            }
            self.answer(page)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address, asked
    server.shutdown()
    server.server_close()


def test_a_stac_api(api: tuple[str, list[Any]]) -> None:
    address, asked = api
    assert is_catalogue(address)
    scenes, left_out = catalogue.read(address, collections=["naip"], bbox=[9, 48, 10, 49], datetime="2025")
    assert [scene.id for scene in scenes] == ["s0", "s1", "s2"] and left_out == []
    assert scenes[0] == Scene("s0", "https://host/s0.tif", "2025-06-30")
    assert asked[0]["collections"] == ["naip"] and asked[0]["bbox"] == [9, 48, 10, 49]
    assert asked[0]["datetime"].startswith("2025-01-01") and asked[1]["token"] == 2
    with pytest.raises(ConfigError, match="bbox"):
        catalogue.read(address, bbox=[1, 2, 3])
    with pytest.raises(DataError, match="the STAC search failed"):
        catalogue.read(address, datetime="yesterday")


@pytest.mark.parametrize(
    ("source", "yes"),
    [
        ("a.parquet", True), ("a.json", True), ("https://host/api/v1.0/", True), ("https://host/stac", True),
        ("https://host/a.tif", False), ("https://t/{z}/{x}/{y}.png", False), ("https://t/{z}/{x}/{y}", False),
        ("a.tif", False), ("folder", False), ("s3://bucket/a.tif", False), (["a.tif"], False),
    ],
)  # fmt: skip
def test_what_a_catalogue_is(source: object, yes: bool) -> None:
    assert is_catalogue(source) == yes


def test_files_are_named_by_their_names() -> None:
    assert catalogue.files([Path("a/x.tif"), "https://h/b.tif?key=1"]) == [
        Scene("x.tif", "a/x.tif"), Scene("b.tif", "https://h/b.tif?key=1"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"two scenes are named x.tif, a/x.tif and b/x.tif; give each an id"):
        catalogue.files(["a/x.tif", "b/x.tif"])


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("no.json", None, "no.json: no such catalogue"),
        ("no.parquet", None, "no.parquet: cannot be read as Parquet"),
        ("text.json", "words", "text.json: cannot be read as JSON"),
        ("list.json", "[1]", "list.json: no STAC item or item collection"),
        ("empty.json", '{"type": "FeatureCollection", "features": []}', "empty.json: no STAC item or item collection"),
        ("text.parquet", "words", "text.parquet: cannot be read as Parquet"),
        ("none.parquet", {"href": []}, "none.parquet: lists no scene"),
        ("other.parquet", {"file_name": ["a"]}, "other.parquet: no column href, path, .* it has file_name"),
        ("hole.parquet", {"href": ["a.tif", None]}, "hole.parquet: row 2 has no href"),
        ("twice.parquet", {"id": ["a", "a"], "href": ["a.tif", "b.tif"]}, "two scenes are named a, .*; give each"),
        ("http://127.0.0.1:9/", None, "http://127.0.0.1:9/: no answer of a STAC API"),
    ],
)
def test_bad_catalogues(tmp_path: Path, name: str, data: Any, line: str) -> None:
    source = name if "://" in name else tmp_path / name
    if isinstance(data, str):
        (tmp_path / name).write_text(data)
    elif data is not None:
        pandas.DataFrame(data).to_parquet(tmp_path / name)
    with pytest.raises(DataError, match=line) as caught:
        catalogue.read(source)
    assert "\n" not in str(caught.value)
