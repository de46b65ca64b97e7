"""Objects of overlapping tiles joined into objects of the raster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from score import masks
from score.geo.tiles import Tile
from score.masks import RLE, Box
from score.result import Found

SAME = 0.5  # of the smaller mask within the shared band: two parts that agree by this are of one object


@dataclass(frozen=True, slots=True)
class Placed(Found):
    """An object in a raster; its ``rle`` is a window of it, in the raster's pixels.

    Attributes:
        tile: row and column of the tile that shows most of it.
    """

    tile: tuple[int, int]


class _Shape:
    """A mask, decoded when it is first compared.

    Attributes:
        box: x0, y0, x1, y1 in the raster's pixels.
        area: in pixels.
    """

    __slots__ = ("_bits", "_rle", "area", "box")

    def __init__(self, rle: RLE) -> None:
        x, y, width, height = masks.box(rle)
        self.box, self.area = (x, y, x + width, y + height), masks.area(rle)
        self._rle: RLE = rle
        self._bits: NDArray[np.bool_] | None = None

    @property
    def bits(self) -> NDArray[np.bool_]:
        """The mask within its box."""
        if self._bits is None:
            self._bits = masks.part(self._rle)[1]
        return self._bits

    def inside(self, box: Box) -> NDArray[np.bool_]:
        """The mask within a part of its box."""
        return self.bits[box[1] - self.box[1] : box[3] - self.box[1], box[0] - self.box[0] : box[2] - self.box[0]]

    def shared(self, other: _Shape) -> int:
        """How many pixels lie in both."""
        meet = _meet(self.box, other.box)
        return int(np.count_nonzero(self.inside(meet) & other.inside(meet))) if meet else 0

    def area_in(self, band: Box) -> int:
        """How many of its pixels lie in a box."""
        meet = _meet(self.box, band)
        return self.area if meet == self.box else int(np.count_nonzero(self.inside(meet))) if meet else 0


class _Part(_Shape):
    """What a tile shows of an object.

    Attributes:
        found: with the mask in the raster's pixels.
        window: of the tile, as x0, y0, x1, y1.
        cut: whether the mask reaches an edge of the tile beyond which the raster goes on.
    """

    __slots__ = ("cut", "found", "window")

    def __init__(self, found: Placed, window: Box, size: tuple[int, int]) -> None:
        super().__init__(found.rle)
        self.found = found
        x, y, width, height = window
        self.window = (x, y, x + width, y + height)
        x0, y0, x1, y1 = self.box
        left, top, right, bottom = self.window
        self.cut = x0 <= left > 0 or y0 <= top > 0 or x1 >= right < size[0] or y1 >= bottom < size[1]


def place(found: Iterable[Found], tile: Tile) -> list[Placed]:
    """Bring objects of a tile, with masks in its pixels, to the raster's pixels."""
    x, y, _, _ = tile.window
    placed = []
    for item in found:
        left, top = item.rle.get("offset", (0, 0))
        moved = RLE(size=item.rle["size"], counts=item.rle["counts"], offset=[left + x, top + y])
        placed.append(Placed(item.label, item.score, moved, item.name, item.seen, (tile.row, tile.column)))
    return placed


def merge(found: Sequence[Placed], windows: dict[tuple[int, int], Box], size: tuple[int, int]) -> list[Placed]:
    """Make one object of the parts that several tiles show of it.

    Two parts of one word, of different tiles, are of one object where they agree in the band that both tiles show: of
    the smaller one's pixels there, at least half lie in the other. Of an object that some tile shows whole, the best
    such view is kept as it is; of one that no tile shows whole, the parts are united. A joined object's score is the
    best of its parts', for a tile that shows a corner only says little against it.

    Args:
        found: objects of all tiles, in the raster's pixels; those of one tile do not overlap much.
        windows: the tiles' windows, by row and column.
        size: width and height of the raster.

    Returns:
        Objects in no order. Time is linear in the number of objects and in the area of those in bands.
    """
    parts = [_Part(item, windows[item.tile], size) for item in found]
    joined = _linked(parts)
    result = []
    for group in joined:
        result += [group[0].found] if len(group) == 1 else _resolve(group)
    return result


