"""All that training or scoring would stumble on in a dataset, and what only deserves a look."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely

from score import masks
from score.data import catalog, coco_json
from score.data.coco_json import AGREES, Coco, who
from score.data.images import SUFFIXES
from score.data.labels import LABELS, read_labels
from score.data.pictures import NEAR, Picture, look, pairs
from score.data.segmentations import Rings, Shape, read_segmentation
from score.data.values import Id, Record, is_number, overlap
from score.errors import DataError
from score.masks import Box
from score.names import listed

OUTSIDE, BESIDE, AREA = 1, 2, 0.05
"""Looked at: vertices and boxes more than so many pixels outside of the image, boxes more than so many off their masks,
and areas by more than this share off both mask and polygon."""

_VALUES = re.compile(
    r"\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\([^()]*\)|(?<=address )\S+|(?<=file_name ).*?(?=, which|;)"
    r"|(?<=out of )[^;]*|(?<=may mean )[^;]*|(?<![\w.])-?\d[\d.,x]*\b(?! bits)"
)


class Finding(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        kind: what it is, in words that all of its kind share.
        where: the entry or file.
        what: more about this one, or "".
        stops: whether training or scoring refuses the dataset for it.
    """

    kind: str
    where: str
    what: str = ""
    stops: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is checked: a COCO JSON, or label images.

    Attributes:
        name: what it is called in what is found.
        source: where its files are; ``names`` are its classes, empty where the JSON's own are.
    """

    name: str
    source: catalog.Source


@dataclass
class Checked:
    """What was found in one target.

    Attributes:
        target: that was checked.
        findings: in the order of kinds as they were met.
        counts: of images, annotations and categories.
        coco: what its JSON is read as; None for label images.
        content: its JSON as it stands.
        pictures: what its image files hold, by their paths.
    """

    target: Target
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    coco: Coco | None = None
    content: Record = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)


class Annotation(NamedTuple):
    """An annotation as it stands, and what it is read as.

    Attributes:
        number: in the list, from 0 on.
        record: as it stands.
        image: detectron2's dict of its image.
        category: the id of its category.
        shape: its mask; None if that has no pixel.
    """

    number: int
    record: Record
    image: Record
    category: Id
    shape: Shape | None


def check(targets: Sequence[Target], against: Sequence[Target] = (), workers: int = 1) -> list[Checked]:
    """Check datasets, each on its own, then for images that two of them share.

    Args:
        targets: to check.
        against: compared with only, such as targets of a benchmark.
        workers: threads that read images.

    Returns:
        One for each of ``targets``; pairs of images are found in the first of the two.

    Raises:
        DataError: one cannot be checked: there is no such file or folder, or it is no COCO JSON of instances.
    """
    checked = [_check_maps(target) if target.source.labels else _check_json(target) for target in targets]
    others = [_check_maps(target) if target.source.labels else _check_json(target) for target in against]
    _read_pictures([*checked, *others], workers)
    _find_orphans(checked)
    for number, one in enumerate(checked):
        _compare(one, one)
        for other in [*checked[number + 1 :], *others]:
            _compare(one, other)
    return checked


def count(findings: Iterable[Finding]) -> dict[tuple[bool, str], list[Finding]]:
    """Findings by whether they stop training and by kind: first those that do, of each the most frequent first."""
    groups: dict[tuple[bool, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.stops, finding.kind), []).append(finding)
    return dict(sorted(groups.items(), key=lambda pair: (not pair[0][0], -len(pair[1]), pair[0][1])))


def readable(content: Mapping[str, Any], coco: Coco) -> Iterator[Annotation]:
    """The annotations of a JSON whose image, category and mask can be read."""
    images = {record["image_id"]: record for record in coco.records}
    read_image, read_category = (
        coco_json.id_reader([item["id"] for item in content[kind] if isinstance(item, dict) and "id" in item])
        for kind in ("images", "categories")
    )
    for number, record in enumerate(content["annotations"]):
        if not isinstance(record, dict):
            continue
        image, category = images.get(read_image(record.get("image_id"))), read_category(record.get("category_id"))
        if image is None or category not in coco.names:
            continue
        try:
            shape = read_segmentation(record.get("segmentation"), image["height"], image["width"])
        except DataError:
            continue
        yield Annotation(number, record, image, category, shape)


def _check_json(target: Target) -> Checked:
    """Check a COCO JSON, and the headers of its images."""
    source = target.source
    if source.json is None or source.images is None:
        raise DataError(f"{target.name}: no root of datasets is set; set {catalog.ROOT_VARIABLE}=FOLDER")
    if source.draw is not None:
        source.draw()
    coco = coco_json.read(source.json, source.images, source.outside)
    content = json.loads(source.json.read_bytes())
    result = Checked(target, coco=coco, content=content)
    result.counts = {"images": len(content["images"]), "annotations": len(content["annotations"])}
    result.findings += _stops(coco, source, content)
    result.findings += _names(coco, source)
    result.findings += [finding for each in readable(content, coco) for finding in _look_at(each)]
    result.findings += _repeated(content, coco)
    result.findings += _without(coco)
    for what, expected in source.expected:
        if coco.counts[what] != expected:
            detail = f"{coco.counts[what]}, expected are {expected}"
            result.findings.append(Finding("other counts than expected", what, detail))
    result.pictures = {record["file_name"]: Picture() for record in catalog.part(coco.records, source)}
    return result


def _stops(coco: Coco, source: catalog.Source, content: Record) -> Iterator[Finding]:
    """What the reader refuses."""
    assert source.images is not None
    images = {record["image_id"]: Path(record["file_name"]).name for record in coco.records}
    files: dict[str, str] = {}
    for number, record in enumerate(content["annotations"], start=1):
        if isinstance(record, dict) and isinstance(record.get("image_id"), int | str):
            files[who("annotation", number, record)] = images.get(record["image_id"], "")
    for name in coco.missing:
        yield Finding("no such image", name, stops=True)
    for entry, what in coco.found:
        if entry:
            where = f"{entry} ({files[entry]})" if files.get(entry) else entry
        elif ": no such image (" in what:
            continue
        else:
            where, _, what = what.partition(": ")
            where = os.path.relpath(where, source.images) if Path(where) != coco.path else coco.path.name
        yield refused(where, what)


def refused(where: str, what: str) -> Finding:
    """A finding for which training refuses the dataset, with its values if there are any."""
    kind = kind_of(what)
    return Finding(kind, where, what.rpartition("; ")[0] if kind != what else "", stops=True)


def kind_of(what: str) -> str:
    """A message without its values."""
    return re.sub(r"…( …)+", "…", _VALUES.sub("…", what))


def _names(coco: Coco, source: catalog.Source) -> Iterator[Finding]:
    """Names of categories: those of the dataset's file, synonyms, those without instances."""
    if source.names:
        try:
            coco_json.match(coco, [*source.names, *source.left_out], source.states_names)
        except DataError as error:
            what = str(error).partition("differ from ")[2].rpartition("; ")[0]
            yield Finding("categories whose names differ", coco.path.name, f"from {what}", stops=True)
    if commas := [name for name in coco.names.values() if "," in name]:
        yield Finding("commas in the names of categories, which separate synonyms", "categories", listed(commas))
    if not coco.found and (unused := coco.unused):
        yield Finding("categories without an instance", "categories", listed(unused))


