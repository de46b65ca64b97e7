"""Reading images, by one rule: 8 bits a channel, in RGB, upright; from files, Pillow's images and arrays alike."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from score.errors import DataError

ImageLike = NDArray[np.uint8] | Image.Image | str | Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""What a file of a folder of images is known by."""

RASTERS = (".jp2", ".vrt", ".img")
"""And these, which only the reader of rasters reads; it reads TIFF, too."""

MAX_PIXELS = 2**28
"""An image of more is refused: of this many, reading takes some 2 GB."""

MAX_SIDE = 2**16
"""The longest side that is read."""

_ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height
_BITS = 258  # TIFF's BitsPerSample


def resized(pixels: NDArray[np.uint8], shortest: int, longest: int) -> NDArray[np.uint8]:
    """Bring ``[H, W, 3]`` to a size as detectron2's ``ResizeShortestEdge`` does, but no side below one pixel.

    Args:
        pixels: the image.
        shortest: wished length of the shorter side.
        longest: greatest length of the longer side.
    """
    from detectron2.data.transforms import ResizeTransform  # and with it PyTorch, not needed to read

    height, width = pixels.shape[:2]
    size = resized_to(height, width, shortest, longest)
    resized: NDArray[np.uint8] = ResizeTransform(height, width, *size).apply_image(pixels)
    return resized


def resized_to(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """The height and width in pixels that :func:`resized` brings an image to."""
    scale = shortest / min(height, width)
    scale *= min(1.0, longest / (scale * max(height, width)))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A height and width brought up to whole multiples, as the model pads its input."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def read_image(source: ImageLike, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image as RGB, upright as its EXIF orientation says; transparency is ignored.

    Args:
        source: a file that Pillow reads, an image of Pillow's, or ``[H, W, 3]`` uint8 RGB, which is returned as it is.
        size: the (width, height) that it is stated to have, if any.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        DataError: there is no such file, it cannot be read, has more than 8 bits a channel, is too large, or of
            another size than stated; or an array of another form.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise DataError(f"an image of shape {source.shape} and type {source.dtype}; give [H, W, 3] uint8 RGB")
        pixels: NDArray[np.uint8] = source
    elif isinstance(source, Image.Image):
        file = getattr(source, "filename", "")
        if file and Path(file).is_file():  # the channels' depth is forgotten once the pixels are loaded
            read_size(file)
        pixels = _pixels(source, file or "a Pillow image")
    elif not isinstance(source, str | Path):
        raise DataError(f"an image that is a {type(source).__name__}; give a path, a Pillow image or an array")
    else:
        with opened(source) as image:
            pixels = _pixels(image, source)
    check_size(str(source), (pixels.shape[1], pixels.shape[0]), size)
    return pixels


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file as RGB, upright as :func:`read_image` reads it; windows are cropped from it.

    It is held once, in 4 bytes a pixel, where an array of it would be held beside what Pillow decodes.

    Raises:
        DataError: as :func:`read_image`.
    """
    with opened(path) as image:
        return _upright(image, path)


def read_size(path: str | Path) -> tuple[int, int]:
    """The upright (width, height) of an image file, from its header alone.

    Raises:
        DataError: there is no such file, its header cannot be read, or it is of a kind that :func:`read_image` refuses.
    """
    with opened(path) as image:
        _check_depth(image, path)
        width, height = image.size
        sideways = orientation(image) in _SIDEWAYS
    return (height, width) if sideways else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation that an open image's header states, 0 for none and for upright."""
    # only where the header has EXIF: asked for it, Pillow decodes a whole PNG to see whether some follows
    found = image.getexif().get(_ORIENTATION) if "exif" in image.info else None
    return found if isinstance(found, int) and 1 < found <= 8 else 0


def is_too_large(width: int, height: int) -> bool:
    """Whether an image of this size is refused."""
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE


def check_size(path: str | Path, found: tuple[int, int], stated: tuple[int, int] | None) -> None:
    """Refuse an image whose (width, height) is not the stated one.

    Raises:
        DataError: naming both.
    """
    if stated is not None and found != stated:
        raise DataError(
            f"{path}: the image has {found[0]}x{found[1]} pixels, its annotations say {stated[0]}x{stated[1]}; "
            "correct the JSON or the file"
        )


def _pixels(image: Image.Image, where: str | Path) -> NDArray[np.uint8]:
    """An image that is open, as RGB."""
    return np.array(_upright(image, where))  # a copy: torch wants it writable


def _upright(image: Image.Image, where: str | Path) -> Image.Image:
    """An image that is open, decoded; copies only where something changes, for an orthophoto has a gigabyte."""
    _check_depth(image, where)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_depth(image: Image.Image, where: str | Path) -> None:
    """Refuse more than 8 bits a channel, of which Pillow keeps the high byte of colour and cuts off grey."""
    deep = image.mode == "F" or image.mode.startswith("I")
    if isinstance(image, ImageFile.ImageFile) and not deep:
        tags = getattr(image, "tag_v2", {})
        deep = (
            ";16" in str(image.tile)  # as Pillow names the channels of PNG and TIFF
            or max(tags.get(_BITS, (8,))) > 8
            or (image.format == "JPEG2000" and _jpeg2000_bits(image) > 8)
        )
    if deep:
        raise DataError(
            f"{where}: more than 8 bits a channel; scale it to 8-bit RGB first, as gdal_translate -ot Byte -scale does"
        )


def _jpeg2000_bits(image: ImageFile.ImageFile) -> int:
    """Bits of the first channel, from the marker SIZ of the code stream."""
    file = cast(IO[bytes], image.fp)
    place = file.tell()
    file.seek(0)
    head = file.read(1 << 16)
    file.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """A file as Pillow opens it, for as long as it is needed; what goes wrong meanwhile is the file's fault."""
    try:
        with open(path, "rb") as file:
            image = _identify(file, str(path))
            if is_too_large(*image.size):
                raise DataError(
                    f"{path}: too large, {image.width}x{image.height} pixels, and at most {MAX_PIXELS / 1e6:.0f} "
                    f"million are read at once, {MAX_SIDE} a side; cut it into tiles"
                )
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    # Pillow's decoders raise what they like on damaged files
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError) as error:
        raise DataError(f"{path}: cannot be read as an image ({_reason(error)}); replace the file") from error


def _identify(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """What ``Image.open`` does, without its limit of pixels, which is one for the whole process."""
    Image.init()
    head = file.read(16)
    for key in Image.ID:
        factory, accept = Image.OPEN[key]
        try:
            if accept is None or accept(head) is True:
                file.seek(0)
                return factory(file, name)
        except (SyntaxError, IndexError, TypeError, struct.error):  # not of this format after all
            continue
    raise UnidentifiedImageError("no known format")


def _reason(error: BaseException) -> str:
    """What a decoder said, on one line and without the path again."""
    return str(error).partition(" '")[0].replace("\n", " ") or type(error).__name__
