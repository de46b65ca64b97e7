"""Where the objects of many scenes go: a folder of GeoParquet files, or a PostGIS table; and what has been done."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from score.errors import DataError, OutputError
from score.files import append_line, check_writable, json_lines, write_whole
from score.geo import formats
from score.geo.catalogue import Scene

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

LEDGER, OBJECTS = "ledger.jsonl", "objects"
WGS84 = "OGC:CRS84"


@dataclass(frozen=True)
class Entry:
    """What a scene came to: a line of the ledger.

    Attributes:
        scene: its id.
        href: where it was.
        state: done or failed.
        seconds: that the last try took.
        objects: how many of each class.
        damaged: tiles of it that could not be read.
        reason: why it failed.
    """

    scene: str
    href: str
    state: str
    seconds: float = 0.0
    objects: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0
    reason: str = ""


class Store(Protocol):
    """Where results go. Workers write, one process at a time begins and notes; it can be pickled."""

    def begin(self, overwrite: bool) -> dict[str, Entry]:
        """Make what is needed, and say what has been done.

        Raises:
            OutputError: it cannot be written, or holds results of other settings and ``overwrite`` is not set.
        """

    def write(self, scene: Scene, found: GeoDataFrame, seconds: float) -> Entry:
        """Write the objects of a scene in place of those there; all of them or, killed, none."""

    def note(self, entry: Entry) -> None:
        """Keep what a scene came to."""


def refuse_other(place: str, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to mix results.

    Raises:
        OutputError: naming the settings that differ.
    """
    differ = sorted(key for key in {*known, *settings} if known.get(key) != settings.get(key))
    if differ:
        raise OutputError(
            f"{place} holds results with another {', '.join(differ)}; set overwrite=true to replace them, or choose "
            "another output"
        )


def entry(scene: Scene, found: GeoDataFrame, seconds: float) -> Entry:
    """What a scene that is done came to."""
    counts = {str(name): int(count) for name, count in sorted(Counter(found["class"]).items())}
    return Entry(scene.id, scene.href, "done", round(seconds, 3), counts, len(found.attrs.get("damaged", ())))


def on_the_globe(scene: Scene, found: GeoDataFrame) -> GeoDataFrame:
    """Objects with their scene, and with outlines in longitude and latitude, for scenes have many a CRS.

    Raises:
        DataError: the scene has no CRS.
    """
    if found.crs is None:
        raise DataError(f"{scene.href}: it has no CRS, which scenes of one table need")
    table = found.to_crs(WGS84)
    table = table.set_geometry(formats.cut_at_180(np.asarray(table.geometry.array, dtype=object)), crs=WGS84)
    table.insert(0, "scene", scene.id)
    return table


@dataclass(frozen=True)
class Folder:
    """``objects/SCENE.parquet`` for each scene with objects, and ``ledger.jsonl``: settings, then a line a scene.

    Attributes:
        path: of the folder; made if missing.
        settings: what results depend on.
    """

    path: Path
    settings: Mapping[str, Any]

    def begin(self, overwrite: bool) -> dict[str, Entry]:
        """See :class:`Store`."""
        check_writable(self.path)
        settings, ledger = json.loads(json.dumps(self.settings)), self.path / LEDGER
        known: dict[str, Entry] = {}
        objects = self.path / OBJECTS
        there = sorted(objects.glob("*.parquet"))
        if not ledger.exists() and there and not overwrite:
            raise OutputError(f"{objects} holds files without {LEDGER}; set overwrite=true, or choose another output")
        if ledger.exists() and not overwrite:
            lines = json_lines(ledger)
            refuse_other(str(self.path), next(lines, settings), settings)
            known = {line["scene"]: Entry(**line) for line in lines}
        if overwrite:
            ledger.unlink(missing_ok=True)  # first: files that no ledger lists are no results
            for path in there:
                path.unlink()
        for path in objects.glob(".*.parquet.*"):  # of processes that were killed
            path.unlink(missing_ok=True)
        if not known:
            write_whole(ledger, lambda partial: partial.write_text(json.dumps(settings) + "\n", encoding="utf-8"))
        return known

    def file(self, scene: Scene) -> Path:
        """Where the objects of a scene are."""
        name = re.sub(r"[^\w.-]", "_", scene.id, flags=re.ASCII).lstrip(".")[:100]
        if name != scene.id:  # two ids may have the same letters left
            name += "-" + hashlib.sha256(scene.id.encode()).hexdigest()[:8]
        return self.path / OBJECTS / f"{name}.parquet"

    def write(self, scene: Scene, found: GeoDataFrame, seconds: float) -> Entry:
        """See :class:`Store`. A scene without objects has no file, for bounds of nothing are none."""
        table, path = on_the_globe(scene, found), self.file(scene)
        if len(table):
            write_whole(path, lambda partial: formats.parquet(table, partial, OBJECTS))
        else:
            path.unlink(missing_ok=True)
        return entry(scene, found, seconds)

    def note(self, entry: Entry) -> None:
        """See :class:`Store`."""
        append_line(self.path / LEDGER, json.dumps(asdict(entry), ensure_ascii=False))

    def __str__(self) -> str:
        return str(self.path)
