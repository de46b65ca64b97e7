"""A mended copy of a COCO JSON and its images: what can be read in one way only, written so that all readers agree."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import shapely

from score import masks
from score.data.check import Checked, Target
from score.data.coco_json import who
from score.data.folders import ImageFolder
from score.data.images import read_image
from score.data.looks import crossing, fits, look_at_box, polygon
from score.data.prepare.parts import take, write_image
from score.data.segmentations import Rings, Shape, are_normalised, read_segmentation
from score.data.values import Id, Record, id_reader, is_number, read_crowd, read_id, read_sides
from score.errors import DataError, OutputError
from score.files import check_writable, write_text

ALIKE = 0.99
"""A polygon is written anew only if its mask stays as it was to this IoU."""

CHANGES = "changes.txt"


class Mended(NamedTuple):
    """A mended copy.

    Attributes:
        targets: the copies, to be checked.
        changes: the entry or file, and what was changed.
    """

    targets: list[Target]
    changes: list[tuple[str, str]]


def check_target(folder: Path, targets: Sequence[Target]) -> None:
    """Check that a mended copy can be written.

    Raises:
        OutputError: the folder is there already, or cannot be made.
        DataError: label images, which are not mended, or two datasets of one name.
    """
    if os.path.lexists(folder):
        raise OutputError(f"{folder}: is there already; name a new folder for the mended copy")
    for target in targets:
        if target.source.labels:
            raise DataError(f"{target.name}: label images are not mended; check them without fix")
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise DataError(f"two datasets are called {max(names, key=names.count)}; mend them one after the other")
    check_writable(folder.parent)


def mend(checked: Sequence[Checked], folder: Path) -> Mended:
    """Write ``FOLDER/NAME/JSON``, ``FOLDER/NAME/images`` and ``FOLDER/changes.txt``: all of it, or nothing.

    Images that are upright RGB are linked where the disk allows, others written as PNG.

    Args:
        checked: what was found in datasets with a JSON.
        folder: a new one.

    Raises:
        OutputError: it is there already, or cannot be written.
    """
    check_target(folder, [one.target for one in checked])
    partial, changes, targets = folder.with_name(f".{folder.name}.{os.getpid()}"), list[tuple[str, str]](), []
    try:
        partial.mkdir(parents=True)
        for one in checked:
            assert one.target.source.json is not None
            place, name = Path(one.target.name), one.target.source.json.name
            found = _Mender(one, partial / place)
            write_text(partial / place / name, json.dumps(found.content, ensure_ascii=False) + "\n")
            changes += [(f"{one.target.name}: {where}" if len(checked) > 1 else where, w) for where, w in found.changes]
            source = replace(
                one.target.source, json=folder / place / name, images=folder / place / "images", outside=False,
                draw=None, expected=(),
            )  # fmt: skip
            targets.append(Target(name=one.target.name, source=source))
        write_text(partial / CHANGES, "".join(f"{where}: {what}\n" for where, what in changes))
        if os.path.lexists(folder):  # meanwhile
            raise OutputError(f"{folder}: is there already; name a new folder for the mended copy")
        partial.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder} ({error.strerror}); free some space or choose another") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Mended(targets, changes)


class _Mender:
    """Mends one JSON, and writes its images."""

    def __init__(self, checked: Checked, folder: Path) -> None:
        self.changes: list[tuple[str, str]] = []
        self._checked, self._folder = checked, folder
        self._sizes: dict[Id | None, tuple[int, int]] = {}
        content, source = checked.content, checked.target.source
        assert source.images is not None
        self._places: dict[str, str] = {}  # by the names of the mended images
        self._files = ImageFolder(source.images, outside=True)  # for absolute names of files that are in it
        self._image, self._category = (
            id_reader([item["id"] for item in content[kind] if isinstance(item, dict) and "id" in item])
            for kind in ("images", "categories")
        )
        (folder / "images").mkdir(parents=True)
        self.content: Record = dict(content)
        self.content["categories"] = self._each("category", self._mend_category)
        self.content["images"] = self._each("image", self._mend_image)
        self._shares = are_normalised(item.get("segmentation") for item in _dicts(content["annotations"]))
        self._seen: set[str] = set()
        before = len(self.changes)
        if kept := self._each("annotation", self._mend_annotation):
            self.content["annotations"] = kept
            self._number()
        else:  # nothing to be left out from
            del self.changes[before:]

    def _each(self, kind: str, mend_one: Callable[[str, Record], Record | None]) -> list[Any]:
        """The entries of a kind, mended; those that are no dicts as they are, and those that hold nothing left out."""
        key = "categories" if kind == "category" else f"{kind}s"
        found = []
        for number, record in enumerate(self._checked.content[key], start=1):
            mended = mend_one(who(kind, number, record), dict(record)) if isinstance(record, dict) else record
            if mended is not None:
                found.append(mended)
        return found

    def _set(self, entry: str, record: Record, key: str, value: Any, what: str) -> None:
        """Change a value, and say so, if it is another one or of another type."""
        if key not in record or json.dumps(record[key]) != json.dumps(value):  # 1 is not 1.0, nor true
            record[key] = value
            self.changes.append((entry, what))

    def _set_id(self, entry: str, record: Record, key: str, read: Callable[[Any], Id | None]) -> None:
        value = read(record.get(key))
        if value is not None:
            self._set(entry, record, key, value, f"{key} written as a number")

    def _mend_category(self, entry: str, record: Record) -> Record:
        self._set_id(entry, record, "id", self._category)
        if is_number(record.get("name")):
            self._set(entry, record, "name", str(record["name"]), "name written as text")
        return record

    def _mend_image(self, entry: str, record: Record) -> Record:
        self._set_id(entry, record, "id", self._image)
        sides = read_sides(record) if {"width", "height"} <= set(record) else None
        if sides:
            self._sizes[self._image(record.get("id"))] = sides
            for key, value in zip(("width", "height"), sides, strict=True):
                self._set(entry, record, key, value, "width and height written as whole numbers")
        root = os.path.abspath(self._files.root)
        try:
            place, _ = self._files.find(record.get("file_name"))
            within = os.path.abspath(place or "").startswith(root + os.sep)
        except DataError:
            return record
        if place is not None and (within or self._checked.target.source.outside):
            name = self._write_image(place, sides)
            self._set(entry, record, "file_name", name, "file_name written as the file is called")
        return record

    def _write_image(self, place: str, stated: tuple[int, int] | None) -> str:
        """Put an image beside the mended JSON; its name there. One of another size than stated stays as it is."""
        own, picture = os.path.relpath(place, self._files.root), self._checked.pictures.get(place)
        linked = picture is None or picture.size != stated or (picture.mode == "RGB" and not picture.turned)
        name = os.path.relpath(place, "/").replace(os.sep, "_") if own.startswith(os.pardir) else own
        stem, suffix = os.path.splitext(name) if linked or name.endswith(".png") else (name, ".png")
        while self._places.setdefault(f"{stem}{suffix}", place) != place:
            stem += "_"
        target = self._folder / "images" / f"{stem}{suffix}"
        if linked:
            take(Path(place), target)
        else:
            write_image(target, read_image(place))
            self.changes.append((own, "written as upright RGB of 8 bits, PNG"))
        return f"{stem}{suffix}"

    def _mend_annotation(self, entry: str, record: Record) -> Record | None:
        """An annotation; None if its mask has no pixel, or if it repeats one."""
        self._set_id(entry, record, "image_id", self._image)
        self._set_id(entry, record, "category_id", self._category)
        if "iscrowd" in record:
            try:
                crowd = read_crowd(record["iscrowd"])
                self._set(entry, record, "iscrowd", crowd, "iscrowd written as 0 or 1")
            except DataError:
                pass
        size = self._sizes.get(self._image(record.get("image_id")))
        if size is None:
            return record
        width, height = size
        spelled = respell(record.get("segmentation"), width, height, self._shares)
        try:
            shape = read_segmentation(spelled, height, width)
        except DataError:
            return record
        if shape is None:
            self.changes.append((entry, "left out, its mask has no pixel"))
            return None
        self._mend_shape(entry, record, shape, width, height)
        key = json.dumps([record.get(name) for name in ("image_id", "category_id", "iscrowd", "segmentation")])
        if key in self._seen:
            self.changes.append((entry, "left out, it repeats another"))
            return None
        self._seen.add(key)
        return record

    def _mend_shape(self, entry: str, record: Record, shape: Shape, width: int, height: int) -> None:
        """Mask, box and area."""
        outline: Any = shape.segmentation
        if isinstance(outline, dict):
            self._set(entry, record, "segmentation", dict(outline), "mask written as compressed run lengths")
        else:
            rings, stated = [list(ring) for ring in outline], record.get("segmentation")
            if rings != stated:
                self._set(entry, record, "segmentation", rings, "polygons written as x, y, x, y, ... in pixels")
            for what, change in (
                ("polygons that crossed themselves divided", uncross),
                ("polygons cut off at the edge of the image", lambda rings: clip(rings, width, height)),
            ):
                if (new := alike(change, outline, width, height)) is not None:
                    outline = new
                    self._set(entry, record, "segmentation", [list(ring) for ring in new], what)
        rle = masks.encode_shape(outline, height, width)
        image, box, area = {"width": width, "height": height}, masks.box(rle), masks.area(rle)
        stated = record.get("bbox")
        if list(look_at_box(stated, box, image, entry)):
            self._set(entry, record, "bbox", list(box), "box made from the mask")
        elif stated and not all(map(is_number, stated)):
            self._set(entry, record, "bbox", [float(value) for value in stated], "box written in numbers")
        stated = record.get("area")
        if not (is_number(stated) and stated and fits(stated, area, Shape(outline, box))):
            self._set(entry, record, "area", area, "area made from the mask")

    def _number(self) -> None:
        """Give annotations without a good id the next free one; nothing refers to them."""
        records = _dicts(self.content["annotations"])
        read = id_reader([record["id"] for record in records if "id" in record])
        ids = [read(record.get("id")) for record in records]
        free = 1 + max((value for value in ids if isinstance(value, int)), default=0)
        used: set[Id] = {0}  # pycocotools takes it for no match
        for number, (record, value) in enumerate(zip(records, ids, strict=True), start=1):
            entry = who("annotation", number, record)
            if value is None or value in used:
                self._set(entry, record, "id", free, "a free id given")
                free += 1
            else:
                self._set(entry, record, "id", value, "id written as a number")
            used.add(record["id"])


def _dicts(entries: Sequence[Any]) -> list[Record]:
    return [entry for entry in entries if isinstance(entry, dict)]


def respell(value: Any, width: int, height: int, shares: bool) -> Any:
    """A segmentation whose spelling is refused, though it can mean one thing only, in a spelling that is read.

    Args:
        value: as the JSON has it: perhaps as text, as one flat list, with numbers as text.
        width, height: of the image.
        shares: whether all polygons of the file are shares of these.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        size = value.get("size")
        return {**value, "size": [read_id(side) for side in size]} if isinstance(size, list) else value
    if not isinstance(value, list):
        return value
    value = _from_text(value)
    if len(value) >= 6 and len(value) % 2 == 0 and all(map(is_number, value)):
        value = [value]
    return _scaled(value, width, height) if shares else value


