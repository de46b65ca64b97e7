"""COCO mask AP: over all, seen and unseen classes, their harmonic mean, and per class.

:func:`coco_metrics` needs ground truth and encoded detections only, so cached predictions can be scored again
without a model; :class:`CocoEvaluator` collects both behind detectron2's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from score.detections import Detection, encode_instances, encode_segmentation
from score.errors import ConfigError, DataError
from score.model.vocabulary import normalise, synonyms

Metrics = dict[str, Any]

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""What is said of every group and class; ``s, m, l`` are COCO's: mask area below 32^2, 96^2, and above."""


def coco_metrics(
    ground_truth: Sequence[Mapping[str, Any]],
    detections: Mapping[int, Sequence[Detection]],
    names: Sequence[str],
    seen: Sequence[bool],
    max_detections: int = 300,
) -> Metrics:
    """Score detections as COCO does, IoU 0.50:0.05:0.95, in percent.

    Args:
        ground_truth: detectron2 dataset dicts of exactly the images to score; ``category_id`` is a position in
            ``names``. An annotation's own ``area`` decides its size class where stated, its mask's otherwise.
        detections: image id to the detections of that image; an absent image has none.
        names: the ``C`` classes.
        seen: ``C`` flags, true for a class of the training vocabulary.
        max_detections: the best so many of each image count, over all classes together.

    Returns:
        ``all``, ``seen``, ``unseen``: the means of :data:`METRICS` over the classes that have instances;
        ``harmonic``: ``AP``, ``AP50`` of seen and unseen; ``per_class``: by name, with ``seen`` and ``instances``;
        ``images`` and ``detections``: counts. None is for what is undefined, as the AP of a class without instances.

    Raises:
        DataError: a detection of an image or class that is not among those scored.
    """
    if len(names) != len(seen):
        raise ValueError(f"{len(names)} names and {len(seen)} seen flags")
    capped = _cap(detections, max_detections)
    _check(ground_truth, capped, len(names))
    scores, instances = _score(ground_truth, capped, len(names), max_detections)  # [C, metrics], [C]

    flags = np.asarray(seen, dtype=bool)
    groups = {
        name: _mean(scores[chosen]) for name, chosen in (("all", flags | True), ("seen", flags), ("unseen", ~flags))
    }
    per_class = {
        name: {**_named(row), "seen": bool(flag), "instances": int(count)}
        for name, row, flag, count in zip(names, scores, flags, instances, strict=True)
    }
    return {
        **groups,
        "harmonic": {key: harmonic_mean(groups["seen"][key], groups["unseen"][key]) for key in ("AP", "AP50")},
        "per_class": per_class,
        "images": len(ground_truth),
        "detections": sum(map(len, capped.values())),
    }


def harmonic_mean(first: float | None, second: float | None) -> float | None:
    """``2ab / (a + b)``; 0 where both are 0, None where either is."""
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def _cap(detections: Mapping[int, Sequence[Detection]], limit: int) -> dict[int, list[Detection]]:
    return {key: sorted(items, key=lambda item: -item.score)[:limit] for key, items in detections.items()}


def _check(ground_truth: Sequence[Mapping[str, Any]], detections: Mapping[int, list[Detection]], classes: int) -> None:
    sizes = {record["image_id"]: [record["height"], record["width"]] for record in ground_truth}
    for image_id, items in detections.items():
        if image_id not in sizes:
            raise DataError(
                f"detections of image {image_id}, which is not in the ground truth; are they of another dataset?"
            )
        for item in items:
            if not 0 <= item.label < classes:
                raise DataError(f"a detection of class {item.label} in image {image_id}, of {classes} classes")
            if list(item.rle["size"]) != sizes[image_id]:
                size = list(item.rle["size"])
                raise DataError(f"a mask of size {size} in image {image_id} of height, width {sizes[image_id]}")


