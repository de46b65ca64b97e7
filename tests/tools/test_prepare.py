"""From downloads to a trained model and polygons, by command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.prepare import archives
from tests.data.prepare.test_prepare import digest
from tests.geo.rasters import picture, write
from tests.geo.test_labels import layer
from tests.tools.command_line import Call


def test_isaid_by_one_command(tmp_path: Path, call: Call) -> None:
    archives.isaid(tmp_path / "raw")
    command = ("prepare", "dataset=isaid", "source=raw", "paths.datasets=data", "workers=1")
    done = call(*command)
    assert done.code == 1 and "isaid_train: 2 images, but isaid.yaml expects 18732" in done.err
    assert done.out.splitlines()[-1] == "saved in data/isaid, with report.html; data=isaid_train finds it"
    assert max(map(len, done.out.splitlines())) <= 80
    page = (tmp_path / "data" / "isaid" / "report.html").read_text()
    assert "expects 18732" in page and page.count("<img ") == 6 and "<h3>plane</h3>" in page and "Roundabout" in page
    before = digest(tmp_path / "data")
    again = call(*command, "accept_counts=true")
    assert again.code == 0 and digest(tmp_path / "data") == before


def test_from_a_layer_to_a_model_and_back_to_polygons(tmp_path: Path, call: Call) -> None:
    write(tmp_path / "scene.tif", picture(100, 200))
    layer(tmp_path / "labels.gpkg")
    root, own = "paths.datasets=data", "name=mine"
    done = call(
        "prepare", "dataset=geo", "raster=scene.tif", "vectors=labels.gpkg", own, root, "tile_size_px=24", "workers=1"
    )
    assert done.code == 0, done.err
    tiny = ("backbone=tiny", "scene=tiny", "model.queries=10", "model.decoder_layers=1", "optim.iterations=1")
    small = ("input.train.size=64", "input.test.shortest=64", "input.test.longest=64", "evaluation.limit=2")
    rest = ("paths.cache=null", "evaluation.pictures=0", "runtime.workers=0", "runtime.threads=1", "runtime.device=cpu")
    data = ("data.train=mine_train", "data.test=[mine_val]", root, "output=run")
    done = call("train", "experiment=isaid512_lite", *data, *tiny, *small, *rest)
    assert done.code == 0, done.err
    done = call("predict", "model=run", "images=scene.tif", "vocabulary=[pond,farm]", "output=out", "runtime.threads=1")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "scene.gpkg").is_file()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("bands=[3,2,1]", ""),
        ("bands=[9,9,9]", "bands=[9, 9, 9]: scene.tif has 3, from 1 on"),
        ("stretch=[98,2]", "two percentiles as in [2,98]"),
        ("nodata=x", "nodata=x: not a number"),
        ("gsd_m=-1", "gsd_m=-1: not a number"),
    ],
)
def test_a_raster_is_read_as_said(tmp_path: Path, call: Call, setting: str, line: str) -> None:
    write(tmp_path / "scene.tif", picture(100, 200))
    layer(tmp_path / "labels.gpkg")
    given = ("raster=scene.tif", "vectors=labels.gpkg", "name=mine", "paths.datasets=data", "workers=1")
    done = call("prepare", "dataset=geo", "tile_size_px=24", *given, setting)
    if line:
        assert done.code == 2 and done.err.count("\n") == 1 and line in done.err
        return
    assert done.code == 0, done.err
    name = next((tmp_path / "data/mine/train/images").iterdir()).name
    x, y = map(int, name.removesuffix(".png").split("_")[1:])
    tile = np.asarray(Image.open(tmp_path / "data/mine/train/images" / name))
    assert (tile == picture(100, 200)[y : y + 24, x : x + 24, ::-1]).all()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, call: Call) -> None:
    archives.isaid(tmp_path / "raw", tuple(f"P{number:04d}" for number in range(40)))
    command = ("prepare", "dataset=isaid", "source=raw", "workers=1", "tile_size_px=50", "accept_counts=true")
    assert call(*command, "paths.datasets=straight").code == 0
    expected = digest(tmp_path / "straight")
    run = [sys.executable, "-W", "ignore", "-c", "import sys; from score.app.console import main; sys.exit(main())"]
    kills = 0
    for moment in (1, 9, 23, 38):
        process = subprocess.Popen([*run, *command, "paths.datasets=cut"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        parts = tmp_path / "cut" / "isaid" / ".parts"
        while process.poll() is None and len(list(parts.rglob("P*.json"))) < moment:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    assert call(*command, "paths.datasets=cut").code == 0
    assert digest(tmp_path / "cut") == expected


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("dataset=isaid513", "dataset=isaid513: not a source; there are isaid, nwpu"),
        ("source=missing", "source=missing: no such folder"),
        ("source=empty", "empty: 0 JSON files"),
        ("tile_size_px=10", None),
        ("overlap_px=900", "the overlap is at most half a tile"),
        ("tile_size_px=0", "tile_size_px=0"),
        ("workers=0", "workers=0"),
        ("paths.datasets=null", "paths.datasets: not given"),
        ("dataset=geo", "raster: not given"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, call: Call, change: str, line: str | None) -> None:
    archives.isaid(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    given = {"dataset": "isaid", "source": "raw", "paths.datasets": "data", "accept_counts": "true", "workers": "1"}
    given |= dict([change.split("=", 1)])
    done = call("prepare", *(f"{key}={value}" for key, value in given.items()))
    if line is None:
        assert done.code == 0
        return
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1 and line in done.err
    assert not list(tmp_path.rglob("instances_*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_harms_nothing(tmp_path: Path, call: Call, workers: int) -> None:
    """Files of more than a few bytes cannot be written, as on a disk that is full."""
    archives.isaid(tmp_path / "raw")
    command = (
        "prepare",
        "dataset=isaid",
        "source=raw",
        "paths.datasets=data",
        f"workers={workers}",
        "accept_counts=true",
        "tile_size_px=50",  # whole images are linked, which takes no space
    )
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from score.app.console import main; sys.exit(main())"
    )
    run = [sys.executable, "-W", "ignore", "-c", limited, *command]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write data/isaid/train/")
    assert not list((tmp_path / "data").rglob("*.png"))
    assert call(*command).code == 0