def _look_at(each: Annotation) -> Iterator[Finding]:
    """What of an annotation deserves a look."""
    record, image, shape = each.record, each.image, each.shape
    where = f"{who('annotation', each.number + 1, record)} ({Path(image['file_name']).name})"
    if shape is None:
        yield Finding("masks without a pixel, left out", where)
        return
    rle = masks.encode_shape(shape.segmentation, image["height"], image["width"])
    if record.get("id") in (0, "0") and not isinstance(record["id"], bool):
        yield Finding("id 0, which pycocotools' scoring takes for no match", where)
    if not isinstance(shape.segmentation, dict):
        yield from _look_at_rings(shape.segmentation, image, where)
    yield from look_at_box(record.get("bbox"), shape.box, image, where)
    area, stated = masks.area(rle), record.get("area")
    if is_number(stated) and stated and not fits(stated, area, shape):
        yield Finding(f"areas more than {AREA:.0%} off their masks' and polygons'", where, f"{stated}, not {area}")


def fits(stated: float, area: int, shape: Shape) -> bool:
    """Whether a stated area is about that of the mask, in pixels, or of its polygons."""
    outline = shape.segmentation
    polygons = [] if isinstance(outline, dict) else [sum(polygon(ring).area for ring in outline)]
    return any(abs(stated - other) <= AREA * other for other in (area, *polygons))


