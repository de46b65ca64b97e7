"""Small archives in the forms in which people publish and draw labels, of the same objects."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from score.data.prepare.isaid import CLASSES

SIZE = (90, 120)  # height, width
BOXES = {"ship": (5, 6, 30, 12), "plane": (50, 20, 25, 30), "Harbor": (10, 60, 70, 20)}  # x, y, width, height
KINDS = {"ins": "id", "seg": "color"}
COLOURS = {name: colour for colour, name in CLASSES.items()}


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def masks() -> dict[str, np.ndarray]:
    """The objects; the plane has a hole."""
    found = {}
    for name, (x, y, w, h) in BOXES.items():
        mask = np.zeros(SIZE, bool)
        mask[y : y + h, x : x + w] = True
        found[name] = mask
    found["plane"][30:36, 60:64] = False
    return found


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def isaid(folder: Path, names: tuple[str, ...] = ("P0001", "P0002"), split: str = "train") -> Path:
    for number, name in enumerate(names):
        ids, colours = np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 3), np.uint8)
        for index, (category, mask) in enumerate(masks().items()):
            ids[mask] = (200 + index, 3, 1)  # 66,504 and on
            colours[mask] = COLOURS[category]
        place = folder / split / "images"
        save(place / f"{name}.png", picture(number))
        save(folder / split / "Instance_masks" / "images" / f"{name}_instance_id_RGB.png", ids)
        save(folder / split / "Semantic_masks" / "images" / f"{name}_instance_color_RGB.png", colours)
    return folder


def isaid_json(folder: Path) -> Path:
    """The masks of a folder of :func:`isaid` as the kit's ``preprocess.py`` writes them, in the published layout."""
    for split in ("train", "val"):
        images, annotations, numbers = [], [], dict[str, int]()
        for path in sorted((folder / split / "images").glob("*.png")):
            ids, colours = (
                np.asarray(Image.open(next(folder.rglob(f"{path.stem}_instance_{kind}_RGB.png")))).astype(int)
                for kind in ("id", "color")
            )
            codes = ids @ [1, 256, 65536]
            image = {"id": len(images), "width": codes.shape[1], "height": codes.shape[0], "file_name": path.name}
            image |= {f"{kind}_file_name": f"{path.stem}_instance_{name}_RGB.png" for kind, name in KINDS.items()}
            images.append(image)
            for code in np.unique(codes)[1:]:
                mask = codes == code
                name = CLASSES[tuple(colours[mask][0].tolist())]
                contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                rings = [contour.reshape(-1).tolist() for contour in contours]
                x, y, w, h = cv2.boundingRect(np.concatenate(contours))
                annotation = {"id": len(annotations), "image_id": image["id"], "segmentation": rings}
                annotation |= {"category_id": numbers.setdefault(name, len(numbers) + 1), "category_name": name}
                annotations.append(annotation | {"iscrowd": 0, "area": int(mask.sum()), "bbox": [x, y, w, h]})
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
        place = folder / split / "Annotations"
        place.mkdir(parents=True)
        (place / f"iSAID_{split}.json").write_text(json.dumps(content))
    return folder


def samrs(folder: Path, category: str = "ship") -> Path:
    save(folder / "images" / "0001.jpg", picture())
    objects = []
    for mask in masks().values():
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle["counts"] = rle["counts"].decode()
        box = np.array([1.0, 2, 3, 4])
        fact = {"mask": rle, "bbox": box, "rbox": np.arange(8.0), "category": category, "label": 0, "size": np.int64(9)}
        objects.append(fact)
    (folder / "ins").mkdir(parents=True, exist_ok=True)
    (folder / "ins" / "0001.pkl").write_bytes(pickle.dumps(objects))
    return folder


def rings() -> dict[str, list[tuple[float, float]]]:
    return {name: [(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for name, (x, y, w, h) in BOXES.items()}


def yolo(folder: Path) -> Path:
    lines = [
        " ".join([str(index), *(f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in ring)])
        for index, ring in enumerate(rings().values())
    ]
    for split in ("train", "val"):
        save(folder / "images" / split / "a.jpg", picture())
        path = folder / "labels" / split / "a.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: {0: ship, 1: plane, 2: Harbor}\n")
    return folder


def labelme(folder: Path) -> Path:
    save(folder / "a.png", picture())
    shapes = [{"label": name, "points": ring, "shape_type": "polygon"} for name, ring in rings().items()]
    shapes[0] = {"label": "ship", "points": [rings()["ship"][0], rings()["ship"][2]], "shape_type": "rectangle"}
    (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    return folder


def semantic(folder: Path, image: str, label: str, values: list[int] | list[tuple[int, int, int]]) -> Path:
    """An image and its label map under the given names; ``values`` are of the ground and of each object."""
    numbers = np.zeros(SIZE, np.uint8)
    for index, mask in enumerate(masks().values()):
        numbers[mask] = index + 1
    save(folder / label, np.array(values, np.uint8)[numbers])
    if image.endswith(".tif"):
        import rasterio

        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        bands = np.concatenate([picture().transpose(2, 0, 1), np.full((2, *SIZE), 7, np.uint8)])
        facts = {"driver": "GTiff", "count": 5, "dtype": "uint8", "height": SIZE[0], "width": SIZE[1]}
        with rasterio.open(folder / image, "w", transform=rasterio.Affine(0.2, 0, 9, 0, -0.2, 9), **facts) as raster:
            raster.write(bands)
    else:
        save(folder / image, picture())
    return folder


def large(folder: Path, side: int, objects: int) -> Path:
    """One image of iSAID's form with many objects."""
    rng = np.random.default_rng(0)
    ids, colours = np.zeros((side, side, 3), np.uint8), np.zeros((side, side, 3), np.uint8)
    colour = COLOURS["Small_Vehicle"]
    for number in range(1, objects + 1):
        x, y = (int(value) for value in rng.integers(0, side - 40, 2))
        w, h = (int(value) for value in rng.integers(6, 40, 2))
        cv2.rectangle(ids, (x, y), (x + w, y + h), (number & 255, number >> 8 & 255, 0), -1)
        cv2.rectangle(colours, (x, y), (x + w, y + h), colour, -1)
    place = folder / "train" / "images"
    save(place / "P9000.png", rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
    save(place / "P9000_instance_id_RGB.png", ids)
    save(place / "P9000_instance_color_RGB.png", colours)
    return folder
