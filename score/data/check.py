"""All that training or scoring would stumble on in a dataset, and what only deserves a look."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from score.data import catalog, coco_json
from score.data.coco_json import Coco, who
from score.data.findings import Finding, refused
from score.data.images import SUFFIXES
from score.data.labels import LABELS, read_labels
from score.data.looks import look_at, readable, repeated
from score.data.pictures import BITS, NEAR, Picture, look, pairs
from score.data.values import Id, Record, id_reader
from score.errors import DataError
from score.names import listed


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


def check(
    targets: Sequence[Target],
    against: Sequence[Target] = (),
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, images: None,
) -> list[Checked]:
    """Check datasets, each on its own, then for images that two of them share.

    Args:
        targets: to check.
        against: compared with only, such as targets of a benchmark.
        workers: threads that read images.
        report: called with how many images have been read, and of how many.

    Returns:
        One for each of ``targets``; an image that two of them share is a finding of the first.

    Raises:
        DataError: one cannot be checked: there is no such file or folder, or it is no COCO JSON of instances.
    """
    checked = [_check_maps(target) if target.source.labels else _check_json(target) for target in targets]
    others = [_check_maps(target) if target.source.labels else _check_json(target) for target in against]
    _read_pictures([*checked, *others], workers, report)
    _find_orphans(checked)
    for number, one in enumerate(checked):
        _compare(one, one)
        for other in [*checked[number + 1 :], *others]:
            _compare(one, other)
    return checked


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
    annotations = list(readable(content, coco))
    result.findings += [finding for each in annotations for finding in look_at(each)]
    result.findings += repeated(annotations)
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
    images: dict[Id | None, str] = {each["image_id"]: Path(each["file_name"]).name for each in coco.records}
    read = id_reader([item["id"] for item in content["images"] if isinstance(item, dict) and "id" in item])
    files = {
        who("annotation", number, record): images.get(read(record.get("image_id")), "")
        for number, record in enumerate(content["annotations"], start=1)
        if isinstance(record, dict)
    }
    for name in coco.missing:
        yield Finding("no such image", name, stops=True)
    for entry, what in coco.found:
        if entry.startswith(("all", "nothing")):
            where, what = coco.path.name, f"{entry} {what}"
        elif entry:
            where = f"{entry} ({files[entry]})" if files.get(entry) else entry
        elif ": no such image (" in what:
            continue
        else:
            where, _, what = what.partition(": ")
            where = os.path.relpath(where, source.images) if Path(where) != coco.path else coco.path.name
        yield refused(where, what)


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


def _read_pictures(checked: Sequence[Checked], workers: int, report: Callable[[int, int], None]) -> None:
    """Decode all images, and label images."""
    done, total = 0, sum(len(result.pictures) for result in checked)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in checked:
            source = result.target.source
            known = {finding.where for finding in result.findings if finding.stops}  # as their headers told
            for path, picture in zip([*result.pictures], pool.map(look, [*result.pictures]), strict=True):
                result.pictures[path] = picture
                done += 1
                report(done, total)
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
    for first, second, distance, turned in pairs(left, right, within):
        names = [list(each)[index] for each, index in zip(sets, (first, second), strict=True)]
        if distance < 0:
            kind, what = f"the same image {place}", ""
        else:
            kind = f"nearly the same image {place} (at most {NEAR} of {BITS} bits differ)"
            what = f"{distance}{', turned or mirrored' if turned else ''}"
        where = f"{names[0]} and {names[1]}" + (f" of {other.target.name}" if not within else "")
        one.findings.append(Finding(kind, where, what))


def _named(result: Checked) -> dict[str, Picture]:
    root = result.target.source.images
    return {os.path.relpath(path, root): each for path, each in result.pictures.items() if not each.fault}


def totals(result: Checked) -> Counter[bool]:
    """How many findings stop training (True), and how many do not."""
    return Counter(finding.stops for finding in result.findings)
