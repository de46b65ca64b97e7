from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from score.detections import Detection
from score.errors import DataError
from score.evaluation.matching import ABSENT, Contest, Order, average_precision, contenders, match
from score.masks import encode_shape, iou
from tests.evaluation.coco_cases import HEIGHT, WIDTH, crowded_scenes, reference

CLASSES = 4


def scored(records: Sequence[Mapping[str, Any]], rankings: Sequence[Mapping[int, list[Detection]]]) -> np.ndarray:
    """AP ``[rankings, C, IoU]`` of lists that differ in scores only, each detection a query of one class."""
    records = sorted(records, key=lambda item: item["image_id"])
    labels = [np.array([item["category_id"] for item in record["annotations"]], dtype=int) for record in records]
    crowds = [np.array([item["iscrowd"] for item in record["annotations"]], dtype=bool) for record in records]
    queries = [rankings[0].get(record["image_id"], []) for record in records]
    overlaps = [
        iou(
            [item.rle for item in found], [encode_shape(item["segmentation"], HEIGHT, WIDTH) for item in objects], crowd
        )
        for found, objects, crowd in zip(queries, [record["annotations"] for record in records], crowds, strict=True)
    ]
    known = contenders(overlaps, labels, crowds, CLASSES)
    order = Order(CLASSES, sum(map(len, queries)))
    instances = np.bincount(np.concatenate([a[~b] for a, b in zip(labels, crowds, strict=True)]), minlength=CLASSES)
    keys = np.full((len(rankings), len(known.crowd)), ABSENT)
    whole = []
    for row, ranking in enumerate(rankings):
        parts, first, number = [], 0, 0
        for record, pairs in zip(records, known.pairs, strict=True):
            found = ranking.get(record["image_id"], [])
            best = np.argsort([-item.score for item in found], kind="stable").astype(int)
            label = np.array([found[index].label for index in best], dtype=np.int64)
            score = np.array([found[index].score for index in best], dtype=np.float32)
            own = order.keys(label, score, first)
            by_pair = {index * CLASSES + found[index].label: key for index, key in zip(best, own, strict=True)}
            for pair in pairs.tolist():
                keys[row, number] = by_pair.get(pair, ABSENT)
                number += 1
            parts.append(own)
            first += len(found)
        whole.append(np.sort(np.concatenate(parts)))
    hits = match(keys, known.contests)
    rows = zip(whole, keys, hits, strict=True)
    return np.stack([average_precision(r, key, hit, known.crowd, instances, order) for r, key, hit in rows])


@pytest.mark.parametrize("seed", range(3))
def test_rankings_of_the_same_masks_equal_pycocotools(seed: int) -> None:
    records, first = crowded_scenes(seed, images=12, classes=CLASSES, per_image=25)
    rng = np.random.default_rng(seed)
    second = {
        image_id: [Detection(item.label, float(rng.integers(0, 8)) / 8, item.rle) for item in found]
        for image_id, found in first.items()
    }
    for found, ranking in zip(scored(records, [first, second]), (first, second), strict=True):
        rows = reference(records, ranking, CLASSES)
        expected = np.array([[row["AP"], row["AP50"], row["AP75"]] for row in rows])
        own = 100 * np.stack([found.mean(axis=1), found[:, 0], found[:, 5]], axis=1)
        np.testing.assert_allclose(own, np.where(expected < 0, np.nan, expected), atol=1e-9)


def test_keys_sort_by_class_then_score_then_place() -> None:
    order = Order(classes=3, detections=6)
    label, score = np.array([1, 0, 1, 0]), np.array([0.5, 0.25, 0.75, 0.25], dtype=np.float32)
    keys = order.keys(label, score, first=2)
    assert np.argsort(keys).tolist() == [1, 3, 2, 0]
    assert order.labels(keys).tolist() == label.tolist()
    assert order.starts(np.sort(keys)).tolist() == [0, 2, 4, 4]
    assert (keys >= 0).all()
    extremes = order.keys(np.array([2, 2, 0]), np.array([1.0, 0.0, 0.0], dtype=np.float32), first=3)
    assert (np.diff(extremes[[2, 0, 1]]) > 0).all() and order.labels(extremes).tolist() == [2, 2, 0]


def test_more_than_63_bits_are_refused() -> None:
    Order(classes=1 << 12, detections=(1 << 20) - 1)  # 13 + 20 + 30 bits
    with pytest.raises(DataError, match="lower top_k"):
        Order(classes=1 << 13, detections=(1 << 20) - 1)
    with pytest.raises(DataError, match="lower top_k"):
        Order(classes=1 << 12, detections=1 << 20)


def test_the_better_takes_its_favourite_and_the_other_what_is_left() -> None:
    """Two contenders want the same object most; the second choice of one reaches two thresholds only."""
    contest = Contest(
        members=np.array([[0, 1]]),
        choices=np.array([[[0, 1], [0, 0]]]),
        reach=np.array([[[0b111, 0b011], [0b111, 0]]], dtype=np.uint16),
        objects=2,
    )
    keys = np.array([[1, 2], [2, 1], [ABSENT, 5]])
    hits = match(keys, [contest])
    assert hits[0].tolist() == [0b111, 0] and hits[1].tolist() == [0b011, 0b111] and hits[2, 1] == 0b111
    with pytest.raises(dataclasses.FrozenInstanceError):
        contest.objects = 3  # type: ignore[misc]


def test_the_earlier_of_equal_thresholds_is_reached_exactly() -> None:
    """An IoU that equals a threshold reaches it."""
    for overlap, expected in ((0.5, 1), (0.55, 2), (0.549, 1), (1.0, 10)):
        known = contenders([np.array([[overlap]])], [np.array([2])], [np.array([False])], CLASSES)
        assert known.pairs[0].tolist() == [2] and known.crowd.tolist() == [0]
        assert bin(known.contests[0].reach.item()).count("1") == expected
    none = contenders([np.array([[0.4999]])], [np.array([2])], [np.array([False])], CLASSES)
    assert none.pairs[0].tolist() == [] and none.contests == []
    crowd = contenders([np.array([[0.7]])], [np.array([2])], [np.array([True])], CLASSES)
    assert crowd.contests == [] and crowd.crowd.tolist() == [0b11111]
