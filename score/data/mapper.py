"""From a dataset's dict to the model's input: reading, augmenting, rasterising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances, polygons_to_bitmask
from numpy.typing import NDArray

from score import masks
from score.data.images import padded, read_image, resized, resized_to
from score.data.labels import UNLABELLED, read_labels

Record = dict[str, Any]
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, what eyes weigh colours by


class QuarterTurn(T.Transform):
    """Turn an image counter-clockwise by quarters, as ``np.rot90`` does; exact, for pixel i spans i to i + 1.

    Args:
        height, width: of the image, in pixels.
        quarters: how many, 0 to 3.
    """

    def __init__(self, height: int, width: int, quarters: int) -> None:
        super().__init__()
        self.height, self.width, self.quarters = height, width, quarters

    def apply_image(self, img: NDArray[Any]) -> NDArray[Any]:
        """Turn ``[height, width, ...]``."""
        return np.rot90(img, self.quarters)

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        """Turn points ``[N, 2]``, x and y in pixels."""
        x, y = coords.T
        turned = ((x, y), (y, self.width - x), (self.width - x, self.height - y), (self.height - y, x))
        return np.stack(turned[self.quarters], axis=1)


class TrainMapper:
    """Read and augment an image with its instances: flip, large-scale jitter, crop or padding to a fixed square.

    The jitter is that of detectron2's ``ResizeScale`` and ``FixedSizeCrop`` (SCORE's published protocol, after Ghiasi
    et al., "Simple Copy-Paste", CVPR 2021), drawn from the mapper's own generator: equal seeds and numbers of workers
    give equal batches. Masks are rasterised after the crop, and only those that reach into it.

    Args:
        size: side of the square, in pixels.
        scale: range of the factor between the square and the one that the image is fitted into.
        flip: probability of mirroring left and right.
        turns: also turn by a random number of quarters; with a flip of 0.5 all eight views are as likely.
        colour: brightness, contrast and saturation are each multiplied by a factor of up to 1 + or - this; 0 for none.
        image_pad: grey level of the padding; masks are padded with 0.
        max_instances: keep so many instances of an image, chosen at random; None for all.
        ignore: also say where nothing may count as background.
        seed: of all this.
    """

    def __init__(
        self,
        *,
        size: int = 512,
        scale: Sequence[float] = (0.1, 2.0),
        flip: float = 0.5,
        turns: bool = False,
        colour: float = 0.0,
        image_pad: float = 128,
        max_instances: int | None = None,
        ignore: bool = False,
        seed: int = 0,
    ) -> None:
        self.size, self.scale, self.flip, self.turns = size, (float(scale[0]), float(scale[1])), flip, turns
        self.image_pad, self.max_instances, self.ignore, self.seed = image_pad, max_instances, ignore, seed
        self.colour = colour
        self._rng = np.random.default_rng(seed)

    def __call__(self, record: Record) -> Record:
        """Map a dataset's dict, which stays as it is.

        Returns:
            ``image`` ``[3, size, size]`` uint8 RGB, ``height`` and ``width`` of it, ``image_id``, ``file_name``, and
            ``instances`` with ``gt_classes`` int64 ``[N]`` and ``gt_masks`` (``BitMasks``, bool ``[N, size, size]``);
            N may be 0. Of a label image, all that shows a class is one instance. With ``ignore`` also ``ignore``
            (bool ``[size, size]``): crowds, instances beyond ``max_instances`` and what a label image leaves
            unlabelled, but no padding; instances that are kept may overlap it.

        Raises:
            DataError: the image cannot be read or has another size than stated.
        """
        pixels = read_image(record["file_name"], (record["width"], record["height"]))
        rng = np.random.default_rng([self.seed, record["position"]]) if "position" in record else self._rng
        transform = self._draw(rng, *pixels.shape[:2])
        if "sem_seg_file_name" in record:
            classes, kept, ignored = _regions(record, transform)
        else:
            classes, kept, left = self._instances(rng, record.get("annotations", ()), transform)
            ignored = self._covered(left if self.ignore else (), transform)
        if self.colour:  # drawn last: without it a seed gives what it always gave
            pixels = recoloured(pixels, rng.uniform(1 - self.colour, 1 + self.colour, size=3))
        instances = Instances((self.size, self.size))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        stacked = np.stack(kept) if kept else np.zeros((0, self.size, self.size), dtype=bool)
        instances.gt_masks = BitMasks(torch.from_numpy(stacked))
        return {
            "image": _tensor(transform.apply_image(pixels)),
            "height": self.size,
            "width": self.size,
            "image_id": record["image_id"],
            "file_name": record["file_name"],
            "instances": instances,
            **({"ignore": torch.from_numpy(ignored)} if self.ignore else {}),
        }

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> T.TransformList:
        """Draw the flip, the turn, the size and the crop for an image."""
        views: list[T.Transform] = [T.HFlipTransform(width) if rng.random() < self.flip else T.NoOpTransform()]
        if self.turns:  # else nothing is drawn: without turns a seed gives what it always gave
            views.append(turn := QuarterTurn(height, width, int(rng.integers(4))))
            height, width = (width, height) if turn.quarters % 2 else (height, width)
        ratio = self.size * rng.uniform(*self.scale) / max(height, width)
        h, w = max(1, round(height * ratio)), max(1, round(width * ratio))
        y, x = (round(max(0, length - self.size) * rng.random()) for length in (h, w))
        kept_h, kept_w = min(h, self.size), min(w, self.size)
        return T.TransformList(
            [
                *views,
                T.ResizeTransform(height, width, h, w),
                T.CropTransform(x, y, self.size, self.size, w, h),
                T.PadTransform(0, 0, self.size - kept_w, self.size - kept_h, kept_w, kept_h, self.image_pad),
            ]
        )

    def _instances(
        self, rng: np.random.Generator, annotations: Sequence[Record], transform: T.TransformList
    ) -> tuple[list[int], list[NDArray[np.bool_]], list[Record]]:
        """Classes and masks of the instances that the transform leaves pixels of, and what is left out: see ignore."""
        crop = (self.size, self.size)
        candidates = [item for item in annotations if not item.get("iscrowd") and reaches(item, transform, crop)]
        left = [item for item in annotations if item.get("iscrowd")]
        if self.max_instances is not None and len(candidates) > self.max_instances:
            chosen = set(rng.choice(len(candidates), self.max_instances, replace=False))
            left += [item for i, item in enumerate(candidates) if i not in chosen]
            candidates = [item for i, item in enumerate(candidates) if i in chosen]
        found = [(item["category_id"], rasterise(item["segmentation"], transform, crop)) for item in candidates]
        seen = [(label, mask) for label, mask in found if mask.any()]
        return [label for label, _ in seen], [mask for _, mask in seen], left

    def _covered(self, annotations: Sequence[Record], transform: T.TransformList) -> NDArray[np.bool_]:
        """All that the masks of annotations cover of the image, without the padding around it."""
        covered = np.zeros((self.size, self.size), dtype=bool)
        for item in annotations:
            covered |= rasterise(item["segmentation"], transform, covered.shape)
        padding = transform.transforms[-1]  # polygons may reach beyond the image
        covered[padding.orig_h :], covered[:, padding.orig_w :] = False, False
        return covered


def _regions(
    record: Record, transform: T.TransformList
) -> tuple[list[int], list[NDArray[np.bool_]], NDArray[np.bool_]]:
    """The classes that a label image shows after a transform, all of each in one mask, and where it is unlabelled."""
    labels = read_labels(record["sem_seg_file_name"], record["classes"], (record["height"], record["width"]))
    kind = np.uint8 if record["classes"] < UNLABELLED else np.float32  # 0 is unlabelled here, as padding is
    seen = transform.apply_segmentation((labels + 1).astype(kind))
    found = [int(value) for value in np.unique(seen) if value]
    unlabelled = transform.apply_segmentation((labels < 0).astype(kind)).astype(bool)
    return [value - 1 for value in found], [seen == value for value in found], unlabelled


class TestMapper:
    """Read an image and resize it for the model: the shortest edge to a length, the longest no longer than another.

    Args:
        shortest: wished length of the shortest edge, in pixels.
        longest: greatest length of the longest edge.
        multiple: what the model then pads both to.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, shortest: int = 512, longest: int = 800, multiple: int = 32) -> None:
        self._shortest, self._longest, self._multiple = shortest, longest, multiple

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image has for the model."""
        return padded(resized_to(height, width, self._shortest, self._longest), self._multiple)

    def __call__(self, record: Record) -> Record:
        """Map a dataset's dict, or one with ``file_name`` alone.

        Returns:
            ``image`` ``[3, h, w]`` uint8 RGB; ``height`` and ``width``, the file's own, which the output is to have;
            the rest of the dict but its annotations.

        Raises:
            DataError: the image cannot be read or has another size than stated.
        """
        stated = (record["width"], record["height"]) if "width" in record else None
        pixels = read_image(record["file_name"], stated)
        height, width = pixels.shape[:2]
        rest = {key: value for key, value in record.items() if key != "annotations"}
        return {
            **rest,
            "image": _tensor(resized(pixels, self._shortest, self._longest)),
            "height": height,
            "width": width,
        }


def reaches(annotation: Record, transform: T.TransformList, size: tuple[int, int]) -> bool:
    """Whether the extent of an instance's mask still covers some of the image after a transform.

    Args:
        annotation: with ``segmentation``; the ``bbox`` that a file states is not relied on.
        transform: of the image.
        size: (height, width) of the transformed image.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        x, y, w, h = masks.box(segmentation)  # type: ignore[arg-type]
        box = np.array([x, y, x + w, y + h], dtype=float)
    else:
        points = np.concatenate([np.asarray(ring, dtype=float).reshape(-1, 2) for ring in segmentation])
        box = np.concatenate([points.min(0), points.max(0)])
    x0, y0, x1, y1 = transform.apply_box(box[None])[0]
    return bool(x1 > 0 and y1 > 0 and x0 < size[1] and y0 < size[0])


