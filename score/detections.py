"""One found object, its mask run-length encoded, and the choice of which ones to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from score.errors import DataError
from score.model.postprocess import encode_rle

if TYPE_CHECKING:
    from detectron2.structures import Instances


class RLE(TypedDict):
    """COCO's compressed run-length encoding: ``size`` is ``[height, width]``, ``counts`` is ASCII."""

    size: list[int]
    counts: str


@dataclass(frozen=True, slots=True)
class Detection:
    """An object in an image.

    Attributes:
        label: position of its name in the vocabulary.
        score: 0 .. 1; 1 for ground truth.
        rle: its mask at the size of the image.
    """

    label: int
    score: float
    rle: RLE

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask ``[H, W]``, decoded anew at each call."""
        return coco_mask.decode(self.rle).astype(bool)

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(coco_mask.area(self.rle))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The mask's extent ``x, y, width, height`` in pixels, as COCO writes it."""
        x, y, width, height = (int(v) for v in coco_mask.toBbox(self.rle))
        return x, y, width, height


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
        rles = [rle for masks in instances.pred_masks.split(chunk) for rle in encode_rle(masks)]
    found = zip(instances.pred_classes.tolist(), instances.scores.tolist(), rles, strict=True)
    return [Detection(label, score, rle) for label, score, rle in found]


def encode_segmentation(segmentation: Any, height: int, width: int) -> RLE:
    """Encode COCO ground truth: polygons, or RLE whose counts are a list, a string or bytes.

    Raises:
        DataError: the RLE has another size than the image.
    """
    size = [height, width]
    if not isinstance(segmentation, Mapping):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif list(segmentation["size"]) != size:
        stated = list(segmentation["size"])
        raise DataError(f"a mask of size {stated} in an image of height, width {size}; prepare the annotations again")
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(dict(segmentation), height, width)
    else:
        rle = segmentation
    counts = rle["counts"]
    return RLE(size=size, counts=counts.decode("ascii") if isinstance(counts, bytes) else counts)


def ground_truth(record: Mapping[str, Any]) -> list[Detection]:
    """The objects of one detectron2 dataset dict, crowds left out, as detections of score 1."""
    height, width = record["height"], record["width"]
    return [
        Detection(item["category_id"], 1.0, encode_segmentation(item["segmentation"], height, width))
        for item in record.get("annotations", ())
        if not item.get("iscrowd", 0)
    ]


def select(
    detections: Sequence[Detection],
    score: float = 0.0,
    top_k: int | None = None,
    overlap: float = 1.0,
    min_area: int = 0,
    per_class: bool = False,
) -> list[Detection]:
    """Choose the detections worth showing.

    Args:
        detections: of one image, in any order.
        score: the least score.
        top_k: how many at most; None for all.
        overlap: a mask whose IoU with a better one is above this is dropped; 1 keeps all.
        min_area: the least mask area in pixels.
        per_class: compare masks of the same name only, so that one object may keep several names.

    Returns:
        The chosen ones, best first.
    """
    best_first = sorted(detections, key=lambda item: -item.score)
    candidates = [item for item in best_first if item.score >= score and item.area >= min_area]
    if overlap < 1 and candidates:
        candidates = _suppress(candidates, overlap, per_class)
    return candidates[:top_k]


def _suppress(best_first: list[Detection], overlap: float, per_class: bool) -> list[Detection]:
    rles = [item.rle for item in best_first]
    clash = coco_mask.iou(rles, rles, [0] * len(rles)) > overlap  # [K, K]
    if per_class:
        labels = np.array([item.label for item in best_first])
        clash &= labels[:, None] == labels
    keep: list[int] = []
    for index in range(len(rles)):
        if not clash[index, keep].any():
            keep.append(index)
    return [best_first[index] for index in keep]
