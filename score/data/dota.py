"""DOTA's label files: oriented boxes of an image's objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from score.errors import DataError


class DotaObject(NamedTuple):
    """An object: its class, its corners ``[4, 2]`` (x, y in pixels, in order), and whether it is difficult."""

    name: str
    corners: NDArray[np.float64]
    difficult: bool


def read_dota(path: str | Path) -> list[DotaObject]:
    """Read a label file of DOTA: lines of ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult`` under an optional header.

    ``difficult`` is a number, 0 where it is left out.

    Raises:
        DataError: no such file, or a line that is not so; the message names it.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as DOTA labels ({type(error).__name__}); check the path") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("imagesource:", "gsd:")):
            continue
        words = line.split()
        try:
            points = np.array([float(word) for word in words[:8]]).reshape(4, 2)
            name, difficult = words[8], int(words[9]) if len(words) == 10 else 0
            if len(words) > 10 or difficult < 0 or not np.isfinite(points).all():
                raise ValueError
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{path}, line {number}: not an object of DOTA; write x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
            ) from error
        objects.append(DotaObject(name, points, difficult > 0))
    return objects