def rasterise(segmentation: Any, transform: T.TransformList, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an instance after a transform.

    Args:
        segmentation: polygons (flat sequences x, y, ... in pixels, three points or more), or compressed RLE.
        transform: of the image.
        size: (height, width) of the transformed image.

    Returns:
        ``[height, width]`` bool.
    """
    if isinstance(segmentation, Mapping):
        return transform.apply_segmentation(masks.decode(segmentation).astype(np.uint8)).astype(bool)  # type: ignore[arg-type]
    # not apply_polygons: its crop cuts them with shapely, which rasterising does in passing
    rings = [transform.apply_coords(np.asarray(ring, dtype=float).reshape(-1, 2)) for ring in segmentation]
    mask = np.zeros(size, dtype=bool)
    limits = np.array(size[::-1])
    low = np.clip(np.floor(np.min([ring.min(0) for ring in rings], axis=0)).astype(int), 0, limits)
    high = np.clip(np.ceil(np.max([ring.max(0) for ring in rings], axis=0)).astype(int), 0, limits)
    if (high > low).all():  # only its own part of the image: crowded images have a thousand small masks
        part = polygons_to_bitmask([(ring - low).reshape(-1) for ring in rings], *(high - low)[::-1])
        mask[low[1] : high[1], low[0] : high[0]] = part
    return mask


def recoloured(pixels: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGB ``[H, W, 3]`` with its brightness, contrast and saturation multiplied by ``factors``, in this order."""
    brightness, contrast, saturation = factors
    values = pixels.astype(np.float32) * brightness
    values = values.mean() + contrast * (values - values.mean())
    grey = (values @ LUMA)[..., None]
    return np.clip(grey + saturation * (values - grey) + 0.5, 0, 255).astype(np.uint8)


def _tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """``[H, W, 3]`` to a contiguous ``[3, H, W]``."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
