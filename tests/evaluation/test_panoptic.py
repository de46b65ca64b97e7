from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from score.detections import Detection
from score.errors import DataError
from score.evaluation.panoptic import METRICS, PanopticScorer, flatten
from tests.evaluation.coco_cases import HEIGHT, WIDTH, crowded_scenes, record, rectangle

Segment = tuple[int, np.ndarray]


def visible(records: Mapping[str, Any]) -> list[tuple[int, np.ndarray, bool]]:
    """Class, mask and crowd of the ground truth's visible parts: smaller ones are on top."""
    items = sorted(records["annotations"], key=lambda item: -int(coco_mask.area(item["segmentation"])))
    parts: list[tuple[int, np.ndarray, bool]] = []
    for item in items:
        mask = coco_mask.decode(item["segmentation"]).astype(bool)
        parts = [(label, below & ~mask, crowd) for label, below, crowd in parts]
        parts.append((item["category_id"], mask, bool(item["iscrowd"])))
    return [part for part in parts if part[1].any()]


def pasted(detections: Sequence[Detection], min_score: float) -> list[Segment]:
    """The better one is on top; what keeps less than half is dropped."""
    taken, parts = np.zeros((HEIGHT, WIDTH), dtype=bool), []
    for item in sorted(detections, key=lambda item: -item.score):
        free = item.mask & ~taken
        if item.score >= min_score and item.area and 2 * free.sum() >= item.area:
            taken |= free
            parts.append((item.label, free))
    return parts


def reference(
    records: Sequence[Mapping[str, Any]], detections: Mapping[int, Sequence[Detection]], classes: int, min_score: float
) -> np.ndarray:
    """PQ, SQ, RQ of each class by their definition; NaN without instances."""
    iou, tp, fp, fn = np.zeros((4, classes))
    for item in records:
        truth, found = visible(item), pasted(detections.get(item["image_id"], ()), min_score)
        matched = set()
        for label, mask, crowd in truth:
            if crowd:
                continue
            overlaps = [
                (mask & other).sum() / (mask | other).sum() if label == other_label else 0
                for other_label, other in found
            ]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best >= 0 and overlaps[best] > 0.5:  # at most one can be
                matched.add(best)
                iou[label] += overlaps[best]
                tp[label] += 1
            else:
                fn[label] += 1
        for index, (label, mask) in enumerate(found):
            crowd_part = sum(
                (mask & other).sum() for other_label, other, crowd in truth if crowd and label == other_label
            )
            if index not in matched and crowd_part <= 0.5 * mask.sum():
                fp[label] += 1
    with np.errstate(invalid="ignore"):
        sq = np.where(tp > 0, iou / np.maximum(tp, 1), 0)
        rq = tp / (tp + fp / 2 + fn / 2)
    return np.where((tp + fn > 0)[:, None], 100 * np.stack([sq * rq, sq, rq], axis=1), np.nan)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_score", [0.0, 0.5])
def test_equals_the_definition_on_hard_cases(seed: int, min_score: float) -> None:
    records, detections = crowded_scenes(seed, images=8, classes=4, per_image=25)
    scorer = PanopticScorer(["a", "b", "c", "d"], [True, False, False, True], min_score)
    for item in records:
        scorer.add(item, detections.get(item["image_id"], ()))
    metrics, expected = scorer.finish(), reference(records, detections, 4, min_score)
    for row, values in zip(metrics["per_class"].values(), expected, strict=True):
        for key, value in zip(METRICS, values.tolist(), strict=True):
            assert row[key] == (None if np.isnan(value) else pytest.approx(value, abs=1e-9))
    assert metrics["all"]["PQ"] == pytest.approx(np.nanmean(expected[:, 0]))
    assert metrics["seen"]["PQ"] == pytest.approx(np.nanmean(expected[[0, 3], 0])) and metrics["images"] == 8
    assert metrics["per_class"]["d"]["PQ"] is None  # never in the ground truth


def test_by_hand() -> None:
    """One object at IoU 0.8, one missed, one found in the background: PQ = 0.8 / (1 + 1/2 + 1/2)."""
    truth = record(1, [(0, rectangle(0, 0, 10, 10)), (0, rectangle(50, 50, 10, 10))])
    found = [Detection(0, 0.9, rectangle(0, 0, 8, 10)), Detection(0, 0.8, rectangle(100, 100, 10, 10))]
    scorer = PanopticScorer(["ship", "car"], [True, False], 0.5)
    scorer.add(truth, found)
    metrics = scorer.finish()
    assert metrics["all"] == pytest.approx({"PQ": 40, "SQ": 80, "RQ": 50})
    assert metrics["unseen"] == dict.fromkeys(METRICS) and metrics["harmonic"] == {"PQ": None}
    assert metrics["per_class"]["ship"]["instances"] == 2 and metrics["per_class"]["ship"]["seen"]


