"""Pooled features of a dataset's ground-truth regions, which the ``lite`` tower's projection learns from.

Beside objects by their masks, at several scales and orientations and a little too large or too small, there is what is
around them: RemoteCLIP's step from boxes to captions (Liu et al., 2024), with a name for a caption.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from score.data import catalog
from score.data.images import read_image
from score.data.mapper import rasterise, recoloured
from score.errors import DataError
from score.model.towers.base import pool_regions, resize
from score.model.towers.lite import LiteTower
from score.names import normalise

logger = logging.getLogger(__name__)

STRIDE = 32  # images are padded to its multiples, as the model does
MASK_STRIDE = 4  # of the mask logits that the model predicts


class Regions(NamedTuple):
    """Pooled features of a dataset's regions.

    Attributes:
        features: ``[N, D]`` fp16, of the tower's dense map.
        labels: ``[N]`` int64, indices of ``names``.
    """

    names: list[str]
    features: Tensor
    labels: Tensor


class View(NamedTuple):
    """How an image is looked at.

    Attributes:
        size: (height, width) that it is resized to, in pixels, multiples of 4.
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
    colour: float = 0.0,
    per_class: int | None = None,
    boxes: float = 0.0,
    around: float = 0.6,
    holds: Mapping[str, str] | None = None,
    crowds: int = 1,
    seed: int = 0,
) -> Regions:
    """Pool the features of a dataset's ground-truth regions.

    Args:
        shortest: length in pixels that images' shortest edge is resized to.
        longest: greatest length of their longest edge.
        views: random views of each image; 0 for one upright view with exact masks, as in evaluation.
        scale: range of a random view's size, relative to the upright one.
        colour: of random views, as the mapper's of that name.
        per_class: regions of a class at most, chosen at random.
        boxes: how often a random view shows every object a second time, by its box.
        around: of an object's size, by which its box is larger at most.
        holds: places by what they hold, as a harbor holds ships. A thing whose box meets a place that may hold it is
            there called by the place's name: moored ships, pier and water are a harbor.
        crowds: further regions for each place's box, of it and up to six of the things in the view.

    Returns:
        The regions. One that covers no position of the dense map is left out of random views; in the upright view it
        has zero features, as in the model.

    Raises:
        DataError: there is no such dataset, it has no regions, or an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose(catalog.load(dataset), per_class, rng)
    names = list(MetadataCatalog.get(dataset).thing_classes)
    if not chosen:
        raise DataError(f"{dataset}: no annotated regions to learn from; give a dataset that has some")
    known = [normalise(name) for name in names]
    pairs = [pair for pair in (holds or {}).items() if views and {*pair} <= {*known}]
    places = {known.index(thing): known.index(place) for place, thing in pairs}
    features, labels = [], []
    started = time.perf_counter()
    for number, (record, items) in enumerate(chosen, start=1):
        pixels = read_image(record["file_name"], (record["width"], record["height"]))
        whole = T.NoOpTransform()
        masks = np.stack([rasterise(item["segmentation"], whole, pixels.shape[:2]) for item in items])
        classes = np.array([item["category_id"] for item in items])
        for view in _views(pixels.shape[:2], shortest, longest, views, scale, rng):
            shown, called, look = masks, classes, pixels
            if views:
                look = recoloured(pixels, rng.uniform(1 - colour, 1 + colour, size=3))
            if views and rng.random() < boxes:
                more, names_of_more = surroundings(masks, classes, places, around, rng)
                shown, called = np.concatenate([masks, more]), np.concatenate([classes, names_of_more])
            image = torch.from_numpy(look).permute(2, 0, 1).float()
            pooled, covered = pool_view(tower, image, torch.from_numpy(shown).float(), view)
            pooled, keep = pooled.cpu(), covered.cpu() if views else torch.ones(len(called), dtype=torch.bool)
            features.append(pooled[keep].half())
            labels.append(torch.from_numpy(called)[keep])
            own = torch.from_numpy(np.resize(classes, len(called)))
            boxed = torch.arange(len(called)) >= len(classes)
            for thing, place in places.items():
                held, holding = pooled[keep & ~boxed & (own == thing)], pooled[keep & boxed & (own == place)]
                features.append(crowd(held, holding, crowds, rng).half())
                labels.append(torch.full((len(features[-1]),), place))
        if number % 100 == 0 or number == len(chosen):
            logger.info("%s: %d/%d images, %.0f s", dataset, number, len(chosen), time.perf_counter() - started)
    return Regions(names, torch.cat(features), torch.cat(labels))


def surroundings(
    masks: NDArray[np.bool_],
    classes: NDArray[np.int64],
    places: Mapping[int, int],
    around: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The boxes of objects, each grown by up to ``around`` of the root of its mask's area, and what they are called.

    Args:
        masks: ``[N, H, W]``.
        classes: ``[N]``.
        places: the class of a place, by that of a thing that it may hold.

    Returns:
        ``[N, H, W]`` and ``[N]``.
    """
    boxes, called = np.zeros_like(masks), classes.copy()
    for index, mask in enumerate(masks):
        margin = round(math.sqrt(mask.sum()) * rng.uniform(0, around))
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
            boxes[index, top : rows[-1] + margin + 1, left : columns[-1] + margin + 1] = True
        place = places.get(int(classes[index]))
        if place is not None and (boxes[index] & masks[classes == place].any(axis=0)).any():
            called[index] = place
    return boxes, called


