"""The page as a user meets it: a real server, and a real browser without a screen."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pytest

import score
from tests.app.served import Served, png, served, tiny_segmenter
from tests.geo.rasters import picture, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(segmenter: score.Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(segmenter, tmp_path_factory.mktemp("page") / "uploads", megabytes=0.5) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--ignore-gpu-blocklist"])
        yield browser
        browser.close()


class User:
    """One who has opened the page; nothing may go wrong, and nothing may be asked of another place."""

    def __init__(self, browser: Browser, server: Served, width: int = 700) -> None:
        self.page: Page = browser.new_context(
            viewport={"width": width, "height": 500}, accept_downloads=True
        ).new_page()
        self.server, self.wrong = server, list[str]()
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._check)
        self.page.goto(server.url)

    def _check(self, request: Any) -> None:
        if not request.url.startswith((self.server.url, "blob:", "data:")):
            self.wrong.append(request.url)

    def bring(self, path: Path) -> None:
        self.page.set_input_files("#file", path)

    def word(self, word: str, key: str = "Enter") -> None:
        self.page.locator("#word").fill(word)
        self.page.locator("#word").press(key)

    def answered(self, *words: str) -> None:
        """Wait until the page shows what was found for words."""
        for _ in range(400):
            if self.page.locator("#legend .word").all_inner_texts() == list(words):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(self.page.inner_text("body"))

    def counts(self) -> dict[str, int]:
        names, numbers = (self.page.locator(f"#legend .{part}").all_inner_texts() for part in ("word", "count"))
        return Counter({name: int(number) for name, number in zip(names, numbers, strict=True) if number != "0"})

    def threshold(self, value: float) -> None:
        self.page.locator("#times").fill(str(value))
        self.page.wait_for_timeout(100)

    def drawn(self) -> int:
        """Objects on the map, once it is still."""
        self.page.wait_for_selector("body[data-map=ready]", state="attached")
        script = """async () => {
            if (!map.loaded() || map.isMoving()) await new Promise(done => map.once('idle', done));
            return new Set(map.queryRenderedFeatures({layers: ['areas', 'dots']}).map(f => f.properties.index)).size;
        }"""
        return int(self.page.evaluate(script))

    def told(self) -> str:
        line = self.page.locator("#error")
        line.wait_for()
        return line.inner_text()

    def download(self, name: str, folder: Path) -> gpd.GeoDataFrame:
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=name, exact=True).click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return gpd.read_file(path, **({"layer": "objects"} if path.suffix == ".gpkg" else {}))

    def leave(self) -> None:
        self.page.context.close()
        assert not self.wrong


def test_from_an_image_and_words_to_vectors(server: Served, browser: Browser, tmp_path: Path) -> None:
    scene, user = write(tmp_path / "harbour.tif", picture(96, 160, seed=3)), User(browser, server)
    user.word("ship", ",")
    user.bring(scene)
    user.answered("ship")
    passes, first = len(server.passes), user.counts()
    assert first["ship"] and user.drawn() == first["ship"]

    user.word("palm tree, ship")
    assert user.told() == "ship: is among the words already"
    user.answered("ship", "palm tree")
    assert "without the network" in user.page.inner_text("#time")
    second = user.counts()
    user.threshold(-1)
    weak = user.counts()
    assert weak.total() > second.total() and user.drawn() == weak.total()
    user.threshold(-0.5)
    table = user.download("GeoPackage", tmp_path)
    assert Counter(table["class"]) == user.counts() and table.crs.to_epsg() == 32632
    assert user.page.inner_text("#count") == f"{len(table)} objects"
    user.page.get_by_role("checkbox", name="palm tree").uncheck()
    assert set(user.download("GeoJSON", tmp_path)["class"]) == {"ship"}

    user.page.get_by_text("List of objects").click()
    user.page.locator("#objects button").first.press("Enter")
    told = user.page.locator(".maplibregl-popup-content").inner_text()
    best = table[table["class"] == "ship"].iloc[0]
    assert told.startswith("ship") and f"{best['score']:.2f}" in told and "m²" in told
    user.page.get_by_role("button", name="remove palm tree").click()
    user.answered("ship")
    user.page.get_by_role("button", name="the model's own").click()
    assert user.counts() == first and len(server.passes) == passes

    user.page.reload()
    user.answered("ship")
    assert user.counts() == first and len(server.passes) == passes
    user.page.locator("#word").press("Backspace")
    user.page.locator("#found").wait_for(state="hidden")
    user.leave()


def test_a_click_on_the_map_tells_of_the_object(server: Served, browser: Browser, tmp_path: Path) -> None:
    user, path = User(browser, server, width=400), tmp_path / "photo.png"
    path.write_bytes(png(picture(96, 160)))
    user.word("ship")
    user.bring(path)
    user.answered("ship")
    assert "has no CRS" in user.page.inner_text("#notes")
    assert user.page.evaluate("document.documentElement.scrollWidth") == 400
    user.drawn()
    script = """() => {
        for (let y = 20; y < 260; y += 4) for (let x = 60; x < 380; x += 4) {
            if (map.queryRenderedFeatures([x, y], {layers: ['areas']}).length) return [x, y];
        }
    }"""
    user.page.mouse.click(*user.page.evaluate(script))
    told = user.page.locator(".maplibregl-popup-content").inner_text()
    assert told.startswith("ship") and "pixels" in told
    user.leave()


def test_a_large_image_is_sharp_when_it_is_near(server: Served, browser: Browser, tmp_path: Path) -> None:
    user, path = User(browser, server), tmp_path / "long.png"
    path.write_bytes(png(picture(40, 3000)))
    user.bring(path)
    user.page.wait_for_selector("body[data-map=ready]", state="attached")
    with user.page.expect_response(lambda response: "part.jpg" in response.url) as waiting:
        user.page.evaluate("map.zoomTo(map.getZoom() + 3, {animate: false})")
    asked = dict(item.split("=") for item in waiting.value.url.partition("?")[2].split("&"))
    width, across = int(asked["width"]), int(asked["across"])
    assert waiting.value.status == 200 and 200 < width < 600 and across > 0.9 * width  # the overview has 2048 of 3000
    user.page.locator("#time").filter(has_text="once").wait_for()
    user.leave()


def test_two_users_at_once(server: Served, browser: Browser, segmenter: score.Segmenter, tmp_path: Path) -> None:
    users = {word: User(browser, server) for word in ("ship", "palm tree")}
    for seed, (word, user) in enumerate(users.items()):
        (tmp_path / f"{seed}.png").write_bytes(png(picture(96, 160, seed=seed)))
        user.word(word)
        user.bring(tmp_path / f"{seed}.png")
    for seed, (word, user) in enumerate(users.items()):
        user.answered(word)
        user.threshold(-0.5)
        alone = segmenter.segment(picture(96, 160, seed=seed), word, score=0.3 * 10**-0.5, top_k=None)
        assert user.counts() == Counter({word: len(alone.detections)})
        assert user.page.inner_text("#name") == f"{seed}.png"
    for user in users.values():
        user.leave()


def test_a_wrong_file_is_told_in_a_line(server: Served, browser: Browser, tmp_path: Path) -> None:
    user = User(browser, server)
    (tmp_path / "notes.tif").write_text("not an image")
    user.bring(tmp_path / "notes.tif")
    assert user.told().startswith("notes.tif: not an image of a kind taken here")
    (tmp_path / "large.tif").write_bytes(bytes(600_000))
    user.bring(tmp_path / "large.tif")
    assert user.told() == "large.tif: larger than 0.5 MB, which is the most taken here"
    (tmp_path / "good.png").write_bytes(png(picture(32, 32)))
    user.bring(tmp_path / "good.png")
    user.page.locator("#time").filter(has_text="once").wait_for()
    assert user.page.locator("#error").is_hidden()
    user.leave()
