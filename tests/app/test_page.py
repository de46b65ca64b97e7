"""The page's server: what it answers, what it refuses, what it forgets."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import geopandas as gpd
import httpx
import numpy as np
import pytest
from PIL import Image

import score
from tests.app.served import Served, ask, bring, png, served, tiny_segmenter
from tests.geo.rasters import picture, write

MB = 0.5


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(segmenter: score.Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(segmenter, tmp_path_factory.mktemp("page") / "uploads", megabytes=MB, megapixels=0.2) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def refused(response: httpx.Response, status: int) -> str:
    """The one line that a user is told."""
    assert response.status_code == status, response.text
    told = response.json()["error"]
    assert told and "\n" not in told and "Traceback" not in told and "/tmp" not in told
    return str(told)


def counts(answer: dict[str, Any], times: float = 1) -> dict[str, int]:
    return Counter(answer["words"][item[0]] for item in answer["objects"] if item[2] >= times)


def test_the_page_and_its_files_come_from_here_alone(client: httpx.Client) -> None:
    start = client.get("/")
    assert start.status_code == 200 and f"up to {MB} MB" in start.text
    assert "default-src 'none'" in start.headers["Content-Security-Policy"]
    for name in ("page.js", "page.css", "maplibre-gl.js", "maplibre-gl.css"):
        assert f"/static/{name}" in start.text
        assert client.get(f"/static/{name}").status_code == 200
    refused(client.get("/static/page.html"), 404)
    refused(client.get("/static/..%2Fpage.py"), 404)
    refused(client.get("/docs"), 404)
    refused(client.put("/images"), 405)


def test_other_words_do_not_run_the_network(server: Served, client: httpx.Client, segmenter: score.Segmenter) -> None:
    pixels = picture(96, 160)
    told = bring(client, png(pixels))
    before = len(server.passes)
    first, second = ask(client, told["id"], "ship"), ask(client, told["id"], "ship", "palm tree")
    assert ask(client, told["id"], "ship")["objects"] == first["objects"] and len(server.passes) == before
    assert (second["seen"], len(second["least"])) == ([True, False], 2)
    expected = segmenter.segment(pixels, ["ship", "palm tree"], top_k=None)
    shown = Counter(item.name for item in expected.detections)
    assert shown and counts(second) == shown
    assert len(second["objects"]) >= len(expected.detections) and all(item[2] >= 0.1 for item in second["objects"])


def test_two_users_at_once(server: Served, segmenter: score.Segmenter) -> None:
    """Each has an own image and own words, and cannot guess the other's."""
    done: dict[str, tuple[str, dict[str, int]]] = {}

    def use(word: str, seed: int) -> None:
        with server.client() as client:
            key = bring(client, png(picture(96, 160, seed=seed)))["id"]
            done[word] = key, counts(ask(client, key, word), 0.5)

    users = [threading.Thread(target=use, args=(word, seed)) for seed, word in enumerate(("ship", "palm tree"))]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len({key for key, _ in done.values()}) == 2 and min(len(key) for key, _ in done.values()) >= 24
    for seed, word in enumerate(("ship", "palm tree")):
        alone = segmenter.segment(picture(96, 160, seed=seed), word, score=0.15, top_k=None)  # half of the model's own
        assert done[word][1][word] == len(alone.detections) > 0
    with server.client() as client:
        for path in ("", "/overview.jpg", "/objects.gpkg?word=ship"):
            assert "not here any more" in refused(client.get(f"/images/{'A' * 24}{path}"), 404)


def test_the_queue_tells_a_place(server: Served, segmenter: score.Segmenter) -> None:
    held, look = threading.Event(), segmenter.model.look
    segmenter.model.look = lambda inputs: held.wait(20) and look(inputs)  # type: ignore
    try:
        with server.client() as client:
            keys = [client.post("/images", content=png(picture())).json()["id"] for _ in range(3)]
            states = [client.get(f"/images/{key}").json() for key in keys]
            assert [(state["state"], state["before"]) for state in states][1:] == [("waiting", 1), ("waiting", 2)]
            assert "not looked at it yet" in refused(
                client.post(f"/images/{keys[2]}/words", json={"words": ["ship"]}), 409
            )
            assert client.delete(f"/images/{keys[1]}").status_code == 200
            assert client.get(f"/images/{keys[2]}").json()["before"] == 1
    finally:
        segmenter.model.look = look  # type: ignore[method-assign]
        held.set()


