"""Words asked of rasters: the network a tile, everything else once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

import score
from score import masks
from score.errors import ConfigError, DataError, OutputError
from score.geo.merge import Placed
from score.geo.raster import Raster
from score.rasters import Progress
from tests.geo.rasters import picture, write
from tests.tiny_model import tiny_folder

WORDS = ["ship", "swimming pool"]
EVERYTHING: dict[str, Any] = {"score": 0.0, "overlap": 1.0, "min_area": 0}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> score.Segmenter:
    folder = tmp_path_factory.mktemp("model") / "model"
    sizes = ("input.test.shortest=64", "input.test.longest=96")
    return score.Segmenter.from_pretrained(tiny_folder(folder, ["ship", "plane"], *sizes), "cpu")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", picture(96, 160))


def test_one_tile_says_what_the_image_does(segmenter: score.Segmenter, scene: Path) -> None:
    """Embeddings are kept in half precision, so scores agree to three digits."""
    pixels = picture(96, 160)
    view = segmenter.look_raster(scene, tile=200)
    found = view.find(WORDS, **EVERYTHING)
    expected = segmenter.segment(pixels, WORDS, top_k=None, **EVERYTHING)
    assert len(view.tiles) == 1 and found

    def table(items: Any) -> dict[tuple[str, bytes], float]:
        return {(item.name, masks.decode(masks.paste(item.rle, 96, 160)).tobytes()): item.score for item in items}

    first, second = table(found), table(expected)
    strong = {key: value for key, value in second.items() if value > 0.02}
    assert strong and strong.keys() <= first.keys()
    assert all(first[key] == pytest.approx(value, abs=2e-3) for key, value in strong.items())


def test_other_words_do_not_run_the_network(
    segmenter: score.Segmenter, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = segmenter.look_raster(scene, tile=64)
    before = view.find("ship", **EVERYTHING)
    monkeypatch.setattr(segmenter.model, "look", None)
    assert view.find("ship", **EVERYTHING) == before
    assert {item.name for item in view.find("palm tree", **EVERYTHING)} == {"palm tree"}


def test_what_lies_below_the_thresholds(segmenter: score.Segmenter, tmp_path: Path) -> None:
    view = segmenter.look_raster(write(tmp_path / "scene.tif", picture(96, 160, seed=3)))
    words = ["ship", "palm tree"]
    strong, weak = view.find(words), view.find(words, weak=0.1)
    least = view.segmenter.model.calibration.seen
    assert len(strong) < len(weak) and [item for item in weak if item.score >= least] == strong


def test_batches_and_copies_change_nothing(segmenter: score.Segmenter, scene: Path) -> None:
    results = [
        segmenter.look_raster(scene, tile=64, batch_size=batch).find(WORDS, **EVERYTHING) for batch in (1, 4, 100)
    ]

    def boxes(found: list[Placed]) -> list[tuple[int, int, int, int]]:
        return sorted(item.box for item in found if item.score > 0.05)

    assert boxes(results[0]) == boxes(results[1]) == boxes(results[2])


def test_it_goes_on_where_it_stopped(segmenter: score.Segmenter, scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"

    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done >= 2:
            raise StopError

    with pytest.raises(StopError):
        segmenter.look_raster(scene, tile=64, batch_size=1, folder=folder, report=stop)
    view = segmenter.look_raster(scene, tile=64, batch_size=1, folder=folder)
    assert (view.progress.before, view.progress.done, view.progress.tiles) == (2, 6, 6)
    again = segmenter.look_raster(scene, tile=64, batch_size=1, folder=folder)
    assert again.progress.before == 6
    straight = segmenter.look_raster(scene, tile=64, batch_size=1)
    assert again.find(WORDS, **EVERYTHING) == straight.find(WORDS, **EVERYTHING)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_tiles_of_something_else_are_refused(segmenter: score.Segmenter, scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    segmenter.look_raster(scene, tile=64, folder=folder)
    with pytest.raises(OutputError, match="holds tiles of another grid, resampling; set overwrite=true"):
        segmenter.look_raster(scene, tile=64, folder=folder, gsd_m=1, resampling="bilinear")
    view = segmenter.look_raster(scene, tile=64, folder=folder, gsd_m=1, overwrite=True)
    assert view.progress.before == 0
    for damaged in ("[]", "7", "{"):
        (folder / "tiles.json").write_text(damaged)
        with pytest.raises(OutputError, match="holds tiles of another "):
            segmenter.look_raster(scene, tile=64, folder=folder)
    view = segmenter.look_raster(scene, tile=64, folder=folder, overwrite=True)
    (folder / "0" / "0.npz").write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"0\.npz is damaged; delete it"):
        view.find("ship")


def test_empty_and_damaged_tiles_are_counted(segmenter: score.Segmenter, tmp_path: Path) -> None:
    pixels = picture(96, 160)
    pixels[:, :80] = 0
    view = segmenter.look_raster(write(tmp_path / "border.tif", pixels, nodata=0), tile=64)
    assert (view.progress.tiles, view.progress.empty, view.progress.failed) == (6, 2, [])
    found = view.find(WORDS, **EVERYTHING)
    assert found and all(item.box[0] >= 80 for item in found)

    rng = np.random.default_rng(0)
    path = write(tmp_path / "damaged.tif", rng.integers(0, 255, (96, 160, 3), dtype=np.uint8), compress="deflate")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(100) + data[middle + 100 :])
    view = segmenter.look_raster(path, tile=64)
    assert 1 <= len(view.progress.failed) < 6 and len(view.tiles) == 6 - len(view.progress.failed)
    assert (
        view.progress.failed[0].startswith("the tile at (") and "cannot be read as a raster" in view.progress.failed[0]
    )
    path.write_bytes(data[: data.index(b"\x78\x9c")] + bytes(len(data) - data.index(b"\x78\x9c")))
    with pytest.raises(DataError, match="no tile can be read"):
        segmenter.look_raster(path, tile=64)


def test_only_an_area(segmenter: score.Segmenter, tmp_path: Path) -> None:
    path = write(tmp_path / "bare.tif", picture(96, 160), None)
    view = segmenter.look_raster(path, tile=32, area=[40, 10, 90, 60])
    assert view.raster.grid[:2] == (50, 50)
    assert all(item.box[0] + item.box[2] <= 50 for item in view.find(WORDS, **EVERYTHING))


def test_an_object_counts_by_its_mask_not_its_box(segmenter: score.Segmenter, scene: Path) -> None:
    """A diagonal's box reaches into an area in its empty corner, and into one that it crosses."""
    view = segmenter.look_raster(scene, tile=200)
    line = Placed(0, 0.5, masks.encode(np.eye(90, dtype=bool)[None])[0], "ship", True, (0, 0))
    for area, touched in ((shapely.box(60, 10, 80, 30), False), (shapely.box(40, 30, 60, 50), True)):
        view.raster.area = area
        assert view._touches([line]).tolist() == [touched]


