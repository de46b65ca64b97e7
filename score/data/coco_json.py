"""COCO JSON of instances: the one reader, checker and writer.

Values that can be read in one way only are read so, and what was repaired or left out is counted in notes. Values that
need a guess are findings: a file that has any is refused.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from score import masks
from score.data.folders import ImageFolder, nearest
from score.data.images import check_size, is_too_large, read_size
from score.data.segmentations import Shape, are_normalised, read_segmentation
from score.data.values import (
    Id,
    Record,
    id_reader,
    is_number,
    overlap,
    read_area,
    read_crowd,
    read_sides,
    short,
)
from score.errors import DataError
from score.masks import RLE
from score.names import faults, listed, normalise

logger = logging.getLogger(__name__)

State = tuple[tuple[int, int], ...]
KEPT = 8
"""So many files are kept in memory, those last asked for."""

AGREES = 0.5
"""A stated box is used if it and its mask's have an IoU above this; the mask's own otherwise."""


@dataclass
class Coco:
    """What a COCO JSON holds, and what is wrong with it.

    Attributes:
        path: the file.
        names: class names by category id, in the order of their ids.
        records: detectron2's dicts of its images, whose ``category_id`` is still the JSON's. Lists and dicts in them
            are shared by all who read the file: copy before changing one.
        counts: ``images`` and ``instances`` that it lists.
        found: why it cannot be used: the entry and what is wrong with it; without one, all is in the second.
        missing: file names of images that are not there, of which ``found`` has only the first.
        notes: what was repaired or left out, a line each.
    """

    path: Path
    names: dict[Id, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    found: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """Why it cannot be used, a line each."""
        return [f"{self.path}: {who} {what}" if who else what for who, what in self.found]

    def require(self) -> Coco:
        """Return itself.

        Raises:
            DataError: it cannot be used; the first finding, and how many more there are.
        """
        if findings := self.findings:
            more = len(findings) - 1
            raise DataError(findings[0] + (f" (and {more} more)" if more else ""))
        return self

    @property
    def unused(self) -> list[str]:
        """Names of the categories without an instance that is not a crowd."""
        used = {item["category_id"] for record in self.records for item in record["annotations"] if not item["iscrowd"]}
        return [name for key, name in self.names.items() if key not in used]


_KNOWN: dict[tuple[Path, Path, Path, bool], tuple[State, Coco]] = {}  # with the state in which each was read


def read(path: Path, images: Path, outside: bool = False) -> Coco:
    """Read and check a COCO JSON and the headers of its images, once as long as all these files stay as they are.

    Args:
        path: the JSON.
        images: the folder that its file names are relative to.
        outside: whether file names may lead out of that folder.

    Raises:
        DataError: there is no such file or folder, or it is no COCO JSON of instances.
    """
    if not path.exists():
        raise DataError(f"{path}: no such annotation file; {nearest(path)}")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images; {nearest(images)}")
    key = (path.resolve(), images, images.resolve(), outside)
    state, coco = _KNOWN.pop(key, ((), Coco(path)))
    if not state or state != _state(path, coco.records):
        coco = _Reader(path, images, outside).coco
        state = _state(path, coco.records) if not coco.found else ()
        for note in coco.notes if state else ():
            logger.warning(note)
    _KNOWN[key] = state, coco
    if len(_KNOWN) > KEPT:
        del _KNOWN[next(iter(_KNOWN))]
    return coco


def _state(path: Path, records: Sequence[Record]) -> State:
    """Sizes and times of a JSON and its images."""
    try:
        facts = [os.stat(place) for place in (path, *(record["file_name"] for record in records))]
    except OSError:
        return ()
    return tuple((fact.st_size, fact.st_mtime_ns) for fact in facts)


def check(path: Path, images: Path, outside: bool = False) -> list[str]:
    """All that is wrong with a COCO JSON and its images, a line each; see :func:`read`."""
    try:
        return read(path, images, outside).findings
    except DataError as error:
        return [str(error)]


def match(coco: Coco, names: Sequence[str], states: str) -> dict[Id, int]:
    """Match a JSON's categories to a dataset's classes, by name and never by position.

    Args:
        coco: the JSON.
        names: the classes, in the dataset's order.
        states: what states ``names``, for the message.

    Returns:
        Category id to the index in ``names``.

    Raises:
        DataError: the names differ; the message lists the difference.
    """
    index = {normalise(name): i for i, name in enumerate(names)}
    found = {normalise(name): name for name in coco.names.values()}
    missing = [name for name in names if normalise(name) not in found]
    unknown = [name for key, name in found.items() if key not in index]
    if missing or unknown:
        sides = (("it lacks", missing), ("it has besides", unknown))
        told = "; ".join(f"{what} {listed(side)}" for what, side in sides if side)
        raise DataError(f"{coco.path}: categories differ from {states}: {told}; make the names agree")
    return {key: index[normalise(name)] for key, name in coco.names.items()}


def annotation(rle: RLE, category_id: int) -> Record:
    """An annotation of a mask, without ids."""
    return {
        "category_id": category_id,
        "bbox": list(masks.box(rle)),
        "area": masks.area(rle),
        "iscrowd": 0,
        "segmentation": rle,
    }


def categories(names: Sequence[str]) -> list[Record]:
    """The categories of a vocabulary; an id is a position in it, from 1 on."""
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def who(kind: str, number: int, record: Record) -> str:
    """An entry by its id, or its number in the list from 1 on."""
    return (
        f"{kind} {str(record['id'])[:40]}"
        if isinstance(record.get("id"), int | float | str)
        else f"{kind} number {number}"
    )


class _Reader:
    """Reads one file: categories, images, annotations, each as far as what it needs could be read."""

    def __init__(self, path: Path, images: Path, outside: bool) -> None:
        self.coco = Coco(path)
        self._content = self._load()
        self._counted: Counter[str] = Counter()
        self._read_categories()
        self._read_images(ImageFolder(images, outside))
        self._read_annotations()
        self.coco.notes += [f"{self.coco.path}: {what}: {count}" for what, count in self._counted.items()]

    def _load(self) -> Record:
        path = self.coco.path
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read as JSON ({error}); replace the file") from error
        for key in ("images", "annotations", "categories"):
            found = content.get(key) if isinstance(content, dict) else None
            if not isinstance(found, list):
                kind = f"{key} that are a {type(found).__name__}" if found is not None else f"no list of {key}"
                raise DataError(f"{path}: not a COCO JSON, it has {kind}; see cocodataset.org/#format-data")
            self.coco.counts["instances" if key == "annotations" else key] = len(found)
        if not content["annotations"]:
            raise DataError(f"{path}: no annotations at all; there is nothing to learn from or to compare with")
        assert isinstance(content, dict)
        return content

    def _find(self, what: str, message: str) -> None:
        self.coco.found.append((what, message))

    def _entries(self, kind: str, key: str, needed: Sequence[str]) -> list[tuple[str, Record]]:
        """What each dict of a list is called, and the dict, if it has all it needs; others are findings."""
        whole = []
        for number, record in enumerate(self._content[key], start=1):
            if not isinstance(record, dict):
                self._find(f"{kind} number {number}", f"is {short(record)}, not a dict; see the COCO format")
            elif absent := [name for name in needed if name not in record]:
                self._find(who(kind, number, record), f"has no {listed(absent)}; add it")
            else:
                whole.append((who(kind, number, record), record))
        return whole

    def _ids(self, kind: str, entries: Iterable[tuple[str, Record]]) -> Callable[[Any], Id | None]:
        """How ids of a kind are read; those that are none, or that two have, are findings."""
        given = [record["id"] for _, record in entries if "id" in record]
        read = id_reader(given)
        for who, record in entries:
            if "id" in record and read(record["id"]) is None:
                self._find(who, f"has the id {short(record['id'])}; use whole numbers or words")
        counts = Counter(read(value) for value in given)
        for value, count in counts.items():
            if value is not None and count > 1:
                self._find(f"{count} {kind}s", f"have the id {value}; give each its own")
        return read

    def _read_categories(self) -> None:
        entries = self._entries("category", "categories", ("id", "name"))
        self._category = self._ids("category", entries)
        named = []
        for who, record in entries:
            name = str(record["name"]) if is_number(record["name"]) else record["name"]
            if not isinstance(name, str) or not name.strip():
                self._find(who, f"has the name {short(record['name'])}; name it")
            else:
                named.append(name)
            if (key := self._category(record["id"])) is not None:
                self.coco.names[key] = str(name)
        self.coco.names = dict(sorted(self.coco.names.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))
        if named or not self._content["categories"]:
            self.coco.found += [("", f"{self.coco.path}: {fault}") for fault in faults(named, "its categories")]
        if commas := [name for name in self.coco.names.values() if "," in name]:
            self.coco.notes.append(f"{self.coco.path}: commas separate synonyms in {listed(commas)}")

    def _read_images(self, folder: ImageFolder) -> None:
        entries = self._entries("image", "images", ("id", "file_name", "width", "height"))
        self._image = self._ids("image", entries)
        self._sizes: dict[Id | None, tuple[int, int] | None] = {}  # None: it has a finding already
        missing = self.coco.missing
        places: Counter[str] = Counter()
        for who, record in entries:
            key, size = self._image(record["id"]), read_sides(record)
            # of one too large, which its file cannot have, no mask is tried
            self._sizes[key] = None if size is None or is_too_large(*size) else size
            if size is None:
                sides = short([record["width"], record["height"]])
                self._find(who, f"has the width and height {sides}; correct them")
                continue
            try:
                place, repaired = folder.find(record["file_name"])
            except DataError as error:
                self._find(who, str(error))
                continue
            if place is None:
                missing.append(record["file_name"])
                continue
            if repaired:
                self._counted["file names read in another spelling (\\, a folder twice, Unicode forms)"] += 1
            places[place] += 1
            if key is not None:
                self._add_image(key, place, size)
        if missing:
            what = f"{folder.root / missing[0]}: no such image ({len(missing)} of {len(entries)} are missing)"
            self.coco.found.append(("", f"{what}{folder.near(missing[0])}; add it"))
        for place, count in places.items():
            if count > 1:
                self._find(f"{count} images", f"have the file_name {os.path.relpath(place, folder.root)}; keep one")

    def _add_image(self, key: Id, place: str, size: tuple[int, int]) -> None:
        try:
            check_size(place, read_size(place), size)
        except DataError as error:
            self.coco.found.append(("", str(error)))
        self.coco.records.append(
            {"file_name": place, "height": size[1], "width": size[0], "image_id": key, "annotations": []}
        )

    def _read_annotations(self) -> None:
        by_image = {record["image_id"]: record["annotations"] for record in self.coco.records}
        entries = self._entries("annotation", "annotations", ("image_id", "category_id"))
        self._ids("annotation", entries)
        if are_normalised(record.get("segmentation") for _, record in entries):
            self._find("all polygons", "lie within 0..1; multiply x by the image's width and y by its height")
        kept = 0
        for who, record in entries:
            wrong, found = self._read_annotation(record)
            for fault in wrong:
                self._find(who, fault)
            if wrong:
                continue
            if found is None:
                self._counted["annotations left out, for their masks have no pixels"] += 1
                continue
            kept += 1
            if found["iscrowd"]:
                self._counted["crowds (iscrowd 1), not learned and ignored in scoring"] += 1
            by_image.get(found.pop("image_id"), []).append(found)
        if not self.coco.found:
            self._check_rest(kept, len(entries))

    def _check_rest(self, kept: int, count: int) -> None:
        """Is there anything to learn from or to compare with?"""
        crowds = sum(item["iscrowd"] for record in self.coco.records for item in record["annotations"])
        if not kept:
            self._find("nothing", f"is left: no mask of its {count} annotations has a pixel; give polygons or RLE")
        elif crowds == kept:
            self._find("all", f"{count} annotations are crowds (iscrowd 1); set iscrowd to 0 for single objects")
        elif unused := self.coco.unused:
            self.coco.notes.append(
                f"{self.coco.path}: no instances of {listed(unused)}, not learned, but asked for in scoring"
            )

    def _read_annotation(self, record: Record) -> tuple[list[str], Record | None]:
        """What is wrong with an annotation, and, if nothing is, what detectron2 takes it as; None for an empty mask."""
        image, category = self._image(record["image_id"]), self._category(record["category_id"])
        wrong: list[str] = []
        if image is None or image not in self._sizes:
            image_id = short(record["image_id"])
            wrong.append(f"is of image {image_id}, which is not listed; add it or drop the annotation")
        if category is None or category not in self.coco.names:
            wrong.append(f"is of category {short(record['category_id'])}, which is not listed; correct it")
        size = self._sizes.get(image)
        readers: dict[str, Callable[[Any], Any]] = {"iscrowd": read_crowd, "area": read_area}
        if size is not None:
            readers = {"segmentation": partial(read_segmentation, height=size[1], width=size[0]), **readers}
        values = {key: _tried(read_value, record.get(key), wrong) for key, read_value in readers.items()}
        shape: Shape | None = values.get("segmentation")
        if wrong or shape is None:
            return wrong, None
        from detectron2.structures import BoxMode  # and with it PyTorch, not needed to write

        found = {
            "image_id": image,
            "bbox": self._box(record.get("bbox"), shape),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "segmentation": shape.segmentation,
            "iscrowd": values["iscrowd"],
            **({"area": values["area"]} if values["area"] else {}),  # a mask with pixels has none of 0
        }
        return wrong, found

    def _box(self, stated: Any, shape: Shape) -> tuple[float, ...]:
        """The stated box if it can be used, the mask's otherwise."""
        try:
            box = tuple(float(v) if isinstance(v, str) else v for v in stated)
            if len(box) == 4 and all(map(is_number, box)) and overlap(box, shape.box) > AGREES:
                return box
        except (TypeError, ValueError, OverflowError):
            pass
        if stated is not None:
            self._counted["boxes made from the masks, for those stated do not fit them"] += 1
        else:
            self._counted["boxes made from the masks, for none are stated"] += 1
        return shape.box


def _tried(read_value: Callable[[Any], Any], value: Any, wrong: list[str]) -> Any:
    """What a value is read as; if it cannot be, that is one more thing wrong."""
    try:
        return read_value(value)
    except DataError as error:
        wrong.append(str(error))
        return None
