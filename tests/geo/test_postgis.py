"""Objects of many scenes in a PostGIS of this machine, which the tests start."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import geopandas
import pandas
import psycopg
import pytest
from geopandas.testing import assert_geodataframe_equal

from score.errors import ConfigError, OutputError
from score.geo import catalogue, engine, scenes
from score.geo.postgis import PostGIS
from score.geo.store import Folder
from tests.geo.scenes import Make, make

SETTINGS = {"weights": "squares"}
PASSWORD = "s3cret-word"


def place_table(found: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """In an order of its own."""
    found = found.assign(key=found.geometry.normalize().to_wkt(rounding_precision=7))
    found = found.sort_values(["scene", "class", "key"]).drop(columns="key").reset_index(drop=True)
    return found.set_geometry(found.geometry.normalize())


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, with PostGIS beside them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = [path.parent for path in found if list(Path("/usr/share/postgresql").glob("*/extension/postgis.control"))]
    there += [Path(path).parent for path in [shutil.which("initdb")] if path and not found]
    return there[-1] if there else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """``127.0.0.1:PORT`` of a server with a superuser ``boss`` and a user ``guest``, both with PASSWORD."""
    if (programs := binaries()) is None:
        pytest.skip("needs PostgreSQL with PostGIS: apt-get install postgresql postgis")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # it refuses to run as root
    as_user = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="score-pg-") as name:
        place = Path(name)
        (place / "word").write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (place, place / "word"):
                shutil.chown(path, user)

        def call(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), *arguments]
            subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)

        data, options = str(place / "data"), f"-p {port} -c listen_addresses=127.0.0.1 -k {place} -c fsync=off"
        call(
            "initdb", "-D", data, "-U", "boss", "-A", "scram-sha-256", f"--pwfile={place / 'word'}", "-N", "-E", "UTF8"
        )
        call("pg_ctl", "-D", data, "-o", options, "-l", str(place / "log"), "-w", "start")
        try:
            address = f"127.0.0.1:{port}"
            with psycopg.connect(f"postgresql://boss:{PASSWORD}@{address}/postgres", autocommit=True) as connection:
                for line in (
                    f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'",
                    "CREATE DATABASE maps",
                    "CREATE DATABASE bare",
                ):
                    connection.execute(line)  # type: ignore[arg-type]
            yield address
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return f"postgresql://boss@{server}/maps"


def counted(url: str, table: str = "objects") -> list[tuple[str, int]]:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT class, count(*) FROM {table} GROUP BY class ORDER BY class").fetchall()  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_same_table_as_files_have(url: str, tmp_path: Path, scheduler: str) -> None:
    given = catalogue.files(sorted(make(tmp_path / "tif").iterdir()))
    (tmp_path / "pids").mkdir()
    # the workers' own environment knows no password
    store, work = PostGIS(url.replace("boss", f"boss:{PASSWORD}"), SETTINGS), Make(tmp_path / "pids")
    dask = functools.partial(engine.dask, address=scheduler)
    done = scenes.run(given[:30], work, store, engine=dask)
    assert done.counts == {"ship": 22, "tank": 21} and counted(url) == [("ship", 22), ("tank", 21)]
    again = scenes.run(given, work, store, engine=engine.local)
    assert again.before == 30 and again.scenes == 10 and counted(url) == [("ship", 30), ("tank", 30)]
    for scene in given[:3]:
        engine.Task(work, store)(scene)  # done once more, in place of what there is
    assert counted(url) == [("ship", 30), ("tank", 30)]

    files = Folder(tmp_path / "out", SETTINGS)
    scenes.run(given, work, files, engine=engine.local)
    kept = geopandas.GeoDataFrame(
        pandas.concat(geopandas.read_parquet(path) for path in (tmp_path / "out" / "objects").glob("*.parquet"))
    )
    with psycopg.connect(url) as connection:
        cursor = connection.execute("SELECT *, ST_AsBinary(geometry) AS wkb FROM objects")
        rows = [dict(zip([item.name for item in cursor.description or ()], row, strict=True)) for row in cursor]
        assert connection.execute(
            "SELECT count(*) FROM objects WHERE geometry && ST_MakeEnvelope(9,48,20,50,4326)"
        ).fetchone() == (60,)
        indices = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'objects'").fetchall()
        assert any("gist (geometry)" in line for (line,) in indices)
        ledger = connection.execute("SELECT state, count(*) FROM objects_ledger GROUP BY state").fetchall()
        assert ledger == [("done", 40)]
    frame = pandas.DataFrame(rows)
    shapes = geopandas.GeoSeries.from_wkb(frame.pop("wkb").map(bytes), crs="OGC:CRS84")
    there = place_table(
        geopandas.GeoDataFrame(frame.drop(columns="geometry"), geometry=shapes.explode(ignore_index=True))
    )
    assert_geodataframe_equal(there, place_table(kept)[there.columns], check_dtype=False)


def test_other_settings_are_refused_and_replaced(url: str, tmp_path: Path) -> None:
    given = catalogue.files(sorted(make(tmp_path / "tif", 3).iterdir()))
    store = f"{url}?table=public.mine"
    (tmp_path / "bad.tif").write_text("")
    bad = catalogue.Scene("bad", str(tmp_path / "bad.tif"))
    done = scenes.run([*given, bad], Make(tmp_path), PostGIS(store, SETTINGS), engine=engine.local)
    assert len(done.failed) == 1 and counted(url, "mine") == [("ship", 2), ("tank", 1)]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT scene, reason FROM mine_ledger WHERE state = 'failed'").fetchall() == [
            ("bad", f"{tmp_path}/bad.tif: cannot be read")
        ]
    with pytest.raises(OutputError, match=r"\?table=public.mine holds results with another weights; set overwrite"):
        PostGIS(store, {"weights": "other"}).begin(False)
    assert PostGIS(store, {"weights": "other"}).begin(True) == {} and counted(url, "mine") == []


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("postgresql://boss:wrong-{word}@{server}/maps", "password authentication failed"),
        ("postgresql://boss:{word}@{server}/nowhere", 'database "nowhere" does not exist'),
        ("postgresql://nobody:{word}@{server}/maps", "password authentication failed"),
        ("postgresql://guest:{word}@{server}/bare", "have the database's owner run CREATE EXTENSION postgis"),
        ("postgresql://guest:{word}@{server}/maps?table=new", "permission denied for schema public; have the"),
        ("postgresql://guest:{word}@{server}/maps", "permission denied for table objects_ledger; have the"),
        ("postgresql://boss:{word}@{server}/maps?table=odd", "ledger"),
        ("postgresql://boss:{word}@{server}/maps?tabel=odd", "tabel"),
        ("postgresql://boss:{word}@127.0.0.1:9/maps", "Connection refused"),
        ("postgresql://boss@{server}/maps?password=x{word}", "password authentication failed"),
    ],
)
def test_what_the_server_refuses_is_one_line_without_the_password(
    server: str, url: str, tmp_path: Path, address: str, line: str
) -> None:
    PostGIS(url, SETTINGS).begin(False)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS odd (a integer)")
    store = PostGIS(address.format(server=server, word=PASSWORD), SETTINGS)
    with pytest.raises(OutputError) as caught:
        store.begin(False)
    said = str(caught.value)
    assert line in said and "\n" not in said and said.startswith("output postgresql://") and said.count("; ") >= 1
    assert PASSWORD not in said and PASSWORD not in repr(store) + str(store) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "bad", ["postgresql://me:a@b@host/db", "postgresql://host/db?table=x;drop", "postgresql://h/d?table=1a"]
)
def test_addresses_that_are_none(bad: str) -> None:
    with pytest.raises(ConfigError, match="output: "):
        PostGIS(bad, SETTINGS)
