"""Where a model fails: precision against recall, which classes it confuses, its best and its worst images.

Images are taken one by one. What is kept of each is a few numbers, so memory does not grow with masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from numpy.typing import NDArray

from score.detections import Detection
from score.evaluation.coco import CocoScorer
from score.masks import encode_shape

CURVE_IOUS = (0.5, 0.75)
"""The mask IoU of each set of curves."""


class ImageQuality(NamedTuple):
    """How well one image came out: objects found under their own name, false ones, missed ones, and F1 of these."""

    image_id: int | str
    f1: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class Findings:
    """What a :class:`Diagnosis` says of a dataset, for ``C`` classes.

    Attributes:
        names: the classes.
        curves: ``[2, C, 101]``, precision 0 .. 1 at the recalls 0, 0.01 .. 1 for each of :data:`CURVE_IOUS`; its mean
            is the class's AP at that IoU. NaN for a class without instances.
        confusion: ``[C + 1, C + 1]`` int64, rows are the truth and columns the prediction. The last column counts
            objects that were missed, the last row detections where nothing is.
        images: every image that has an object or a detection.
        score: the least score that counted in ``confusion`` and ``images``.
        iou: the least mask IoU of a match in them.
    """

    names: list[str]
    curves: NDArray[np.float64]
    confusion: NDArray[np.int64]
    images: list[ImageQuality]
    score: float
    iou: float


class Diagnosis:
    """Collect ground truth and detections image by image.

    Matching is hotcoco's. For ``images`` a detection takes an object of its own class, as in COCO's AP. For
    ``confusion`` it takes the object that it overlaps most, whatever its class; the best score chooses first. What
    lies on a crowd of its class counts nowhere.

    Args:
        names: the ``C`` classes.
        score: detections below this count in the curves only.
        iou: the least mask IoU of a match, except in the curves.
        max_detections: the best so many of each image count, as in ``CocoScorer``.
    """

    def __init__(self, names: Sequence[str], score: float = 0.3, iou: float = 0.5, max_detections: int = 300) -> None:
        self.names, self.score, self.iou, self.max_detections = list(names), score, iou, max_detections
        self._scorer = CocoScorer(self.names, [True] * len(self.names), max_detections)
        self._confusion = np.zeros((len(self.names) + 1, len(self.names) + 1), dtype=np.int64)
        self._images: list[ImageQuality] = []

    def add(self, record: Mapping[str, Any], detections: Sequence[Detection], rank: int | None = None) -> None:
        """Take one image.

        Args:
            record: its detectron2 dataset dict; ``category_id`` is a position in ``names``.
            detections: what was found in it, in any order.
            rank: as ``CocoScorer.add`` has it.

        Raises:
            DataError: what ``CocoScorer.add`` refuses.
        """
        self._scorer.add(record, detections, rank)
        best_first = sorted(detections, key=lambda item: -item.score)[: self.max_detections]
        found = [
            {"image_id": 1, "category_id": item.label, "score": item.score, "segmentation": item.rle}
            for item in best_first
            if item.score >= self.score
        ]
        truth = _truth(record)
        if truth or found:
            self._match(record, truth, found)

    def finish(self) -> Findings:
        """Draw the curves; nothing can be added afterwards."""
        evaluation = self._scorer.evaluation
        assert evaluation.eval is not None
        chosen = [int(np.argmin(np.abs(np.subtract(evaluation.params.iou_thrs, iou)))) for iou in CURVE_IOUS]
        precision = evaluation.eval["precision"][chosen, :, :, 0, -1]  # [2, recall, C]; without instances -1
        curves = np.where(precision < 0, np.nan, precision).transpose(0, 2, 1)
        return Findings(self.names, curves, self._confusion, self._images, self.score, self.iou)

    def _match(self, record: Mapping[str, Any], truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
        """Count one image in; a streaming evaluator has kept no masks in the end, so it counts neither of these."""
        image = {"id": 1, "height": record["height"], "width": record["width"]}
        labels = sorted({item["category_id"] for item in (*truth, *found)})
        categories = [{"id": label, "name": str(label)} for label in labels]
        objects = hotcoco.COCO({"images": [image], "annotations": truth, "categories": categories})
        same_class = hotcoco.COCOeval(objects, objects.load_res(found), "segm")
        same_class.params.iou_thrs = [self.iou]
        same_class.params.max_dets = [self.max_detections]
        same_class.evaluate()
        matches = same_class.image_diagnostics(iou_thr=self.iou)
        for tp, fp, fn in ((item["tp"], item["fp"], item["fn"]) for item in matches["img_summary"].values()):
            if tp + fp + fn:
                self._images.append(ImageQuality(record["image_id"], 2 * tp / (2 * tp + fp + fn), tp, fp, fn))

        # load_res numbers detections from 1; those on crowds have no status
        counted = [item for number, item in enumerate(found, start=1) if number in matches["dt_status"]]
        any_class = hotcoco.COCOeval(objects, objects.load_res(counted), "segm")
        counts = any_class.confusion_matrix(iou_thr=self.iou, max_det=self.max_detections)["matrix"]
        where = [*labels, len(self.names)]
        self._confusion[np.ix_(where, where)] += counts.astype(np.int64)


def _truth(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,  # COCO takes the id 0 for "not matched"
            "image_id": 1,
            "category_id": item["category_id"],
            "segmentation": encode_shape(item["segmentation"], record["height"], record["width"]),
            "iscrowd": int(item.get("iscrowd", 0)),
        }
        for number, item in enumerate(record.get("annotations", ()), start=1)
    ]


def best_and_worst(images: Sequence[ImageQuality], count: int) -> tuple[list[ImageQuality], list[ImageQuality]]:
    """Choose images to look at.

    Args:
        images: as :class:`Findings` has them.
        count: how many of each at most.

    Returns:
        The best by F1, none of which is 0, and the worst, none of which is 1, no image in both. Of equals the one with
        more objects and detections comes first, then the one whose id does.
    """

    def rank(item: ImageQuality, sign: int) -> tuple[float, int, str]:
        return sign * item.f1, -(item.tp + item.fp + item.fn), str(item.image_id)

    best = sorted((item for item in images if item.f1 > 0), key=lambda item: rank(item, -1))[:count]
    rest = [item for item in images if item.f1 < 1 and item not in best]
    return best, sorted(rest, key=lambda item: rank(item, 1))[:count]
