"""Mean IoU of class maps: over all, seen and unseen classes, their harmonic mean, and per class.

Counted by hotcoco as mmsegmentation does; its whole state is one confusion matrix. A class without ground truth is
undefined and counts in no mean, as in detectron2; what is mistaken for it is missed elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from hotcoco.semantic import SemanticEval
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from score.errors import DataError
from score.evaluation.coco import GroundTruth, Metrics, split
from score.masks import RLE, area, encode_shape, part
from score.names import synonyms

METRICS = ("mIoU", "fwIoU", "aAcc", "mAcc")
"""Mean IoU, IoU weighted by frequency, share of right pixels, and its mean over classes."""

UNLABELLED = 255
"""The label of pixels that do not count, in files."""

IGNORED = np.iinfo(np.uint16).max  # the same in memory, where vocabularies may be longer than 255
BACKGROUND = "background"


class SemanticScorer:
    """Scores class maps image by image, in percent.

    Args:
        names: the ``C`` classes.
        seen: ``C`` flags, true for a class of the training vocabulary.
        background: whether the label ``C`` is background: pixels that no class is to claim. It has figures of its own
            and counts in no mean.
    """

    def __init__(self, names: Sequence[str], seen: Sequence[bool], background: bool = False) -> None:
        if len(names) != len(seen):
            raise ValueError(f"{len(names)} names and {len(seen)} seen flags")
        self.names, self.seen, self.background = list(names), [bool(flag) for flag in seen], background
        self._counts = SemanticEval(len(names) + background, ignore_index=IGNORED)

    def add(self, truth: NDArray[np.uint16], prediction: NDArray[np.uint16]) -> None:
        """Count an image.

        Args:
            truth: ``[H, W]`` labels; pixels of :data:`IGNORED` do not count.
            prediction: ``[H, W]`` labels.
        """
        self._counts.update(truth, prediction)

    def merge(self, other: SemanticScorer) -> None:
        """Take in the images of another process."""
        self._counts.merge(other._counts)

    def finish(self) -> Metrics:
        """Figures of all images so far.

        Returns:
            ``all``, ``seen``, ``unseen``: :data:`METRICS` over the classes that have pixels; ``harmonic``: ``mIoU`` of
            seen and unseen; ``per_class``: by name ``IoU``, ``Acc``, ``seen`` and ``pixels``; ``background``: the same
            without ``seen``, where there is one; ``images``: count. None is for what is undefined.
        """
        rows = self._counts.results()["per_class"]
        pixels = np.array([row["gt_area"] for row in rows], dtype=np.float64)
        scores = np.array([[row["IoU"], row["Acc"]] for row in rows], dtype=np.float64) * 100
        known = [
            {"IoU": float(iou), "Acc": float(acc), "pixels": int(count)}
            if count
            else {"IoU": None, "Acc": None, "pixels": 0}
            for (iou, acc), count in zip(scores, pixels, strict=True)
        ]
        last = len(self.names)
        return {
            **split(self.seen, lambda chosen: _means(scores[:last][chosen], pixels[:last][chosen]), ("mIoU",)),
            "per_class": {
                name: {**row, "seen": flag} for name, row, flag in zip(self.names, known[:last], self.seen, strict=True)
            },
            **({BACKGROUND: known[last]} if self.background else {}),
            "images": self._counts.n_images,
        }


def _means(scores: NDArray[np.float64], pixels: NDArray[np.float64]) -> dict[str, float | None]:
    """Of ``[n, (IoU, Acc)]`` in percent and ``[n]`` pixels of ground truth."""
    present = pixels > 0
    if not present.any():
        return dict.fromkeys(METRICS)
    scores, share = scores[present], pixels[present] / pixels.sum()
    iou, accuracy = scores.mean(axis=0)
    weighted_iou, right = share @ scores
    return dict(zip(METRICS, map(float, (iou, weighted_iou, right, accuracy)), strict=True))


def paint(rles: Sequence[RLE], height: int, width: int) -> NDArray[np.uint16]:
    """Masks on one map, smaller ones over larger ones.

    Returns:
        ``[H, W]``: the position in ``rles``, or :data:`IGNORED` where there is none.
    """
    canvas = np.full((height, width), IGNORED, dtype=np.uint16)
    for index in sorted(range(len(rles)), key=lambda index: -area(rles[index])):
        where, mask = part(rles[index])
        canvas[where][mask] = index
    return canvas


def read_labels(path: str | Path, positions: Sequence[int], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Read a label image.

    Args:
        path: a file of one channel, or with a palette, whose values are the dataset's class numbers; 255 does not
            count.
        positions: where each class number stands in the vocabulary.
        size: height and width of the image it belongs to.

    Returns:
        ``[H, W]`` positions, :data:`IGNORED` where the file says 255.

    Raises:
        DataError: no such file, another size, more than one channel, values that are no whole numbers from 0 on, or
            one that is no class.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a label image ({type(error).__name__}); replace the file"
        ) from error
    if labels.shape != size:
        raise DataError(
            f"{path}: labels of shape {labels.shape} for an image of height, width {size}; replace the file"
        )
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    if labels.dtype.kind not in "ui" or labels.min(initial=0) < 0:
        raise DataError(f"{path}: labels are {labels.dtype}, some below 0 or no whole numbers; replace the file")
    table = np.full(max(int(labels.max(initial=0)), UNLABELLED, len(positions)) + 1, -1)
    table[: len(positions)] = positions
    table[UNLABELLED] = IGNORED
    mapped = table[labels]
    if (mapped < 0).any():
        value = labels[mapped < 0].flat[0]
        raise DataError(f"{path}: label {value}, but there are {len(positions)} classes and 255; correct the file")
    return mapped.astype(np.uint16)


class SemanticEvaluator(DatasetEvaluator):
    """Score a model's ``sem_seg`` over a registered dataset; a pixel has the class of its best score.

    The ground truth is the label image that a record names as ``sem_seg_file_name``, else its instances, smaller ones
    over larger ones. In the latter case pixels of no instance are background.

    Args:
        dataset_name: a name in detectron2's catalogs.
        names: the vocabulary of ``sem_seg``. Every class of the dataset must be in it.
        seen: a flag for each of ``names``: is it in the training vocabulary?
        background: pixels whose best score is below this are predicted as background. None predicts a class
            everywhere, and leaves the background of the ground truth out. Where a class is called "background", it is
            the background; else it is a label beyond the classes, with figures of its own.

    Raises:
        ConfigError: a class of the dataset is not in ``names``.
    """

    def __init__(
        self, dataset_name: str, names: Sequence[str], seen: Sequence[bool], background: float | None = None
    ) -> None:
        self._truth = GroundTruth(dataset_name, names)
        self.names, self.seen, self.threshold = list(names), list(seen), background
        listed = [index for index, name in enumerate(names) if BACKGROUND in synonyms(name)]
        self._background = listed[0] if listed else len(names)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        extra = self.threshold is not None and self._background == len(self.names)
        self.scorer = SemanticScorer(self.names, self.seen, background=extra)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Score a batch: detectron2's dataset dicts, and dicts with ``sem_seg`` ``[C, H, W]`` at the image's size."""
        for item, output in zip(inputs, outputs, strict=True):
            record, _ = self._truth[item["image_id"]]
            self.scorer.add(self._labels(record), self._predicted(output["sem_seg"]))

    def evaluate(self) -> Metrics | None:
        """Merge all processes' counts and finish; None on every process but the main one."""
        comm.synchronize()
        parts = comm.gather(self.scorer, dst=0)
        if not comm.is_main_process():
            return None
        for other in parts[1:]:
            parts[0].merge(other)
        return parts[0].finish()

    def _labels(self, record: Mapping[str, Any]) -> NDArray[np.uint16]:
        size = (record["height"], record["width"])
        if "sem_seg_file_name" in record:
            return read_labels(record["sem_seg_file_name"], self._truth.position, size)
        annotations = record["annotations"]
        canvas = paint([encode_shape(item["segmentation"], *size) for item in annotations], *size)
        table = np.full(IGNORED + 1, IGNORED, dtype=np.uint16)
        table[: len(annotations)] = [item["category_id"] for item in annotations]
        if self.threshold is not None or self._background < len(self.names):
            table[IGNORED] = self._background
        return table[canvas]

    def _predicted(self, scores: Tensor) -> NDArray[np.uint16]:
        best, label = scores.max(dim=0)
        if self.threshold is not None:
            label = label.masked_fill(best < self.threshold, self._background)
        return label.cpu().numpy().astype(np.uint16)
