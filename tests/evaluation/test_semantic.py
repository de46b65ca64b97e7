from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hotcoco.semantic import SemanticEval
from PIL import Image

from score.errors import DataError
from score.evaluation.semantic import IGNORED, METRICS, SemanticEvaluator, SemanticScorer, paint, read_labels
from tests.evaluation.coco_cases import HEIGHT, WIDTH, record, rectangle

NAMES = ["road", "water", "tree", "car"]
SEEN = [True, True, False, False]


def random_maps(seed: int, labels: Sequence[int], images: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction that agree on a part of the pixels; some of the truth does not count."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        truth = rng.choice(labels, (30, 40)).astype(np.uint16)
        prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice(labels, truth.shape)).astype(np.uint16)
        truth[rng.random(truth.shape) < 0.1] = IGNORED
        pairs.append((truth, prediction))
    return pairs


def confusion(pairs: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Pixels ``[truth, prediction]``."""
    counts = np.zeros((classes, classes))
    for truth, prediction in pairs:
        counted = truth != IGNORED
        np.add.at(counts, (truth[counted], prediction[counted]), 1)
    return counts


def reference(counts: np.ndarray, chosen: Sequence[int]) -> dict[str, float]:
    truth, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    iou, accuracy = right / (truth + predicted - right), right / truth
    weight = truth[chosen] / truth[chosen].sum()
    return {
        "mIoU": 100 * iou[chosen].mean(),
        "fwIoU": 100 * (weight * iou[chosen]).sum(),
        "aAcc": 100 * right[chosen].sum() / truth[chosen].sum(),
        "mAcc": 100 * accuracy[chosen].mean(),
    }


def test_equals_a_confusion_matrix() -> None:
    pairs = random_maps(0, [0, 1, 2, 3])
    scorer, plain = SemanticScorer(NAMES, SEEN), SemanticEval(4, ignore_index=IGNORED)
    for truth, prediction in pairs:
        scorer.add(truth, prediction)
        plain.update(truth, prediction)
    metrics, counts = scorer.finish(), confusion(pairs, 4)
    groups = {"all": [0, 1, 2, 3], "seen": [0, 1], "unseen": [2, 3]}
    for group, chosen in groups.items():
        assert metrics[group] == pytest.approx(reference(counts, chosen))
    assert metrics["all"] == pytest.approx({key: 100 * plain.results()[key] for key in METRICS})
    a, b = metrics["seen"]["mIoU"], metrics["unseen"]["mIoU"]
    assert metrics["harmonic"] == {"mIoU": pytest.approx(2 * a * b / (a + b))}
    for index, name in enumerate(NAMES):
        row = metrics["per_class"][name]
        assert row["IoU"] == pytest.approx(reference(counts, [index])["mIoU"])
        assert row["pixels"] == counts[index].sum() and row["seen"] == SEEN[index]
    assert metrics["images"] == 5 and "background" not in metrics


def test_a_class_without_pixels_is_undefined_even_if_it_is_predicted() -> None:
    """What is mistaken for it is missed elsewhere."""
    truth = np.array([[0, 0, 1, 1]], dtype=np.uint16)
    scorer = SemanticScorer(NAMES, SEEN)
    scorer.add(truth, np.array([[0, 3, 1, 1]], dtype=np.uint16))
    metrics = scorer.finish()
    assert metrics["per_class"]["car"] == {"IoU": None, "Acc": None, "pixels": 0, "seen": False}
    assert metrics["all"]["mIoU"] == metrics["seen"]["mIoU"] == pytest.approx(100 * (0.5 + 1) / 2)
    assert metrics["unseen"] == dict.fromkeys(METRICS) and metrics["harmonic"] == {"mIoU": None}
    assert SemanticScorer(NAMES, SEEN).finish()["all"] == dict.fromkeys(METRICS)


def test_background_has_figures_of_its_own_and_counts_in_no_mean() -> None:
    pairs = random_maps(1, [0, 1, 2, 3, 4])
    shares = [SemanticScorer(NAMES, SEEN, background=True) for _ in range(2)]
    for index, (truth, prediction) in enumerate(pairs):
        shares[index % 2].add(truth, prediction)
    whole = shares[0]
    whole.merge(pickle.loads(pickle.dumps(shares[1])))
    metrics, counts = whole.finish(), confusion(pairs, 5)
    assert metrics["all"] == pytest.approx(reference(counts, [0, 1, 2, 3]))
    assert metrics["background"]["IoU"] == pytest.approx(reference(counts, [4])["mIoU"])
    assert metrics["images"] == 5 and list(metrics["per_class"]) == NAMES


def test_a_vocabulary_may_be_longer_than_255() -> None:
    names = [f"class {index}" for index in range(300)]
    truth = np.array([[255, 299, IGNORED]], dtype=np.uint16)
    scorer = SemanticScorer(names, [True] * 300)
    scorer.add(truth, np.array([[255, 299, 7]], dtype=np.uint16))
    metrics = scorer.finish()
    assert metrics["all"]["mIoU"] == pytest.approx(100) and metrics["per_class"]["class 255"]["pixels"] == 1


def test_smaller_masks_lie_on_top() -> None:
    rles = [rectangle(40, 40, 10, 10), rectangle(0, 0, 100, 100), rectangle(45, 45, 30, 30)]
    canvas = paint(rles, HEIGHT, WIDTH)
    assert canvas[46, 46] == 0 and canvas[60, 60] == 2 and canvas[10, 10] == 1 and canvas[120, 120] == IGNORED
    assert [int((canvas == index).sum()) for index in range(3)] == [100, 10000 - 100 - 875, 875]


def test_label_images_are_read(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    grey, palette = Image.fromarray(labels), Image.fromarray(labels).convert("P")
    palette.putpalette([7] * 768)
    for picture in (grey, palette):
        picture.save(tmp_path / "labels.png")
        mapped = read_labels(tmp_path / "labels.png", [3, 0, 1], (2, 3))
        assert mapped.tolist() == [[3, 0, 1], [IGNORED, 0, 3]]


@pytest.mark.parametrize("mode", ["1", "I;16", "I"])
def test_label_images_of_any_depth_are_read(mode: str, tmp_path: Path) -> None:
    labels = np.array([[0, 1], [1, 0]])
    Image.fromarray(labels.astype({"1": bool, "I;16": np.uint16, "I": np.int32}[mode])).save(tmp_path / "labels.tif")
    assert read_labels(tmp_path / "labels.tif", [5, 6], (2, 2)).tolist() == [[5, 6], [6, 5]]


def test_255_counts_for_no_class_however_many_there_are(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 3]], dtype=np.uint8)).save(tmp_path / "labels.png")
    assert read_labels(tmp_path / "labels.png", range(300), (1, 2)).tolist() == [[IGNORED, 3]]


@pytest.mark.parametrize("values", [np.array([[0.5]], dtype=np.float32), np.array([[-1]], dtype=np.int32)])
def test_labels_that_are_no_numbers_of_classes_are_refused(values: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "labels.tif")
    with pytest.raises(DataError, match="below 0 or no whole numbers"):
        read_labels(tmp_path / "labels.tif", [0], (1, 1))


def test_label_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    with pytest.raises(DataError, match=r"labels\.png: cannot be read"):
        read_labels(path, [0], (2, 2))
    Image.fromarray(np.full((2, 2), 5, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"labels\.png: label 5, but there are 2 classes"):
        read_labels(path, [0, 1], (2, 2))
    with pytest.raises(DataError, match="shape"):
        read_labels(path, [0] * 6, (2, 3))
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="shape"):
        read_labels(path, [0], (2, 2))


@pytest.fixture
def dataset() -> Iterator[str]:
    """Two images with a car in the road's middle, and water beside; the second one is empty."""
    name = "semantic_test"
    objects = [(1, rectangle(20, 20, 5, 5)), (0, rectangle(10, 10, 30, 30)), (2, rectangle(100, 0, 20, 20))]
    DatasetCatalog.register(name, lambda: [record(1, objects), record(2, [])])
    MetadataCatalog.get(name).set(thing_classes=["road", "car", "water"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


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


def test_instances_are_painted_and_the_rest_does_not_count(dataset: str) -> None:
    evaluator = SemanticEvaluator(dataset, NAMES, SEEN)
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(truth_map([0, 3, 1], rest=2), 4)}])
    metrics = evaluator.evaluate()
    assert metrics is not None and "background" not in metrics
    assert metrics["all"] == pytest.approx(dict.fromkeys(METRICS, 100.0))
    assert [row["pixels"] for row in metrics["per_class"].values()] == [900 - 25, 400, 0, 25]
    evaluator.reset()
    metrics = evaluator.evaluate()
    assert metrics is not None and metrics["all"]["mIoU"] is None and metrics["images"] == 0


