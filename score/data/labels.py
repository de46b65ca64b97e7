"""Semantic datasets: a folder of images and one of label images, matched by file name; what label images hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score.data.images import SUFFIXES, opened, read_size
from score.errors import DataError

LABELS = ".png"
UNLABELLED = 255
"""The value of pixels that do not count."""


def read_folders(images: Path, labels: Path, classes: int) -> list[dict[str, Any]]:
    """List images with their label images, ``NAME.png`` for ``NAME.*``, in order of their names.

    Returns:
        detectron2's dicts: ``file_name``, ``sem_seg_file_name``, ``classes`` (how many there are), ``height``,
        ``width``, ``image_id`` (from 1 on), and empty ``annotations``.

    Raises:
        DataError: a folder is missing or empty, an image has no label image, or cannot be read.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; check the path")
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{images}: no image in this folder; it needs {', '.join(SUFFIXES)} files")
    without = [path.name for path in paths if not (labels / f"{path.stem}{LABELS}").is_file()]
    if without:
        raise DataError(
            f"{labels}: no {Path(without[0]).stem}{LABELS} ({len(without)} of {len(paths)} are missing); add it"
        )
    records = []
    for number, path in enumerate(paths, start=1):
        width, height = read_size(path)
        records.append(
            {
                "file_name": str(path),
                "sem_seg_file_name": str(labels / f"{path.stem}{LABELS}"),
                "classes": classes,
                "height": height,
                "width": width,
                "image_id": number,
                "annotations": [],
            }
        )
    return records


def read_labels(path: str | Path, classes: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Read a label image.

    Args:
        path: a file of one channel, or with a palette, whose values are class numbers; 255 does not count.
        classes: how many there are.
        size: height and width of the image it belongs to.

    Returns:
        ``[H, W]`` class numbers, -1 where the file says 255.

    Raises:
        DataError: no such file, another size, more than one channel, values that are no whole numbers from 0 on, or
            one that is no class.
    """
    with opened(path) as image:
        labels = np.asarray(image)
    if labels.shape != size:
        raise DataError(
            f"{path}: labels of shape {labels.shape} for an image of height, width {size}; replace the file"
        )
    if labels.dtype.kind not in "uib" or labels.min(initial=0) < 0:
        raise DataError(f"{path}: labels are {labels.dtype}, some below 0 or no whole numbers; replace the file")
    numbers = np.where(labels == UNLABELLED, -1, labels.astype(np.int64))
    if numbers.max(initial=-1) >= classes:
        raise DataError(f"{path}: label {numbers.max()}, but there are {classes} classes and 255; correct the file")
    return numbers
