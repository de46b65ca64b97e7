"""A COCO dataset of coloured rectangles, written in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ship", "storage_tank", "plane")


def tiny_data(
    folder: Path, images: int = 6, size: int = 96, names: Sequence[str] = NAMES, seed: int = 0
) -> dict[str, str]:
    """Write ``images`` squares with two rectangles each, a colour a class.

    Returns:
        ``json`` and ``images``: where they are, as ``data.train`` takes them.
    """
    draw = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
    for image_id in range(1, images + 1):
        pixels = draw.integers(60, 100, (size, size, 3), dtype=np.uint8)
        for column in range(2):
            label = int(draw.integers(len(names)))
            x, y = column * size // 2 + int(draw.integers(2, size // 8)), int(draw.integers(2, size // 4))
            w, h = (int(side) for side in draw.integers(size // 4, size // 3, 2))
            pixels[y : y + h, x : x + w] = 60 + 190 * np.eye(3, dtype=np.uint8)[label % 3]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        name = f"{image_id:03}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        content["images"].append({"id": image_id, "file_name": name, "width": size, "height": size})
    (folder / "instances.json").write_text(json.dumps(content))
    return {"json": str(folder / "instances.json"), "images": str(folder / "images")}


def tiny_maps(folder: Path, images: int = 4, size: int = 64, classes: int = 3) -> None:
    """Write squares of one colour a class in stripes, and their label images; a corner is unlabelled."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        stripes = (np.arange(size) * 4 // size + number) % classes
        labels = np.tile(stripes.astype(np.uint8), (size, 1))
        pixels = 60 + 60 * labels[..., None].repeat(3, axis=2)
        labels[:8, :8] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
