"""Small rasters of every kind for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

UTM = Affine(0.5, 0, 600_000, 0, -0.5, 5_400_000)


def write(
    path: Path, pixels: NDArray[Any], transform: Affine | None = UTM, crs: str | None = "EPSG:32632", **profile: Any
) -> Path:
    """Write ``[H, W, C]`` as a GeoTIFF."""
    colours = profile.pop("colours", None)
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32} if profile.get("driver", "GTiff") == "GTiff" else {}
    profile = {"driver": "GTiff", **blocks, **profile}
    height, width, count = pixels.shape
    kind: dict[str, Any] = {"dtype": pixels.dtype, "count": count, "height": height, "width": width}
    placed = {} if transform is None else {"transform": transform, "crs": crs}
    with rasterio.open(path, "w", **profile, **kind, **placed) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
        if colours:
            dataset.colorinterp = colours
    return path


def picture(height: int = 96, width: int = 128, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth noise, ``[H, W, bands]``."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 255, (height // 8 + 1, width // 8 + 1, bands), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()