@pytest.mark.parametrize(("suffix", "times"), [("gpkg", 1.0), ("geojson", 0.2), ("json", 1.2)])
def test_a_download_holds_what_is_shown(client: httpx.Client, tmp_path: Path, suffix: str, times: float) -> None:
    told = bring(client, write(tmp_path / "scene.tif", picture(96, 160, seed=3)).read_bytes(), "harbour.tif")
    assert told["real"] and told["unit"] == "m2"
    answer = ask(client, told["id"], "ship", "palm tree")
    expected = counts(answer, times)
    query: dict[str, Any] = {"word": ["ship", "palm tree"], "times": times}
    response = client.get(f"/images/{told['id']}/objects.{suffix}", params=query)
    assert response.headers["Content-Disposition"] == f"attachment; filename*=UTF-8''harbour.{suffix}"
    if suffix == "json":
        coco = json.loads(response.content)
        names = {item["id"]: item["name"] for item in coco["categories"]}
        assert Counter(names[item["category_id"]] for item in coco["annotations"]) == expected
        assert coco["images"] == [{"id": 1, "file_name": "harbour.tif", "width": 160, "height": 96}]
        return
    (tmp_path / f"got.{suffix}").write_bytes(response.content)
    table = gpd.read_file(tmp_path / f"got.{suffix}")
    assert expected and Counter(table["class"]) == expected
    shown = [item for item in answer["objects"] if item[2] >= times]
    assert table["area_m2"].tolist() == pytest.approx([item[3] for item in shown])
    assert set(table["source"]) == {"harbour.tif"}
    assert table.crs.to_epsg() == (4326 if suffix == "geojson" else 32632)
    less = client.get(f"/images/{told['id']}/objects.{suffix}", params={**query, "hide": "ship"})
    (tmp_path / f"less.{suffix}").write_bytes(less.content)
    assert Counter(gpd.read_file(tmp_path / f"less.{suffix}")["class"]) == Counter({"palm tree": expected["palm tree"]})


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.png", "..\\..\\passwd.png", "/etc/passwd.png", "%2e%2e%2fpasswd.png"]
)
def test_a_name_leads_nowhere(server: Served, client: httpx.Client, name: str) -> None:
    around = sorted(server.folder.parent.rglob("*passwd*"))
    told = bring(client, png(picture()), name)
    assert told["name"] == "passwd.png"
    assert not around and not sorted(server.folder.parent.rglob("*passwd*"))
    got = client.get(f"/images/{told['id']}/objects.json", params={"word": "ship", "times": 0.1})
    assert got.json()["images"][0]["file_name"] == "passwd.png"


def test_names_of_every_kind(client: httpx.Client) -> None:
    for name, shown in (("", "image"), ("..", "image"), ("%00%0A", "image"), ("h%C3%A4fen%FF.png", "häfen\ufffd.png")):
        told = bring(client, png(picture(32, 32)), name)
        assert told["name"] == shown
        assert client.get(f"/images/{told['id']}/objects.gpkg", params={"word": "ship"}).status_code == 200


