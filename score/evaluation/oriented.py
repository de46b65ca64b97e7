"""AP of oriented boxes, as DOTA's labels have them: over all, seen and unseen classes, and per class.

A detection's box is the smallest rotated rectangle around its mask. Two protocols: COCO's, with rotated IoU by
hotcoco; and that of DOTA's own kit (``dota_evaluation_task1.py`` of DOTA_devkit), which is PASCAL VOC's at IoU 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import hotcoco
import numpy as np
from hotcoco.metrics import average_precision
from numpy.typing import NDArray

from score.detections import Detection
from score.evaluation.coco import Metrics, by_class, check
from score.masks import RLE, encode, part

METRICS = ("AP", "AP50", "AP75", "VOC07", "VOC12")
"""COCO's three, and VOC's at IoU 0.5: by the 11 points of 2007, as DOTA-v1.0 counts, and by the area of 2010-2012."""

VOC_IOU = 0.5
ELEVEN_POINTS = np.arange(0.0, 1.1, 0.1)  # as the kit writes them, rounding and all
BEYOND = 1e11  # an area outside of every size class: COCO ignores such objects, and what matches them

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OrientedBox:
    """An object of the ground truth.

    Attributes:
        label: position of its class among the names.
        corners: ``[4, 2]`` x, y in pixels, in order around the box, which need not be a rectangle.
        difficult: whether it neither counts nor punishes what finds it.
    """

    label: int
    corners: Points
    difficult: bool = False


class OrientedScorer:
    """Scores the boxes around masks, in percent, image by image.

    Args:
        names: the ``C`` classes.
        seen: ``C`` flags, true for a class of the training vocabulary.
        max_detections: the best so many of each image count, over all classes together.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[bool], max_detections: int = 300) -> None:
        if len(names) != len(seen):
            raise ValueError(f"{len(names)} names and {len(seen)} seen flags")
        self.names, self.seen, self.max_detections = list(names), [bool(flag) for flag in seen], max_detections
        params = hotcoco.Params("obb")
        params.max_dets = [max_detections]
        categories = [{"id": index + 1, "name": str(index)} for index in range(len(names))]
        self._stream = hotcoco.StreamingEval(categories, "obb", params=params)
        self._images = 0
        self._instances = np.zeros(len(names), dtype=np.int64)
        self._found: list[list[Points]] = [[np.zeros((0, 4))] for _ in names]  # as _match_voc gives it

    def add(
        self, record: Mapping[str, Any], objects: Sequence[OrientedBox], detections: Sequence[Detection], rank: int
    ) -> None:
        """Match the detections of an image to its objects.

        Args:
            record: a detectron2 dataset dict; its annotations are not looked at.
            detections: of this image, in any order.
            rank: of the image; equal scores rank by it, and no two images have the same.

        Raises:
            DataError: a detection of a class that is not among those scored, or of another size than the image.
        """
        best = sorted(detections, key=lambda item: -item.score)[: self.max_detections]
        check(record, best, len(self.names))
        self._images += 1
        boxes = [corners(item.rle) for item in best]
        self._match_coco(objects, best, boxes, rank)
        for label in {box.label for box in objects} | {item.label for item in best}:
            truth = [item for item in objects if item.label == label]
            found = [(item.score, box) for item, box in zip(best, boxes, strict=True) if item.label == label]
            self._found[label].append(_match_voc(truth, found, rank))
            self._instances[label] += sum(not item.difficult for item in truth)

    def merge(self, others: Sequence[OrientedScorer]) -> None:
        """Take in the images of other processes."""
        self._stream = hotcoco.StreamingEval.merge([self._stream, *(other._stream for other in others)])
        for other in others:
            self._images += other._images
            self._instances += other._instances
            self._found = [mine + theirs for mine, theirs in zip(self._found, other._found, strict=True)]

    def finish(self) -> Metrics:
        """Figures of all images; nothing can be added afterwards.

        Returns:
            ``all``, ``seen``, ``unseen``: the means of :data:`METRICS` over the classes that have instances;
            ``harmonic``: ``AP``, ``AP50``, ``VOC07`` of seen and unseen; ``per_class``: by name, with ``seen`` and
            ``instances``, difficult ones left out; ``images`` and ``detections``: counts. None is for what is
            undefined, as the AP of a class without instances.
        """
        evaluation = self._stream.finalize()
        evaluation.accumulate()
        assert evaluation.eval is not None
        average = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1)  # [IoU, C]
        found = [np.concatenate(parts) for parts in self._found]
        voc = np.array([_voc(part, n) for part, n in zip(found, self._instances.tolist(), strict=True)])
        scores = np.column_stack([average.mean(axis=0), average[0], average[5], voc])
        scores = np.where(self._instances[:, None] > 0, 100 * scores + 0.0, np.nan)  # no -0.0
        return {
            **by_class(METRICS, scores, self.names, self.seen, self._instances, ("AP", "AP50", "VOC07")),
            "images": self._images,
            "detections": sum(map(len, found)),
        }

    def _match_coco(
        self, objects: Sequence[OrientedBox], detections: Sequence[Detection], boxes: Sequence[Points], rank: int
    ) -> None:
        image = {"id": rank, "height": 1, "width": 1, "file_name": str(rank)}
        truth = [
            {
                "id": number,
                "image_id": rank,
                "category_id": item.label + 1,
                "obb": _obb(item.corners),
                "area": BEYOND if item.difficult else 1.0,  # sizes are not told apart
                "iscrowd": 0,
            }
            for number, item in enumerate(objects, start=1)
        ]
        found = [
            {"image_id": rank, "category_id": item.label + 1, "score": item.score, "obb": _obb(box)}
            for item, box in zip(detections, boxes, strict=True)
        ]
        self._stream.update([image], truth, found)


