from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

from score.drawing import palette
from score.errors import OutputError
from score.geo.grid import Grid
from score.geo.maps import html_map, overview, placed
from score.geo.vectors import frame
from tests.geo.objects import LOOK, UTM, WORDS, harbour

CHROMIUM = shutil.which("chromium")
TURNED = UTM._replace(transform=Affine.translation(400000, 5000000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5))


def grey() -> NDArray[np.uint8]:
    return np.full((500, 1000, 3), 100, np.uint8)


def test_the_picture_is_tinted_where_objects_are_and_has_a_legend() -> None:
    for grid in (UTM, TURNED, Grid(2000, 1000)):
        picture = np.asarray(overview(grey(), grid, frame(harbour(), grid, **LOOK), words=WORDS)).astype(int)
        assert picture.shape[1] == 1000 and picture.shape[0] > 510
        assert (picture[110, 80] != 100).any()  # the box at 100 .. 220, 200 .. 240 of the raster
        assert (picture[181, 356] != 100).any()  # the ring
        assert (picture[181, 381] == 100).all()  # its hole
        changed = (picture[:500] != 100).any(axis=-1).sum()
        area = sum(item.area for item in harbour()) / 4
        assert area < changed < 1.1 * area
        strip = picture[500:].reshape(-1, 3)
        assert all((strip == colour).all(axis=1).any() for colour in palette(3))


def test_a_speck_can_be_seen_in_the_picture() -> None:
    grid = Grid(40000, 20000, UTM.transform, UTM.crs)
    picture = np.asarray(overview(grey(), grid, frame(harbour()[4:], grid, **LOOK)))
    assert (picture[19:22, 6:9] == palette(1)[0]).all(axis=-1).sum() >= 4


def test_a_picture_of_nothing() -> None:
    assert overview(grey(), UTM, frame([], UTM, **LOOK)).width == 1000


def test_a_raster_lies_where_it_is() -> None:
    place, real = placed(UTM)
    assert real
    from pyproj import Transformer

    x, y = Transformer.from_crs(UTM.crs, "EPSG:3857", always_xy=True).transform(*UTM.ground([(700, 300)])[0])
    assert np.allclose(place @ (700, 300), (x, y), atol=0.05)
    assert placed(Grid(10, 10)) == (Affine(1, 0, -5, 0, -1, 5), False)
    assert not placed(Grid(10, 10, Affine(1, 0, 2000000, 0, -1, 2000000), "EPSG:32661"))[1]  # the pole
    across, real = placed(Grid(100, 100, Affine(0.01, 0, 179.5, 0, -0.01, 0), "EPSG:4326"))
    assert real and np.isclose(across.a, 0.01 / 360 * 2 * np.pi * 6378137)
    for west in (179.5, 179.1, -180.5, 359.5, 190):  # MapLibre shows no image beyond 180 degrees
        place, real = placed(Grid(100, 100, Affine(0.01, 0, west, 0, -0.01, 0.5), "EPSG:4326"))
        ends = np.array([(place @ (x, 50))[0] for x in (0, 100)]) / (np.pi * 6378137) * 180
        assert real and np.abs(ends).max() <= 180 and np.isclose(np.diff(ends), 1)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        html_map(grey(), UTM, frame(harbour(), UTM, **LOOK), tmp_path / "file" / "a.html")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    pages = {"turned": TURNED, "plain": Grid(2000, 1000)}
    for name, grid in pages.items():
        html_map(grey(), grid, frame(harbour(), grid, **LOOK), tmp_path / f"{name}.html", words=WORDS)
    html_map(grey(), UTM, frame([], UTM, **LOOK), tmp_path / "nothing.html")
    asked, wrong = list[str](), list[str]()
    with sync.sync_playwright() as play:
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 700, "height": 400})
        page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)

        def seen() -> set[int]:
            layers = "['areas', 'dots']"
            return set(page.evaluate(f"map.queryRenderedFeatures({{layers: {layers}}}).map(f => f.properties.index)"))

        for name in pages:
            page.goto(f"{(tmp_path / name).as_uri()}.html")
            page.wait_for_selector("body[data-ready]", state="attached")
            assert seen() == {0, 1, 2, 3, 4}
            assert page.locator("#legend .word").all_inner_texts() == WORDS
            assert page.locator("#legend .count").all_inner_texts() == ["2", "2", "1"]
            assert page.title() == "harbour.tif"
            lacks = page.locator(".note").all_inner_texts()
            assert bool(lacks) == (name == "plain")
        page.locator("#score").fill("0.65")
        page.wait_for_timeout(400)
        assert seen() == {0, 2, 4}
        assert page.locator("#legend .count").all_inner_texts() == ["1 of 2", "1 of 2", "1"]
        page.locator("#legend input").nth(1).uncheck()
        page.wait_for_timeout(400)
        assert seen() == {0, 4}
        # the box's middle, 160, 220 of 2000 by 1000 pixels about the equator
        x, y = page.evaluate(
            "(p => [p.x, p.y])(map.project([-840 / 6378137 * 180 / Math.PI, 280 / 6378137 * 180 / Math.PI]))"
        )
        page.mouse.click(x, y)
        told = page.locator(".maplibregl-popup-content").inner_text()
        assert told.startswith("ship") and "4800" in told and "0.9" in told
        page.goto(f"{(tmp_path / 'nothing').as_uri()}.html")
        page.wait_for_selector("body[data-ready]", state="attached")
        assert "Nothing was found" in page.locator("#notes").inner_text()
        browser.close()
    assert not wrong
    assert set(asked) <= {"file", "blob", "data"}
