from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from score.data import catalog
from score.detections import Detection, ground_truth
from score.errors import DataError
from score.evaluation.coco import (
    METRICS,
    CocoScorer,
    coco_metrics,
    harmonic_mean,
    ranks,
)
from score.masks import RLE, encode_shape
from score.names import positions
from tests.evaluation.coco_cases import HEIGHT, WIDTH, crowded_scenes, record, rectangle, reference


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


@pytest.mark.parametrize(("seed", "classes", "per_image"), [(0, 5, 30), (1, 2, 60), (2, 12, 300), (3, 3, 1)])
def test_equals_pycocotools_on_hard_cases(seed: int, classes: int, per_image: int) -> None:
    records, detections = crowded_scenes(seed, images=12, classes=classes, per_image=per_image)
    agrees(coco_metrics(records, detections, names(classes), [True] * classes), reference(records, detections, classes))


def agrees(metrics: dict[str, Any], rows: Sequence[dict[str, float]]) -> None:
    """Every figure is pycocotools' to 1e-6; the last class never occurs."""
    for item, row in zip(metrics["per_class"].values(), rows, strict=True):
        for key in METRICS:
            assert item[key] == (None if row[key] < 0 else pytest.approx(row[key], abs=1e-6))
    for key in METRICS:
        defined = [row[key] for row in rows if row[key] >= 0]
        assert metrics["all"][key] == pytest.approx(np.mean(defined), abs=1e-6)
    assert list(metrics["per_class"].values())[-1]["AP"] is None


@pytest.mark.parametrize("seed", range(3))
def test_images_may_come_in_any_order_and_from_any_process(seed: int) -> None:
    """Scores are tied across images: their ids decide, not who comes first."""
    records, detections = crowded_scenes(20 + seed, images=12, classes=3, per_image=40)
    rows = reference(records, detections, 3)
    shares = [CocoScorer(names(3), [True] * 3) for _ in range(3)]
    whole = CocoScorer(names(3), [True] * 3)
    for number, index in enumerate(np.random.default_rng(seed).permutation(len(records))):
        item = records[index]
        for scorer in (whole, shares[number % 2]):  # the third has nothing to do
            scorer.add(item, detections.get(item["image_id"], ()))
    agrees(whole.finish(), rows)
    first, *others = (pickle.loads(pickle.dumps(share)) for share in shares)
    first.merge(others)
    assert first.finish() == whole.finish()


def rounded(rle: RLE) -> RLE:
    """The ellipse in a rectangle, so that masks and boxes differ."""
    x, y, w, h = (int(v) for v in coco_mask.toBbox(rle))
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    cv2.ellipse(mask, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, 1, -1)
    return coco_mask.encode(np.asfortranarray(mask))


@pytest.mark.parametrize(("seed", "per_image"), [(0, 30), (1, 300)])
def test_boxes_equal_pycocotools(seed: int, per_image: int) -> None:
    """Filled boxes have the boxes' IoU; the ground truth keeps the area of its mask."""
    records, detections = crowded_scenes(seed, images=10, classes=4, per_image=per_image)
    filled_records, filled, scorer = [], {}, CocoScorer(names(4), [True] * 4, iou_type="bbox")
    for item in records:
        for annotation in item["annotations"]:
            annotation["segmentation"] = rounded(annotation["segmentation"])
        filled_annotations = [
            {**annotation, "segmentation": box(annotation["segmentation"]), "area": float(area)}
            for annotation in item["annotations"]
            for area in [coco_mask.area(annotation["segmentation"])]
        ]
        filled_records.append({**item, "annotations": filled_annotations})
        found = [Detection(d.label, d.score, rounded(d.rle)) for d in detections.get(item["image_id"], ())]
        filled[item["image_id"]] = [Detection(d.label, d.score, box(d.rle)) for d in found]
        scorer.add(item, found)
    metrics = scorer.finish()
    agrees(metrics, reference(filled_records, filled, 4))
    assert metrics["all"]["AP"] != pytest.approx(coco_metrics(records, detections, names(4), [True] * 4)["all"]["AP"])


def box(rle: RLE) -> RLE:
    return rectangle(*(int(v) for v in coco_mask.toBbox(rle)))


def test_precision_is_there_for_curves_and_finishing_twice_is_harmless() -> None:
    shape = rectangle(0, 0, 20, 20)
    scorer = CocoScorer(["ship"], [True])
    scorer.add(record(3, [(0, shape)]), [Detection(0, 0.5, shape)])
    assert scorer.finish() == scorer.finish()
    precision = scorer.evaluation.eval["precision"]
    assert precision.shape == (10, 101, 1, 4, 1) and precision[:, :, 0, 0].min() == pytest.approx(1)


