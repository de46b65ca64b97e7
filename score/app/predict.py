"""Find objects: ``score predict images=[a.jpg,scene.tif] "vocabulary=[ship,'storage tank']" output=DIR``.

Of photographs it writes pictures and one COCO JSON, of rasters vectors on the ground, a picture and a map, as it goes,
and prints what was found in each; of a catalogue of scenes it makes one table, in GeoParquet files or in PostGIS, here
or on a dask cluster. The same command again does what is left. Exit code 1 says that some of the images could not
be read, and which.
"""

from __future__ import annotations

import functools
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from score.app.command import command, plain
from score.errors import DataError

if TYPE_CHECKING:
    from score.result import Result


@command("commands/predict")
def main(config: DictConfig) -> None:
    from score import runtime  # not before the settings have been read: PyTorch takes seconds
    from score.app import prediction
    from score.app.words import read_words
    from score.engine import checks
    from score.model.score import Calibration

    checks.check_numbers(config, top_k=checks.MAYBE_COUNT)
    runtime.log_to_stdout()
    settings = plain(config)
    prediction.check_picture(settings["picture"])
    words = read_words(settings["vocabulary"])
    if prediction.of_scenes(settings):
        from score.app import scenes  # dask and GDAL, not needed for photographs

        return scenes.main(settings, words)
    output = Path(settings["output"])
    photographs, rasters = prediction.sort_out(prediction.find_images(settings["images"], output))
    prediction.check_output(output, photographs)
    segmenter = prediction.load_segmenter(settings)
    model = segmenter.model
    settings["weights"] = model.weights

    def report(path: Path, found: Result | DataError) -> None:
        if not isinstance(found, DataError):
            print(f"{path.name} ({found.size[0]} x {found.size[1]}): {found}", flush=True)
        elif len(photographs) > 1:
            print(f"error: {found}", file=sys.stderr, flush=True)

    if settings["score"] is None and model.calibration == Calibration():
        print(f"not calibrated: every word is shown from score {model.calibration.seen} on; score calibrate mends that")
    counts, failed, damaged = Counter[str](), list[str](), list[str]()
    if rasters:
        from score.app.rasters import predict  # GDAL, not needed for photographs

        say = functools.partial(print, flush=True)
        counts, failed, damaged = predict(segmenter, words, rasters, output, settings, say)
        if len(failed) == len(rasters) and not photographs:
            raise DataError(failed[0] if len(rasters) == 1 else f"none of {len(rasters)} can be read: {failed[0]}")
    if photographs:
        done = prediction.predict(segmenter, words, photographs, output, settings, report)
        counts, failed = counts + done.counts, failed + done.failed
        if done.before:
            print(f"done before: {done.before} of {len(photographs)}")
        if done.images:
            print(f"{done.seconds / done.images:.2f} s an image")
    total = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing"
    print(textwrap.fill(f"in all: {total}", 80, subsequent_indent="  "), f"saved in {output}", sep="\n")
    for lost, what in ((failed, f"{len(failed)} of {len(photographs) + len(rasters)} images"), (damaged, "tiles")):
        if lost:
            print(f"{what} could not be read:", *lost, sep="\n", file=sys.stderr)
    if failed or damaged:
        sys.exit(1)
    return None
