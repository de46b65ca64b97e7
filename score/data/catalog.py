"""Datasets by name: ``datasets/*.yaml``, and those of the root, to detectron2's catalogs; one's own COCO JSON beside.

Every split is registered as ``NAME_SPLIT`` and read when it is first asked for. Its metadata: ``thing_classes`` (names
as the spec spells them), ``json_file``, ``image_root``, ``label_root``, ``evaluator_type``, ``licence``,
``score_name``, ``score_split``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from score.data import coco_json
from score.data.labels import read_folders
from score.data.synthetic import generate as synthetic
from score.errors import ConfigError, DataError
from score.files import cache_folder, shipped
from score.names import check

logger = logging.getLogger(__name__)

FOLDER = shipped("datasets")
ROOT_VARIABLE = "SCORE_DATASETS"
CACHE_VARIABLE = "SCORE_CACHE"


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset: paths relative to the root, and counts where they are known.

    ``labels`` is a folder of label images, whose values are positions in the classes (255: unlabelled), for a semantic
    dataset; all others have ``annotations``.

    ``part`` takes a share of the files' images, for a set without an official split: ``{seed, start, end}``, the ends
    in 0..1 of the images in an order drawn from the seed.

    ``outside`` allows file names of the annotations to lead out of ``images``.
    """

    images: str
    annotations: str | None = None
    labels: str | None = None
    expected: dict[str, int] = field(default_factory=dict)  # images, instances
    part: dict[str, Any] | None = None
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A dataset as its YAML file states it.

    Attributes:
        name: its name; splits are registered as ``name_split``.
        classes: class names in their order, spelled as published.
        splits: by name.
        licence: terms of use, in words.
        source: where it comes from.
        notes: what one should know before using it.
        generate: for synthetic sets: ``size``, ``seed`` and the number of ``images`` by split.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    licence: str
    source: str
    notes: str = ""
    generate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """Where a registered name finds its files; ``json`` is None while no root is known."""

    names: tuple[str, ...]
    json: Path | None
    images: Path | None
    states_names: str  # what states the names, for messages
    expected: tuple[tuple[str, int], ...] = ()
    draw: partial[Path] | None = None  # makes the files of a synthetic split
    part: tuple[tuple[str, Any], ...] | None = None  # the share of the images that is taken
    licence: str = ""  # terms of use, for cards and reports
    labels: Path | None = None  # of a semantic dataset, in place of the JSON
    outside: bool = False  # may file names lead out of the folder of images?
    left_out: tuple[str, ...] = ()  # categories of the JSON that are no classes


def read_spec(path: Path) -> Spec:
    """Read a dataset's YAML file.

    Raises:
        DataError: a missing or unknown key, or class names given twice.
    """
    try:
        content = yaml.safe_load(path.read_text())
        content["classes"] = tuple(content["classes"])
        content["splits"] = {name: Split(**split) for name, split in content["splits"].items()}
        spec = Spec(**content)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a dataset's spec ({error}); see datasets/nwpu.yaml") from error
    try:
        check(spec.classes, "its classes")
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    return spec


def register(
    root: Path | None = None, *, cache: Path | None = None, generate: Mapping[str, Any] | None = None
) -> dict[str, Spec]:
    """Register every split of ``datasets/*.yaml`` and of what ``score prepare`` wrote; nothing else is read yet.

    Args:
        root: of the datasets' working layout; by default what ``SCORE_DATASETS`` names.
        cache: where synthetic sets go that are not under the root; by default what ``SCORE_CACHE`` names.
        generate: overrides ``size``, ``seed`` and ``images`` (by split) of the synthetic sets.

    Returns:
        The specs by name.
    """
    if root is None and os.environ.get(ROOT_VARIABLE):
        root = Path(os.environ[ROOT_VARIABLE])
    cache = (cache_folder(cache or os.environ.get(CACHE_VARIABLE) or "user") or Path("cache")) / "datasets"
    own = sorted(path for place in ("*", "semantic/*") for path in root.glob(f"{place}/dataset.yaml")) if root else []
    specs: dict[str, Spec] = {}
    for spec in map(read_spec, [*own, *sorted(FOLDER.glob("*.yaml"))]):  # those shipped come first
        prepared = specs.get(spec.name)
        more = prepared.splits if prepared and prepared.classes == spec.classes else {}
        specs[spec.name] = replace(spec, splits={**more, **spec.splits})
    for spec in specs.values():
        for split in spec.splits:
            _register(spec.name, split, _source(spec, split, root, cache, generate or {}))
    return specs