def test_what_spills_over_the_edge_counts() -> None:
    """Background is not void: a segment of twice the object's size has IoU 0.5, which is no match."""
    scorer = PanopticScorer(["ship"], [True], 0.5)
    scorer.add(record(1, [(0, rectangle(20, 20, 10, 10))]), [Detection(0, 0.9, rectangle(20, 20, 20, 10))])
    assert scorer.finish()["all"]["PQ"] == 0


def test_detections_below_the_threshold_are_left_out() -> None:
    shape = rectangle(20, 20, 10, 10)
    for min_score, expected in ((0.5, 100), (0.3, 100 * 2 / 3)):
        scorer = PanopticScorer(["ship"], [True], min_score)
        scorer.add(record(1, [(0, shape)]), [Detection(0, 0.5, shape), Detection(0, 0.4, rectangle(60, 60, 5, 5))])
        assert scorer.finish()["all"]["PQ"] == pytest.approx(expected)


def test_flattened_masks_are_disjoint() -> None:
    low = Detection(0, 0.5, rectangle(0, 0, 20, 10))  # half of it is free
    best = Detection(1, 0.9, rectangle(10, 0, 20, 10))
    lower = Detection(0, 0.4, rectangle(5, 0, 21, 10))  # nothing is
    empty = Detection(0, 0.8, rectangle(0, 0, 0, 0))
    kept = flatten([low, best, lower, empty])
    assert [(item.label, item.score, item.box) for item in kept] == [
        (1, 0.9, (10, 0, 20, 10)),
        (0, 0.5, (0, 0, 10, 10)),
    ]
    assert flatten([]) == []


def test_an_image_without_anything_is_no_trouble() -> None:
    scorer = PanopticScorer(["ship"], [True], 0.5)
    scorer.add(record(1, []), [])
    assert scorer.finish()["all"] == dict.fromkeys(METRICS)
    scorer.add(record(2, [(0, rectangle(0, 0, 9, 9))]), [])
    assert scorer.finish()["all"] == dict.fromkeys(METRICS, 0.0)


def test_shares_of_several_processes_make_the_figures_of_one() -> None:
    records, detections = crowded_scenes(11, images=7, classes=3, per_image=9)
    whole, *shares = (PanopticScorer(["a", "b", "c"], [True, True, False], 0.3) for _ in range(4))
    for index, item in enumerate(records):
        for scorer in (whole, shares[index % 3]):
            scorer.add(item, detections.get(item["image_id"], []))
    shares[0].merge(pickle.loads(pickle.dumps(shares[1:])))
    assert shares[0].finish() == whole.finish() and whole.finish()["images"] == 7


def test_what_cannot_be_scored_is_refused() -> None:
    scorer = PanopticScorer(["ship"], [True], 0.5)
    with pytest.raises(DataError, match="class 1"):
        scorer.add(record(1, []), [Detection(1, 0.9, rectangle(0, 0, 9, 9))])
    with pytest.raises(DataError, match="size"):
        scorer.add(record(1, []), [Detection(0, 0.9, rectangle(0, 0, 9, 9, height=64))])


def test_half_of_a_mask_is_enough_and_less_is_not() -> None:
    best = Detection(0, 0.9, rectangle(0, 0, 20, 20))
    for width, kept in ((20, 2), (19, 1)):  # 10 x 20 pixels lie under the better one
        second = Detection(1, 0.5, rectangle(10, 0, width, 20))
        flat = flatten([second, best])
        assert len(flat) == kept and flat[0] == best
        if kept == 2:
            assert flat[1].area == 200 and flat[1].label == 1 and flat[1].score == 0.5
    assert flatten([Detection(0, 0.9, rectangle(0, 0, 0, 0))]) == []


def test_an_annotation_that_does_not_say_so_is_no_crowd() -> None:
    shape = rectangle(0, 0, 20, 20)
    item = record(1, [(0, shape), (0, rectangle(50, 50, 20, 20))])
    for annotation in item["annotations"]:
        del annotation["iscrowd"]
    scorer = PanopticScorer(["a"], [True], 0.3)
    scorer.add(item, [Detection(0, 0.9, shape)])
    metrics = scorer.finish()
    assert metrics["per_class"]["a"]["instances"] == 2 and metrics["all"]["RQ"] == pytest.approx(100 * 2 / 3)