def _look_at_rings(rings: Rings, image: Record, where: str) -> Iterator[Finding]:
    """What of polygons deserves a look."""
    crossed = [point for point in map(crossing, rings) if point]
    if crossed:
        yield Finding("polygons that cross themselves", where, f"at {crossed[0]}")
    if len(rings) > 1:
        yield Finding("several polygons in one annotation: parts of one object, or several?", where, f"{len(rings)}")
    reach = max(max(-min(ring), max(ring[::2]) - image["width"], max(ring[1::2]) - image["height"]) for ring in rings)
    if reach > OUTSIDE:
        yield Finding("polygons that leave the image, cut off at its edge", where, f"by {reach:g} px")


def look_at_box(stated: Any, box: Box, image: Record, where: str) -> Iterator[Finding]:
    """What of a box deserves a look."""
    try:
        numbers = [float(value) for value in stated or ()]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4:
        what = "missing" if stated is None else "of another form"
        yield Finding(f"boxes that are {what}, made from the masks", where)
        return
    x, y, width, height = numbers
    edges, own = (x, y, x + width, y + height), (box[0], box[1], box[0] + box[2], box[1] + box[3])
    apart = max(abs(a - b) for a, b in zip(edges, own, strict=True))
    if not overlap(numbers, box) > AGREES:  # nan as well
        yield Finding("boxes beside their masks, made from these", where)
    elif apart > BESIDE:
        yield Finding(f"boxes more than {BESIDE} px off their masks'", where, f"by {apart:g} px")
    reach = max(-x, -y, edges[2] - image["width"], edges[3] - image["height"])
    if reach > OUTSIDE:
        yield Finding("boxes that leave the image", where, f"by {reach:g} px")


def crossing(ring: Sequence[float]) -> str:
    """Where a polygon crosses itself, as ``x y``; "" if it does not, or only touches."""
    reason = shapely.is_valid_reason(polygon(ring))
    return reason[18:-1] if reason.startswith("Self-intersection[") else ""


def polygon(ring: Sequence[float]) -> shapely.Polygon:
    """A ring ``x, y, x, y, ...`` as shapely has it."""
    return shapely.Polygon(np.reshape(ring, (-1, 2)))


def _repeated(content: Record, coco: Coco) -> Iterator[Finding]:
    """Annotations with the same mask of the same class in the same image as an earlier one."""
    first: dict[tuple[Any, ...], Annotation] = {}
    for each in readable(content, coco):
        if each.shape is None:
            continue
        key = (each.image["image_id"], each.category, str(each.record.get("iscrowd")), str(each.shape.segmentation))
        earlier = first.setdefault(key, each)
        if earlier is not each:
            where = f"{who('annotation', each.number + 1, each.record)} ({Path(each.image['file_name']).name})"
            yield Finding("the same object twice", where, f"as {who('annotation', earlier.number + 1, earlier.record)}")


def _without(coco: Coco) -> Iterator[Finding]:
    """Images without annotations."""
    if coco.found:
        return  # their annotations may be among those that cannot be read
    for record in coco.records:
        if not record["annotations"]:
            yield Finding("images without an annotation, not learned from", Path(record["file_name"]).name)


