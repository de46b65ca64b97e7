"""Dates as files: what they have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine

from score.app.dates import align, check_overlap, common_ground, open_dates
from score.errors import DataError
from score.geo.grid import Grid
from tests.geo import dates


def opened(*paths: Path) -> list:
    return open_dates([str(path) for path in paths], None, None)


def test_common_ground_is_what_both_show_after_the_shift(tmp_path: Path) -> None:
    """The second raster begins 100 pixels further right, has no data in its lowest 80 rows, and lies 3 pixels off."""
    pair = dates.ten_changes()
    after = dates.image(pair.after, (3, 0), season=True, seed=1)[:, 100:].clip(1)
    after[400:] = 0
    grid = dates.GRID._replace(transform=dates.GRID.transform @ Affine.translation(100, 0))
    first = dates.write(tmp_path / "a.tif", dates.image(pair.before))
    two = opened(first, dates.write(tmp_path / "b.tif", after, grid, nodata=0))
    [line] = align(two, 10)
    assert line.startswith("b: lies 1.") and "; peak ratio " in line
    assert two[1].shift == pytest.approx((1.5, 0), abs=0.05)
    ground = common_ground(two, None)
    assert ground is not None
    left, bottom, right, top = ground.bounds
    margin = 0.75
    assert (left, right) == pytest.approx((400050 - 1.5 + margin, 400320 - 1.5 - margin), abs=0.3)
    assert (bottom, top) == pytest.approx((5000000 - 200 + margin, 5000000 - margin), abs=0.3)
    smaller = common_ground(two, shapely.box(400100, 4999900, 400200, 4999950))
    assert smaller is not None and smaller.area == pytest.approx(5000)
    with pytest.raises(DataError, match="no ground in common"):
        common_ground(two, shapely.box(0, 0, 1, 1))


def test_rasters_of_other_places_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    far = Grid(20, 20, Affine(0.5, 0, 500000, 0, -0.5, 5000000), dates.CRS)
    two = opened(dates.write(tmp_path / "a.tif", pixels), dates.write(tmp_path / "b.tif", pixels, far))
    with pytest.raises(DataError, match=r"b\.tif: no ground in common with .*a\.tif"):
        check_overlap(two, None)


def test_titles_are_the_names_of_files_or_numbered(tmp_path: Path) -> None:
    frame = dates.frame(dates.ten_changes().before[:3])
    for name in ("a/x.gpkg", "b/x.gpkg", "y.gpkg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        frame.to_file(tmp_path / name)
    assert [date.title for date in opened(tmp_path / "a/x.gpkg", tmp_path / "y.gpkg")] == ["x", "y"]
    assert [date.title for date in opened(tmp_path / "a/x.gpkg", tmp_path / "b/x.gpkg")] == ["1 x", "2 x"]
