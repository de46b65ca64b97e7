from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from score.detections import Detection
from score.errors import DataError
from score.evaluation.coco import coco_metrics
from score.evaluation.diagnosis import Diagnosis, Findings, ImageQuality, best_and_worst
from tests.evaluation.coco_cases import HEIGHT, WIDTH, crowded_scenes, record, rectangle

NAMES = ["ship", "car", "plane"]
A, B, C, D = (rectangle(x, 0, 20, 20) for x in (0, 40, 80, 120))


def findings_of(
    names: Sequence[str], images: Iterable[tuple[dict[str, Any], Sequence[Detection]]], **options: Any
) -> Findings:
    diagnosis = Diagnosis(names, **options)
    for item, detections in images:
        diagnosis.add(item, detections)
    return diagnosis.finish()


def test_curves_by_hand() -> None:
    """Two objects. Best first: a hit, a miss, a hit at IoU 0.6: precision 1 up to recall 0.5, then 2/3 or nothing."""
    truth = record(7, [(0, rectangle(0, 0, 10, 10)), (0, rectangle(50, 50, 10, 10))])
    found = [(0.7, rectangle(50, 50, 10, 6)), (0.9, rectangle(0, 0, 10, 10)), (0.8, rectangle(100, 100, 10, 10))]
    curves = findings_of(["ship", "car"], [(truth, [Detection(0, score, rle) for score, rle in found])]).curves
    assert curves.shape == (2, 2, 101)
    assert curves[0, 0] == pytest.approx([1] * 51 + [2 / 3] * 50)
    assert curves[1, 0] == pytest.approx([1] * 51 + [0] * 50)
    assert np.isnan(curves[:, 1]).all()  # no car anywhere


def test_the_mean_of_a_curve_is_average_precision() -> None:
    records, detections = crowded_scenes(0, images=12, classes=5, per_image=30)
    names = [f"class {index}" for index in range(5)]
    findings = findings_of(names, [(item, detections.get(item["image_id"], [])) for item in records])
    metrics = coco_metrics(records, detections, names, [True] * 5)["per_class"]
    for key, curves in zip(("AP50", "AP75"), findings.curves, strict=True):
        expected = [np.nan if item[key] is None else item[key] for item in metrics.values()]
        assert 100 * curves.mean(axis=1) == pytest.approx(expected, nan_ok=True)


def diagnose(*images: tuple[list[tuple], list[tuple]]) -> Findings:
    """Objects ``(class, rle)``, a crowd if it has a third entry, and detections ``(class, score, rle)``."""
    pairs = []
    for image_id, (objects, found) in enumerate(images):
        crowds = [index for index, item in enumerate(objects) if len(item) > 2]
        pairs.append((record(image_id, [item[:2] for item in objects], crowds), [Detection(*item) for item in found]))
    return findings_of(NAMES, pairs, score=0.3)


def test_confusion_by_hand() -> None:
    """A ship found, a car called a plane, a plane missed, a ship where nothing is, and an unsure detection."""
    found = [(0, 0.9, A), (2, 0.8, B), (0, 0.7, D), (2, 0.2, C)]
    findings = diagnose(([(0, A), (1, B), (2, C)], found))
    assert findings.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert findings.images == [ImageQuality(0, pytest.approx(2 / (2 + 2 + 2)), tp=1, fp=2, fn=2)]


def test_the_best_score_takes_the_object() -> None:
    """As in COCO's AP, the right name counts for F1 even below a wrong one; in the matrix one object has one name."""
    findings = diagnose(([(0, A)], [(0, 0.8, A), (1, 0.9, A)]))
    assert findings.confusion.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert findings.images == [ImageQuality(0, pytest.approx(2 / 3), tp=1, fp=1, fn=0)]


def test_what_lies_on_a_crowd_counts_nowhere() -> None:
    findings = diagnose(([(0, A), (1, B, "crowd")], [(0, 0.9, A), (1, 0.8, B), (1, 0.7, B)]))
    assert findings.confusion.sum() == findings.confusion[0, 0] == 1
    assert findings.images == [ImageQuality(0, 1.0, tp=1, fp=0, fn=0)]


