from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from score.detections import Detection, encode_instances, ground_truth, select, suppress
from score.errors import DataError
from score.masks import encode_shape


def square(label: int, score: float, x: int, side: int = 10) -> Detection:
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[5 : 5 + side, x : x + side] = 1
    return Detection(label, score, coco_mask.encode(mask))


@pytest.mark.parametrize("count", [0, 1, 40])
def test_encoding_keeps_every_mask_score_and_label(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    instances = Instances((33, 47))
    instances.pred_masks = torch.rand(count, 33, 47, generator=generator) > 0.7
    instances.scores = torch.rand(count, generator=generator)
    instances.pred_classes = torch.randint(0, 9, (count,), generator=generator)
    found = encode_instances(instances)
    assert len(found) == count
    for item, mask, score, label in zip(
        found, instances.pred_masks, instances.scores, instances.pred_classes, strict=True
    ):
        assert (item.mask == mask.numpy()).all()
        assert item.score == score.item() and item.label == label.item() and item.area == mask.sum().item()


def test_box_and_area() -> None:
    item = square(0, 0.5, x=20, side=7)
    assert item.box == (20, 5, 7, 7) and item.area == 49


def test_select_by_score() -> None:
    items = [square(0, 0.2, 0), square(0, 0.9, 20), square(1, 0.5, 40, side=2)]
    assert [item.score for item in select(items)] == [0.9, 0.5, 0.2]
    assert [item.score for item in select(items, score=0.5)] == [0.9, 0.5]
    assert select([], overlap=0.5) == []


def test_overlap_drops_the_worse_of_two_masks() -> None:
    items = [square(0, 0.6, 0), square(1, 0.9, 1), square(0, 0.5, 30)]  # IoU of the first two: 90 / 110
    assert [item.score for item in select(items, overlap=0.8)] == [0.9, 0.5]
    assert [item.score for item in select(items, overlap=0.82)] == [0.9, 0.6, 0.5]
    assert [item.score for item in suppress(items, overlap=0.8, per_class=True)] == [0.6, 0.9, 0.5]


def test_a_dropped_mask_drops_no_other() -> None:
    """b overlaps a and c, which do not overlap: with b gone, c stays."""
    a, b, c = square(0, 0.9, 0), square(0, 0.8, 4), square(0, 0.7, 8)
    assert select([c, b, a], overlap=0.3) == [a, c]


def test_ground_truth_leaves_crowds_out() -> None:
    rle = square(0, 1, 0).rle
    annotations = [{"category_id": 2, "segmentation": rle}, {"category_id": 1, "segmentation": rle, "iscrowd": 1}]
    found = ground_truth({"height": 40, "width": 60, "annotations": annotations})
    assert [(item.label, item.score, item.area) for item in found] == [(2, 1.0, 100)]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="size"):
        encode_shape(square(0, 1, 0).rle, 41, 60)
