"""Learning the ``lite`` tower's projection: regions of images beside the names of their classes.

Features of ground-truth regions are pooled once, at several scales and orientations and with masks a little too large or
too small; the projection then learns in seconds to send a region's features to its class's text embedding.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from torch import Tensor
from torch.nn import functional as F

from score.data.images import read_image
from score.data.mapper import rasterise
from score.errors import DataError
from score.model.towers.base import pool_regions, resize
from score.model.towers.lite import LiteTower
from score.model.towers.projection import Projection

logger = logging.getLogger(__name__)

STRIDE = 32  # images are padded to its multiples, as the model does
MASK_STRIDE = 4  # of the mask logits that the model predicts


class Regions(NamedTuple):
    """Pooled features of a dataset's regions.

    Attributes:
        names: the dataset's class names.
        features: ``[N, D]`` fp16, of the tower's dense map.
        labels: ``[N]`` int64, indices of ``names``.
    """

    names: list[str]
    features: Tensor
    labels: Tensor


class View(NamedTuple):
    """How an image is looked at.

    Attributes:
        size: (height, width) that it is resized to, in pixels.
        turns: quarter turns, 0 to 3.
        flip: whether it is mirrored first.
        grow: pixels at stride 4 by which masks are too large, or too small if negative: -1, 0 or 1.
    """

    size: tuple[int, int]
    turns: int = 0
    flip: bool = False
    grow: int = 0


def collect(
    tower: LiteTower,
    dataset: str,
    *,
    shortest: int,
    longest: int = 800,
    views: int = 0,
    scale: Sequence[float] = (0.4, 1.6),
    per_class: int | None = None,
    seed: int = 0,
) -> Regions:
    """Pool the features of a dataset's ground-truth regions.

    Args:
        tower: whose dense map is pooled.
        dataset: a registered name.
        shortest: length in pixels that images' shortest edge is resized to.
        longest: greatest length of their longest edge.
        views: random views of each image; 0 for one upright view with exact masks, as in evaluation.
        scale: range of a random view's size, relative to the upright one.
        per_class: regions of a class at most, chosen at random.
        seed: of the choice and the views.

    Returns:
        The regions. One that covers no position of the dense map is left out of random views; in the upright view it
        has zero features, as in the model.

    Raises:
        DataError: the dataset has no regions, or an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    names = list(MetadataCatalog.get(dataset).thing_classes) if dataset in DatasetCatalog.list() else []
    chosen = _choose(DatasetCatalog.get(dataset), per_class, rng)
    if not chosen:
        raise DataError(f"{dataset}: no annotated regions to learn from; give a dataset that has some")
    features, labels = [], []
    started = time.perf_counter()
    for number, (record, annotations) in enumerate(chosen, start=1):
        pixels = read_image(record["file_name"], (record["width"], record["height"]))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float()
        whole = T.NoOpTransform()
        masks = np.stack([rasterise(item["segmentation"], whole, pixels.shape[:2]) for item in annotations])
        classes = torch.tensor([item["category_id"] for item in annotations])
        for view in _views(pixels.shape[:2], shortest, longest, views, scale, rng):
            pooled, covered = pool_view(tower, image, torch.from_numpy(masks).float(), view)
            keep = covered if views else torch.ones_like(covered)
            features.append(pooled[keep].half().cpu())
            labels.append(classes[keep])
        if number % 100 == 0 or number == len(chosen):
            logger.info("%s: %d/%d images, %.0f s", dataset, number, len(chosen), time.perf_counter() - started)
    return Regions(names, torch.cat(features), torch.cat(labels))


def _choose(
    records: Sequence[dict[str, Any]], per_class: int | None, rng: np.random.Generator
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Images with those of their annotations that are among ``per_class`` random ones of their class."""
    places: dict[int, list[tuple[int, int]]] = {}
    for row, record in enumerate(records):
        for column, item in enumerate(record.get("annotations", ())):
            if not item.get("iscrowd", 0):
                places.setdefault(item["category_id"], []).append((row, column))
    chosen: dict[int, list[int]] = {}
    for _, found in sorted(places.items()):
        for index in rng.permutation(len(found))[:per_class]:
            row, column = found[index]
            chosen.setdefault(row, []).append(column)
    return [(records[row], [records[row]["annotations"][c] for c in sorted(chosen[row])]) for row in sorted(chosen)]


def _views(
    shape: tuple[int, int], shortest: int, longest: int, views: int, scale: Sequence[float], rng: np.random.Generator
) -> list[View]:
    """The upright view, or random ones."""
    ratio = min(shortest / min(shape), longest / max(shape))

    def size(factor: float) -> tuple[int, int]:
        return max(STRIDE, round(shape[0] * ratio * factor)), max(STRIDE, round(shape[1] * ratio * factor))

    if not views:
        return [View(size(1.0))]
    return [
        View(
            size(math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))),
            turns=int(rng.integers(4)),
            flip=bool(rng.integers(2)),
            grow=int(rng.integers(-1, 2)),
        )
        for _ in range(views)
    ]


def pool_view(tower: LiteTower, image: Tensor, masks: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Pool regions of one view of an image, with masks on the grid that the model predicts them on.

    Args:
        tower: whose dense map is pooled.
        image: ``[3, H, W]``, RGB in 0..255.
        masks: ``[N, H, W]``, 0 or 1.
        view: how to look at it.

    Returns:
        ``[N, D]`` features and ``[N]`` bool: whether the region covers any position of the dense map.
    """
    both = torch.cat([image, masks * 255.0]).unsqueeze(0)
    both = F.interpolate(both, size=view.size, mode="bilinear", antialias=True).clamp(0, 255)
    if view.flip:
        both = both.flip(-1)
    both = both.rot90(view.turns, (-2, -1)).to(next(tower.parameters()).device)
    mean, std = (both.new_tensor(list(v)).view(1, 3, 1, 1) for v in (tower.pixel_mean, tower.pixel_std))
    padding = (0, -both.shape[-1] % STRIDE, 0, -both.shape[-2] % STRIDE)
    dense = tower.pyramid(F.pad((both[:, :3] - mean) / std, padding))["dense"]
    logits = F.avg_pool2d(F.pad(both[:, 3:], padding), MASK_STRIDE) / 255.0 - 0.5  # [1, N, H/4, W/4]
    if view.grow > 0:
        logits = F.max_pool2d(logits, 3, 1, 1)
    elif view.grow < 0:
        smaller = -F.max_pool2d(-logits, 3, 1, 1)
        remains = (smaller > 0).flatten(2).any(dim=-1)[..., None, None]
        logits = torch.where(remains, smaller, logits)
    regions = resize(logits, dense.shape[-2:]) > 0
    return pool_regions(dense, regions)[0], regions.flatten(2).any(dim=-1)[0]