def _source(spec: Spec, split: str, root: Path | None, cache: Path, generate: Mapping[str, Any]) -> Source:
    """Where a split is, or will be drawn."""
    paths, draw = spec.splits[split], None
    if (paths.annotations is None) == (paths.labels is None):
        raise DataError(f"datasets/{spec.name}.yaml: {split} needs either annotations or labels")
    if spec.generate is not None and not (root and (root / (paths.annotations or "")).is_file()):
        settings = {**spec.generate, **generate}
        images = {**spec.generate["images"], **generate.get("images", {})}[split]
        size, seed = settings["size"], settings["seed"]
        root = cache / f"{images}x{size}px-seed{seed}"  # other settings leave it alone
        draw = partial(synthetic.generate, root, spec.name, split, images=images, size=size, seed=seed)
    return Source(
        names=spec.classes,
        json=root / paths.annotations if root and paths.annotations else None,
        labels=root / paths.labels if root and paths.labels else None,
        images=root / paths.images if root else None,
        states_names=f"datasets/{spec.name}.yaml",
        expected=tuple(paths.expected.items()),
        draw=draw,
        part=tuple(paths.part.items()) if paths.part else None,
        licence=spec.licence,
        outside=paths.outside,
    )


def custom(json: Path, images: Path, name: str = "custom", *, outside: bool = False, empty_classes: bool = True) -> str:
    """Register one's own COCO JSON; class names are the JSON's, in the order of their ids.

    Args:
        json: a COCO JSON of instances.
        images: the folder that its file names are relative to.
        name: to register it as; a number is appended where other files already have it.
        outside: whether its file names may lead out of ``images``.
        empty_classes: whether categories without instances are classes.

    Returns:
        The registered name.

    Raises:
        DataError: the JSON or an image cannot be used.
    """
    json, images = Path(json), Path(images)
    coco = coco_json.read(json, images, outside).require()
    left_out = () if empty_classes else tuple(coco.unused)
    source = Source(
        names=tuple(name for name in coco.names.values() if name not in left_out),
        json=json,
        images=images,
        states_names=str(json),
        outside=outside,
        left_out=left_out,
    )
    return _enter(name, source)


def custom_maps(images: Path, labels: Path, classes: Sequence[str], name: str = "custom") -> str:
    """Register one's own label images.

    Args:
        images: a folder.
        labels: a folder with ``NAME.png`` for each image ``NAME.*``: values are positions in ``classes``, 255 is
            unlabelled.
        classes: names in the order of the values.
        name: to register it as; a number is appended where other files already have it.

    Returns:
        The registered name.

    Raises:
        DataError: a class name is empty or said twice; files are checked when they are loaded.
    """
    try:
        names = tuple(check(classes, "its classes"))
    except ConfigError as error:
        raise DataError(f"{labels}: {error}") from error
    return _enter(name, Source(names=names, json=None, images=images, labels=labels, states_names="its entry"))


def _enter(name: str, source: Source) -> str:
    """Register a source under a name, or the first free one like it."""
    free, number = name, 1
    while free in DatasetCatalog.list() and source_of(free) != source:
        number += 1
        free = f"{name}_{number}"
    _register(free, "", source)
    return free


def source_of(name: str) -> Source | None:
    """Where a registered name finds its files, None if it is not one of ours."""
    found = DatasetCatalog[name] if name in DatasetCatalog.list() else None
    return found.args[1] if isinstance(found, partial) and found.func is _load else None


