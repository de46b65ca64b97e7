"""Preparing iSAID beside the straightforward loop, on a generated image of 8,000 x 8,000 pixels with 5,000 objects.

Usage: python benchmarks/prepare.py [SIDE OBJECTS [CHECKED]]

The loop is ``np.unique`` on the ids, then for each object a comparison of the whole image and ``cv2.findContours``, in
one process; it is timed on so many objects (CHECKED, 250) and multiplied.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from score.data.prepare import isaid, run
from score.data.prepare.parts import Plan
from tests.data.prepare.archives import large


def loop(folder: Path, checked: int) -> float:
    """Seconds of the straightforward loop over one whole image."""
    begin = time.perf_counter()
    ids = cv2.imread(str(folder / "P9000_instance_id_RGB.png")).astype(np.int64)
    cv2.imread(str(folder / "P9000_instance_color_RGB.png"))
    codes = ids[..., 2] + 256 * ids[..., 1] + 65536 * ids[..., 0]
    known = np.unique(codes)[1:]
    read = time.perf_counter() - begin
    begin = time.perf_counter()
    for code in known[:checked]:
        cv2.findContours((codes == code).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return read + (time.perf_counter() - begin) * len(known) / min(checked, len(known))


def ours(raw: Path, target: Path, size: int, overlap: int) -> tuple[float, int, float]:
    """Seconds, instances, and the process's peak memory in GB, all that it imports included."""
    items, _ = isaid.items(raw, size, overlap, 8)
    begin = time.perf_counter()
    summary = run.prepare(Plan("isaid", list(isaid.CLASSES.values()), items), target)
    return time.perf_counter() - begin, summary.instances["train"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Time both, each in a process of its own."""
    side, objects, checked = [*map(int, sys.argv[1:4]), *(8000, 5000, 250)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as place:
        raw = alone(large, Path(place) / "raw", side, objects)
        seconds = {}
        for size, overlap in ((side, 0), (800, 200)):
            seconds[size], instances, peak = alone(ours, raw, Path(place) / f"ours{size}", size, overlap)
            pace = side * side / 1e6 / seconds[size]
            print(f"ours, tiles of {size} that share {overlap}: {seconds[size]:.1f} s, {pace:.1f} Mpx/s,", end=" ")
            print(f"{instances} instances, peak memory {peak / 1e6:.2f} GB")
        straight = alone(loop, raw / "train" / "images", checked)
        print(f"the loop: {straight:.1f} s, from {checked} objects; ours takes {seconds[side] / straight:.3f} of it on")
        print(f"the whole image, and {seconds[800] / straight:.3f} with tiles of 800 written")


if __name__ == "__main__":
    main()
