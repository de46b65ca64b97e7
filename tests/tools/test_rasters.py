"""Rasters through the command line: vectors on the ground, and one line for each thing that can be wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from PIL import Image

from tests.geo.rasters import UTM, picture, write
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files

ALL = ("score=0", "overlap=1", "tile=64", "runtime.threads=1", "runtime.device=cpu")
WORDS = "vocabulary=[ship,'swimming pool']"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return tiny_folder(path, ["ship", "storage_tank"], "input.test.shortest=64", "input.test.longest=96")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", picture(96, 160))


def test_a_raster_becomes_vectors(model: Path, scene: Path, tmp_path: Path, call: Call) -> None:
    command = ("predict", f"model={model}", "images=scene.tif", "output=out", "class_raster=true", *ALL)
    done = call(*command, WORDS)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "scene (160 x 96 pixels of 0.5 m)" and lines[1].startswith("  6 tiles; ship: ")
    assert lines[-1] == "saved in out" and max(map(len, lines)) <= 80
    made = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert made >= {"scene.gpkg", "scene.jpg", "scene.html", "scene.qml", "scene_classes.tif", "rasters.json"}
    table = geopandas.read_file(tmp_path / "out" / "scene.gpkg", layer="objects")
    assert len(table) > 0 and set(table["class"]) <= {"ship", "swimming pool"}
    assert table.crs.to_epsg() == 32632 and table.geometry.is_valid.all()
    west, south, east, north = table.total_bounds
    assert UTM.c <= west < east <= UTM.c + 80 and UTM.f - 48 <= south < north <= UTM.f
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as classes:
        assert classes.shape == (96, 160) and set(np.unique(classes.read())) <= {0, 1, 2}

    again = call(*command, WORDS)
    assert again.code == 0 and "6 tiles, 6 done before; " in again.out
    refused = call(*command, "vocabulary=quay")
    assert refused.code == 2
    assert refused.err.startswith("error: out holds results with another vocabulary; set overwrite=true")
    other = call(*command, "vocabulary=quay", "overwrite=true")
    assert other.code == 0 and "6 tiles, 6 done before; quay: " in other.out  # the network did not run again
    assert set(geopandas.read_file(tmp_path / "out" / "scene.gpkg")["class"]) <= {"quay"}
    refused = call(*command, "vocabulary=quay", "runtime.towers=bf16")
    assert refused.code == 2 and refused.err.startswith("error: out holds results with another towers;")
    again = call(*command, "vocabulary=quay", "runtime.towers=bf16", "overwrite=true")
    assert again.code == 0 and "6 tiles; quay: " in again.out  # what fp32 saw does not serve


def test_files_of_a_user_are_not_replaced(model: Path, scene: Path, tmp_path: Path, call: Call) -> None:
    """Beside the raster, where others may be: outlines drawn by hand, the raster's own style."""
    for name in ("scene.gpkg", "scene.qml", "scene.jpg"):
        (tmp_path / name).write_bytes(b"mine")
        command = ("predict", f"model={model}", "images=scene.tif", "output=.", WORDS, *ALL)
        refused = call(*command)
        assert refused.code == 2 and f". holds {name}; set overwrite=true" in refused.err, refused.err
        assert (tmp_path / name).read_bytes() == b"mine"
        (tmp_path / name).unlink()
    assert call(*command).code == 0 and call(*command).code == 0


def test_its_own_pictures_are_no_images(model: Path, scene: Path, tmp_path: Path, call: Call) -> None:
    command = ("predict", f"model={model}", "images=.", "output=.", "class_raster=true", WORDS, *ALL)
    first, second = call(*command), call(*command)
    assert first.code == second.code == 0, second.err
    assert second.out.count(" pixels of ") == 1 and not (tmp_path / "predictions.json").exists()


def test_what_is_said_and_drawn_is_what_is_written(model: Path, scene: Path, tmp_path: Path, call: Call) -> None:
    """Objects that are too small on the ground are in none of the files, and not counted; words not found neither."""
    names = ",".join(f"thing of the kind {number}" for number in range(40))
    command = ("predict", f"model={model}", "images=scene.tif", "output=out", f"vocabulary=[{names}]", *ALL)
    done = call(*command, "min_area_m2=1e9", "format=json", "class_raster=true", "picture=null")
    assert done.code == 0 and done.out.splitlines()[1:] == ["  6 tiles; nothing", "in all: nothing", "saved in out"]
    content = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert not content["annotations"] and content["images"][0]["file_name"] == "scene.tif"
    with rasterio.open(tmp_path / "out" / "scene_classes.tif") as classes:
        assert not classes.read().any()
    assert "<title>scene.tif</title>" in (tmp_path / "out" / "scene.html").read_text()
    many = call(*command, "overwrite=true")
    assert many.code == 0 and max(map(len, many.out.splitlines())) <= 80 and len(many.out.splitlines()) > 4


@pytest.mark.parametrize("suffix", ["parquet", "fgb", "geojson", "shp", "json"])
def test_every_format(model: Path, scene: Path, tmp_path: Path, call: Call, suffix: str) -> None:
    extra = (f"format={suffix}", "map=false", "picture=null")
    done = call("predict", f"model={model}", f"images={scene}", "output=out", WORDS, *extra, *ALL)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / f"scene.{suffix}").is_file()
    assert not (tmp_path / "out" / "scene.html").exists() and not (tmp_path / "out" / "scene.jpg").exists()


