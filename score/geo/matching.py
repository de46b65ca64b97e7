"""Which outlines of two dates are the same object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry.base import BaseGeometry

from score.errors import DataError
from score.geo.grid import between

AnyCRS = CRS | str | None  # what pyproj makes a CRS of; None for pixels as coordinates
POLYGONAL = (-1, 3, 6)  # shapely's numbers of none, Polygon and MultiPolygon


@dataclass(frozen=True)
class Rules:
    """When two outlines are one object, and when it has changed.

    Attributes:
        iou: two outlines with at least this IoU can be the same object ...
        inside: ... and so can two of which the smaller lies inside the larger with at least this share of its area:
            what has grown to many times its size. A part of an object that was split or merged is known by it, too.
        grow: an object whose area is more than so many times what it was has grown; less than one over it, shrunk.
        displacement: metres (without a CRS, pixels) by which an object may have moved, or have been drawn elsewhere;
            its overlap is the better one of where it is and moved back by so much at most.
        weak: an object whose counterpart was found with a score below its threshold, but at least this share of it,
            has not appeared or vanished.
        per_class: match objects of the same class only.
    """

    iou: float = 0.3
    inside: float = 0.8
    grow: float = 1.25
    displacement: float = 1.0
    weak: float = 0.5
    per_class: bool = True


@dataclass(frozen=True)
class Objects:
    """The objects of a date in a plane of metres.

    Attributes:
        shapes: valid polygons ``[N]``.
        classes: ``[N]``.
        scores, least: ``[N]``, and the threshold of each; one below is no object, but may be another's counterpart.
        edge: ``[N]``, whether the edge of the common area cuts it.
        rows: ``[N]``, positions in the frame.
    """

    shapes: NDArray[Any]
    classes: NDArray[Any]
    scores: NDArray[np.float64]
    least: NDArray[np.float64]
    edge: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def areas(self) -> NDArray[np.float64]:
        """In square metres, ``[N]``."""
        areas: NDArray[np.float64] = shapely.area(self.shapes)
        return areas

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Whether each has its threshold's score, ``[N]``."""
        return self.scores >= self.least

    @property
    def certainty(self) -> NDArray[np.float64]:
        """Scores over their thresholds, at most 1, ``[N]``."""
        return np.where(self.sure, 1, self.scores / np.maximum(self.least, 1e-9))

    def outline(self, ids: Sequence[int]) -> BaseGeometry:
        """Of one, or of several together."""
        return self.shapes[ids[0]] if len(ids) == 1 else shapely.union_all(self.shapes[list(ids)])


@dataclass(frozen=True)
class Plane:
    """Where objects of several dates are compared: an equal-area projection about their middle, in metres.

    Attributes:
        source: the CRS that results are in, None for pixels.
        projection: the plane's.
        area: what all dates show, in the plane.
    """

    source: CRS | None
    projection: CRS | None
    area: BaseGeometry | None

    @classmethod
    def of(cls, frames: Sequence[gpd.GeoDataFrame], area: BaseGeometry | None) -> Plane:
        """About the middle of an area in the first frame's CRS, or else of the first frame that has objects.

        Raises:
            DataError: some frames have a CRS, and others have none.
        """
        source = frames[0].crs
        if any((frame.crs is None) != (source is None) for frame in frames):
            raise DataError("some dates have a coordinate reference system and others have none; give all of them one")
        if source is None:
            return cls(None, None, area)
        if area is not None:
            bounds, crs = np.array(area.bounds), source
        else:
            full = [frame for frame in frames if np.isfinite(frame.total_bounds).all()]
            bounds, crs = (full[0].total_bounds, full[0].crs) if full else (np.zeros(4), CRS("EPSG:4326"))
        middle = (bounds[:2] + bounds[2:]) / 2
        lon, lat = between(crs, "EPSG:4326").transform(*middle)
        projection = CRS(f"+proj=laea +lat_0={lat:.6f} +lon_0={lon:.6f} +datum=WGS84 +units=m")
        return cls(source, projection, None if area is None else moved([area], source, projection)[0])

    def objects(self, frame: gpd.GeoDataFrame, shift: tuple[float, float] = (0, 0)) -> Objects:
        """The objects of a frame, moved against a shift in the CRS of results; those outside the area are left out.

        Raises:
            DataError: a frame without classes, or with something else than polygons.
        """
        if "class" not in frame.columns:
            raise DataError(f"objects without a column 'class'; there are {', '.join(map(str, frame.columns))}")
        shapes = np.asarray(frame.geometry.array, dtype=object)
        if not np.isin(shapely.get_type_id(shapes), POLYGONAL).all():
            raise DataError("objects that are no polygons: points and lines have no area to compare")
        rows = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
        shapes = moved(moved(shapes[rows], frame.crs, self.source, shift), self.source, self.projection)
        broken = ~shapely.is_valid(shapes)
        shapes[broken] = shapely.buffer(shapely.make_valid(shapes[broken]), 0)  # 0: of what comes out, the polygons
        keep = shapely.area(shapes) > 0
        edge = np.zeros(len(shapes), bool)
        if self.area is not None:
            shapely.prepare(self.area)
            keep &= shapely.intersects(self.area, shapes)
            edge = ~shapely.contains_properly(self.area, shapes)
        scores, least = (
            np.nan_to_num(frame[key].to_numpy(float)[rows], nan=default)
            if key in frame.columns
            else np.full(len(rows), default)
            for key, default in (("score", 1.0), ("least", 0.0))
        )
        classes = frame["class"].astype(str).to_numpy(dtype=object)[rows]
        return Objects(*(values[keep] for values in (shapes, classes, scores, least, edge, rows)))

    def back(self, shapes: Sequence[BaseGeometry]) -> NDArray[Any]:
        """Shapes of the plane in the CRS that results are in."""
        return moved(shapes, self.projection, self.source)