def _linked(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Groups of parts that agree, one with the next."""
    root = list(range(len(parts)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for first, second in _candidates(parts):
        one, other = find(first), find(second)
        if one != other and _agree(parts[first], parts[second]):
            root[other] = one
    groups: dict[int, list[_Part]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(find(index), []).append(part)
    return list(groups.values())


def _candidates(parts: Sequence[_Part]) -> NDArray[np.int64]:
    """Pairs ``[N, 2]`` of one word, of two tiles, whose boxes meet."""
    boxes = np.array([part.box for part in parts], dtype=float).reshape(-1, 4)
    trees = shapely.STRtree(shapely.box(*boxes.T))
    pairs = trees.query(trees.geometries, predicate=None).T  # meeting boxes
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    labels = np.array([part.found.label for part in parts])
    tiles = np.array([part.found.tile for part in parts]).reshape(-1, 2)
    first, second = pairs.T
    keep = (labels[first] == labels[second]) & (tiles[first] != tiles[second]).any(1)
    return np.asarray(pairs[keep], dtype=np.int64)


def _agree(first: _Part, second: _Part) -> bool:
    """Whether two parts are of one object, by what their tiles both show."""
    both, band = first.shared(second), _meet(first.window, second.window)
    if not both or band is None:
        return False
    less, more = sorted((first.area_in(band), second.area_in(band)))
    return both >= SAME * less and (first.cut or second.cut or both >= SAME * more)


def _meet(first: Box, second: Box) -> Box | None:
    """Where two boxes x0, y0, x1, y1 overlap."""
    x0, y0, x1, y1 = (*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _resolve(group: list[_Part]) -> list[Placed]:
    """The objects of linked parts: mostly one."""
    whole = sorted((part for part in group if not part.cut), key=lambda part: -part.found.score)
    kept: list[_Part] = []
    for part in whole:
        if not any(other.shared(part) >= SAME * part.area for other in kept):
            kept.append(part)
    rest = [part for part in group if part.cut and not any(other.shared(part) >= SAME * part.area for other in kept)]
    best = max(part.found.score for part in group)
    objects = [replace(part.found, score=best) if len(kept) == 1 and not rest else part.found for part in kept]
    return objects + [_united(some) for some in (_linked(rest) if kept else [rest]) if some]


def _united(parts: list[_Part]) -> Placed:
    """The union of parts, with the best score among them."""
    largest = max(parts, key=lambda part: part.area)
    if len(parts) == 1:
        return largest.found
    boxes = np.array([part.box for part in parts])
    (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    bits = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        x0, y0, x1, y1 = part.box
        bits[y0 - top : y1 - top, x0 - left : x1 - left] |= part.bits
    best = max(part.found.score for part in parts)
    return replace(largest.found, score=best, rle=masks.encode(bits[None], (int(left), int(top)))[0])


def suppress(best_first: Sequence[Placed], overlap: float, per_class: bool = False) -> list[Placed]:
    """Drop each mask that overlaps a kept one before it, as :func:`score.detections.suppress`, but of a whole raster.

    Args:
        best_first: objects.
        overlap: the greatest IoU of two that are kept; 1 keeps all.
        per_class: compare masks of the same name only.
    """
    if overlap >= 1 or not best_first:
        return list(best_first)
    shapes = [_Shape(item.rle) for item in best_first]
    tree = shapely.STRtree(shapely.box(*np.array([shape.box for shape in shapes], dtype=float).T))
    pairs = np.sort(tree.query(tree.geometries).T, axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)  # the better first, those of the best first
    dropped = np.zeros(len(best_first), bool)
    for better, worse in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if dropped[better] or dropped[worse] or (per_class and best_first[better].label != best_first[worse].label):
            continue
        both = shapes[better].shared(shapes[worse])
        dropped[worse] = both > overlap * (shapes[better].area + shapes[worse].area - both)
    return [item for item, gone in zip(best_first, dropped, strict=True) if not gone]
