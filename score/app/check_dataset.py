"""All that is wrong with a dataset, before training: ``score check_dataset data=NAME [against=[NAME]] [fix=FOLDER]``.

Findings that stop training are told apart from those that deserve a look. Exit code 0 says that there are none, 1 that
there are some, 2 that the dataset cannot be checked. ``fix`` writes a mended copy, in which all is changed that can be
read in one way only; the exit code is then that of the copy.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from score.app.command import command, plain

if TYPE_CHECKING:
    from score.data.catalog import Source, Spec
    from score.data.check import Checked, Target


@command("commands/check_dataset")
def main(config: DictConfig) -> None:
    from score.data import catalog  # not before the settings have been read
    from score.data.mend import check_target, mend
    from score.data.prepare.run import processors
    from score.engine import checks
    from score.files import check_writable, save_json

    checks.check_numbers(config, show=checks.FROM_0)
    settings = plain(config)
    root, workers = settings["paths"]["datasets"], settings["workers"] or processors()
    specs = catalog.register(Path(root) if root else None)
    targets = _targets("data", settings["data"], specs)
    others = _targets("against", settings["against"], specs)
    if settings["output"]:
        check_writable(Path(settings["output"]).parent)
    folder = Path(settings["fix"]) if settings["fix"] else None
    if folder:
        check_target(folder, targets)
    checked = _check(targets, others, workers)
    for result in checked:
        print(*_lines(result, settings["show"]), sep="\n")
    if settings["output"]:
        save_json(settings["output"], {one.target.name: [each._asdict() for each in one.findings] for one in checked})
        print(f"all of them: {settings['output']}")
    if folder:
        mended = mend(checked, folder)
        print(*_changes(mended.changes, settings["show"]), sep="\n")
        checked = _check(mended.targets, others, workers)
        print(f"\nthe mended copy, {folder}; what changed is listed in {folder / 'changes.txt'}")
        for result in checked:
            print(*_lines(result, settings["show"]), sep="\n")
    sys.exit(any(result.findings for result in checked))


def _check(targets: list[Target], others: list[Target], workers: int) -> list[Checked]:
    """Check, without the notes of what is repaired in reading, which are findings here."""
    from score.data.check import check

    logger, said = logging.getLogger("score.data"), 0.0

    def report(done: int, images: int) -> None:
        nonlocal said
        if done == 1:
            said = time.monotonic()
        elif time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"  {done:,} of {images:,} images read", file=sys.stderr, flush=True)

    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return check(targets, others, workers, report)
    finally:
        logger.setLevel(level)


def _targets(key: str, entries: Any, specs: Mapping[str, Spec]) -> list[Target]:
    """What a setting names: splits, datasets, one's own files."""
    from score.data import catalog
    from score.data.check import Target
    from score.errors import ConfigError

    found: dict[str, catalog.Source] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, dict):
            name, source = _own(key, entry)
            number = 1 + sum(re.fullmatch(rf"{re.escape(name)}(_\d+)?", other) is not None for other in found)
            found[name if number == 1 else f"{name}_{number}"] = source
        elif entry in specs:
            splits = [split for split, each in specs[entry].splits.items() if each.part is None]
            found |= {f"{entry}_{split}": catalog.require_source(f"{entry}_{split}") for split in splits}
        else:
            found[f"{entry}"] = catalog.require_source(f"{entry}")
    if not found and key == "data":
        raise ConfigError("data=[]: no dataset; name at least one")
    return [Target(name=name, source=source) for name, source in found.items()]


def _own(key: str, entry: dict[str, Any]) -> tuple[str, Source]:
    """A name for one's own files, and where they are."""
    from score.data.catalog import Source
    from score.errors import ConfigError

    keys, outside = set(entry), entry.get("outside", False)
    images, file = Path(str(entry.get("images"))), Path(str(entry.get("json", entry.get("labels"))))
    if keys == {"images", "labels", "classes"} and isinstance(entry["classes"], list):
        names = tuple(map(str, entry["classes"]))
        return file.name, Source(names=names, json=None, images=images, states_names="its entry", labels=file)
    if {"json", "images"} <= keys <= {"json", "images", "outside", "empty_classes"} and isinstance(outside, bool):
        return file.stem, Source(names=(), json=file, images=images, states_names=f"{file}", outside=outside)
    raise ConfigError(
        f"{key}={entry}: not readable; give a name, or {{json: FILE, images: FOLDER}}, beside them outside: true, or "
        "{images: FOLDER, labels: FOLDER, classes: [NAMES]}"
    )


def _lines(result: Checked, show: int) -> list[str]:
    """A dataset's findings, grouped and counted, in lines of at most 80 columns where no name is longer."""
    from score.data.check import totals
    from score.data.findings import count

    counts = ", ".join(f"{number:,} {what}" for what, number in result.counts.items())
    lines = ["", f"{result.target.name}: {counts}", f"  {result.target.source.json or result.target.source.images}"]
    stops = None
    number = totals(result)
    for (stopping, kind), findings in count(result.findings).items():
        if stopping != stops:
            stops = stopping
            lines += ["", f"  {'stops training' if stopping else 'deserves a look'}: {number[stopping]:,}"]
        lines += _wrapped(f"{kind}: {len(findings):,}", 4)
        for finding in findings[:show]:
            lines += _wrapped(f"{finding.where}{': ' if finding.what else ''}{finding.what}", 6)
        if 0 < show < len(findings):
            lines.append(f"      and {len(findings) - show:,} more")
    return lines if result.findings else [*lines, "  nothing found"]


def _changes(changes: list[tuple[str, str]], show: int) -> list[str]:
    """What was mended, grouped and counted."""
    groups: dict[str, list[str]] = {}
    for where, what in changes:
        groups.setdefault(what, []).append(where)
    lines = ["", f"mended: {len(changes):,}"]
    for what, places in groups.items():
        lines += _wrapped(f"{what}: {len(places):,}", 2)
        lines += [line for place in places[:show] for line in _wrapped(place, 4)]
        if 0 < show < len(places):
            lines.append(f"    and {len(places) - show:,} more")
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    blanks = " " * indent
    return textwrap.wrap(
        text, 80, initial_indent=blanks, subsequent_indent=f"{blanks}  ", break_long_words=False, break_on_hyphens=False
    )
