"""Tiny datasets on disk for the tests of the data room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, ImageDraw

from score.data.synthetic import generate as synthetic


@pytest.fixture(autouse=True)
def catalogs() -> Iterator[None]:
    """Leave detectron2's catalogs as they were."""
    kept = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    DatasetCatalog.data, MetadataCatalog.data = kept


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCORE_DATASETS", raising=False)
    monkeypatch.delenv("SCORE_CACHE", raising=False)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with twelve synthetic training images of 64 pixels."""
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.generate(root, "synthetic", "train", images=12, size=64, seed=3, workers=1)
    return root


def tiny_coco() -> dict[str, Any]:
    """Two images of 60x40 with a white rectangle each, one as polygon and one as RLE; ids start at 0."""
    inside = np.zeros((40, 60), dtype=np.uint8)
    inside[10:20, 5:35] = 1
    counts, value = [0], 0
    for pixel in inside.flatten(order="F"):
        if pixel != value:
            counts, value = [*counts, 0], int(pixel)
        counts[-1] += 1
    polygon = [[5.0, 10.0, 35.0, 10.0, 35.0, 20.0, 5.0, 20.0]]
    common = {"bbox": [5.0, 10.0, 30.0, 10.0], "area": 300, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(2)],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 7, "segmentation": polygon, **common},
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": {"size": [40, 60], "counts": counts}, **common},
        ],
        "categories": [{"id": 7, "name": "Storage-Tank"}, {"id": 3, "name": "ship"}],
    }


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write ``tiny_coco()``, changed by a function if one is given, as ``tiny.json`` with ``images``."""

    def write(change: Callable[[dict[str, Any]], Any] | None = None) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for number in range(2):
            picture = Image.new("RGB", (60, 40))
            ImageDraw.Draw(picture).rectangle((5, 10, 34, 19), fill=(255, 255, 255))
            picture.save(folder / f"{number}.png")
        coco = tiny_coco()
        if change:
            change(coco)
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(coco))
        return path, folder

    return write
