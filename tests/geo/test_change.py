"""Objects of two dates and of more: which are the same, and what became of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from score.errors import DataError
from score.geo.change import changes, tracks
from score.geo.grid import Grid
from score.geo.matching import Rules
from score.geo.registration import footprint, shift
from tests.geo import dates

MOVED = 2.4, -1.8  # three pixels


def objects(*items: tuple[Any, ...], crs: str | None = dates.CRS) -> gpd.GeoDataFrame:
    """Boxes ``(class, x, y, width, height[, score])`` in metres near 400000, 5000000."""
    rows = [{
        "class": kind, "score": rest[0] if rest else 0.9, "least": 0.5,
        "geometry": shapely.box(400000 + x, 5000000 + y, 400000 + x + w, 5000000 + y + h),
    } for kind, x, y, w, h, *rest in items]  # fmt: skip
    return gpd.GeoDataFrame(rows, columns=["class", "score", "least", "geometry"], geometry="geometry", crs=crs)


def statuses(before: gpd.GeoDataFrame, after: gpd.GeoDataFrame, **settings: Any) -> dict[str, int]:
    return dict(Counter(changes(before, after, rules=Rules(**settings)).table["status"]))


def inside(grid: Grid = dates.GRID) -> BaseGeometry:
    """The image less the strip that lies beyond it at the other date."""
    return footprint(grid, grid.crs).buffer(-2)


def test_ten_known_changes_under_three_pixels_of_shift_are_found_and_no_other() -> None:
    pair = dates.ten_changes()
    pixels = dates.image(pair.before), dates.image(pair.after, MOVED, season=True, seed=3)
    before, after = dates.frame(pair.before), dates.frame(pair.after, MOVED)
    found = changes(before, after, shift=shift(*pixels).ground(dates.GRID), area=inside())
    table = found.table
    assert dict(Counter(table["status"])) == pair.truth
    assert found.edge == 12
    known = Counter((item.kind, item.shape.wkt) for item in pair.before) - Counter(
        (item.kind, item.shape.wkt) for item in pair.after
    )
    gone = table[table["status"].isin(["vanished", "grown", "shrunk"])]
    places = shapely.STRtree([shapely.from_wkt(text) for _, text in known])
    centres = dates.GRID.pixels(shapely.get_coordinates(gone.geometry.centroid.array))
    assert sorted(places.query(shapely.points(centres), predicate="intersects")[1].tolist()) == list(range(7))
    assert table["moved_m"].max() < 0.12  # of pixels of 0.5 m: the objects lie on one another
    assert table.loc[table["status"] == "same", "iou"].min() > 0.85
    grown = table[table["status"] == "grown"]
    assert grown["ratio"].tolist() == pytest.approx([1.6, 1.6], rel=0.05)
    unaligned = changes(before, after, area=inside()).table
    assert unaligned["moved_m"].median() == pytest.approx(1.5, abs=0.1)


def test_the_second_date_may_be_in_another_crs() -> None:
    pair = dates.ten_changes()
    before, after = dates.frame(pair.before), dates.frame(pair.after, MOVED)
    offset = MOVED[0] * 0.5, -MOVED[1] * 0.5
    here = changes(before, after, shift=offset, area=inside()).table
    there = changes(before, after.to_crs("EPSG:4326"), shift=offset, area=inside()).table
    assert there.crs == before.crs and there["status"].tolist() == here["status"].tolist()
    for column in ("area_after_m2", "iou", "confidence"):
        np.testing.assert_allclose(there[column], here[column], rtol=1e-4)


def test_areas_are_those_on_the_ground_whatever_the_crs() -> None:
    square = objects(("pool", 0, 0, 20, 20))
    for crs in ("EPSG:4326", "EPSG:3857", dates.CRS):
        table = changes(square.to_crs(crs), square).table
        assert table["area_before_m2"].tolist() == pytest.approx([400], rel=2e-3)  # UTM itself is off by 0.0008
        assert table["status"].tolist() == ["same"]


def test_status_follows_the_ratio_of_areas() -> None:
    before = objects(*(("house", 50 * i, 0, 10, 10) for i in range(4)))
    after = objects(*(("house", 50 * i, 0, 10, height) for i, height in enumerate((12, 13, 8.1, 7.9))))
    table = changes(before, after).table
    assert table["status"].tolist() == ["same", "grown", "same", "shrunk"]
    assert table["iou"].tolist() == pytest.approx([100 / 120, 100 / 130, 0.81, 0.79], abs=2e-3)
    assert table["confidence"].tolist() == pytest.approx([0.75, 0.9, 0.9 * 0.81, 0.9], abs=2e-3)
    assert statuses(before, after, grow=1.5) == {"same": 4}


def test_what_has_grown_many_times_is_the_same_object() -> None:
    assert statuses(objects(("house", 0, 0, 10, 10)), objects(("house", -20, 0, 50, 30))) == {"grown": 1}


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        ((0, 6), (5, 9), [[0, 0], [1, 1]]),  # the best pair alone, 1 and 0, would leave two without a counterpart
        ((0, 4), (4.5, 0.5), [[0, 1], [1, 0]]),  # all four pairs could match
    ],
)
def test_pairs_are_one_to_one_with_the_largest_sum(
    before: tuple[float, ...], after: tuple[float, ...], pairs: list[list[int]]
) -> None:
    frames = [objects(*(("car", x, 0, 10, 5) for x in places)) for places in (before, after)]
    table = changes(frames[0], frames[1], rules=Rules(displacement=0)).table
    assert table[["before_id", "after_id"]].to_numpy().tolist() == pairs
    shared = [10 - abs(before[b] - after[a]) for b, a in pairs]
    assert table["iou"].tolist() == pytest.approx([each / (20 - each) for each in shared], abs=1e-3)


def test_small_things_may_have_moved_a_little() -> None:
    before, after = objects(("car", 0, 0, 2, 4)), objects(("car", 1.8, 0, 2, 4))
    assert statuses(before, after, displacement=0) == {"appeared": 1, "vanished": 1}
    assert statuses(before, after, displacement=1) == {"same": 1}


def test_classes_are_kept_apart_unless_asked_otherwise() -> None:
    before, after = objects(("ship", 0, 0, 10, 30)), objects(("boat", 0, 0, 10, 30))
    assert statuses(before, after) == {"appeared": 1, "vanished": 1}
    table = changes(before, after, rules=Rules(per_class=False)).table
    assert table[["class_before", "class", "status"]].to_numpy().tolist() == [["ship", "boat", "same"]]


def test_two_that_become_one_are_compared_as_a_whole_and_the_other_way_round() -> None:
    two = objects(("house", 0, 0, 10, 10), ("house", 12, 0, 10, 10))
    one = objects(("house", 0, 0, 22, 10))
    for before, after, parts in ((two, one, [2, 1]), (one, two, [1, 2])):
        table = changes(before, after).table
        assert table["status"].tolist() == ["same"]
        assert table[["parts_before", "parts_after"]].to_numpy().tolist() == [parts]
        assert table["iou"].tolist() == pytest.approx([200 / 220], abs=1e-3)
    assert statuses(two, objects(("house", 0, 0, 22, 16))) == {"grown": 1}


def test_a_counterpart_just_below_the_threshold_is_a_counterpart() -> None:
    """Thresholds are 0.5: at 0.4 it is one, at 0.1 it only makes the change less certain."""
    sure = objects(("ship", 0, 0, 10, 30, 0.9))
    table = changes(sure, objects(("ship", 0, 0, 10, 30, 0.4))).table
    assert table["status"].tolist() == ["same"] and table["confidence"].tolist() == pytest.approx([0.4])
    table = changes(objects(("ship", 0, 0, 10, 30, 0.1)), sure).table
    assert table["status"].tolist() == ["appeared"] and table["confidence"].tolist() == pytest.approx([0.9 * 0.8])
    faint = objects(("ship", 0, 0, 10, 30, 0.4))
    assert statuses(faint, faint) == {} and statuses(faint, objects()) == {}


def test_a_neighbour_that_covers_a_part_makes_a_change_less_certain() -> None:
    before = objects(("ship", 0, 0, 10, 30))
    after = objects(("ship", 0, 0, 10, 30), ("ship", 8, 0, 10, 30))
    table = changes(before, after, rules=Rules(displacement=0)).table.set_index("status")
    assert table.loc["appeared", "confidence"] == pytest.approx(0.9 * 0.8, abs=1e-3)


def test_what_the_edge_cuts_is_not_judged() -> None:
    area = shapely.box(400000, 5000000, 400100, 5000100)
    before = objects(("ship", -5, 50, 10, 10), ("ship", 50, 50, 10, 10), ("ship", 300, 0, 10, 10))
    found = changes(before, objects(("ship", 60, 95, 10, 10)), area=area)
    assert found.table["status"].tolist() == ["vanished"] and found.edge == 2


def test_no_crs_means_pixels() -> None:
    plain = Grid(640, 480, Affine.identity())
    pair = dates.ten_changes()
    found = changes(dates.frame(pair.before, grid=plain), dates.frame(pair.after, MOVED, grid=plain), shift=MOVED,
                    area=shapely.box(4, 4, 636, 476))  # fmt: skip
    assert found.table.crs is None and dict(Counter(found.table["status"])) == pair.truth
    assert found.table["moved_px"].max() < 0.3 and found.table["area_before_px"].min() > 100
    with pytest.raises(DataError, match="others have none"):
        changes(objects(("ship", 0, 0, 1, 1)), objects(("ship", 0, 0, 1, 1), crs=None))


def test_damaged_outlines_are_mended_and_others_refused() -> None:
    bow = shapely.Polygon([(400000, 5000000), (400010, 5000010), (400010, 5000000), (400000, 5000010)])
    frame = objects(("ship", 0, 0, 10, 10), ("ship", 50, 0, 10, 10))
    frame.loc[0, "geometry"] = bow
    table = changes(frame, frame).table
    assert table["status"].tolist() == ["same"] * 2 and table.geometry.is_valid.all()
    frame.loc[0, "geometry"] = shapely.Point(0, 0)
    with pytest.raises(DataError, match="no polygons"):
        changes(frame, frame)
    with pytest.raises(DataError, match="without a column 'class'"):
        changes(frame.drop(columns="class"), frame)


def test_nothing_at_either_date_is_an_empty_table() -> None:
    assert len(changes(objects(), objects()).table) == 0
    assert len(tracks([objects(), objects()], ["a", "b"]).table) == 0
    assert statuses(objects(), objects(("ship", 0, 0, 1, 1))) == {"appeared": 1}


def test_an_object_keeps_its_track_over_a_gap() -> None:
    """One is there throughout and grows; one is not seen in the middle; one comes; one goes."""
    first = objects(("house", 0, 0, 10, 10), ("house", 50, 0, 10, 10), ("house", 100, 0, 10, 10))
    second = objects(("house", 0, 0, 10, 14))
    third = objects(("house", 150, 0, 10, 10), ("house", 50, 1, 10, 10), ("house", 0, 0, 10, 15))
    table = tracks([first, second, third], ["2019", "2021", "2023"]).table
    assert table.crs == first.crs and list(zip(table["track"], table["date"], strict=True)) == [
        (1, "2019"), (2, "2019"), (3, "2019"), (1, "2021"), (1, "2023"), (2, "2023"), (4, "2023")
    ]  # fmt: skip
    assert table.loc[table["track"] == 1, "area_m2"].tolist() == pytest.approx([100, 140, 150], rel=2e-3)
    assert table.loc[table["track"] == 1, "status"].tolist() == ["same", "grown", "same"]
    assert table.loc[table["track"] == 1, "ratio"].tolist() == pytest.approx([1, 1.4, 1.5], rel=1e-6)
    summary = table.groupby("track")[["first", "last", "seen"]].first().to_numpy().tolist()
    assert summary == [["2019", "2023", 3], ["2019", "2023", 2], ["2019", "2019", 1], ["2023", "2023", 1]]
    assert table.loc[table["track"] == 4, "status"].tolist() == ["appeared"]
    strict = tracks([first, second, third], ["2019", "2021", "2023"], gap=0).table
    assert strict["track"].max() == 5  # what was not seen in between is another


def test_a_series_of_drawn_dates_is_followed() -> None:
    pair = dates.ten_changes()
    frames = [dates.frame(pair.before), dates.frame(pair.before, MOVED), dates.frame(pair.after, (-3, 0))]
    shifts = [(0.0, 0.0), (1.2, 0.9), (-1.5, 0.0)]
    found = tracks(frames, ["a", "b", "c"], shifts=shifts, area=inside())
    last = found.table[found.table["date"] == "c"]
    counts = Counter(last["status"])
    assert {key: counts[key] for key in ("appeared", "grown", "shrunk")} == {"appeared": 3, "grown": 2, "shrunk": 2}
    assert (found.table.groupby("track")["last"].first() == "b").sum() == 3
    assert found.table["track"].nunique() == 48


def test_time_grows_as_the_number_of_objects() -> None:
    rng = np.random.default_rng(0)
    grid = [(5.0 * x, 5.0 * y) for x in range(100) for y in range(50)]
    before = objects(*(("car", x, y, 4, 4) for x, y in grid))
    after = objects(*(("car", x + rng.normal(0, 0.2), y, 4, 4) for x, y in grid))
    assert statuses(before, after) == {"same": 5000}


@pytest.mark.parametrize("count", [0, 3])
def test_each_frame_needs_its_date(count: int) -> None:
    with pytest.raises(DataError, match="give each frame its date"):
        tracks([objects()] * count, ["2019", "2021"])
