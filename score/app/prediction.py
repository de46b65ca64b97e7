"""Image files in; pictures and one COCO JSON out."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import score
from score.data.images import SUFFIXES, read_image
from score.detections import Detection
from score.drawing import draw
from score.errors import ConfigError, DataError, OutputError
from score.files import check_writable, save_json
from score.model.vocabulary import check
from score.segmenter import Segmenter

PICTURES, JSON = "pictures", "predictions.json"
LIMITS = {"score": (0, 1), "overlap": (0, 1), "top_k": (1, math.inf), "min_area": (0, math.inf)}


class Prediction(NamedTuple):
    """What is reported of one image.

    Attributes:
        path: the image.
        size: its width and height.
        counts: objects found, by name, in the vocabulary's order.
        seconds: the time it took, pictures included.
    """

    path: Path
    size: tuple[int, int]
    counts: dict[str, int]
    seconds: float


def read_vocabulary(source: str | Sequence[str]) -> list[str]:
    """Take names as they are, or a text file with one name a line (``#`` begins a comment).

    Raises:
        ConfigError: there is no name, one of them is empty or said twice, or the file cannot be read.
    """
    if not isinstance(source, str):
        return check(["" if name is None else str(name) for name in source])
    path = Path(source)
    if not path.is_file() and not path.suffix and os.sep not in source:
        return check([source])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"vocabulary {path}: {reason}; give names, or a file with one name a line") from error
    return check([name for line in lines if (name := line.split("#")[0].strip())])


def find_images(source: str | Sequence[str]) -> list[Path]:
    """List image files: a file, a folder's, or several of both; each is opened once, to be sure that all can be read.

    Raises:
        DataError: a file is missing or unreadable, or a folder holds no image.
    """
    paths: list[Path] = []
    for item in map(Path, [source] if isinstance(source, str) else source):
        if item.is_dir():
            found = sorted(path for path in item.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
            if not found:
                raise DataError(f"{item}: no image in this folder; it needs {', '.join(SUFFIXES)} files")
            paths += found
        else:
            paths.append(item)
    if not paths:
        raise DataError("images: none given; name files or a folder, as in images=[a.jpg,b.jpg]")
    paths = list(dict.fromkeys(paths))
    for path in paths:
        read_image(path)
    return paths


def check_choice(choice: Mapping[str, Any], picture: str | None) -> None:
    """Make sure that thresholds and format can be meant.

    Raises:
        ConfigError: one of them cannot.
    """
    for key, (least, most) in LIMITS.items():
        value = choice.get(key, least)
        if value is None and key == "top_k":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ConfigError(f"{key}={value}: not a number from {least} to {most}")
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


def predict(
    segmenter: Segmenter,
    images: Sequence[Path],
    output: Path,
    choice: Mapping[str, Any],
    picture: str | None = "jpg",
    report: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Segment images and write ``output/predictions.json`` and ``output/pictures/``, all of it or nothing.

    Args:
        segmenter: with its vocabulary set.
        images: readable files.
        output: a folder; made if missing.
        choice: thresholds, as :meth:`Segmenter.segment` takes them.
        picture: the format of the pictures, ``jpg`` or ``png``; None for no pictures.
        report: called after each image.

    Raises:
        ConfigError: a threshold or the format cannot be meant.
        OutputError: the folder cannot be written to.
    """
    check_choice(choice, picture)
    check_output(output, images)
    new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as partial:
            predictions = _write(segmenter, images, Path(partial), choice, picture, report)
            _move(Path(partial), output)
    except BaseException as error:
        if new:
            shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"output {output}: {error.strerror}; choose another folder") from error
        raise
    return predictions


def _write(
    segmenter: Segmenter,
    images: Sequence[Path],
    folder: Path,
    choice: Mapping[str, Any],
    picture: str | None,
    report: Callable[[Prediction], None] | None,
) -> list[Prediction]:
    names = segmenter.names
    dataset = _empty_dataset(names, choice)
    predictions: list[Prediction] = []
    shared = len({path.parent for path in images}) == 1
    for path, title in zip(images, _titles(images), strict=True):
        start = time.perf_counter()
        pixels = read_image(path)
        height, width = pixels.shape[:2]
        found = segmenter.segment(pixels, **choice)
        entry = {
            "id": len(predictions) + 1,
            "file_name": path.name if shared else str(path),
            "width": width,
            "height": height,
        }
        if picture:
            entry["picture"] = f"{PICTURES}/{title}.{picture}"
            target = folder / entry["picture"]
            target.parent.mkdir(exist_ok=True)
            draw(pixels, found, names).save(target, quality=92)
        dataset["images"].append(entry)
        for item in found:
            dataset["annotations"].append(_annotation(item, len(dataset["annotations"]) + 1, entry["id"]))
        counts = Counter(item.label for item in found)
        by_name = {names[label]: counts[label] for label in sorted(counts)}
        predictions.append(Prediction(path, (width, height), by_name, time.perf_counter() - start))
        if report:
            report(predictions[-1])
    save_json(folder / JSON, dataset, indent=None)
    return predictions


def _empty_dataset(names: Sequence[str], choice: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "info": {"description": f"predictions of SCORE {score.__version__}", **choice},
        "licenses": [],
        "images": [],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(names)],
        "annotations": [],
    }


def _annotation(item: Detection, number: int, image_id: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": item.label + 1,
        "segmentation": item.rle,
        "bbox": list(item.box),
        "area": item.area,
        "iscrowd": 0,
        "score": round(item.score, 6),
    }


def _titles(images: Sequence[Path]) -> list[str]:
    """A file name without suffix for each picture; equal ones are numbered."""
    taken: set[str] = set()
    titles = []
    for path in images:
        title, number = path.stem, 2
        while title.lower() in taken:  # lower: some file systems do not tell case
            title, number = f"{path.stem}_{number}", number + 1
        taken.add(title.lower())
        titles.append(title)
    return titles


def _move(source: Path, target: Path) -> None:
    """Rename every file of a folder into another one, the JSON last: where it stands, all it names stands too."""
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == JSON):
        goal = target / path.relative_to(source)
        goal.parent.mkdir(exist_ok=True)
        path.replace(goal)
