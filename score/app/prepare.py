"""Make a dataset: ``score prepare dataset=NAME source=FOLDER``, from what is published or drawn to the working layout.

It writes NAME/SPLIT/images and NAME/SPLIT/instances_SPLIT.json below ``paths.datasets``, so that ``data=NAME_SPLIT`` is
found; the same command goes on after a stop. Exit code 1 says that counts differ from those that are expected.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from score.app.command import command, plain
from score.errors import ConfigError


@command("commands/prepare")
def main(config: DictConfig) -> None:
    from score.data.prepare import run, sources  # not before the settings have been read
    from score.engine import checks
    from score.studies.prepared import write_page

    checks.check_numbers(config)
    settings = plain(config)
    if not settings["paths"]["datasets"]:
        raise ConfigError("paths.datasets: not given; set SCORE_DATASETS=FOLDER or add paths.datasets=FOLDER")
    root, workers = Path(settings["paths"]["datasets"]), settings["workers"] or run.processors()
    plan = _geo(settings) if settings["dataset"] == "geo" else sources.plan(settings["dataset"], settings)
    print(f"{plan.name}: {len(plan.items)} images in the source, {len(plan.classes)} classes", flush=True)
    said = time.monotonic()

    def report(progress: run.Progress) -> None:
        nonlocal said
        if time.monotonic() - said > 10:
            said = time.monotonic()
            now = progress.done - progress.before
            left = timedelta(seconds=round((progress.items - progress.done) * progress.seconds / now))
            print(f"  {progress.done} of {progress.items}, {left} left", flush=True)

    summary = run.prepare(plan, root, workers=workers, overwrite=settings["overwrite"], report=report)
    _tell(plan.classes, summary)
    differ = _differences(plan.name, summary)
    folder = root / plan.place
    write_page(folder / "report.html", plan, summary, folder, differ)
    print(f"saved in {folder}, with report.html; data={plan.name}_{next(iter(summary.images))} finds it")
    if differ:
        print(*differ, sep="\n", file=sys.stderr)
        if not settings["accept_counts"]:
            print("accept_counts=true takes them as they are", file=sys.stderr)
            sys.exit(1)


def _geo(settings: dict[str, Any]) -> Any:
    """A raster and a vector layer."""
    from score.data.prepare.parts import Plan
    from score.data.prepare.sources import facts, tiles
    from score.geo import labels  # GDAL, not needed for others

    missing = [key for key in ("raster", "vectors", "name") if not settings[key]]
    if missing:
        raise ConfigError(f"{missing[0]}: not given; add {missing[0]}=VALUE")
    size, overlap = tiles("geo", settings)
    choice = {"layer": settings["layer"], "inside": Path(settings["inside"]) if settings["inside"] else None}
    reading = {key: settings[key] for key in ("bands", "stretch", "nodata", "gsd_m", "resampling")}
    names, items, notes = labels.items(
        Path(settings["raster"]), Path(settings["vectors"]), settings["name_field"], **choice,
        size=size or 512, overlap=overlap, least=settings["min_pixels"],
        val=0.2 if settings["val"] is None else settings["val"], seed=settings["seed"], reading=reading,
    )  # fmt: skip
    given = {key: settings[key] for key in ("raster", "vectors", "name_field", "layer", "inside")}
    source = f"{settings['raster']} and {settings['vectors']}"
    return Plan(settings["name"], names, items, source=source, notes=notes,
                facts={**facts(settings, size or 512, overlap), **given, "reading": reading})  # fmt: skip


def _tell(classes: Any, summary: Any) -> None:
    """Counts of splits and classes, what was left out, and what else should be known."""
    from tabulate import tabulate

    splits = list(summary.images)
    rows = [["images", *(summary.images[split] for split in splits)]]
    if summary.instances:
        rows.append(["instances", *(summary.instances[split] for split in splits)])
        rows += [[f"  {name}", *(summary.classes[split][name] for split in splits)] for name in classes]
    print(tabulate(rows, headers=["", *splits], tablefmt="plain"))
    for what, count in summary.dropped.items():
        print(f"left out: {count} {what}")
    for note in summary.notes[:20]:
        print(f"note: {note}")
    if len(summary.notes) > 20:
        print(f"note: and {len(summary.notes) - 20} more, in prepared.json")


def _differences(name: str, summary: Any) -> list[str]:
    """Where counts are not those that the dataset's shipped file expects."""
    from score.data.catalog import FOLDER, read_spec

    path = FOLDER / f"{name}.yaml"
    expected = {split: each.expected for split, each in read_spec(path).splits.items()} if path.is_file() else {}
    return [
        f"{name}_{split}: {found[split]} {what}, but {path.name} expects {expected[split][what]}"
        for what, found in (("images", summary.images), ("instances", summary.instances))
        for split in found
        if found[split] != expected.get(split, {}).get(what, found[split])
    ]
