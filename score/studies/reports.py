"""The HTML report of a dataset's predictions: figures, diagnosis, best and worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog

from score.data.images import read_image
from score.detections import Detection, ground_truth, select
from score.drawing import side_by_side
from score.evaluation.coco import METRICS, Metrics
from score.evaluation.diagnosis import Diagnosis, ImageQuality, best_and_worst
from score.model.classifier import Ensemble
from score.studies.html import Picture, Section, write_report
from score.studies.study import Predicted

BOXES = "AP of the boxes around the same masks, against the annotated boxes."
SHOWN = 0.3  # the least score in pictures, confusion and per-image scores


def write(
    path: Path,
    predicted: Predicted,
    metrics: Metrics,
    *,
    alpha: float,
    beta: float,
    top_k: int,
    max_detections: int,
    pictures: int,
    facts: Mapping[str, Any],
) -> None:
    """Write one self-contained HTML file.

    Args:
        path: the file.
        predicted: the dataset's predictions.
        metrics: what :meth:`Predicted.score` says at the same exponents.
        alpha, beta, top_k, max_detections: as there.
        pictures: so many of the best and of the worst images.
        facts: what the figures come from.
    """
    ensemble, seen = Ensemble(alpha=alpha, beta=beta), torch.tensor(predicted.seen)
    diagnosis = Diagnosis(predicted.names, score=SHOWN, max_detections=max_detections)
    for record, image in predicted:
        diagnosis.add(record, image.instances(ensemble, seen, top_k), predicted.ranks[record["image_id"]])
    findings = diagnosis.finish()
    best, worst = best_and_worst(findings.images, pictures)
    records = {record["image_id"]: record for record in predicted.records}

    def drawn(item: ImageQuality) -> Picture:
        record = records[item.image_id]
        found = predicted.cache[item.image_id].instances(ensemble, seen, top_k)
        return _draw(record, found, predicted.names, item)

    boxes = metrics["boxes"]
    rows = [[group, *(boxes[group][key] for key in METRICS)] for group in ("all", "seen", "unseen")]
    write_report(
        path,
        title=f"{predicted.dataset}",
        facts={**facts, "alpha, beta": f"{alpha:g}, {beta:g}", "top_k": top_k, "max_detections": max_detections},
        metrics=metrics,
        findings=findings,
        best=[drawn(item) for item in best],
        worst=[drawn(item) for item in worst],
        licence=MetadataCatalog.get(predicted.dataset).get("licence", ""),
        sections=[Section("Boxes", BOXES, ["classes", *METRICS], rows)],
    )


def _draw(
    record: Mapping[str, Any], detections: Sequence[Detection], names: Sequence[str], quality: ImageQuality
) -> Picture:
    found = select(detections, score=SHOWN)  # doubles too: the counts below a picture are of what it shows
    image = side_by_side(read_image(record["file_name"]), ground_truth(record), found, names)
    return Picture(Path(record["file_name"]).name, quality, image)
