"""Scorers behind detectron2's protocol."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask

from score import runtime
from score.engine.evaluators import Evaluator, evaluators
from score.errors import ConfigError, DataError
from score.evaluation.semantic import METRICS
from tests.evaluation.coco_cases import HEIGHT, WIDTH, record, rectangle

DATASET = "evaluator_test"


def register() -> None:
    """31 images with a ship at the left and a tank at the right."""
    objects = [(0, rectangle(5, 5, 40, 40)), (1, rectangle(90, 5, 40, 40))]
    DatasetCatalog.register(DATASET, lambda: [record(index, objects) for index in range(31)])
    MetadataCatalog.get(DATASET).set(thing_classes=["ship", "Storage_Tank"])


@pytest.fixture
def dataset() -> Iterator[str]:
    register()
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def coco(names: list[str], seen: list[bool], task: str = "instances") -> Evaluator:
    return evaluators([task], DATASET, names, seen, max_detections=300)[0]  # type: ignore[return-value]


def instances(labels: list[int], rles: list[dict]) -> Instances:
    result = Instances((HEIGHT, WIDTH))
    result.pred_masks = torch.from_numpy(np.stack([coco_mask.decode(rle) for rle in rles]).astype(bool))
    result.pred_classes = torch.tensor(labels)
    result.scores = torch.linspace(0.9, 0.5, len(labels))
    return result


def test_evaluator_matches_classes_by_name_and_scores_what_it_saw(dataset: str) -> None:
    evaluator = coco(["palm tree", "oil tank, storage-tank", "ship"], [False, False, True])
    found = instances([2, 1], [rectangle(5, 5, 40, 40), rectangle(90, 5, 40, 40)])
    for image_id in (0, 1):  # the other images are never processed
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    metrics = evaluator.evaluate()
    assert metrics is not None
    assert metrics["images"] == 2 and metrics["all"]["AP"] == pytest.approx(100)
    assert metrics["per_class"]["palm tree"]["AP"] is None
    assert metrics["per_class"]["ship"]["seen"] and metrics["harmonic"]["AP"] == pytest.approx(100)
    evaluator.reset()
    evaluator.process([{"image_id": 2}], [{"instances": found[:0]}])
    metrics = evaluator.evaluate()
    assert metrics is not None and metrics["images"] == 1 and metrics["all"]["AP"] == 0


def test_evaluator_refuses_a_vocabulary_without_the_datasets_classes(dataset: str) -> None:
    with pytest.raises(ConfigError, match="Storage_Tank"):
        coco(["ship", "car"], [True, True])


def test_evaluator_compares_boxes(dataset: str) -> None:
    """The mask of a ring around the ship has the ship's box."""
    ring = coco_mask.decode(rectangle(5, 5, 40, 40))
    ring[10:40, 10:40] = 0
    found = instances([0], [coco_mask.encode(np.asfortranarray(ring))])
    for task, expected in (("instances", 0), ("boxes", 100)):
        evaluator = coco(["ship", "storage tank"], [True, True], task)
        evaluator.process([{"image_id": 0}], [{"instances": found}])
        found_figures = evaluator.evaluate()
        assert found_figures is not None
        metrics = found_figures.get(task, found_figures)
        assert metrics["per_class"]["ship"]["AP"] == pytest.approx(expected)


def test_evaluator_refuses_an_image_of_another_dataset(dataset: str) -> None:
    evaluator = coco(["ship", "storage tank"], [True, True])
    with pytest.raises(DataError, match="image 99"):
        evaluator.process([{"image_id": 99}], [{"instances": instances([0], [rectangle(5, 5, 40, 40)])}])


def score_images(image_ids: Sequence[int]) -> Evaluator:
    """Every ship is found; tanks less and less well."""
    evaluator = coco(["ship", "storage tank"], [True, True])
    for image_id in image_ids:
        found = instances([0, 1], [rectangle(5, 5, 40, 40), rectangle(90, 5 + 4 * image_id, 40, 40)])
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    return evaluator


def share(rank: int, folder: str) -> None:
    """What one of two processes does: score every other image; the main one writes the figures."""
    register()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = score_images(range(rank, 6, 2)).evaluate()
    assert (metrics is None) == (rank > 0)
    if metrics is not None:
        Path(folder, "metrics.json").write_text(json.dumps(metrics))
    runtime.part_processes()