@pytest.mark.parametrize("size", [(5, 5), (1, 1), (1, 300)])
def test_tiny_rasters(segmenter: score.Segmenter, tmp_path: Path, size: tuple[int, int]) -> None:
    path = write(tmp_path / "tiny.tif", picture(*size))
    assert segmenter.look_raster(path).progress.done >= 1
    segmenter.look_raster(path).find(WORDS, **EVERYTHING)


def test_tiles_in_metres(segmenter: score.Segmenter, scene: Path, tmp_path: Path) -> None:
    assert segmenter.look_raster(scene, tile_m=32).progress.tiles == 6  # of 0.5 m pixels
    with pytest.raises(ConfigError, match="has no CRS"):
        segmenter.look_raster(write(tmp_path / "bare.tif", picture(), None), tile_m=32)
    nan, inf = float("nan"), float("inf")
    for wrong in (
        *({"tile": tile} for tile in (0, -1, 64.0, "64")),
        *({"tile": 64, "tile_overlap": overlap} for overlap in (40, 64, -1, 1.5)),
        *({"tile_m": size} for size in (0, -1, nan, inf)),
        *({"gsd_m": size} for size in (0, -1, nan, inf, "1")),
        *({"area": area} for area in (shapely.Polygon(), shapely.Point(8, 47))),
        {"batch_size": 0},
    ):
        with pytest.raises(ConfigError):
            segmenter.look_raster(scene, **wrong)  # type: ignore[arg-type]


def test_bands_and_folders_of_other_kinds_and_vectors_that_make_no_sense(
    segmenter: score.Segmenter, scene: Path, tmp_path: Path
) -> None:
    view = segmenter.look_raster(scene, tile=200, bands=np.array([3, 2, 1]), folder=str(tmp_path / "kept"))  # type: ignore[arg-type]
    assert view.raster.bands == [3, 2, 1] and (tmp_path / "kept" / "0" / "0.npz").is_file()
    for name in ("tolerance_m", "min_area_m2"):
        for value in (-1, float("nan")):
            with pytest.raises(ConfigError, match=f"{name}={value}: not a number of at least 0"):
                view.ask("ship", vectors={name: value})


def test_a_temporary_folder_goes_with_the_view(segmenter: score.Segmenter, scene: Path) -> None:
    view = segmenter.look_raster(Raster(scene), tile=64)
    folder = view._store.folder
    assert folder.is_dir()
    del view
    assert not folder.exists()
