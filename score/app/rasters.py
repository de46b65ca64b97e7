"""Rasters in; vectors, a picture and a map out."""

from __future__ import annotations

import itertools
import json
import os
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from geopandas import GeoDataFrame
from PIL import Image

from score.app.prediction import CHOICE, LEDGER
from score.errors import ConfigError, DataError, OutputError
from score.files import is_address, locked, save_json, write_whole
from score.geo import maps, vectors
from score.geo.merge import Placed
from score.geo.raster import Raster
from score.rasters import Progress, RasterView
from score.segmenter import Segmenter

TILES = "tiles"
FORMATS = ("gpkg", "parquet", "fgb", "geojson", "shp", "json")
READING = ("bands", "stretch", "nodata", "gsd_m", "resampling", "area", "zoom")
LOOKING = ("tile", "tile_m", "tile_overlap", "batch_size")
VECTORS = ("tolerance_m", "min_area_m2", "oriented")
ASKING = tuple(key for key in CHOICE if key != "top_k")


def check_format(suffix: str) -> None:
    """Refuse a format that vectors are not written in.

    Raises:
        ConfigError: naming those that there are.
    """
    if suffix not in FORMATS:
        raise ConfigError(f"format={suffix}: vectors are written as {', '.join(FORMATS)}")


class Ledger:
    """``rasters.json``: what the output was made with, and the files of each raster.

    Args:
        folder: the output.
        settings: what the results depend on.
        overwrite: replace results that were made with other settings.

    Raises:
        OutputError: the folder holds results made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        self.path, self.settings = folder / LEDGER, json.loads(json.dumps(settings))
        self.files: dict[str, list[str]] = {}
        if not self.path.exists():
            return
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            before, self.files = dict(known["settings"]), dict(known["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.path} is damaged; delete it, or choose another output") from error
        differ = sorted(key for key in {*before, *self.settings} if before.get(key) != self.settings.get(key))
        if differ and not overwrite:
            raise OutputError(
                f"{folder} holds results with another {', '.join(differ)}; set overwrite=true to replace them, or "
                "choose another output"
            )
        if differ:
            for path in (folder / Path(name).name for name in itertools.chain(*self.files.values())):
                for each in (path, path.with_suffix(".qml"), path.with_name(f"{path.name}.aux.xml")):
                    each.unlink(missing_ok=True)
            self.files = {}

    def check(self, files: Iterable[Path]) -> None:
        """Refuse to replace files that are not its own.

        Raises:
            OutputError: naming some.
        """
        own = {*itertools.chain(*self.files.values())}
        there = [path.name for path in files if path.name not in own and path.exists()]
        if there:
            raise OutputError(
                f"{self.path.parent} holds {' and '.join(there[:3])}; set overwrite=true, or choose another output"
            )

    def add(self, source: str, files: Iterable[Path]) -> None:
        """Note the files of a raster, before they are written."""
        self.files[source] = [path.name for path in files]
        save_json(self.path, {"settings": self.settings, "files": self.files})


def predict(
    segmenter: Segmenter,
    words: Sequence[str],
    sources: Sequence[str | Path],
    output: Path,
    settings: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Counter[str], list[str], list[str]]:
    """Segment rasters, and write of each ``NAME.gpkg`` (or another format), a picture and a map.

    What the network makes of each tile is kept in ``output/tiles``, so that a second call goes on where the first one
    stopped, and asking other words takes no second pass. A raster that cannot be read is reported, and the others go
    on.

    Args:
        segmenter: what segments.
        words: to look for.
        sources: files and addresses.
        output: a folder; made if missing.
        settings: of ``configs/commands/predict.yaml``.
        say: takes lines: how far it is, and what was found.

    Returns:
        How many of each word were found in all; what was wrong with each raster that cannot be read; and with each tile
        of the others.

    Raises:
        ConfigError: settings that make no sense.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    check_format(settings["format"])
    segmenter.vocabulary(list(words))  # refused, if at all, before anything is written
    shown = ("format", "picture", "map", "class_raster", *READING, *LOOKING, *VECTORS, *ASKING)
    facts = {
        "weights": segmenter.model.weights, "vocabulary": list(words), "ensemble": asdict(segmenter.ensemble),
        "thresholds": segmenter.model.calibration._asdict(), "towers": segmenter.model.towers_in,
        **{key: settings[key] for key in shown},
    }  # fmt: skip
    names = titles(sources)
    files = {name: targets(output / name, settings) for name in names}
    _check_targets([path for each in files.values() for path in each.values()], sources, settings["area"])
    total, failed, damaged = Counter[str](), list[str](), list[str]()
    with locked(output):
        ledger = Ledger(output, facts, settings["overwrite"])
        if not settings["overwrite"]:
            ledger.check(path for each in files.values() for path in each.values())
        for source, name in zip(map(str, sources), names, strict=True):
            try:
                raster = Raster(source, **{key: settings[key] for key in READING})
                say(f"{name} ({_facts(raster)})" + "".join(f"\n  {note}" for note in raster.notes))
                view = segmenter.look_raster(
                    raster,
                    folder=output / TILES / name,
                    overwrite=settings["overwrite"],
                    report=Pace(say),
                    **{key: settings[key] for key in LOOKING},
                )
            except DataError as error:
                failed.append(str(error))
                continue
            found = view.find(list(words), **{key: settings[key] for key in ASKING})
            ledger.add(source, files[name].values())
            table = write(view, found, words, files[name], settings)
            counts = Counter(dict.fromkeys(words, 0) | Counter(table["class"]))
            total += counts
            told = ", ".join(f"{word}: {count}" for word, count in counts.items() if count) or "nothing"
            say(textwrap.fill(f"{_came(view.progress)}; {told}", 80, initial_indent="  ", subsequent_indent="    "))
            damaged += view.progress.failed
    return total, failed, damaged


