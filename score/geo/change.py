"""What changed between two dates, and objects followed over a series of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
from shapely.geometry.base import BaseGeometry

from score.errors import DataError
from score.geo.matching import Group, Objects, Plane, Rules, listed, match

APPEARED, VANISHED, GROWN, SHRUNK, SAME = STATUSES = ("appeared", "vanished", "grown", "shrunk", "same")
Vector = tuple[float, float]


class Changes(NamedTuple):
    """What became of the objects of two dates, or of a series.

    Attributes:
        table: of :func:`changes` or :func:`tracks`, in the first frame's CRS.
        edge: how many objects were left out, for the edge of the common area cuts them.
    """

    table: gpd.GeoDataFrame
    edge: int


def changes(
    before: gpd.GeoDataFrame,
    after: gpd.GeoDataFrame,
    *,
    shift: Vector = (0, 0),
    area: BaseGeometry | None = None,
    rules: Rules | None = None,
) -> Changes:
    """Match the objects of two dates and say what became of each.

    Args:
        before, after: polygons with a column ``class`` and, where there are any, ``score`` (0 .. 1) and ``least`` (the
            threshold of each score: what lies below is no object, but speaks against a change at its place).
        shift: how far ``after`` lies off, along the axes of ``before``'s CRS and in its units.
        area: what both dates show, in ``before``'s CRS; None for everywhere. What its edge cuts is not judged.
        rules: when objects are the same, and when they have changed.

    Returns:
        A row an object: ``class``, ``status`` (appeared, vanished, grown, shrunk, same), ``confidence`` (0 .. 1),
        ``iou``, ``area_before_m2``, ``area_after_m2`` (in an equal-area projection), ``ratio`` of the two,
        ``score_before``, ``score_after``, ``moved_m`` between the centroids, ``parts_before`` and ``parts_after``
        (above 1 where objects were merged or split), ``before_id`` and ``after_id`` (rows of the frames), and the
        outline: ``after``'s moved into place, or of what has vanished, ``before``'s. Without a CRS, ``_px`` stands for
        ``_m`` and ``_m2``.

        The confidence of same is the lower of both scores times the IoU; of grown and shrunk, times the share of the
        smaller outline inside the larger. Of appeared and vanished it is the score times 1 - e, with e the largest
        share of it that an object of the other date covers, times that one's score over its threshold if it is below.

    Raises:
        DataError: a frame without classes or with something else than polygons, or only one of them has a CRS.
    """
    rules = rules or Rules()
    plane = Plane.of([before, after], area)
    first, second = plane.objects(before), plane.objects(after, shift)
    rows, shapes, edge = list[dict[str, Any]](), list[BaseGeometry](), 0
    for group in match(first, second, rules):
        if cut := group.cut(first, second):
            edge += cut
        else:
            rows.append(_judge(group, first, second, rules))
            shapes.append(second.outline(group.after) if group.after else first.outline(group.before))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"before_id": "Int64", "after_id": "Int64"})
    if rules.per_class:
        del table["class_before"]
    return Changes(_placed(table, shapes, plane), edge)


COLUMNS = [
    *("class", "class_before", "status", "confidence", "iou", "area_before_m2", "area_after_m2", "ratio"),
    *("score_before", "score_after", "moved_m", "parts_before", "parts_after", "before_id", "after_id"),
]


def _judge(group: Group, first: Objects, second: Objects, rules: Rules) -> dict[str, Any]:
    """A row of the table of :func:`changes`."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
    row |= {"iou": group.iou, "parts_before": len(group.before), "parts_after": len(group.after)}
    sides = (("before", first, group.before), ("after", second, group.after))
    present = [(side, objects, ids) for side, objects, ids in sides if ids]
    for side, objects, ids in present:
        row |= {f"area_{side}_m2": objects.outline(ids).area, f"score_{side}": objects.scores[ids[0]]}
        row[f"{side}_id"] = objects.rows[ids[0]]
    row["class_before"], *_, row["class"] = [objects.classes[ids[0]] for _, objects, ids in (*present, present[-1])]
    if len(present) == 1:
        status, sure = APPEARED if group.after else VANISHED, 1 - group.against
    else:
        before, after = first.outline(group.before), second.outline(group.after)
        row |= {"ratio": after.area / before.area, "moved_m": before.centroid.distance(after.centroid)}
        status = grade(row["ratio"], rules)
        sure = group.iou if status == SAME else group.inside
    return row | {"status": status, "confidence": min(objects.scores[ids[0]] for _, objects, ids in present) * sure}


