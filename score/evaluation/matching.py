"""COCO's matching and average precision of many rankings of the same detections at once.

Rankings differ in scores, never in masks. What depends on masks alone is found once: which query-class pairs can
match an object at all (the contenders, few of all pairs), and which of them compete for the same objects (a contest).
Contests of equal shape are played together, for all rankings and IoU thresholds; all other pairs are false positives
and only count. Results equal pycocotools'.

Why a second AP beside hotcoco's in :mod:`score.evaluation.coco`: that one matches from the masks, once for a ranking.
A sweep asks for a hundred and more rankings of the same masks, and matches them here together in the time of a few.
``tests/evaluation/test_matching.py`` and ``tests/studies/test_grid.py`` hold the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from score.errors import DataError

_COCO = hotcoco.Params("segm")
THRESHOLDS: NDArray[np.float64] = np.array(_COCO.iou_thrs)  # [T]; a set of them is a uint16, bit t for THRESHOLDS[t]
RECALLS: NDArray[np.float64] = np.array(_COCO.rec_thrs)

ABSENT = np.iinfo(np.int64).max  # the key of a contender that a ranking leaves out
SCORE_BITS = 30  # float32 below 2, read as whole numbers


@dataclass(frozen=True)
class Order:
    """Detections of all images as whole numbers that sort as COCO ranks them: class, score, then place in the list.

    Attributes:
        classes: how many, ``C``.
        detections: how many, in all images together.
    """

    classes: int
    detections: int

    def __post_init__(self) -> None:
        if (self.classes << self._shift).bit_length() > 63:
            raise DataError(
                f"{self.detections} detections of {self.classes} classes are too many to rank at once; lower top_k"
            )

    @property
    def _shift(self) -> int:
        return self.detections.bit_length() + SCORE_BITS

    def keys(self, labels: NDArray[np.int64], scores: NDArray[np.float32], first: int) -> NDArray[np.int64]:
        """Number the detections ``[..., K]`` of one image, whose places begin at ``first``; scores are in 0..1."""
        worst_last = (1 << SCORE_BITS) - 1 - scores.view(np.int32).astype(np.int64)
        places = np.arange(first, first + scores.shape[-1])
        return labels << self._shift | worst_last << self.detections.bit_length() | places

    def labels(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The classes that keys belong to."""
        return keys >> self._shift

    def starts(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each class begins in sorted keys, ``[C + 1]`` with the end of the last."""
        return np.searchsorted(keys, np.arange(self.classes + 1) << self._shift)


@dataclass(frozen=True)
class Contest:
    """``n`` groups of one shape, each of ``R`` contenders for the same ``G`` objects.

    Attributes:
        members: ``[n, R]``, the contenders' numbers.
        choices: ``[n, R, P]``, objects of the group that a contender overlaps, 0 .. G - 1, its favourite first.
        reach: ``[n, R, P]`` uint16, the thresholds at which it does; 0 fills up.
        objects: ``G``.
    """

    members: NDArray[np.int64]
    choices: NDArray[np.int64]
    reach: NDArray[np.uint16]
    objects: int


@dataclass(frozen=True)
class Contenders:
    """The ``M`` query-class pairs of all images that overlap an object of their class enough to match it.

    Attributes:
        pairs: for each image, ascending, ``query * C + class``; they are numbered through all images.
        crowd: ``[M]`` uint16, the thresholds at which a pair overlaps a crowd.
        contests: those for objects that are no crowds. Whoever wins none is ignored where it overlaps a crowd.
    """

    pairs: list[NDArray[np.int64]]
    crowd: NDArray[np.uint16]
    contests: list[Contest]


def contenders(
    overlaps: Sequence[NDArray[np.float64]],
    labels: Sequence[NDArray[np.int64]],
    crowds: Sequence[NDArray[np.bool_]],
    classes: int,
) -> Contenders:
    """Find what can match.

    Args:
        overlaps: for each image (one at least), the IoU of queries and objects ``[Q, G]``, as COCO has it for crowds.
        labels: the objects' classes ``[G]``.
        crowds: which of them are crowds ``[G]``.
        classes: how many, ``C``.
    """
    pairs, targets, ious, flags = [], [], [], []
    first_pair, first_object = [0], 0
    for overlap, label, crowd in zip(overlaps, labels, crowds, strict=True):
        query, target = np.nonzero(overlap >= THRESHOLDS[0])
        pairs.append(first_pair[-1] + query * classes + label[target])
        targets.append(first_object + target)
        ious.append(overlap[query, target])
        flags.append(crowd[target])
        first_pair.append(first_pair[-1] + len(overlap) * classes)
        first_object += len(label)
    target, iou, is_crowd = np.concatenate(targets), np.concatenate(ious), np.concatenate(flags)
    known, contender = np.unique(np.concatenate(pairs), return_inverse=True)
    crowd_reach = np.zeros(len(known), dtype=np.uint16)
    np.maximum.at(crowd_reach, contender[is_crowd], _reach(iou[is_crowd]))
    parts = np.split(known, np.searchsorted(known, first_pair[1:-1]))
    return Contenders(
        [part - first for part, first in zip(parts, first_pair, strict=False)],
        crowd_reach,
        _contests(contender[~is_crowd], target[~is_crowd], iou[~is_crowd]),
    )


def _reach(iou: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The thresholds that are not above each IoU."""
    return ((1 << np.searchsorted(THRESHOLDS, iou, side="right")) - 1).astype(np.uint16)


def _contests(contender: NDArray[np.int64], target: NDArray[np.int64], iou: NDArray[np.float64]) -> list[Contest]:
    """Split a graph, given by its edges, into connected parts, and lay parts of one shape side by side."""
    # of objects with equal IoU COCO takes the later one
    order = np.lexsort((-target, -iou, contender))
    contender, target, reach = contender[order], target[order], _reach(iou[order])
    numbers, start, row, degree = np.unique(contender, return_index=True, return_inverse=True, return_counts=True)
    preference = np.arange(len(row)) - start[row]
    objects, thing = np.unique(target, return_inverse=True)
    nodes = len(numbers) + len(objects)
    graph = coo_array((np.ones(len(row), dtype=bool), (row, len(numbers) + thing)), shape=(nodes, nodes))
    count, part = connected_components(graph, directed=False)
    part_of_number, part_of_object = part[: len(numbers)], part[len(numbers) :]
    seat, object_seat = _place_within(part_of_number, count), _place_within(part_of_object, count)
    choices = np.zeros(count, dtype=np.int64)
    np.maximum.at(choices, part_of_number, degree)
    sizes = [np.bincount(part_of_number, minlength=count), np.bincount(part_of_object, minlength=count), choices]
    shapes, shape = np.unique(np.stack(sizes, axis=1), axis=0, return_inverse=True)

    contests = []
    for index, (R, G, P) in enumerate(shapes.tolist()):
        alike = shape.reshape(-1) == index  # [parts]
        slot = np.cumsum(alike) - 1
        own, edge = alike[part_of_number], alike[part_of_number[row]]
        contest = Contest(
            members=np.zeros((alike.sum(), R), dtype=np.int64),
            choices=np.zeros((alike.sum(), R, P), dtype=np.int64),
            reach=np.zeros((alike.sum(), R, P), dtype=np.uint16),
            objects=G,
        )
        contest.members[slot[part_of_number[own]], seat[own]] = numbers[own]
        where = slot[part_of_number[row[edge]]], seat[row[edge]], preference[edge]
        contest.choices[where] = object_seat[thing[edge]]
        contest.reach[where] = reach[edge]
        contests.append(contest)
    return contests


def _place_within(group: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """The number of each element among those of its group."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=groups)
    place = np.empty(len(group), dtype=np.int64)
    place[order] = np.arange(len(group)) - (np.cumsum(size) - size)[group[order]]
    return place


def match(keys: NDArray[np.int64], contests: Sequence[Contest]) -> NDArray[np.uint16]:
    """Give every object to the first contender that wants it.

    Args:
        keys: ``[N, M]``, of each contender in each of ``N`` rankings, or :data:`ABSENT`.
        contests: as :func:`contenders` found them.

    Returns:
        ``[N, M]``, the thresholds at which a contender matches an object; meaningless where it is absent.
    """
    hits = np.zeros(keys.shape, dtype=np.uint16)
    for contest in contests:
        order = keys[:, contest.members].argsort(axis=-1)  # [N, n, R]; the absent come last and take from none
        won = np.zeros(order.shape, dtype=np.uint16)
        taken = np.zeros((*order.shape[:2], contest.objects), dtype=np.uint16)
        groups = np.arange(len(contest.members))
        for turn in range(order.shape[2]):
            who = order[..., turn]  # [N, n]
            got = np.zeros(who.shape, dtype=np.uint16)
            for choice, reach in zip(np.moveaxis(contest.choices, 2, 0), np.moveaxis(contest.reach, 2, 0), strict=True):
                at = choice[groups, who][..., None]  # [N, n, 1]
                held = np.take_along_axis(taken, at, axis=-1)
                free = reach[groups, who] & ~held[..., 0] & ~got
                np.put_along_axis(taken, at, held | free[..., None], axis=-1)
                got |= free
            np.put_along_axis(won, who[..., None], got[..., None], axis=-1)
        hits[:, contest.members] = won
    return hits


def average_precision(
    ranking: NDArray[np.int64],
    contender_keys: NDArray[np.int64],
    hits: NDArray[np.uint16],
    crowd: NDArray[np.uint16],
    instances: NDArray[np.int64],
    order: Order,
) -> NDArray[np.float64]:
    """Average precision of one ranking, ``[C, T]`` in 0 .. 1, NaN for a class without instances.

    Args:
        ranking: keys of all its detections, ascending.
        contender_keys, hits, crowd: of the contenders ``[M]``.
        instances: objects of each class, crowds left out, ``[C]``.
        order: what made the keys.
    """
    present = np.flatnonzero(contender_keys != ABSENT)
    present = present[contender_keys[present].argsort()]
    keys, hits = contender_keys[present], hits[present]
    ignored = crowd[present] & ~hits
    begins = order.starts(ranking)
    ranks = np.searchsorted(ranking, keys) - begins[order.labels(keys)] + 1
    borders = order.starts(keys)
    result = np.full((order.classes, len(THRESHOLDS)), np.nan)
    for label in np.flatnonzero(instances):
        own = slice(borders[label], borders[label + 1])
        result[label] = _one_class(ranks[own], hits[own], ignored[own], int(instances[label]))
    return result


def _one_class(
    ranks: NDArray[np.int64], hits: NDArray[np.uint16], ignored: NDArray[np.uint16], instances: int
) -> NDArray[np.float64]:
    """COCO's mean over recall points of the highest precision at that recall or a higher one, ``[T]``."""
    bits = np.uint16(1) << np.arange(len(THRESHOLDS), dtype=np.uint16)[:, None]
    hit = hits & bits > 0  # [T, m]
    threshold, column = np.nonzero(hit)
    counted = ranks[column]
    if ignored.any():
        counted = counted - np.cumsum(ignored & bits > 0, axis=1)[threshold, column]
    nth = np.cumsum(hit, axis=1)[threshold, column]
    precision = np.zeros((len(bits), instances))  # at the nth hit; 0 where there are fewer
    precision[threshold, nth - 1] = nth / (counted + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.searchsorted(np.arange(1, instances + 1) / instances, RECALLS)  # hits before each recall is reached
    return highest[:, needed].mean(axis=1)
