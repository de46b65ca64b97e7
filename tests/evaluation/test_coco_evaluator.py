"""``CocoEvaluator``: the scorer behind detectron2's protocol."""

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
from pycocotools import mask as coco_mask

from score.errors import ConfigError, DataError
from score.evaluation.coco import CocoEvaluator
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


def instances(labels: list[int], rles: list[dict]) -> Instances:
    result = Instances((HEIGHT, WIDTH))
    result.pred_masks = torch.from_numpy(np.stack([coco_mask.decode(rle) for rle in rles]).astype(bool))
    result.pred_classes = torch.tensor(labels)
    result.scores = torch.linspace(0.9, 0.5, len(labels))
    return result


def test_evaluator_matches_classes_by_name_and_scores_what_it_saw(dataset: str) -> None:
    evaluator = CocoEvaluator(dataset, ["palm tree", "oil tank, storage-tank", "ship"], [False, False, True])
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
        CocoEvaluator(dataset, ["ship", "car"], [True, True])


def test_evaluator_compares_boxes(dataset: str) -> None:
    """The mask of a ring around the ship has the ship's box."""
    ring = coco_mask.decode(rectangle(5, 5, 40, 40))
    ring[10:40, 10:40] = 0
    found = instances([0], [coco_mask.encode(np.asfortranarray(ring))])
    for iou_type, expected in (("segm", 0), ("bbox", 100)):
        evaluator = CocoEvaluator(dataset, ["ship", "storage tank"], [True, True], iou_type=iou_type)
        evaluator.process([{"image_id": 0}], [{"instances": found}])
        metrics = evaluator.evaluate()
        assert metrics is not None and metrics["per_class"]["ship"]["AP"] == pytest.approx(expected)


def test_evaluator_refuses_an_image_of_another_dataset(dataset: str) -> None:
    evaluator = CocoEvaluator(dataset, ["ship", "storage tank"], [True, True])
    with pytest.raises(DataError, match="image 99"):
        evaluator.process([{"image_id": 99}], [{"instances": instances([0], [rectangle(5, 5, 40, 40)])}])


def score_images(image_ids: Sequence[int]) -> CocoEvaluator:
    """Every ship is found; tanks less and less well."""
    evaluator = CocoEvaluator(DATASET, ["ship", "storage tank"], [True, True])
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
    torch.distributed.barrier()  # one that leaves early cuts the other off
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(dataset: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    metrics = score_images(range(6)).evaluate()
    assert metrics is not None and 0 < metrics["per_class"]["storage tank"]["AP"] < 100
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_evaluator_keeps_no_mask(dataset: str) -> None:
    """What stays after 30 images of 50 masks is a small part of one mask an object."""
    evaluator = CocoEvaluator(dataset, ["ship", "storage tank"], [True, True])
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
