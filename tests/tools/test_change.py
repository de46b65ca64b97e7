"""``score change``: dates in, vectors and a picture out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from affine import Affine
from PIL import Image
from pyproj import CRS

from score.geo import vectors
from tests.geo import dates
from tests.geo.test_change import MOVED, inside, objects
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects of three dates, the second unchanged, the last one in degrees; what they have in common."""
    folder, pair = tmp_path_factory.mktemp("dates"), dates.ten_changes()
    vectors.write(dates.frame(pair.before), folder / "2019.gpkg")  # with a table of styles, as score predict writes it
    vectors.write(dates.frame(pair.before, (-3, 0)), folder / "2021.parquet")
    dates.frame(pair.after, MOVED).to_crs("EPSG:4326").to_file(folder / "2023.gpkg")
    gpd.GeoDataFrame(geometry=[inside()], crs=dates.CRS).to_file(folder / "area.gpkg")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """The working folder."""
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


PAIR = ("before=2019.gpkg", "after=2023.gpkg", "output=out")


@pytest.mark.filterwarnings("error:More than one layer")
def test_files_of_objects_are_aligned_and_compared(place: Path, call: Call) -> None:
    done = call("change", *PAIR, "area=area.gpkg")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == "saved in out: changes.gpkg, changes.jpg"
    assert lines[0].startswith("2023: lies 1.") and lines[1].split() == ["class", *dates.ten_changes().truth]
    assert lines[4].split() == ["in", "all", *map(str, dates.ten_changes().truth.values())]
    assert lines[5] == "12 outlines that the edge of the common ground cuts were not judged"
    table = gpd.read_file(place / "out" / "changes.gpkg", layer="changes")
    assert table.crs == dates.CRS and dict(Counter(table["status"])) == dates.ten_changes().truth
    assert table["moved_m"].max() < 0.2
    style = (place / "out" / "changes.qml").read_text()
    assert 'attr="status"' in style and style.count("<category ") == 5
    picture = np.asarray(Image.open(place / "out" / "changes.jpg")).astype(int)
    right, left = picture[:, picture.shape[1] // 2 :], picture[:, : picture.shape[1] // 2]
    for half, there, not_there in ((left, (230, 80, 30), (0, 190, 140)), (right, (0, 190, 140), (230, 80, 30))):
        above = half[: -picture.shape[0] // 10]  # the legend has both
        assert (np.abs(above - there).max(-1) < 40).any() and not (np.abs(above - not_there).max(-1) < 40).any()


def test_coordinates_alone_are_trusted_when_asked(place: Path, call: Call) -> None:
    done = call("change", *PAIR, "area=area.gpkg", "align=crs", "picture=null", "format=geojson", "vocabulary=ship")
    assert done.code == 0 and "lies" not in done.out and "building" not in done.out
    table = gpd.read_file(place / "out" / "changes.geojson")
    assert table["moved_m"].median() == pytest.approx(1.5, abs=0.1)
    assert table.crs == "EPSG:4326" and files(place / "out") == ["changes.geojson", "changes.qml"]


def test_a_date_without_objects_in_any_format(place: Path, call: Call) -> None:
    none = gpd.read_file(place / "2019.gpkg", layer="objects")[:0]
    for suffix in ("gpkg", "geojson", "shp"):
        none.to_file(place / f"none.{suffix}")
        done = call(
            "change", f"after=none.{suffix}", "before=2019.gpkg", "align=crs", f"output={suffix}", "picture=null"
        )
        assert done.code == 0, done.err
        assert set(gpd.read_file(place / suffix / "changes.gpkg", layer="changes")["status"]) == {"vanished"}


def test_a_series_gives_tracks(place: Path, call: Call) -> None:
    series = "images=[2019.gpkg,2021.parquet,2023.gpkg]"
    done = call("change", series, "dates=[2019-05-01,2021-05-03,2023-06-01]", "area=area.gpkg", "output=out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].split() == ["2019-05-01", "45", "0", "0", "0", "0", "45"]
    assert lines[5].split() == ["2023-06-01", "45", "3", "3", "2", "2", "38"]
    assert lines[6] == "tracks: 24 building, 24 ship"
    table = gpd.read_file(place / "out" / "tracks.gpkg", layer="tracks")
    assert table["track"].nunique() == 48 and set(table["seen"]) == {1, 2, 3}
    with Image.open(place / "out" / "tracks.jpg") as picture:
        assert picture.width > 2 * picture.height


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "model", ["ship", "house"], "input.test.shortest=64", seed=2)


RASTERS = ("before=a.tif", "after=b.tif", "output=out", "runtime.threads=1", "runtime.device=cpu", "score=0.01")


def test_the_same_pixels_three_off_on_the_ground_are_the_same_objects(place: Path, model: Path, call: Call) -> None:
    """Nothing has changed but the coordinates; whatever the model takes for objects must be found again."""
    pixels = dates.image(dates.things())[:192, :320]
    off = dates.GRID._replace(transform=dates.GRID.transform @ Affine.translation(2, 1))
    dates.write(place / "a.tif", pixels)
    dates.write(place / "b.tif", pixels, off)
    done = call("change", *RASTERS, f"model={model}", "vocabulary=[ship,house]", "picture=png", "tile=64")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("a: ") and lines[1].replace("b:", "a:") == lines[0]
    assert lines[2].startswith("b: lies 1.1") and "(+2.00 and +1.00 pixels) off" in lines[2]
    table = gpd.read_file(place / "out" / "changes.gpkg", layer="changes")
    assert len(table) and set(table["status"]) == {"same"}
    assert table["iou"].min() > 0.95 and table["moved_m"].max() < 0.25  # simplified by up to a pixel
    with Image.open(place / "out" / "changes.png") as picture:
        assert picture.width > 2 * picture.height


def test_images_need_words(place: Path, call: Call) -> None:
    for name in ("a", "b"):
        dates.write(place / f"{name}.tif", dates.image(dates.things())[:64, :64])
    done = call("change", *RASTERS)
    assert done.code == 2 and done.err.startswith("error: vocabulary: not given; add what to look for")


def test_what_is_there_is_not_replaced_unasked(place: Path, call: Call) -> None:
    assert call("change", *PAIR, "picture=null").code == 0
    again = call("change", *PAIR)
    assert again.code == 2
    assert again.err == "error: out holds changes.gpkg; set overwrite=true, or choose another output\n"
    assert call("change", *PAIR, "overwrite=true").code == 0


def damaged(place: Path) -> None:
    (place / "2023.gpkg").write_bytes(b"no vectors")


def table_only(place: Path) -> None:
    (place / "2023.gpkg").unlink()
    pyogrio.write_dataframe(pd.DataFrame({"class": ["ship"]}), place / "2023.gpkg")


def far_away(place: Path) -> None:
    frame = objects(("ship", 90000, 0, 10, 10))
    frame.to_file(place / "2023.gpkg")


def unlike(place: Path) -> None:
    frame = gpd.read_file(place / "2019.gpkg", layer="objects")
    frame.geometry = frame.geometry.scale(-1, -1, origin=(400160, 4999880))
    frame.to_file(place / "2023.gpkg")


def no_crs(place: Path) -> None:
    frame = gpd.read_file(place / "2019.gpkg", layer="objects").set_crs(None, allow_override=True)
    (place / "2023.gpkg").unlink()
    frame.to_file(place / "2023.gpkg")


def plane(place: Path) -> None:
    """A site's own coordinates."""
    for year in (2019, 2023):
        frame = gpd.read_file(place / "2019.gpkg", layer="objects")
        site = CRS('LOCAL_CS["site",UNIT["metre",1]]')
        frame.set_crs(site, allow_override=True).to_parquet(place / f"{year}.parquet")
        grid = dates.GRID._replace(crs=site.to_wkt())
        dates.write(place / f"{year}.tif", dates.image(dates.things())[:64, :64], grid)


def no_class(place: Path) -> None:
    gpd.read_file(place / "2019.gpkg", layer="objects").drop(columns="class").to_file(place / "2023.gpkg")


def points(place: Path) -> None:
    frame = gpd.read_file(place / "2019.gpkg", layer="objects")
    frame.geometry = frame.geometry.centroid
    frame.to_file(place / "2023.gpkg")


def nothing(place: Path) -> None:
    """All is well."""


CASES = {
    "nothing given": (nothing, ("output=out",), ["before, after: not given", "images=["]),
    "one of two": (nothing, ("before=2019.gpkg", "output=out"), ["after: not given; add after=VALUE"]),
    "both ways": (nothing, (*PAIR, "images=[a.tif,b.tif]"), ["images: given with before or after"]),
    "a series of one": (nothing, ("images=[2019.gpkg]", "output=out"), ["name two dates"]),
    "a missing file": (nothing, (*PAIR, "after=gone.gpkg"), ["gone.gpkg: no such file"]),
    "a missing raster": (nothing, (*PAIR, "after=gone.tif"), ["gone.tif: no such raster"]),
    "a file without shapes": (table_only, PAIR, ["2023.gpkg: has no geometries with a column 'class'"]),
    "a damaged file": (damaged, PAIR, ["2023.gpkg: cannot be read as a vector file"]),
    "no class": (no_class, PAIR, ["2023.gpkg", "a column 'class'"]),
    "points": (points, (*PAIR, "align=crs"), ["no polygons"]),
    "another place": (far_away, PAIR, ["2023.gpkg: no ground in common with 2019.gpkg"]),
    "other objects": (unlike, PAIR, ["2023.gpkg: ", "cannot be aligned", "align=crs"]),
    "a shift too far": (
        nothing,
        (*PAIR, "max_shift=0.5"),
        ["2023.gpkg: ", "more than the 0.5 allowed; raise max_shift"],
    ),
    "one without CRS": (no_crs, PAIR, ["2023.gpkg: has no coordinate reference system"]),
    "a plane": (plane, ("before=2019.parquet", "after=2023.parquet", "output=out"), ["no way leads between", "'site'"]),
    "images of a plane": (
        plane,
        ("before=2019.tif", "after=2023.tif", "vocabulary=ship", "output=out"),
        ["no way leads between"],
    ),
    "a format": (nothing, (*PAIR, "format=dwg"), ["format=dwg: no such choice; use gpkg"]),
    "a way to align": (nothing, (*PAIR, "align=hand"), ["align=hand: no such choice; use phase, crs"]),
    "a number": (nothing, (*PAIR, "grow=0.5"), ["grow=0.5: not a number of at least 1"]),
    "too few dates": (nothing, (*PAIR, "dates=[2019]"), ["dates=['2019']: 2 different ones"]),
    "dates in disorder": (nothing, (*PAIR, "dates=[2023-01-01,2019-01-01]"), ["not in order"]),
    "an output": (nothing, (*PAIR, "output=2019.gpkg/out"), ["2019.gpkg/out"]),
    "an area of words": (nothing, (*PAIR, "area=[a,b,c,d]"), ["area=['a', 'b', 'c', 'd']: give WEST"]),
    "an area elsewhere": (nothing, (*PAIR, "area=[1,1,2,2]"), ["no ground in common"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, place: Path, call: Call) -> None:
    prepare: Callable[[Path], None]
    prepare, settings, expected = CASES[case]
    prepare(place)
    before, last = files(place), {word.split("=")[0]: word for word in settings}
    outcome = call("change", *last.values())
    assert outcome.code == 2, outcome
    [line] = outcome.err.splitlines()
    assert line.startswith("error: ") and outcome.out == ""
    for words in expected:
        assert words in line
    assert files(place) == before
