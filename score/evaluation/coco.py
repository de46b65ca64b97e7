"""COCO AP of masks or boxes: over all, seen and unseen classes, their harmonic mean, and per class.

:class:`CocoScorer` takes images one by one and keeps no mask, so memory stays flat; :func:`coco_metrics` feeds it from
what is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

from score import masks
from score.detections import Detection
from score.errors import DataError

Metrics = dict[str, Any]
IouType = Literal["segm", "bbox"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""What is said of every group and class; ``s, m, l`` are COCO's: mask area below 32^2, 96^2, and above."""


class CocoScorer:
    """Scores detections as COCO does, IoU 0.50:0.05:0.95, in percent, image by image in any order.

    Args:
        names: the ``C`` classes.
        seen: ``C`` flags, true for a class of the training vocabulary.
        max_detections: the best so many of each image count, over all classes together.
        iou_type: ``segm`` compares masks; ``bbox`` the extents of the detections' masks with the annotated boxes, or
            with the extents of the annotated masks where a box is not stated.
    """

    def __init__(
        self, names: Sequence[str], seen: Sequence[bool], max_detections: int = 300, iou_type: IouType = "segm"
    ) -> None:
        if len(names) != len(seen):
            raise ValueError(f"{len(names)} names and {len(seen)} seen flags")
        self.names, self.seen = list(names), [bool(flag) for flag in seen]
        self.max_detections, self.iou_type = max_detections, iou_type
        params = hotcoco.Params(iou_type)
        params.max_dets = [max_detections]
        categories = [{"id": index + 1, "name": str(index)} for index in range(len(names))]
        self._stream = hotcoco.StreamingEval(categories, iou_type, params=params)
        self._evaluation: hotcoco.COCOeval | None = None
        self._ranks: set[int] = set()
        self._instances = np.zeros(len(names), dtype=np.int64)
        self._detections = 0

    def add(self, record: Mapping[str, Any], detections: Sequence[Detection], rank: int | None = None) -> None:
        """Match the detections of an image to its ground truth.

        Args:
            record: a detectron2 dataset dict; ``category_id`` is a position in ``names``. An annotation's own ``area``
                decides its size class where stated, its mask's otherwise.
            detections: of this image, in any order.
            rank: equal scores of different images are ranked by it, as by :func:`ranks`; by default by the image's
                id, as pycocotools does, or the order of adding where ids are no numbers.

        Raises:
            DataError: a detection of a class that is not among those scored, of another size than the image or without
                a finite score, or an image that has been added before.
        """
        best = sorted(detections, key=lambda item: -item.score)[: self.max_detections]
        check(record, best, len(self.names))
        if rank is None:
            rank = _rank(record["image_id"], len(self._ranks))
        if rank in self._ranks:
            raise DataError(f"image {record['image_id']} comes twice; give every image an id of its own")
        annotations = _annotations(record, rank)
        key, attribute = ("segmentation", "rle") if self.iou_type == "segm" else ("bbox", "box")
        found = [
            {"image_id": rank, "category_id": item.label + 1, "score": item.score, key: getattr(item, attribute)}
            for item in best
        ]
        image = {"id": rank, "height": record["height"], "width": record["width"], "file_name": str(rank)}
        self._stream.update([image], annotations, found)
        self._ranks.add(rank)
        self._detections += len(best)
        for item in annotations:
            self._instances[item["category_id"] - 1] += not item["iscrowd"]

    def merge(self, others: Sequence[CocoScorer]) -> None:
        """Take in the images of other processes, none of which is in two shares.

        Raises:
            DataError: an image is in two of them.
        """
        self._stream = hotcoco.StreamingEval.merge([self._stream, *(other._stream for other in others)])
        for other in others:
            if not self._ranks.isdisjoint(other._ranks):
                raise DataError("an image was scored by two processes; let every process have its own share")
            self._ranks |= other._ranks
            self._instances += other._instances
            self._detections += other._detections

    @property
    def evaluation(self) -> hotcoco.COCOeval:
        """The accumulated evaluation, for curves: ``eval["precision"]`` is ``[IoU, recall, C, area, 1]``.

        It holds no annotations, so hotcoco's diagnostics of single objects find nothing in it. Nothing can be added
        afterwards.
        """
        if self._evaluation is None:
            self._evaluation = self._stream.finalize()
            self._evaluation.accumulate()
        return self._evaluation

    def finish(self) -> Metrics:
        """Figures of all images so far; nothing can be added afterwards.

        Returns:
            ``all``, ``seen``, ``unseen``: the means of :data:`METRICS` over the classes that have instances;
            ``harmonic``: ``AP``, ``AP50`` of seen and unseen; ``per_class``: by name, with ``seen`` and ``instances``;
            ``images`` and ``detections``: counts. None is for what is undefined, as the AP of a class without
            instances.
        """
        result = self.evaluation.eval
        assert result is not None
        average = result["precision"][..., -1].mean(axis=1)  # [IoU, C, area]; without instances -1 throughout
        overall = average[..., 0]
        sizes = [average[..., size].mean(axis=0) for size in (1, 2, 3)]
        scores = np.stack([overall.mean(axis=0), overall[0], overall[5], *sizes], axis=1)  # [C, metrics]
        scores = np.where(scores < 0, np.nan, 100 * scores)
        return {
            **by_class(METRICS, scores, self.names, self.seen, self._instances, ("AP", "AP50")),
            "images": len(self._ranks),
            "detections": self._detections,
        }


