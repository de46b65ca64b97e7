"""Many scenes, each once: in one process, on workers, killed, interrupted, damaged."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import geopandas
import pandas
import pytest
from geopandas.testing import assert_geodataframe_equal

from score.errors import ConfigError, DataError, OutputError, WeightsError
from score.geo import catalogue, engine, scenes
from score.geo.catalogue import Scene
from score.geo.store import LEDGER, Folder
from tests.geo.scenes import Make, make
from tests.geo.test_postgis import place_table

SETTINGS = {"weights": "squares", "vocabulary": ["ship", "tank"]}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    """40 scenes: 30 with objects, 60 objects in all, of which 30 are ships."""
    return catalogue.files(sorted(make(tmp_path_factory.mktemp("scenes") / "tif").iterdir()))


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    (tmp_path / "pids").mkdir()
    return tmp_path / "pids"


def table(folder: Path) -> geopandas.GeoDataFrame:
    parts = [geopandas.read_parquet(path) for path in sorted((folder / "objects").glob("*.parquet"))]
    return place_table(pandas.concat(parts))


def counted(folder: Path) -> list[tuple[str, int]]:
    glob = folder / "objects" / "*.parquet"
    return duckdb.sql(f"SELECT class, count(*) FROM '{glob}' GROUP BY class ORDER BY class").fetchall()


def ledger(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LEDGER).read_text().splitlines()[1:]]


def test_one_process_and_a_second_call(given: list[Scene], pids: Path, tmp_path: Path) -> None:
    store, said = Folder(tmp_path / "out", SETTINGS), []
    done = scenes.run(given[:8], Make(pids), store, engine=engine.local, say=said.append)
    assert done.counts == {"ship": 6, "tank": 6} and done.scenes == 8 and not done.failed
    assert said[3].startswith("4 of 8: s03.tif: 1 ship, 2 tank, ") and said[3].endswith(" left")
    assert said[4].startswith("5 of 8: s04.tif: nothing, ")  # a scene without objects is done too
    assert counted(tmp_path / "out") == [("ship", 6), ("tank", 6)]
    found = table(tmp_path / "out")
    assert set(found["scene"]) == {f"s0{n}.tif" for n in (1, 2, 3, 5, 6, 7)} and found.crs == "OGC:CRS84"
    assert found.area_m2.eq(25).all() and found.total_bounds.round().tolist() == [10, 49, 16, 49]
    assert "bbox" in duckdb.sql(f"SELECT * FROM '{tmp_path / 'out' / 'objects' / 's01.tif.parquet'}'").columns

    again = scenes.run(given[:9], Make(pids), store, engine=engine.local)
    assert (again.scenes, again.before, again.counts) == (1, 8, done.counts)
    other = Folder(tmp_path / "out", SETTINGS | {"vocabulary": ["quay"]})
    with pytest.raises(OutputError, match="holds results with another vocabulary; set overwrite=true"):
        scenes.run(given[:3], Make(pids), other, engine=engine.local)
    fresh = scenes.run(given[:3], Make(pids), other, engine=engine.local, overwrite=True)
    assert fresh.before == 0 and counted(tmp_path / "out") == [("ship", 2), ("tank", 1)]


@pytest.mark.slow
def test_a_worker_that_is_killed(given: list[Scene], pids: Path, tmp_path: Path, scheduler: str) -> None:
    scenes.run(given, Make(pids), Folder(tmp_path / "one", SETTINGS), engine=engine.local)
    for path in pids.iterdir():
        path.unlink()
    killed: list[int] = []

    def kill(line: str) -> None:
        if line.startswith("10 of 40"):
            killed.append(int(sorted(pids.iterdir())[0].name))
            os.kill(killed[0], signal.SIGKILL)

    dask = functools.partial(engine.dask, address=scheduler, retries=1)
    store = Folder(tmp_path / "two", SETTINGS)
    done = scenes.run(given, Make(pids, seconds=0.05), store, engine=dask, say=kill)
    assert killed and done.scenes == 40 and not done.failed and done.counts == {"ship": 30, "tank": 30}
    assert len(list(pids.iterdir())) >= 2  # the work was made once by each process, not for each scene
    assert sorted(line["scene"] for line in ledger(tmp_path / "two")) == [scene.id for scene in given]  # each once
    assert_geodataframe_equal(table(tmp_path / "one"), table(tmp_path / "two"))
    assert counted(tmp_path / "two") == [("ship", 30), ("tank", 30)]


@pytest.mark.slow
def test_a_scene_that_kills_its_workers_is_given_up(
    given: list[Scene], pids: Path, tmp_path: Path, scheduler: str
) -> None:
    dask = functools.partial(engine.dask, address=scheduler, retries=1)
    store = Folder(tmp_path / "out", SETTINGS)
    done = scenes.run(given[:5], Make(pids, deadly="s01.tif"), store, engine=dask)
    assert done.failed == ["s01.tif: its worker died 2 times; memory may not suffice"] and done.scenes == 4
    assert [line["scene"] for line in ledger(tmp_path / "out") if line["state"] == "failed"] == ["s01.tif"]
    healed = scenes.run(given[:5], Make(pids), store, engine=engine.local)
    assert (healed.scenes, healed.before, healed.failed) == (1, 4, [])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_goes_on(given: list[Scene], pids: Path, tmp_path: Path, stop: signal.Signals) -> None:
    code = f"""
