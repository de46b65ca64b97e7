"""The writer: items in processes, each part kept when it is done, one JSON a split at the end."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import yaml

from score.data.coco_json import categories
from score.data.prepare.parts import Item, Part, Plan
from score.errors import ConfigError, DataError, OutputError
from score.files import locked, save_json, write_text, write_whole
from score.names import check, normalise

PARTS, FACTS, SUMMARY, SPEC = ".parts", "facts.json", "prepared.json", "dataset.yaml"

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """What was prepared.

    Attributes:
        images, instances: by split.
        classes: instances by split and class.
        dropped: what was left out, by the reason.
        notes: what else should be known.
    """

    images: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Progress:
    """How many items are done, now and in an earlier run, of how many, and in how many seconds."""

    done: int
    before: int
    items: int
    seconds: float


def prepare(
    plan: Plan,
    root: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Write a dataset in the working layout: ``NAME/SPLIT/images`` and ``NAME/SPLIT/instances_SPLIT.json``.

    What is written does not depend on the number of workers, nor on interruptions: each item's part is kept in
    ``NAME/.parts`` until all are done, and a second call does what is left. JSON files appear last, and whole.

    Args:
        plan: of a source.
        root: of the working layout.
        workers: processes; each holds one image of the source.
        overwrite: begin anew where the folder holds a dataset that was prepared otherwise.
        report: called after each item.

    Raises:
        ConfigError: names that cannot be those of a dataset, a split or a class.
        DataError: items that cannot be read, after all others have been done; or none, or two of one name.
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = root / plan.place
    _require(plan)
    with locked(folder):
        _check(folder, plan, overwrite)
        failed = _work(plan, folder, workers, report)
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise DataError(f"{failed[0]}{more}; the others are kept: the same command goes on with what is left")
        summary = _fold(plan, folder)
        _write_spec(plan, folder, summary)
        save_json(folder / SUMMARY, {"facts": _facts(plan), **asdict(summary)})
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return summary


def _require(plan: Plan) -> None:
    """Refuse what cannot be written, or not be found again."""
    for name in (plan.name, *(item.split for item in plan.items)):
        if not re.fullmatch(r"[^\W_][^/\\:*?\"<>|]*", name):
            raise ConfigError(
                f"a dataset or split called {name!r}: begin with a letter or digit, and leave out / and \\"
            )
    if not plan.items:
        raise DataError(f"{plan.source or plan.name}: nothing in it that {plan.name} is made of")
    check(plan.classes, f"the classes of {plan.source or plan.name}")
    keys = Counter((item.split, item.key) for item in plan.items)
    (split, key), count = keys.most_common(1)[0]
    if count > 1:
        raise DataError(f"{plan.source or plan.name}: {count} images of {split} are called {key}; give each a name")


def _facts(plan: Plan) -> dict[str, Any]:
    facts = {"classes": list(plan.classes), "source": plan.source, "labels": plan.labels, **plan.facts}
    return dict(json.loads(json.dumps(facts)))


def _check(folder: Path, plan: Plan, overwrite: bool) -> None:
    """Make sure that nothing of somebody else's is replaced."""
    facts, known = _facts(plan), None
    for path in (folder / PARTS / FACTS, folder / SUMMARY):
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                known = dict(known.get("facts", known))
            except (ValueError, AttributeError, TypeError) as error:
                raise DataError(f"{path}: damaged; remove {folder} and begin anew") from error
            break
    there = [path for split in {item.split for item in plan.items} for path in [folder / split] if path.exists()]
    if known is None and there and not overwrite:
        raise OutputError(f"{there[0]} exists and was not made by this; move it away, or set overwrite=true")
    if known is not None and known != facts and not overwrite:
        differ = sorted(key for key in {*known, *facts} if known.get(key) != facts.get(key))
        raise OutputError(f"{folder} was prepared with another {', '.join(differ)}; set overwrite=true to replace it")
    if overwrite and known != facts:
        for path in (*there, folder / PARTS):
            shutil.rmtree(path, ignore_errors=True)
    save_json(folder / PARTS / FACTS, facts)


def _work(plan: Plan, folder: Path, workers: int, report: Callable[[Progress], None]) -> list[str]:
    """Do the items whose part is not there; what was wrong with those that failed."""
    todo = [item for item in plan.items if not _part(folder, item).exists()]
    begin, before = time.perf_counter(), len(plan.items) - len(todo)
    failed: dict[str, str] = {}
    for number, (item, error) in enumerate(_results(todo, folder, workers), start=1):
        if error:
            failed[item.key] = error
        report(Progress(before + number, before, len(plan.items), time.perf_counter() - begin))
    return [failed[key] for key in sorted(failed)]


