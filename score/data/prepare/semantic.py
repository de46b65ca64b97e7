"""Label maps, of colours or of numbers, as label images whose values are positions in the classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from score.data.images import check_size, opened, read_image, read_size
from score.data.labels import UNLABELLED
from score.data.prepare.parts import (
    VAL,
    Item,
    Part,
    entry,
    image_files,
    read_bands,
    take_image,
    tile_name,
    write_image,
)
from score.data.tiling import windows
from score.errors import DataError

Value = int | tuple[int, int, int]


class Form(NamedTuple):
    """How a dataset's label maps are written.

    Attributes:
        values: for each class of ``datasets/NAME.yaml`` the number that stands for it, or its red, green and blue.
        images, labels: parts of the names of folders, in lower case, by which images and label maps are told apart.
        marks: what else of a file's name says which of the two it is; without it an image and its label map have one.
        ignored: numbers or colours that do not count.
        bands: whether images are rasters whose first three bands, of more, are red, green and blue.
    """

    values: Sequence[Value]
    images: Sequence[str]
    labels: Sequence[str]
    marks: Sequence[str] = ()
    ignored: Sequence[Value] = ()
    bands: bool = False


_ISPRS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))
_CLUTTER, _EDGE = (255, 0, 0), (0, 0, 0)

# Values and folders are those of the publications and, for the four targets of the benchmark and LandDiscover50K, of
# GSNet's prepared copies (Ye et al., AAAI 2025, https://github.com/yecy749/GSNet), whose evaluation does not count
# clutter in Potsdam (5), background in FloodNet (0) and LandDiscover50K (0), and rare classes in FLAIR (12).
FORMS: dict[str, tuple[Form, ...]] = {
    "landdiscover50k": (Form(range(1, 40), ("tr_image",), ("gt_id",), ignored=(0,)),),
    # https://ignf.github.io/FLAIR: IMG_ID.tif (red, green, blue, infrared, height) and MSK_ID.tif with 1 .. 19
    "flair": (
        Form(range(1, 13), ("img",), ("msk",), ("IMG_", "MSK_"), (0, *range(13, 20)), bands=True),
        Form(range(12), ("image",), ("mask",), ignored=(12,)),
    ),
    # https://github.com/ViTAE-Transformer/SAMRS: in `gray`, positions in its list of FAIR1M's classes
    "fast_semantic": (Form(range(37), ("images",), ("gray",)),),
    "potsdam": (
        Form(_ISPRS, ("ortho_rgb", "image"), ("label",), ("_RGB", "_label"), (_CLUTTER, _EDGE)),
        Form(range(5), ("img_dir",), ("ann_dir",), ignored=(5,)),
    ),
    "vaihingen": (Form((*_ISPRS, _CLUTTER), ("top", "image"), ("gts", "label"), ignored=(_EDGE,)),),
    "floodnet": (Form(range(10), ("img",), ("label", "lbl"), ("_lab",), (0,)),),
    "loveda": (Form(range(1, 8), ("images_png",), ("masks_png",), ignored=(0,)),),
    "uavid": (
        Form(
            ((0, 0, 0), (128, 0, 0), (128, 64, 128), (0, 128, 0), (128, 128, 0), (64, 0, 128), (192, 0, 192),
             (64, 64, 0)), ("images",), ("labels",),
        ),
    ),
    "openearthmap": (Form(range(1, 9), ("images",), ("labels",), ignored=(0,)),),
}  # fmt: skip


def items(source: Path, dataset: str, split: str, size: int | None, overlap: int) -> tuple[list[Item], list[str]]:
    """List images with their label maps.

    An image and its label map have one name, in folders that differ only in what says which of the two they hold; or a
    name that no other has.

    Args:
        source: the folder.
        dataset: one of `FORMS`.
        split: of images whose folders say neither ``train`` nor ``val`` or ``test``.
        size, overlap: of tiles, in pixels; None for whole images.

    Returns:
        Items, and what is not used.

    Raises:
        DataError: two files of one name.
    """
    made, notes = [], []
    for form in FORMS[dataset]:
        labels, images = _listed(source, form)
        counts = [Counter(key[-1] for key in keys) for keys in (images, labels)]
        alone = {key[-1]: path for key, path in labels.items() if counts[0][key[-1]] == counts[1][key[-1]] == 1}
        lone = 0
        for key, path in images.items():
            found = labels.get(key) or alone.get(key[-1])
            if found is None:
                lone += 1
                continue
            name = "_".join(key)
            work = partial(convert, path, found, form, name, size, overlap)
            made.append(Item(name, _split(path.relative_to(source), split), work))
        if lone and labels:
            notes.append(f"{lone} images have no label map, left out")
    return made, notes


def _listed(source: Path, form: Form) -> tuple[dict[tuple[str, ...], Path], dict[tuple[str, ...], Path]]:
    """Label maps and images by their folders, but those that say what they are, and their names, without marks."""
    labels, images = dict[tuple[str, ...], Path](), dict[tuple[str, ...], Path]()
    for path in image_files(source):
        folders = path.relative_to(source).parent.parts
        for parts, found in ((form.labels, labels), (form.images, images)):
            rest = [folder for folder in folders if not any(part in folder.lower() for part in parts)]
            if len(rest) < len(folders):
                name = path.stem
                for mark in form.marks:
                    name = name.replace(mark, "")
                if (other := found.setdefault((*rest, name), path)) != path:
                    raise DataError(f"{path}: of one name with {other.relative_to(source)}; take one away")
                break
    return labels, images


def _split(path: Path, otherwise: str) -> str:
    """What the words of the folders say."""
    words = {word for folder in path.parent.parts for word in re.split(r"[^a-z]+", folder.lower())}
    val, train = bool(words & set(VAL)), "train" in words
    return otherwise if val == train else "val" if val else "train"


def convert(image: Path, labels: Path, form: Form, name: str, size: int | None, overlap: int, folder: Path) -> Part:
    """Write an image's label map anew, and the image beside it, whole or in tiles.

    Raises:
        DataError: a file that cannot be read, another size, or a value that is no class.
    """
    numbers, part = positions(labels, form), Part()
    rows, columns = numbers.shape
    if size is None and not form.bands:
        check_size(str(image), read_size(image), (columns, rows))
        write_image(folder / "labels" / f"{name}.png", numbers)
        take_image(image, folder / "images" / f"{name}{image.suffix.lower()}")
        part.images.append(entry(f"{name}{image.suffix.lower()}", columns, rows, []))
        return part
    pixels = read_bands(image) if form.bands else read_image(image)
    check_size(str(image), (pixels.shape[1], pixels.shape[0]), (columns, rows))
    for window in windows(columns, rows, size or max(rows, columns), overlap):
        x, y, width, height = window
        tile = tile_name(name, window, (columns, rows))
        write_image(folder / "labels" / tile, numbers[y : y + height, x : x + width])
        write_image(folder / "images" / tile, pixels[y : y + height, x : x + width])
        part.images.append(entry(tile, width, height, []))
    return part


def positions(path: Path, form: Form) -> NDArray[np.uint8]:
    """Read a label map as positions in the classes, 255 where it does not count.

    Raises:
        DataError: it cannot be read, or holds a value that is no class.
    """
    coloured = isinstance(form.values[0], tuple)
    if coloured:
        wide = read_image(path).astype(np.int32)
        found = wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
    else:
        with opened(path) as image:  # a palette's values, not its colours
            found = np.asarray(image)
        if found.ndim != 2 or found.dtype.kind not in "uib":
            raise DataError(f"{path}: {found.dtype} of shape {found.shape}; it needs one channel of whole numbers")
        found = found.astype(np.int32)
    unknown = UNLABELLED - 1
    table = np.full(1 << (24 if coloured else 16), unknown, np.uint8)
    table[[_code(value) for value in form.values]] = np.arange(len(form.values))
    table[[_code(value) for value in form.ignored]] = UNLABELLED
    if not coloured:
        table[UNLABELLED] = UNLABELLED
    result: NDArray[np.uint8] = table[found.clip(-1, len(table) - 1)]
    if (result == unknown).any():
        value = int(found[result == unknown][0])
        said = f"colour {value & 255},{value >> 8 & 255},{value >> 16}" if coloured else f"value {value}"
        raise DataError(f"{path}: the {said} is no class; correct the file")
    return result


def _code(value: Value) -> int:
    return value if isinstance(value, int) else value[0] | value[1] << 8 | value[2] << 16
