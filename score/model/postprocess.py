"""From class probabilities and mask logits to instances and semantic maps at the size the user asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from score.masks import RLE, box, encode, encode_columns
from score.model.towers.base import resize


def upsample(mask_logits: Tensor, padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]) -> Tensor:
    """Bring ``[K, h, w]`` mask logits to the output size: up to the padded input, crop to the image, to the output."""
    maps = resize(mask_logits.unsqueeze(0), padded)[:, :, : image[0], : image[1]]
    if image != output:
        maps = resize(maps, output)
    return maps[0]


def tight_boxes(masks: Tensor) -> Tensor:
    """Extent of ``[K, H, W]`` bool masks as ``[K, 4]`` x0, y0, x1, y1 with exclusive maximum; zeros if empty."""
    edges = []
    for axis in (1, 2):  # columns, then rows
        hit = masks.view(torch.uint8).amax(dim=axis).bool()  # [K, length]; `any` takes ten times as long on CPUs
        first = hit.int().argmax(dim=1)
        last = hit.shape[1] - hit.flip(1).int().argmax(dim=1)
        edges.append((first, last))
    (x0, x1), (y0, y1) = edges
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * hit.any(dim=1, keepdim=True)


def best_pairs(log_probability: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable of all ``Q x C`` pairs of ``[Q, C + 1]``: class probability, query and class, best first."""
    probability = log_probability.softmax(-1)[:, :-1]
    classes = probability.shape[1]
    scores, pairs = probability.flatten().topk(min(top_k, probability.numel()))
    return scores, pairs // classes, pairs % classes


