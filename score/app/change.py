"""Say what changed: ``score change before=A after=B "vocabulary=[ship,'storage tank']" output=DIR``.

A and B are rasters of two dates, or vector files of objects that were found in them; images=[A,B,C] is a series.
Writes vectors and a picture: what appeared, vanished, has grown, shrunk, or is the same; of a series, tracks.
"""

from __future__ import annotations

import contextlib
import itertools
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from tabulate import tabulate

from score.app.command import command, plain
from score.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from PIL.Image import Image
    from shapely.geometry.base import BaseGeometry

    from score.app.dates import Date
    from score.geo.change import Changes

FORMATS = ("gpkg", "parquet", "fgb", "geojson", "shp")
PICTURE = 2400  # pixels of all dates' longer sides together
EMPTY = 44  # grey of ground without an image
PANELS = 4  # dates of a series that a picture shows


@command("commands/change")
def main(config: DictConfig) -> None:
    from score.app import dates as given  # not before the settings have been read: PyTorch takes seconds
    from score.app import prediction
    from score.app.words import read_words
    from score.engine import checks
    from score.geo.change import changes, tracks
    from score.geo.matching import Rules

    above = checks.POSITIVE._replace(least=1)
    checks.check_numbers(
        config, iou=checks.SHARE, inside=checks.SHARE, weak=checks.SHARE, grow=above, displacement=checks.POSITIVE,
        max_shift=checks.POSITIVE, gap=checks.FROM_0,
    )  # fmt: skip
    settings = plain(config)
    _check_choices(settings)
    prediction.check_picture(settings["picture"])
    words = None if settings["vocabulary"] is None else read_words(settings["vocabulary"])
    output = Path(settings["output"])
    dates = given.open_dates(_paths(settings), settings["dates"], settings["gsd_m"])
    targets = _targets(settings, output, "changes" if len(dates) == 2 else "tracks")
    area = _area(settings["area"], dates)
    given.check_overlap(dates, area)
    images = [date for date in dates if date.raster is not None]
    if images and not words:
        raise ConfigError("vocabulary: not given; add what to look for in the images, as in vocabulary=[ship,pier]")
    phase, told = settings["align"] == "phase", []
    if phase and len(images) == len(dates):
        told = given.align(dates, settings["max_shift"])  # before the network, which takes longer
    for date in dates:
        _select(date, words, settings)
    if images:
        _find(images, words or [], settings)
    if phase and len(images) < len(dates):
        told = given.align(dates, settings["max_shift"])
    ground = given.common_ground(dates, area)
    rules = Rules(**{key: settings[key] for key in ("iou", "inside", "grow", "displacement", "weak", "per_class")})
    frames, shifts = [date.found for date in dates], [date.shift for date in dates]
    print(*told, sep="\n", end="\n" * bool(told))
    if len(dates) == 2:
        done = changes(*frames, shift=shifts[1], area=ground, rules=rules)
        print(_by_class(done.table))
    else:
        titles = [date.title for date in dates]
        done = tracks(frames, titles, shifts=shifts, area=ground, gap=settings["gap"], rules=rules)
        print(_by_date(done.table, titles))
    if done.edge:
        print(f"{done.edge} outlines that the edge of the common ground cuts were not judged")
    _write(done, dates, ground, targets)
    print(f"saved in {output}: {', '.join(path.name for path in targets)}")


def _check_choices(settings: Mapping[str, Any]) -> None:
    for key, choices in (("format", FORMATS), ("align", ("phase", "crs"))):
        if settings[key] not in choices:
            raise ConfigError(f"{key}={settings[key]}: no such choice; use {', '.join(choices)}")


def _paths(settings: Mapping[str, Any]) -> list[str]:
    """The dates, oldest first."""
    pair = [settings[key] for key in ("before", "after") if settings[key] is not None]
    if settings["images"] is not None:
        if pair:
            raise ConfigError("images: given with before or after; give either the two, or a series")
        several = settings["images"]
        return [several] if isinstance(several, str) else list(several)
    if len(pair) == 1:
        missing = "after" if settings["after"] is None else "before"
        raise ConfigError(f"{missing}: not given; add {missing}=VALUE")
    return pair


def _targets(settings: Mapping[str, Any], output: Path, stem: str) -> list[Path]:
    """The files to be written."""
    from score.files import check_writable

    targets = [output / f"{stem}.{suffix}" for suffix in (settings["format"], settings["picture"]) if suffix]
    check_writable(output)
    there = [path.name for path in targets if path.exists()]
    if there and not settings["overwrite"]:
        raise OutputError(f"{output} holds {' and '.join(there)}; set overwrite=true, or choose another output")
    return targets


def _area(area: Any, dates: Sequence[Date]) -> BaseGeometry | None:
    """The area of interest in the first date's CRS."""
    from score.geo.area import read_area
    from score.geo.matching import wkt

    if isinstance(area, list):
        with contextlib.suppress(ValueError):  # what is no number is refused there
            area = [float(value) for value in area]
    return None if area is None else read_area(area, wkt(dates[0].crs))


def _select(date: Date, words: Sequence[str] | None, settings: Mapping[str, Any]) -> None:
    """Of a file of objects, the classes asked for; each with the least score."""
    if date.objects is None:
        return
    if words is not None:
        date.objects = date.objects[date.objects["class"].isin(words)]
    date.objects = date.objects.assign(least=settings["score"] or 0.0)