def coco_metrics(
    ground_truth: Sequence[Mapping[str, Any]],
    detections: Mapping[int, Sequence[Detection]],
    names: Sequence[str],
    seen: Sequence[bool],
    max_detections: int = 300,
    iou_type: IouType = "segm",
) -> Metrics:
    """Score masks, or the boxes around them, that are all in memory.

    Args:
        ground_truth: detectron2 dataset dicts of exactly the images to score, as :meth:`CocoScorer.add` takes them.
        detections: image id to the detections of that image; an absent image has none.
        names, seen, max_detections, iou_type: as :class:`CocoScorer` has them.

    Returns:
        What :meth:`CocoScorer.finish` does.

    Raises:
        DataError: a detection of an image or class that is not among those scored.
    """
    scorer = CocoScorer(names, seen, max_detections, iou_type)
    known = {record["image_id"] for record in ground_truth}
    for image_id in detections:
        if image_id not in known:
            raise DataError(
                f"detections of image {image_id}, which is not in the ground truth; are they of another dataset?"
            )
    order = ranks(known)
    for record in ground_truth:
        scorer.add(record, detections.get(record["image_id"], ()), order[record["image_id"]])
    return scorer.finish()


def check(record: Mapping[str, Any], detections: Sequence[Detection], classes: int) -> None:
    """Refuse detections that cannot be of this image.

    Raises:
        DataError: one of a class that is not among ``classes``, of another size than the image, or whose score is
            infinite or not a number.
    """
    image_id, size = record["image_id"], [record["height"], record["width"]]
    for item in detections:
        if not 0 <= item.label < classes:
            raise DataError(f"a detection of class {item.label} in image {image_id}, of {classes} classes")
        if not math.isfinite(item.score):
            raise DataError(f"a detection of score {item.score} in image {image_id}; the model has diverged")
        if list(item.rle["size"]) != size:
            found = list(item.rle["size"])
            raise DataError(f"a mask of size {found} in image {image_id} of height, width {size}")


def by_class(
    keys: Sequence[str],
    scores: NDArray[np.float64],
    names: Sequence[str],
    seen: Sequence[bool],
    instances: NDArray[np.int64],
    harmonic: Iterable[str],
) -> Metrics:
    """Figures of groups of classes, means over those where they are not NaN, and of each class.

    Args:
        scores: ``[C, keys]``, NaN where undefined.
        names, seen, instances: of the ``C`` classes.
        harmonic: as :func:`split` has it.
    """
    rows = zip(names, scores, seen, instances.tolist(), strict=True)
    return {
        **split(seen, lambda chosen: mean(keys, scores[chosen]), harmonic),
        "per_class": {name: {**named(keys, row), "seen": flag, "instances": n} for name, row, flag, n in rows},
    }


def split(
    seen: Sequence[bool], figures: Callable[[NDArray[np.bool_]], Mapping[str, float | None]], harmonic: Iterable[str]
) -> Metrics:
    """Figures of ``all``, ``seen`` and ``unseen`` classes, and the ``harmonic`` mean of the latter two.

    Args:
        seen: ``C`` flags.
        figures: gives those of the classes that ``[C]`` bool chooses.
        harmonic: which of them to take the harmonic mean of.
    """
    flags = np.asarray(seen, dtype=bool)
    groups = {"all": figures(flags | True), "seen": figures(flags), "unseen": figures(~flags)}
    means = {key: harmonic_mean(groups["seen"][key], groups["unseen"][key]) for key in harmonic}
    return {**groups, "harmonic": means}


def harmonic_mean(first: float | None, second: float | None) -> float | None:
    """``2ab / (a + b)``; 0 where both are 0, None where either is."""
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def mean(keys: Sequence[str], scores: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean of each column over the classes ``[n, keys]`` where it is not NaN."""
    defined = ~np.isnan(scores)
    count = defined.sum(axis=0)
    total = np.where(defined, scores, 0).sum(axis=0)
    return named(keys, np.divide(total, count, out=np.full(len(keys), np.nan), where=count > 0))


def named(keys: Sequence[str], row: NDArray[np.float64]) -> dict[str, float | None]:
    """Figures by name, None for NaN."""
    return {key: None if np.isnan(value) else float(value) for key, value in zip(keys, row, strict=True)}


def ranks(image_ids: Iterable[int | str]) -> dict[int | str, int]:
    """Number images in the order in which equal scores of theirs are ranked: by id, as pycocotools, numbers first."""
    ordered = sorted(image_ids, key=lambda image_id: (isinstance(image_id, str), image_id))
    return {image_id: rank for rank, image_id in enumerate(ordered)}


def _rank(image_id: Any, count: int) -> int:
    """Of an image that comes alone; those without a number of their own come after all that have one."""
    return int(image_id) if isinstance(image_id, int | np.integer) and image_id >= 0 else (1 << 62) + count


def _annotations(record: Mapping[str, Any], image_id: int) -> list[dict[str, Any]]:
    annotations = []
    # COCO takes the id 0 for "not matched", so every id is given anew
    for number, item in enumerate(record.get("annotations", ()), start=1):
        rle = masks.encode_shape(item["segmentation"], record["height"], record["width"])
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": item["category_id"] + 1,
                "segmentation": rle,
                "area": float(item.get("area", masks.area(rle))),
                "bbox": list(item.get("bbox") or masks.box(rle)),
                "iscrowd": int(item.get("iscrowd", 0)),
            }
        )
    return annotations