def binarise(
    mask_logits: Tensor, padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Masks ``[K, H, W]`` bool at the output size, and the mean probability inside each, ``[K]``."""
    maps = upsample(mask_logits.float(), padded, image, output)
    inside = maps > 0
    area = inside.flatten(1).sum(1)
    return inside, maps.sigmoid_().mul_(inside).flatten(1).sum(1) / (area + 1e-6)  # in place: maps can be large


def encode_windows(
    mask_logits: Tensor, padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]
) -> tuple[list[RLE], Tensor]:
    """As :func:`binarise`, but each mask is made where it can be, and encoded in the smallest window that holds it.

    Returns:
        ``K`` masks with offsets, an empty one of size 0 x 0, and the mean probability inside each, ``[K]``.
    """
    found, confidence = list[RLE](), list[float]()
    for columns, left, sure in _columns(mask_logits, padded, image, output):
        (x0, x1), (y0, y1) = (_ends(np.any(columns, axis, keepdims=True).ravel()) for axis in (1, 0))
        found += encode(columns[x0:x1, y0:y1].T[None], (left + x0, y0))
        confidence.append(sure)
    return found, torch.tensor(confidence, dtype=torch.float32, device=mask_logits.device)


def encode_whole(
    mask_logits: Tensor, padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]
) -> tuple[list[RLE], Tensor]:
    """As :func:`encode_windows`, but masks of the whole output; only their own columns are ever made."""
    found, confidence = list[RLE](), list[float]()
    for columns, left, sure in _columns(mask_logits, padded, image, output):
        found.append(encode_columns(columns, left, output[1]))
        confidence.append(sure)
    return found, torch.tensor(confidence, dtype=torch.float32, device=mask_logits.device)


BAND = 64  # rows or columns that are mixed at a time: of all cells they read a few
STRIP = 2**17  # pixels that are looked at together, few enough to stay in the cache of a core


def _columns(
    mask_logits: Tensor, padded: tuple[int, int], image: tuple[int, int], output: tuple[int, int]
) -> Iterator[tuple[NDArray[np.bool_], int, float]]:
    """Of each mask the columns where it can be, ``[n, H]``, the first one's place, and the mean probability inside.

    A bilinear map is a product of two matrices with a band each, and a pixel of it is positive only where a cell that
    it is mixed from is. Columns lie in a row, since run lengths go down them. What is yielded is overwritten.
    """
    maps = mask_logits.detach().float().cpu()
    rows = _Axis(maps.shape[1], padded[0], image[0], output[0])
    columns = _Axis(maps.shape[2], padded[1], image[1], output[1])
    boxes = tight_boxes(maps > 0).int().tolist()
    strip = max(1, STRIP // output[0])
    across, values = maps.new_empty(output[0] * maps.shape[2]), maps.new_empty(strip * output[0])
    inside = np.empty(output[1] * output[0], dtype=bool)  # made once: new memory costs more than what is put there
    for logits, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        (ys, _), (xs, cells_x) = rows.touched(y0, y1), columns.touched(x0, x1)
        if ys.start == ys.stop:  # all of it lies in the padding below
            xs = cells_x = ys
        height, width, total = ys.stop - ys.start, cells_x.stop - cells_x.start, 0.0
        mixed = across[: height * width].view(width, height)
        for part, cells in rows.bands(ys, 2 * BAND):
            out = mixed[:, part.start - ys.start : part.stop - ys.start]
            torch.mm(logits[cells, cells_x].T, rows.matrix[part, cells].T, out=out)
        end = min(xs.stop + 1, output[1])  # an empty column after the last
        made = inside[: (end - xs.start) * output[0]].reshape(-1, output[0])
        made[:, : ys.start] = made[:, ys.stop :] = made[xs.stop - xs.start :] = False
        for start in range(xs.start, xs.stop, strip):
            stop = min(start + strip, xs.stop)
            out = values[: (stop - start) * height].view(-1, height)
            for part, cells in columns.bands(slice(start, stop), BAND):
                own = mixed[cells.start - cells_x.start : cells.stop - cells_x.start]
                torch.mm(columns.matrix[part, cells], own, out=out[part.start - start : part.stop - start])
            np.greater(out.numpy(), 0, out=made[start - xs.start : stop - xs.start, ys])  # PyTorch's is slow
            total += float(F.threshold(out, 0.0, -math.inf, inplace=True).sigmoid_().sum())
        yield made, xs.start, total / (np.count_nonzero(made) + 1e-6)


def _ends(hit: NDArray[np.bool_]) -> tuple[int, int]:
    """The first place that is true and the one after the last; 0, 0 if none is."""
    places = np.flatnonzero(hit)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


class _Axis:
    """How pixels of the output are mixed from a map's cells along one axis.

    Attributes:
        matrix: ``[output, cells]``.
    """

    def __init__(self, cells: int, padded: int, image: int, output: int) -> None:
        matrix = resize(torch.eye(cells, dtype=torch.float32)[None, None], (padded, cells))[:, :, :image]
        self.matrix = (resize(matrix, (output, cells)) if image != output else matrix)[0, 0]
        used = self.matrix.numpy() != 0
        self.first_cell, self.end_cell = used.argmax(1), cells - used[:, ::-1].argmax(1)

    def touched(self, start: int, end: int) -> tuple[slice, slice]:
        """The pixels that cells from ``start`` to before ``end`` have a part in, and all cells of these pixels."""
        pixels = np.flatnonzero((self.first_cell < end) & (self.end_cell > start))
        if start >= end or not len(pixels):
            return slice(0, 0), slice(0, 0)
        return self._with_cells(int(pixels[0]), int(pixels[-1]) + 1)

    def bands(self, pixels: slice, length: int) -> Iterator[tuple[slice, slice]]:
        """Pixels in parts of a length, each with all its cells, which are few."""
        for start in range(pixels.start, pixels.stop, length):
            yield self._with_cells(start, min(start + length, pixels.stop))

    def _with_cells(self, start: int, stop: int) -> tuple[slice, slice]:
        return slice(start, stop), slice(int(self.first_cell[start]), int(self.end_cell[stop - 1]))


def sureness(confidence: Tensor, quality: Tensor | None) -> Tensor:
    """What a class probability is multiplied by to a score: the mean probability in a mask, with its predicted IoU."""
    return confidence if quality is None else (confidence * quality).sqrt()


BYTES = 8  # of a mask's pixel while it is made: its logit, then the bit, thrice while it is encoded


class InstanceSelection:
    """The best query-class pairs of an image, with masks.

    Args:
        top_k: pairs kept, of all ``Q x C``; a query can appear under several classes.
        memory_mb: what masks at full size may take at a time, in megabytes; one mask is always made. Encoding them
            takes a byte a pixel of one.
    """

    def __init__(self, *, top_k: int, memory_mb: float) -> None:
        self.top_k, self.memory_mb = top_k, memory_mb

    def chunk(self, output: tuple[int, int]) -> int:
        """How many masks of a size are made at a time."""
        return max(1, int(self.memory_mb * 2**20) // (BYTES * output[0] * output[1]))

    def __call__(
        self,
        log_probability: Tensor,
        mask_logits: Tensor,
        padded: tuple[int, int],
        image: tuple[int, int],
        output: tuple[int, int],
        *,
        quality: Tensor | None = None,
        masks: Literal["bits", "rle"] = "bits",
    ) -> Instances:
        """Select.

        Args:
            log_probability: ``[Q, C + 1]`` of the ensemble, void last.
            mask_logits: ``[Q, h, w]``.
            padded, image, output: heights and widths: of the padded input, of the image in it, and of the result.
            quality: ``[Q]`` predicted IoU of each mask, or None.
            masks: ``bits`` gives ``pred_masks`` (bool ``[K, H, W]``), ``rle`` gives ``pred_rles`` (a list, pairs of one
                query sharing one encoding), only one of them ever being held at full size.

        Returns:
            ``scores`` (class probability times `sureness`), ``pred_classes``, ``pred_boxes``, ``query``
            (which query each came from), and the masks; best class probability first.
        """
        scores, query, label = best_pairs(log_probability, self.top_k)
        distinct, place = query.unique(return_inverse=True)

        confidences, boxes, made = list[Tensor](), list[Tensor](), list[Any]()
        if masks == "rle":
            made, confidence = encode_whole(mask_logits[distinct], padded, image, output)
            x, y, width, height = torch.tensor([box(rle) for rle in made]).view(-1, 4).T
            boxes.append(torch.stack([x, y, x + width, y + height], dim=1).float())
            confidences.append(confidence)
        else:
            for part in mask_logits[distinct].split(self.chunk(output)):
                inside, confidence = binarise(part, padded, image, output)
                boxes.append(tight_boxes(inside))
                made.append(inside)
                confidences.append(confidence)
        result = Instances(output)
        sure = sureness(torch.cat(confidences), None if quality is None else quality[distinct])
        result.scores = scores * sure[place]
        result.pred_classes = label
        result.pred_boxes = Boxes(torch.cat(boxes).to(place.device)[place])
        result.query = query
        if masks == "rle":
            result.pred_rles = [made[index] for index in place.tolist()]
        else:
            result.pred_masks = torch.cat(made)[place]
        return result


def semantic_map(
    log_probability: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    image: tuple[int, int],
    output: tuple[int, int],
    chunk: int,
) -> Tensor:
    """Class scores of every pixel, ``[C, H, W]``: class probability times mask probability, summed over queries."""
    probability = log_probability.softmax(-1)[:, :-1]
    result = mask_logits.new_zeros(probability.shape[1], *output)
    for classes, maps in zip(probability.split(chunk), mask_logits.split(chunk), strict=True):
        result += torch.einsum("qc,qhw->chw", classes, upsample(maps.float(), padded, image, output).sigmoid())
    return result