import signal
from pathlib import Path
from score.geo import catalogue, engine, scenes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from score.geo.store import Folder
from tests.geo.scenes import Make
given = catalogue.files(sorted(Path({str(Path(given[0].href).parent)!r}).iterdir()))
scenes.run(given, Make(Path({str(pids)!r}), seconds=0.4), Folder(Path('out'), {SETTINGS}), engine=engine.local)
"""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=here, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not (tmp_path / "out" / LEDGER).exists() or len(ledger(tmp_path / "out")) < 5):
        time.sleep(0.02)
    process.send_signal(stop)
    assert process.wait() != 0
    with (tmp_path / "out" / LEDGER).open("a") as file:
        file.write('{"scene": "s39.tif", "hre')  # a line that was cut off
    (tmp_path / "out" / "objects" / ".s39.tif.parquet.1").write_text("half a file")
    done = scenes.run(given, Make(pids), Folder(tmp_path / "out", SETTINGS), engine=engine.local)
    assert done.before >= 5 and done.before + done.scenes == 40
    assert counted(tmp_path / "out") == [("ship", 30), ("tank", 30)]
    assert all(not path.name.startswith(".") for path in (tmp_path / "out" / "objects").iterdir())


def test_damaged_scenes_are_reported_and_the_others_go_on(given: list[Scene], pids: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_text("no raster")
    bad, store = Scene("bad", str(tmp_path / "bad.tif")), Folder(tmp_path / "out", SETTINGS)
    done = scenes.run([bad, given[1]], Make(pids), store, engine=engine.local)
    assert done.failed == [f"bad: {tmp_path}/bad.tif: cannot be read"] and done.counts == {"ship": 1}
    with pytest.raises(DataError, match="cannot be read"):
        scenes.run([bad], Make(pids), Folder(tmp_path / "none", SETTINGS), engine=engine.local)


def no_model() -> engine.Work:
    raise WeightsError("weights.safetensors: missing")


def test_what_no_scene_can_help_stops_all(given: list[Scene], pids: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "objects").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*objects"):
        scenes.run(given[1:3], Make(pids), Folder(tmp_path / "out", SETTINGS), engine=engine.local)
    with pytest.raises(WeightsError, match="missing"):
        scenes.run(given[:2], no_model, Folder(tmp_path / "two", SETTINGS), engine=engine.local)
    with pytest.raises(ConfigError, match="engine.address=tcp://127.0.0.1:9: no dask scheduler answers there"):
        dask = functools.partial(engine.dask, address="tcp://127.0.0.1:9", timeout=1)
        scenes.run(given[:2], Make(pids), Folder(tmp_path / "three", SETTINGS), engine=dask)


def test_files_of_ids_that_are_no_names(tmp_path: Path) -> None:
    store = Folder(tmp_path, SETTINGS)
    names = [store.file(Scene(name, "")).name for name in ("../a", "a/b", "a b", ".a", "a", "ä" * 300)]
    assert len(set(names)) == 6 and all("/" not in name and not name.startswith(".") for name in names)
    assert names[4] == "a.parquet" and all(len(name) < 130 for name in names)
