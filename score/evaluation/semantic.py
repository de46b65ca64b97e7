"""Mean IoU of class maps: over all, seen and unseen classes, their harmonic mean, and per class.

Counted by hotcoco as mmsegmentation does; its whole state is one confusion matrix. A class without ground truth is
undefined and counts in no mean, as in detectron2; what is mistaken for it is missed elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hotcoco.semantic import SemanticEval
from numpy.typing import NDArray

from score.evaluation.coco import Metrics, split
from score.masks import RLE, area, part

METRICS = ("mIoU", "fwIoU", "aAcc", "mAcc")
"""Mean IoU, IoU weighted by frequency, share of right pixels, and its mean over classes."""

IGNORED = np.iinfo(np.uint16).max
"""The label of pixels that do not count; vocabularies may be longer than the 255 of files."""

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

    def merge(self, others: Sequence[SemanticScorer]) -> None:
        """Take in the images of other processes."""
        for other in others:
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