def _check_maps(target: Target) -> Checked:
    """Check a folder of images and one of label images."""
    images, labels, result = target.source.images, target.source.labels, Checked(target)
    if images is None or labels is None or not images.is_dir() or not labels.is_dir():
        raise DataError(f"{target.name}: {images} or {labels}: no such folder; check the path")
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{images}: no image in this folder; it needs {', '.join(SUFFIXES)} files")
    result.counts = {"images": len(paths)}
    result.pictures = {str(path): Picture() for path in paths}
    maps = {path.stem for path in labels.iterdir() if path.suffix == LABELS}
    for path in paths:
        if path.stem not in maps:
            result.findings.append(Finding("images without label image", path.name, stops=True))
    for stem in sorted(maps - {path.stem for path in paths}):
        result.findings.append(Finding("label images without image", f"{stem}{LABELS}"))
    return result


def _read_pictures(checked: Sequence[Checked], workers: int) -> None:
    """Decode all images, and label images."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in checked:
            source = result.target.source
            known = {finding.where for finding in result.findings if finding.stops}  # as their headers told
            for path, picture in zip([*result.pictures], pool.map(look, [*result.pictures]), strict=True):
                result.pictures[path] = picture
                where = os.path.relpath(path, source.images)
                result.findings += () if picture.fault and where in known else _look_at_picture(where, picture)
            if source.labels is not None:
                read = partial(_label_fault, source.labels, len(source.names))
                found = pool.map(read, result.pictures, result.pictures.values())
                result.findings += [finding for finding in found if finding]


def _look_at_picture(where: str, picture: Picture) -> Iterator[Finding]:
    """What an image's pixels, channels and orientation are."""
    if picture.fault:
        yield refused(where, picture.fault.partition(": ")[2])
        return
    if picture.mode != "RGB":
        yield Finding("images that are not RGB, read as such", where, picture.mode)
    if picture.turned:
        yield Finding("images with an EXIF orientation, read upright", where, f"orientation {picture.turned}")


def _label_fault(labels: Path, classes: int, path: str, picture: Picture) -> Finding | None:
    """What is wrong with the label image of an image."""
    place = labels / f"{Path(path).stem}{LABELS}"
    if picture.fault or not place.is_file():
        return None
    try:
        read_labels(place, classes, (picture.size[1], picture.size[0]))
    except DataError as error:
        return refused(place.name, str(error).partition(": ")[2])
    return None


def _find_orphans(checked: Sequence[Checked]) -> None:
    """Files beside the images that no JSON lists."""
    listed_files = {os.path.realpath(path) for result in checked for path in result.pictures}
    for result in checked:
        root = result.target.source.images
        if result.coco is None or root is None or result.target.source.part:
            continue
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in SUFFIXES and os.path.realpath(path) not in listed_files:
                result.findings.append(Finding("image files that are not listed", str(path.relative_to(root))))


def _compare(one: Checked, other: Checked) -> None:
    """Find images that are, or are nearly, the same in two datasets, or in one."""
    within = one is other
    place = "in one set" if within else "in two sets"
    sets = [_named(result) for result in (one, other)]
    left, right = (list(each.values()) for each in sets)
    for first, second, distance in pairs(left, right, within):
        names = [list(each)[index] for each, index in zip(sets, (first, second), strict=True)]
        if distance < 0:
            kind, what = f"the same image {place}", ""
        else:
            kind = f"nearly the same image {place} (difference hashes of 256 bits, at most {NEAR} differ)"
            what = f", {distance}"
        where = f"{names[0]} and {names[1]}" + (f" of {other.target.name}" if not within else "")
        one.findings.append(Finding(kind, where, what.removeprefix(", ")))


def _named(result: Checked) -> dict[str, Picture]:
    root = result.target.source.images
    return {os.path.relpath(path, root): each for path, each in result.pictures.items() if not each.fault}


def totals(result: Checked) -> Counter[bool]:
    """How many findings stop training (True), and how many do not."""
    return Counter(finding.stops for finding in result.findings)
