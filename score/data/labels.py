"""Semantic datasets: a folder of images and one of label images, matched by file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from score.data.images import SUFFIXES, read_size
from score.errors import DataError

LABELS = ".png"


def read_folders(images: Path, labels: Path) -> list[dict[str, Any]]:
    """List images with their label images, ``NAME.png`` for ``NAME.*``, in order of their names.

    Returns:
        detectron2's dicts: ``file_name``, ``sem_seg_file_name``, ``height``, ``width``, ``image_id`` (from 1 on), and
        empty ``annotations``.

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
                "height": height,
                "width": width,
                "image_id": number,
                "annotations": [],
            }
        )
    return records
