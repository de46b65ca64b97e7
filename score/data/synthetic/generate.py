"""The synthetic aerial sets: licence-free pictures with exact masks, the same bytes for the same seed.

``synthetic`` shows thirteen classes in summer; ``synthetic_shifted`` shows them again in winter, autumn and arid land,
from nearer, among seven novel classes that ``synthetic`` never draws.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from score import masks
from score.data.coco_json import annotation, categories
from score.data.synthetic.canvas import Canvas
from score.data.synthetic.scenes import SCENES, Site
from score.data.synthetic.themes import ARID, AUTUMN, SUMMER, WINTER, Theme
from score.errors import DataError, OutputError

logger = logging.getLogger(__name__)

SEEN = (
    "ship", "car", "truck", "plane", "storage tank", "roundabout", "tennis court", "soccer field", "swimming pool",
    "house", "warehouse", "bridge", "pier",
)  # fmt: skip
NOVEL = ("sailboat", "bus", "helicopter", "gas tank", "basketball court", "football field", "greenhouse")

NAMES: dict[str, tuple[str, ...]] = {"synthetic": SEEN, "synthetic_shifted": SEEN + NOVEL}
THEMES: dict[str, tuple[Theme, ...]] = {"synthetic": (SUMMER,), "synthetic_shifted": (WINTER, ARID, AUTUMN)}
SPLITS = ("train", "val")

VERSION = 7  # raise it when the drawings change: cached sets are made anew
OBJECTS = (3, 12)  # fewest and most instances of an image
SLIVER = 12  # an instance with fewer visible pixels than this is not annotated
JPEG_QUALITY = 92


def render(name: str, split: str, index: int, *, size: int, seed: int) -> tuple[Image.Image, list[dict[str, Any]], str]:
    """Draw one image of a set.

    Args:
        name: ``synthetic`` or ``synthetic_shifted``.
        split: ``train`` or ``val``.
        index: the image's number in its split.
        size: its width and height in pixels.
        seed: the set's seed.

    Returns:
        The picture, its annotations in COCO's form (``bbox`` XYWH in pixels, ``segmentation`` compressed RLE, no ids)
        and the name of its scene.
    """
    themes = THEMES[name]
    key = [seed, list(NAMES).index(name), SPLITS.index(split), index]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    scene = list(SCENES)[index % len(SCENES)]
    while True:
        theme = themes[int(rng.integers(len(themes)))]
        limit = int(rng.integers(7, OBJECTS[1] + 1))
        canvas = Canvas(rng=rng, size=size, zoom=rng.uniform(*theme.zoom), limit=limit, palette=theme.grounds)
        SCENES[scene](Site(canvas, theme))
        picture, ids = canvas.finish()
        annotations = _annotations(ids, canvas.categories, NAMES[name])
        if len(annotations) >= OBJECTS[0]:
            return picture, annotations, scene


def _annotations(ids: np.ndarray, categories: list[str], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """COCO annotations of an instance map."""
    annotations = []
    for instance, category in enumerate(categories, start=1):
        mask = ids == instance
        if mask.sum() < SLIVER:
            continue
        annotations.append(annotation(masks.encode(mask[None])[0], names.index(category) + 1))
    return annotations


def generate(
    root: Path, name: str, split: str, images: int, size: int = 256, seed: int = 0, workers: int | None = None
) -> Path:
    """Write a split of a synthetic set unless it is there already.

    Args:
        root: the datasets' root; ``root/name/split`` gets ``images/*.jpg`` and ``instances_SPLIT.json``.
        name: ``synthetic`` or ``synthetic_shifted``.
        split: ``train`` or ``val``.
        images: how many; scenes take turns.
        size: width and height of an image in pixels.
        seed: of everything; neither ``workers`` nor ``images`` changes an image.
        workers: processes; by default one a core, and none beside this one for a small set.

    Returns:
        The split's folder, complete; a second call with equal arguments draws nothing.

    Raises:
        DataError: no such set or split, or a folder of that name that was not generated.
        OutputError: the folder cannot be written.
    """
    if name not in NAMES or split not in SPLITS:
        raise DataError(f"no synthetic set {name}/{split}; there are {', '.join(NAMES)} with {', '.join(SPLITS)}")
    if images < 1 or size < 32:
        raise DataError(f"{name}/{split}: {images} images of {size} pixels; ask for at least 1 of at least 32")
    folder = Path(root) / name / split
    fingerprint = {"version": VERSION, "images": images, "size": size, "seed": seed}
    mark = folder / "generated.json"
    if _is_drawn(mark, fingerprint):
        return folder
    if folder.exists() and not mark.is_file():
        raise DataError(f"{folder} exists and was not generated; move it away or choose another root")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"{folder.parent}: cannot be written ({error.strerror}); choose another root") from error
    try:
        _write(draft, name, split, images, size, seed, workers)
        (draft / mark.name).write_text(json.dumps(fingerprint))
        draft.chmod(folder.parent.stat().st_mode)  # mkdtemp makes it private
        if folder.exists():
            shutil.rmtree(folder)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            if not _is_drawn(mark, fingerprint):
                raise
    except OSError as error:
        reason = f"{error.strerror}); free some space or choose another root"
        raise OutputError(f"cannot write {folder} ({reason}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _is_drawn(mark: Path, fingerprint: dict[str, int]) -> bool:
    """Whether a split's mark says that it was drawn with these settings."""
    return mark.is_file() and json.loads(mark.read_text()) == fingerprint


def _write(folder: Path, name: str, split: str, images: int, size: int, seed: int, workers: int | None) -> None:
    """Draw all images of a split into a folder and its JSON beside them."""
    (folder / "images").mkdir()
    jobs = [(str(folder / "images" / f"{i:06d}.jpg"), name, split, i, size, seed) for i in range(images)]
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, images // 60)  # a process takes as long to start as 60 images to draw
    drawn = _draw(jobs, workers)
    coco: dict[str, Any] = {
        "info": {"description": f"{name}/{split}, generated, free of licence", "seed": seed},
        "images": [],
        "annotations": [],
        "categories": categories(NAMES[name]),
    }
    for index, (scene, found) in enumerate(drawn, start=1):
        file_name = f"{index - 1:06d}.jpg"
        coco["images"].append({"id": index, "file_name": file_name, "width": size, "height": size, "scene": scene})
        for item in found:
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": index, **item})
    (folder / f"instances_{split}.json").write_text(json.dumps(coco, separators=(",", ":")))


def _draw(jobs: list[tuple[str, str, str, int, int, int]], workers: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Draw and save images, in processes if there are to be several."""
    if workers > 1:
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                return list(pool.map(_write_image, jobs, chunksize=8))
        except BrokenProcessPool:  # a script without `if __name__ == "__main__"` cannot start processes
            logger.warning("cannot start processes; drawing in this one")
    return [_write_image(job) for job in jobs]


def _write_image(job: tuple[str, str, str, int, int, int]) -> tuple[str, list[dict[str, Any]]]:
    """Draw and save one image; what a worker process does."""
    path, name, split, index, size, seed = job
    picture, annotations, scene = render(name, split, index, size=size, seed=seed)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    Path(path).write_bytes(buffer.getvalue())
    return scene, annotations
