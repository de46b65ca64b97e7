"""Tiles cut and joined again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from score import masks
from score.geo.merge import Placed, merge, place, suppress
from score.geo.tiles import Tile, plan
from score.masks import RLE
from score.result import Found

WIDTH, HEIGHT = 150, 110


def scene(seed: int, count: int, longest: int) -> list[NDArray[np.bool_]]:
    """Masks of a raster that do not touch: boxes and rings, at most so many pixels a side."""
    rng = np.random.default_rng(seed)
    taken, found = np.zeros((HEIGHT, WIDTH), bool), []
    for _ in range(count):
        w, h = rng.integers(1, longest + 1, 2)
        x, y = rng.integers(0, WIDTH - w + 1), rng.integers(0, HEIGHT - h + 1)
        if taken[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1].any():
            continue
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + h, x : x + w] = True
        if min(w, h) > 4:
            mask[y + 2 : y + h - 2, x + 2 : x + w - 2] = False
        taken |= mask
        found.append(mask)
    return found


def seen_in(objects: list[NDArray[np.bool_]], labels: list[int], tile: Tile, rng: np.random.Generator) -> list[Placed]:
    """What a perfect model says of a tile."""
    x, y, w, h = tile.window
    found = []
    for mask, label in zip(objects, labels, strict=True):
        inside = mask[y : y + h, x : x + w]
        if inside.any():
            found.append(Found(label, float(rng.uniform(0.3, 0.9)), masks.encode(inside[None])[0], str(label), True))
    return place(found, tile)


def joined(objects: list[NDArray[np.bool_]], labels: list[int], size: int, overlap: int) -> list[Placed]:
    tiles = plan(WIDTH, HEIGHT, size, overlap)
    rng = np.random.default_rng(0)
    parts = [part for tile in tiles for part in seen_in(objects, labels, tile, rng)]
    windows = {(tile.row, tile.column): tile.window for tile in tiles}
    return suppress(sorted(merge(parts, windows, (WIDTH, HEIGHT)), key=lambda item: -item.score), 0.5)


def whole(rle: RLE) -> bytes:
    return masks.decode(masks.paste(rle, HEIGHT, WIDTH)).tobytes()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "overlap"), [(40, 20), (48, 20), (64, 31), (41, 20), (150, 20), (200, 100)])
def test_any_tiles_give_the_objects_of_one_pass(seed: int, size: int, overlap: int) -> None:
    objects = scene(seed, 60, longest=min(overlap, 30))
    labels = [index % 3 for index in range(len(objects))]
    found = joined(objects, labels, size, overlap)
    assert sorted((item.label, whole(item.rle)) for item in found) == sorted(
        (label, mask.tobytes()) for label, mask in zip(labels, objects, strict=True)
    )


@pytest.mark.parametrize(("size", "overlap"), [(40, 4), (40, 10), (32, 16), (64, 8)])
def test_what_is_longer_than_a_tile_is_one_object(size: int, overlap: int) -> None:
    bridge, river = np.zeros((2, HEIGHT, WIDTH), bool)
    bridge[104:109, 3:147] = True
    for column in range(140):
        river[column * 95 // 140 : column * 95 // 140 + 5, column : column + 3] = True
    found = joined([bridge, river], [0, 1], size, overlap)
    assert {(item.label, whole(item.rle)) for item in found} == {(0, bridge.tobytes()), (1, river.tobytes())}
    assert len(found) == 2


def part(box: tuple[int, int, int, int], tile: tuple[int, int], score: float, label: int = 0) -> Placed:
    x0, y0, x1, y1 = box
    rle = masks.encode(np.ones((1, y1 - y0, x1 - x0), bool), (x0, y0))[0]
    return Placed(label, score, rle, "ship", True, tile)


WINDOWS = {(0, 0): (0, 0, 60, 60), (0, 1): (40, 0, 60, 60)}


def test_of_a_whole_view_and_a_corner_the_whole_stays_with_the_better_score() -> None:
    found = merge([part((45, 10, 58, 20), (0, 1), 0.4), part((45, 10, 60, 21), (0, 0), 0.7)], WINDOWS, (100, 60))
    assert [(item.box, item.score) for item in found] == [((45, 10, 13, 10), 0.7)]


def test_neighbours_of_one_word_stay_two() -> None:
    """Also where one tile sees both as one blob that its edge cuts."""
    ships = [part((44, 10, 50, 20), (0, 1), 0.8), part((52, 10, 58, 20), (0, 1), 0.7)]
    found = merge(ships, WINDOWS, (100, 60))
    assert len(found) == 2
    blob = part((44, 10, 60, 20), (0, 0), 0.3)
    boxes = {item.box for item in merge([*ships, blob], WINDOWS, (100, 60))}
    assert {(44, 10, 6, 10), (52, 10, 6, 10)} <= boxes


def test_parts_of_two_words_are_not_joined() -> None:
    found = merge([part((30, 10, 60, 20), (0, 0), 0.4), part((40, 10, 80, 20), (0, 1), 0.7, 1)], WINDOWS, (100, 60))
    assert len(found) == 2


def test_an_edge_of_the_raster_cuts_nothing() -> None:
    found = merge([part((41, 0, 59, 9), (0, 0), 0.4), part((41, 0, 59, 9), (0, 1), 0.7)], WINDOWS, (100, 60))
    assert [(item.box, item.score) for item in found] == [((41, 0, 18, 9), 0.7)]


def test_the_better_of_two_that_overlap_stays() -> None:
    some = [part((0, 0, 10, 10), (0, 0), 0.9), part((1, 0, 11, 10), (0, 0), 0.8), part((20, 0, 30, 10), (0, 0), 0.7)]
    assert suppress(some, 0.5) == [some[0], some[2]]
    assert suppress(some, 1) == some
    other = [some[0], part((1, 0, 11, 10), (0, 0), 0.8, label=1)]
    assert suppress(other, 0.5, per_class=True) == other


def test_a_dropped_one_drops_none() -> None:
    """Of three in a chain the middle one goes, and the last, which only the middle one overlaps, stays."""
    chain = [part((start, 0, start + 10, 10), (0, 0), score) for start, score in ((0, 0.9), (3, 0.8), (6, 0.7))]
    assert suppress(chain, 0.5) == [chain[0], chain[2]]