@pytest.mark.slow
def test_two_processes_score_as_one(dataset: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    metrics = score_images(range(6)).evaluate()
    assert metrics is not None and 0 < metrics["per_class"]["storage tank"]["AP"] < 100
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_evaluator_keeps_no_mask(dataset: str) -> None:
    """What stays after 30 images of 50 masks is a small part of one mask an object."""
    evaluator = coco(["ship", "storage tank"], [True, True])
    rng = np.random.default_rng(0)
    rles = [rectangle(*(int(v) for v in (*rng.integers(0, 100, 2), *rng.integers(5, 50, 2)))) for _ in range(50)]
    found = instances(rng.integers(0, 2, 50).tolist(), rles)
    evaluator.process([{"image_id": 0}], [{"instances": found}])
    tracemalloc.start()
    try:
        for image_id in range(1, 31):
            evaluator.process([{"image_id": image_id}], [{"instances": found}])
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / (30 * 50) < HEIGHT * WIDTH / 25
    assert peak < kept + 16 * HEIGHT * WIDTH * 3
    assert len(pickle.dumps(evaluator.scorer)) < 31 * 50 * 50  # bytes a detection


NAMES = ["road", "water", "tree", "car"]
SEEN = [True, True, False, False]


@pytest.fixture
def maps() -> Iterator[str]:
    """Two images with a car in the road's middle, and water beside; the second one is empty."""
    name = "semantic_test"
    objects = [(1, rectangle(20, 20, 5, 5)), (0, rectangle(10, 10, 30, 30)), (2, rectangle(100, 0, 20, 20))]
    DatasetCatalog.register(name, lambda: [record(1, objects), record(2, [])])
    MetadataCatalog.get(name).set(thing_classes=["road", "car", "water"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def semantic(dataset: str, names: list[str], seen: list[bool], background: float | None = None) -> Evaluator:
    return evaluators(["semantic"], dataset, names, seen, max_detections=300, background=background)[0]  # type: ignore[return-value]


def figures(evaluator: Evaluator) -> dict:
    found = evaluator.evaluate()
    assert found is not None
    return found["semantic"]


def scores(labels: np.ndarray, classes: int, best: float = 0.9) -> torch.Tensor:
    """``[C, H, W]`` whose best class is that of ``labels``; 0.1 everywhere for labels beyond the classes."""
    one_hot = np.eye(classes + 1, classes)[labels].transpose(2, 0, 1)
    return torch.from_numpy(np.maximum(one_hot * best, 0.1))


def truth_map(positions: Sequence[int], rest: int) -> np.ndarray:
    """The first image of the dataset; positions of road, car and water."""
    labels = np.full((HEIGHT, WIDTH), rest)
    labels[10:40, 10:40] = positions[0]
    labels[20:25, 20:25] = positions[1]
    labels[:20, 100:120] = positions[2]
    return labels


def test_instances_are_painted_and_the_rest_does_not_count(maps: str) -> None:
    evaluator = semantic(maps, NAMES, SEEN)
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(truth_map([0, 3, 1], rest=2), 4)}])
    metrics = figures(evaluator)
    assert "background" not in metrics
    assert metrics["all"] == pytest.approx(dict.fromkeys(METRICS, 100.0))
    assert [row["pixels"] for row in metrics["per_class"].values()] == [900 - 25, 400, 0, 25]
    evaluator.reset()
    metrics = figures(evaluator)
    assert metrics["all"]["mIoU"] is None and metrics["images"] == 0


def test_pixels_below_the_threshold_are_background(maps: str) -> None:
    evaluator = semantic(maps, NAMES, SEEN, 0.5)
    labels = truth_map([0, 3, 1], rest=4)
    labels[100:, 100:] = 2  # a tree in the background
    for image_id, item in ((1, labels), (2, np.full((HEIGHT, WIDTH), 4))):
        evaluator.process([{"image_id": image_id}], [{"sem_seg": scores(item, 4)}])
    metrics = figures(evaluator)
    assert metrics["all"]["mIoU"] == pytest.approx(100)
    free = 2 * HEIGHT * WIDTH - 1300
    right = pytest.approx(100 * (1 - 50 * 80 / free))
    assert metrics["background"] == {"IoU": right, "Acc": right, "pixels": free}
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(labels, 4, best=0.4)}])
    metrics = figures(evaluator)
    assert metrics["all"]["mIoU"] == 0 and metrics["background"]["Acc"] == pytest.approx(100)


def test_a_class_called_background_is_the_background(maps: str) -> None:
    names = ["Background, clutter", "road", "car", "water"]
    for threshold, best in ((None, 0.9), (0.5, 0.9)):
        evaluator = semantic(maps, names, [True] * 4, threshold)
        labels = truth_map([1, 2, 3], rest=0 if threshold is None else 4)
        evaluator.process([{"image_id": 1}], [{"sem_seg": scores(labels, 4, best)}])
        metrics = figures(evaluator)
        assert "background" not in metrics
        assert metrics["all"]["mIoU"] == pytest.approx(100)
        assert metrics["per_class"][names[0]]["pixels"] == HEIGHT * WIDTH - 1300


def test_a_label_image_comes_before_instances(maps: str, tmp_path: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    labels[:50], labels[50:80] = 2, 1  # water and cars, by the dataset's numbers
    Image.fromarray(labels).save(tmp_path / "labels.png")
    DatasetCatalog.remove(maps)
    item = {**record(1, [(0, rectangle(0, 0, 9, 9))]), "sem_seg_file_name": str(tmp_path / "labels.png")}
    DatasetCatalog.register(maps, lambda: [item])
    evaluator = semantic(maps, NAMES, SEEN)
    guess = np.full((HEIGHT, WIDTH), 1)
    guess[60:] = 3
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(guess, 4)}])
    metrics = figures(evaluator)
    assert metrics["per_class"]["water"]["IoU"] == pytest.approx(100 * 50 / 60)
    assert metrics["per_class"]["car"]["IoU"] == pytest.approx(100 * 20 / 30)
    assert metrics["per_class"]["road"]["IoU"] is None