def _register(name: str, split: str, source: Source) -> None:
    """Enter a source into both catalogs; one that was there is replaced if it differs."""
    full = f"{name}_{split}" if split else name
    if full in DatasetCatalog.list():
        if source_of(full) == source:
            return
        DatasetCatalog.remove(full)
    if full in MetadataCatalog.list():
        MetadataCatalog.remove(full)
    DatasetCatalog.register(full, partial(_load, full, source))
    MetadataCatalog.get(full).set(
        thing_classes=list(source.names),
        json_file=str(source.json) if source.json else None,
        image_root=str(source.images) if source.images else None,
        label_root=str(source.labels) if source.labels else None,
        evaluator_type="sem_seg" if source.labels else "coco",
        licence=source.licence,
        score_name=name,
        score_split=split,
    )


def require(name: str) -> str:
    """Return a registered name as it is.

    Raises:
        DataError: there is no dataset of that name; the message lists those there are.
    """
    known = [key for key in DatasetCatalog.list() if source_of(key)]
    if name not in known:
        raise DataError(f"no dataset {name}; there are {', '.join(known) or 'none registered'}")
    return name


def require_source(name: str) -> Source:
    """Where a registered name finds its files.

    Raises:
        DataError: there is no dataset of that name.
    """
    source = source_of(require(name))
    assert source is not None
    return source


def is_drawn(name: str) -> bool:
    """Whether a dataset is drawn when it is first asked for, rather than read from files one has to bring."""
    return require_source(name).draw is not None


def load(name: str) -> list[dict[str, Any]]:
    """Read a registered dataset, checked.

    Returns:
        detectron2's dicts: ``file_name``, ``height``, ``width``, ``image_id``, and ``annotations`` with ``bbox``,
        ``bbox_mode``, ``category_id`` (index into ``thing_classes``), ``segmentation`` (tuples ``x, y, x, y, ...``, one
        a polygon, or a compressed RLE) and ``iscrowd``, and ``area`` where it is stated. They are the caller's own.
        What :mod:`score.data.coco_json` repairs or leaves out is logged, once for a file.

    Raises:
        DataError: no such dataset, or one of the faults that ``score.data.coco_json`` knows.
    """
    records: list[dict[str, Any]] = DatasetCatalog.get(require(name))
    return records


def _load(name: str, source: Source) -> list[dict[str, Any]]:
    """Read, check and convert; what the catalog calls."""
    if source.images is not None and source.labels is not None:
        return read_folders(source.images, source.labels, len(source.names))
    if source.json is None or source.images is None:
        raise DataError(f"{name}: no root of datasets is set; set {ROOT_VARIABLE}=FOLDER or paths.datasets=FOLDER")
    if source.draw is not None:
        source.draw()
    coco = coco_json.read(source.json, source.images, source.outside).require()
    index = coco_json.match(coco, [*source.names, *source.left_out], source.states_names)
    for what, count in source.expected:
        if coco.counts[what] != count:
            logger.warning("%s: %d %s instead of %d; figures will not compare", name, coco.counts[what], what, count)
    return [
        {
            **record,
            "annotations": [
                {**item, "category_id": index[item["category_id"]], "segmentation": _own(item["segmentation"])}
                for item in record["annotations"]
                if index[item["category_id"]] < len(source.names)
            ],
        }
        for record in part(coco.records, source)
    ]


def _own(segmentation: Any) -> Any:
    """A copy of what can be changed; polygons cannot."""
    return dict(segmentation) if isinstance(segmentation, Mapping) else segmentation


def part(images: list[dict[str, Any]], source: Source) -> list[dict[str, Any]]:
    """The share of the images that a split takes, in the file's order."""
    if source.part is None:
        return images
    part = dict(source.part)
    order = np.random.default_rng(part["seed"]).permutation(len(images))
    taken = order[round(part["start"] * len(images)) : round(part["end"] * len(images))]
    return [images[index] for index in sorted(taken.tolist())]
