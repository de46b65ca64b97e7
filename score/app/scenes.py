"""Many scenes in, as a catalogue lists them; one table out, in GeoParquet files or in PostGIS."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from score.app import prediction
from score.app.rasters import ASKING, LOOKING, READING, VECTORS
from score.errors import ConfigError, DataError
from score.files import is_catalogue, is_database, locked
from score.geo import catalogue, engine, scenes
from score.geo.catalogue import Scene
from score.geo.raster import Raster
from score.geo.store import Folder, Store

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from score.segmenter import Segmenter


@dataclass(frozen=True)
class Make:
    """Makes, in each process that is to do scenes, what does so.

    Attributes:
        settings: of ``score predict``.
        words: to look for.
        weights: of the model that all processes are to have.
    """

    settings: Mapping[str, Any]
    words: Sequence[str]
    weights: str

    def __call__(self) -> engine.Work:
        """Load the model."""
        segmenter = prediction.load_segmenter(self.settings)
        if segmenter.model.weights != self.weights:
            raise ConfigError(f"model={self.settings['model']}: a worker has another one of this name; use one folder")
        return functools.partial(self.work, segmenter)

    def work(self, segmenter: Segmenter, scene: Scene) -> GeoDataFrame:
        """Find the objects of a scene."""
        raster = Raster(scene.href, **{key: self.settings[key] for key in READING})
        raster.date = scene.date or raster.date
        view = segmenter.look_raster(raster, **{key: self.settings[key] for key in LOOKING})
        choice = {key: self.settings[key] for key in ASKING}
        found = view.ask(list(self.words), vectors={key: self.settings[key] for key in VECTORS}, **choice)
        found.attrs["damaged"] = view.progress.failed
        return found


def run(settings: Mapping[str, Any], words: Sequence[str], say: Callable[[str], None]) -> scenes.Done:
    """Find objects in all scenes of a catalogue.

    Args:
        settings: of ``configs/commands/predict.yaml``.
        words: to look for.
        say: takes a line about each scene.

    Raises:
        ScoreError: the catalogue, the model, the engine or the output cannot be used.
    """
    given, left_out = _scenes(settings)
    for line in left_out:
        say(line)
    segmenter = prediction.load_segmenter(settings)
    segmenter.vocabulary(list(words))  # refused, if at all, before anything is written
    shown = (*READING, *LOOKING, *VECTORS, *ASKING)
    facts = {
        "weights": segmenter.model.weights, "vocabulary": list(words), "ensemble": asdict(segmenter.ensemble),
        "thresholds": segmenter.model.calibration._asdict(), "resize": list(segmenter.resize),
        "towers": segmenter.model.towers_in, **{key: settings[key] for key in shown},
    }  # fmt: skip
    make = Make({**settings, "output": None}, words, segmenter.model.weights)  # without a password that it may hold
    start, store = _engine(settings["engine"]), _store(settings["output"], facts)
    do = functools.partial(scenes.run, given, make, store, engine=start, overwrite=settings["overwrite"], say=say)
    say(f"{len(given)} scenes, to {store}")
    if isinstance(store, Folder):
        with locked(store.path):
            done = do()
    else:
        done = do()
    done.failed.extend(left_out)
    return done


def _scenes(settings: Mapping[str, Any]) -> tuple[list[Scene], list[str]]:
    source = settings["images"]
    if is_catalogue(source):
        return catalogue.read(source, **settings["stac"])
    photographs, rasters = prediction.sort_out(prediction.find_images(source))
    left_out = [f"{path}: no raster; photographs have no place in a table of the ground" for path in photographs]
    if not rasters:
        raise DataError(left_out[0])
    return catalogue.files(rasters), left_out


def _store(output: str, facts: Mapping[str, Any]) -> Store:
    if is_database(output):
        from score.geo.postgis import PostGIS  # psycopg, not needed for files

        return PostGIS(output, facts)
    return Folder(Path(output), facts)


def _engine(given: Mapping[str, Any]) -> Callable[[Sequence[Scene], engine.Task], Generator[engine.Came]]:
    settings = dict(given)
    kind = settings.pop("kind")
    for key in ("retries", "workers"):
        if key in settings and (type(settings[key]) is not int or settings[key] < (key == "workers")):
            raise ConfigError(f"engine.{key}={settings[key]}: a whole number of at least {int(key == 'workers')}")
    if kind == "local":
        return functools.partial(engine.local, **settings)
    if settings["cluster"] is not None:
        import hydra

        settings["cluster"] = hydra.utils.instantiate(settings["cluster"])
    return functools.partial(engine.dask, **settings)


def main(settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Do it as a command: exit code 1 says that some of the scenes could not be done, and which."""
    done = run(settings, words, functools.partial(print, flush=True))
    if done.before:
        print(f"done before: {done.before}")
    total = ", ".join(f"{count} {word}" for word, count in sorted(done.counts.items())) or "nothing"
    print(f"in all: {total}")
    if done.failed:
        print(f"{len(done.failed)} scenes could not be done:", *done.failed, sep="\n", file=sys.stderr)
    if done.damaged:
        print(f"{done.damaged} tiles could not be read; the ledger says of which scenes", file=sys.stderr)
    if done.failed or done.damaged:
        sys.exit(1)