def test_files_that_point_at_others_are_refused(server: Served, client: httpx.Client, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif", picture())
    vrt = (
        '<VRTDataset rasterXSize="128" rasterYSize="96"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    wms = f'<GDAL_WMS><Service name="TMS"><ServerUrl>file://{secret}</ServerUrl></Service></GDAL_WMS>'
    for content in (vrt, wms, str(secret), f"GTIFF_DIR:1:{secret}", "<svg/>", '{"type": "FeatureCollection"}'):
        before = len(server.passes)
        line = refused(client.post("/images", content=content.encode(), headers={"X-Name": "scene.tif"}), 400)
        assert line.startswith("scene.tif: not an image of a kind taken here") and len(server.passes) == before
    assert not list(server.folder.glob("*/image.aux*"))


def test_what_is_no_image_is_refused_in_a_line(server: Served, client: httpx.Client) -> None:
    there = set(server.folder.iterdir())
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert "empty file" in refused(client.post("/images", content=b""), 400)
    whole = png(noise)
    told = bring(client, whole[: len(whole) // 3], "half")
    assert told["state"] == "failed"
    assert told["error"].startswith("half: no tile can be read; ") and "/" not in told["error"]
    assert client.delete(f"/images/{told['id']}").status_code == 200
    large = client.post("/images", content=png(np.zeros((500, 500, 3), np.uint8)), headers={"X-Name": "large.png"})
    assert refused(large, 413).startswith("large.png has 500 x 500 pixels, and 0.2 million are allowed")
    assert set(server.folder.iterdir()) <= there  # those of tests before may still be going


def test_a_file_that_is_one_large_block_is_refused(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("score.app.upload.BLOCK", 5_000)
    whole = write(tmp_path / "strip.tif", picture(96, 128), tiled=False)
    assert "in one block; save it as a tiled GeoTIFF" in refused(
        client.post("/images", content=whole.read_bytes()), 413
    )
    assert bring(client, write(tmp_path / "tiled.tif", picture(96, 128)).read_bytes())["state"] == "ready"


def test_too_many_bytes_are_refused_while_they_come(server: Served, client: httpx.Client) -> None:
    there = set(server.folder.iterdir())
    line = f"larger than {MB} MB"
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as sending:  # more would follow
        sending.sendall(b"POST /images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            sending.sendall(b"%x\r\n%s\r\n" % (2**16, bytes(2**16)))
        told = ""
        while "}" not in told:
            told += sending.recv(4096).decode()
    assert told.startswith("HTTP/1.1 413") and line in told
    assert line in refused(httpx.post(f"{server.url}/images", content=bytes(600_000)), 413)
    assert set(server.folder.iterdir()) <= there  # those of tests before may still be going


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "empty vocabulary"),
        (["ship", " "], "empty class name"),
        (["ship", "Ship"], "duplicate class name"),
        (["x"] * 101, "101 words: at most 100"),
        (["x" * 101], "101 letters"),
        (["a\nb"], "cannot be printed"),
        ({"ship": 1}, "not text"),
        (None, "not text"),
        ([1.5], "not text"),
        ([["ship"]], "not text"),
    ],
)
def test_words_that_cannot_be_asked(client: httpx.Client, words: Any, line: str) -> None:
    key = bring(client, png(picture(32, 32)))["id"]
    told = refused(client.post(f"/images/{key}/words", json={"words": words}), 400)
    assert line in told
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        assert refused(client.get(f"/images/{key}/objects.gpkg", params={"word": words}), 400) == told


def test_questions_that_are_none(client: httpx.Client) -> None:
    key = bring(client, png(picture(32, 32)))["id"]
    for body in (b"", b"{", b"[]", b'{"word": []}', b'{"words": NaN}', b'{"words": ["\\ud800"]}', b"\xff"):
        refused(client.post(f"/images/{key}/words", content=body, headers={"Content-Type": "application/json"}), 400)
    refused(client.post(f"/images/{key}/words", content=b" " * 70_000), 413)
    for times in ("nan", "inf", "-1", "0", "x", ""):
        line = refused(client.get(f"/images/{key}/objects.gpkg", params={"word": "ship", "times": times}), 400)
        assert line.startswith("times")
    assert "there are gpkg, geojson, json" in refused(client.get(f"/images/{key}/objects.exe?word=ship"), 400)
    for part in (
        "x=-1&y=0&width=5&height=5&across=5",
        "x=0&y=0&width=33&height=5&across=5",
        "x=0&y=0&width=5&height=5&across=9999",
    ):
        assert "not a part of" in refused(client.get(f"/images/{key}/part.jpg?{part}"), 400)
    assert refused(client.get(f"/images/{key}/part.jpg?x=0"), 400).startswith("y: ")


def test_a_part_is_what_lies_there(client: httpx.Client) -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[100:200, 200:300] = (250, 10, 10)
    key = bring(client, png(pixels))["id"]
    got = client.get(f"/images/{key}/part.jpg?x=200&y=100&width=100&height=100&across=50")
    part = np.asarray(Image.open(BytesIO(got.content)))
    assert part.shape == (50, 50, 3) and np.abs(part.astype(int) - (250, 10, 10)).max() < 12


def test_a_photograph_is_turned_as_it_was_held(client: httpx.Client) -> None:
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, :50] = 255
    held = Image.Exif()
    held[0x0112] = 6  # to be turned by a quarter, clockwise
    told = bring(client, png(pixels, "JPEG", exif=held, quality=95))
    assert (told["width"], told["height"]) == (60, 100)
    shown = np.asarray(Image.open(BytesIO(client.get(f"/images/{told['id']}/overview.jpg").content)))
    assert shown[:40].min() > 200 and shown[60:].max() < 50


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "192.168.1.5"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
    ],
)
def test_requests_of_other_sites_are_refused(
    server: Served, client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    there = set(server.folder.iterdir())
    responses = [client.get("/", headers=headers)]
    if status != 200:
        responses.append(client.post("/images", content=png(picture()), headers=headers))
    for response in responses:
        assert response.status_code == status
        assert status == 200 or refused(response, status)
    assert set(server.folder.iterdir()) <= there  # those of tests before may still be going


def test_the_one_not_used_for_longest_makes_room(segmenter: score.Segmenter, tmp_path: Path) -> None:
    with served(segmenter, tmp_path / "uploads", images=2) as server, server.client() as client:
        first, second = (bring(client, png(picture()))["id"] for _ in range(2))
        ask(client, first, "ship")
        third = bring(client, png(picture()))["id"]
        assert len(list(server.folder.iterdir())) == 2
        assert ask(client, first, "ship") and ask(client, third, "ship")
        refused(client.post(f"/images/{second}/words", json={"words": ["ship"]}), 404)
        held, look = threading.Event(), segmenter.model.look
        segmenter.model.look = lambda inputs: held.wait(20) and look(inputs)  # type: ignore
        keys = [client.post("/images", content=png(picture())).json()["id"] for _ in range(2)]
        assert "2 images are waiting already" in refused(client.post("/images", content=png(picture())), 503)
        for key in keys:
            assert client.delete(f"/images/{key}").status_code == 200
        held.set()
        segmenter.model.look = look  # type: ignore[method-assign]
        assert bring(client, png(picture()))["state"] == "ready"


def test_a_model_that_fails_on_an_image_goes_on_with_the_next(server: Served, segmenter: score.Segmenter) -> None:
    look = segmenter.model.look

    def fail(inputs: Any) -> Any:
        raise RuntimeError("out of memory")

    with server.client() as client:
        segmenter.model.look = fail  # type: ignore[method-assign]
        told = bring(client, png(picture()), "a.png")
        assert (told["state"], told["error"]) == ("failed", "a.png: the model failed on it; the program's log says how")
        segmenter.model.look = look  # type: ignore[method-assign]
        assert bring(client, png(picture()))["state"] == "ready"