def test_an_image_is_scored_once() -> None:
    shape = rectangle(0, 0, 20, 20)
    first, second = CocoScorer(["ship"], [True]), CocoScorer(["ship"], [True])
    for scorer in (first, second):
        scorer.add(record(3, [(0, shape)]), [])
    with pytest.raises(DataError, match="image 3 comes twice"):
        first.add(record(3, [(0, shape)]), [])
    with pytest.raises(DataError, match="two processes"):
        first.merge([second])


def test_ids_need_not_be_numbers() -> None:
    shape = rectangle(0, 0, 20, 20)
    truth = [{**record(0, [(0, shape)]), "image_id": name} for name in ("b", "a")]
    found = {"a": [Detection(0, 0.5, shape)], "b": [Detection(0, 0.5, rectangle(50, 50, 9, 9))]}
    metrics = coco_metrics(truth, found, ["ship"], [True])  # type: ignore[arg-type]
    assert metrics["all"]["AP"] == pytest.approx(100 * 51 / 101)  # the hit in "a" ranks before the miss in "b"
    scorer = CocoScorer(["ship"], [True])
    for item in truth:  # without a rank, whoever comes first
        scorer.add(item, found[item["image_id"]])
    assert scorer.finish()["all"]["AP"] == pytest.approx(100 * 51 / 101 / 2)


def test_nothing_at_all_is_undefined() -> None:
    metrics = CocoScorer(["ship"], [True]).finish()
    assert metrics["all"] == dict.fromkeys(METRICS) and metrics["images"] == 0


def test_only_the_best_of_an_image_count_over_all_classes() -> None:
    records, detections = crowded_scenes(4, images=6, classes=3, per_image=500)
    best = {key: sorted(items, key=lambda item: -item.score)[:300] for key, items in detections.items()}
    rows = reference(records, best, 3)
    metrics = coco_metrics(records, detections, names(3), [True] * 3, max_detections=300)
    assert metrics["per_class"]["class 0"]["AP"] == pytest.approx(rows[0]["AP"], abs=1e-6)
    assert metrics["detections"] == sum(map(len, best.values()))


def test_average_precision_by_hand() -> None:
    """Two objects. Best first: a hit, a miss, a hit at IoU 0.6 = 60 / 100.

    IoU <= 0.60 (3 thresholds): precision 1 up to recall 0.5 (51 of 101 points), then 2/3. Above: 1 up to 0.5, then 0.
    """
    truth = [record(7, [(0, rectangle(0, 0, 10, 10)), (0, rectangle(50, 50, 10, 10))])]
    found = [(0.9, rectangle(0, 0, 10, 10)), (0.8, rectangle(100, 100, 10, 10)), (0.7, rectangle(50, 50, 10, 6))]
    metrics = coco_metrics(truth, {7: [Detection(0, score, rle) for score, rle in found]}, ["ship"], [True])
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert metrics["all"]["AP50"] == pytest.approx(100 * low)
    assert metrics["all"]["AP75"] == pytest.approx(100 * high)
    assert metrics["all"]["AP"] == pytest.approx(100 * (3 * low + 7 * high) / 10)
    assert metrics["all"]["APs"] == pytest.approx(metrics["all"]["AP"])
    assert metrics["all"]["APm"] is None and metrics["all"]["APl"] is None


def test_seen_unseen_and_harmonic() -> None:
    """Class 0 is found, class 1 missed, class 2 absent, class 3 found: means over what occurs."""
    a, b, c = rectangle(0, 0, 20, 20), rectangle(40, 0, 20, 20), rectangle(80, 0, 20, 20)
    truth = [record(0, [(0, a), (1, b), (3, c)])]
    found = {0: [Detection(0, 0.9, a), Detection(3, 0.9, c)]}
    metrics = coco_metrics(truth, found, ["ship", "car", "tank", "plane"], [True, True, False, False])
    assert metrics["all"]["AP"] == pytest.approx(200 / 3)
    assert metrics["seen"]["AP"] == pytest.approx(50)
    assert metrics["unseen"]["AP"] == pytest.approx(100)
    assert metrics["harmonic"] == {"AP": pytest.approx(200 / 3), "AP50": pytest.approx(200 / 3)}
    assert metrics["per_class"]["tank"]["AP"] is None
    assert [item["instances"] for item in metrics["per_class"].values()] == [1, 1, 0, 1]


