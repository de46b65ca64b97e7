from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from score.detections import Detection
from score.errors import DataError
from score.evaluation.oriented import METRICS, OrientedBox, OrientedScorer, corners, rotated_iou
from score.masks import RLE
from tests.evaluation.coco_cases import rectangle

geometry = pytest.importorskip("shapely.geometry")

SIZE = 200
RECORD = {"image_id": 0, "height": SIZE, "width": SIZE}
NAMES = ["plane", "small-vehicle", "ship"]


def turned(x: float, y: float, w: float, h: float, angle: float) -> np.ndarray:
    """Corners of a box around x, y."""
    along = np.array([np.cos(angle), np.sin(angle)]) * w / 2
    across = np.array([-np.sin(angle), np.cos(angle)]) * h / 2
    return np.array([x, y]) + np.array([-along - across, along - across, along + across, across - along])


def painted(box: np.ndarray) -> RLE:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(box).astype(np.int32)], 1)
    return coco_mask.encode(np.asfortranarray(mask))


def shapely_iou(first: np.ndarray, second: np.ndarray) -> float:
    a, b = geometry.Polygon(first), geometry.Polygon(second)
    return a.intersection(b).area / a.union(b).area


def upright(x: int, y: int, w: int, h: int) -> np.ndarray:
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=float)


def sketch(seed: int, images: int) -> list[tuple[list[OrientedBox], list[Detection]]]:
    """Crowded boxes of two of three classes, a quarter of them difficult, found more or less well, with tied scores."""
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(images):
        objects, found = [], []
        for _ in range(int(rng.integers(0, 9))):
            shape = (*rng.uniform(40, 160, 2), *rng.uniform(12, 60, 2), rng.uniform(-4, 4))
            own = int(rng.integers(2))
            objects.append(OrientedBox(own, turned(*shape), bool(rng.random() < 0.25)))
            for _ in range(int(rng.integers(0, 4))):
                guess = turned(*(np.array(shape) + rng.normal(0, 1, 5) * (3, 3, 4, 4, 0.1)))
                label = own if rng.random() < 0.9 else int(rng.integers(3))
                found.append(Detection(label, float(rng.integers(1, 20)) / 20, painted(guess)))
        for _ in range(int(rng.integers(0, 4))):
            box = turned(*rng.uniform(20, 180, 2), *rng.uniform(5, 40, 2), 1.0)
            found.append(Detection(int(rng.integers(3)), float(rng.integers(1, 20)) / 20, painted(box)))
        scenes.append((objects, found))
    return scenes


def scored(scenes: Sequence[tuple[list[OrientedBox], list[Detection]]]) -> dict:
    scorer = OrientedScorer(NAMES, [True, False, True])
    for index, (objects, found) in enumerate(scenes):
        scorer.add({**RECORD, "image_id": index}, objects, found, index)
    return scorer.finish()


class Rotated(COCOeval):
    """pycocotools on shapely's IoU; boxes are kept by id in ``polygons``."""

    polygons: dict[tuple[str, int], np.ndarray]

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:  # noqa: N802
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth or not found:
            return []
        best = sorted(found, key=lambda item: -item["score"])
        pairs = [[(self.polygons["d", d["id"]], self.polygons["g", g["id"]]) for g in truth] for d in best]
        return np.array([[shapely_iou(a, b) for a, b in row] for row in pairs])


def coco_reference(scenes: Sequence[tuple[list[OrientedBox], list[Detection]]]) -> np.ndarray:
    """AP, AP50, AP75 of each class."""
    truth, found, polygons = [], [], {}
    for image, (objects, detections) in enumerate(scenes, start=1):
        for item in objects:
            key = len(truth) + 1
            polygons["g", key] = item.corners
            area = 1e11 if item.difficult else 1.0
            category = item.label + 1
            truth.append({"id": key, "image_id": image, "category_id": category, "area": area, "iscrowd": 0})
        for detection in detections:
            polygons["d", len(found) + 1] = corners(detection.rle)
            row = {"image_id": image, "category_id": detection.label + 1, "score": detection.score}
            found.append({**row, "bbox": [0, 0, 1, 1]})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(len(scenes))],
            "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
            "annotations": truth,
        }
        data.createIndex()
        evaluation = Rotated(data, data.loadRes(found), "bbox")
        evaluation.polygons = polygons
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = 100 * evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1)  # [IoU, C]
    return np.stack([precision.mean(axis=0), precision[0], precision[5]], axis=1)