def _find(dates: Sequence[Date], words: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Run the network over rasters, for objects down to what may be a counterpart."""
    import numpy as np

    from score import runtime
    from score.segmenter import Segmenter
    from score.weights import folder, known

    device = runtime.select_device(settings["runtime"]["device"], settings["runtime"]["threads"])
    model, _ = folder.load(known.find(settings["model"]), device, [])
    segmenter = Segmenter(model)
    own, score = model.calibration, settings["score"]
    lowest = settings["weak"] * (min(own.seen, own.unseen) if score is None else score)
    for date in dates:
        assert date.raster is not None
        frame = segmenter.predict_raster(date.raster, list(words), score=lowest, tile=settings["tile"])
        least = np.where(frame["seen"].astype(bool), own.seen, own.unseen) if score is None else score
        date.objects = frame.assign(least=least)
        print(f"{date.title}: {int((frame['score'] >= date.objects['least']).sum())} objects", flush=True)


def _by_class(table: GeoDataFrame) -> str:
    """How many of each class and status."""
    from score.geo.change import STATUSES

    counts = Counter(zip(table["class"], table["status"], strict=True))
    rows = [[name, *(counts[name, status] for status in STATUSES)] for name in sorted(set(table["class"]))]
    return _table(["class", *STATUSES], rows, total=True)


def _by_date(table: GeoDataFrame, titles: Sequence[str]) -> str:
    """What became of objects from date to date, and how many tracks there are."""
    from score.geo.change import STATUSES

    counts = Counter(zip(table["date"], table["status"], strict=True))
    gone = _gone(table, titles)
    rows = []
    for title in titles:
        each = {status: counts[title, status] for status in STATUSES} | {"vanished": gone[title]}
        rows.append([title, int((table["date"] == title).sum()), *each.values()])
    first = table.drop_duplicates("track")
    classes = ", ".join(f"{count} {name}" for name, count in sorted(Counter(first["class"]).items())) or "nothing"
    return f"{_table(['date', 'objects', *STATUSES], rows)}\n{textwrap.fill(f'tracks: {classes}', 80)}"


def _gone(table: GeoDataFrame, titles: Sequence[str]) -> Counter[str]:
    """How many objects are not seen any more from each date on."""
    last = Counter(table.drop_duplicates("track")["last"])
    return Counter({later: last[title] for title, later in itertools.pairwise(titles)})


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]], total: bool = False) -> str:
    """Columns that fit into 80 characters."""
    room = 80 - sum(2 + max(8, len(head)) for head in heads[1:])
    body = [[textwrap.shorten(str(row[0]), room, placeholder="\N{HORIZONTAL ELLIPSIS}"), *row[1:]] for row in rows]
    if total:
        body.append(["in all", *(sum(row[column] for row in rows) for column in range(1, len(heads)))])
    return tabulate(body, heads, tablefmt="plain", disable_numparse=[0])


def _write(done: Changes, dates: Sequence[Date], ground: BaseGeometry | None, targets: Sequence[Path]) -> None:
    """The vectors, and the picture where one is asked for."""
    from score.files import write_whole
    from score.geo.change_picture import COLOURS
    from score.geo.styles import qml
    from score.geo.vectors import write

    vectors, *pictures = targets
    drawing = _draw(done, dates, ground) if pictures else None
    style = qml(list(COLOURS), "status", list(COLOURS.values()))
    write(done.table, vectors, layer=vectors.stem, style=style)
    if drawing is not None:
        kind = "JPEG" if pictures[0].suffix == ".jpg" else "PNG"
        write_whole(pictures[0], lambda partial: drawing.save(partial, format=kind, quality=92))


def _draw(done: Changes, dates: Sequence[Date], ground: BaseGeometry | None) -> Image:
    """The dates side by side, at most four of a series; ground without an image is dark."""
    import numpy as np
    from affine import Affine

    from score.app.dates import shown
    from score.geo.change import VANISHED
    from score.geo.change_picture import Panel, picture
    from score.geo.registration import reading

    table, titles = done.table, [date.title for date in dates]
    chosen = np.unique(np.linspace(0, len(dates) - 1, min(len(dates), PANELS)).round().astype(int)).tolist()
    grid = shown(dates, ground, PICTURE // len(chosen))
    panels = []
    for number in chosen:
        date = dates[number]
        pixels = np.full((grid.height, grid.width, 3), EMPTY, np.uint8)
        if date.raster is not None:
            moved = grid._replace(transform=Affine.translation(*date.shift) @ grid.transform)
            pixels, _ = reading(date.raster)(moved)
        if len(dates) == 2:
            here = table[table["after_id" if number else "before_id"].notna()]
            shapes = here.geometry if number else date.found.geometry.iloc[here["before_id"].astype(int)]
            statuses = here["status"].tolist()
        else:
            here = table[table["date"] == date.title]
            shapes = here.geometry
            ends = (here["last"] == date.title) & (number < len(dates) - 1)
            statuses = here["status"].mask(ends, VANISHED).tolist()
        panels.append(Panel(date.title, pixels, shapes.tolist(), statuses))
    counts = Counter(table["status"])
    if len(dates) > 2:
        counts[VANISHED] = sum(_gone(table, titles).values())
    return picture(panels, grid, counts)