def test_every_object_and_detection_is_in_the_matrix_once() -> None:
    records, detections = crowded_scenes(5, images=20, classes=4, per_image=30)
    for item in records:
        item["annotations"] = [annotation for annotation in item["annotations"] if not annotation["iscrowd"]]
    pairs = [(item, detections.get(item["image_id"], [])) for item in records]
    findings = findings_of(["a", "b", "c", "d"], pairs, score=0.5)
    objects = [annotation["category_id"] for item in records for annotation in item["annotations"]]
    assert findings.confusion[:-1].sum(axis=1).tolist() == np.bincount(objects, minlength=4).tolist()
    sure = [item.label for items in detections.values() for item in items if item.score >= 0.5]
    assert findings.confusion[:, :-1].sum(axis=0).tolist() == np.bincount(sure, minlength=4).tolist()
    assert sum(item.tp + item.fp for item in findings.images) == len(sure)
    assert sum(item.tp + item.fn for item in findings.images) == len(objects)


def test_images_without_anything_are_not_ranked() -> None:
    findings = diagnose(([], []), ([], [(0, 0.1, A)]), ([], [(0, 0.9, A)]), ([(0, A)], []))
    assert findings.images == [ImageQuality(2, 0.0, tp=0, fp=1, fn=0), ImageQuality(3, 0.0, tp=0, fp=0, fn=1)]


def test_best_and_worst_order() -> None:
    images = [
        ImageQuality("small", 1.0, 1, 0, 0),
        ImageQuality("large", 1.0, 9, 0, 0),
        ImageQuality("half", 0.5, 1, 1, 1),
        ImageQuality("missed", 0.0, 0, 0, 2),
        ImageQuality("crammed", 0.0, 0, 5, 3),
    ]
    best, worst = best_and_worst(images, 2)
    assert [item.image_id for item in best] == ["large", "small"]
    assert [item.image_id for item in worst] == ["crammed", "missed"]
    best, worst = best_and_worst(images, 5)
    assert [item.image_id for item in best] == ["large", "small", "half"]  # nothing found is not among the best
    assert [item.image_id for item in worst] == ["crammed", "missed"]  # no image is in both
    assert best_and_worst([], 3) == ([], [])


def test_detections_of_another_dataset_are_refused() -> None:
    diagnosis = Diagnosis(NAMES)
    with pytest.raises(DataError, match="image 4"):
        diagnosis.add(record(4, []), [Detection(3, 0.5, A)])
    with pytest.raises(DataError, match="image 5"):
        diagnosis.add(record(5, []), [Detection(0, 0.5, rectangle(0, 0, 5, 5, height=10, width=10))])


def test_no_masks_are_kept() -> None:
    """Everything it keeps, pickled, grows less with an image than that image's only mask takes."""
    noise = np.asfortranarray(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5).astype(np.uint8)
    mask = coco_mask.encode(noise)
    diagnosis = Diagnosis(["ship"])
    sizes = []
    for index in range(20):
        diagnosis.add(record(index, [(0, mask)]), [Detection(0, 0.5, mask)])
        sizes.append(len(pickle.dumps(diagnosis)))
    assert (sizes[-1] - sizes[9]) / 10 < len(mask["counts"]) / 10


def test_a_score_and_an_iou_that_count_are_stated_and_reached_exactly() -> None:
    """A score of 0.3 and an IoU of one half count; a little less does not."""
    half = rectangle(0, 0, 20, 10)
    for score, shape, right in ((0.3, half, 1), (0.2999, half, 0), (0.3, rectangle(0, 0, 20, 9), 0)):
        findings = findings_of(NAMES, [(record(1, [(0, A)]), [Detection(0, score, shape)])])
        assert (findings.score, findings.iou) == (0.3, 0.5)
        assert findings.confusion[0, 0] == right and findings.images[0].tp == right


def test_three_hundred_detections_of_an_image_count() -> None:
    found = [Detection(0, 0.5, D)] * 300 + [Detection(0, 0.4, A)]
    findings = findings_of(NAMES, [(record(1, [(0, A)]), found)])
    assert findings.images == [ImageQuality(1, 0.0, 0, 300, 1)]
    assert findings_of(NAMES, [(record(1, [(0, A)]), found[1:])]).images[0].tp == 1


def test_findings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        findings_of(NAMES, []).iou = 0.7  # type: ignore[misc]


def test_an_annotation_that_does_not_say_so_is_no_crowd() -> None:
    item = record(1, [(0, A)])
    del item["annotations"][0]["iscrowd"]
    findings = findings_of(NAMES, [(item, [Detection(0, 0.9, A)])])
    assert findings.confusion[0, 0] == 1 and findings.images[0].tp == 1