def test_harmonic_mean() -> None:
    assert harmonic_mean(30.0, 60.0) == pytest.approx(40)
    assert harmonic_mean(0.0, 50.0) == 0
    assert harmonic_mean(0.0, 0.0) == 0
    assert harmonic_mean(None, 50.0) is None


def test_no_unseen_class_leaves_it_undefined() -> None:
    shape = rectangle(0, 0, 20, 20)
    metrics = coco_metrics([record(1, [(0, shape)])], {1: [Detection(0, 1.0, shape)]}, ["ship"], [True])
    assert metrics["seen"]["AP"] == pytest.approx(100)
    assert metrics["unseen"] == dict.fromkeys(METRICS)
    assert metrics["harmonic"] == {"AP": None, "AP50": None}


def test_nothing_found_is_zero_and_nothing_annotated_is_undefined() -> None:
    truth = [record(1, [(0, rectangle(0, 0, 20, 20))])]
    metrics = coco_metrics(truth, {}, ["ship", "car"], [True, False])
    assert metrics["all"]["AP"] == 0 and metrics["unseen"]["AP"] is None and metrics["detections"] == 0
    assert coco_metrics([record(1, [])], {}, ["ship"], [True])["all"]["AP"] is None


def test_a_crowd_neither_counts_nor_punishes() -> None:
    ship, crowd = rectangle(0, 0, 20, 20), rectangle(60, 60, 80, 80)
    truth = [record(1, [(0, ship), (0, crowd)], crowds=[1])]
    found = [Detection(0, 0.9, rectangle(70, 70, 10, 10)), Detection(0, 0.5, ship)]
    metrics = coco_metrics(truth, {1: found}, ["ship"], [True])
    assert metrics["all"]["AP"] == pytest.approx(100)
    assert metrics["per_class"]["ship"]["instances"] == 1


def test_perfect_predictions_score_100_whatever_the_ids() -> None:
    """An annotation with id 0, as in NWPU's file, is an annotation."""
    shapes = [rectangle(10 * i, 10 * i, 9, 9) for i in range(8)]
    truth = [record(0, [(0, shape) for shape in shapes])]
    for number, item in enumerate(truth[0]["annotations"]):
        item["id"] = number
    metrics = coco_metrics(truth, {0: [Detection(0, 0.5, shape) for shape in shapes]}, ["ship"], [True])
    assert metrics["all"]["AP"] == pytest.approx(100)


def test_segmentations_of_every_kind_are_one_mask() -> None:
    polygon = [[10.0, 20.0, 40.0, 20.0, 40.0, 50.0, 10.0, 50.0]]
    rle = encode_shape(polygon, HEIGHT, WIDTH)
    flat = coco_mask.decode(rle).flatten(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    binary = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].encode()}
    for segmentation in (polygon, rle, binary, {"size": [HEIGHT, WIDTH], "counts": counts}):
        metrics = coco_metrics([record(1, [(0, segmentation)])], {1: [Detection(0, 1.0, rle)]}, ["ship"], [True])
        assert metrics["all"]["AP"] == pytest.approx(100)


def test_the_area_stated_by_an_annotation_decides_its_size() -> None:
    shape = rectangle(0, 0, 31, 31)  # small by its mask
    truth = [record(1, [(0, shape)])]
    truth[0]["annotations"][0]["area"] = 2000.0
    metrics = coco_metrics(truth, {1: [Detection(0, 1.0, shape)]}, ["ship"], [True])
    assert metrics["all"]["APs"] is None and metrics["all"]["APm"] == pytest.approx(100)


def test_annotated_boxes_are_the_truth_of_boxes() -> None:
    """NWPU's boxes, for one, are not the extents of its masks."""
    shape = rectangle(10, 10, 20, 20)
    truth = record(1, [(0, shape)])
    for stated, expected in ((None, 100), ([10, 10, 20, 20], 100), ([10, 10, 20, 40], 10)):  # IoU 0.5
        truth["annotations"][0]["bbox"] = stated
        scorer = CocoScorer(["ship"], [True], iou_type="bbox")
        scorer.add(truth, [Detection(0, 0.5, shape)])
        assert scorer.finish()["all"]["AP"] == pytest.approx(expected)