def voc_reference(scenes: Sequence[tuple[list[OrientedBox], list[Detection]]], label: int) -> tuple[float, float]:
    """The rule as VOC states it, over all detections of a class, best first."""
    truth = [[item for item in objects if item.label == label] for objects, _ in scenes]
    ranked = [(item, image) for image, (_, found) in enumerate(scenes) for item in found if item.label == label]
    ranked.sort(key=lambda pair: -pair[0].score)
    taken, hits, misses = set(), [0], [0]
    for item, image in ranked:
        overlaps = [shapely_iou(corners(item.rle), other.corners) for other in truth[image]] or [0.0]
        best = int(np.argmax(overlaps))
        good = overlaps[best] > 0.5
        if good and truth[image][best].difficult:
            continue
        hit = good and (image, best) not in taken
        taken.add((image, best) if hit else None)
        hits.append(hits[-1] + hit)
        misses.append(misses[-1] + (not hit))
    count = sum(not item.difficult for objects in truth for item in objects)
    tp, fp = np.array(hits[1:]), np.array(misses[1:])
    recall, precision = tp / count, tp / (tp + fp)
    eleven = np.mean([max(precision[recall >= t], default=0) for t in np.arange(0, 1.1, 0.1)])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return 100 * float(eleven), 100 * float(np.sum(np.diff(recall, prepend=0) * envelope))


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_and_voc_on_shapely(seed: int) -> None:
    scenes = sketch(seed, images=12)
    metrics = scored(scenes)
    reference = coco_reference(scenes)
    for label, name in enumerate(NAMES[:2]):
        row = metrics["per_class"][name]
        assert [row[key] for key in METRICS[:3]] == pytest.approx(reference[label].tolist(), abs=1e-6)
        assert (row["VOC07"], row["VOC12"]) == pytest.approx(voc_reference(scenes, label), abs=1e-6)
    assert metrics["per_class"]["ship"]["AP"] is None and metrics["images"] == 12
    rows = [metrics["per_class"][name]["VOC07"] for name in NAMES[:2]]
    assert metrics["all"]["VOC07"] == pytest.approx(np.mean(rows))
    assert metrics["harmonic"]["VOC07"] == pytest.approx(2 * rows[0] * rows[1] / sum(rows))


