"""Find objects in rasters of any size by their names: tile by tile, joined again, on the ground."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from score import masks
from score.errors import ConfigError, DataError, OutputError
from score.files import write_whole
from score.geo import merge, tiles
from score.geo.outlines import trace
from score.geo.raster import Raster
from score.geo.tiles import Tile
from score.masks import RLE
from score.model.score import Regions
from score.model.towers.base import Scene
from score.segmenter import View, Words, as_words, check_choice

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from score.geo.merge import Placed
    from score.model.vocabulary import Vocabulary
    from score.result import Found
    from score.segmenter import Segmenter

FACTS = "tiles.json"
SURE = 0.05  # of regions kept: a score is at most this, so one below cannot be asked for
PART = 0.5  # of a threshold, from which on a tile's view of an object may be joined with others


@dataclass
class Progress:
    """How far the looking at tiles is.

    Attributes:
        tiles: of the raster.
        done: of these, empty and failed ones among them.
        before: that an earlier run had done.
        empty: those without any data.
        failed: what was wrong with tiles that could not be read.
        seconds: since the beginning.
    """

    tiles: int
    done: int = 0
    before: int = 0
    empty: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def eta(self) -> float:
        """Seconds that are left at this pace."""
        now = self.done - self.before
        return (self.tiles - self.done) * self.seconds / now if now else float("nan")


class TileStore:
    """What a model made of each tile, in a folder: a file a tile, whole or not there.

    Args:
        folder: made if missing; None for a temporary one, gone with this object.
        facts: what the tiles depend on.
        overwrite: begin anew where they depend on something else.

    Raises:
        OutputError: the folder holds tiles that depend on something else, or cannot be written.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, Any], overwrite: bool = False) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="score-tiles-") if folder is None else None
        self.folder = Path(folder or self._temporary.name)  # type: ignore[union-attr]
        facts, file = json.loads(json.dumps(facts)), self.folder / FACTS
        if file.exists():
            try:
                known = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                known = {}
            differ = sorted(key for key in {*known, *facts} if known.get(key) != facts.get(key))
            if differ and not overwrite:
                raise OutputError(
                    f"{self.folder} holds tiles of another {', '.join(differ)}; set overwrite=true to replace them, or "
                    "choose another output"
                )
            if differ:
                for path in self.folder.glob("*/*.npz"):
                    path.unlink()
        write_whole(file, lambda partial: partial.write_text(json.dumps(facts), encoding="utf-8"))

    def path(self, tile: Tile) -> Path:
        """The file of a tile."""
        return self.folder / str(tile.row) / f"{tile.column}.npz"

    def __contains__(self, tile: Tile) -> bool:
        return self.path(tile).exists()

    def save(self, tile: Tile, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what was made of a tile; no arrays say that it is empty."""

        def write(partial: Path) -> None:
            with partial.open("wb") as file:  # np.savez would add a suffix to a name
                np.savez(file, **arrays)  # type: ignore[arg-type]

        write_whole(self.path(tile), write)

    def load(self, tile: Tile) -> dict[str, NDArray[Any]]:
        """What was kept of a tile.

        Raises:
            OutputError: its file is damaged.
        """
        try:
            with np.load(self.path(tile), allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # zipfile, zlib and NumPy each raise their own
            raise OutputError(f"{self.path(tile)} is damaged; delete it, and run the same command again") from error


class RasterView:
    """A raster as a model sees it: any words can be asked of it without running the network again.

    Made by :meth:`Segmenter.look_raster`.

    Attributes:
        raster: what was looked at.
        tiles: those that could be read.
        progress: what came of all.
    """

    def __init__(
        self, segmenter: Segmenter, raster: Raster, plan: Sequence[Tile], store: TileStore, progress: Progress
    ) -> None:
        self.segmenter, self.raster, self.progress, self._store = segmenter, raster, progress, store
        self.tiles = [tile for tile in plan if tile in store]

    def ask(self, words: Words, *, vectors: Mapping[str, Any] | None = None, **choice: Any) -> GeoDataFrame:
        """Find what words name, as polygons in the raster's CRS.

        Args:
            words: as :meth:`find` takes them.
            vectors: as :func:`score.geo.vectors.frame` takes them: ``tolerance_m``, ``min_area_m2``, ``oriented``.
            choice: as :meth:`find` takes it.

        Raises:
            ConfigError: as :meth:`find`.
        """
        return self.frame(self.find(words, **choice), **(vectors or {}))

    def frame(self, found: Sequence[Placed], **vectors: Any) -> GeoDataFrame:
        """Objects of :meth:`find` as polygons; ``vectors`` as :func:`score.geo.vectors.frame` takes them."""
        from score.geo.vectors import frame

        facts = {"source": self.raster.source, "model": self.segmenter.model.weights, "date": self.raster.date}
        return frame(found, self.raster.grid, **facts, **vectors)

    def find(
        self,
        words: Words,
        *,
        score: float | None = None,
        overlap: float = 0.5,
        min_area: int = 16,
        per_class: bool = False,
        weak: float = 1.0,
    ) -> list[Placed]:
        """Find what words name.

        Parts of objects that tiles cut are joined by :func:`score.geo.merge.merge`. A part counts from half its word's
        threshold on, so that an object is not cut where one tile is less sure of it; an object counts from all of it.

        Args:
            words: as :meth:`View.ask` takes them; so are ``score``, ``overlap``, ``min_area`` (in pixels of the
                raster's grid) and ``per_class``.
            weak: the share of its word's threshold from which on an object counts; 0.1 gives what lies below, too.

        Returns:
            Objects best first, with masks in the pixels of the raster's grid.

        Raises:
            ConfigError: there is no word, an empty one, one said twice, what is no word, or a number out of bounds.
        """
        names = as_words(words)
        check_choice(score, None, overlap, min_area)
        vocabulary = self.segmenter.vocabulary(names)
        seen = vocabulary.seen[: len(names)].tolist()
        least = [weak * value for value in self.segmenter.least(seen, score)]
        parts: list[Placed] = []
        for tile in self.tiles:
            found = self._ask(tile, vocabulary, names, seen, least)
            best_first = sorted(found, key=lambda item: -item.score / max(least[item.label], 1e-9))
            parts += merge.suppress(merge.place(best_first, tile), overlap, per_class)
        grid = self.raster.grid
        whole = merge.merge(parts, {(tile.row, tile.column): tile.window for tile in self.tiles}, grid[:2])
        kept = [item for item in whole if item.score >= least[item.label] and item.area >= min_area]
        if self.raster.area is not None:
            kept = [item for item, inside in zip(kept, self._touches(kept), strict=True) if inside]
        kept.sort(key=lambda item: (-item.score / max(least[item.label], 1e-9), item.box))
        return merge.suppress(kept, overlap, per_class)

    def _ask(
        self, tile: Tile, vocabulary: Vocabulary, names: Sequence[str], seen: Sequence[bool], least: Sequence[float]
    ) -> Iterator[Found]:
        from score.result import Found

        kept = self._store.load(tile)
        if not kept:
            return
        device = self.segmenter.model.device
        class_embed, region_embed = (
            torch.from_numpy(kept[key]).float().to(device)[None] for key in ("class_embed", "region_embed")
        )
        scene = None
        if "scene" in kept:
            scene = Scene(*(torch.from_numpy(kept[key]).float().to(device)[None] for key in ("scene", "patches")))
        nothing = class_embed.new_zeros(1, class_embed.shape[1], 0, 0)
        regions = Regions(nothing, class_embed, region_embed, scene, (0, 0), [(0, 0)])
        for query, label, chance in self.segmenter.compare(regions, vocabulary, least):
            value = chance * float(kept["sure"][query])
            if value >= PART * least[label]:
                size, offset, counts = kept["size"][query], kept["offset"][query], str(kept["counts"][query])
                rle = RLE(size=size.tolist(), counts=counts, offset=offset.tolist())
                yield Found(label, value, rle, names[label], seen[label])

    def _touches(self, found: Sequence[Placed]) -> NDArray[np.bool_]:
        """Which objects lie in the area of interest, or reach into it."""
        x, y, width, height = np.array([item.box for item in found], dtype=float).reshape(-1, 4).T
        boxes = shapely.box(x, y, x + width, y + height)
        touched: NDArray[np.bool_] = shapely.intersects(boxes, self.raster.area)
        unsure = np.flatnonzero(touched & ~shapely.covered_by(boxes, self.raster.area)).tolist()
        touched[unsure] = shapely.intersects(trace([found[index].rle for index in unsure]), self.raster.area)
        return touched


def look(
    segmenter: Segmenter,
    raster: Raster,
    *,
    size: int,
    overlap: int,
    batch_size: int,
    folder: Path | None,
    facts: Mapping[str, Any],
    overwrite: bool,
    report: Callable[[Progress], None],
) -> RasterView:
    """Run the network over the tiles of a raster that have not been looked at; see :meth:`Segmenter.look_raster`."""
    grid = raster.grid
    plan = tiles.plan(grid.width, grid.height, size, overlap, raster.area)
    facts = {**facts, **raster.facts, "tiles": [size, overlap], "resize": list(segmenter.resize)}
    store = TileStore(folder, facts, overwrite)
    todo = [tile for tile in plan if tile not in store]
    progress = Progress(len(plan), done=len(plan) - len(todo), before=len(plan) - len(todo))
    begin = time.perf_counter()

    def read(tile: Tile) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | DataError:
        try:
            return raster.read(tile.window)
        except DataError as error:
            return error

    with ThreadPoolExecutor(1) as pool:  # the next batch is read while the network runs
        waiting = pool.map(read, todo[:batch_size])
        for start in range(0, len(todo), batch_size):
            current, got = todo[start : start + batch_size], list(waiting)
            waiting = pool.map(read, todo[start + batch_size : start + 2 * batch_size])
            useful = []
            for tile, item in zip(current, got, strict=True):
                if isinstance(item, DataError):
                    progress.failed.append(f"the tile at {tile.window[:2]}: {item}")
                elif not item[1].any():
                    store.save(tile, {})
                    progress.empty += 1
                else:
                    useful.append((tile, *item))
            for tile, arrays in _look(segmenter, useful):
                store.save(tile, arrays)
            progress.done += len(current)
            progress.seconds = time.perf_counter() - begin
            report(progress)
    if len(progress.failed) == len(plan):
        raise DataError(f"{raster.source}: no tile can be read; {progress.failed[0]}")
    return RasterView(segmenter, raster, plan, store, progress)


@torch.no_grad()
def _look(
    segmenter: Segmenter, batch: Sequence[tuple[Tile, NDArray[np.uint8], NDArray[np.bool_]]]
) -> Iterator[tuple[Tile, dict[str, NDArray[Any]]]]:
    """The network on tiles, those of one size at once."""
    views = segmenter.look_together([pixels for _, pixels, _ in batch])
    for (tile, _, valid), view in zip(batch, views, strict=True):
        yield tile, _kept(view, valid, segmenter.model.gca is not None)


def _kept(view: View, valid: NDArray[np.bool_], scene: bool) -> dict[str, NDArray[Any]]:
    """What words can be asked of later: regions that the model trusts, on data, and the scene if words need it."""
    regions, shown = view.regions, view.regions.shown(0)
    if regions.quality is not None:  # masks that cannot be sure enough need not be made
        shown = shown[regions.quality[0, shown] >= SURE**2]
    rles, sure = view.windows(shown.tolist())
    if not valid.all():
        rles = [_where(rle, valid) for rle in rles]
    good = [index for index, rle in enumerate(rles) if sure[index] >= SURE and masks.area(rle)]
    rles, queries = [rles[index] for index in good], shown[good]
    kept = {
        "class_embed": regions.class_embed[0, queries].half().cpu().numpy(),
        "region_embed": regions.region_embed[0, queries].half().cpu().numpy(),
        "sure": np.array([sure[index] for index in good], np.float32),
        "size": np.array([rle["size"] for rle in rles], np.int32).reshape(-1, 2),
        "offset": np.array([rle.get("offset", (0, 0)) for rle in rles], np.int32).reshape(-1, 2),
        "counts": np.array([rle["counts"] for rle in rles], dtype=np.str_),
    }
    if scene and regions.scene is not None:
        kept["scene"] = regions.scene.embed[0].float().cpu().numpy()
        kept["patches"] = regions.scene.patches[0].half().cpu().numpy()
    return kept


def _where(rle: RLE, valid: NDArray[np.bool_]) -> RLE:
    """A mask without what is no data."""
    (rows, columns), bits = masks.part(rle)
    return masks.trim(masks.encode((bits & valid[rows, columns])[None], (columns.start, rows.start))[0])


def tile_size(raster: Raster, size: int | None, size_m: float | None, overlap: int | None) -> tuple[int, int]:
    """A tile's side and the overlap in pixels.

    Args:
        raster: of the tiles.
        size: of a side in pixels of the raster's grid.
        size_m: the same in metres on the ground, in place of ``size``.
        overlap: in pixels; None for a quarter of a side.

    Raises:
        ConfigError: metres of a raster without CRS, or what is no size.
    """
    if size_m is not None:
        if not 0 < size_m < math.inf:
            raise ConfigError(f"tile_m={size_m}: not a number of metres above 0")
        if raster.grid.crs is None:
            raise ConfigError(f"tile_m={size_m}: {raster.source} has no CRS, so its pixels have no size in metres")
        size = round(size_m / max(raster.grid.gsd))
    side = 512 if size is None else size
    for name, value in (("tile", side), ("tile_overlap", overlap or 0)):
        if not isinstance(value, int):
            raise ConfigError(f"{name}={value}: not a whole number")
    return side, side // 4 if overlap is None else overlap