def _match_voc(truth: Sequence[OrientedBox], found: Sequence[tuple[float, Points]], rank: int) -> Points:
    """Of one class in one image, best first: each detection looks at its best object alone, taken or not.

    Returns:
        ``[n, 4]``: score, rank of the image, hit, ignored.
    """
    taken: set[int] = set()
    result = np.zeros((len(found), 4))
    overlaps = _overlaps([box for _, box in found], [item.corners for item in truth])  # [n, objects]
    for row, (score, _), overlap in zip(result, found, overlaps, strict=True):
        row[:2] = score, rank
        best = int(overlap.argmax()) if len(overlap) else -1
        if best < 0 or overlap[best] <= VOC_IOU:
            continue
        if truth[best].difficult:
            row[3] = 1
        elif best not in taken:
            row[2] = 1
            taken.add(best)
    return result


def _voc(found: Points, instances: int) -> tuple[float, float]:
    """AP at 11 points of recall, and under the whole curve, of ``[n, 4]``: score, rank, hit, ignored."""
    if not instances:
        return math.nan, math.nan
    scores, _, hits, ignored = found[np.lexsort((found[:, 1], -found[:, 0]))].T
    # recall rises by 1 / n at every hit, so the mean over these n points is the area under the curve
    every_step = np.arange(1, instances + 1) / instances
    first, second = (
        average_precision(scores, hits > 0, instances, ignored > 0, points) for points in (ELEVEN_POINTS, every_step)
    )
    return first, second


def _overlaps(first: Sequence[Points], second: Sequence[Points]) -> Points:
    """Rotated IoU ``[n, m]``, worked out only where upright boxes meet."""
    result = np.zeros((len(first), len(second)))
    if result.size:
        (low_a, high_a), (low_b, high_b) = (
            (np.min(boxes, axis=1), np.max(boxes, axis=1)) for boxes in (np.stack(first), np.stack(second))
        )
        meet = ((low_a[:, None] < high_b) & (low_b < high_a[:, None])).all(axis=-1)
        for i, j in zip(*np.nonzero(meet), strict=True):
            result[i, j] = rotated_iou(first[i], second[j])
    return result


def rotated_iou(first: Points, second: Points) -> float:
    """IoU of two convex polygons ``[n, 2]``; one that is not convex counts as its hull."""
    middle = first.mean(axis=0)  # cv2 reckons in fp32: near the origin it is exact to a millionth
    hulls = [cv2.convexHull((points - middle).astype(np.float32)) for points in (first, second)]
    areas = [cv2.contourArea(hull) for hull in hulls]
    if min(areas) == 0:
        return 0.0
    shared, _ = cv2.intersectConvexConvex(*hulls)
    return shared / (sum(areas) - shared)


def corners(mask: NDArray[np.bool_] | RLE) -> Points:
    """The smallest rotated rectangle around a mask.

    Args:
        mask: ``[H, W]``, or run-length encoded.

    Returns:
        ``[4, 2]`` x, y of its corners in order, in pixels: a mask of the pixel 0, 0 alone reaches from 0 to 1. Zeros
        for an empty mask.
    """
    rle = mask if isinstance(mask, Mapping) else encode(mask[None])[0]
    (rows, columns), inside = part(rle)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((4, 2))
    pixels = np.concatenate(contours)[:, 0]  # [n, 2]
    ends = np.concatenate([pixels + step for step in ((0, 0), (1, 0), (0, 1), (1, 1))])
    return _smallest(ends + np.array([columns.start, rows.start]))


def _smallest(points: Points) -> Points:
    """Corners ``[4, 2]`` of the smallest rectangle around points ``[n, 2]``."""
    middle = points.mean(axis=0)
    return cv2.boxPoints(cv2.minAreaRect((points - middle).astype(np.float32))) + middle


def _obb(points: Points) -> list[float]:
    """The smallest rectangle as hotcoco has it: centre, sides, and angle in radians."""
    a, b, c, _ = rectangle = _smallest(points)
    x, y = rectangle.mean(axis=0).tolist()
    return [x, y, math.dist(a, b), math.dist(b, c), math.atan2(b[1] - a[1], b[0] - a[0])]