@pytest.mark.parametrize("offset", [0, 20000])
def test_rotated_iou_is_shapelys(offset: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, y = rng.uniform(0, 30, 2) + offset
        first = turned(x, y, *rng.uniform(2, 60, 2), rng.uniform(-4, 4))
        dx, dy = rng.normal(0, 12, 2)
        second = turned(x + dx, y + dy, *rng.uniform(2, 60, 2), rng.uniform(-4, 4))
        for a, b in ((first, second), (second[::-1], first), (first, first), (first, first + np.array([1, 0]))):
            assert rotated_iou(a, b) == pytest.approx(shapely_iou(a, b), abs=2e-6)


def test_hotcoco_and_shapely_agree_on_rotated_iou() -> None:
    """One object and one detection: AP is the share of the thresholds 0.50:0.05:0.95 that the IoU reaches."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        box = turned(*rng.uniform(80, 120, 2), *rng.uniform(10, 60, 2), rng.uniform(-4, 4))
        rle = painted(box + rng.normal(0, 3, 2))
        iou = shapely_iou(box, corners(rle))
        metrics = scored([([OrientedBox(0, box)], [Detection(0, 0.5, rle)])])
        assert metrics["all"]["AP"] == pytest.approx(10 * np.sum(iou >= np.linspace(0.5, 0.95, 10)))


def test_a_difficult_object_neither_counts_nor_punishes() -> None:
    plain, hard = upright(10, 10, 40, 20), upright(100, 100, 40, 20)
    objects = [OrientedBox(0, plain), OrientedBox(0, hard, difficult=True)]
    shapes = (0.9, rectangle(100, 100, 40, 20, SIZE, SIZE)), (0.5, rectangle(10, 10, 40, 20, SIZE, SIZE))
    found = [Detection(0, score, rle) for score, rle in shapes]
    for detections in (found, found[1:]):
        metrics = scored([(objects, detections)])
        assert metrics["all"] == pytest.approx(dict.fromkeys(METRICS, 100.0))
        assert metrics["per_class"]["plane"]["instances"] == 1
    assert scored([(objects[1:], found[:1])])["all"]["AP"] is None


def test_a_box_around_pixels_reaches_to_their_edges() -> None:
    assert sorted(map(tuple, corners(rectangle(5, 7, 10, 20)).tolist())) == [(5, 7), (5, 27), (15, 7), (15, 27)]
    single = np.zeros((9, 9), dtype=bool)
    single[3, 4] = True
    assert sorted(map(tuple, corners(single).tolist())) == [(4, 3), (4, 4), (5, 3), (5, 4)]
    assert (corners(np.zeros((9, 9), dtype=bool)) == 0).all()


def test_the_box_is_the_smallest_around_all_parts() -> None:
    rng = np.random.default_rng(2)
    for _ in range(12):
        mask = coco_mask.decode(painted(turned(*rng.uniform(60, 140, 2), *rng.uniform(1, 50, 2), rng.uniform(-4, 4))))
        mask |= coco_mask.decode(painted(turned(*rng.uniform(60, 140, 2), 9, 30, rng.uniform(-4, 4))))
        y, x = np.nonzero(mask)
        ends = [(a + i, b + j) for a, b in zip(x.tolist(), y.tolist(), strict=True) for i in (0, 1) for j in (0, 1)]
        smallest = geometry.MultiPoint(ends).minimum_rotated_rectangle
        box = geometry.Polygon(corners(mask.astype(bool)))
        assert box.area == pytest.approx(smallest.area, rel=1e-4)
        assert box.buffer(1e-3).covers(geometry.MultiPoint(ends))


def test_an_empty_mask_is_a_miss() -> None:
    box = upright(10, 10, 40, 20)
    empty = Detection(0, 0.9, rectangle(0, 0, 0, 0, SIZE, SIZE))
    metrics = scored([([OrientedBox(0, box)], [empty, Detection(0, 0.5, rectangle(10, 10, 40, 20, SIZE, SIZE))])])
    assert metrics["all"]["AP50"] == metrics["all"]["VOC12"] == pytest.approx(50)


def test_shares_of_several_processes_make_the_figures_of_one() -> None:
    """Scores tie, so the rank of images decides; the shares come in another order."""
    scenes = sketch(7, 12)
    shares = [OrientedScorer(NAMES, [True, False, True]) for _ in range(3)]
    for index, (objects, found) in enumerate(scenes):
        shares[2 - index % 3].add({**RECORD, "image_id": index}, objects, found, index)
    shares[0].merge(pickle.loads(pickle.dumps(shares[1:])))
    assert shares[0].finish() == scored(scenes)


def test_what_cannot_be_scored_is_refused() -> None:
    scorer = OrientedScorer(NAMES, [True] * 3)
    with pytest.raises(DataError, match="class 3"):
        scorer.add(RECORD, [], [Detection(3, 0.5, rectangle(0, 0, 5, 5, SIZE, SIZE))], 0)
    with pytest.raises(DataError, match="size"):
        scorer.add(RECORD, [], [Detection(0, 0.5, rectangle(0, 0, 5, 5, 64, 64))], 0)


def test_an_iou_of_one_half_is_a_miss_by_voc_and_a_hit_by_coco() -> None:
    scene = [OrientedBox(0, upright(0, 0, 40, 20))], [Detection(0, 0.9, rectangle(0, 0, 20, 20, SIZE, SIZE))]
    metrics = scored([scene])
    assert metrics["all"]["VOC12"] == 0 and metrics["all"]["AP50"] == pytest.approx(100)


def test_the_second_to_find_an_object_is_false() -> None:
    """And an image without detections, or without objects, counts too."""
    shape = rectangle(0, 0, 40, 20, SIZE, SIZE)
    twice = [OrientedBox(0, upright(0, 0, 40, 20))], [Detection(0, 0.9, shape), Detection(0, 0.8, shape)]
    other = [OrientedBox(0, upright(0, 0, 40, 20))], [Detection(0, 0.7, shape)]
    metrics = scored([twice, other, ([], []), ([OrientedBox(1, upright(0, 0, 9, 9))], [])])
    assert metrics["images"] == 4 and metrics["detections"] == 3
    assert metrics["per_class"]["plane"]["VOC12"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics["per_class"]["plane"]["VOC07"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    second = metrics["per_class"][NAMES[1]]
    assert second["AP"] == second["VOC07"] == 0 and second["instances"] == 1
    assert metrics["per_class"][NAMES[2]]["VOC12"] is None


def test_three_hundred_detections_of_an_image_count() -> None:
    found = [Detection(0, 0.5, rectangle(0, 0, 9, 9, SIZE, SIZE))] * 301
    assert scored([([], found)])["detections"] == 300


def test_a_box_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OrientedBox(0, upright(0, 0, 9, 9)).label = 1  # type: ignore[misc]