def _results(todo: list[Item], folder: Path, workers: int) -> Iterator[tuple[Item, str]]:
    """Items as they are done, with what was wrong, or "". No more than a few wait for a worker at a time."""
    if workers <= 1 or len(todo) < 2:
        yield from ((item, _do(item, folder)) for item in todo)
        return
    waiting, left = dict[Future[str], Item](), iter(todo)
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([__name__])  # imported once for all
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
        while True:
            while len(waiting) < 2 * workers and (item := next(left, None)):
                waiting[pool.submit(_do, item, folder)] = item
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


def _do(item: Item, folder: Path) -> str:
    """Do one item and keep its part; what a worker process does."""
    try:
        part = item.work(folder / item.split)
    except DataError as error:
        return str(error)
    save_json(_part(folder, item), {"images": part.images, "dropped": part.dropped, "notes": +part.notes}, indent=None)
    return ""


def _part(folder: Path, item: Item) -> Path:
    return folder / PARTS / item.split / f"{item.key}.json"


def _fold(plan: Plan, folder: Path) -> Summary:
    """Write one JSON a split from all parts, never holding more than one of them."""
    summary, dropped, notes = Summary(), Counter[str](), Counter[str]()
    number = {normalise(name): index for index, name in enumerate(plan.classes, start=1)}
    for split in sorted({item.split for item in plan.items}):
        items = sorted((item for item in plan.items if item.split == split), key=lambda item: item.key)
        counts, images = Counter[str](), 0
        for part in _parts(folder, items):
            images += len(part.images)
            counts.update(each["category"] for image in part.images for each in image["annotations"])
            dropped, notes = dropped + part.dropped, notes + part.notes
        summary.images[split] = images
        if plan.labels:
            continue
        summary.instances[split] = sum(counts.values())
        found = {normalise(name): count for name, count in counts.items()}
        summary.classes[split] = {name: found.get(normalise(name), 0) for name in plan.classes}
        unknown = sorted(set(found) - set(number))
        if unknown:
            raise DataError(f"{plan.source}: a class {unknown[0]!r} that {plan.name} does not have")
        write_whole(folder / split / f"instances_{split}.json", _writer(plan, folder, items, number))
    summary.dropped = dict(sorted(dropped.items()))
    summary.notes = [*plan.notes, *(f"{what}: {count}" for what, count in sorted(notes.items()))]
    return summary


def _parts(folder: Path, items: Iterable[Item]) -> Iterator[Part]:
    for item in items:
        content = json.loads(_part(folder, item).read_text(encoding="utf-8"))
        yield Part(content["images"], Counter(content["dropped"]), Counter(content["notes"]))


def _writer(plan: Plan, folder: Path, items: list[Item], number: dict[str, int]) -> Callable[[Path], None]:
    """What writes a split's COCO JSON to a path."""

    def images() -> Iterator[dict[str, Any]]:
        entries = (image for part in _parts(folder, items) for image in part.images)
        for index, image in enumerate(entries, start=1):
            yield {"id": index, **{key: value for key, value in image.items() if key != "annotations"}}

    def annotations() -> Iterator[dict[str, Any]]:
        entries = (image for part in _parts(folder, items) for image in part.images)
        index = 0
        for image_id, image in enumerate(entries, start=1):
            for each in image["annotations"]:
                index += 1
                rest = {key: value for key, value in each.items() if key != "category"}
                yield {"id": index, "image_id": image_id, "category_id": number[normalise(each["category"])], **rest}

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            head = {"info": {"description": plan.name, "source": plan.source}, "licenses": [{"name": plan.licence}]}
            file.write(json.dumps({**head, "categories": categories(plan.classes)}, ensure_ascii=False)[:-1])
            for key, entries in (("images", images()), ("annotations", annotations())):
                file.write(f', "{key}": [')
                for index, each in enumerate(entries):
                    file.write((",\n" if index else "\n") + json.dumps(each, ensure_ascii=False))
                file.write("]")
            file.write("}\n")

    return write


def _write_spec(plan: Plan, folder: Path, summary: Summary) -> None:
    """Write ``dataset.yaml``, by which ``data=NAME_SPLIT`` finds it."""
    splits = {}
    for split, count in summary.images.items():
        place = f"{plan.place}/{split}"
        truth = {"labels": f"{place}/labels"} if plan.labels else {"annotations": f"{place}/instances_{split}.json"}
        expected = {"images": count} | ({} if plan.labels else {"instances": summary.instances[split]})
        splits[split] = {"images": f"{place}/images", **truth, "expected": expected}
    spec = {"name": plan.name, "classes": list(plan.classes), "splits": splits, "licence": plan.licence,
            "source": plan.source}  # fmt: skip
    write_text(folder / SPEC, yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120))


def processors() -> int:
    """How many processes run at once on this machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
