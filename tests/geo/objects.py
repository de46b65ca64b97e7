"""Objects in rasters whose measures are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from score import masks
from score.geo.grid import Grid
from score.result import Found

WORDS = ["ship", "storage tank", "</script><b>x & y</b>"]
UTM = Grid(2000, 1000, Affine(0.5, 0, 400000, 0, -0.5, 5000000), "EPSG:32633")
LOOK = {"source": "scenes/harbour.tif", "model": "0123abcd", "date": "2025-06-30"}


def found(bits: NDArray[Any], x: int = 0, y: int = 0, label: int = 0, score: float = 0.5) -> Found:
    """A mask whose upper left pixel lies at x, y of the raster."""
    rle = masks.encode(np.asarray(bits, bool)[None], (x, y))[0]
    return Found(label, score, rle, WORDS[label], seen=label == 0)


def box(width: int, height: int, x: int = 0, y: int = 0, **rest: Any) -> Found:
    return found(np.ones((height, width)), x, y, **rest)


def ring(radius: float, inner: float, *place: int, **rest: Any) -> Found:
    size = int(2 * radius) + 2
    y, x = np.mgrid[:size, :size] + 0.5
    away = np.hypot(x - size / 2, y - size / 2)
    return found((away < radius) & (away >= inner), *place, **rest)


def harbour() -> list[Found]:
    """Boxes, rings and corners that touch, of three classes."""
    corners = np.eye(6)
    corners[0, 5] = corners[5, 0] = 1
    return [
        box(120, 40, 100, 200, score=0.9),
        box(60, 20, 1500, 700, score=0.4),
        ring(60, 20, 700, 300, label=1, score=0.8),
        ring(30, 0, 1200, 500, label=1, score=0.6),
        found(corners, 300, 800, label=2, score=0.7),
    ]
