"""Panoptic quality of instances: over all, seen and unseen classes, their harmonic mean, and per class.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, counted by hotcoco as panopticapi does. There are things only:
what belongs to no instance is background, on which a segment is as wrong as on another object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import metrics
from hotcoco.panoptic import PanopticEval
from numpy.typing import NDArray

from score.detections import Detection
from score.evaluation.coco import Metrics, by_class, check
from score.evaluation.semantic import IGNORED, paint
from score.masks import RLE, area, encode, encode_shape, part

METRICS = ("PQ", "SQ", "RQ")
"""Panoptic quality, the mean IoU of what was matched, and the F1 score of matching; PQ is their product."""

KEPT = 0.5  # a segment that better ones leave less of is dropped, as in detectron2's panoptic inference
COUNTS = ("iou", "tp", "fp", "fn")

Segment = tuple[int, RLE, int]  # class, mask, and whether it is a crowd


class PanopticScorer:
    """Scores instances as a panoptic map, in percent, image by image; only counts are kept.

    Args:
        names: the ``C`` classes.
        seen: ``C`` flags, true for a class of the training vocabulary.
        min_score: detections below it are left out. There is no ranking here: every segment counts.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[bool], min_score: float) -> None:
        if len(names) != len(seen):
            raise ValueError(f"{len(names)} names and {len(seen)} seen flags")
        self.names, self.seen, self.min_score = list(names), [bool(flag) for flag in seen], min_score
        self._counts = np.zeros((len(names), len(COUNTS)))
        self._images = 0

    def add(self, record: Mapping[str, Any], detections: Sequence[Detection]) -> None:
        """Match the segments of an image.

        Args:
            record: a detectron2 dataset dict; ``category_id`` is a position in ``names``. Of overlapping instances the
                smaller one lies on top.
            detections: of this image, in any order. Of overlapping ones the better one lies on top, and one that keeps
                less than half of its area is dropped.

        Raises:
            DataError: a detection of a class that is not among those scored, or of another size than the image.
        """
        check(record, detections, len(self.names))
        truth = _annotated(record, background=len(self.names))
        found = flatten([item for item in detections if item.score >= self.min_score])
        segments = [(item.label, item.rle, 0) for item in found]
        evaluation = PanopticEval(self._dataset(record, truth), self._dataset(record, segments))
        evaluation.evaluate()
        rows = evaluation.results()["per_class"]
        self._counts += [[rows[index + 1][key] for key in COUNTS] for index in range(len(self.names))]
        self._images += 1

    def merge(self, others: Sequence[PanopticScorer]) -> None:
        """Take in the images of other processes."""
        for other in others:
            self._counts += other._counts
            self._images += other._images

    def finish(self) -> Metrics:
        """Figures of all images so far.

        Returns:
            ``all``, ``seen``, ``unseen``: the means of :data:`METRICS` over the classes that have instances;
            ``harmonic``: ``PQ`` of seen and unseen; ``per_class``: by name, with ``seen`` and ``instances``;
            ``images``: count. None is for what is undefined, as all of a class without instances (which panopticapi
            counts as 0 where something was mistaken for it).
        """
        instances = (self._counts[:, 1] + self._counts[:, 3]).astype(int)  # tp + fn
        scores = np.full((len(self.names), len(METRICS)), np.nan)
        for index in np.flatnonzero(instances):
            iou, tp, fp, fn = self._counts[index]
            scores[index] = 100 * np.array(metrics.panoptic_quality(iou, int(tp), int(fp), int(fn)))
        return {
            **by_class(METRICS, scores, self.names, self.seen, instances, ("PQ",)),
            "images": self._images,
        }

    def _dataset(self, record: Mapping[str, Any], segments: Sequence[Segment]) -> dict[str, Any]:
        """One image as a COCO dataset; the last category is the background."""
        things = len(self.names)
        return {
            "images": [{"id": 1, "height": record["height"], "width": record["width"], "file_name": "1"}],
            "categories": [{"id": i + 1, "name": str(i), "isthing": int(i < things)} for i in range(things + 1)],
            "annotations": [
                {"id": number, "image_id": 1, "category_id": label + 1, "segmentation": rle, "iscrowd": crowd}
                for number, (label, rle, crowd) in enumerate(segments, start=1)
            ],
        }


def flatten(detections: Sequence[Detection]) -> list[Detection]:
    """Make masks disjoint: the best one keeps its pixels, and one that keeps less than half is dropped.

    Returns:
        Those kept, best first.
    """
    taken: NDArray[np.bool_] | None = None
    kept = []
    for item in sorted(detections, key=lambda item: -item.score):
        if taken is None:
            taken = np.zeros(item.rle["size"], dtype=bool)
        where, mask = part(item.rle)
        free = mask & ~taken[where]
        if not mask.any() or free.sum() < KEPT * mask.sum():
            continue
        taken[where] |= free
        rle = item.rle
        if free.sum() < mask.sum():
            whole = np.zeros_like(taken)
            whole[where] = free
            rle = encode(whole[None])[0]
        kept.append(Detection(item.label, item.score, rle))
    return kept


def _annotated(record: Mapping[str, Any], background: int) -> list[Segment]:
    """The visible parts of the ground truth, and the rest as a segment of the class ``background``."""
    size = (record["height"], record["width"])
    annotations = record.get("annotations", ())
    rles = [encode_shape(item["segmentation"], *size) for item in annotations]
    first: dict[int, int] = {}  # panopticapi knows one crowd a class
    owner = np.arange(IGNORED + 1, dtype=np.uint16)
    for index, item in enumerate(annotations):
        if item.get("iscrowd", 0):
            owner[index] = first.setdefault(item["category_id"], index)
    canvas = owner[paint(rles, *size)]
    visible = np.bincount(canvas.ravel(), minlength=IGNORED + 1)

    segments: list[Segment] = []
    for index, (item, rle) in enumerate(zip(annotations, rles, strict=True)):
        crowd = int(item.get("iscrowd", 0))
        if visible[index]:
            whole = not crowd and visible[index] == area(rle)
            segments.append((item["category_id"], rle if whole else encode((canvas == index)[None])[0], crowd))
    # without it, hotcoco takes these pixels for unlabelled, where nothing that is found can be wrong
    if visible[IGNORED]:
        segments.append((background, encode((canvas == IGNORED)[None])[0], 0))
    return segments
