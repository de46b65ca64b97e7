"""Catalogues through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import pandas
import pytest

from tests.geo.rasters import picture, write
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call

ALL = ("score=0", "overlap=1", "tile=64", "runtime.threads=1", "runtime.device=cpu", "output=out")
WORDS = "vocabulary=[ship,'swimming pool']"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return tiny_folder(path, ["ship", "storage_tank"], "input.test.shortest=64", "input.test.longest=96")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A catalogue of two scenes, one that has a single band, and one that is no raster."""
    write(tmp_path / "a.tif", picture(64, 96))
    write(tmp_path / "b.tif", picture(64, 64, seed=1), crs="EPSG:32633")
    write(tmp_path / "one.tif", picture(64, 64, bands=1))
    write(tmp_path / "pixels.tif", picture(64, 64), None)
    (tmp_path / "text.tif").write_text("text")
    table = {"id": ["a", "b"], "path": ["a.tif", "b.tif"], "date": ["2025-06-30", None]}
    pandas.DataFrame(table).to_parquet(tmp_path / "list.parquet")
    return tmp_path / "list.parquet"


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_catalogue_becomes_one_table(model: Path, listed: Path, tmp_path: Path, call: Call, engine: str) -> None:
    command = ("predict", f"model={model}", "images=list.parquet", WORDS, *ALL, f"engine={engine}")
    done = call(*command, *(["engine.workers=1"] if engine == "dask" else []))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "2 scenes, to out" and lines[1].startswith("1 of 2: ") and lines[-1].startswith("in all: ")
    found = pandas.concat(geopandas.read_parquet(path) for path in (tmp_path / "out" / "objects").glob("*.parquet"))
    assert set(found["scene"]) == {"a", "b"} and found.crs == "OGC:CRS84"
    assert set(found["date"][found["scene"] == "a"]) == {"2025-06-30"}
    if engine == "local":
        again = call(*command)
        assert again.code == 0 and "done before: 2" in again.out
        other = call(*command, "score=0.5")
        assert other.code == 2 and other.err.startswith("error: out holds results with another score; set overwrite")


def test_what_does_not_suit_is_reported_and_the_rest_goes_on(
    model: Path, listed: Path, tmp_path: Path, call: Call
) -> None:
    names = ["a.tif", "one.tif", "pixels.tif", "text.tif", "missing.tif"]
    items = [{"type": "Feature", "id": name[:-4], "assets": {"visual": {"href": name}}} for name in names]
    items.append({"type": "Feature", "id": "bare", "assets": {}})
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    done = call("predict", f"model={model}", "images=items.json", WORDS, *ALL, "bands=[1,2,3]")
    assert done.code == 1, done.err
    first, *failed = done.err.splitlines()
    assert first == "5 scenes could not be done:" and [line.split(":")[0] for line in failed] == [
        "one", "pixels", "text", "missing", "item bare",
    ]  # fmt: skip
    assert "has 1" in failed[0] and "no CRS" in failed[1] and "cannot be read" in failed[2]
    assert [path.name for path in (tmp_path / "out" / "objects").iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("images=no.parquet", "no.parquet: cannot be read as Parquet"),
        ("images=text.json", "text.json: cannot be read as JSON"),
        ("images=http://127.0.0.1:9/", "http://127.0.0.1:9/: no answer of a STAC API"),
        ("output=postgresql://me:hush@127.0.0.1:9/maps", "output postgresql://me@127.0.0.1:9/maps?table=objects: "),
        ("output=postgresql://me@host/maps?table=a-b", "table=a-b: use letters"),
        ("engine.retries=-1", "engine.retries=-1: a whole number of at least 0"),
        ("engine=slurm", "engine=slurm: no such choice"),
        ("output=list.parquet", "list.parquet"),
    ],
)
def test_bad_input_is_one_line(model: Path, listed: Path, tmp_path: Path, call: Call, change: str, line: str) -> None:
    (tmp_path / "text.json").write_text("words")
    given = dict(item.split("=", 1) for item in (f"model={model}", "images=list.parquet", WORDS, *ALL))
    given |= dict([change.split("=", 1)])
    done = call("predict", *(f"{key}={value}" for key, value in given.items()))
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and line in done.err and "hush" not in done.err
    assert not (tmp_path / "out").exists()