def crowd(held: Tensor, boxes: Tensor, number: int, rng: np.random.Generator) -> Tensor:
    """Regions of a place's box and up to six things: pooling averages, so their features are averages of these.

    Args:
        held, boxes: ``[N, D]`` and ``[M, D]``, of the things and the places in one view.

    Returns:
        ``[number * M, D]``, of which the things are 30 % to 90 %; nothing if there are none.
    """
    if not len(held):
        return boxes[:0]
    boxes = boxes.repeat(number, 1)
    things = held[torch.from_numpy(rng.integers(len(held), size=(len(boxes), 6)))].mean(dim=1)
    return torch.lerp(boxes, things, torch.from_numpy(rng.uniform(0.3, 0.9, size=(len(boxes), 1))).to(boxes))


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
        height, width = (max(STRIDE, MASK_STRIDE * round(x * ratio * factor / MASK_STRIDE)) for x in shape)
        return height, width

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
        image: ``[3, H, W]``, RGB in 0..255.
        masks: ``[N, H, W]``, 0 or 1.

    Returns:
        ``[N, D]`` features and ``[N]`` bool: whether the region covers any position of the dense map.
    """
    device = next(tower.parameters()).device
    height, width = view.size
    grid = (height // MASK_STRIDE, width // MASK_STRIDE)

    def look(planes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        planes = F.interpolate(planes.unsqueeze(0).to(device), size=size, mode="bilinear", antialias=True)
        planes = (planes.flip(-1) if view.flip else planes).rot90(view.turns, (-2, -1))
        multiple = STRIDE // stride
        return F.pad(planes, (0, -planes.shape[-1] % multiple, 0, -planes.shape[-2] % multiple))

    mean, std = (torch.tensor(list(v), device=device).view(3, 1, 1) for v in (tower.pixel_mean, tower.pixel_std))
    normalised = (image.to(device) - mean) / std
    dense = tower.pyramid(look(normalised, view.size, 1))["dense"]
    logits = look(masks, grid, MASK_STRIDE) - 0.5  # [1, N, H/4, W/4]
    if view.grow > 0:
        logits = F.max_pool2d(logits, 3, 1, 1)
    elif view.grow < 0:
        smaller = -F.max_pool2d(-logits, 3, 1, 1)
        remains = (smaller > 0).flatten(2).any(dim=-1)[..., None, None]
        logits = torch.where(remains, smaller, logits)
    regions = resize(logits, dense.shape[-2:]) > 0
    return pool_regions(dense, regions)[0], regions.flatten(2).any(dim=-1)[0]
