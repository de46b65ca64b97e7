"""Reading image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from score.errors import DataError

_ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values that swap width and height


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image file as RGB, upright as its EXIF orientation says.

    Args:
        path: a file that Pillow reads.
        size: the (width, height) that it is stated to have, if any.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        DataError: there is no such file, it cannot be read, or it has another size than stated.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise DataError(f"{path}: more than 8 bits a channel; convert it to 8-bit RGB first")
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))  # a copy: torch wants it writable
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    # Pillow's decoders raise what they like on damaged files
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({_reason(error)}); replace the file") from error
    check_size(path, (pixels.shape[1], pixels.shape[0]), size)
    return pixels


def read_size(path: str | Path) -> tuple[int, int]:
    """The upright (width, height) of an image file, from its header alone.

    Raises:
        DataError: there is no such file, or its header cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # only where the header has EXIF: asked for it, Pillow decodes a whole PNG to see whether some follows
            sideways = "exif" in image.info and image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({_reason(error)}); replace the file") from error
    return (height, width) if sideways else (width, height)


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


def _reason(error: BaseException) -> str:
    """What a decoder said, on one line and without the path again."""
    return str(error).partition(" '")[0].replace("\n", " ") or type(error).__name__
