"""Sizes on the ground."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from score.geo.grid import Grid


def wkt(code: int) -> str:
    return CRS.from_epsg(code).to_wkt()


@pytest.mark.parametrize(
    ("code", "transform", "expected"),
    [
        (32632, Affine(0.5, 0, 600_000, 0, -0.25, 5_400_000), (0.5, 0.25)),
        (32632, Affine(0.3, 0.4, 600_000, 0.4, -0.3, 5_400_000), (0.5, 0.5)),  # turned
        (2263, Affine(1, 0, 980_000, 0, -1, 200_000), (0.3048006, 0.3048006)),  # US survey feet
        (4326, Affine(1e-5, 0, 10, 0, -1e-5, 60), (0.5580, 1.1141)),  # at 60 degrees north a degree of longitude halves
        (4326, Affine(1e-5, 0, 10, 0, -1e-5, 0), (1.1132, 1.1057)),
        (2154, Affine(2, 0, 700_000, 0, -2, 6_600_000), (2, 2)),
    ],
)
def test_a_pixel_has_its_size_in_metres(code: int, transform: Affine, expected: tuple[float, float]) -> None:
    assert Grid(100, 100, transform, wkt(code)).gsd == pytest.approx(expected, rel=1e-3)


def test_without_a_crs_it_is_a_pixel() -> None:
    assert Grid(10, 10).gsd == (1, 1)


def test_places_go_there_and_back() -> None:
    grid = Grid(100, 80, Affine(0.3, 0.4, 600_000, 0.4, -0.3, 5_400_000), wkt(32632))
    places = np.array([[0, 0], [100, 80], [12.5, 3.25]])
    ground = grid.ground(places)
    assert ground[0] == pytest.approx([600_000, 5_400_000])
    assert ground[2] == pytest.approx([600_000 + 0.3 * 12.5 + 0.4 * 3.25, 5_400_000 + 0.4 * 12.5 - 0.3 * 3.25])
    assert grid.pixels(ground) == pytest.approx(places)
    half = grid.scaled(50, 40)
    assert half.ground([[50, 40]]) == pytest.approx(grid.ground([[100, 80]]))
    assert half.gsd == pytest.approx((1, 1))