def listed(items: Iterable[Any]) -> NDArray[Any]:
    """Things as ``[N]``, whatever they are and however many."""
    return np.array([*items, None], dtype=object)[:-1]


def moved(
    shapes: Iterable[BaseGeometry], source: AnyCRS, target: AnyCRS, shift: tuple[float, float] = (0, 0)
) -> NDArray[Any]:
    """Shapes in another CRS, then moved against a shift there; None on either side leaves coordinates as they are."""
    found = listed(shapes)
    if source is not None and target is not None and CRS(source) != CRS(target):
        turn = between(source, target)
        found = shapely.transform(found, lambda xy: np.stack(turn.transform(*xy.T), axis=1))
    return shapely.transform(found, lambda xy: xy - np.array(shift)) if any(shift) else found


def wkt(crs: AnyCRS) -> str | None:
    """A CRS as text."""
    return None if crs is None else CRS(crs).to_wkt()


class Group(NamedTuple):
    """An object of one date or both: positions among the objects of each, its main one first.

    Attributes:
        before, after: empty where it is not there; several where it was split or merged.
        iou: of both outlines; 0 where there is only one.
        inside: share of the smaller outline that lies inside the larger.
        against: what speaks against its having appeared or vanished, 0 .. 1.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    iou: float = 0.0
    inside: float = 0.0
    against: float = 0.0

    def cut(self, first: Objects, second: Objects) -> int:
        """How many parts of it the edge of the common area cuts."""
        return int(first.edge[list(self.before)].sum() + second.edge[list(self.after)].sum())


class Pairs(NamedTuple):
    """Pairs of objects: positions ``[P]`` on both sides, their IoU, and what they share in square metres."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    iou: NDArray[np.float64]
    shared: NDArray[np.float64]

    def only(self, keep: NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        return Pairs(self.before[keep], self.after[keep], self.iou[keep], self.shared[keep])


def match(first: Objects, second: Objects, rules: Rules) -> list[Group]:
    """Match objects one to one, then add what was split off or merged; time grows as the number of objects.

    Pairs are those with the largest sum of IoU. An object that has no counterpart is then matched to one whose score is
    below its threshold. What still has none, but lies inside an object of the other date that has one, is part of it.
    """
    near = _near(first, second, rules)
    smaller = np.minimum(first.areas[near.before], second.areas[near.after])
    fit = near.only((near.iou >= rules.iou) | (near.shared >= rules.inside * smaller))
    fit = fit.only((first.certainty[fit.before] >= rules.weak) & (second.certainty[fit.after] >= rules.weak))
    sure = first.sure[fit.before].astype(int) + second.sure[fit.after]
    chosen = _assign(fit.only(sure == 2))
    free = ~np.isin(fit.before, list(chosen)) & ~np.isin(fit.after, list(chosen.values()))
    chosen |= _assign(fit.only(free & (sure == 1)))
    before, after = ({b: [b] for b in chosen}, {b: [a] for b, a in chosen.items()})
    owner = {a: b for b, a in chosen.items()}
    for b, a in _parts(fit.before, fit.after, fit.shared, first, rules):
        if a in owner and b not in chosen:
            before[owner[a]].append(b)
    for a, b in _parts(fit.after, fit.before, fit.shared, second, rules):
        if b in chosen and a not in owner:
            after[b].append(a)
    pairs = zip(fit.before.tolist(), fit.after.tolist(), strict=True)
    shared = dict(zip(pairs, fit.shared.tolist(), strict=True))
    groups = [_group(before[b], after[b], shared[b, a], first, second, rules) for b, a in chosen.items()]
    there = [{item for ids in side.values() for item in ids} for side in (before, after)]
    gone = _against(near.before, near.after, near.shared, first, second)
    new = _against(near.after, near.before, near.shared, second, first)
    groups += [Group((b,), (), against=gone[b]) for b in np.flatnonzero(first.sure).tolist() if b not in there[0]]
    groups += [Group((), (a,), against=new[a]) for a in np.flatnonzero(second.sure).tolist() if a not in there[1]]
    return groups


def _near(first: Objects, second: Objects, rules: Rules) -> Pairs:
    """All pairs within reach of each other, that may match."""
    before, after = shapely.STRtree(second.shapes).query(first.shapes, predicate="dwithin", distance=rules.displacement)
    if rules.per_class:
        keep = first.classes[before] == second.classes[after]
        before, after = before[keep], after[keep]
    shared = _shared(first.shapes[before], second.shapes[after], rules.displacement)
    return Pairs(before, after, shared / (first.areas[before] + second.areas[after] - shared), shared)


def _shared(one: NDArray[Any], other: NDArray[Any], reach: float) -> NDArray[np.float64]:
    """What shapes share, ``[P]``: where they are, or with the other moved towards the one, whichever is more."""
    back = shapely.get_coordinates(shapely.centroid(one)) - shapely.get_coordinates(shapely.centroid(other))
    back *= np.minimum(1, reach / np.maximum(np.hypot(*back.T), 1e-12))[:, None]
    count = shapely.get_num_coordinates(other)
    nearer = shapely.transform(other, lambda xy: xy + np.repeat(back, count, axis=0))
    shared: NDArray[np.float64] = np.maximum(
        shapely.area(shapely.intersection(one, other)), shapely.area(shapely.intersection(one, nearer))
    )
    return shared


def _assign(pairs: Pairs) -> dict[int, int]:
    """The one-to-one pairs with the largest sum of IoU, solved for each cluster of objects on its own."""
    alone = (np.bincount(pairs.before)[pairs.before] == 1) & (np.bincount(pairs.after)[pairs.after] == 1)
    found = {int(b): int(a) for b, a in zip(pairs.before[alone], pairs.after[alone], strict=True)}
    pairs = pairs.only(~alone)
    if not len(pairs.before):
        return found
    links = (pairs.before, pairs.after + pairs.before.max() + 1)
    nodes = links[1].max() + 1
    _, cluster = connected_components(coo_array((np.ones(len(links[0])), links), shape=(nodes, nodes)), directed=False)
    of = cluster[pairs.before]
    order = np.argsort(of, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
        rows, row = np.unique(pairs.before[part], return_inverse=True)
        columns, column = np.unique(pairs.after[part], return_inverse=True)
        value = np.zeros((len(rows), len(columns)))
        value[row, column] = pairs.iou[part]
        best = linear_sum_assignment(value, maximize=True)
        found |= {int(rows[i]): int(columns[j]) for i, j in zip(*best, strict=True) if value[i, j] > 0}
    return found


def _parts(
    mine: NDArray[np.int64], theirs: NDArray[np.int64], shared: NDArray[np.float64], objects: Objects, rules: Rules
) -> list[tuple[int, int]]:
    """Objects that lie inside one of the other date, each with the one that holds most of it."""
    inside = (shared >= rules.inside * objects.areas[mine]) & objects.sure[mine]
    order = np.flatnonzero(inside)[np.argsort(shared[inside], kind="stable")]
    return list(dict(zip(mine[order].tolist(), theirs[order].tolist(), strict=True)).items())


def _group(
    before: Sequence[int], after: Sequence[int], shared: float, first: Objects, second: Objects, rules: Rules
) -> Group:
    """Both sides as a whole; ``shared`` is what the two main ones share."""
    one, other = first.outline(before), second.outline(after)
    if len(before) + len(after) > 2:
        shared = float(_shared(listed([one]), listed([other]), rules.displacement)[0])
    iou, inside = shared / (one.area + other.area - shared), shared / min(one.area, other.area)
    return Group(tuple(before), tuple(after), iou, min(1.0, inside))


def _against(
    mine: NDArray[np.int64], theirs: NDArray[np.int64], shared: NDArray[np.float64], own: Objects, other: Objects
) -> list[float]:
    """For each object: how much of it another of the other date covers, times the other's certainty."""
    value = np.zeros(len(own.shapes))
    np.maximum.at(value, mine, shared / own.areas[mine] * other.certainty[theirs])
    return [min(1.0, share) for share in value.tolist()]
