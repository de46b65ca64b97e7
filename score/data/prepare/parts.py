"""What a source hands to the writer: items of work, and what came of each."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from score import masks
from score.data.coco_json import annotation
from score.data.images import SUFFIXES, open_image
from score.data.segmentations import read_segmentation
from score.data.values import Record
from score.errors import DataError
from score.files import write_whole
from score.masks import RLE, Box

VAL = ("val", "valid", "validation", "test")


@dataclass
class Part:
    """What came of an item.

    Attributes:
        images: COCO's entries without ids, with ``annotations`` inside, whose classes are named under ``category``.
        dropped: how many objects or images were left out, by the reason.
        notes: what else should be known, counted.
    """

    images: list[Record] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Item:
    """An image of the source, prepared on its own.

    Attributes:
        key: its name; items are written in the order of keys, and two have different ones.
        split: where its images go.
        work: called with the split's folder, writes images to ``images`` there (labels to ``labels``), says what came
            of it. It can be sent to another process.
    """

    key: str
    split: str
    work: Callable[[Path], Part]


@dataclass(frozen=True)
class Plan:
    """A source as it will be prepared.

    Attributes:
        name: of the dataset.
        classes: names in their order.
        items: of all splits.
        licence, source: in words, for the dataset's file.
        notes: what was seen in the source and is not used.
        labels: whether it holds label images, not instances.
        facts: what the result depends on besides the items' names.
    """

    name: str
    classes: Sequence[str]
    items: Sequence[Item]
    licence: str = "as its source says"
    source: str = ""
    notes: Sequence[str] = ()
    labels: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its folder in the working layout."""
        return f"semantic/{self.name}" if self.labels else self.name


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write ``[H, W, 3]`` RGB, or ``[H, W]``, as PNG: the same bytes for the same pixels."""
    flipped = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(".png", np.ascontiguousarray(flipped), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    write_whole(path, lambda partial: partial.write_bytes(data.data))


def take(source: Path, target: Path) -> None:
    """Put a file in place without reading it where the file system can; one that is there stays."""
    if target.exists() and os.path.samefile(source, target):
        return

    def link(partial: Path) -> None:
        partial.unlink()
        try:
            os.link(source, partial)
        except OSError:  # another disk, or none that links
            shutil.copyfile(source, partial)

    write_whole(target, link)


def take_image(source: Path, target: Path) -> None:
    """Put an image in place as :func:`take` does, once it has been decoded.

    Raises:
        DataError: it cannot be read.
    """
    open_image(source)
    take(source, target)


def tile_name(stem: str, window: Box, size: tuple[int, int]) -> str:
    """The file name of a tile; an image that is one tile keeps its own."""
    x, y, width, height = window
    return f"{stem}.png" if (width, height) == size else f"{stem}_{x}_{y}.png"


def entry(file_name: str, width: int, height: int, annotations: list[Record], **more: Any) -> Record:
    """COCO's entry of an image, without an id."""
    return {"file_name": file_name, "width": width, "height": height, **more, "annotations": annotations}


def describe(rle: RLE, category: str, height: int, width: int, **more: Any) -> Record:
    """An annotation of a cropped mask, at the size of its image."""
    record = annotation(masks.paste(rle, height, width), 0)
    del record["category_id"]
    return {"category": category, **record, **more}


class Outline(NamedTuple):
    """An outline that somebody drew: its class, ``x, y, x, y, ...`` in pixels, and where it stands, for messages."""

    category: str
    ring: list[float]
    where: str


def outlined(image: Path, key: str, width: int, height: int, shapes: Iterable[Outline], folder: Path) -> Part:
    """Take an image as it is, with outlines.

    Raises:
        DataError: an outline that is none; the message says where it stands.
    """
    part, annotations = Part(), list[Record]()
    for category, ring, where in shapes:
        try:
            shape = read_segmentation([ring], height, width)
        except DataError as error:
            raise DataError(f"{where} {error}") from error
        if shape is None:
            part.dropped["outlines without a pixel"] += 1
            continue
        area = masks.area(masks.encode_shape(shape.segmentation, height, width))
        rings = [[round(value, 3) for value in ring]]
        fact: Record = {"bbox": list(shape.box), "area": area, "iscrowd": 0, "segmentation": rings}
        annotations.append({"category": category, **fact})
    name = f"{key}{image.suffix.lower()}"
    take_image(image, folder / "images" / name)
    part.images.append(entry(name, width, height, annotations))
    return part


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder and those below it."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]


def split_of(path: Path, source: Path) -> str:
    """``val`` for a path with a folder named so, or ``valid`` or ``test``, within the source; else ``train``."""
    return "val" if set(VAL) & set(path.relative_to(source).parts) else "train"


def crop(image: Image.Image, window: Box) -> NDArray[np.uint8]:
    """A window of an image as ``[H, W, 3]``."""
    x, y, width, height = window
    return np.asarray(image.crop((x, y, x + width, y + height)))


def read_bands(path: Path) -> NDArray[np.uint8]:
    """Read the first three bands of a raster of 8 bits whole, as ``[H, W, 3]``.

    Raises:
        DataError: it cannot be read, or has fewer bands or more bits.
    """
    import rasterio  # GDAL, for few

    try:
        with warnings.catch_warnings(), rasterio.open(path) as raster:
            warnings.simplefilter("ignore")
            pixels = raster.read((1, 2, 3))
    except (rasterio.errors.RasterioError, IndexError) as error:
        raise DataError(
            f"{path}: cannot be read as a raster of three bands ({' '.join(str(error).split())[:120]})"
        ) from error
    if pixels.dtype != np.uint8:
        raise DataError(f"{path}: a raster of {pixels.dtype}; it needs 8 bits a band")
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
