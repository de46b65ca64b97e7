"""Generated scenes with known bright squares, and what finds them: work for the engines that needs no model."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine

from score.errors import DataError
from score.geo.catalogue import Scene
from tests.geo.rasters import write

CLASSES = {200: "ship", 120: "tank"}


def make(folder: Path, count: int = 40) -> Path:
    """Scenes in two UTM zones; scene N has N % 4 squares, the first one a ship."""
    folder.mkdir()
    for number in range(count):
        pixels = np.zeros((40, 60, 1), np.uint8)
        for square in range(number % 4):
            pixels[10:20, 2 + 15 * square : 12 + 15 * square] = 120 if square else 200
        crs = "EPSG:32632" if number % 2 else "EPSG:32633"
        write(folder / f"s{number:02}.tif", pixels, Affine(0.5, 0, 600_000 + 50 * number, 0, -0.5, 5_400_000), crs)
    return folder


def squares(scene: Scene) -> geopandas.GeoDataFrame:
    """The bright squares of a scene, in its CRS."""
    try:
        with rasterio.open(scene.href) as dataset:
            found = list(rasterio.features.shapes(dataset.read(1), dataset.read(1) > 0, transform=dataset.transform))
            crs = dataset.crs
    except rasterio.RasterioIOError as error:
        raise DataError(f"{scene.href}: cannot be read") from error
    shapes = [shapely.geometry.shape(shape) for shape, _ in found]
    text, count = {"source": scene.href, "tile": "0,0", "model": "squares", "date": scene.date}, len(found)
    columns = {
        "class": [CLASSES[int(value)] for _, value in found],
        "score": np.full(count, 0.9), "seen": np.ones(count, bool),
        "area_m2": np.array([shape.area for shape in shapes], float), "length_m": np.full(count, 5.0),
        "width_m": np.full(count, 5.0), "word": [CLASSES[int(value)] for _, value in found],
        **{key: [value] * count for key, value in text.items()},
    }  # fmt: skip
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)


@dataclass(frozen=True)
class Make:
    """Makes the work; each process that does so leaves a file named by its number.

    Attributes:
        place: of these files.
        seconds: that a scene takes at least.
        deadly: the id of a scene that kills its process.
    """

    place: Path
    seconds: float = 0.0
    deadly: str = ""

    def __call__(self):
        (self.place / str(os.getpid())).touch()
        return self.work

    def work(self, scene: Scene) -> geopandas.GeoDataFrame:
        time.sleep(self.seconds)
        if scene.id == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return squares(scene)
