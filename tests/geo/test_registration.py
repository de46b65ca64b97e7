"""Images of two dates: how far one lies off the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from score.errors import DataError
from score.geo.grid import Grid
from score.geo.raster import Raster
from score.geo.registration import common_grid, covered, footprint, onto, reading, register, shift
from tests.geo import dates


@pytest.fixture(scope="module")
def before() -> NDArray[Any]:
    return dates.image(dates.ten_changes().before)


def later(moved: tuple[float, float], **drawn: Any) -> NDArray[Any]:
    return dates.image(dates.ten_changes().after, moved, season=True, seed=3, **drawn)


@pytest.mark.parametrize("moved", [(0, 0), (3, 0), (-2.25, 1.5), (0.375, -2.75)])
def test_the_shift_is_right_within_a_tenth_of_a_pixel_in_another_season(
    before: NDArray[Any], moved: tuple[float, float]
) -> None:
    found = shift(before, later(moved))
    assert (found.x, found.y) == pytest.approx(moved, abs=0.1)


def test_a_pattern_that_does_not_move_does_not_pull(before: NDArray[Any]) -> None:
    """The same noise at both dates, as of a sensor, or of the blocks of a JPEG."""
    found = shift(before, dates.image(dates.ten_changes().after, (3, -2)))
    assert (found.x, found.y) == pytest.approx((3, -2), abs=0.1)


def test_missing_data_of_either_date_does_not_pull(before: NDArray[Any]) -> None:
    after, inside = later((3, -2)), np.ones(before.shape[:2], bool)
    inside[:, :150] = inside[300:, 400:] = False
    first, second = before.copy(), after.copy()
    first[~inside] = second[~inside] = 0
    found = shift(first, second, inside)
    assert (found.x, found.y) == pytest.approx((3, -2), abs=0.1)


def test_other_ground_is_refused(before: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="times as well as the next, 2 is needed; align=crs"):
        shift(before, np.ascontiguousarray(before[::-1, ::-1]))


def test_a_shift_beyond_the_limit_is_refused(before: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="shifted by 40, 0 pixels, more than the 32.0 allowed"):
        shift(before, later((40, 0)))


def test_an_empty_image_is_refused(before: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="align=crs"):
        shift(before, np.zeros_like(before))
    with pytest.raises(DataError, match="too little common ground"):
        shift(before, before, np.zeros(before.shape[:2], bool))


def test_another_crs_resolution_and_missing_data_are_brought_onto_the_first(
    before: NDArray[Any], tmp_path: Path
) -> None:
    """The second date in degrees, coarser, turned by the projection, with a border of no data, and 1.5 m off."""
    lon, lat = Transformer.from_crs(dates.CRS, "EPSG:4326", always_xy=True).transform(400000 - 30, 5000000 + 30)
    degrees = Grid(560, 520, Affine(0.65 / 78500, 0, lon, 0, -0.65 / 111100, lat), "EPSG:4326")
    ahead = dates.GRID._replace(transform=dates.GRID.transform @ Affine.translation(3, 0))
    after, there = onto(later((0, 0)), np.ones(before.shape[:2], bool), ahead, degrees)
    assert not there.all()
    first = Raster(dates.write(tmp_path / "before.tif", before))
    second = Raster(dates.write(tmp_path / "after.tif", after, degrees, nodata=0))
    grid = common_grid(first.grid, second.grid)
    assert grid.crs == first.grid.crs and grid.gsd[0] == pytest.approx(0.65, abs=0.02)
    found = register(reading(first), reading(second), grid, limit=16)
    assert found.ground(grid) == pytest.approx((1.5, 0), abs=0.06)


def test_a_raster_is_read_on_any_grid(before: NDArray[Any], tmp_path: Path) -> None:
    read = reading(Raster(dates.write(tmp_path / "before.tif", before)))
    pixels, inside = read(dates.GRID)
    assert inside.all() and (pixels == before).all()
    half, _ = read(dates.GRID.scaled(320, 240))
    blocks = before.reshape(240, 2, 320, 2, 3).mean((1, 3))
    assert np.abs(half - blocks).max() <= 1
    beside = dates.GRID._replace(transform=dates.GRID.transform @ Affine.translation(600, -20))
    pixels, inside = read(beside)
    assert inside[20:, :40].all() and not inside[:20].any() and not inside[:, 41:].any()
    assert (pixels[20:, :40] == before[:460, 600:]).all()
    far, nowhere = read(dates.GRID._replace(transform=Affine.translation(1e6, 0) @ dates.GRID.transform))
    assert not far.any() and not nowhere.any()


@pytest.mark.slow
def test_rasters_larger_than_what_is_compared_at_once_are_as_exact(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (130, 490, 1)).repeat(3, 2).astype(np.uint8)
    fine = pixels.repeat(4, 0).repeat(4, 1)
    first, second = fine[:480, :1900], fine[3:483, 8:1908]
    grid = Grid(1900, 480)
    rasters = [Raster(dates.write(tmp_path / f"{i}.tif", each, grid)) for i, each in enumerate((first, second))]
    found = register(reading(rasters[0]), reading(rasters[1]), grid)
    assert (found.x, found.y) == pytest.approx((-8, -3), abs=0.1)


def test_the_common_grid_is_the_first_ones_pixels() -> None:
    first = Grid(100, 80, Affine(1, 0, 500, 0, -1, 900))
    second = Grid(100, 80, Affine(1, 0, 540.5, 0, -1, 880))
    assert common_grid(first, second) == Grid(60, 60, Affine(1, 0, 540, 0, -1, 880))
    assert common_grid(second, first).transform.c == 540.5
    with pytest.raises(DataError, match="no ground in common"):
        common_grid(first, second._replace(transform=Affine(1, 0, 5000, 0, -1, 900)))
    with pytest.raises(DataError, match="the other has none"):
        common_grid(first, dates.GRID)


def test_covered_ground_is_what_has_data() -> None:
    inside = np.zeros((80, 100), bool)
    inside[10:50, 20:40] = True
    grid = Grid(100, 80, Affine(2, 0, 0, 0, -2, 0), dates.CRS)
    assert covered(inside, grid).bounds == (40, -100, 80, -20)
    assert footprint(grid, dates.CRS).bounds == (0, -160, 200, 0)
