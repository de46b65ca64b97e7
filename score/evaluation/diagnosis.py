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

from score.detections import Detection, encode_segmentation
from score.errors import DataError

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
        instances: ``[C]`` int64, how many of each are annotated, crowds left out.
        curves: ``[2, C, 101]``, precision 0 .. 1 at the recalls 0, 0.01 .. 1 for each of :data:`CURVE_IOUS`; its mean
            is the class's AP at that IoU. NaN for a class without instances.
        confusion: ``[C + 1, C + 1]`` int64, rows are the truth and columns the prediction. The last column counts
            objects that were missed, the last row detections where nothing is.
        images: every image that has an object or a detection.
        score: the least score that counted in ``confusion`` and ``images``.
        iou: the least mask IoU of a match in them.
    """

    names: list[str]
    instances: NDArray[np.int64]
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
        max_detections: the best so many of each image count, as in ``coco_metrics``.
    """

    def __init__(self, names: Sequence[str], score: float = 0.3, iou: float = 0.5, max_detections: int = 300) -> None:
        self.names, self.score, self.iou, self.max_detections = list(names), score, iou, max_detections
        classes = len(self.names)
        params = hotcoco.Params("segm")
        params.iou_thrs = list(CURVE_IOUS)
        params.area_rng, params.area_rng_lbl = [[0, 1e10]], ["all"]
        params.max_dets = [max_detections]
        categories = [{"id": index, "name": str(index)} for index in range(classes)]
        self._stream = hotcoco.StreamingEval(categories, "segm", params=params)
        self._instances = np.zeros(classes, dtype=np.int64)
        self._confusion = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        self._images: list[ImageQuality] = []
        self._taken = self._annotated = 0

    def add(self, record: Mapping[str, Any], detections: Sequence[Detection]) -> None:
        """Take one image.

        Args:
            record: its detectron2 dataset dict; ``category_id`` is a position in ``names``.
            detections: what was found in it, in any order.

        Raises:
            DataError: a detection of another image size, or of a class that is not among the names.
        """
        size, image_id = [record["height"], record["width"]], record["image_id"]
        for item in detections:
            if list(item.rle["size"]) != size or not 0 <= item.label < len(self.names):
                raise DataError(
                    f"a detection of class {item.label} and size {list(item.rle['size'])} in image {image_id} of size "
                    f"{size}, of {len(self.names)} classes; were they made from another dataset?"
                )
        self._taken += 1
        image = {"id": self._taken, "height": size[0], "width": size[1]}
        truth = self._truth(record)
        best_first = sorted(detections, key=lambda item: -item.score)[: self.max_detections]
        found: list[dict[str, Any]] = [
            {"image_id": self._taken, "category_id": item.label, "score": item.score, "segmentation": item.rle}
            for item in best_first
        ]
        self._stream.update([image], truth, found)
        sure = [item for item in found if item["score"] >= self.score]
        if truth or sure:
            self._match(image_id, image, truth, sure)

    def finish(self) -> Findings:
        """Draw the curves; nothing can be added afterwards."""
        evaluation = self._stream.finalize()
        evaluation.accumulate()
        assert evaluation.eval is not None
        precision = evaluation.eval["precision"][..., 0, 0]  # [IoU, recall, C]
        curves = np.where(precision < 0, np.nan, precision).transpose(0, 2, 1)
        return Findings(
            self.names, self._instances, curves, self._confusion, self._images, score=self.score, iou=self.iou
        )

    def _truth(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        truth = []
        for item in record.get("annotations", ()):
            self._annotated += 1  # COCO takes the id 0 for "not matched", so ids are given anew, from 1
            truth.append(
                {
                    "id": self._annotated,
                    "image_id": self._taken,
                    "category_id": item["category_id"],
                    "segmentation": encode_segmentation(item["segmentation"], record["height"], record["width"]),
                    "iscrowd": int(item.get("iscrowd", 0)),
                }
            )
            self._instances[item["category_id"]] += not truth[-1]["iscrowd"]
        return truth

    def _match(
        self, image_id: int | str, image: dict[str, Any], truth: list[dict[str, Any]], found: list[dict[str, Any]]
    ) -> None:
        """Count one image in; a streaming evaluator has kept no masks in the end, so it counts neither of these."""
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
                self._images.append(ImageQuality(image_id, 2 * tp / (2 * tp + fp + fn), tp, fp, fn))

        # load_res numbers detections from 1; those on crowds have no status
        counted = [item for number, item in enumerate(found, start=1) if number in matches["dt_status"]]
        any_class = hotcoco.COCOeval(objects, objects.load_res(counted), "segm")
        counts = any_class.confusion_matrix(iou_thr=self.iou, max_det=self.max_detections)["matrix"]
        where = [*labels, len(self.names)]
        self._confusion[np.ix_(where, where)] += counts.astype(np.int64)


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
