"""Time the sweep over alpha and beta on made-up predictions of NWPU VHR-10's size.

Usage: python benchmarks/sweep.py [--queries 60 300] [--images 650] [--steps 11]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from score.engine.cache import CachedImage
from score.evaluation.coco import coco_metrics
from score.masks import RLE
from score.model.classifier import Ensemble
from score.studies.grid import candidates, sweep

HEIGHT, WIDTH, CLASSES, SEEN = 600, 900, 10, 7
OBJECTS = 3921 / 650  # an image, on average
TOP_K = 300


def ellipses(shapes: np.ndarray) -> list[RLE]:
    """Masks of ``[N, 4]``: centre x, y and radii."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # [24, 2]
    points = shapes[:, None, :2] + outline * shapes[:, None, 2:]
    polygons = points.clip(0, (WIDTH - 1, HEIGHT - 1)).reshape(-1, outline.size).tolist()
    encoded = coco_mask.frPyObjects(polygons, HEIGHT, WIDTH) if polygons else []
    return [RLE(size=[HEIGHT, WIDTH], counts=rle["counts"].decode("ascii")) for rle in encoded]


def scene(rng: np.random.Generator, image_id: int, queries: int, count: int) -> tuple[dict[str, Any], CachedImage]:
    """An image with objects of one class or two; half the queries lie on an object, and most of them know its name."""
    shapes = rng.uniform((0, 0, 8, 8), (WIDTH, HEIGHT, 60, 60), (count, 4))
    labels = rng.choice(rng.integers(0, CLASSES, 2), count)
    found = rng.uniform((0, 0, 8, 8), (WIDTH, HEIGHT, 60, 60), (queries, 4))
    names = rng.integers(0, CLASSES, queries)
    if count:
        on_object = rng.random(queries) < 0.5
        target = rng.integers(0, count, on_object.sum())
        radii = shapes[target][:, [2, 3, 2, 3]]
        found[on_object] = shapes[target] + radii * rng.normal(0, 0.15, radii.shape)
        found[:, 2:] = found[:, 2:].clip(2)
        names[on_object] = np.where(rng.random(len(target)) < 0.8, labels[target], names[on_object])
    known = 4 * np.eye(CLASSES + 1)[names] * rng.random((queries, 1))
    in_logits = (rng.normal(0, 1.5, (queries, CLASSES + 1)) + known).astype(np.float32)
    out_logits = (rng.normal(0, 1.5, (queries, CLASSES)) + known[:, :-1]).astype(np.float32)
    quality = rng.uniform(0.5, 1, queries).astype(np.float32)
    cached = CachedImage(image_id, (HEIGHT, WIDTH), in_logits, out_logits, quality, ellipses(found))
    annotations = [
        {"category_id": int(label), "segmentation": rle} for label, rle in zip(labels, ellipses(shapes), strict=True)
    ]
    return {"image_id": image_id, "height": HEIGHT, "width": WIDTH, "annotations": annotations}, cached


def measure(queries: int, images: int, steps: int) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(round(OBJECTS * images), [1 / images] * images)
    records, cached = zip(*(scene(rng, index, queries, count) for index, count in enumerate(counts)), strict=True)
    start = time.perf_counter()
    prepared = [candidates(image, record) for image, record in zip(cached, records, strict=True)]
    prepare_seconds = time.perf_counter() - start

    seen = [label < SEEN for label in range(CLASSES)]
    weights = np.linspace(0, 1, steps).tolist()
    start = time.perf_counter()
    grid = sweep(prepared, seen, weights, weights, top_k=TOP_K)
    seconds = time.perf_counter() - start

    single, difference = [], 0.0
    for row, column in ((steps // 3, steps // 2), (steps - 1, 0), (0, steps - 1)):
        start = time.perf_counter()
        ensemble = Ensemble(alpha=weights[row], beta=weights[column])
        found = {image.image_id: image.instances(ensemble, torch.tensor(seen), TOP_K) for image in cached}
        metrics = coco_metrics(records, found, [str(label) for label in range(CLASSES)], seen)
        single.append(time.perf_counter() - start)
        difference = max(difference, abs(grid.mean("all")[row, column] - metrics["all"]["AP"]))
    slow = steps**2 * statistics.median(single)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{images} images, {queries} queries, {grid.instances.sum()} objects, {steps} x {steps} cells, "
        f"{torch.get_num_threads()} threads\n"
        f"  IoU, once {prepare_seconds:8.2f} s\n"
        f"  sweep     {seconds:8.2f} s\n"
        f"  one cell  {statistics.median(single):8.2f} s by coco_metrics\n"
        f"  all cells {slow:8.2f} s by coco_metrics, {slow / seconds:.0f} times the sweep\n"
        f"  AP        {difference:8.1e} apart at most, {grid.mean('all').min():.1f} .. {grid.mean('all').max():.1f}\n"
        f"  memory    {peak:8.2f} GiB at the peak, masks included"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--images", type=int, default=650)
    parser.add_argument("--steps", type=int, default=11)
    arguments = parser.parse_args()
    for queries in arguments.queries:
        measure(queries, arguments.images, arguments.steps)


if __name__ == "__main__":
    main()
