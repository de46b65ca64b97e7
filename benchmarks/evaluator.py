"""Compare the evaluator with pycocotools on a model's real predictions, masks and boxes: figures and time.

Usage: python benchmarks/evaluator.py MODEL_FOLDER DATASET [--repeats 3] [--alpha 0.4 --beta 0.4] [--limit N]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from score.data import catalog
from score.detections import Detection
from score.evaluation.coco import METRICS, IouType, coco_metrics
from score.masks import encode_shape
from score.model.classifier import Ensemble
from score.studies.study import Predicted, Study

CAP = 300


def prepare(
    records: list[dict[str, Any]], detections: dict[int, list[Detection]], classes: int
) -> tuple[COCO, list[dict[str, Any]]]:
    """What pycocotools reads; ids are counted from 1, for it takes 0 for no match."""
    annotations: list[dict[str, Any]] = []
    for record in records:
        for item in record["annotations"]:
            rle = encode_shape(item["segmentation"], record["height"], record["width"])
            fields = {"id": len(annotations) + 1, "image_id": record["image_id"], "segmentation": rle}
            shape = {"area": item["area"], "bbox": item["bbox"], "iscrowd": item["iscrowd"]}
            annotations.append({**fields, **shape, "category_id": item["category_id"] + 1})
    images = [{"id": item["image_id"], "height": item["height"], "width": item["width"]} for item in records]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": str(index)} for index in range(classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    found = [
        {"image_id": image_id, "category_id": item.label + 1, "score": item.score, "segmentation": item.rle}
        for image_id, items in detections.items()
        for item in sorted(items, key=lambda item: -item.score)[:CAP]
    ]
    return truth, found


def reference(truth: COCO, found: list[dict[str, Any]], iou_type: IouType) -> np.ndarray:
    """Figures of each class by pycocotools, ``[C, 6]`` in percent, NaN where undefined."""
    # a detection's size is that of its box where boxes are compared: pycocotools looks for a box first
    own = [{**item, "bbox": coco_mask.toBbox(item["segmentation"]).tolist()} for item in found]
    results = truth.loadRes(own if iou_type == "bbox" else [dict(item) for item in found])
    evaluation = COCOeval(truth, results, iou_type)
    evaluation.params.maxDets = [1, 10, CAP]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = 100 * evaluation.eval["precision"][..., -1].mean(axis=1)  # [IoU, C, area]
    sizes = [precision[..., size].mean(axis=0) for size in (1, 2, 3)]
    figures = np.stack([precision[..., 0].mean(axis=0), precision[0, :, 0], precision[5, :, 0], *sizes], axis=1)
    return np.where(figures < 0, np.nan, figures)


def main() -> None:
    """Print the largest difference, the median of each one's seconds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--beta", type=float, default=0.4)
    parser.add_argument("--limit", type=int)
    settings = parser.parse_args()
    catalog.register()
    study = Study(settings.model, settings.model / "predictions", torch.device("cpu"), limit=settings.limit)
    with study.predicted(settings.dataset) as predicted:
        ensemble, seen = Ensemble(alpha=settings.alpha, beta=settings.beta), torch.tensor(predicted.seen)
        detections = {item["image_id"]: image.instances(ensemble, seen, CAP) for item, image in predicted}
    truth, found = prepare(predicted.records, detections, len(predicted.names))
    print(f"{settings.dataset}: {len(predicted.records)} images, {len(found)} detections")
    for iou_type in get_args(IouType):
        compare(predicted, detections, truth, found, iou_type, settings.repeats)


def compare(
    predicted: Predicted,
    detections: dict[int, list[Detection]],
    truth: COCO,
    found: list[dict[str, Any]],
    iou_type: IouType,
    repeats: int,
) -> None:
    times: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    for repeat in range(repeats + 1):  # the first warms both up
        start = time.perf_counter()
        ours = coco_metrics(predicted.records, detections, predicted.names, predicted.seen, CAP, iou_type)
        middle = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = reference(truth, found, iou_type)
        end = time.perf_counter()
        if repeat:
            times["ours"].append(middle - start)
            times["pycocotools"].append(end - middle)
    figures = np.array([[item[key] for key in METRICS] for item in ours["per_class"].values()], dtype=float)
    assert (np.isnan(figures) == np.isnan(theirs)).all()
    first, second = (statistics.median(times[key]) for key in ("ours", "pycocotools"))
    print(
        f"{iou_type}: AP {ours['all']['AP']:.4f}; largest difference of {np.isfinite(figures).sum()} figures "
        f"{np.nanmax(abs(figures - theirs)):.1e}\n  "
        f"median of {repeats}: {first:.2f} s, pycocotools {second:.2f} s, ratio {second / first:.1f}"
    )


if __name__ == "__main__":
    main()