def test_images_rank_by_number_then_by_name() -> None:
    assert ranks(["b", 7, "a", 0]) == {0: 0, 7: 1, "a": 2, "b": 3}
    scorer = CocoScorer(["ship"], [True])
    for image_id in (0, "a", -5, "b"):  # none is taken for another
        scorer.add({**record(0, []), "image_id": image_id}, [])
    assert scorer.finish()["images"] == 4


def test_a_class_may_be_synonyms_itself() -> None:
    assert positions(["truck, lorry", "ship"], ["ship", "lorry"], "trucks") == [1, 0]
    assert positions(["truck, lorry", "ship"], ["truck, lorry", "ship"], "trucks") == [0, 1]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    shape = rectangle(0, 0, 20, 20)
    with pytest.raises(DataError, match="diverged"):
        coco_metrics([record(1, [(0, shape)])], {1: [Detection(0, score, shape)]}, ["ship"], [True])


def test_what_cannot_be_scored_is_refused() -> None:
    shape = rectangle(0, 0, 20, 20)
    truth = [record(1, [(0, shape)])]
    with pytest.raises(DataError, match="image 2"):
        coco_metrics(truth, {2: [Detection(0, 1.0, shape)]}, ["ship"], [True])
    with pytest.raises(DataError, match="class 1"):
        coco_metrics(truth, {1: [Detection(1, 1.0, shape)]}, ["ship"], [True])
    with pytest.raises(DataError, match="size"):
        coco_metrics(truth, {1: [Detection(0, 1.0, rectangle(0, 0, 5, 5, height=64))]}, ["ship"], [True])
    with pytest.raises(DataError, match="size"):
        coco_metrics([record(1, [(0, rectangle(0, 0, 5, 5, height=64))])], {}, ["ship"], [True])


@pytest.mark.data
@pytest.mark.parametrize("dataset", ["nwpu_val", "isaid512_val"])
def test_real_ground_truth_as_predictions_scores_100(dataset: str, datasets_root: Path) -> None:
    """NWPU's file has an annotation with id 0, which pycocotools takes for none: it would score 99.4 there."""
    catalog.register(datasets_root)
    records = DatasetCatalog.get(dataset)
    classes = MetadataCatalog.get(dataset).thing_classes
    found = {record["image_id"]: ground_truth(record) for record in records}
    metrics = coco_metrics(records, found, classes, [True] * len(classes))
    assert metrics["all"] == pytest.approx(dict.fromkeys(METRICS, 100.0))


def test_three_hundred_detections_of_an_image_count() -> None:
    shape = rectangle(0, 0, 20, 20)
    found = [Detection(0, 0.9, rectangle(100, 100, 9, 9))] * 300 + [Detection(0, 0.5, shape)]
    metrics = coco_metrics([record(1, [(0, shape)])], {1: found}, ["ship"], [True])
    assert metrics["detections"] == 300 and metrics["all"]["AP"] == 0
    scorer = CocoScorer(["ship"], [True])
    scorer.add(record(1, [(0, shape)]), found[1:])
    metrics = scorer.finish()
    assert metrics["detections"] == 300 and 0 < metrics["all"]["AP50"] < 1


def test_images_that_come_alone_rank_by_their_ids() -> None:
    """Of equal scores that of image 0 comes before that of 1, and one without a number after both."""
    shape, off = rectangle(0, 0, 20, 20), rectangle(100, 100, 20, 20)
    for order in ((0, 1, "a"), ("a", 1, 0)):
        scorer = CocoScorer(["ship"], [True])
        for image_id in order:
            found = off if image_id == 0 else shape
            scorer.add({**record(1, [(0, shape)]), "image_id": image_id}, [Detection(0, 0.5, found)])
        precision = scorer.evaluation.eval["precision"][0, :, 0, 0, 0]
        assert precision[:67] == pytest.approx([2 / 3] * 67) and (precision[67:] == 0).all()


def test_scorers_of_one_image_do_not_merge() -> None:
    first, second = (CocoScorer(["ship"], [True]) for _ in range(2))
    for scorer in (first, second):
        scorer.add(record(3, []), [])
    with pytest.raises(DataError, match="two processes"):
        first.merge([second])


def test_an_annotation_that_does_not_say_so_is_no_crowd() -> None:
    shape = rectangle(0, 0, 20, 20)
    item = record(1, [(0, shape)])
    del item["annotations"][0]["iscrowd"]
    metrics = coco_metrics([item], {1: [Detection(0, 0.9, shape)]}, ["ship"], [True])
    assert metrics["per_class"]["ship"]["instances"] == 1 and metrics["all"]["AP"] == pytest.approx(100)
