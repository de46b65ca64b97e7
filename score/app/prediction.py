"""Image files in; pictures and one COCO JSON out, written as it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

import score
from score import runtime
from score.data.coco_json import categories
from score.data.images import RASTERS, SUFFIXES, read_image
from score.errors import ConfigError, DataError, OutputError
from score.files import (
    append_line,
    check_writable,
    is_address,
    is_catalogue,
    is_database,
    json_lines,
    locked,
    write_whole,
)
from score.result import Result
from score.segmenter import Segmenter, View
from score.weights import folder, known

PICTURES, JSON, LINES = "pictures", "predictions.json", "predictions.jsonl"
LEDGER = "rasters.json"
KINDS = (*SUFFIXES, *RASTERS)
CHOICE = ("score", "top_k", "overlap", "min_area", "per_class")


class Done(NamedTuple):
    """What predicting some images came to.

    Attributes:
        counts: objects found, by word, now and before.
        images: how many were segmented now.
        before: how many had been, in an earlier run.
        failed: what was wrong with each image that could not be read.
        seconds: the time it took, pictures included.
    """

    counts: Counter[str]
    images: int
    before: int
    failed: list[str]
    seconds: float


def find_images(source: str | Sequence[str], output: Path | None = None) -> list[Path | str]:
    """List what is to be looked at: a file, a folder's files, those that a pattern names, an address, or several; once.

    Of a folder and a pattern, without the pictures that an earlier run has written of rasters to ``output``.

    Raises:
        DataError: a file is missing, or a folder or pattern holds no image.
    """
    found, made = list[Path | str](), _made(output) if output is not None else set[Path]()

    def is_image(path: Path) -> bool:
        return path.is_file() and path.resolve() not in made

    for item in [source] if isinstance(source, str) else source:
        path = Path(item)
        if is_address(item):
            found.append(item)
        elif path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in KINDS and is_image(each))
            if not inside:
                raise DataError(f"{item}: no image in this folder; it needs {', '.join(KINDS)} files")
            found += inside
        elif path.exists():
            found.append(path)
        elif matching := sorted(each for each in map(Path, glob.glob(item, recursive=True)) if is_image(each)):
            found += matching
        else:
            raise DataError(f"{item}: no such image")
    if not found:
        raise DataError("images: none given; name files or a folder, as in images=[a.jpg,b.jpg]")
    once = dict[Path | str, Path | str]()
    for each in found:
        place = each if isinstance(each, str) else each.parent.resolve() / each.name
        if place not in once or len(str(each)) < len(str(once[place])):  # a folder may lie in itself, by a link
            once[place] = each
    return list(once.values())


def _made(output: Path) -> set[Path]:
    """The files that an earlier run has written of rasters."""
    try:
        files = json.loads((output / LEDGER).read_text(encoding="utf-8"))["files"]
        return {(output / name).resolve() for names in files.values() for name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # what is damaged is said before it is used
        return set()


def sort_out(images: Sequence[Path | str]) -> tuple[list[Path], list[Path | str]]:
    """Tell photographs from rasters; what cannot be read counts as a photograph, whose reader says what is wrong."""
    needed = [each for each in images if is_address(each) or Path(each).suffix.lower() in RASTERS]
    maybe = [*needed, *(each for each in images if Path(each).suffix.lower() in (".tif", ".tiff"))]
    if not maybe or not (needed or find_spec("rasterio")):  # without GDAL a plain TIFF is still a photograph
        return [Path(each) for each in images], []
    from score.geo.raster import is_raster

    rasters: list[Path | str] = []
    for each in dict.fromkeys(maybe):
        with contextlib.suppress(DataError):
            rasters += [each] if is_raster(each) else []
    return [Path(each) for each in images if each not in rasters], [each for each in images if each in rasters]


def of_scenes(settings: Mapping[str, Any]) -> bool:
    """Whether settings of ``score predict`` ask for one table of many scenes: by a catalogue, an engine, a database."""
    return is_catalogue(settings["images"]) or settings["engine"]["kind"] != "local" or is_database(settings["output"])


def load_segmenter(settings: Mapping[str, Any]) -> Segmenter:
    """The model that settings of ``score predict`` name, on its device.

    Raises:
        ConfigError: there is no such device, or a change to the model makes no sense, or nothing can be compiled here.
        WeightsError: the model is missing or damaged.
    """
    device = runtime.select_device(settings["runtime"]["device"], settings["runtime"]["threads"])
    model, _ = folder.load(known.find(settings["model"]), device, settings["overrides"])
    model.lower_towers(runtime.tower_precision(settings["runtime"]["towers"], device))
    if settings["runtime"]["compile"]:
        model.compile_parts(decoders=True)
    given = {key: float(value) for key, value in settings["ensemble"].items() if value is not None}
    return Segmenter(model, ensemble=dataclasses.replace(model.ensemble, **given), **settings["resize"])


def check_picture(picture: str | None) -> None:
    """Refuse a format that pictures are not written in.

    Raises:
        ConfigError: it is neither jpg, png nor None.
    """
    if picture not in (None, "jpg", "png"):
        raise ConfigError(f"picture={picture}: not a format; use jpg, png or null")


def check_output(folder: Path, images: Sequence[Path] = ()) -> None:
    """Make sure, without writing anything, that a folder can be written to and no image of the input is replaced.

    Raises:
        OutputError: it cannot, or one would be.
    """
    check_writable(folder)
    pictures = (folder / PICTURES).resolve()
    if any(path.resolve().parent == pictures for path in images):
        raise OutputError(f"output {folder}: its pictures would replace the images; choose another folder")


class Journal:
    """``predictions.jsonl``: a line of settings, then a line an image, appended as each is done.

    A line that was cut off is dropped, so what had been done before an interruption counts and nothing else does.

    Args:
        folder: where it is, or will be once an image is done.
        settings: what predictions depend on.
        overwrite: begin anew where there is one.

    Raises:
        OutputError: the folder holds predictions made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder, self.path, self.settings = folder, folder / LINES, json.loads(json.dumps(settings))
        self.done: dict[str, str | None] = {}  # file names, and the pictures made of them
        self.counts: Counter[int] = Counter()  # objects by category
        lines, known, done = json_lines(self.path), self.settings, dict[str, str | None]()
        with contextlib.suppress(*[OutputError] * overwrite):  # one that is damaged can be overwritten
            known = next(lines, self.settings)
            for item in lines:
                done[item["image"]["file_name"]] = item["image"].get("picture")
                self.counts.update(each["category_id"] for each in item["annotations"])
        if overwrite:
            for name in (JSON, LINES, *filter(None, done.values())):
                (folder / name).unlink(missing_ok=True)
            self.counts.clear()
            return
        if not done and (folder / JSON).exists():
            raise OutputError(f"{folder} holds a {JSON} without its {LINES}; set overwrite=true or another output")
        differ = sorted(key for key in {*known, *self.settings} if known.get(key) != self.settings.get(key))
        if differ:
            raise OutputError(
                f"{folder} holds predictions with another {', '.join(differ)}; set overwrite=true to replace them, "
                "or choose another output"
            )
        self.done = done

    def add(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        """Append an image that is done."""
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, json.dumps(self.settings))
        append_line(self.path, json.dumps({"image": image, "annotations": annotations}, ensure_ascii=False))
        self.done[image["file_name"]] = image.get("picture")
        self.counts.update(each["category_id"] for each in annotations)

    def fold(self, words: Sequence[str]) -> None:
        """Write ``predictions.json``, a COCO dataset of all that is done, never holding more than one image of it."""
        head = {
            "info": {"description": f"predictions of SCORE {score.__version__}", **self.settings},
            "licenses": [],
            "categories": categories(words),
        }

        def annotations() -> Iterator[dict[str, Any]]:
            for number, item in enumerate(self._images(), start=1):
                yield from ({**each, "image_id": number} for each in item["annotations"])

        def write(partial: Path) -> None:
            images = ({"id": number, **item["image"]} for number, item in enumerate(self._images(), start=1))
            numbered = ({**each, "id": number} for number, each in enumerate(annotations(), start=1))
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(head, ensure_ascii=False)[:-1])
                _write_list(file, "images", images)
                _write_list(file, "annotations", numbered)
                file.write("}\n")

        write_whole(self.folder / JSON, write)

    def _images(self) -> Iterator[dict[str, Any]]:
        lines = json_lines(self.path)
        next(lines)  # the settings
        return lines


