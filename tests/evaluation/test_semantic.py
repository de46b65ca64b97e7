from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from hotcoco.semantic import SemanticEval

from score.evaluation.coco import CocoScorer
from score.evaluation.oriented import OrientedScorer
from score.evaluation.panoptic import PanopticScorer
from score.evaluation.semantic import IGNORED, METRICS, SemanticScorer, paint
from tests.evaluation.coco_cases import HEIGHT, WIDTH, rectangle

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
    whole.merge([pickle.loads(pickle.dumps(shares[1]))])
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


def test_shares_of_several_processes_make_the_figures_of_one() -> None:
    pairs = random_maps(5, [0, 1, 2, 3], images=6)
    whole, *shares = (SemanticScorer(NAMES, SEEN) for _ in range(4))
    for index, pair in enumerate(pairs):
        whole.add(*pair)
        shares[index % 3].add(*pair)
    shares[0].merge(shares[1:])
    assert shares[0].finish() == whole.finish()


def test_names_and_flags_belong_together() -> None:
    for scorer in (SemanticScorer, CocoScorer, OrientedScorer, partial(PanopticScorer, min_score=0.3)):
        with pytest.raises(ValueError, match="2 names and 1 seen flags"):
            scorer(["a", "b"], [True])