def test_pixels_below_the_threshold_are_background(dataset: str) -> None:
    evaluator = SemanticEvaluator(dataset, NAMES, SEEN, background=0.5)
    labels = truth_map([0, 3, 1], rest=4)
    labels[100:, 100:] = 2  # a tree in the background
    for image_id, item in ((1, labels), (2, np.full((HEIGHT, WIDTH), 4))):
        evaluator.process([{"image_id": image_id}], [{"sem_seg": scores(item, 4)}])
    metrics = evaluator.evaluate()
    assert metrics is not None and metrics["all"]["mIoU"] == pytest.approx(100)
    free = 2 * HEIGHT * WIDTH - 1300
    right = pytest.approx(100 * (1 - 50 * 80 / free))
    assert metrics["background"] == {"IoU": right, "Acc": right, "pixels": free}
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(labels, 4, best=0.4)}])
    metrics = evaluator.evaluate()
    assert metrics is not None and metrics["all"]["mIoU"] == 0 and metrics["background"]["Acc"] == pytest.approx(100)


def test_a_class_called_background_is_the_background(dataset: str) -> None:
    names = ["Background, clutter", "road", "car", "water"]
    for threshold, best in ((None, 0.9), (0.5, 0.9)):
        evaluator = SemanticEvaluator(dataset, names, [True] * 4, background=threshold)
        labels = truth_map([1, 2, 3], rest=0 if threshold is None else 4)
        evaluator.process([{"image_id": 1}], [{"sem_seg": scores(labels, 4, best)}])
        metrics = evaluator.evaluate()
        assert metrics is not None and "background" not in metrics
        assert metrics["all"]["mIoU"] == pytest.approx(100)
        assert metrics["per_class"][names[0]]["pixels"] == HEIGHT * WIDTH - 1300


def test_a_label_image_comes_before_instances(dataset: str, tmp_path: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    labels[:50], labels[50:80] = 2, 1  # water and cars, by the dataset's numbers
    Image.fromarray(labels).save(tmp_path / "labels.png")
    DatasetCatalog.remove(dataset)
    item = {**record(1, [(0, rectangle(0, 0, 9, 9))]), "sem_seg_file_name": str(tmp_path / "labels.png")}
    DatasetCatalog.register(dataset, lambda: [item])
    evaluator = SemanticEvaluator(dataset, NAMES, SEEN)
    guess = np.full((HEIGHT, WIDTH), 1)
    guess[60:] = 3
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores(guess, 4)}])
    metrics = evaluator.evaluate()
    assert metrics is not None
    assert metrics["per_class"]["water"]["IoU"] == pytest.approx(100 * 50 / 60)
    assert metrics["per_class"]["car"]["IoU"] == pytest.approx(100 * 20 / 30)
    assert metrics["per_class"]["road"]["IoU"] is None