def _write_list(file: TextIO, key: str, items: Iterator[Mapping[str, Any]]) -> None:
    file.write(f', "{key}": [')
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item, ensure_ascii=False))
    file.write("]")


def predict(
    segmenter: Segmenter,
    words: Sequence[str],
    images: Sequence[Path],
    output: Path,
    settings: Mapping[str, Any],
    report: Callable[[Path, Result | DataError], None] = lambda path, result: None,
) -> Done:
    """Segment images and write ``output/predictions.json`` and ``output/pictures/``.

    Every image is written as it is done; a second call with the same settings does what is left. An image that cannot
    be read is reported, and the others go on.

    Args:
        segmenter: what segments.
        words: to look for.
        images: files.
        output: a folder; made if missing.
        settings: ``score``, ``top_k``, ``overlap``, ``min_area`` and ``per_class`` as :meth:`Segmenter.segment` takes
            them, ``picture`` (jpg, png or None), ``overwrite``, ``batch_size``, and
            ``weights``, which says what the model is.
        report: called after each image with what was found, or with what is wrong with it.

    Raises:
        ConfigError: the words cannot be asked.
        DataError: no image could be read.
        OutputError: the folder cannot be written to, or holds predictions made with other settings.
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in images]))
    choice = {key: settings[key] for key in CHOICE}
    model = segmenter.model
    facts = {
        "weights": settings["weights"], "vocabulary": list(words), "images": str(root), **choice,
        "thresholds": model.calibration._asdict(), "ensemble": asdict(segmenter.ensemble),
        "resize": list(segmenter.resize), "picture": settings["picture"], "towers": model.towers_in,
    }  # fmt: skip
    check_output(output, images)
    segmenter.vocabulary(list(words))  # refused, if at all, before anything is written
    with locked(output):
        return _predict(segmenter, words, images, output, facts, settings, report)


def _predict(
    segmenter: Segmenter,
    words: Sequence[str],
    images: Sequence[Path],
    output: Path,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    report: Callable[[Path, Result | DataError], None],
) -> Done:
    start = time.perf_counter()
    journal, choice = Journal(output, facts, settings["overwrite"]), {key: settings[key] for key in CHOICE}
    taken = {Path(picture).stem.lower() for picture in journal.done.values() if picture}
    before, failed, done = len(journal.done), [], 0
    names = {path: path.absolute().relative_to(facts["images"]).as_posix() for path in images}
    todo = [path for path in images if names[path] not in journal.done]
    for path, view in _views(segmenter, todo, names, settings["batch_size"]):
        if isinstance(view, DataError):
            failed.append(str(view))
            report(path, view)
            continue
        name, result = names[path], view.ask(list(words), **choice)
        coco = result.to_coco(name)
        image = {key: value for key, value in coco["images"][0].items() if key != "id"}
        if settings["picture"]:
            image["picture"] = f"{PICTURES}/{_title(path.stem, taken)}.{settings['picture']}"
            result.save(output / image["picture"])
        output.mkdir(parents=True, exist_ok=True)
        journal.add(image, coco["annotations"])
        done += 1
        report(path, result)
    if not journal.done:
        raise DataError(failed[0] if len(failed) == 1 else f"none of {len(failed)} images can be read: {failed[0]}")
    journal.fold(words)
    counts = Counter({word: journal.counts[number] for number, word in enumerate(words, start=1)})
    return Done(counts, done, before, failed, time.perf_counter() - start)


def _views(
    segmenter: Segmenter, paths: Sequence[Path], names: Mapping[Path, str], count: int
) -> Iterator[tuple[Path, View | DataError]]:
    """Images as the model sees them, in their order, the next ``count`` of them read while the network runs."""

    def read(path: Path) -> NDArray[np.uint8] | DataError:
        try:
            if not names[path].isprintable():  # bytes that are no UTF-8: neither a JSON nor a terminal can hold them
                raise DataError(f"{names[path]!a}: its name is not UTF-8; rename it")
            return read_image(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.map(read, paths[:count])
        for start in range(0, len(paths), count):
            got = list(waiting)
            waiting = pool.map(read, paths[start + count : start + 2 * count])
            views = iter(segmenter.look_together([each for each in got if not isinstance(each, DataError)]))
            for path, each in zip(paths[start : start + count], got, strict=True):
                yield path, each if isinstance(each, DataError) else next(views)


def _title(stem: str, taken: set[str]) -> str:
    """A file name without suffix for a picture; equal ones are numbered."""
    title, number = stem, 2
    while title.lower() in taken:  # lower: some file systems do not tell case
        title, number = f"{stem}_{number}", number + 1
    taken.add(title.lower())
    return title
