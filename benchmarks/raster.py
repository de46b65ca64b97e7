"""Rasters: is every object found once, how fast is all but the network, and the merge beside sahi's.

Usage:
    python benchmarks/raster.py draw SCENE.tif [SIDE]          a raster of known objects, 20,000 pixels a side
    python benchmarks/raster.py ideal [SIDE]                   perfect masks of its tiles, joined: is each there once?
    python benchmarks/raster.py rate PLOT.png [SIDE ...]       seconds of all but the network, over the area
    python benchmarks/raster.py merge [COUNT ...]              the same imperfect masks through sahi and through ours
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from score import masks
from score.geo import merge, tiles
from score.geo.merge import Placed
from score.geo.tiles import Tile
from score.masks import RLE

SIDE, TILE, OVERLAP, CELL = 20_000, 512, 128, 117
WORDS = ["tank", "house", "bridge"]
COLOURS = ((230, 230, 220), (170, 90, 70), (120, 120, 130))


class Object(NamedTuple):
    """A known object: its word, and its mask in the window that begins at x, y."""

    label: int
    x: int
    y: int
    bits: NDArray[np.bool_]


def draw_objects(side: int, seed: int = 0, share: float = 0.5) -> list[Object]:
    """Discs and turned boxes of up to 100 pixels, one in a part of all cells, and bridges of up to five tiles."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(side // CELL):
        if row % 8 == 4:  # a row of bridges
            x = int(rng.integers(0, CELL))
            while x < side - CELL:
                length = min(int(rng.integers(TILE, 5 * TILE)), side - x)
                bits = np.zeros((64, length), np.uint8)
                cv2.line(bits, (8, 12), (length - 9, 50), 1, int(rng.integers(5, 15)))
                found.append(Object(2, x, row * CELL + 20, bits.astype(bool)))
                x += length + int(rng.integers(40, 400))
            continue
        for column in range(side // CELL):
            if rng.random() > share:
                continue
            size = int(rng.integers(10, 101))
            bits = np.zeros((size, size), np.uint8)
            label = int(rng.integers(0, 2))
            if label == 0:
                cv2.circle(bits, (size // 2, size // 2), (size - 1) // 2, 1, -1)
            else:
                box = (size / 2, size / 2), (size * 0.7, size * 0.4), float(rng.uniform(0, 180))
                cv2.fillPoly(bits, [cv2.boxPoints(box).astype(np.int32)], 1)
            x, y = (int(rng.integers(2, CELL - size - 2)) if size < CELL - 5 else 2 for _ in range(2))
            found.append(Object(label, column * CELL + x, row * CELL + y, bits.astype(bool)))
    return found


def draw(path: Path, side: int) -> list[Object]:
    """Write the raster, block by block."""
    objects = draw_objects(side)
    rng = np.random.default_rng(1)
    ground = cv2.resize(rng.integers(60, 140, (64, 64, 3), dtype=np.uint8), (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    ground = (ground + rng.integers(-8, 8, ground.shape)).clip(1, 255).astype(np.uint8)
    place = Affine(0.3, 0, 600_000, 0, -0.3, 5_400_000)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32632",
               "transform": place, "tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "lzw",
               "photometric": "RGB"}  # fmt: skip
    by_row: dict[int, list[Object]] = {}
    for item in objects:
        for row in range(item.y // TILE, (item.y + item.bits.shape[0]) // TILE + 1):
            by_row.setdefault(row, []).append(item)
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(-(-side // TILE)):
            height = min(TILE, side - row * TILE)
            strip = np.tile(ground, (1, -(-side // TILE), 1))[:height, :side]
            for item in by_row.get(row, []):
                top = item.y - row * TILE
                y0, y1 = max(0, top), min(height, top + item.bits.shape[0])
                if y0 < y1:
                    part = item.bits[y0 - top : y1 - top]
                    strip[y0:y1, item.x : item.x + part.shape[1]][part] = COLOURS[item.label]
            window = rasterio.windows.Window(0, row * TILE, side, height)
            dataset.write(strip.transpose(2, 0, 1), window=window)
    return objects


def seen(objects: list[Object], plan: list[Tile], noise: int = 0, seed: int = 0) -> list[Placed]:
    """What a model says of each tile: perfect masks, or such as grow, shrink and shift by up to so many pixels."""
    rng = np.random.default_rng(seed)
    step = TILE - OVERLAP
    rows = {}
    for tile in plan:
        rows[tile.row, tile.column] = tile
    last = max(tile.row for tile in plan), max(tile.column for tile in plan)
    found = []
    for item in objects:
        height, width = item.bits.shape
        first = [max(0, (start - TILE) // step) for start in (item.y, item.x)]
        final = [min(end // step + 1, most) for end, most in zip((item.y + height, item.x + width), last, strict=True)]
        for row in range(first[0], final[0] + 1):
            for column in range(first[1], final[1] + 1):
                x, y, w, h = rows[row, column].window
                x0, x1 = max(x, item.x), min(x + w, item.x + width)
                y0, y1 = max(y, item.y), min(y + h, item.y + height)
                if x0 >= x1 or y0 >= y1:
                    continue
                bits = item.bits[y0 - item.y : y1 - item.y, x0 - item.x : x1 - item.x]
                if noise:
                    kernel = np.ones((int(rng.integers(1, noise + 2)),) * 2, np.uint8)
                    change = cv2.dilate if rng.random() < 0.5 else cv2.erode
                    bits = change(bits.astype(np.uint8), kernel).astype(bool)
                if bits.any():
                    rle: RLE = masks.encode(bits[None], (x0, y0))[0]
                    score = float(rng.uniform(0.4, 0.95))
                    found.append(Placed(item.label, score, rle, WORDS[item.label], True, (row, column)))
    return found


def windows(plan: list[Tile]) -> dict[tuple[int, int], masks.Box]:
    """Of each tile."""
    return {(tile.row, tile.column): tile.window for tile in plan}


def ours(parts: list[Placed], plan: list[Tile], side: int) -> list[Placed]:
    """Join parts as `RasterView.find` does."""
    whole = merge.merge(parts, windows(plan), (side, side))
    return merge.suppress(sorted(whole, key=lambda item: -item.score), 0.5)


def ideal(side: int) -> None:
    """Count what is found once, twice, not, or in another shape."""
    objects, plan = draw_objects(side), tiles.plan(side, side, TILE, OVERLAP)
    begins = tiles.starts(side, TILE, OVERLAP)
    edges = {*begins, *(start + TILE for start in begins)}

    def crosses(start: int, length: int) -> bool:
        return any(start < edge < start + length for edge in edges)

    def key(label: int, rle: RLE) -> tuple[int, str, str]:
        return label, str(masks.box(rle)), masks.trim(rle)["counts"]

    across = [(crosses(item.x, item.bits.shape[1]), crosses(item.y, item.bits.shape[0])) for item in objects]
    longer = sum(item.bits.shape[1] > TILE for item in objects)
    print(
        f"{side} x {side}, {len(plan)} tiles: {len(objects)} objects, {sum(map(any, across))} across an edge of a tile,"
    )
    print(f"{sum(map(all, across))} across a corner, {longer} longer than a tile")
    parts = seen(objects, plan)
    begin = time.perf_counter()
    found = ours(parts, plan, side)
    seconds = time.perf_counter() - begin
    truth = {key(item.label, masks.encode(item.bits[None], (item.x, item.y))[0]) for item in objects}
    got = [key(item.label, item.rle) for item in found]
    print(f"{len(parts)} parts in {seconds:.1f} s: {len(got)} objects, {len(truth & set(got))} exactly as they are,")
    print(f"{len(truth - set(got))} lost or of another shape, {len(got) - len(set(got))} doubled")


def judge(objects: list[Object], found: list[tuple[int, RLE]]) -> str:
    """Objects that are there once, doubled, in parts, or lost."""
    import shapely

    truth = [masks.encode(item.bits[None], (item.x, item.y))[0] for item in objects]
    tree = shapely.STRtree([shapely.box(x, y, x + w, y + h) for x, y, w, h in map(masks.box, truth)])
    whole, pieces = np.zeros(len(objects), int), np.zeros(len(objects), int)
    extra = 0
    for label, rle in found:
        x, y, w, h = masks.box(rle)
        hit = False
        for index in tree.query(shapely.box(x, y, x + w, y + h)):
            if objects[index].label != label:
                continue
            iou = masks.iou([rle], [truth[index]])[0, 0]
            both = iou * (masks.area(rle) + masks.area(truth[index])) / (1 + iou)
            if iou >= 0.5:
                whole[index] += 1
                hit = True
            elif both >= 0.5 * masks.area(rle):
                pieces[index] += 1
                hit = True
        extra += not hit
    once = (whole == 1) & (pieces == 0)
    doubled = (whole > 1) | ((whole == 1) & (pieces > 0))
    return (f"once {once.sum()}, doubled {doubled.sum()}, in pieces {((whole == 0) & (pieces > 0)).sum()}, "
            f"lost {((whole == 0) & (pieces == 0)).sum()}, of nothing {extra}")  # fmt: skip


def beside_sahi(counts: list[int]) -> None:
    """The same parts through both; seconds without making their inputs."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    for count in counts:
        side = TILE
        while True:  # a raster with so many parts
            side += 4 * (TILE - OVERLAP)
            if len(seen(draw_objects(side), tiles.plan(side, side, TILE, OVERLAP), 2)) >= count:
                break
            side = max(side, int(side * 1.3) // 384 * 384)
        objects, plan = draw_objects(side), tiles.plan(side, side, TILE, OVERLAP)
        parts = seen(objects, plan, 2)
        begin = time.perf_counter()
        found = ours(parts, plan, side)
        seconds = time.perf_counter() - begin
        verdict = judge(objects, [(item.label, item.rle) for item in found])
        print(f"{len(parts)} detections, {len(objects)} objects, {side} x {side} pixels")
        print(f"  ours  {seconds:8.2f} s  {verdict}", flush=True)
        theirs = []
        for item in parts:
            x, y, width, height = item.box
            bits = masks.part(item.rle)[1].astype(np.uint8)
            lines, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x, y))
            shapes = [line.reshape(-1).tolist() for line in lines if len(line) >= 3]
            if shapes:
                box = [x, y, x + width, y + height]
                theirs.append(
                    ObjectPrediction(box, item.label, WORDS[item.label], shapes, item.score, [0, 0], [side, side])
                )
        begin = time.perf_counter()
        joined = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(theirs)
        seconds = time.perf_counter() - begin
        result = []
        for item in joined:
            shapes = [np.array(shape).reshape(-1, 2) for shape in item.mask.segmentation]
            corners = np.concatenate(shapes)
            (x0, y0), (x1, y1) = corners.min(0).astype(int), corners.max(0).astype(int) + 1
            bits = np.zeros((y1 - y0, x1 - x0), np.uint8)
            for shape in shapes:
                cv2.fillPoly(bits, [(shape - [x0, y0]).astype(np.int32)], 1)
            result.append((item.category.id, masks.encode(bits[None], (x0, y0))[0]))
        print(f"  sahi  {seconds:8.2f} s  {judge(objects, result)}", flush=True)


def rate(plot: Path, sides: list[int]) -> None:
    """Everything but the network, which is replaced by what it said of one tile."""
    from matplotlib.figure import Figure

    from score.geo.raster import Raster
    from score.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained()
    look, memory, seconds = segmenter.model.look, {}, []

    def remembered(inputs: list[dict]) -> object:
        if len(inputs) not in memory:
            memory[len(inputs)] = look(inputs)
        return memory[len(inputs)]

    segmenter.model.look = remembered  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        for side in [sides[0], *sides]:  # the first one warms up
            draw(scene, side)
            begin = time.perf_counter()
            view = segmenter.look_raster(Raster(scene))
            looked = time.perf_counter() - begin
            frame = view.ask(WORDS)
            seconds.append(time.perf_counter() - begin)
            area = side * side / 1e6
            pace = f"{area / seconds[-1]:5.1f} Mpx/s, {seconds[-1] / area * 100:.2f} s per 100 Mpx"
            print(f"{area:6.0f} Mpx: {seconds[-1]:6.2f} s, {looked:6.2f} s of it tiles; {len(frame)} objects; {pace}")
    figure = Figure((6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="megapixels", ylabel="seconds of all but the network")
    axes.plot([side * side / 1e6 for side in sides], seconds[1:], "o-")
    axes.set(xlim=(0, None), ylim=(0, None))
    figure.savefig(plot, dpi=120)


def main() -> None:
    """Run one of the measurements."""
    what, *rest = sys.argv[1:]
    if what == "draw":
        draw(Path(rest[0]), int(rest[1]) if rest[1:] else SIDE)
    elif what == "ideal":
        ideal(int(rest[0]) if rest else SIDE)
    elif what == "rate":
        rate(Path(rest[0]), [int(side) for side in rest[1:]] or [5_000, 10_000, 14_142, 20_000])
    elif what == "merge":
        beside_sahi([int(count) for count in rest] or [1_000, 10_000, 100_000])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