def _placed(table: pd.DataFrame, shapes: Sequence[BaseGeometry], plane: Plane) -> gpd.GeoDataFrame:
    """Rows with their outlines; without a CRS, names that say metres say pixels."""
    if plane.source is None:
        table = table.rename(columns={name: re.sub("_m2?$", "_px", name) for name in table.columns})
    return gpd.GeoDataFrame(table, geometry=plane.back(shapes), crs=plane.source)


def grade(ratio: float, rules: Rules) -> str:
    """What a ratio of areas means."""
    return GROWN if ratio > rules.grow else SHRUNK if ratio < 1 / rules.grow else SAME


def tracks(
    frames: Sequence[gpd.GeoDataFrame],
    dates: Sequence[str],
    *,
    shifts: Sequence[Vector] | None = None,
    area: BaseGeometry | None = None,
    gap: int = 1,
    rules: Rules | None = None,
) -> Changes:
    """Follow objects over a series of dates.

    Each date's objects are matched to those last seen, as :func:`changes` matches two dates. Of objects that are merged
    the one that fits best goes on; one that is split goes on with all its parts.

    Args:
        frames: a date's objects each, as :func:`changes` takes them, in order.
        dates: what each is called.
        shifts: how far each lies off the first, along the axes of the first one's CRS; None for not at all.
        area: what all dates show, in the first frame's CRS. Tracks that its edge cuts are left out.
        gap: for how many dates an object may be unseen and still be the same when it is seen again.
        rules: when objects are the same, and when they have changed.

    Returns:
        A row an object and date: ``track`` (its number, from 1), ``date``, ``class``, ``status`` (appeared, or grown,
        shrunk or same since it was last seen; same at the first date), ``score``, ``area_m2``, ``ratio`` of that to
        when it was first seen, ``first`` and ``last`` (dates it was seen), ``seen`` (at how many), ``row`` (of the
        date's frame) and the outline.

    Raises:
        DataError: as :func:`changes`, or no or not as many dates as frames.
    """
    if not frames or len(frames) != len(dates):
        raise DataError(f"{len(frames)} frames and {len(dates)} dates; give each frame its date")
    rules, plane = rules or Rules(), Plane.of(frames, area)
    rows, shapes = list[dict[str, Any]](), list[BaseGeometry]()
    last = dict[int, tuple[int, BaseGeometry, str]]()  # of each track: when, where and as what it was last seen
    cut = dict[int, int]()  # of each track: parts that the edge cuts
    for time, frame in enumerate(frames):
        objects = plane.objects(frame, shifts[time] if shifts else (0, 0))
        open_tracks = [track for track, (seen, *_) in last.items() if time - seen <= gap + 1]
        outlines, classes = (listed(last[track][part] for track in open_tracks) for part in (1, 2))
        count = len(open_tracks)
        past = Objects(outlines, classes, np.ones(count), np.zeros(count), np.zeros(count, bool), np.arange(count))
        areas = past.areas
        for group in match(past, objects, rules):
            if not group.after:
                continue
            main, outline, status = group.after[0], objects.outline(group.after), SAME if time == 0 else APPEARED
            if group.before:
                track = open_tracks[group.before[0]]
                status = grade(outline.area / areas[group.before[0]], rules)
            else:
                track = len(cut) + 1
            cut[track] = cut.get(track, 0) + int(objects.edge[list(group.after)].sum())
            rows.append({
                "track": track, "date": dates[time], "class": objects.classes[main], "status": status,
                "score": float(objects.scores[main]), "area_m2": outline.area, "row": int(objects.rows[main]),
            })  # fmt: skip
            shapes.append(outline)
            last[track] = time, outline, objects.classes[main]
    table = pd.DataFrame(rows, columns=["track", "date", "class", "status", "score", "area_m2", "row"])
    each = table.groupby("track")
    table["ratio"] = table["area_m2"] / each["area_m2"].transform("first")
    for name, how in (("first", "first"), ("last", "last"), ("seen", "count")):
        table[name] = each["date"].transform(how)
    frame = _placed(table, shapes, plane)
    whole = frame["track"].map(lambda track: cut[track] == 0).astype(bool)
    return Changes(frame[whole].reset_index(drop=True), sum(cut.values()))
