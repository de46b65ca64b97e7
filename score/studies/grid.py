"""COCO mask AP of every pair of ensemble weights, from predictions made once.

The network and the masks do not depend on ``alpha`` and ``beta``, so IoU is computed once an image
(:func:`candidates`), and all pairs of the grid are chosen, matched and scored together. Each cell equals what
``coco_metrics`` gives for ``CachedImage.instances``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, Literal, get_args

import numpy as np
import torch
from hotcoco.primitives import mask_iou
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from score.engine.cache import CachedImage
from score.errors import DataError
from score.evaluation.coco import harmonic_mean, ranks
from score.evaluation.matching import ABSENT, Contenders, Order, average_precision, contenders, match
from score.evaluation.tables import Cell, Table
from score.masks import encode_shape
from score.model.classifier import Ensemble
from score.model.postprocess import best_pairs

Group = Literal["all", "seen", "unseen", "harmonic"]
Metric = Literal["AP", "AP50", "AP75"]

METRICS: tuple[Metric, ...] = ("AP", "AP50", "AP75")
MEMORY = 1 << 29  # bytes for the rankings of as many cells as are scored at once
BATCH = 1 << 22  # class probabilities worked out at once


@dataclass(frozen=True)
class Candidates:
    """What one image brings to the sweep, without its masks: ``Q`` queries, ``C`` classes, ``G`` annotations.

    Attributes:
        in_logits, out_logits, quality: ``[Q, C + 1]``, ``[Q, C]``, ``[Q]`` fp32, as in :class:`CachedImage`.
        overlap: ``[Q, G]`` fp64, IoU as COCO has it: with a crowd, the part of the query's mask inside it.
        labels: ``[G]``, classes of the annotations.
        crowd: ``[G]``, which of them are crowds.
    """

    image_id: int | str
    in_logits: NDArray[np.float32]
    out_logits: NDArray[np.float32]
    quality: NDArray[np.float32]
    overlap: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


def candidates(cached: CachedImage, record: Mapping[str, Any]) -> Candidates:
    """Compare an image's masks with its ground truth; they are not needed any more afterwards.

    Args:
        record: its detectron2 dataset dict; ``category_id`` is a position in the vocabulary of the predictions.

    Raises:
        DataError: the two are not of the same image and vocabulary, or a prediction is not a number.
    """
    height, width = record["height"], record["width"]
    annotations = record.get("annotations", ())
    if (cached.image_id, *cached.size) != (record["image_id"], height, width):
        raise DataError(
            f"predictions of image {cached.image_id}, height, width {list(cached.size)}, and ground truth of image "
            f"{record['image_id']}, {[height, width]}; predict again on this dataset"
        )
    labels = np.array([item["category_id"] for item in annotations], dtype=np.int64)
    classes = cached.out_logits.shape[1]
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"an annotation of class {labels.max()} in image {cached.image_id}, of {classes} classes")
    # copies, for views would keep the file's whole record in memory, masks and all
    logits = np.array(cached.in_logits), np.array(cached.out_logits), np.array(cached.quality)
    if not all(np.isfinite(values).all() for values in logits):
        raise DataError(f"a prediction of image {cached.image_id} is not a number; the model has diverged")
    crowd = [bool(item.get("iscrowd", 0)) for item in annotations]
    objects = [dict(encode_shape(item["segmentation"], height, width)) for item in annotations]
    overlap = mask_iou([dict(rle) for rle in cached.rles], objects, crowd)
    return Candidates(cached.image_id, *logits, overlap, labels, np.array(crowd, dtype=bool))


@dataclass(frozen=True)
class Grid:
    """AP of every pair of weights.

    Attributes:
        alphas, betas: ``A`` and ``B`` weights.
        seen: ``C`` flags.
        ap: ``[A, B, C, 3]``, :data:`METRICS` in percent, NaN for a class without instances.
        instances: ``[C]``, annotations of each class, crowds left out.
    """

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    seen: tuple[bool, ...]
    ap: NDArray[np.float64]
    instances: NDArray[np.int64]

    def mean(self, group: Group, metric: Metric = "AP") -> NDArray[np.float64]:
        """Mean over a group's classes that have instances, or the harmonic mean of seen and unseen.

        Returns:
            ``[A, B]`` in percent, NaN where undefined.
        """
        if group == "harmonic":
            first, second = self.mean("seen", metric), self.mean("unseen", metric)
            if np.isnan(first).any() or np.isnan(second).any():
                return np.full(first.shape, np.nan)
            return np.vectorize(harmonic_mean, otypes=[float])(first, second)
        flags = np.array(self.seen, dtype=bool)
        chosen = {"all": flags | True, "seen": flags, "unseen": ~flags}[group] & (self.instances > 0)
        if not chosen.any():
            return np.full(self.ap.shape[:2], np.nan)
        return self.ap[:, :, chosen, METRICS.index(metric)].mean(axis=-1)

    def best(self, group: Group = "all", metric: Metric = "AP") -> tuple[float, float]:
        """The pair with the highest figure; the first of several, by alpha and then by beta.

        Raises:
            DataError: the figure is undefined.
        """
        row, column = _best(self, group, metric)
        return self.alphas[row], self.betas[column]


def sweep(
    images: Sequence[Candidates],
    seen: Sequence[bool],
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    top_k: int = 300,
    max_detections: int = 300,
) -> Grid:
    """Score every pair of ensemble weights.

    Args:
        images: exactly the images to score.
        seen: ``C`` flags, true for a class of the training vocabulary. If none is false, beta has no influence, and
            if none is true, alpha has none: each cell then repeats the one that was computed.
        alphas, betas: weights of the frozen classifier for seen and unseen classes, as :class:`Ensemble` has them.
        top_k: query-class pairs chosen from each image, by class probability.
        max_detections: the best so many of each image count, by score, over all classes together.

    Raises:
        DataError: there is no image.
    """
    if not images:
        raise DataError("no image to score; predict some first")
    classes = len(seen)
    if any(image.out_logits.shape[1] != classes for image in images):
        raise ValueError(f"{classes} seen flags and predictions of {images[0].out_logits.shape[1]} classes")
    place = ranks(image.image_id for image in images)
    images = sorted(images, key=lambda image: place[image.image_id])
    labels = np.concatenate([image.labels[~image.crowd] for image in images])
    instances = np.bincount(labels, minlength=classes)
    known = contenders(
        [image.overlap for image in images], [image.labels for image in images], [i.crowd for i in images], classes
    )
    counts = [min(top_k, max_detections, image.out_logits.size) for image in images]
    order = Order(classes, sum(counts))

    distinct = alphas if any(seen) else alphas[:1], betas if not all(seen) else betas[:1]
    cells = torch.tensor(list(product(*distinct)), dtype=torch.float64)
    flags = torch.tensor(list(seen), dtype=torch.bool)
    rows = []
    for block in cells.split(max(1, MEMORY // (8 * sum(counts) + 64 * len(known.crowd) + 1))):
        rankings, keys = _rank(images, counts, known, block, flags, top_k, order)
        hits = match(keys, known.contests)
        for ranking, key, hit in zip(rankings, keys, hits, strict=True):
            ranking.sort()
            rows.append(average_precision(ranking, key, hit, known.crowd, instances, order))
    precision = 100 * np.stack(rows)  # [cells, C, IoU]
    ap = np.stack([precision.mean(-1), precision[..., 0], precision[..., 5]], axis=-1)
    ap = ap.reshape(len(distinct[0]), len(distinct[1]), classes, len(METRICS))
    ap = np.broadcast_to(ap, (len(alphas), len(betas), classes, len(METRICS))).copy()
    return Grid(tuple(alphas), tuple(betas), tuple(seen), ap, instances)


def _rank(
    images: Sequence[Candidates],
    counts: Sequence[int],
    known: Contenders,
    cells: torch.Tensor,
    seen: torch.Tensor,
    top_k: int,
    order: Order,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose each cell's detections: keys of all ``[cells, detections]``, and of the contenders ``[cells, M]``."""
    rankings = np.empty((len(cells), order.detections), dtype=np.int64)
    keys = np.full((len(cells), len(known.crowd)), ABSENT)
    first = first_contender = 0
    choices = _choices(images, cells, seen, top_k)
    for image, pairs, count, (scores, query, label) in zip(images, known.pairs, counts, choices, strict=True):
        if count < scores.shape[1]:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores = np.take_along_axis(scores, best, axis=1)
            query, label = np.take_along_axis(query, best, axis=1), np.take_along_axis(label, best, axis=1)
        part = order.keys(label, scores, first)
        rankings[:, first : first + count] = part
        number = np.full(image.out_logits.size, -1)
        number[pairs] = np.arange(first_contender, first_contender + len(pairs))
        chosen = number[query * order.classes + label]
        cell, place = np.nonzero(chosen >= 0)
        keys[cell, chosen[cell, place]] = part[cell, place]
        first, first_contender = first + count, first_contender + len(pairs)
    return rankings, keys


