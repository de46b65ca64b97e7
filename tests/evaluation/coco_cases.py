"""Hard cases for a COCO evaluator, made from a seed, and pycocotools as the reference to score them with."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from score.detections import Detection
from score.masks import RLE

HEIGHT, WIDTH = 150, 180


def rectangle(x: int, y: int, w: int, h: int, height: int = HEIGHT, width: int = WIDTH) -> RLE:
    """A filled rectangle, cut at the image's edges."""
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
    return coco_mask.encode(mask)


def record(image_id: int, objects: Sequence[tuple[int, Any]], crowds: Sequence[int] = ()) -> dict[str, Any]:
    """A detectron2 dataset dict from ``(class, segmentation)`` pairs."""
    annotations = [
        {"category_id": label, "segmentation": segmentation, "iscrowd": int(index in crowds)}
        for index, (label, segmentation) in enumerate(objects)
    ]
    return {"image_id": image_id, "height": HEIGHT, "width": WIDTH, "annotations": annotations}


def crowded_scenes(
    seed: int, images: int, classes: int, per_image: int
) -> tuple[list[dict[str, Any]], dict[int, list[Detection]]]:
    """Overlapping objects of all sizes, crowds, tied scores, wrong names, empty masks, images with nothing.

    The last class never occurs in the ground truth; image ids are neither ordered nor contiguous and include 0.
    """
    rng = np.random.default_rng(seed)
    records, detections = [], {}
    for image_id in [*rng.permutation(3 * images)[: images - 1].tolist(), 3 * images]:
        count = int(rng.integers(0, 12))
        sides = rng.choice([6, 30, 60, 140], size=(count, 1)) * rng.uniform(0.5, 1, (count, 2))  # small, medium, large
        shapes = [[int(v) for v in (*rng.integers(0, 60, 2), *side)] for side in sides]
        labels = rng.integers(0, classes - 1, count).tolist()
        objects = [(label, rectangle(*shape)) for label, shape in zip(labels, shapes, strict=True)]
        records.append(record(image_id, objects, crowds=np.flatnonzero(rng.random(count) < 0.2).tolist()))
        found = []
        for _ in range(per_image if rng.random() < 0.8 else 0):
            if count and rng.random() < 0.7:
                index = int(rng.integers(count))
                shape = [int(v + d) for v, d in zip(shapes[index], rng.integers(-4, 5, 4), strict=True)]
                label = labels[index] if rng.random() < 0.8 else int(rng.integers(classes))
            else:
                shape = [int(v) for v in (*rng.integers(0, 120, 2), *rng.integers(0, 60, 2))]
                label = int(rng.integers(classes))
            found.append(Detection(label, float(rng.integers(0, 20)) / 20, rectangle(*shape)))
        if found:
            detections[image_id] = found
    return records, detections


def reference(
    records: Sequence[Mapping[str, Any]], detections: Mapping[int, Sequence[Detection]], classes: int
) -> list[dict[str, float]]:
    """Each class's figures by pycocotools, in percent, -100 where it has no instances; annotation ids from 1."""
    annotations = [
        {**item, "image_id": image["image_id"], "category_id": item["category_id"] + 1}
        for image in records
        for item in image["annotations"]
    ]
    for number, item in enumerate(annotations, start=1):
        area = item.get("area", float(coco_mask.area(item["segmentation"])))
        item.update(id=number, area=area, bbox=coco_mask.toBbox(item["segmentation"]).tolist())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": image["image_id"], "height": image["height"], "width": image["width"]} for image in records
            ],
            "categories": [{"id": index + 1, "name": str(index)} for index in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        results = [
            {"image_id": image_id, "category_id": item.label + 1, "score": item.score, "segmentation": item.rle}
            for image_id, items in detections.items()
            for item in items
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = 100 * evaluation.eval["precision"][..., -1]  # [IoU, recall, C, area]
    return [
        {
            "AP": precision[:, :, c, 0].mean(),
            "AP50": precision[0, :, c, 0].mean(),
            "AP75": precision[5, :, c, 0].mean(),
            "APs": precision[:, :, c, 1].mean(),
            "APm": precision[:, :, c, 2].mean(),
            "APl": precision[:, :, c, 3].mean(),
        }
        for c in range(classes)
    ]