def _score(
    ground_truth: Sequence[Mapping[str, Any]],
    detections: Mapping[int, list[Detection]],
    classes: int,
    max_detections: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Match and accumulate: ``[C, metrics]`` in percent, NaN where undefined, and ``[C]`` instances without crowds."""
    params = hotcoco.Params("segm")
    params.max_dets = [max_detections]
    stream = hotcoco.StreamingEval([{"id": i + 1, "name": str(i)} for i in range(classes)], "segm", params=params)
    instances = np.zeros(classes, dtype=np.int64)
    next_id = 1  # COCO takes the id 0 for "not matched", so every id is given anew
    # equal scores of different images are ranked by image id, as pycocotools does
    for image_id, record in enumerate(sorted(ground_truth, key=lambda record: record["image_id"]), start=1):
        annotations = _annotations(record, image_id, next_id)
        next_id += len(annotations)
        for item in annotations:
            instances[item["category_id"] - 1] += not item["iscrowd"]
        image = {"id": image_id, "height": record["height"], "width": record["width"], "file_name": str(image_id)}
        found = [
            {"image_id": image_id, "category_id": item.label + 1, "score": item.score, "segmentation": item.rle}
            for item in detections.get(record["image_id"], ())
        ]
        stream.update([image], annotations, found)
    evaluation = stream.finalize()
    evaluation.accumulate()
    result = evaluation.eval
    assert result is not None
    precision = result["precision"][..., -1]  # [IoU, recall, C, area]
    average = precision.mean(axis=1)  # [IoU, C, area]; a class without instances is -1 throughout
    columns = [
        average[..., 0].mean(0),
        average[0, :, 0],
        average[5, :, 0],
        *(average[..., a].mean(0) for a in (1, 2, 3)),
    ]
    scores = np.stack(columns, axis=1)
    return np.where(scores < 0, np.nan, 100 * scores), instances


def _annotations(record: Mapping[str, Any], image_id: int, first_id: int) -> list[dict[str, Any]]:
    annotations = []
    for number, item in enumerate(record.get("annotations", ()), start=first_id):
        rle = encode_segmentation(item["segmentation"], record["height"], record["width"])
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": item["category_id"] + 1,
                "segmentation": rle,
                "area": float(item.get("area", coco_mask.area(rle))),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "iscrowd": int(item.get("iscrowd", 0)),
            }
        )
    return annotations


def _mean(scores: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean over the classes ``[n, metrics]`` where it is defined."""
    defined = ~np.isnan(scores)
    count = defined.sum(axis=0)
    total = np.where(defined, scores, 0).sum(axis=0)
    return _named(np.divide(total, count, out=np.full(len(METRICS), np.nan), where=count > 0))


def _named(row: NDArray[np.float64]) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else float(value) for key, value in zip(METRICS, row, strict=True)}


class CocoEvaluator(DatasetEvaluator):
    """Collect a model's output over a registered dataset and score it with :func:`coco_metrics`.

    Masks are encoded as they come; only run lengths are kept. Images that were never processed do not count, so
    that a part of a dataset can be scored.

    Args:
        dataset_name: a name in detectron2's catalogs.
        names: the vocabulary of the model's ``pred_classes``. Every class of the dataset must be in it, alone or as
            one of comma-separated synonyms, in any order.
        seen: a flag for each of ``names``: is it in the training vocabulary?
        max_detections: the best so many of each image count.

    Raises:
        ConfigError: a class of the dataset is not in ``names``.
    """

    def __init__(
        self, dataset_name: str, names: Sequence[str], seen: Sequence[bool], max_detections: int = 300
    ) -> None:
        self.dataset_name = dataset_name
        self.names = list(names)
        self.seen = [bool(flag) for flag in seen]
        self.max_detections = max_detections
        self._position = _positions(MetadataCatalog.get(dataset_name).thing_classes, self.names, dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.detections: dict[int, list[Detection]] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take a batch: detectron2's dataset dicts, and dicts with ``instances`` at the original image size."""
        for record, output in zip(inputs, outputs, strict=True):
            self.detections[record["image_id"]] = encode_instances(output["instances"])

    def evaluate(self) -> Metrics | None:
        """Gather all processes' detections and score them; None on every process but the main one."""
        comm.synchronize()
        parts = comm.gather(self.detections, dst=0)
        if not comm.is_main_process():
            return None
        detections = {image_id: items for part in parts for image_id, items in part.items()}
        records = [record for record in DatasetCatalog.get(self.dataset_name) if record["image_id"] in detections]
        return coco_metrics(
            [self._by_name(record) for record in records], detections, self.names, self.seen, self.max_detections
        )

    def _by_name(self, record: Mapping[str, Any]) -> dict[str, Any]:
        annotations = [
            {**item, "category_id": self._position[item["category_id"]]} for item in record.get("annotations", ())
        ]
        return {**record, "annotations": annotations}


def _positions(classes: Sequence[str], names: Sequence[str], dataset: str) -> list[int]:
    """Where each class of the dataset stands in the vocabulary."""
    where = {synonym: index for index, name in enumerate(names) for synonym in synonyms(name)}
    missing = [name for name in classes if normalise(name) not in where]
    if missing:
        raise ConfigError(f"the vocabulary lacks {', '.join(missing)} of {dataset}; add them to score this dataset")
    return [where[normalise(name)] for name in classes]