def _choices(
    images: Sequence[Candidates], cells: torch.Tensor, seen: torch.Tensor, top_k: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]]:
    """The model's own choice of pairs under each cell's weights, image by image: score, query, class ``[cells, K]``.

    Images of one size go together: small operators would keep threads waiting for each other rather than busy.
    """

    def choose(cell: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return best_pairs(Ensemble(alpha=cell[0], beta=cell[1])(inside, outside, seen), top_k)

    for shape, group in groupby(images, key=lambda image: image.in_logits.shape):
        alike = list(group)
        step = max(1, BATCH // (len(cells) * math.prod(shape) + 1))
        for part in (alike[start : start + step] for start in range(0, len(alike), step)):
            inside = torch.from_numpy(np.stack([image.in_logits for image in part]))  # [n, Q, C + 1]
            outside = torch.from_numpy(np.stack([image.out_logits for image in part]))
            every_image = torch.vmap(choose, in_dims=(None, 0, 0))
            chances, query, label = torch.vmap(every_image, in_dims=(0, None, None))(cells, inside, outside)
            for index, image in enumerate(part):
                scores = chances[:, index] * torch.from_numpy(image.quality)[query[:, index]]  # [cells, K]
                yield scores.numpy(), query[:, index].numpy(), label[:, index].numpy()


def table(grid: Grid, group: Group = "all", metric: Metric = "AP") -> str:
    """Lay out one figure: a line for each alpha, a column for each beta, ``*`` before the best.

    Returns:
        Lines of at most 80 characters, without a last newline; ``-`` stands for what is undefined.
    """
    values = grid.mean(group, metric)
    cells: list[list[Cell]] = [[None if np.isnan(value) else f"{value:.1f}" for value in row] for row in values]
    if not np.isnan(values).all():
        row, column = _best(grid, group, metric)
        cells[row][column] = f"*{cells[row][column]}"
    rows = [[f"{alpha:.3g}", *line] for alpha, line in zip(grid.alphas, cells, strict=True)]
    text = Table(["alpha/beta", *(f"{beta:.3g}" for beta in grid.betas)], rows).plain()
    return f"{text}\n{_title(grid, group, metric)}"


def heat_map(grid: Grid, group: Group = "all", metric: Metric = "AP", title: str = "") -> bytes:
    """Draw one figure over alpha and beta, its value in each cell and a frame around the best, as PNG."""
    values = grid.mean(group, metric)
    size = max(5.0, 2 + 0.55 * len(grid.betas)), max(3.0, 1.8 + 0.45 * len(grid.alphas))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(values, cmap="cividis", aspect="auto")  # read alike with and without colour vision
    axes.set_xticks(range(len(grid.betas)), [f"{beta:.3g}" for beta in grid.betas])
    axes.set_yticks(range(len(grid.alphas)), [f"{alpha:.3g}" for alpha in grid.alphas])
    axes.set(xlabel="beta (unseen classes)", ylabel="alpha (seen classes)")
    axes.set_title(f"{title}\n{_title(grid, group, metric)}".strip(), fontsize=9)
    if not np.isnan(values).all():
        light = values > (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            ink = "black" if light[row, column] else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=8)
        row, column = _best(grid, group, metric)
        for edge, width in (("black", 5), ("white", 2)):  # seen on light and on dark
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=edge, linewidth=width, clip_on=False)
            )
    figure.colorbar(picture)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def as_json(grid: Grid, names: Sequence[str]) -> dict[str, Any]:
    """All of a grid for JSON: ``means`` by group and metric ``[A, B]``, ``ap`` ``[A, B, C, 3]``; None for undefined."""
    groups, means = get_args(Group), {}
    for group in groups:
        means[group] = {metric: _plain(grid.mean(group, metric)) for metric in METRICS}
    facts = {"alphas": list(grid.alphas), "betas": list(grid.betas), "seen": list(grid.seen)}
    facts |= {"classes": list(names), "metrics": list(METRICS)}
    return {**facts, "instances": grid.instances.tolist(), "means": means, "ap": _plain(grid.ap)}


def _plain(values: NDArray[np.float64]) -> Any:
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return plain.tolist()


def _best(grid: Grid, group: Group, metric: Metric) -> tuple[int, int]:
    values = grid.mean(group, metric)
    if np.isnan(values).all():
        raise DataError(
            f"{metric} of the group {group} is undefined, no such class has instances; choose another group"
        )
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    return int(row), int(column)


def _title(grid: Grid, group: Group, metric: Metric) -> str:
    kind = {"harmonic": "harmonic mean of seen and unseen"}.get(group, f"{group} classes")
    idle = ", beta has no influence" if all(grid.seen) else ", alpha has no influence" if not any(grid.seen) else ""
    return f"{metric} in percent, {kind}{idle}"
