"""Sources by name: which file reads which, and what each asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from score.data.catalog import FOLDER, Spec, read_spec
from score.data.prepare import boxes, coco, isaid, labelme, samrs, semantic, yolo
from score.data.prepare.parts import Plan
from score.errors import ConfigError, DataError

SAMRS, OWN = ("sior", "sota", "fast"), ("coco", "yolo", "labelme", "geo")
BOXES = {"dota": ".txt", "dior": ".xml"}
NAMES = ("isaid", "nwpu", *SAMRS, *semantic.FORMS, *BOXES, *OWN)
KIT = {"isaid": (800, 200)}  # tiles of the published kits

Settings = Mapping[str, Any]


def plan(dataset: str, settings: Settings) -> Plan:
    """What a source will become.

    Args:
        dataset: one of `NAMES`, but ``geo``, which :mod:`score.geo.labels` reads.
        settings: of ``configs/commands/prepare.yaml``.

    Raises:
        ConfigError: no such source, or a setting that it needs is missing.
        DataError: the source is not there, or cannot be read.
    """
    if dataset not in NAMES:
        raise ConfigError(f"dataset={dataset}: not a source; there are {', '.join(NAMES)}")
    if not settings["source"]:
        raise ConfigError("source: not given; add source=FOLDER")
    source = Path(settings["source"])
    if not source.exists():
        raise DataError(f"source={source}: no such folder")
    size, overlap = tiles(dataset, settings)
    make = _published if (FOLDER / f"{dataset}.yaml").is_file() else _own
    return make(dataset, source, settings, size, overlap)


def tiles(dataset: str, settings: Settings) -> tuple[int | None, int]:
    """A tile's side and the overlap in pixels, as given, or as the dataset's kit has them."""
    size, overlap = KIT.get(dataset, (None, 0))
    given = settings["tile_size_px"], settings["overlap_px"]
    return given[0] if given[0] is not None else size, given[1] if given[1] is not None else overlap if given[
        0
    ] is None else 0


def facts(settings: Settings, size: int | None, overlap: int) -> dict[str, Any]:
    """What a result depends on."""
    return {"tiles": [size, overlap], **{key: settings[key] for key in ("min_pixels", "val", "seed", "split", "mend")}}


def _published(dataset: str, source: Path, settings: Settings, size: int | None, overlap: int) -> Plan:
    """A dataset that is known by name: its classes are those of its file."""
    spec, least = read_spec(FOLDER / f"{dataset}.yaml"), settings["min_pixels"]
    split = settings["split"] or next(iter(spec.splits))
    if dataset == "isaid":
        items, notes = isaid.items(source, size or 1 << 30, overlap, least)
        if not items:
            images = Path(settings["images"] or (source.parent if source.is_file() else source))
            items, more = isaid.json_items(source, images, size or 1 << 30, overlap, least)
            notes = more if items else notes
        if not items and notes:
            raise DataError(f"{source}: nothing of iSAID can be used; {notes[0]}")
        if not items:
            return _from_coco(spec.name, source, settings, size, overlap, spec)
    elif dataset == "nwpu":
        return _from_coco(spec.name, source, settings, size, overlap, spec)
    elif dataset in SAMRS:
        lists = {name: Path(path) for name, path in settings["lists"].items() if path}
        items, notes = samrs.items(source, spec.classes, split, lists)
    else:
        items, notes = semantic.items(source, dataset, split, size, overlap)
    labels = dataset in semantic.FORMS
    return Plan(dataset, spec.classes, items, spec.licence, spec.source, notes, labels, facts(settings, size, overlap))


def _own(dataset: str, source: Path, settings: Settings, size: int | None, overlap: int) -> Plan:
    """One's own labels: the classes are those that they name."""
    if dataset in BOXES:
        names, items, notes = boxes.items(source, BOXES[dataset])
        return Plan(dataset, names, items, source=dataset, notes=notes, facts=facts(settings, size, overlap))
    name = settings["name"]
    if not name or (FOLDER / f"{name}.yaml").is_file():
        raise ConfigError(f"name={name}: give the dataset a name of its own, as in name=harbours")
    if dataset == "coco":
        return _from_coco(name, source, settings, size, overlap)
    reads: Callable[[Path], Any] = yolo.items if dataset == "yolo" else labelme.items
    if size is not None:
        raise ConfigError(f"tile_size_px={size}: {dataset} is taken whole; cut the result with dataset=coco")
    names, items, notes = reads(source)
    return Plan(name, names, items, source=str(source), notes=notes, facts=facts(settings, size, overlap))


def _from_coco(
    name: str, source: Path, settings: Settings, size: int | None, overlap: int, spec: Spec | None = None
) -> Plan:
    json, images = coco.find(source) if not settings["images"] else (source, Path(settings["images"]))
    split = settings["split"] or (next(iter(spec.splits)) if spec else "train")
    choice = {key: settings[key] for key in ("val", "seed", "mend")}
    names, items = coco.items(json, images, split, size=size, overlap=overlap, least=settings["min_pixels"], **choice)
    made = facts(settings, size, overlap)
    if spec:
        return Plan(name, spec.classes, items, spec.licence, spec.source, facts=made)
    return Plan(name, names, items, source=str(source), facts=made)