def _check_targets(files: Sequence[Path], sources: Sequence[str | Path], area: Any) -> None:
    """Refuse to write over what is read."""
    given = [*sources, area] if isinstance(area, str) else sources
    read = {Path(each).resolve() for each in given if not is_address(each)}
    for path in files:
        if path.resolve() in read:
            raise OutputError(f"output {path.parent}: {path.name} there would be replaced; choose another folder")


def _facts(raster: Raster) -> str:
    grid = raster.grid
    size = f"{grid.width} x {grid.height}"
    return size if grid.crs is None else f"{size} pixels of {max(grid.gsd):.3g} m"


def _came(progress: Progress) -> str:
    counted = {"done before": progress.before, "empty": progress.empty, "not readable": len(progress.failed)}
    tiles = "1 tile" if progress.tiles == 1 else f"{progress.tiles} tiles"
    return ", ".join([tiles, *(f"{count} {what}" for what, count in counted.items() if count)])


def write(
    view: RasterView,
    found: Sequence[Placed],
    words: Sequence[str],
    files: Mapping[str, Path],
    settings: Mapping[str, Any],
) -> GeoDataFrame:
    """Write what was found in a raster to ``files``, as `targets` names them; the table of it is returned."""
    table, grid = view.frame(found, **{key: settings[key] for key in VECTORS}), view.raster.grid
    source = os.path.basename(view.raster.source)
    vectors.write(table, files["vectors"], words=words, grid=grid, file_name=source)
    if "picture" in files or "map" in files:
        pixels, _ = view.raster.overview()
        if "picture" in files:
            kind = Image.registered_extensions()[files["picture"].suffix]
            drawn = maps.overview(pixels, grid, table, words=words)
            write_whole(files["picture"], lambda partial: drawn.save(partial, format=kind, quality=92))
        if "map" in files:
            maps.html_map(pixels, grid, table, files["map"], words=words, title=source)
    if "classes" in files:
        vectors.class_raster([found[index] for index in table.index], grid, words, files["classes"])
    return table


def targets(path: Path, settings: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a raster's results; ``path`` has no suffix."""
    suffixes = {
        "vectors": f".{settings['format']}",
        "style": settings["format"] != "json" and ".qml",
        "picture": settings["picture"] and f".{settings['picture']}",
        "map": settings["map"] and ".html",
        "classes": settings["class_raster"] and "_classes.tif",
    }
    return {kind: path.with_name(path.name + suffix) for kind, suffix in suffixes.items() if suffix}


def titles(sources: Iterable[str | Path]) -> list[str]:
    """A file name without suffix for each raster's results; equal ones are numbered."""
    names, taken = list[str](), set[str]()
    for source in map(str, sources):
        path = urlsplit(source).path if "://" in source else source
        stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in Path(path).stem) or "raster"
        name, number = stem, 2
        while name.lower() in taken:  # lower: some file systems do not tell case
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


class Pace:
    """Says how far the tiles of a raster are, every few seconds."""

    def __init__(self, say: Callable[[str], None], every: float = 10) -> None:
        self.say, self.every, self._said = say, every, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Say it, or not yet."""
        now = time.monotonic()
        if now - self._said >= self.every and progress.done < progress.tiles:
            self._said = now
            left = timedelta(seconds=round(progress.eta))
            self.say(f"  {progress.done} of {progress.tiles} tiles in {progress.seconds:.0f} s, {left} left")