def test_photographs_and_rasters_together(model: Path, scene: Path, tmp_path: Path, call: Call) -> None:
    Image.fromarray(picture()).save(tmp_path / "photo.jpg")
    done = call("predict", f"model={model}", "images=[photo.jpg,'*.tif']", "output=out", WORDS, *ALL)
    assert done.code == 0, done.err
    assert {"predictions.json", "scene.gpkg"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_killed_it_goes_on(model: Path, tmp_path: Path, call: Call) -> None:
    write(tmp_path / "wide.tif", picture(64, 64 * 60))
    command = ("predict", f"model={model}", "images=wide.tif", WORDS, "map=false", "picture=null", "batch_size=1", *ALL)
    run = [sys.executable, "-W", "ignore", "-c", "import sys; from score.app.console import main; sys.exit(main())"]
    process = subprocess.Popen([*run, *command, "output=cut"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    tiles = tmp_path / "cut" / "tiles" / "wide"
    while process.poll() is None and len(list(tiles.rglob("*.npz"))) < 5:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "cut" / "wide.gpkg").exists()
    done = call(*command, "output=cut")
    assert done.code == 0 and " done before" in done.out, done.err
    assert call(*command, "output=straight").code == 0
    cut, straight = (geopandas.read_file(tmp_path / name / "wide.gpkg") for name in ("cut", "straight"))
    pandas.testing.assert_frame_equal(cut.drop(columns="geometry"), straight.drop(columns="geometry"))
    assert cut.geometry.equals(straight.geometry)


def test_without_a_crs_coordinates_are_pixels(model: Path, tmp_path: Path, call: Call) -> None:
    write(tmp_path / "bare.tif", picture(96, 160, bands=4).astype(np.uint16), None)
    done = call("predict", f"model={model}", "images=bare.tif", "output=out", WORDS, *ALL)
    assert done.code == 0, done.err
    assert "has no CRS: coordinates and sizes are in pixels" in done.out
    table = geopandas.read_file(tmp_path / "out" / "bare.gpkg")
    assert table.crs is None or not table.crs.is_geographic
    assert table["area_px"].max() <= 96 * 160


def test_a_damaged_block_is_said_and_the_rest_goes_on(model: Path, tmp_path: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    path = write(tmp_path / "damaged.tif", rng.integers(0, 255, (96, 160, 3), dtype=np.uint8), compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(100) + data[len(data) // 2 + 100 :])
    done = call("predict", f"model={model}", "images=damaged.tif", "output=out", WORDS, *ALL)
    assert done.code == 1 and " not readable; " in done.out
    first, *lost = done.err.splitlines()
    assert first == "tiles could not be read:" and lost and all(line.startswith("the tile at (") for line in lost)
    assert (tmp_path / "out" / "damaged.gpkg").is_file()


@pytest.mark.parametrize("size", [(5, 5), (1, 40), (1, 600), (300, 1)])
def test_tiny_rasters(model: Path, tmp_path: Path, call: Call, size: tuple[int, int]) -> None:
    write(tmp_path / "tiny.tif", picture(*size))
    done = call("predict", f"model={model}", "images=tiny.tif", "output=out", WORDS, *ALL)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("images=empty.tif", "empty.tif: cannot be read"),
        ("images=text.tif", "text.tif: cannot be read"),
        ("images=missing.tif", "missing.tif: no such image"),
        ("images=no*.tif", "no*.tif: no such image"),
        ("images=http://127.0.0.1:9/x.tif", "http://127.0.0.1:9/x.tif: cannot be read as a raster"),
        ("bands=[1,2,9]", "bands=[1, 2, 9]: scene.tif has 3, from 1 on"),
        ("stretch=[98,2]", "stretch=[98, 2]: auto, null, or two percentiles"),
        ("stretch=strong", "stretch=strong: auto, null, or two percentiles"),
        ("gsd_m=0", "a pixel of scene.tif has 0.5 m"),
        ("gsd_m=-1", "gsd_m=-1"),
        ("area=[0,0,1,1]", "area=[0, 0, 1, 1]: outside of scene.tif"),
        ("area=nowhere.gpkg", "area=nowhere.gpkg: cannot be read as a vector file"),
        ("tile_overlap=60", "the overlap is at most half a tile"),
        ("tile=0", "tile=0"),
        ("batch_size=0", "batch_size=0"),
        ("format=dxf", "format=dxf: vectors are written as gpkg, parquet"),
        ("resampling=best", "resampling=best: there are nearest"),
        ("vocabulary=words.txt", "duplicate class name"),
        ("output=file", "file"),
        ("output=/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line(model: Path, scene: Path, tmp_path: Path, call: Call, change: str, line: str) -> None:
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("text\n" * 99)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "words.txt").write_text("ship\nquay\nship\n")
    before = files(tmp_path)
    given = dict(item.split("=", 1) for item in (f"model={model}", "images=scene.tif", "output=out", WORDS, *ALL))
    given |= dict([change.split("=", 1)])
    done = call("predict", *(f"{key}={value}" for key, value in given.items()))
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and line in done.err
    assert [name for name in files(tmp_path) if name not in before and not name.startswith("out/tiles")] in (
        [],
        ["out/.lock"],
    )
