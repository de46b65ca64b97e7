"""One found object, its mask run-length encoded, and the choice of which ones to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from score import masks
from score.masks import RLE

if TYPE_CHECKING:
    from detectron2.structures import Instances


@dataclass(frozen=True, slots=True)
class Detection:
    """An object in an image.

    Attributes:
        label: position of its name in the vocabulary.
        score: 0 .. 1; 1 for ground truth.
        rle: its mask, of the whole image or a window of it.
    """

    label: int
    score: float
    rle: RLE

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask ``[H, W]`` of the image or the window, decoded anew at each call."""
        return masks.decode(self.rle)

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return masks.area(self.rle)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The mask's extent ``x, y, width, height`` in pixels, as COCO writes it."""
        return masks.box(self.rle)


def encode_instances(instances: Instances, chunk: int = 16) -> list[Detection]:
    """Take a model's output, encoding its masks where the model has not.

    Args:
        instances: detectron2's, with ``scores``, ``pred_classes`` ``[K]``, and ``pred_rles`` (a list of RLE) or
            ``pred_masks`` (bool ``[K, H, W]``).
        chunk: masks encoded at once, so that no second copy of all of them exists.

    Returns:
        ``K`` detections in the same order.
    """
    if instances.has("pred_rles"):
        rles = instances.pred_rles
    else:
        rles = [rle for bits in instances.pred_masks.split(chunk) for rle in masks.encode(bits)]
    found = zip(instances.pred_classes.tolist(), instances.scores.tolist(), rles, strict=True)
    return [Detection(label, score, rle) for label, score, rle in found]


def ground_truth(record: Mapping[str, Any]) -> list[Detection]:
    """The objects of one detectron2 dataset dict, crowds left out, as detections of score 1."""
    height, width = record["height"], record["width"]
    return [
        Detection(item["category_id"], 1.0, masks.encode_shape(item["segmentation"], height, width))
        for item in record.get("annotations", ())
        if not item.get("iscrowd", 0)
    ]


def select(detections: Sequence[Detection], score: float = 0.0, overlap: float = 1.0) -> list[Detection]:
    """Choose the detections of one image that are worth showing, best first.

    Args:
        detections: in any order.
        score: the least score.
        overlap: as `suppress` has it.
    """
    best_first = sorted(detections, key=lambda item: -item.score)
    return suppress([item for item in best_first if item.score >= score], overlap)


def suppress(best_first: list[Detection], overlap: float, per_class: bool = False) -> list[Detection]:
    """Drop each mask that overlaps a kept one before it.

    Args:
        best_first: detections of one image.
        overlap: the greatest IoU of two that are kept; 1 keeps all.
        per_class: compare masks of the same name only, so that one object may keep several names.
    """
    if overlap >= 1:
        return best_first
    rles = [item.rle for item in best_first]
    clash = masks.iou(rles, rles) > overlap  # [K, K]
    if per_class:
        labels = np.array([item.label for item in best_first])
        clash &= labels[:, None] == labels
    keep: list[int] = []
    for index in range(len(rles)):
        if not clash[index, keep].any():
            keep.append(index)
    return [best_first[index] for index in keep]