def _from_text(value: Any) -> Any:
    """Numbers as text in nested lists, as numbers."""
    if isinstance(value, list):
        return [_from_text(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _scaled(value: list[Any], width: int, height: int) -> list[Any]:
    """Shares of width and height as pixels; pairs and flat lists alike begin with x."""
    if all(map(is_number, value)):
        return [number * (height if index % 2 else width) for index, number in enumerate(value)]
    return [_scaled(item, width, height) if isinstance(item, list) else item for item in value]


def alike(change: Callable[[Rings], Rings | None], rings: Rings, width: int, height: int) -> Rings | None:
    """Polygons as they are changed; None if nothing is, or their mask would be another one."""
    new = change(rings)
    if new is None:
        return None
    before, after = (masks.encode_shape(each, height, width) for each in (rings, new))
    return new if masks.iou([before], [after])[0, 0] >= ALIKE else None


def uncross(rings: Rings) -> Rings | None:
    """Polygons that cross themselves, divided where they do; None if none does, or they would have holes."""
    if not any(map(crossing, rings)):
        return None
    return _parts([shapely.make_valid(polygon(ring)) if crossing(ring) else polygon(ring) for ring in rings])


def clip(rings: Rings, width: int, height: int) -> Rings | None:
    """Polygons without what lies outside of their image; None if nothing does, or they cannot be cut."""
    low, high = min(map(min, rings)), (max(max(ring[::2]) for ring in rings), max(max(ring[1::2]) for ring in rings))
    shapes = [polygon(ring) for ring in rings]
    if (low >= 0 and high[0] <= width and high[1] <= height) or not all(shape.is_valid for shape in shapes):
        return None
    return _parts([shapely.intersection(shape, shapely.box(0, 0, width, height)) for shape in shapes])


def _parts(shapes: Sequence[Any]) -> Rings | None:
    """The outlines of polygons; None if one has holes, which COCO's polygons cannot."""
    parts = [part for part in shapely.get_parts(shapely.get_parts(shapes)) if part.geom_type == "Polygon" and part.area]
    if not parts or any(part.interiors for part in parts):
        return None
    return tuple(tuple(float(v) for v in shapely.get_coordinates(part)[:-1].round(3).ravel()) for part in parts)
